"""The step of a fit: donated, made in loops, and aware of quantization."""

import gc
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gi_jax as gi
from experiments.measure import count_compilations
from gi_jax.coding.quantization import UniformParams
from gi_jax.fitting import presets
from gi_jax.fitting.fit import _warn_if_worse
from gi_jax.fitting.loop import make_batch_programs
from gi_jax.fitting.losses import l1, l2
from gi_jax.fitting.rate_distortion import (
    MAX_STEPS,
    fit_schedule,
    make_rate_step,
    refine_schedule,
    start_fit,
)
from tests.optax_support_test import (
    ADAM,
    COORDINATES,
    COUNT,
    IMAGE,
    KEY,
    OPTIMIZERS,
    make_step,
    run,
    start,
)


def test_losses_go_by_name():
    by_name = run(make_step(loss="l1"), 2)[1]
    assert by_name == run(make_step(loss=l1), 2)[1]
    with pytest.raises(ValueError, match="loss: expected one of l2, l1"):
        gi.make_fit_step(loss="l3")


# Donation: what a step is given may be reused for what it returns.


def uniform_quantizer(bits=6, means=12):
    return gi.per_field(
        means=gi.uniform(means), shape=gi.uniform(bits), colors=gi.uniform(8)
    )


QUANTIZERS = {
    "uniform": uniform_quantizer(),
    "paper": gi.paper_quantizer(IMAGE.shape[:2], codebook_size=4),
    "sensitivity": gi.sensitivity_matched(IMAGE.shape[:2], 0.5),
}


def fit_states():
    """Steps and their first states, by name."""
    for name, case in OPTIMIZERS.items():
        for coordinates, rate in COORDINATES.values():
            step = make_step(optimizer=case.optimizer(rate), coordinates=coordinates)
            yield name, step
    for name, recipe in presets.PRESETS.items():
        made = recipe(COUNT, IMAGE.shape, 40)
        yield name, make_step(optimizer=made.optimizer, coordinates=made.coordinates)
    for name, quantizer in QUANTIZERS.items():
        yield name, make_step(quantizer=quantizer)


