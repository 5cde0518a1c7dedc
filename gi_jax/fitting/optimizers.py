"""Optimizers of Gaussians: coordinates to step in, and optax transformations there.

A step is three pure pieces: the gradient is *pulled back* into the tangent of some
coordinates, any optax transformation turns it into an update there, and the update is
*retracted* to Gaussians again.
"""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gi_jax.gaussians import Cholesky, Gaussians, area, to_cholesky

# Guards of the own frame; one run in many blows up without them.
_MAX_SHAPE_STEP: Final = 0.3  # of a step in shape
_MIN_SIGMA: Final = 0.3  # pixels
_MAX_SPREAD: Final = 6.0  # √trace Σ over the side of a Gaussian's share of the picture
_MARGIN: Final = 1.0  # pixels that a mean may leave the picture

# Size of the pictures on which the paper's step sizes were set: a step in its
# coordinates, where the picture is [-1, 1]², moves a mean by this many pixels.
_PAPER_HALF_SIZE: Final = (384.0, 256.0)


class Coordinates(NamedTuple):
    """Coordinates in which an optimizer sees Gaussians."""

    # gaussians -> where they lie in these coordinates: the optimizer's parameters
    locate: Callable[[Gaussians], Any]
    # (gaussians, gradient, image_size) -> tangent
    pull_back: Callable[[Gaussians, Gaussians, tuple[int, int]], Any]
    # (gaussians, tangent, image_size) -> gaussians
    retract: Callable[[Gaussians, Any, tuple[int, int]], Gaussians]
    # Gaussians always lie at 0, for the frame moves along with them. Optimizers that
    # ask for parameters are then given the sum of their updates so far.
    moving: bool = False
    # () -> optax transformation that is used where none is given
    default_optimizer: Callable[[], optax.GradientTransformation] | None = None


class Tangent(NamedTuple):
    """A step of N Gaussians, each in its own frame, free of scale and units."""

    means: jax.Array  # [N, 2] in standard deviations along the axes of Σ^½
    shape: jax.Array  # [N, 3] relative: first axis, shear, second axis
    colors: jax.Array  # [N, C] at equal energy: colour · √(area / pixels per Gaussian)


# Rates of the own frame's default optimizer, those of a fit of about 500 steps.
_OWN_FRAME_RATES: Final = Tangent(0.07, 0.055, 0.0075)  # type: ignore[arg-type]


def own_frame(max_spread: ArrayLike | None = None) -> Coordinates:
    """Coordinates in which every Gaussian looks like the unit Gaussian.

    Each Gaussian lies at 0. With F the symmetric square root of Σ: μ ← μ + F u and
    F ← F [[exp v₁, v₂/2], [v₂/2, exp v₃]]. Colours are normalized in L2, so that a
    step in shape keeps the energy. Cholesky Gaussians only.

    Steps are guarded: |v| ≤ 0.3, σ ≥ 0.3 px along x and y, √det Σ ≥ 0.09 px², trace of
    Σ ≤ 36 pixels per Gaussian, means at most one pixel off the picture.

    Args:
      max_spread: bound of √trace Σ in pixels instead, for fits that cannot know
        how many Gaussians there will be
    """

    def locate(gaussians):
        if not isinstance(gaussians, Cholesky):
            raise ValueError(
                "own_frame: expected Cholesky Gaussians (see to_cholesky), "
                f"got {type(gaussians).__name__}"
            )
        count, channels = gaussians.colors.shape
        return Tangent(*(jnp.zeros((count, k), jnp.float32) for k in (2, 3, channels)))

    def pull_back(gaussians, gradient, image_size):
        share = _pixels_per_gaussian(gaussians, image_size)
        _, transpose = jax.vjp(
            lambda tangent: _move(gaussians, tangent, share), locate(gaussians)
        )
        # `_move` returns canonical factors: the gradient with respect to those.
        l11, _, l22 = jnp.sign(gaussians.cholesky.T)
        signs = jnp.stack([l11, l11, l22], axis=1)
        return transpose(gradient._replace(cholesky=gradient.cholesky * signs))[0]

    def retract(gaussians, tangent, image_size):
        share = _pixels_per_gaussian(gaussians, image_size)
        limit = _MAX_SHAPE_STEP
        tangent = tangent._replace(shape=jnp.clip(tangent.shape, -limit, limit))
        moved = _move(gaussians, tangent, share)
        spread = _MAX_SPREAD * math.sqrt(share) if max_spread is None else max_spread
        guarded = _guard(moved, spread, image_size)
        # The guard keeps the energy too.
        energy = jnp.sqrt(area(moved) / area(guarded))
        return guarded._replace(colors=moved.colors * energy[:, None])

    return Coordinates(
        locate,
        pull_back,
        retract,
        moving=True,
        default_optimizer=lambda: own_frame_adam(_OWN_FRAME_RATES),
    )


