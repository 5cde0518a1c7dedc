"""Discrete descent: symbols that lower |error|² + λ bits, all Gaussians at a time.

A sweep tries every move of every Gaussian against the residual, each as if nothing else
moved, with the best colours for it. The best moves of all Gaussians are then tried
together: where some get in each other's way, moves that do not pay any more beside the
others are taken back. What is left lowers the objective; nothing is moved otherwise.

The renderer does the heavy part: the correlations of all Gaussians with a picture are
its transpose. Everything runs inside jit, at static shapes, whatever the device.
"""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gi_jax.coding.atoms import MeanWeights, atoms_of, cells_of, overlap
from gi_jax.coding.exact_grids import (
    MARGIN,
    energy_class,
    lattice_points,
    log_aspect,
    log_size,
    num_angles,
    take,
)
from gi_jax.coding.exact_tables import (
    LOG_UNITS,
    MAX_CLASS,
    MAX_COLOR,
    MIN_LOG_SIZE,
    PIXEL_UNITS,
    tables,
)
from gi_jax.coding.sensitivity import Symbols, color_transform, nearest_points
from gi_jax.gaussians import RotationScale, where_rows
from gi_jax.rendering.rasterize import Implementation, rasterize

# Where Gaussians without colour are drawn: no tile sees them, pixels.
_NOWHERE: Final = -1e6

# Standard deviations that moves may lead to, pixels: narrower Gaussians fall between
# the pixels.
_MIN_SIGMA: Final = 0.35

# λ / D². With a bit more of each value, the error of uniform quantization, D² / 12 per
# value, falls by ln 4 · D² / 12 = 0.12 D². At the same λ, 0.05 to 0.1 are alike to half
# a per cent of the objective, and 0.14 is 1.5 % worse.
TRADE_OFF: Final = 0.08

# Times that moves which get in each other's way are taken back, and the share of them
# that is each time but the last: the others may pay once these are gone.
_ROUNDS: Final = 4
_SHARE: Final = 0.5


# The least mean of the weights under an atom.
_LEAST_MEAN_WEIGHT: Final = 1e-6


class Move(NamedTuple):
    """Changes of the integers of a Gaussian; arrays of the same shape."""

    energy_class: Any
    size: Any
    ring: Any
    angle: Any
    column: Any
    row: Any
    quarter: Any  # direction, in quarters of a half turn, of one that was round


_MOVES: Final = Move(
    *np.array(
        [
            [0, 0, 0, 0, 0, 0, 0],  # other colours
            [1, 0, 0, 0, 0, 0, 0],
            [-1, 0, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0, 0],
            [0, -1, 0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 0],
            [0, 0, -1, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 0, 0],
            [0, 0, 0, -1, 0, 0, 0],
            [0, 0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, -1, 0, 0],
            [0, 0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, -1, 0],
            [0, 0, 1, 0, 0, 0, 1],
            [0, 0, 1, 0, 0, 0, 2],
            [0, 0, 1, 0, 0, 0, 3],
        ],
        np.int32,
    ).T
)


class Descent(NamedTuple):
    """What sweeps carry along."""

    symbols: Symbols
    residual: jax.Array  # [H, W, C] target minus picture
    bits: jax.Array  # [] of all Gaussians
    moved: jax.Array  # [] how many the last sweep moved
    key: jax.Array


