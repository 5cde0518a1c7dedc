"""Matching pursuit: Gaussians that do not earn their bits make room for better ones.

Candidates come from a bank of shapes, correlated with a pyramid of the residual. One of
unit energy that correlates as b with the residual lowers the squared error by |b|², and
is worth |b|² - λ R. The best are born together, each with the step length that is best
beside the others: several newborns that overlap would take over the same residual.
"""

import functools
import math
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gi_jax.filters import correlate
from gi_jax.fitting.densification import Densification
from gi_jax.fitting.rate import TRADE_OFF, estimated_bits
from gi_jax.gaussians import Cholesky, area
from gi_jax.rendering.rasterize import Implementation, rasterize

# Bits that a Gaussian takes beyond `estimated_bits`, measured on files of 0.1 to 0.5
# bits per pixel.
_BASE_BITS: Final = 12.0

# Gaussians are pruned where their energy is below this times D²: their colours are
# about to round to 0. At 1/4, where they do, many births are a loss; 2 is too much.
_WEAK_ENERGY: Final = 1.0

# The bank, in pixels of a level of the pyramid: geometric mean of the two standard
# deviations, logarithm of half their ratio, directions of elongated shapes. A level
# has half the pixels per side of the one before; the sizes fill the factor between.
_SIZES: Final = (1.2, 1.7)
_ELONGATIONS: Final = (0.0, 0.45, 0.9)
_DIRECTIONS: Final = 6
_LEVELS: Final = 5

# Half width of the windows that are correlated with the bank, pixels of a level.
_RADIUS: Final = 8

# Newborns keep apart: at most one in each square of so many pixels of its level.
_SPACING: Final = 4


class _Bank(NamedTuple):
    """Shapes of unit energy."""

    weights: np.ndarray  # [(2 radius + 1)², shapes], columns of norm 1
    norms: np.ndarray  # [shapes] what the columns were divided by
    factor: np.ndarray  # [shapes, 3] Cholesky factors, pixels of a level


def pursue(
    events: ArrayLike,
    *,
    step_size: ArrayLike,
    most: int,
    prune_from: ArrayLike = 0,
    mask: ArrayLike = 1.0,
    trade_off: float = TRADE_OFF,
    implementation: Implementation | None = None,
) -> Densification:
    """Prunes and gives birth by matching pursuit, at fixed capacity, inside jit.

    At each event the Gaussians that would round to nothing make room; there, and in
    what is left of the capacity, those candidates are born that are worth their bits.

    Args:
      events: [events] steps after which this happens, counted from 1; may be traced,
        as may `step_size` and `prune_from`.
      step_size: D, see `energy_rate`.
      most: of births at an event, static.
      prune_from: the first step after which Gaussians are pruned.
      mask: [H, W, 1] or [H, W, C] that errors are times in the loss.
      trade_off: λ / D².
      implementation: of `rasterize`.

    Returns:
      The densification.
    """
    at = jnp.asarray(events, jnp.int32)

    def due(step):
        return jnp.any(at == step)

    def apply(key, step, gaussians, num_born, residual):
        del key
        total = gaussians.means.shape[0]
        row = jnp.arange(total)

        energy = jnp.sum(gaussians.colors**2, axis=1) * area(gaussians)
        weak = (energy < _WEAK_ENERGY * step_size**2) & (step >= prune_from)
        born = row < num_born
        # Weak ones first, then those unborn, in their order.
        rank = jnp.where(born, jnp.where(weak, 0, 2), 1)
        slots = jnp.argsort(rank, stable=True)[:most].astype(jnp.int32)
        room = jnp.sum(rank < 2)
        shape = jnp.broadcast_shapes(jnp.shape(mask), (*residual.shape[:2], 1))
        masks = jnp.broadcast_to(mask, shape)
        residual = masks * residual
        new, worth = newborns(residual, min(most, total), step_size, trade_off)
        # Their colours are those of atoms that are masked as the residual is.
        y, x = jnp.floor(new.means[:, ::-1]).astype(jnp.int32).T
        there = masks[y, x]
        new = new._replace(colors=jnp.where(there > 0, new.colors / there, 0))
        new = _joint_step(new, residual, masks, implementation)
        used = (worth > 0) & (jnp.arange(slots.size) < room)
        slots = jnp.where(used, slots, total)
        placed = jax.tree.map(
            lambda old, value: old.at[slots].set(value, mode="drop"), gaussians, new
        )
        changed = jnp.zeros(total, bool).at[slots].set(True, mode="drop")
        last = jnp.max(jnp.where(used, slots + 1, 0))
        return placed, jnp.maximum(num_born, last), changed

    return Densification(apply, due, None)


