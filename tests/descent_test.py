"""Discrete descent on a tiny picture; all tests share what is compiled for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gi_jax.coding.atoms import Atoms, overlap
from gi_jax.coding.descent import TRADE_OFF, _Canvas, _mean_weights, descend
from gi_jax.coding.rates import rate_tables, symbol_bits
from gi_jax.coding.sensitivity import (
    SensitivityParams,
    color_transform,
    dequantize,
    sensitivity_matched,
)
from gi_jax.coding.sensitivity_codec import write_symbols
from gi_jax.gaussians import Cholesky, RotationScale
from gi_jax.rendering.rasterize import rasterize
from tests.helpers import scene

SIZE = (40, 48)
COUNT = 40
STEP = jnp.float32(0.25)


@functools.cache
def start():
    """A picture, and symbols of Gaussians that are somewhat beside its own."""
    true = scene(0, COUNT, SIZE, sigma=(1.0, 6.0))
    target = rasterize(true, SIZE, implementation="dense")
    rng = np.random.default_rng(1)
    moved = Cholesky(
        true.means + rng.normal(0, 0.5, true.means.shape).astype(np.float32),
        true.cholesky * np.float32(1.1),
        true.colors * np.float32(0.9),
    )
    moved = jax.tree.map(jnp.asarray, moved)
    encode = jax.jit(sensitivity_matched(SIZE, 1.0).encode)
    symbols = encode(SensitivityParams(STEP), (), moved)
    colors = symbols.colors.at[:3].set(0)
    return symbols._replace(colors=colors), target


@jax.jit
def run(symbols, target, rates, key, sweeps, weights=None, trade_off=TRADE_OFF):
    return descend(
        symbols,
        target,
        STEP,
        lambda candidates: symbol_bits(rates, candidates, SIZE),
        key,
        sweeps=sweeps,
        trade_off=trade_off,
        weights=weights,
        implementation="dense",
    )


def picture(symbols):
    gaussians = dequantize(symbols, STEP, SIZE)
    return np.asarray(rasterize(gaussians, SIZE, implementation="dense"))


def objective(symbols, target, rates):
    bits = symbol_bits(rates, symbols, SIZE).sum()
    return np.sum((target - picture(symbols)) ** 2) + TRADE_OFF * STEP**2 * bits


def test_each_sweep_lowers_the_objective_that_it_tells():
    symbols, target = start()
    rates = rate_tables(symbols, SIZE)
    before = first = objective(symbols, target, rates)
    state = run(symbols, target, rates, jax.random.key(0), 0)
    for sweep in range(4):
        state = run(state.symbols, target, rates, jax.random.key(sweep), 1)
        told = jnp.sum(state.residual**2) + TRADE_OFF * STEP**2 * state.bits
        after = objective(state.symbols, target, rates)
        np.testing.assert_allclose(told, after, rtol=1e-3)
        assert after <= before * (1 + 1e-5)
        before = after
    assert before < 0.7 * first
    assert (state.symbols.colors[:3] == 0).all()  # No Gaussian, no move.
    # Within all ranges, or no file could hold them.
    assert write_symbols(state.symbols, STEP, np.zeros(3), SIZE)
    assert run._cache_size() == 1


def test_weights_of_errors_count():
    symbols, target = start()
    rates = rate_tables(symbols, SIZE)
    key = jax.random.key(0)
    plain = run(symbols, target, rates, key, 8)
    weights = np.ones((*SIZE, 1), np.float32)
    ones = run(symbols, target, rates, key, 8, weights)
    np.testing.assert_allclose(ones.residual, plain.residual, atol=1e-4)
    half = SIZE[1] // 2
    weights[:, half:] = 10
    cost = np.inf
    for sweeps in 0, 1, 3, 8:
        state = run(symbols, target, rates, key, sweeps, weights)
        error = np.sum(weights * (target - picture(state.symbols)) ** 2)
        bits = symbol_bits(rates, state.symbols, SIZE).sum()
        before, cost = cost, error + TRADE_OFF * STEP**2 * bits
        assert cost < before
    left, right = (
        np.sum(state.residual[:, part] ** 2) / np.sum(plain.residual[:, part] ** 2)
        for part in (slice(0, half), slice(half, None))
    )
    assert right < 0.9 * left


def test_what_does_not_earn_its_bits_goes():
    symbols, target = start()
    rates = rate_tables(symbols, SIZE)
    nothing = jnp.zeros_like(target)
    key = jax.random.key(0)
    state = run(symbols, nothing, rates, key, 12, trade_off=0.2)
    before, after = (np.sum((s.colors != 0).any(1)) for s in (symbols, state.symbols))
    assert after < before / 4


def test_overlaps_are_sums_over_the_pixels():
    rng = np.random.default_rng(0)
    n, (height, width) = 200, SIZE

    def atoms(means, scales, angles):
        fade = np.exp(-scales.sum(axis=1) / 2) / np.sqrt(np.pi)
        return Atoms(*(np.float32(x) for x in (means, scales, angles, fade)))

    means = rng.uniform(-2, 2, (n, 2)) + rng.uniform(0, 1, (n, 2)) * [width, height]
    scales = np.sort(rng.uniform(np.log(0.45), np.log(6), (n, 2)))[:, ::-1]
    angles = rng.uniform(0, np.pi, n)
    one = atoms(means, scales, angles)
    moved = means + rng.normal(0, 0.5, (n, 2)) * np.exp(scales[:, 1:])
    two = atoms(moved, scales + rng.normal(0, 0.2, (n, 1)), angles + 0.1)

    def pixels(atoms):
        def one(mean, scale, angle, fade):
            gaussian = RotationScale(
                mean[None], scale[None], angle[None], fade[None, None]
            )
            return rasterize(gaussian, SIZE, implementation="dense")[..., 0]

        return np.asarray(jax.jit(jax.vmap(one))(*atoms))

    a, b = pixels(one), pixels(two)
    closed = np.asarray(jax.jit(lambda a, b: overlap(a, b, SIZE))(one, two))
    summed = np.sum(a * b, axis=(1, 2))
    # Half of them reach over the edge, where the shares along x and y are not quite
    # independent.
    assert np.median(np.abs(closed - summed)) < 2e-3
    assert np.quantile(np.abs(closed - summed), 0.95) < 0.05


def test_overlaps_of_long_ones_are_exact():
    rng = np.random.default_rng(0)
    n, size = 300, (4000, 4000)
    sizes = rng.uniform(0.5, 3.0, n)
    scales = np.stack([sizes + 2.2, sizes - 2.2], axis=1)
    angles = rng.uniform(0, np.pi, n)
    means = 2000 + rng.uniform(-5, 5, (n, 2))
    turns = angles + rng.normal(0, 0.02, n)
    ones = [np.float32(x) for x in (means, scales, angles, np.ones(n))]
    twos = [np.float32(x) for x in (means + 0.3, scales, turns, np.ones(n))]
    wide = scales[:, 1] > 0.2  # Pixels do not show there.
    for others in ones, twos:
        a, b = Atoms(*ones), Atoms(*others)
        closed = np.asarray(jax.jit(lambda a, b: overlap(a, b, size))(a, b))
        exact = _overlap_in_the_plane(ones, others)
        np.testing.assert_allclose(closed[wide], exact[wide], rtol=1e-4, atol=1e-5)


def _overlap_in_the_plane(first, second):
    """The integral of the product of Gaussians of unit energy, in float64."""
    covariances, roots = [], []
    for _, scales, angles, _ in (first, second):
        cos, sin = np.cos(np.float64(angles)), np.sin(np.float64(angles))
        axes = np.stack([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)
        variances = np.exp(2 * np.float64(scales))
        covariances.append(axes @ (variances[:, :, None] * axes.transpose(0, 2, 1)))
        roots.append(np.exp(np.float64(scales).sum(axis=1) / 2))
    total = covariances[0] + covariances[1]
    away = (np.float64(second[0]) - np.float64(first[0]))[:, :, None]
    square = (away.transpose(0, 2, 1) @ np.linalg.solve(total, away))[:, 0, 0]
    height = 2 * roots[0] * roots[1] / np.sqrt(np.linalg.det(total))
    return height * np.exp(-square / 2)


def test_weights_under_atoms_beside_the_picture():
    means = np.float32([[10, 10], [-4, 10], [-0.5, 10]])
    scales = np.log(np.float32([[2, 2], [1.5, 1.5], [0.4, 0.4]]))
    atoms = Atoms(means, scales, np.zeros(3, np.float32), np.ones(3, np.float32))
    weights = jnp.full((20, 20, 1), 2.0)
    canvas = _Canvas((20, 20), color_transform(3), weights, "dense")
    seen = _mean_weights(canvas, atoms, jnp.ones(3, bool))
    assert seen.weights.shape == (3, 1)
    assert seen.weights[0] == pytest.approx(2, rel=1e-4)
    assert (seen.weights[1:] > 0).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_weights_may_differ_from_channel_to_channel(channels):
    means = np.float32([[10, 10], [4, 12]])
    scales = np.log(np.float32([[2, 2], [1.5, 1.0]]))
    atoms = Atoms(means, scales, np.zeros(2, np.float32), np.ones(2, np.float32))
    weights = np.float32([0.25] * (channels - 1) + [1.0])
    axes = color_transform(channels)
    canvas = _Canvas((20, 20), axes, jnp.ones((20, 20, 1)) * weights, "dense")
    seen = _mean_weights(canvas, atoms, jnp.ones(2, bool))
    np.testing.assert_allclose(seen.weights, np.tile(weights, (2, 1)), rtol=2e-3)
    colors = np.random.default_rng(0).normal(size=(2, channels)).astype(np.float32)
    expected = (weights * (colors @ axes)) @ axes.T
    np.testing.assert_allclose(seen.times(colors), expected, atol=2e-3)
    np.testing.assert_allclose(seen.divide(seen.times(colors)), colors, atol=2e-3)