def descend(
    symbols: Symbols,
    target: jax.Array,
    step: jax.Array,
    bits: Callable[[Symbols], jax.Array],
    key: jax.Array,
    *,
    sweeps: jax.Array | int,
    trade_off: float = TRADE_OFF,
    weights: jax.Array | None = None,
    implementation: Implementation | None = None,
) -> Descent:
    """Takes sweeps of moves that lower |error|² + λ bits.

    Args:
      symbols: N Gaussians; those without colour stay as they are.
      target: [H, W, C] picture less its mean.
      step: D.
      bits: symbols -> bits of each Gaussian, [N].
      key: a PRNG key; decides which of two moves in each other's way is taken back.
      sweeps: their number; may be traced.
      trade_off: λ / D².
      weights: [H, W, 1] or [H, W, C] of the squared errors; 1 without.
      implementation: of `rasterize`.

    Returns:
      The symbols, some of them without colour now, and what they cost.
    """
    height, width, channels = target.shape
    axes = color_transform(channels)
    canvas = _Canvas((height, width), axes, weights, implementation)
    atoms = atoms_of(symbols, energy_class(symbols.colors), canvas.image_size)
    residual = target - _render(canvas, atoms, symbols.colors * step)
    zero = jnp.zeros([], jnp.float32)
    start = Descent(symbols, residual, zero, jnp.zeros([], jnp.int32), key)

    def sweep(_, state):
        return _sweep(canvas, step, bits, trade_off * step**2, state)

    return jax.lax.fori_loop(0, sweeps, sweep, start)


class _Canvas(NamedTuple):
    """What all renderings have in common."""

    image_size: tuple[int, int]
    axes: np.ndarray  # [C, C] colour axes as rows
    weights: jax.Array | None  # [H, W, 1 or C] of squared errors
    implementation: Implementation | None


class _Proposal(NamedTuple):
    """The best move of each Gaussian so far."""

    cost: jax.Array  # [N] against the residual without the Gaussian
    symbols: Symbols
    norm: jax.Array  # [N] of the unit atom, without weights
    cross: jax.Array  # [N] its product with the old one, without weights


def _sweep(canvas, step, bits, weight, state):
    symbols = state.symbols
    used = jnp.any(symbols.colors != 0, axis=1)
    old = atoms_of(symbols, energy_class(symbols.colors), canvas.image_size)
    z_old = symbols.colors * step
    bits_old = jnp.where(used, bits(symbols), 0)
    seen = _mean_weights(canvas, old, used)
    wanted, stay, norm_old = _propose(
        canvas, seen, step, bits, weight, state, old, z_old, used
    )
    cost_old = _cost(norm_old, stay, z_old, seen) + weight * bits_old
    gain = jnp.where(used, wanted.cost - cost_old, 0)

    z_new = wanted.symbols.colors * step
    new = atoms_of(
        wanted.symbols, energy_class(wanted.symbols.colors), canvas.image_size
    )
    change = (
        wanted.norm * jnp.sum(z_new * seen.times(z_new), axis=1)
        + norm_old * jnp.sum(z_old * seen.times(z_old), axis=1)
        - 2 * wanted.cross * jnp.sum(z_new * seen.times(z_old), axis=1)
    )
    key, for_rounds = jax.random.split(state.key)
    accepted, delta = _reconcile(
        canvas, (new, old), (z_new, z_old), gain, change, for_rounds
    )
    chosen = where_rows(accepted, wanted.symbols, symbols)
    alive = jnp.any(chosen.colors != 0, axis=1)
    bits_new = jnp.sum(jnp.where(alive, bits(chosen), 0))
    residual = state.residual - delta
    error_old, error_new = (
        jnp.sum(r * _weighted(canvas, r)) for r in (state.residual, residual)
    )
    lower = error_new + weight * bits_new < error_old + weight * bits_old.sum()
    moved = jnp.sum(accepted, dtype=jnp.int32)
    after = Descent(chosen, residual, bits_new, moved, key)
    before = Descent(symbols, state.residual, bits_old.sum(), 0 * moved, key)
    # Always lower, but for what the closed forms neglect.
    return jax.tree.map(lambda a, b: jnp.where(lower, a, b), after, before)