def newborns(
    residual: jax.Array, count: int, step_size: ArrayLike, trade_off: float = TRADE_OFF
) -> tuple[Cholesky, jax.Array]:
    """Returns the Gaussians of the bank that are worth most, apart from each other.

    Args:
      residual: [H, W, C] target minus picture.
      count: number of Gaussians, static.
      step_size: D.
      trade_off: λ / D².

    Returns:
      `count` Gaussians, the best first, each with the colour that is best for it alone
      (0 if it is not worth its bits); and what each is worth, [count], squared error.
    """
    bank = _make_bank()
    found: list[Cholesky] = []
    worths: list[jax.Array] = []
    level, scale = residual, 1
    for _ in range(_LEVELS):
        if found and min(level.shape[:2]) < 4:
            break
        part = _candidates(level, bank, count, scale)
        worth = jnp.sum(part.colors**2, axis=1) * area(part)
        bits = estimated_bits(part, step_size) + _BASE_BITS
        found.append(part)
        worths.append(worth - trade_off * step_size**2 * bits)
        level, scale = _halved(level), 2 * scale
    gaussians = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    worth = jnp.concatenate(worths)
    worth = _alone(gaussians.means, worth, residual.shape[:2], [len(w) for w in worths])
    count_found = min(count, worth.size)
    worth, best = jax.lax.top_k(worth, count_found)
    gaussians = jax.tree.map(lambda leaf: leaf[best], gaussians)
    colors = jnp.where((worth > 0)[:, None], gaussians.colors, 0)
    padding = count - count_found
    gaussians = gaussians._replace(colors=colors)
    gaussians = jax.tree.map(
        lambda leaf: jnp.pad(leaf, ((0, padding), (0, 0)), mode="edge"), gaussians
    )
    return gaussians, jnp.pad(worth, (0, padding), constant_values=-1.0)


def _joint_step(
    new: Cholesky,
    residual: jax.Array,
    mask: jax.Array,
    implementation: Implementation | None,
) -> Cholesky:
    """Scales each newborn's colour by what is best for it beside the others.

    That is <φ, residual> / <φ, picture of all newborns> along its colour: 1 for one
    that is alone, 1/k for k that are the same.
    """
    height, width, _ = residual.shape

    def render(colors):
        gaussians = new._replace(colors=colors)
        picture = rasterize(gaussians, (height, width), implementation=implementation)
        return mask * picture

    picture, transpose = jax.vjp(render, new.colors)
    (correlations,) = jax.lax.map(transpose, jnp.stack([residual, picture]))
    wanted, there = jnp.sum(correlations * new.colors, axis=2)
    length = wanted / jnp.maximum(there, jnp.finfo(jnp.float32).tiny)
    return new._replace(colors=jnp.clip(length, 0, 1)[:, None] * new.colors)


