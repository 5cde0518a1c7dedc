"""Gaussians that are born, or moved, where the error is largest; fixed capacity.

A fit holds N Gaussians from its first step on. Those not born yet lie far off the
picture, where they cost nothing: no tile sees them, and their gradient is 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp

from gi_jax.arguments import check_integer
from gi_jax.filters import blur
from gi_jax.gaussians import Cholesky, area

# Where Gaussians wait to be born, pixels.
_NOWHERE: Final = -1e6

# Size of a newborn over the side of a Gaussian's share of the picture; its lower bound
# in pixels; and the share of the residual that it takes over at its centre.
_SEED_SIZE: Final = 0.27
_MIN_SEED_SIGMA: Final = 0.5
_SEED_COLOR: Final = 0.3


class Densification(NamedTuple):
    """Births and moves during a fit."""

    # (key, step, gaussians, num_born, residual) -> (gaussians, num_born, placed), to be
    # called only after steps, counted from 1, after which it is due
    apply: Callable[..., tuple[Cholesky, jax.Array, jax.Array]]
    due: Callable[[jax.Array], jax.Array]  # step -> [] bool
    steps: frozenset[int] | None  # after which it is due; None if they are traced


def unborn(count: int, num_channels: int) -> Cholesky:
    """Returns Gaussians that wait to be born: nothing is drawn for them."""
    return Cholesky(
        jnp.full((count, 2), _NOWHERE, jnp.float32),
        jnp.tile(jnp.array([1, 0, 1], jnp.float32), (count, 1)),
        jnp.zeros((count, num_channels), jnp.float32),
    )


def seeds(
    key: jax.Array, residual: jax.Array, count: int, pixels_per_gaussian: float
) -> Cholesky:
    """Returns small round Gaussians at the largest local maxima of the squared error.

    Args:
      key: a PRNG key, for the case of too few maxima: then other pixels with a large
        error fill up.
      residual: [H, W, C] target minus picture.
      count: number of Gaussians, static.
      pixels_per_gaussian: of the whole fit; sets the size.

    Returns:
      `count` Gaussians, those with the largest error first.
    """
    error = blur(jnp.sum(residual**2, axis=2), 1.0)
    width = error.shape[1]
    around = jax.lax.reduce_window(error, -jnp.inf, jax.lax.max, (3, 3), (1, 1), "SAME")
    relative = error / jnp.maximum(error.max(), jnp.finfo(error.dtype).tiny)
    other = relative * jax.random.uniform(key, error.shape, error.dtype)
    score = jnp.where(error == around, 1 + relative, other).reshape(-1)
    pixel = jax.lax.top_k(score, min(count, score.size))[1]
    pixel = jnp.resize(pixel, (count,))  # More Gaussians than pixels: again from first.
    rows, columns = jnp.divmod(pixel, width)
    sigma = max(_MIN_SEED_SIGMA, _SEED_SIZE * math.sqrt(pixels_per_gaussian))
    return Cholesky(
        jnp.stack([columns, rows], axis=1).astype(jnp.float32) + 0.5,
        jnp.tile(jnp.array([sigma, 0, sigma], jnp.float32), (count, 1)),
        _SEED_COLOR * blur(residual, 0.5)[rows, columns],
    )


def densify(
    births: Mapping[int, int], moves: Sequence[int] = (), move_share: float = 0.05
) -> Densification:
    """Births at given steps, and moves of the weakest Gaussians at others.

    The weakest are those with the least energy |colour|² · area. Everything happens
    inside jit at static shapes.

    Args:
      births: number of Gaussians born after each of these steps, counted from 1.
      moves: steps after which the weakest Gaussians move to peaks of the error.
      move_share: share of all Gaussians that move.

    Returns:
      The densification.

    Raises:
      ValueError: on numbers that are no steps, counts or shares.
    """
    for step, count in births.items():
        check_integer("births: a step", step, least=1)
        check_integer("births: a number of Gaussians", count, least=0)
    for step in moves:
        check_integer("moves: a step", step, least=1)
    if not 0 <= move_share <= 1:
        raise ValueError(f"move_share: expected 0 to 1, got {move_share}")
    steps = jnp.array([*births, *moves], jnp.int32)
    counts = jnp.array([*births.values(), *(0 for _ in moves)], jnp.int32)
    most = max(births.values(), default=0)

    def apply(key, step, gaussians, num_born, residual):
        total = gaussians.means.shape[0]
        share = residual.shape[0] * residual.shape[1] / total
        num_moved = int(total * move_share) if moves else 0
        size = max(most, num_moved)
        if size == 0:
            return gaussians, num_born, jnp.zeros(total, bool)
        rank = jnp.arange(size)
        count = jnp.sum(jnp.where(steps == step, counts, 0), dtype=jnp.int32)
        energy = jnp.sum(gaussians.colors**2, axis=1) * area(gaussians)
        energy = jnp.where(jnp.arange(total) < num_born, energy, jnp.inf)
        weakest = jax.lax.top_k(-energy, min(size, total))[1]
        weakest = jnp.resize(weakest, (size,))
        birth = count > 0
        slot = jnp.where(birth, num_born + rank, weakest)
        used = rank < jnp.where(birth, count, num_moved)
        slot = jnp.where(used, slot, total)
        new = seeds(key, residual, size, share)
        gaussians = jax.tree.map(
            lambda old, value: old.at[slot].set(value, mode="drop"), gaussians, new
        )
        placed = jnp.zeros(total, bool).at[slot].set(True, mode="drop")
        return gaussians, jnp.minimum(num_born + count, total), placed

    def due(step):
        return jnp.any(steps == step)

    return Densification(apply, due, frozenset([*births, *moves]))