def _propose(canvas, seen, step, bits, weight, state, old, z_old, used):
    """Finds the best move of each Gaussian as if it were the only one.

    Returns:
      The proposal; the correlation of each old atom with the residual without it,
      [N, C]; its norm, [N].
    """
    symbols = state.symbols
    residual = _weighted(canvas, state.residual)

    def attempt(best, move):
        moved, c, valid = _moved(symbols, Move(*move), canvas.image_size)
        valid &= used
        new = atoms_of(moved, c, canvas.image_size)
        norm = overlap(new, new, canvas.image_size)
        cross = overlap(new, old, canvas.image_size)
        found = _correlate(canvas, new, valid, residual)
        found = found + cross[:, None] * seen.times(z_old)

        def option(best, colors):
            candidate = moved._replace(colors=colors)
            cost = _cost(norm, found, colors * step, seen) + weight * bits(candidate)
            allowed = valid & (energy_class(colors) == c)
            new_best = _Proposal(
                jnp.where(allowed, cost, jnp.inf), candidate, norm, cross
            )
            return where_rows(new_best.cost < best.cost, new_best, best), None

        options = _roundings(seen.divide(found) / (norm * step)[:, None])
        best, _ = jax.lax.scan(option, best, options)
        return best, (found, norm)

    count = used.size
    nothing = symbols._replace(colors=jnp.zeros_like(symbols.colors))
    zeros = jnp.zeros(count, jnp.float32)
    best, (found, norm) = jax.lax.scan(
        attempt, _Proposal(zeros, nothing, zeros, zeros), _MOVES
    )
    return best, found[0], norm[0]