def _candidates(level, bank, count, scale):
    """Returns the best shape at each peak of one level."""
    _, width, channels = level.shape
    side = 2 * _RADIUS + 1
    # Peaks of the gain of a small round Gaussian.
    round_ = _round_weights()
    smooth = _smooth(level, round_)
    gain = jnp.sum(smooth**2, axis=2)
    around = jax.lax.reduce_window(gain, -jnp.inf, jax.lax.max, (3, 3), (1, 1), "SAME")
    score = jnp.where(gain == around, gain, 0).reshape(-1)
    pixel = jax.lax.top_k(score, min(count, score.size))[1]
    rows, columns = jnp.divmod(pixel, width)
    padded = jnp.pad(level, ((_RADIUS, _RADIUS), (_RADIUS, _RADIUS), (0, 0)))
    # A start of one type: a literal 0 would be of another with jax_enable_x64.
    window = side, side, channels
    windows = jax.vmap(
        lambda i, j: jax.lax.dynamic_slice(padded, (i, j, jnp.zeros_like(i)), window)
    )(rows, columns)
    windows = windows.reshape(-1, side * side, channels)
    correlation = jnp.einsum("npc,ps->nsc", windows, bank.weights)
    shape = jnp.argmax(jnp.sum(correlation**2, axis=2), axis=1)
    best = jnp.take_along_axis(correlation, shape[:, None, None], axis=1)[:, 0]
    means = (jnp.stack([columns, rows], axis=1) + 0.5) * scale
    factor = jnp.asarray(bank.factor)[shape] * scale
    colors = best / jnp.asarray(bank.norms)[shape][:, None]
    return Cholesky(means, factor, colors)


def _alone(means, worth, image_size, counts):
    """Returns the worth where it is the most in a square of its level, else -1.

    First among its own level, then, of those that are left, among all levels: who is
    beaten by another one of its level does not stand in the way of finer ones.
    """
    height, width = image_size
    ends = np.cumsum(counts)
    for same_level in (True, False):
        parts = []
        for i, (end, count) in enumerate(zip(ends, counts)):
            side = _SPACING * 2**i
            columns, rows = -(-width // side), -(-height // side)
            own = slice(end - count, end)
            others = own if same_level else slice(None)
            x, y = jnp.clip(means // side, 0, jnp.array([columns - 1, rows - 1])).T
            cell = (y * columns + x).astype(jnp.int32)
            most = jnp.full(rows * columns, -1.0).at[cell[others]].max(worth[others])
            parts.append(jnp.where(worth[own] == most[cell[own]], worth[own], -1.0))
        worth = jnp.concatenate(parts)
    return worth


def _halved(picture):
    """Averages 2×2 pixels; an odd last row or column is left out."""
    height, width, channels = picture.shape
    picture = picture[: height // 2 * 2, : width // 2 * 2]
    return picture.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


@functools.cache
def _round_weights() -> np.ndarray:
    """Returns the taps along one axis of the smallest round shape."""
    offset = np.arange(-_RADIUS, _RADIUS + 1)
    taps = np.exp(-0.5 * (offset / _SIZES[0]) ** 2)
    return (taps / np.linalg.norm(taps)).astype(np.float32)


def _smooth(picture, taps):
    """Correlates both axes with `taps`; there is nothing beyond the edges."""
    edge = len(taps) // 2
    return correlate(jnp.pad(picture, ((edge, edge), (edge, edge), (0, 0))), taps)


@functools.cache
def _make_bank() -> _Bank:
    offset = np.arange(-_RADIUS, _RADIUS + 1)
    x, y = np.tile(offset, len(offset)), np.repeat(offset, len(offset))
    weights, norms, factors = [], [], []
    for size in _SIZES:
        for elongation in _ELONGATIONS:
            directions = _DIRECTIONS if elongation else 1
            for angle in np.arange(directions) * np.pi / directions:
                s1, s2 = size * math.exp(elongation), size * math.exp(-elongation)
                cos, sin = math.cos(angle), math.sin(angle)
                u, v = (cos * x + sin * y) / s1, (-sin * x + cos * y) / s2
                weight = np.exp(-0.5 * (u * u + v * v))
                norm = np.linalg.norm(weight)
                l11 = math.hypot(s1 * cos, s2 * sin)
                l21 = (s1 - s2) * (s1 + s2) * cos * sin / l11
                weights.append(weight / norm)
                norms.append(norm)
                factors.append((l11, l21, s1 * s2 / l11))
    as_float = functools.partial(np.asarray, dtype=np.float32)
    return _Bank(as_float(weights).T, as_float(norms), as_float(factors))
