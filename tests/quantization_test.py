"""Laws that every quantizer obeys, and the formulas of each one."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gi_jax.coding.quantization import (
    OUTLIERS,
    YCOCG,
    Quantizer,
    UniformParams,
    chain,
    float16,
    linear,
    normalize,
    per_field,
    uniform,
)
from gi_jax.coding.sensitivity import sensitivity_matched
from gi_jax.coding.vector_quantization import residual_vq
from gi_jax.gaussians import Cholesky, RotationScale
from tests.helpers import assert_same_bits, moderate_scene, normal

KEY = jax.random.key(0)


def _gaussians(parametrization: type, seed: int, n: int):
    position, shape, colors = (normal(k)(seed + k, n) for k in (2, 3, 4))
    means = 300 + 200 * position
    if parametrization is Cholesky:
        return Cholesky(means, shape, colors)
    return RotationScale(means, shape[:, :2], shape[:, 2], colors)


class Case(NamedTuple):
    quantizer: Quantizer
    values: Callable[[int, int], Any]  # (seed, n) -> n values
    alphabet: Any  # symbols are in 0..alphabet - 1, for each leaf of the symbols
    idempotent: bool = True
    lowest: Any = 0  # instead of 0, for each leaf of the symbols
    op_by_op: bool = True  # False: its hundreds of operations take long to compile


CASES = {
    "float16": Case(float16(), normal(2, 1e3), 65536),
    "uniform_1": Case(uniform(1), normal(3), 2),
    "uniform_6": Case(uniform(6), normal(3, 0.3, 2.0), 64),
    "uniform_16": Case(uniform(16), normal(1, 1e-3, -7.0), 65536),
    "vq": Case(residual_vq(16, 1), normal(4), 16),
    "ycocg": Case(chain(linear(YCOCG), uniform(5)), normal(3, 0.4, 0.5), 32),
    "ycocg_vq": Case(
        chain(linear(YCOCG), residual_vq(8, 3)), normal(3), 8, idempotent=False
    ),
    "normalize": Case(
        chain(normalize((511, 70)), float16()), normal(2, 99.0, 50.0), 65536
    ),
    "cholesky": Case(
        per_field(
            means=chain(normalize((512, 768)), float16()),
            shape=uniform(6),
            colors=residual_vq(8, 2),
        ),
        partial(_gaussians, Cholesky),
        (65536, 64, 8),  # of means, shape, colors
        idempotent=False,
    ),
    "rotation_scale": Case(
        per_field(
            means=float16(),
            shape=uniform(6),
            colors=uniform(8),
            parametrization=RotationScale,
        ),
        partial(_gaussians, RotationScale),
        (65536, 64, 256),
    ),
    "sensitivity_matched": Case(
        sensitivity_matched((40, 60), 0.1),
        moderate_scene,
        # Of colours, size, ring, angle and lattice: for classes up to 13.
        (2**7, 12.5 * 2**6.5, 1.7 * 2**6.5, 47 * 2**6.5, 2**14),
        lowest=(-(2**7), 0, 0, 0, -(2**14)),
        op_by_op=False,  # its decoding is in sensitivity_test.py
    ),
}

# Jitted once, so that the tests share what is compiled for N values.
N = 200
CASES = {
    name: case._replace(quantizer=Quantizer(*map(jax.jit, case.quantizer)))
    for name, case in CASES.items()
}
all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def _round_trip(case: Case, params, state, values):
    q = case.quantizer
    return q.decode(params, state, q.encode(params, state, values))


@lru_cache
def _trained(case: Case):
    """Params and state that are not those of `init`, and values clipped by them."""
    values = case.values(1, N)
    params, state = case.quantizer.init(KEY, case.values(0, N))
    params = jax.tree.map(lambda x: x * 0.93, params)
    return params, case.quantizer.apply(params, state, values, KEY)[1], values


@all_cases
def test_apply_is_decode_of_encode_bit_for_bit(case):
    params, state, values = _trained(case)

    def both(params, state, values):
        values_hat = case.quantizer.apply(params, state, values, KEY)[0]
        return values_hat, _round_trip(case, params, state, values)

    expected, round_trip = jax.jit(both)(params, state, values)
    assert_same_bits(expected, round_trip)
    # Parameters that the compiler knows and can fold.
    assert_same_bits((expected,) * 2, jax.jit(partial(both, params, state))(values))
    if case.op_by_op:
        with jax.disable_jit():
            assert_same_bits((expected,) * 2, both(params, state, values))


@all_cases
def test_symbols_are_int32_in_the_alphabet(case):
    params, state, values = _trained(case)
    symbols = jax.tree.leaves(jax.jit(case.quantizer.encode)(params, state, values))
    alphabets = np.broadcast_to(case.alphabet, len(symbols))
    lowest = np.broadcast_to(case.lowest, len(symbols))
    for leaf, low, alphabet in zip(symbols, lowest, alphabets):
        assert leaf.dtype == jnp.int32 and leaf.shape[0] == N and leaf.ndim <= 2
        assert leaf.min() >= low and leaf.max() < alphabet


@all_cases
def test_gradient_passes_straight_through(case):
    values = case.values(0, N)
    params, state = case.quantizer.init(KEY, values)

    def weighted(values, weights):
        out = case.quantizer.apply(params, state, values, KEY)[0]
        return sum(
            jnp.vdot(w, x) for w, x in zip(*map(jax.tree.leaves, (weights, out)))
        )

    weights = case.values(5, N)
    gradient = jax.jit(jax.grad(weighted))(values, weights)
    for g, w in zip(jax.tree.leaves(gradient), jax.tree.leaves(weights)):
        g, w = np.asarray(g).reshape(N, -1), np.asarray(w).reshape(N, -1)
        # Uniform ranges clip outliers on both sides of up to three columns, and
        # sums and quotients of a few float32 give the rest to a few 2^-24.
        clipped = ~np.isclose(g, w, rtol=1e-6, atol=1e-6).all(axis=1)
        assert clipped.sum() <= 2 * 3 * np.ceil(OUTLIERS * N + 1)


@all_cases
def test_quantizing_twice_changes_nothing(case):
    params, state, values = _trained(case)
    once = _round_trip(case, params, state, values)
    twice = _round_trip(case, params, state, once)
    if case.idempotent:
        assert_same_bits(once, twice)
    elif isinstance(once, tuple):  # of Gaussians, all but the colours
        assert_same_bits(once._replace(colors=twice.colors), twice)


@all_cases
def test_second_call_compiles_nothing(case):
    traces = []

    @jax.jit
    def step(params, state, values, key):
        traces.append(1)
        return case.quantizer.apply(params, state, values, key)

    params, state = case.quantizer.init(KEY, case.values(0, N))
    for seed in range(3):
        key = jax.random.fold_in(KEY, seed)
        _, state, aux = step(params, state, case.values(seed, N), key)
        assert aux.shape == () and aux.dtype == jnp.float32 and np.isfinite(aux)
    assert len(traces) == 1


@all_cases
def test_vmap_and_scan_agree_with_a_loop(case):
    q = case.quantizer
    params, state, _ = _trained(case)
    many = [case.values(seed, N) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)
    keys = jax.random.split(KEY, 3)

    @jax.jit
    def together(states):
        values_hat = jax.vmap(partial(q.apply, params))(states, stacked, keys)[0]
        return values_hat, jax.vmap(partial(q.encode, params))(states, stacked)

    @jax.jit
    def one_after_another(state):
        def body(state, inputs):
            values_hat, new_state, _ = q.apply(params, state, *inputs)
            return new_state, (values_hat, state)

        return jax.lax.scan(body, state, (stacked, keys))[1]

    # The scan gives a state for each step, which the other two start from.
    scanned, states = one_after_another(state)
    batched, symbols = together(states)
    for k in range(3):
        at_k = partial(jax.tree.map, lambda x, k=k: x[k])
        one = at_k(states)
        expected = q.apply(params, one, many[k], keys[k])[0]
        assert_same_bits((expected, expected), (at_k(scanned), at_k(batched)))
        assert_same_bits(q.encode(params, one, many[k]), at_k(symbols))


@pytest.mark.parametrize("n", [0, 1])
@all_cases
def test_no_value_and_one_value(case, n):
    values = case.values(0, n)
    params, state = case.quantizer.init(KEY, values)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))
    values_hat, new_state, aux = case.quantizer.apply(params, state, values, KEY)
    assert_same_bits(values_hat, _round_trip(case, params, state, values))
    assert jax.tree.structure(state) == jax.tree.structure(new_state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((new_state, aux)))


# --- float16


def test_float16_symbols_are_the_rank_of_every_half():
    ranks = jnp.arange(65536)
    values = np.asarray(float16().decode((), (), ranks))
    numbers = values[~np.isnan(values)]
    assert numbers.size == 65536 - 2 * 1023 and (np.diff(numbers) >= 0).all()
    finite = np.isfinite(values)
    again = float16().encode((), (), jnp.asarray(values[finite]))
    np.testing.assert_array_equal(again, ranks[finite])


def test_float16_rounds_as_numpy_saturates_and_keeps_nan():
    values = np.float32([1e-8, 3e-6, 0.1, -0.0, 2049, 65519, 65520, 1e9, np.inf, -1e9])
    with np.errstate(over="ignore"):
        expected = np.clip(values, -65504, 65504).astype(np.float16)
    values_hat = float16().apply((), (), jnp.asarray(values), KEY)[0]
    assert_same_bits(expected.astype(np.float32), values_hat)
    assert np.isnan(float16().apply((), (), jnp.float32([np.nan]), KEY)[0]).all()


# --- uniform


def test_uniform_gradients_are_those_of_lsq_plus():
    """LSQ+, arXiv:2004.09576, section 3: v = (x - β)/s, n = 0, p = 15."""
    x = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    step, offset = np.float32([0.13, 0.21]), np.float32([-0.9, -1.1])
    params = UniformParams(jnp.asarray(step), jnp.asarray(offset))
    out, vjp = jax.vjp(
        lambda p, x: uniform(4).apply(p, (), x, KEY)[0], params, jnp.asarray(x)
    )
    weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    gradient, gradient_x = vjp(jnp.asarray(weights))
    # Steps have 20 bits: 2^-20 relative; v is below 16; sums have 500 terms of order 1.
    v = (x.astype(np.float64) - offset) / step
    inside = (v > 0) & (v < 15)
    d_step = np.where(inside, np.round(v) - v, np.clip(v, 0, 15))
    np.testing.assert_allclose(gradient_x, weights * inside, rtol=1e-6)
    np.testing.assert_allclose(gradient.step, (weights * d_step).sum(0), atol=2e-3)
    np.testing.assert_allclose(gradient.offset, (weights * ~inside).sum(0), atol=2e-3)
    expected = offset + step * np.clip(np.round(v), 0, 15)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 3.7, -1e6, 1e-30])
def test_uniform_keeps_constant_columns(constant):
    values = jnp.full((5, 1), constant, jnp.float32)
    params, state = uniform(6).init(KEY, values)
    assert params.step > 0
    assert_same_bits(values, uniform(6).apply(params, state, values, KEY)[0])


def test_uniform_error_is_half_a_step_and_bad_steps_are_survived():
    values = normal(3)(0, 1000)
    params, _ = uniform(6).init(KEY, values)
    error = jnp.abs(uniform(6).apply(params, (), values, KEY)[0] - values)
    above = params.offset + 63.5 * params.step
    inside = (values > params.offset - 0.5 * params.step) & (values < above)
    assert inside.mean() > 1 - 3 * OUTLIERS
    assert (error <= 0.5001 * params.step + 1e-6)[inside].all()
    for step in (0.0, -1.0):
        bad = params._replace(step=jnp.full(3, step))
        assert np.isfinite(uniform(6).apply(bad, (), values, KEY)[0]).all()


# --- transforms


@pytest.mark.parametrize(
    ("transform", "columns"), [(linear(YCOCG), 3), (normalize((333, 512)), 2)]
)
def test_transforms_undo_themselves(transform, columns):
    # Multiples of 2^-8 below 2^10: every intermediate is exact in float32.
    values = jnp.round(normal(columns, 200.0)(0, 99) * 256) / 256
    assert_same_bits(values, transform.inverse(transform.forward(values)))


def test_normalize_maps_the_picture_into_the_unit_square():
    corners = jnp.float32([[0, 0], [512, 333], [256, 166.5]])
    expected = [[-1, -333 / 512], [1, 333 / 512], [0, 0]]
    np.testing.assert_array_equal(normalize((333, 512)).forward(corners), expected)


def test_wrong_arguments_say_what_was_expected():
    for bits in (0, 17, 6.5, True, "6"):
        with pytest.raises(ValueError, match="bits: expected a whole number, 1 to 16"):
            uniform(bits)
    for settings, message in (
        ({"codebook_size": 0}, "codebook_size: expected a whole number, 1 or more"),
        ({"codebook_size": "8"}, "codebook_size: expected a whole number, 1 or more"),
        ({"num_stages": 2.5}, "num_stages: expected a whole number, 1 or more"),
        ({"num_stages": True}, "num_stages: expected a whole number, 1 or more"),
        ({"kmeans_steps": -1}, "kmeans_steps: expected a whole number, 0 or more"),
        ({"decay": 1.5}, "decay: expected a number in 0..1"),
        ({"commitment": float("nan")}, "commitment: expected 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            residual_vq(**settings)
    with pytest.raises(ValueError, match="then one Quantizer"):
        chain(float16(), linear(YCOCG))
    with pytest.raises(ValueError, match="invertible"):
        linear(np.ones((2, 2)))
    with pytest.raises(ValueError, match="expected Cholesky, got RotationScale"):
        CASES["cholesky"].quantizer.init(KEY, _gaussians(RotationScale, 0, 3))