def parameters() -> Coordinates:
    """The parameters themselves, positions as in the paper.

    The paper steps in positions normalized to [-1, 1] (the argument of its tanh, which
    is left out: means may leave the picture). A normalized step is 384 × 256 px here
    whatever the picture, so that rates mean the same for every size.
    """
    half_size = jnp.array(_PAPER_HALF_SIZE, jnp.float32)

    def locate(gaussians):
        return gaussians._replace(means=gaussians.means / half_size)

    def scale(tangent):
        return tangent._replace(means=tangent.means * half_size)

    def pull_back(gaussians, gradient, image_size):
        del gaussians, image_size
        return scale(gradient)

    def retract(gaussians, tangent, image_size):
        del image_size
        return optax.apply_updates(gaussians, scale(tangent))

    return Coordinates(locate, pull_back, retract, default_optimizer=adan)


class RowAdamState(NamedTuple):
    """State of `scale_by_row_adam`."""

    steps: jax.Array  # [N] int32 of each row
    mu: Any  # first moments
    nu: Any  # second moments


def scale_by_row_adam(
    b1: float = 0.9, b2: float = 0.95, eps: float = 1e-12
) -> optax.GradientTransformation:
    """Adam whose bias correction counts each row's own steps.

    Rows are Gaussians: one that is born, or moved elsewhere, in the middle of a fit
    starts with zero moments and a zero count of its own. A row whose gradients have all
    been 0 does not move.

    Args:
      b1: decay of the first moment.
      b2: decay of the second moment; above b1².
      eps: added to the root, for gradients that are exactly 0.

    Returns:
      A transformation of pytrees whose leaves all have N rows.
    """

    def init(params):
        leaves = jax.tree.leaves(params)  # None, where all fields are masked.
        rows = leaves[0].shape[0] if leaves else 0
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RowAdamState(jnp.zeros(rows, jnp.int32), zeros, zeros)

    def update(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        steps = state.steps + 1
        power = steps.astype(jnp.float32)
        first, second = 1 - b1**power, 1 - b2**power

        def scaled(m, v):
            shape = -1, *[1] * (m.ndim - 1)
            c1, c2 = first.reshape(shape), second.reshape(shape)
            return (m / c1) / (jnp.sqrt(v / c2) + eps)

        return jax.tree.map(scaled, mu, nu), RowAdamState(steps, mu, nu)

    return optax.GradientTransformation(init, update)


class AdanState(NamedTuple):
    """State of `scale_by_adan`."""

    steps: jax.Array  # [] int32
    mu: Any  # first moments of the gradient
    delta: Any  # first moments of its change
    nu: Any  # second moments
    last: Any  # the last gradient


def scale_by_adan(
    b1: float = 0.98, b2: float = 0.92, b3: float = 0.99, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adan as GaussianImage runs it, which is not the one of optax.

    With Δ the change of the gradient g, 0 at the first step: the second moment is that
    of g + b2 Δ, and the update (m̂ + b2 d̂) / (√n̂ + eps). `optax.adan` takes
    g + (1 - b2) Δ with other decays, and a root epsilon; no arguments reconcile them.

    Args:
      b1: decay of the gradient's moment.
      b2: decay of the moment of its change.
      b3: decay of the second moment.
      eps: added to the root.

    Returns:
      The transformation.

    Reference:
      Xie et al., Adan, arXiv:2208.06677, algorithm 1, with 1 - β for β.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdanState(jnp.zeros([], jnp.int32), zeros, zeros, zeros, zeros)

    def update(updates, state, params=None):
        del params
        steps = state.steps + 1
        change = jax.tree.map(
            lambda g, last: jnp.where(state.steps == 0, 0, g - last),
            updates,
            state.last,
        )
        ahead = jax.tree.map(lambda g, d: g + b2 * d, updates, change)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        delta = optax.tree.update_moment(change, state.delta, b2, 1)
        nu = optax.tree.update_moment(ahead, state.nu, b3, 2)
        power = steps.astype(jnp.float32)
        c1, c2, c3 = 1 - b1**power, 1 - b2**power, jnp.sqrt(1 - b3**power)
        scaled = jax.tree.map(
            lambda m, d, n: (m / c1 + b2 * d / c2) / (jnp.sqrt(n) / c3 + eps),
            mu,
            delta,
            nu,
        )
        return scaled, AdanState(steps, mu, delta, nu, updates)

    return optax.GradientTransformation(init, update)


def adan(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: float = 0.98,
    b2: float = 0.92,
    b3: float = 0.99,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """`scale_by_adan` with a learning rate, which may be a schedule."""
    return optax.chain(
        scale_by_adan(b1, b2, b3, eps), optax.scale_by_learning_rate(learning_rate)
    )


def own_frame_adam(
    rates: Tangent,
    schedule: optax.Schedule = lambda step: jnp.ones([], jnp.float32),
    *,
    b1: float = 0.9,
    b2: float = 0.95,
) -> optax.GradientTransformation:
    """Adam in each Gaussian's own frame, with a rate for each kind of coordinate.

    Args:
      rates: learning rates, one number for each field. Trees of another type with as
        many fields are stepped by them too; fields that are masked are left out.
      schedule: multiplies the rates.
      b1: decay of the first moment.
      b2: decay of the second moment.

    Returns:
      A transformation of `Tangent`s.
    """

    def times_rates(updates, _):
        leaves, structure = jax.tree.flatten(updates, is_leaf=_is_masked)
        if len(leaves) != len(rates):
            raise ValueError(
                f"rates: expected one for each of the {len(leaves)} fields of "
                f"{type(updates).__name__}, got {len(rates)}"
            )
        scaled = [u if _is_masked(u) else -rate * u for u, rate in zip(leaves, rates)]
        return jax.tree.unflatten(structure, scaled)

    scale = optax.stateless(times_rates)
    return optax.chain(
        scale_by_row_adam(b1, b2), scale, optax.scale_by_schedule(schedule)
    )


def hold_then_decay(
    steps: int, hold: float = 0.87, final: float = 0.05
) -> optax.Schedule:
    """A schedule: 1 until the share `hold` of the steps, then down to `final`.

    The decay is exponential.
    """

    def schedule(count):
        done = (count + 1) / max(steps, 1)
        share = jnp.clip((done - hold) / (1 - hold), 0, 1)
        return jnp.asarray(final**share, jnp.float32)

    return schedule


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def _pixels_per_gaussian(gaussians: Gaussians, image_size: tuple[int, int]) -> float:
    return image_size[0] * image_size[1] / max(gaussians.means.shape[0], 1)


def _move(gaussians: Cholesky, tangent: Tangent, share: float) -> Cholesky:
    """Takes a step in each Gaussian's own frame; `share`: pixels per Gaussian."""
    means, (l11, l21, l22), colors = (
        gaussians.means,
        to_cholesky(gaussians).cholesky.T,
        gaussians.colors,
    )
    # F = (Σ + √det Σ) / √(trace Σ + 2 √det Σ).
    det = jnp.abs(l11 * l22)
    root = jnp.sqrt(l11**2 + l21**2 + l22**2 + 2 * det)
    xx, xy = (l11**2 + det) / root, l11 * l21 / root
    yy = (l21**2 + l22**2 + det) / root
    u, v = tangent.means.T, tangent.shape.T
    step = jnp.stack([xx * u[0] + xy * u[1], xy * u[0] + yy * u[1]], axis=1)
    # The rows of F [[exp v₁, v₂/2], [v₂/2, exp v₃]], and its Cholesky factor.
    first, second, shear = jnp.exp(v[0]), jnp.exp(v[2]), v[1] / 2
    a, b = xx * first + xy * shear, xx * shear + xy * second
    c, d = xy * first + yy * shear, xy * shear + yy * second
    new11 = jnp.hypot(a, b)
    new_det = jnp.abs(det * (first * second - shear**2))
    factor = jnp.stack([new11, (a * c + b * d) / new11, new_det / new11], axis=1)
    colors = colors * jnp.sqrt(det)[:, None] + tangent.colors * jnp.sqrt(share / jnp.pi)
    return Cholesky(means + step, factor, colors / jnp.sqrt(new_det)[:, None])


def _guard(
    gaussians: Cholesky, max_spread: ArrayLike, image_size: tuple[int, int]
) -> Cholesky:
    """Holds means near the picture and covariances within their bounds."""
    height, width = image_size
    upper = np.array([width + _MARGIN, height + _MARGIN], np.float32)
    means = jnp.clip(gaussians.means, -_MARGIN, upper)
    l11, l21, l22 = gaussians.cholesky.T
    l11 = jnp.maximum(l11, _MIN_SIGMA)
    missing = _MIN_SIGMA**2 - l21**2
    # A root of 0 would have no derivative, which line searches take.
    height_floor = jnp.where(
        missing > 0, jnp.sqrt(jnp.where(missing > 0, missing, 1)), 0
    )
    l22 = jnp.maximum(l22, jnp.maximum(_MIN_SIGMA**2 / l11, height_floor))
    spread = jnp.sqrt(l11**2 + l21**2 + l22**2)
    shrink = jnp.minimum(1, max_spread / spread)
    factor = jnp.stack([l11, l21, l22], axis=1) * shrink[:, None]
    return gaussians._replace(means=means, cholesky=factor)
