"""What Gaussians cost in a file: tables of bits by context, for optimizing symbols.

The adaptive coder ends where the symbols' own statistics are, so the tables are those
of a model that has seen all symbols. `rate_tables` is NumPy, once in a while;
`symbol_bits` works in jitted code, on as many candidates as one likes.
"""

from typing import Any, NamedTuple

import numpy as np

from gi_jax.coding.adaptive_coding import Table
from gi_jax.coding.exact_grids import (
    MARGIN,
    energy_class,
    lattice,
    lattice_scale,
    log_aspect,
    log_size,
    num_angles,
    take,
)
from gi_jax.coding.exact_tables import PIXEL_UNITS, tables
from gi_jax.coding.priors import load_priors
from gi_jax.coding.sensitivity import Symbols
from gi_jax.coding.symbol_models import (
    LARGE_ASPECT,
    MIN_BINNED_ANGLES,
    NUM_GROUPS,
    SymbolModel,
    angle_bin,
    angle_range,
    color_context,
    group_of,
    ring_context,
    sign_context,
    size_ranges,
    token_of,
)

Array = Any  # np.ndarray or jax.Array


class RateTables(NamedTuple):
    """Bits of symbols in their contexts, float32; a pytree of arrays."""

    places: Array  # [groups] of a place, for a cell of one square pixel
    colors: tuple[Array, ...]  # for each channel: [contexts, tokens]
    signs: Array  # [contexts, 2]
    rings: Array  # [contexts, tokens]
    angles: Array  # [2, bins]


def rate_tables(symbols: Symbols, image_size: tuple[int, int]) -> RateTables:
    """Returns what symbols cost beside those of a set of Gaussians.

    Args:
      symbols: N Gaussians; those without colours do not count.
      image_size: H, W, pixels.
    """
    fields = [np.asarray(field) for field in symbols]
    alive = fields[0].any(axis=1)
    colors, size, ring, angle, _ = (field[alive] for field in fields)
    channels = colors.shape[1]
    model = SymbolModel(channels, load_priors())
    c = energy_class(colors)
    m = log_size(size, c)
    group = group_of(lattice_scale(m, c))
    magnitudes, signs = list(np.abs(colors).T), list(np.sign(colors).T)
    for channel, table in enumerate(model.colors):
        context = color_context(channel, group, magnitudes)
        table.update(context, token_of(magnitudes[channel])[0])
    for channel in range(1, channels):
        chosen = (signs[channel] != 0) & colors[:, :channel].any(axis=1)
        context = sign_context(channel, signs)
        model.signs.update(context[chosen], (signs[channel] < 0).astype(int)[chosen])
    context, low_bits = ring_context(c, m)
    model.rings.update(context, ring >> low_bits)
    turns = num_angles(ring, c)
    large = (log_aspect(ring, c) >= LARGE_ASPECT).astype(int)
    binned = turns >= MIN_BINNED_ANGLES
    model.angles.update(large[binned], angle_bin(angle, turns)[binned])
    margin = 2 * MARGIN / PIXEL_UNITS
    region = (image_size[0] + margin) * (image_size[1] + margin)
    # One more Gaussian in a set of n: log₂ of (region / cell) / n.
    numbers = np.bincount(group, minlength=NUM_GROUPS)
    return RateTables(
        np.log2(region / np.maximum(numbers, 1)).astype(np.float32),
        tuple(_bits(table) for table in model.colors),
        _bits(model.signs),
        _bits(model.rings),
        _bits(model.angles),
    )


def symbol_bits(
    rates: RateTables, symbols: Symbols, image_size: tuple[int, int]
) -> Array:
    """Returns the bits of each Gaussian, [N] float32; 0 where all colours are 0.

    These are marginal: what one Gaussian more or less makes of a file. A place is then
    log₂ e = 1.44 bits cheaper than on average. Over all Gaussians of a picture they sum
    up to its file less that, within some per cent: the file pays for learning, and the
    density of places, which it learns, is not known here.

    Args:
      rates: from `rate_tables`.
      symbols: N Gaussians within their ranges, NumPy or JAX; candidates for instance.
      image_size: H, W, pixels.
    """
    colors, size, ring, angle, _ = symbols
    xp = colors.__array_namespace__()
    c = energy_class(colors)
    m = log_size(size, c)
    scale = lattice_scale(m, c)
    group = group_of(scale)
    rho, turns = log_aspect(ring, c), num_angles(ring, c)
    cells = lattice(scale, rho, angle, turns, image_size)
    bits = color_bits(rates, colors, group)
    bits = bits + xp.log2(xp.astype(_taken(size_ranges()[1], c, group), np.float32))
    context, low_bits = ring_context(c, m)
    bits = bits + _taken(rates.rings, context, ring >> low_bits)
    rest = take(tables().num_rings, c) - (ring >> low_bits << low_bits)
    lower = xp.minimum(1 << low_bits, rest)
    _, width = angle_range(angle_bin(angle, turns), turns)
    binned = turns >= MIN_BINNED_ANGLES
    large = xp.astype(rho >= LARGE_ASPECT, np.int32)
    direction = _taken(rates.angles, large, angle_bin(angle, turns))
    bits = bits + xp.where(binned, direction, 0)
    uniform = xp.where(binned, width, turns)
    bits = bits + xp.log2(xp.astype(lower, np.float32) * uniform)
    area = xp.astype(cells.column, np.float32) * cells.row / PIXEL_UNITS**2
    bits = bits + xp.maximum(take(rates.places, group) - xp.log2(area), 0)
    return xp.where(xp.any(colors != 0, axis=1), bits, 0)


def color_bits(rates: RateTables, colors: Array, group: Array) -> Array:
    """Returns the bits of colours and signs, [N], of Gaussians of given groups."""
    xp = colors.__array_namespace__()
    columns = [colors[:, k] for k in range(colors.shape[1])]
    magnitudes, signs = [xp.abs(x) for x in columns], [xp.sign(x) for x in columns]
    total = xp.zeros(group.shape, np.float32)
    unsigned = xp.ones(group.shape, bool)
    for channel, magnitude in enumerate(magnitudes):
        token, width, _ = token_of(magnitude)
        context = color_context(channel, group, magnitudes)
        total = total + _taken(rates.colors[channel], context, token)
        total = total + xp.log2(xp.astype(width, np.float32))
        negative = xp.astype(signs[channel] < 0, np.int32)
        learned = _taken(rates.signs, sign_context(channel, signs), negative)
        present = magnitude > 0
        total = total + xp.where(present, xp.where(unsigned, 1, learned), 0)
        unsigned = unsigned & ~present
    return total


def _bits(table: Table) -> np.ndarray:
    frequencies = table.frequencies
    totals = frequencies.sum(axis=1, keepdims=True)
    return np.log2(totals / frequencies).astype(np.float32)


def _taken(table: Array, rows: Array, columns: Array) -> Array:
    return rows.__array_namespace__().asarray(table)[rows, columns]
