"""A quantizer whose steps all follow from how much a Gaussian is seen.

A Gaussian of unit energy, a(p) = exp(-q(p)) / √(π s₁ s₂), is moved in L2 by changes of
its parameters as if these were lengths (the Fisher metric, up to a factor):

    |da|² = dm² + dρ² + (½ sinh 2ρ)² dφ² + du² / 2s₁² + dv² / 2s₂²

with the log-Euclidean shape m = ln √(s₁ s₂), ρ = ln √(s₁ / s₂), φ = 2θ for the standard
deviations s₁ ≥ s₂ and the angle θ of the longer axis, and u, v along the axes. The
metric is diagonal and does not depend on size. A Gaussian with the colour z of unit
energy, z = color · √(π s₁ s₂), is moved by |z| times that, and dz by itself.

So when all parameters are to add alike to the error, the integer colours k = z / D fix
every other step: with the class c = round(log₂ Σ k²) the unit step is d = 2^(-c/2), and

    z       step D, in an orthonormal space whose first axis is grey
    m, ρ    step min(d, 0.6)
    φ       max(2, round(π sinh 2ρ / step of ρ)) angles on the ring of ρ
    u, v    a lattice of cells √2 d L, L the Cholesky factor of Σ

There is no bit allocation and no side information but D. All grids are integers
(`exact_grids.py`), and decoding is integer arithmetic up to last products of floats, so
that it gives the same bits on every machine, jitted or not.
"""

import math
from functools import cache, reduce
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gi_jax.arguments import check_image_size, check_positive
from gi_jax.coding.exact_grids import (
    MARGIN,
    Lattice,
    energy_class,
    lattice,
    lattice_points,
    lattice_scale,
    log_aspect,
    log_size,
    num_angles,
    take,
)
from gi_jax.coding.exact_tables import (
    EXP_LOW_BITS,
    HALF_BITS,
    LOG_UNITS,
    MAX_COLOR,
    MIN_LOG_SIZE,
    PIXEL_UNITS,
    tables,
)
from gi_jax.coding.quantization import Quantizer, no_loss, straight_through
from gi_jax.gaussians import (
    Cholesky,
    Gaussians,
    RotationScale,
    canonical,
    to_rotation_scale,
)

Array = Any  # jax.Array or np.ndarray

# Entries of the colour transform have this many bits: times a colour of 13 bits they
# are exact in float32.
TRANSFORM_BITS: Final = 11

# Orientations are decoded as integers of π / 2^24, in two divisions of 12 bits each.
_ANGLE_BITS: Final = 12


class Symbols(NamedTuple):
    """Gaussians as int32, JAX or NumPy; where all colours are 0, there is none."""

    colors: Array  # [N, C] k, any sign, |k| ≤ MAX_COLOR
    size: Array  # [N] index of m, from 0 on
    ring: Array  # [N] index of ρ, from 0 on
    angle: Array  # [N] 0 to num_angles(ring, class) - 1: θ = π angle / num_angles
    lattice: Array  # [N, 2] i, j of the point of the lattice, any sign


class SensitivityParams(NamedTuple):
    """Params of `sensitivity_matched`."""

    step: jax.Array  # [] D, of colours of unit energy; it has no gradient


def sensitivity_matched(
    image_size: tuple[int, int],
    step: float,
    *,
    parametrization: type[Cholesky] | type[RotationScale] = Cholesky,
) -> Quantizer:
    """Quantizes Gaussians by the metric of each one: one number for all the steps.

    Symbols are `Symbols`; steps are in the docstring of `sensitivity.py`. The colours
    are to be those of the picture less its mean. Standard deviations are in 0.22 to
    60,000 px with an aspect of at most 81 (by √(s₁ s₂) and s₁/s₂), centres within 4 px
    of the picture; what is beyond goes to the nearest symbol.

    The gradient passes straight through to the `canonical` form of the values, which is
    what they are quantized to; none reaches `step`. Which symbol a value half way
    between two gets may depend on the compiler. Decoding is exact.

    Args:
      image_size: H, W of the fitted picture, pixels.
      step: the first D, in colour · pixels: a Gaussian of √(s₁ s₂) = 1/√π and colour
        D makes one step. To be changed in the params, without compiling again.
      parametrization: type of the Gaussians.

    Returns:
      A quantizer of Gaussians with `SensitivityParams` and no state.

    Raises:
      ValueError: if the step is not a finite number above 0, or the size not two
        integers.
    """
    step = check_positive("step", step)
    image_size = check_image_size(image_size)

    def init(key, gaussians):
        del key, gaussians
        return SensitivityParams(jnp.float32(step)), ()

    def encode(params, state, gaussians):
        del state
        colors = quantized_colors(gaussians, params.step)
        return quantized_geometry(colors, gaussians, image_size)

    def decode(params, state, symbols):
        del state
        gaussians = dequantize(symbols, params.step, image_size)
        if parametrization is Cholesky:
            return _exact_cholesky(gaussians)
        return gaussians

    def apply(params, state, gaussians, key):
        del key
        params = lax.stop_gradient(params)
        gaussians = canonical(gaussians)
        quantized = decode(params, state, encode(params, state, gaussians))
        values_hat = jax.tree.map(straight_through, gaussians, quantized)
        return values_hat, state, no_loss()

    return Quantizer(init, apply, encode, decode)


