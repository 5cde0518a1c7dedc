"""Sets of 2D Gaussians: two parametrisations, their conversions and geometry.

A picture is a sum over Gaussians n of `colors[n] * exp(-q)`, where
`q = (p - means[n])ᵀ Σ[n]⁻¹ (p - means[n]) / 2` at the pixel centre p, and exactly
zero where q > `CUTOFF` (GaussianImage, arXiv:2403.08551, sections 3.1 and 3.2: colour
and opacity are merged into one weighted colour, and nothing is sorted).

Both parametrisations are pytrees, in pixel units of the fitted image. Everything here
goes through the Cholesky factor, which every parametrisation reaches by sums of
squares: no determinant is ever formed from a difference of large numbers.
"""

import math
from typing import Any, Final, NamedTuple, TypeVar

import jax
import jax.export
import jax.numpy as jnp
from jax.typing import ArrayLike

# A Gaussian's weight is exactly 0 where its exponent q is above this: there exp(-q) is
# below 1/255, one step of an 8-bit picture.
CUTOFF: Final = math.log(255.0)

# Radius of the support in standard deviations: q <= CUTOFF <=> |L⁻¹ d| <= RADIUS.
RADIUS: Final = math.sqrt(2.0 * CUTOFF)

# Standard deviations (the diagonal of L) are held within these bounds, in pixels, so
# that degenerate parameters give finite pictures and gradients. Below the lower bound a
# Gaussian is a dot in one pixel or falls between two, and float32 exponents lose their
# digits; the upper one is beyond any picture.
MIN_SIGMA: Final = 0.1
MAX_SIGMA: Final = 1e6


class Cholesky(NamedTuple):
    """Gaussians with covariance Σ = L Lᵀ, L lower triangular (section 3.1)."""

    means: jax.Array  # [N, 2] x, y of the centre, pixels
    cholesky: jax.Array  # [N, 3] l11, l21, l22 of L, pixels
    colors: jax.Array  # [N, C] weighted colour, any sign


class RotationScale(NamedTuple):
    """Gaussians with covariance Σ = R S Sᵀ Rᵀ, a rotation and two scales."""

    means: jax.Array  # [N, 2] x, y of the centre, pixels
    log_scales: jax.Array  # [N, 2] natural log of the standard deviations in pixels
    angles: jax.Array  # [N] of the first axis from x towards y, radians
    colors: jax.Array  # [N, C] weighted colour, any sign


Gaussians = Cholesky | RotationScale

# So that exported functions of Gaussians can be serialized.
for _kind in (Cholesky, RotationScale):
    jax.export.register_namedtuple_serialization(
        _kind, serialized_name=f"gi_jax.{_kind.__name__}"
    )


def to_cholesky(gaussians: Gaussians) -> Cholesky:
    """Returns the same Gaussians as Cholesky factors within the bounds on sigma.

    Args:
      gaussians: N Gaussians in either parametrisation.

    Returns:
      The Gaussians with |l11| and |l22| in [MIN_SIGMA, MAX_SIGMA]; signs are kept.
    """
    if isinstance(gaussians, RotationScale):
        means, log_scales, angles, colors = gaussians
        log_bounds = math.log(MIN_SIGMA), math.log(MAX_SIGMA)
        scales = jnp.exp(jnp.clip(log_scales, *log_bounds))
        s1, s2 = scales[:, 0], scales[:, 1]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        l11 = jnp.sqrt((s1 * cos) ** 2 + (s2 * sin) ** 2)
        l21 = (s1 - s2) * (s1 + s2) * cos * sin / l11
        factor = jnp.stack([l11, l21, s1 * s2 / l11], axis=1)
    else:
        means, factor, colors = gaussians
    l11, l21, l22 = factor[:, 0], factor[:, 1], factor[:, 2]
    l21 = jnp.clip(l21, -MAX_SIGMA, MAX_SIGMA)
    factor = jnp.stack([_bounded(l11), l21, _bounded(l22)], axis=1)
    return Cholesky(means, factor, colors)


def to_rotation_scale(gaussians: Gaussians) -> RotationScale:
    """Returns the same Gaussians as rotation and scale, in canonical form."""
    means, factor, colors = to_cholesky(gaussians)
    l11, l21, l22 = factor[:, 0], factor[:, 1], factor[:, 2]
    # Eigenvalues of Σ are mean ± radius; s1 s2 = |l11 l22| gives the small one.
    difference = (l11 - l22) * (l11 + l22) - l21**2
    cross = 2 * l11 * l21
    # At a round Gaussian both are 0, where hypot and arctan2 have no derivative.
    is_round = (difference == 0) & (cross == 0)
    safe = jnp.where(is_round, 1, difference)
    radius = jnp.where(is_round, 0, jnp.hypot(safe, cross))
    s1 = jnp.sqrt((l11**2 + l21**2 + l22**2 + radius) / 2)
    # At a tie the first, so that s1 s2 = √det Σ holds for the derivatives too.
    s2 = jnp.abs(l11 * l22) / s1
    s2 = jnp.where(s2 <= s1, s2, s1)
    angles = jnp.where(is_round, 0, jnp.arctan2(cross, safe) / 2)
    log_scales = jnp.log(jnp.stack([s1, s2], axis=1))
    return canonical(RotationScale(means, log_scales, angles, colors))


_AnyGaussians = TypeVar("_AnyGaussians", bound=Gaussians)


