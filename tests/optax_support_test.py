"""Every optax transformation steps Gaussians, or is refused with the reason."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import gi_jax as gi
from gi_jax.fitting.densification import densify
from gi_jax.fitting.initialization import content
from gi_jax.fitting.optimizers import (
    Coordinates,
    Tangent,
    own_frame,
    own_frame_adam,
    parameters,
    scale_by_row_adam,
)
from tests.helpers import photo

IMAGE = photo(16, 24)
COUNT = 20
KEY = jax.random.key(0)
make_step = functools.partial(gi.make_fit_step, implementation="dense")


@functools.cache
def start():
    return content(KEY, IMAGE, COUNT, implementation="dense")


class Case(NamedTuple):
    optimizer: Any  # rate -> optax transformation
    steps: int = 3


def small(rate):
    """Adversarial steps that do not leave the neighbourhood."""
    return optax.chain(contrib.normalize(), optax.sgd(rate))


ADAM = optax.adam
OPTIMIZERS = {
    "adam": Case(ADAM),
    "adamw": Case(optax.adamw),
    "momentum": Case(lambda rate: optax.sgd(rate, momentum=0.9)),
    "lion": Case(optax.lion),
    "adafactor": Case(lambda rate: optax.adafactor(rate, min_dim_size_to_factor=2)),
    "lamb": Case(optax.lamb),
    "lbfgs": Case(lambda rate: optax.lbfgs()),
    "polyak": Case(lambda rate: optax.polyak_sgd(rate)),
    "MultiSteps": Case(lambda rate: optax.MultiSteps(ADAM(rate), 2), steps=5),
    "apply_if_finite": Case(lambda rate: optax.apply_if_finite(ADAM(rate), 3)),
    "inject_hyperparams": Case(
        lambda rate: optax.inject_hyperparams(ADAM)(learning_rate=rate)
    ),
    "masked": Case(
        lambda rate: optax.masked(ADAM(rate), gi.Cholesky(True, False, True))
    ),
    "masked by the own frame": Case(
        lambda rate: optax.masked(ADAM(rate), Tangent(True, False, True))
    ),
    "masked by a function": Case(
        lambda rate: optax.masked(
            ADAM(rate), lambda tree: jax.tree.map(lambda leaf: leaf.ndim == 2, tree)
        )
    ),
    "partition": Case(
        lambda rate: optax.partition(
            {"place": ADAM(rate), "paint": optax.sgd(rate)},
            gi.Cholesky(means="place", cholesky="place", colors="paint"),
        )
    ),
    "multi_transform of row Adams": Case(
        lambda rate: optax.multi_transform(
            {
                "place": own_frame_adam(Tangent(rate, rate, rate)),
                "paint": optax.chain(scale_by_row_adam(), optax.scale(-rate)),
                "unused": own_frame_adam(Tangent(rate, rate, rate)),
            },
            Tangent(means="place", shape="place", colors="paint"),
        )
    ),
    "a mask, then rates of fields": Case(
        lambda rate: optax.chain(
            optax.masked(optax.clip(1.0), gi.Cholesky(True, True, False)),
            own_frame_adam(Tangent(rate, rate, rate)),
        )
    ),
    "reduce_on_plateau": Case(
        lambda rate: optax.chain(ADAM(rate), contrib.reduce_on_plateau())
    ),
    "schedule_free_adamw": Case(
        lambda rate: contrib.schedule_free_adamw(rate, warmup_steps=1)
    ),
    "sam": Case(lambda rate: contrib.sam(ADAM(rate), small(rate)), steps=5),
    "sam, opaque": Case(
        lambda rate: contrib.sam(ADAM(rate), small(rate), opaque_mode=True)
    ),
    "muon": Case(contrib.muon),
    "adopt": Case(lambda rate: contrib.adopt(rate / 4)),
    "prodigy": Case(lambda rate: contrib.prodigy(1.0)),
    "dadapt_adamw": Case(lambda rate: contrib.dadapt_adamw(1.0)),
    "dog": Case(lambda rate: contrib.dog(1.0)),
    "momo": Case(lambda rate: contrib.momo(rate)),
    "sophia": Case(lambda rate: contrib.sophia(rate)),
}
COORDINATES = {"own_frame": (own_frame(), 1e-2), "parameters": (parameters(), 3e-4)}
all_coordinates = pytest.mark.parametrize("name", COORDINATES)


def run(step, count, image=IMAGE):
    """Returns the last state and the losses of all pictures, the last one included."""
    state, losses = step.init(start(), KEY), []
    jitted = jax.jit(step, donate_argnums=0)
    for _ in range(count):
        state, metrics = jitted(state, image)
        assert metrics.finite
        losses.append(float(metrics.loss))
    return state, losses


@all_coordinates
@pytest.mark.parametrize("case", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_every_optax_transformation_lowers_the_loss(case, name):
    coordinates, rate = COORDINATES[name]
    step = make_step(optimizer=case.optimizer(rate), coordinates=coordinates)
    # One more, which tells of the picture after the last.
    _, losses = run(step, case.steps + 1)
    assert losses[-1] < losses[0]


REFUSED = {
    "lookahead": (optax.lookahead(ADAM(1e-2), 2, 0.5), "optax.lookahead is not"),
    "sums over rows": (
        optax.stateless(lambda updates, _: jax.tree.map(lambda u: u.sum(0), updates)),
        r"shape \(2,\), expected \(20, 2\)",
    ),
    "labels of other Gaussians": (
        optax.partition({"a": ADAM(1e-2)}, gi.RotationScale("a", "a", "a", "a")),
        "masks and labels are shaped as .* or as the Gaussians",
    ),
    "labels without a transformation": (
        optax.partition({"a": ADAM(1e-2)}, gi.Cholesky("a", "b", "a")),
        "no corresponding transformation",
    ),
    "rates of four fields": (own_frame_adam((1.0, 1.0, 1.0, 1.0)), "rates: expected"),
}


@all_coordinates
@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_step_is_refused_with_the_reason(bad, name):
    optimizer, message = bad
    step = make_step(optimizer=optimizer, coordinates=COORDINATES[name][0])
    with pytest.raises(ValueError, match=message):
        step.init(start(), KEY)


def test_what_is_no_transformation_is_refused():
    with pytest.raises(ValueError, match="expected an optax transformation"):
        gi.make_fit_step(optimizer=1e-2)


@pytest.mark.parametrize(
    ("name", "implementation"), [("own_frame", "dense"), ("parameters", "xla")]
)
def test_lbfgs_takes_its_line_search_along_the_real_path(name, implementation):
    """Each step keeps the decrease that its line search promised, renderer and all."""
    step = gi.make_fit_step(
        optimizer=optax.lbfgs(),
        coordinates=COORDINATES[name][0],
        implementation=implementation,
    )
    state, losses = run(step, 5)
    assert (np.diff(losses) < 0).all() and losses[-1] < losses[0] / 2
    promised = optax.tree.get(state.optimizer_state, "value")
    np.testing.assert_allclose(run(step, 6)[1][-1], promised, rtol=1e-5)


def test_masked_fields_stay():
    frozen = optax.chain(
        ADAM(1e-2), optax.masked(optax.set_to_zero(), gi.Cholesky(False, True, True))
    )
    state, _ = run(make_step(optimizer=frozen), 2)
    # Each step takes square roots and squares again.
    np.testing.assert_allclose(state.gaussians.cholesky, start().cholesky, atol=1e-5)
    assert not np.array_equal(state.gaussians.means, start().means)


def test_custom_coordinates_bring_their_optimizer_or_ask_for_one():
    _, losses = run(make_step(coordinates=parameters()), 3)
    assert losses[-1] < losses[0]
    own = parameters()
    bare = Coordinates(own.locate, own.pull_back, own.retract)
    with pytest.raises(ValueError, match="optimizer: expected one"):
        gi.make_fit_step(coordinates=bare)


# Births: rows of an optimizer's state start anew, by what grows with the Gaussians.


def table_of(count):
    """An optimizer with a table that happens to have `count` entries."""
    return optax.GradientTransformation(
        lambda params: {"table": jnp.zeros(count), "step": jnp.zeros([], jnp.int32)},
        lambda updates, state, params=None: (
            jax.tree.map(lambda u: -1e-3 * u, updates),
            {"table": state["table"] + 1, "step": state["step"] + 1},
        ),
    )


def test_a_birth_starts_rows_of_an_optimizers_state_and_no_tables():
    optimizer = optax.chain(table_of(COUNT), optax.lbfgs(memory_size=COUNT))
    step = make_step(optimizer=optimizer, densification=densify({2: 5}))
    state = step.init(start(), KEY, COUNT - 5)
    filled = jax.tree.map(jnp.ones_like, state.optimizer_state)
    state = state._replace(step=jnp.int32(2), optimizer_state=filled)
    after = step.grow(state, jnp.ones((16, 24, 3)))
    assert after.num_born == COUNT
    tracked = after.optimizer_state
    table, lbfgs = tracked.inner
    np.testing.assert_array_equal(table["table"], 1)
    # Rows of the position, and of each entry of the memory, which has as many.
    born = np.arange(COUNT) >= COUNT - 5
    np.testing.assert_array_equal(tracked.position.means[:, 0], ~born)
    memory = optax.tree.get(lbfgs, "diff_params_memory").means
    np.testing.assert_array_equal(memory[..., 0], np.tile(~born, (COUNT, 1)))
    np.testing.assert_array_equal(optax.tree.get(lbfgs, "weights_memory"), 1)