def dequantize(symbols: Symbols, step: Any, image_size: tuple[int, int]) -> Any:
    """Returns the Gaussians that symbols mean, as `RotationScale`.

    Takes NumPy or JAX arrays and gives arrays of the same kind, with equal bits.

    Args:
      symbols: within their ranges.
      step: D, float32.
      image_size: H, W of the fitted picture, pixels.
    """
    xp = symbols.size.__array_namespace__()
    c = energy_class(symbols.colors)
    m, rho = log_size(symbols.size, c), log_aspect(symbols.ring, c)
    turns = num_angles(symbols.ring, c)
    cells = lattice(lattice_scale(m, c), rho, symbols.angle, turns, image_size)
    points = lattice_points(cells, symbols.lattice)
    # symbols.angle / turns in 2 · _ANGLE_BITS bits.
    high, rest = _divide(symbols.angle << _ANGLE_BITS, turns)
    low, _ = _divide(rest << _ANGLE_BITS, turns)
    turn = (high << _ANGLE_BITS) + low
    k = m - MIN_LOG_SIZE  # above 0
    fade = take(tables().exp_high, k >> EXP_LOW_BITS)
    fade = fade * take(tables().exp_low, k & 2**EXP_LOW_BITS - 1)  # 1 / √(π s₁ s₂)
    colors = _times(symbols.colors, color_transform(symbols.colors.shape[-1]))
    logs = _to_float(xp.stack([m + rho, m - rho], axis=-1), 1 / LOG_UNITS)
    return RotationScale(
        _to_float(points, 1 / PIXEL_UNITS),
        logs,
        _to_float(turn, math.pi / 2 ** (2 * _ANGLE_BITS)),
        colors * (fade * step)[..., None],
    )


@cache
def color_transform(channels: int) -> np.ndarray:
    """Returns the orthonormal colour axes as rows, [C, C] rounded to TRANSFORM_BITS.

    The discrete cosine transform over the channels, which for RGB is (R+G+B)/√3,
    (R-B)/√2, (R-2G+B)/√6. A fourth channel is alpha and stays by itself.
    """
    count = 3 if channels == 4 else channels
    k, i = np.mgrid[:count, :count]
    axes = np.sqrt(np.where(k == 0, 1, 2) / count) * np.cos(
        np.pi * k * (2 * i + 1) / (2 * count)
    )
    matrix = np.eye(channels)
    matrix[:count, :count] = np.round(axes, 9)  # cos 90° is 0
    return _rounded(matrix, TRANSFORM_BITS)


@cache
def _inverse_transform(channels: int) -> np.ndarray:
    transform = color_transform(channels).astype(np.float64)
    return _rounded(np.linalg.inv(transform), HALF_BITS)


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Rounds to a number of significant bits."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2**bits), exponent - bits).astype(np.float32)


def quantized_colors(gaussians: Gaussians, step: Any) -> jax.Array:
    """Returns the integer colours k of Gaussians, [N, C] int32.

    Args:
      gaussians: N Gaussians in either parametrization.
      step: D.
    """
    log_scales, colors = _axes(gaussians).log_scales, gaussians.colors
    energy_scale = jnp.exp(jnp.sum(log_scales, axis=1) / 2) * math.sqrt(math.pi) / step
    # Both factors have HALF_BITS: exact products.
    z = lax.reduce_precision(colors * energy_scale[:, None], 8, HALF_BITS - 1)
    z = _times(z, _inverse_transform(colors.shape[1]))
    return _nearest(z, -MAX_COLOR, MAX_COLOR)