def canonical(gaussians: _AnyGaussians) -> _AnyGaussians:
    """Returns the one representative of parameters that mean the same Gaussians.

    Cholesky: l11 > 0 and l22 > 0. RotationScale: the first scale is the larger one and
    the angle lies in [0, π), and is 0 where the scales are equal.
    """
    if isinstance(gaussians, Cholesky):
        means, factor, colors = to_cholesky(gaussians)
        l11, l21, l22 = factor[:, 0], factor[:, 1], factor[:, 2]
        flipped = jnp.where(l11 < 0, -l21, l21)
        factor = jnp.stack([jnp.abs(l11), flipped, jnp.abs(l22)], axis=1)
        return Cholesky(means, factor, colors)  # type: ignore[return-value]
    means, log_scales, angles, colors = gaussians
    swap = log_scales[:, 0] < log_scales[:, 1]
    log_scales = jnp.where(swap[:, None], log_scales[:, ::-1], log_scales)
    angles = jnp.mod(jnp.where(swap, angles + jnp.pi / 2, angles), jnp.pi)
    # mod of a tiny negative angle rounds up to π itself.
    round_ = log_scales[:, 0] == log_scales[:, 1]
    angles = jnp.where(round_ | (angles >= jnp.pi), 0.0, angles)
    return RotationScale(means, log_scales, angles, colors)  # type: ignore[return-value]


def covariance(gaussians: Gaussians) -> jax.Array:
    """Returns the covariances Σ, [N, 2, 2] in square pixels."""
    factor = to_cholesky(gaussians).cholesky
    l11, l21, l22 = factor[:, 0], factor[:, 1], factor[:, 2]
    return _symmetric(l11**2, l11 * l21, l21**2 + l22**2)


def conic(gaussians: Gaussians) -> jax.Array:
    """Returns the inverse covariances Σ⁻¹, [N, 2, 2] in 1 / square pixels."""
    w11, w21, w22 = whitening_columns(to_cholesky(gaussians).cholesky)
    return _symmetric(w11**2 + w21**2, w21 * w22, w22**2)


def support(gaussians: Gaussians) -> jax.Array:
    """Returns the half widths of the box in which the weight is not 0.

    The box `means ± support` is exact: the ellipse q = CUTOFF touches all four sides.

    Returns:
      [N, 2] half width in x and in y, pixels.
    """
    factor = to_cholesky(gaussians).cholesky
    height = jnp.hypot(factor[:, 1], factor[:, 2])
    return RADIUS * jnp.stack([jnp.abs(factor[:, 0]), height], axis=1)


def area(gaussians: Gaussians) -> jax.Array:
    """Returns the integral of each squared Gaussian, π √det Σ, [N] square pixels."""
    factor = to_cholesky(gaussians).cholesky
    return jnp.pi * jnp.abs(factor[:, 0] * factor[:, 2])


def whitening(factor: jax.Array) -> jax.Array:
    """Returns L⁻¹, which turns offsets into standard deviations: q = |L⁻¹ d|² / 2.

    Args:
      factor: [..., 3] l11, l21, l22 with a non-zero diagonal.

    Returns:
      [..., 3] the entries (1, 1), (2, 1), (2, 2) of L⁻¹, 1 / pixels.
    """
    return jnp.stack(whitening_columns(factor), axis=-1)


def whitening_columns(factor: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the entries of `whitening`, [...] each."""
    w11 = 1 / factor[..., 0]
    w22 = 1 / factor[..., 2]
    return w11, -(factor[..., 1] * w11) * w22, w22


def resize(gaussians: _AnyGaussians, scale: ArrayLike) -> _AnyGaussians:
    """Returns the Gaussians of the picture enlarged by `scale`: means·s, Σ·s²."""
    if isinstance(gaussians, Cholesky):
        return gaussians._replace(
            means=gaussians.means * scale, cholesky=gaussians.cholesky * scale
        )
    return gaussians._replace(
        means=gaussians.means * scale,
        log_scales=gaussians.log_scales + jnp.log(scale),
    )


def blurred(gaussians: Gaussians, variance: ArrayLike) -> Cholesky:
    """Returns the Gaussians of the picture convolved with a round Gaussian.

    Σ grows by variance · I, and what a Gaussian sums up to stays: exact but for the
    cut-off.

    Args:
      gaussians: N Gaussians.
      variance: of the round Gaussian, square pixels, 0 or more.
    """
    means, factor, colors = to_cholesky(gaussians)
    l11, l21, l22 = factor[:, 0], factor[:, 1], factor[:, 2]
    wide = jnp.sqrt(l11**2 + variance)
    # l21² + l22² + variance - (l11 l21 / wide)², without a difference.
    high = jnp.sqrt(l22**2 + variance + variance * (l21 / wide) ** 2)
    fade = jnp.abs(l11 * l22) / (wide * high)
    factor = jnp.stack([wide, l11 * l21 / wide, high], axis=1)
    return Cholesky(means, factor, colors * fade[:, None])


def _bounded(sigma: jax.Array) -> jax.Array:
    """Moves |sigma| into [MIN_SIGMA, MAX_SIGMA] and keeps the sign."""
    magnitude = jnp.clip(jnp.abs(sigma), MIN_SIGMA, MAX_SIGMA)
    return jnp.where(sigma < 0, -magnitude, magnitude)


def _symmetric(xx: jax.Array, xy: jax.Array, yy: jax.Array) -> jax.Array:
    return jnp.stack([jnp.stack([xx, xy], -1), jnp.stack([xy, yy], -1)], -2)


def where_rows(rows: jax.Array, new: Any, old: Any) -> Any:
    """Takes the marked rows of a pytree from `new`, the others from `old`.

    Args:
      rows: [N] bool.
      new: a pytree of arrays with N rows each.
      old: one of the same structure.

    Raises:
      ValueError: where a leaf does not have N rows.
    """

    def choose(a, b):
        if a.shape[:1] != rows.shape:
            raise ValueError(
                f"expected arrays of {rows.shape[0]} rows, got the shape {a.shape}"
            )
        return jnp.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)