def addresses(tree):
    leaves = [
        jax.random.key_data(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]


def test_no_two_leaves_of_a_first_state_share_a_buffer():
    key = jax.random.key(3)
    given = jax.tree.map(jnp.asarray, start())
    for name, step in fit_states():
        state = step.init(given, key, jnp.int32(COUNT))
        own = addresses(state)
        assert len({*own}) == len(own), name
        assert not {*own} & {*addresses((given, key))}, name


def test_a_state_stays_free_of_shared_buffers_op_by_op():
    step = make_step(optimizer=optax.chain(gi.fitting.optimizers.scale_by_adan()))
    state, _ = step(step.init(start(), KEY), IMAGE)
    assert len({*addresses(state)}) == len(addresses(state))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantized_fit_is_donated_twice(name):
    state, _ = run(make_step(quantizer=QUANTIZERS[name]), 2)
    assert len({*addresses(state)}) == len(addresses(state))


def test_donation_leaves_the_callers_and_the_optimizers_arrays():
    table = jnp.arange(3.0)
    keeps_its_table = optax.GradientTransformation(
        lambda params: table, lambda updates, state, params=None: (updates, state)
    )
    given = jax.tree.map(jnp.asarray, start())
    step = make_step(optimizer=optax.chain(keeps_its_table, ADAM(1e-2)))
    jitted = jax.jit(step, donate_argnums=0)
    for _ in range(2):
        jitted(step.init(given, KEY), IMAGE)
    assert not table.is_deleted()
    assert not any(leaf.is_deleted() for leaf in given)


def test_states_of_a_batch_are_donated():
    images = jnp.stack([IMAGE, IMAGE[::-1]])
    recipe = presets.fast(COUNT, IMAGE.shape, 40)
    programs = make_batch_programs(recipe, l2, "dense", (jax.devices()[0],))
    states = programs.start(jax.random.split(KEY, 2), images, None)
    assert len({*addresses(states)}) == len(addresses(states))
    for _ in range(2):
        states, *_ = programs.run(states, images, 1, float("nan"), None)


def test_states_of_rate_distortion_are_donated():
    step = make_rate_step(
        40, IMAGE.shape, 0.5, fit_schedule(20), implementation="dense"
    )
    target = IMAGE - IMAGE.mean((0, 1))
    state = step.init(start_fit(KEY, target, 40, "dense"), KEY, 2)
    assert len({*addresses(state)}) == len(addresses(state))
    jitted = jax.jit(step.advance, donate_argnums=0)
    for _ in range(2):
        state, metrics, _ = jitted(state, target)
    assert metrics.finite


# Steps made anew in a loop.


def test_equal_settings_are_one_step_and_compile_once():
    optimizer = ADAM(1e-2)  # Kept by the caller; the step is made anew.

    def loss(picture, target):
        return jnp.mean(jnp.abs(picture - target))

    for settings in (
        {"loss": "l1"},
        {"loss": "l2", "optimizer": optimizer},
        {"loss": loss, "coordinates": COORDINATES["own_frame"][0]},
    ):
        step = make_step(**settings)
        state = step.init(start(), KEY)
        jax.jit(step)(state, IMAGE)
        with count_compilations() as compilations:
            for _ in range(3):
                step = make_step(**settings)
                jax.jit(step)(state, IMAGE)
        assert compilations.count == 0
    assert make_step(loss="l1") is not make_step(loss="l2")
    assert make_step(optimizer=optimizer) is not make_step(optimizer=ADAM(1e-2))


def test_steps_do_not_keep_what_they_close_over():
    def loss(picture, target):
        return jnp.mean((picture - target) ** 2)

    reference = weakref.ref(loss)
    make_step(loss=loss)
    del loss
    gc.collect()
    assert reference() is None


# What a quantizer learns.


def test_scales_of_uniform_move_no_value_by_more_than_a_step():
    values = jnp.asarray(np.random.default_rng(0).normal(size=(200, 2)), jnp.float32)
    for bits in (1, 4, 8):  # With more, steps are rounded visibly.
        quantizer = gi.uniform(bits)
        params, _ = quantizer.init(KEY, values)
        scales = quantizer.scales(params)
        symbols = jnp.tile(jnp.array([[0], [2**bits - 1]]), (1, 2))
        at = quantizer.decode(params, (), symbols)
        for change in (
            UniformParams(scales.step, 0 * scales.offset),
            UniformParams(0 * scales.step, scales.offset),
        ):
            moved = jax.tree.map(jnp.add, params, change)
            moved = quantizer.decode(moved, (), symbols)
            assert (jnp.abs(moved - at) <= 1.01 * params.step).all()
            assert (jnp.abs(moved - at).max(0) >= 0.99 * params.step).all()


@pytest.mark.parametrize("bits", [6, 8, 12, 16])
def test_quantization_aware_steps_do_not_destroy_a_fit(bits):
    quantizer = uniform_quantizer(means=bits)
    recipe = gi.fine_tuning(30)
    step = make_step(
        optimizer=recipe.optimizer,
        coordinates=recipe.coordinates,
        quantizer=quantizer,
    )
    _, losses = run(step, 31)
    assert losses[-1] < losses[0]
    assert max(losses) < 1.5 * losses[0]


def test_the_quantizers_optimizer_is_an_argument():
    quantizer = uniform_quantizer()
    still = make_step(quantizer=quantizer, quantizer_optimizer=optax.set_to_zero())
    state, _ = run(still, 2)
    params = still.init(start(), KEY).quantizer.params
    jax.tree.map(np.testing.assert_array_equal, state.quantizer.params, params)


@pytest.mark.parametrize("quantizer", [None, uniform_quantizer()])
def test_a_fit_that_makes_its_start_worse_says_so(quantizer):
    recipe = gi.fine_tuning(5)
    wild = recipe._replace(optimizer=optax.sgd(-1.0))
    settings = dict(steps=5, initial=start(), implementation="dense", progress=False)
    with pytest.warns(UserWarning, match="made the given Gaussians worse"):
        gi.fit(IMAGE, recipe=wild, quantizer=quantizer, **settings)


@pytest.mark.parametrize(
    ("last", "loss", "quantized", "worse"),
    [
        ((1.0, 20.0), "l2", False, False),
        ((2.0, 17.0), "l2", False, True),
        ((0.5, 17.0), "l2", True, True),  # An auxiliary loss fell.
        ((2.0, 23.0), "l2", True, False),  # An auxiliary loss rose.
        ((2.0, 23.0), "ssim", False, True),
        ((0.5, 17.0), "ssim", False, False),
        ((2.0, 17.0), "ssim", True, True),
        ((2.0, 17.0), jnp.subtract, False, True),
    ],
)
def test_worse_is_what_the_loss_means(last, loss, quantized, worse):
    log = np.array([(1.0, 20.0), last])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _warn_if_worse(log, loss, quantized)
    assert len(caught) == worse


def test_fine_tuning_asks_for_a_start():
    with pytest.raises(ValueError, match="initial: expected Gaussians"):
        gi.fit(IMAGE, 20, 5, recipe=gi.fine_tuning(5), progress=False)


@pytest.mark.parametrize("schedule", [fit_schedule, refine_schedule])
def test_fits_that_schedules_have_no_rates_for_are_refused(schedule):
    assert len(schedule(MAX_STEPS).rates) == MAX_STEPS
    with pytest.raises(ValueError, match="steps: expected an integer, 0 to 1024"):
        schedule(MAX_STEPS + 1)