def quantized_geometry(
    colors: jax.Array, gaussians: Gaussians, image_size: tuple[int, int]
) -> Symbols:
    """Returns the symbols nearest to some Gaussians that have given integer colours.

    Args:
      colors: [N, C] int32, which fix all grids.
      gaussians: N Gaussians, whose own colours do not matter.
      image_size: H, W, pixels.
    """
    means, log_scales, angles, _ = _axes(gaussians)
    m, rho = jnp.sum(log_scales, axis=1) / 2, (log_scales[:, 0] - log_scales[:, 1]) / 2
    c = energy_class(colors)
    unit = take(tables().log_steps, c) * np.float32(1 / LOG_UNITS)
    size = (m - MIN_LOG_SIZE / LOG_UNITS) / unit
    size = _nearest(size, 0, take(tables().num_sizes, c) - 1)
    ring = _nearest(rho / unit, 0, take(tables().num_rings, c) - 1)
    turns = num_angles(ring, c)
    angle = _nearest(angles / math.pi * turns, 0, turns) % turns
    scale = lattice_scale(log_size(size, c), c)
    cells = lattice(scale, log_aspect(ring, c), angle, turns, image_size)
    points = nearest_points(cells, means, image_size)
    return Symbols(colors, size, ring, angle, points)


def _axes(gaussians: Gaussians) -> RotationScale:
    gaussians = jax.tree.map(jnp.asarray, gaussians)
    if isinstance(gaussians, Cholesky):
        return to_rotation_scale(gaussians)
    return canonical(gaussians)


def nearest_points(
    lattice: Lattice, means: Array, image_size: tuple[int, int]
) -> Array:
    """Returns the points of N lattices nearest to positions, by each lattice's metric.

    Points lie within MARGIN of the picture: where the nearest does not, another one of
    its column is taken, or of the nearest column that reaches the picture.

    Args:
      lattice: of N Gaussians, NumPy or JAX.
      means: [N, 2] x, y, pixels, float32 of the same kind.
      image_size: H, W, pixels.

    Returns:
      [N, 2] i, j, int32.
    """
    xp = means.__array_namespace__()
    column, shear, row = lattice
    low = -MARGIN
    right, bottom = (side * PIXEL_UNITS + MARGIN for side in image_size[::-1])
    x = _nearest(means[:, 0] * PIXEL_UNITS, low, right)
    y = _nearest(means[:, 1] * PIXEL_UNITS, low, bottom)
    i = xp.clip((x + column // 2) // column, -(-low // column), right // column)
    # In the whitened plane the lattice is square, so that columns and rows round each
    # by itself: j by y - shear · x / column, whose part in whole columns is exact.
    base = shear * i
    over = xp.astype(x - column * i, np.float32) * shear / column
    j = (y - base) // row
    rest = xp.astype(y - base - row * j, np.float32)
    j = j + xp.astype(xp.round((rest - over) / row), np.int32)
    j = xp.clip(j, -((base - low) // row), (bottom - base) // row)
    return xp.stack([i, j], axis=1)


def _exact_cholesky(gaussians: RotationScale) -> Cholesky:
    """Returns the same Gaussians, with the same bits inside and outside of jit.

    Products that are summed have factors of HALF_BITS, so that they are exact. That is
    a relative error of 2^-12 in l11 alone, which leaves the area as it is. This holds
    on one machine: exp, cos, sin and rsqrt may differ in their last bits from one
    machine, or version of XLA, to another. Files do not depend on it, as they are
    decoded to `RotationScale`.
    """
    means, log_scales, angles, colors = gaussians

    def exact(x):
        return lax.reduce_precision(x, 8, HALF_BITS - 1)

    s1, s2 = jnp.exp(log_scales[:, 0]), jnp.exp(log_scales[:, 1])
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    along, across = exact(s1 * cos), exact(s2 * sin)
    square = along * along + across * across
    # Division by a root, and a product of exponentials, in the form to which XLA
    # rewrites them where it sees them.
    inverse = lax.rsqrt(square)
    area = jnp.exp(jnp.sum(log_scales, axis=1))
    l21 = (s1 - s2) * (s1 + s2) * cos * sin * inverse
    factor = jnp.stack([square * inverse, l21, area * inverse], axis=1)
    return Cholesky(means, factor, colors)


def _divide(numerator: Any, denominator: Any) -> tuple[Any, Any]:
    quotient = numerator // denominator
    return quotient, numerator - quotient * denominator


def _to_float(integers: Any, unit: float) -> Any:
    xp = integers.__array_namespace__()
    return xp.astype(integers, np.float32) * np.float32(unit)


def _nearest(values: Array, low: Any, high: Any) -> Array:
    """Rounds to the nearest int32 in a range; beyond 2^31 too."""
    xp = values.__array_namespace__()
    values = xp.clip(values, np.float32(-(2**30)), np.float32(2**30))
    return xp.clip(xp.astype(xp.round(values), np.int32), low, high)


def _times(values: Any, matrix: np.ndarray) -> Any:
    """Returns `values @ matrix`, summed in the order of the rows of the matrix."""
    xp = values.__array_namespace__()
    columns = xp.moveaxis(xp.astype(values, np.float32), -1, 0)
    return reduce(xp.add, [x[..., None] * row for x, row in zip(columns, matrix)])