def _reconcile(canvas, atoms, z, gain, change, key):
    """Takes back moves that do not pay beside the others.

    Args:
      canvas: what all renderings have in common.
      atoms: N new ones and N old ones.
      z: their colours, [N, C] each.
      gain: [N] change of the objective if a Gaussian moved alone.
      change: [N] squared norm of the change of the picture.
      key: a PRNG key.

    Returns:
      Which moves are left, [N], and what they change in the picture, [H, W, C].
    """
    count = gain.size
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *atoms)
    z = jnp.concatenate([z[0], -z[1]])

    def body(i, carry):
        accepted, _ = carry
        mask = jnp.tile(accepted, 2)[:, None]
        here = jnp.where(mask, z, 0)
        delta, transpose = jax.vjp(lambda z: _render(canvas, both, z, mask), here)
        parts = jnp.sum(transpose(_weighted(canvas, delta))[0] * here, axis=1)
        # 2 Σ_j≠i <δ_i, δ_j> is what a move meets of the others.
        worth = gain + 2 * (parts[:count] + parts[count:] - change)
        chance = jax.random.uniform(jax.random.fold_in(key, i), gain.shape)
        drop = (worth > 0) & ((chance < _SHARE) | (i == _ROUNDS - 1)) & (i < _ROUNDS)
        return accepted & ~drop, delta

    blank = jnp.zeros((*canvas.image_size, z.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, _ROUNDS + 1, body, (gain < 0, blank))


def _weighted(canvas, picture):
    return picture if canvas.weights is None else canvas.weights * picture


def _mean_weights(canvas, atoms, used):
    """Returns the means of the weights under the squares of atoms."""
    if canvas.weights is None:
        return MeanWeights(None, canvas.axes)
    # The square of a Gaussian is one of half the variance.
    squares = atoms._replace(log_scales=atoms.log_scales - math.log(2) / 2)
    ones = jnp.ones((*canvas.image_size, len(canvas.axes)), jnp.float32)
    total, area = (
        _correlate(canvas, squares, used, picture) @ canvas.axes
        for picture in (canvas.weights * ones, ones)
    )
    # A square ends sooner: that of an atom beside the picture may not reach it.
    # Axes are rounded: where one channel's weight is small, what is left of another.
    means = jnp.where(area > 0, jnp.maximum(total / area, _LEAST_MEAN_WEIGHT), 1)
    return MeanWeights(means[:, : canvas.weights.shape[2]], canvas.axes)


def _cost(norm, correlation, z, seen):
    """Squared error that Gaussians of colour z add to what is there without them."""
    return jnp.sum(z * (norm[:, None] * seen.times(z) - 2 * correlation), axis=1)


def _roundings(wanted):
    """Rounds the best colours: to nearest, towards 0, and each alone the other way.

    Args:
      wanted: [N, C] real numbers.

    Returns:
      [C + 2, N, C] int32.
    """
    limit = np.float32(MAX_COLOR)
    wanted = jnp.clip(jnp.nan_to_num(wanted), -limit, limit)
    near = jnp.round(wanted).astype(jnp.int32)
    low = jnp.trunc(wanted).astype(jnp.int32)
    other = jnp.where(low == near, low + jnp.sign(wanted).astype(jnp.int32), low)
    channels = range(wanted.shape[1])
    return jnp.stack([near, low, *(near.at[:, j].set(other[:, j]) for j in channels)])


def _moved(symbols, move, image_size):
    """Returns symbols with other integers, their class, and where that is possible.

    What a move does not change stays as near as the grids of the new shape allow; the
    colours are to be chosen so that they have the class.
    """
    c = energy_class(symbols.colors)
    new_c = jnp.clip(c + move.energy_class, 0, MAX_CLASS)
    unit = take(tables().log_steps, new_c)
    m, rho = log_size(symbols.size, c), log_aspect(symbols.ring, c)
    size = (m - MIN_LOG_SIZE + unit // 2) // unit + move.size
    ring = (rho + unit // 2) // unit
    ring = jnp.minimum(ring, take(tables().num_rings, new_c) - 1) + move.ring
    valid = (size >= 0) & (size < take(tables().num_sizes, new_c))
    valid &= (ring >= 0) & (ring < take(tables().num_rings, new_c))
    valid &= (move.quarter == 0) | (symbols.ring == 0)
    size, ring = jnp.where(valid, size, 0), jnp.where(valid, ring, 0)
    turns_old, turns = num_angles(symbols.ring, c), num_angles(ring, new_c)
    angle = (symbols.angle.astype(jnp.float32) / turns_old + move.quarter / 4) * turns
    angle = (jnp.round(angle).astype(jnp.int32) + move.angle) % turns
    valid &= (move.angle == 0) | (turns > 1)
    old = cells_of(symbols.size, symbols.ring, symbols.angle, c, image_size)
    means = lattice_points(old, symbols.lattice).astype(jnp.float32) / PIXEL_UNITS
    cells = cells_of(size, ring, angle, new_c, image_size)
    points = nearest_points(cells, means, image_size)
    points += jnp.stack([move.column, move.row])
    where = lattice_points(cells, points)
    limits = np.array(image_size[::-1]) * PIXEL_UNITS + MARGIN
    valid &= jnp.all((where >= -MARGIN) & (where <= limits), axis=1)
    m, rho = log_size(size, new_c), log_aspect(ring, new_c)
    valid &= m - rho >= LOG_UNITS * math.log(_MIN_SIGMA)
    moved = symbols._replace(size=size, ring=ring, angle=angle, lattice=points)
    return moved, new_c, valid


def _render(canvas, atoms, z, seen=None):
    """Returns the picture of atoms with colours z, [N, C]."""
    if seen is None:
        seen = jnp.any(z != 0, axis=1, keepdims=True)
    gaussians = RotationScale(
        jnp.where(seen, atoms.means, _NOWHERE),
        atoms.log_scales,
        atoms.angles,
        (z @ canvas.axes) * atoms.fade[:, None],
    )
    return rasterize(gaussians, canvas.image_size, implementation=canvas.implementation)


def _correlate(canvas, atoms, seen, picture):
    """Returns what atoms and a picture have in common, [N, C]."""
    blank = jnp.zeros((seen.size, picture.shape[2]), jnp.float32)
    _, transpose = jax.vjp(lambda z: _render(canvas, atoms, z, seen[:, None]), blank)
    return transpose(picture)[0]
