"""What is special about `sensitivity_matched`; its laws are in quantization_test.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gi_jax.coding.exact_grids import (
    MARGIN,
    energy_class,
    lattice,
    lattice_points,
    lattice_scale,
    log_aspect,
    log_size,
    num_angles,
)
from gi_jax.coding.exact_tables import (
    LATTICE_SCALES,
    LOG_UNITS,
    MAX_CLASS,
    MAX_COLOR,
    MAX_LOG_SIZE,
    MAX_SCALE,
    MIN_LOG_SIZE,
    MIN_SCALE,
    PIXEL_UNITS,
    SCALE_FACTOR,
    tables,
)
from gi_jax.coding.sensitivity import (
    SensitivityParams,
    Symbols,
    color_transform,
    dequantize,
    quantized_geometry,
    sensitivity_matched,
)
from gi_jax.gaussians import MAX_SIGMA, Cholesky, RotationScale, to_cholesky

SIZE = (40, 60)  # H, W


def test_tables_are_the_formulas():
    """Against floats, which are right to 1e-15."""
    classes = np.arange(MAX_CLASS + 1)
    step = np.minimum(2.0 ** (-classes / 2), 0.6)
    np.testing.assert_allclose(tables().log_steps, step * LOG_UNITS, atol=0.5)
    step = tables().log_steps / LOG_UNITS
    starts = zip(tables().first_ring, tables().num_rings, step)
    for c, (first, count, unit) in enumerate(starts):
        rho = unit * np.arange(count)
        assert rho[-1] <= 2.2 < rho[-1] + unit
        expected = np.maximum(2, np.pi * np.sinh(2 * rho) / unit)
        expected[0] = 1
        angles = tables().num_angles[first : first + count]
        np.testing.assert_allclose(angles, expected, rtol=1e-12, atol=0.5)
        assert num_angles(np.int32([count - 1]), np.int32([c])) == angles[-1]
    energies = np.arange(1, 5000)
    k = np.zeros((energies.size, 2), np.int32)
    k[:, 0] = np.sqrt(energies)
    c = energy_class(k)
    np.testing.assert_array_equal(c, np.round(np.log2(k[:, 0] ** 2.0)))
    sizes = np.arange(MIN_LOG_SIZE, MAX_LOG_SIZE + 1, 77, dtype=np.int32)
    shift = np.int32([MIN_LOG_SIZE])
    for c in (0, 5, MAX_CLASS):
        expected = sizes / LOG_UNITS / math.log(2) + (1 - c) / 2
        scale = lattice_scale(sizes, np.int32(c))
        np.testing.assert_allclose(scale, LATTICE_SCALES * expected, atol=0.51)
    assert lattice_scale(shift, np.int32(MAX_CLASS)) == MIN_SCALE
    assert lattice_scale(np.int32([MAX_LOG_SIZE]), np.int32(0)) == MAX_SCALE
    assert MAX_LOG_SIZE * SCALE_FACTOR < 2**31
    high, low = tables().exp_high, tables().exp_low
    m = (np.arange(high.size)[:, None] * low.size + np.arange(low.size)) / LOG_UNITS
    expected = np.exp(-(m + MIN_LOG_SIZE / LOG_UNITS)) / math.sqrt(math.pi)
    np.testing.assert_allclose(np.outer(high, low), expected, rtol=2e-7)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
def test_colour_axes_are_orthonormal_and_begin_with_grey(channels):
    axes = color_transform(channels).astype(np.float64)
    # Entries have 11 bits.
    np.testing.assert_allclose(axes @ axes.T, np.eye(channels), atol=2e-3)
    grey = axes[0, : 3 if channels == 4 else channels]
    assert grey[0] > 0 and (grey == grey[0]).all()
    if channels in (3, 4):
        assert (np.sign(axes[1:3, :3]) == [[1, 0, -1], [1, -1, 1]]).all()
        assert axes[2, 1] == -2 * axes[2, 0]


def _gaussians(n: int, channels: int = 3, seed: int = 0) -> RotationScale:
    rng = np.random.default_rng(seed)
    height, width = SIZE
    rho = rng.uniform(0.05, 1.6, n)
    m = rng.uniform(0, 2.5, n)
    fields = (
        rng.uniform(0, 1, (n, 2)) * [width, height],
        np.stack([m + rho, m - rho], axis=1),
        rng.uniform(0, np.pi, n),
        rng.normal(0, 0.2, (n, channels)),
    )
    return RotationScale(*(jnp.asarray(x, jnp.float32) for x in fields))


N = 2000  # of all that is compiled here
STEP = 0.1
QUANTIZER = sensitivity_matched(SIZE, STEP, parametrization=RotationScale)
QUANTIZER = QUANTIZER._replace(encode=jax.jit(QUANTIZER.encode))
PARAMS = SensitivityParams(jnp.float32(STEP))
decode = jax.jit(dequantize, static_argnums=2)


def test_errors_are_those_of_a_uniform_density_in_the_metric():
    """All parameters add alike: 1/12 of a squared step for each of the six."""
    gaussians = _gaussians(N)
    symbols = QUANTIZER.encode(PARAMS, (), gaussians)
    hat = jax.tree.map(np.asarray, decode(symbols, PARAMS.step, SIZE))
    gaussians = jax.tree.map(np.asarray, gaussians)
    c = energy_class(np.asarray(symbols.colors))
    inner = c >= 3  # beyond the bounds on steps
    step = (np.minimum(2.0 ** (-c / 2), 0.6))[inner]
    before, after = (_covariance(g)[inner] for g in (gaussians, hat))
    offset = np.float64(hat.means - gaussians.means)[inner]
    whitened = np.einsum("ni,nij,nj->n", offset, np.linalg.inv(after), offset)
    # Some 2000 samples of a variance: 5 %.
    assert np.mean(whitened / 2 / step**2) == pytest.approx(2 / 12, rel=0.05)
    stretch = np.log(np.linalg.eigvals(np.linalg.solve(after, before)).real) / 2
    shape = (stretch**2).sum(axis=1) / 2  # dm² + dρ² + (½ sinh 2ρ)² dφ²
    assert np.mean(shape / step**2) == pytest.approx(3 / 12, rel=0.05)
    z, z_hat = (
        math.sqrt(math.pi) * g.colors * np.exp(np.mean(g.log_scales, axis=1))[:, None]
        for g in (gaussians, hat)
    )
    # The axes are orthonormal to 1e-3, rotations keep sums of squares.
    assert np.mean((z_hat - z) ** 2) / STEP**2 == pytest.approx(1 / 12, rel=0.05)


def _covariance(gaussians: RotationScale) -> np.ndarray:
    cos, sin = (f(np.float64(gaussians.angles)) for f in (np.cos, np.sin))
    axes = np.moveaxis(np.array([[cos, -sin], [sin, cos]]), -1, 0)
    scales = np.exp(np.float64(gaussians.log_scales))[:, None, :]
    return (axes * scales**2) @ np.swapaxes(axes, 1, 2)


def _unit_energy(m, rho, theta, u, v) -> np.ndarray:
    """One Gaussian of unit energy, moved by u and v along its axes, [200, 200]."""
    cos, sin = math.cos(theta), math.sin(theta)
    y, x = np.mgrid[:200, :200] - 100.0
    along, across = cos * x + sin * y - u, cos * y - sin * x - v
    q = (along * math.exp(-m - rho)) ** 2 + (across * math.exp(rho - m)) ** 2
    return np.exp(-q / 2 - m) / math.sqrt(math.pi)


@pytest.mark.parametrize("m", [1.0, 1.7])
def test_a_gaussian_moves_as_the_metric_says(m):
    """By differences in float64."""
    rho, theta, h = 0.6, 0.4, 1e-4
    s1, s2 = math.exp(m + rho), math.exp(m - rho)
    turned = math.sinh(2 * rho)  # φ = 2θ
    lengths = 1, 1, turned, 1 / (math.sqrt(2) * s1), 1 / (math.sqrt(2) * s2)
    where = np.array([m, rho, theta, 0, 0])
    moves = []
    for change in h * np.eye(5):
        ahead, behind = _unit_energy(*(where + change)), _unit_energy(*(where - change))
        moves.append((ahead - behind).ravel() / (2 * h))
    gram = np.array(moves) @ np.array(moves).T
    np.testing.assert_allclose(gram, np.diag(np.square(lengths)), atol=1e-4)


def test_decoding_gives_the_same_bits_in_numpy_and_jax():
    symbols = QUANTIZER.encode(PARAMS, (), _gaussians(N))
    actual = decode(symbols, PARAMS.step, SIZE)
    symbols = jax.tree.map(np.asarray, symbols)
    expected = dequantize(symbols, np.float32(STEP), SIZE)
    for a, b in zip(expected, actual):
        assert isinstance(a, np.ndarray) and a.dtype == np.float32
        np.testing.assert_array_equal(a, np.asarray(b))


def test_given_colours_fix_the_grids():
    gaussians = _gaussians(N)
    symbols = QUANTIZER.encode(PARAMS, (), gaussians)
    louder = jax.jit(quantized_geometry, static_argnums=2)(
        2 * symbols.colors, gaussians, SIZE
    )
    np.testing.assert_array_equal(louder.colors, 2 * symbols.colors)
    hat = decode(louder, PARAMS.step, SIZE)
    before = decode(symbols, PARAMS.step, SIZE)
    errors = [float(abs(x.means - gaussians.means).mean()) for x in (hat, before)]
    assert errors[0] == pytest.approx(errors[1] / 2, rel=0.1)


def test_decoding_to_cholesky_gives_the_same_bits_op_by_op():
    quantizer = sensitivity_matched(SIZE, STEP)
    symbols = QUANTIZER.encode(PARAMS, (), _gaussians(N))
    expected = jax.jit(quantizer.decode)(PARAMS, (), symbols)
    # NumPy is op by op already, and has the same bits up to here, see above.
    symbols = jax.tree.map(np.asarray, symbols)
    params = SensitivityParams(np.float32(STEP))
    for a, b in zip(expected, quantizer.decode(params, (), symbols)):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    # The same Gaussians as RotationScale: l11 has 12 bits.
    turned = to_cholesky(decode(symbols, PARAMS.step, SIZE))
    np.testing.assert_allclose(expected.cholesky, turned.cholesky, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (65535, 2000), (2000, 65535)])
def test_extreme_values_go_to_symbols_in_range(size):
    height, width = size
    big, small, far = 1e6, 1e-3, 1e8
    factor = [[big, 0, big], [small, 0, small], [big, 0, small], [small, big, 9.0]]
    n = len(factor)
    means = np.tile([[-far, far], [far, 0.5], [width / 2, height / 2]], (n, 1))
    gaussians = Cholesky(
        jnp.float32(means),
        jnp.repeat(jnp.float32(factor), 3, axis=0),
        jnp.tile(jnp.float32([[0.5, -1e6, 1.0], [0, 0, 0]]), (3 * n // 2, 1)),
    )
    encode = jax.jit(sensitivity_matched(size, 0.01).encode)
    symbols = encode(SensitivityParams(jnp.float32(0.01)), (), gaussians)
    symbols = jax.tree.map(np.asarray, symbols)
    assert np.abs(symbols.colors).max() == MAX_COLOR
    c = energy_class(symbols.colors)
    assert (symbols.size >= 0).all() and (symbols.size < tables().num_sizes[c]).all()
    assert (symbols.ring >= 0).all() and (symbols.ring < tables().num_rings[c]).all()
    turns = num_angles(symbols.ring, c)
    assert (symbols.angle >= 0).all() and (symbols.angle < turns).all()
    scale = lattice_scale(log_size(symbols.size, c), c)
    rho = log_aspect(symbols.ring, c)
    cells = lattice(scale, rho, symbols.angle, turns, size)
    points = lattice_points(cells, symbols.lattice.astype(np.int64))
    assert np.abs(points).max() < 2**31  # so that int32 has not run over
    limits = np.array([width, height]) * PIXEL_UNITS + MARGIN
    assert (points >= -MARGIN).all() and (points <= limits).all()
    decoded = dequantize(symbols, np.float32(0.01), size)
    assert all(np.isfinite(x).all() for x in decoded)
    assert (decoded.log_scales < math.log(MAX_SIGMA)).all()


def test_no_colour_is_no_gaussian_and_wrong_steps_are_refused():
    nothing = Symbols(*(np.zeros((1, *s), np.int32) for s in [(3,), (), (), (), (2,)]))
    assert (dequantize(nothing, np.float32(1), SIZE).colors == 0).all()
    for step in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step: expected"):
            sensitivity_matched(SIZE, step)
