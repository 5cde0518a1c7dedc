"""The symbols of Gaussians to bytes and back: sets of tiles, then symbols in context.

`code_symbols` is the format. It runs in both directions (`adaptive_coding.py`):

1. The groups, large Gaussians to small ones: how many each has, and the set of the
   tiles in which they lie (`point_sets.py`), sorted by Morton code.
2. All Gaussians in `coding_order`, in batches: colours, signs, size, ring, angle, point
   of the lattice (`symbol_models.py`). A batch takes Gaussians of all groups, so that
   all contexts learn from the start.

Everything is integers.
"""

from typing import Final, NamedTuple

import numpy as np

from gi_jax.coding.adaptive_coding import Coder, Decoder, Encoder, batches
from gi_jax.coding.bitstream import BitstreamError
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
)
from gi_jax.coding.exact_tables import PIXEL_UNITS, tables
from gi_jax.coding.point_sets import code_points, morton_codes, morton_tiles
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
    least_of,
    ring_context,
    sign_context,
    size_ranges,
    tile_shift,
    token_of,
)

# Every so many Gaussians of the sorted ones follow each other.
STRIDE: Final = 64


class _Where(NamedTuple):
    """What is known of each Gaussian before its own symbols."""

    group: np.ndarray  # [N] int32
    tile: np.ndarray  # [N, 2] x, y int64
    shift: np.ndarray  # [N] log₂ of the tile's side, PIXEL_UNITS


def encode_symbols(
    symbols: Symbols, image_size: tuple[int, int]
) -> tuple[bytes, dict[str, float]]:
    """Returns the payload of some Gaussians, and its ideal length.

    Args:
      symbols: N Gaussians, NumPy, within their ranges, none without colour.
      image_size: H, W, pixels.

    Returns:
      The bytes, and the ideal code length in bits by name.
    """
    encoder = Encoder()
    count, channels = symbols.colors.shape
    code_symbols(encoder, count, channels, image_size, symbols)
    return encoder.finish(), encoder.bits


def decode_symbols(
    payload: bytes,
    count: int,
    channels: int,
    image_size: tuple[int, int],
    *,
    account: bool = False,
) -> tuple[Symbols, dict[str, float]]:
    """Decodes what `encode_symbols` was given, in the order of the file.

    Args:
      payload: any bytes at all.
      count: N, trusted: this much is allocated.
      channels: C.
      image_size: H, W, pixels.
      account: computes the ideal code length too.

    Returns:
      The symbols, and the ideal code length in bits by name, if asked for.

    Raises:
      BitstreamError: if the payload is not exactly one of N Gaussians.
    """
    decoder = Decoder(payload, account=account)
    symbols = code_symbols(decoder, count, channels, image_size, None)
    decoder.finish()
    return symbols, decoder.bits


def code_symbols(
    coder: Coder,
    count: int,
    channels: int,
    image_size: tuple[int, int],
    symbols: Symbols | None,
    model: SymbolModel | None = None,
) -> Symbols:
    """Codes N Gaussians; `symbols` are given when encoding, in any order.

    `model` is the format's own unless given, for measuring others.

    Returns:
      The symbols in the order of the file: of decreasing group, then of Morton code.
    """
    model = model or SymbolModel(channels, load_priors())
    where = None
    if symbols is not None:
        symbols, where = _sorted(symbols, image_size)
    where = _code_places(coder, model, count, image_size, where)
    shapes = [(channels,), (), (), (), (2,)]
    result = Symbols(*(np.empty((count, *shape), np.int32) for shape in shapes))
    order = coding_order(count)
    for batch in batches(count, 0):
        part = order[batch]
        known = None if symbols is None else Symbols(*(x[part] for x in symbols))
        there = _Where(*(x[part] for x in where))
        coded = _code_batch(coder, model, there, image_size, channels, known)
        for field, values in zip(result, coded):
            field[part] = values
    return result


def coding_order(count: int) -> np.ndarray:
    """Returns 0, STRIDE, 2 STRIDE, …, then 1, STRIDE + 1, … up to count - 1."""
    return np.argsort(np.arange(count) % STRIDE, kind="stable")


def _sorted(symbols: Symbols, image_size: tuple[int, int]) -> tuple[Symbols, _Where]:
    """Returns the Gaussians in the order of the file, and where they lie."""
    c = energy_class(symbols.colors)
    scale = lattice_scale(log_size(symbols.size, c), c)
    turns = num_angles(symbols.ring, c)
    rho = log_aspect(symbols.ring, c)
    cells = lattice(scale, rho, symbols.angle, turns, image_size)
    points = lattice_points(cells, symbols.lattice) + MARGIN
    group = group_of(scale)
    shift = _SHIFTS[group]
    tiles = points.astype(np.int64) >> shift[:, None]
    # What is equal in all of this is sorted too: the file is that of a set.
    rest = [*symbols.lattice.T, symbols.angle, symbols.ring, *symbols.colors.T]
    order = np.lexsort([*rest, morton_codes(tiles), -group])
    where = _Where(group[order], tiles[order], shift[order])
    return Symbols(*(field[order] for field in symbols)), where


_SHIFTS: Final = np.array([tile_shift(group) for group in range(NUM_GROUPS)])


def _code_places(
    coder: Coder,
    model: SymbolModel,
    count: int,
    image_size: tuple[int, int],
    where: _Where | None,
) -> _Where:
    """Codes the group and the tile of each Gaussian."""
    known = None
    if where is not None:
        codes = morton_codes(where.tile)
        known = [codes[where.group == group] for group in range(NUM_GROUPS)]
    sides = [side * PIXEL_UNITS + 2 * MARGIN for side in image_size[::-1]]
    centres = np.zeros((0, 2), np.int64)  # of the tiles so far, PIXEL_UNITS
    found = [_Where(np.zeros(0, np.int32), centres, np.zeros(0, np.int64))]
    left = count
    largest = None
    if where is not None and count:
        largest = int(where.group[0])
    group = _code_number(coder, NUM_GROUPS, largest) + 1 if count else 0
    while left and group:
        group -= 1
        given = None if known is None else known[group]
        number = left  # in the smallest group; elsewhere it is coded
        if group:
            length = None if given is None else len(given)
            number = _code_number(coder, left + 1, length)
        left -= number
        shift = int(_SHIFTS[group])
        earlier = np.sort(morton_codes(centres >> shift))
        shape = (sides[0] >> shift) + 1, (sides[1] >> shift) + 1
        codes = code_points(coder, model.splits, number, shape, earlier, given)
        tiles = morton_tiles(codes)
        fields = np.full(number, group, np.int32), tiles, np.full(number, shift)
        found.append(_Where(*fields))
        centres = np.concatenate([centres, (2 * tiles + 1) << shift >> 1])
    return _Where(*(np.concatenate(fields) for fields in zip(*found)))


def _code_number(coder: Coder, size: int, value: int | None) -> int:
    known = None if value is None else np.array([value])
    return int(coder.uniform("groups", np.array([size]), known)[0])


def _code_batch(
    coder: Coder,
    model: SymbolModel,
    where: _Where,
    image_size: tuple[int, int],
    channels: int,
    known: Symbols | None,
) -> Symbols:
    given = known if known is not None else Symbols(None, None, None, None, None)
    colors = _code_colors(coder, model, where.group, channels, given.colors)
    c = energy_class(colors)
    starts, counts = (table[c, where.group] for table in size_ranges())
    size = None if known is None else given.size - starts
    size = coder.uniform("size", counts, size) + starts
    m = log_size(size, c)
    ring = _code_rings(coder, model, c, m, given.ring)
    rho, turns = log_aspect(ring, c), num_angles(ring, c)
    angle = _code_angles(coder, model, rho, turns, given.angle)
    scale = lattice_scale(m, c)
    cells = lattice(scale, rho, angle, turns, image_size)
    points = _code_lattice(coder, cells, where, image_size, given.lattice)
    return Symbols(colors, size, ring, angle, points)


def _code_colors(coder, model, group, channels, colors):
    magnitudes: list[np.ndarray] = []
    for channel in range(channels):
        name = f"colour {channel}"
        token = rest = None
        if colors is not None:
            token, _, rest = token_of(np.abs(colors[:, channel]))
        context = color_context(channel, group, magnitudes)
        token = coder.adaptive(name, model.colors[channel], context, token)
        least, width = least_of(token)
        magnitudes.append(least + coder.uniform(name, width, rest))
    signs: list[np.ndarray] = []
    unsigned = np.ones(group.shape, bool)  # no sign so far
    for channel, magnitude in enumerate(magnitudes):
        negative = np.zeros(group.shape, np.int32)
        context = sign_context(channel, signs or [negative])
        present = magnitude > 0
        for plain, some in ((True, present & unsigned), (False, present & ~unsigned)):
            known = None if colors is None else (colors[some, channel] < 0).astype(int)
            if plain:
                sizes = np.full(np.count_nonzero(some), 2)
                negative[some] = coder.uniform("signs", sizes, known)
            else:
                table = model.signs
                negative[some] = coder.adaptive("signs", table, context[some], known)
        unsigned &= ~present
        signs.append(np.where(present, 1 - 2 * negative, 0))
    if unsigned.any():
        raise BitstreamError("coded symbols: a Gaussian without colours")
    return np.stack([m * s for m, s in zip(magnitudes, signs)], axis=1).astype(np.int32)


def _code_rings(coder, model, energy_class, log_size, ring):
    context, low_bits = ring_context(energy_class, log_size)
    high = None if ring is None else ring >> low_bits
    high = coder.adaptive("ring", model.rings, context, high) << low_bits
    # The last of the upper values may have less of the lower ones, or none.
    sizes = np.minimum(1 << low_bits, tables().num_rings[energy_class] - high)
    rest = None if ring is None else ring - high
    return high + coder.uniform("ring", np.maximum(sizes, 0), rest)


def _code_angles(coder, model, log_aspect, turns, angle):
    result = np.empty(turns.shape, np.int32)
    binned = turns >= MIN_BINNED_ANGLES
    plain = None if angle is None else angle[~binned]
    result[~binned] = coder.uniform("angle", turns[~binned], plain)
    n, context = turns[binned], (log_aspect[binned] >= LARGE_ASPECT).astype(np.int32)
    bins = rest = None
    if angle is not None:
        bins = angle_bin(angle[binned], n)
    bins = coder.adaptive("angle", model.angles, context, bins)
    start, width = angle_range(bins, n)
    if angle is not None:
        rest = (angle[binned] - start) % n
    result[binned] = (start + coder.uniform("angle", width, rest)) % n
    return result


def _code_lattice(coder, cells: Lattice, where: _Where, image_size, points):
    """Codes which of its lattice's points in its tile each Gaussian has."""
    cells = Lattice(*(field.astype(np.int64) for field in cells))
    low = (where.tile << where.shift[:, None]) - MARGIN
    limits = np.array(image_size[::-1]) * PIXEL_UNITS + MARGIN
    high = np.minimum(low + (1 << where.shift[:, None]) - 1, limits)
    # The columns of all tiles one after the other: their owners and indices.
    left = -(-low[:, 0] // cells.column)
    number = np.maximum(high[:, 0] // cells.column - left + 1, 0)
    owner = np.repeat(np.arange(len(number)), number)
    before = np.cumsum(number) - number  # columns of tiles before
    column = left[owner] + np.arange(len(owner)) - before[owner]
    base, row = cells.shear[owner] * column, cells.row[owner]
    bottom = -((base - low[owner, 1]) // row)  # the least index of the column
    inside = np.maximum((high[owner, 1] - base) // row - bottom + 1, 0)
    ends = np.cumsum(inside)  # points up to the end of each column, over all tiles
    starts = np.append(0, ends)[before]
    totals = np.append(0, ends)[before + number] - starts
    rank = None
    if points is not None:
        at = before + points[:, 0] - left
        rank = ends[at] - inside[at] - starts + points[:, 1] - bottom[at]
    rank = coder.uniform("lattice", totals, rank) + starts
    at = np.searchsorted(ends, rank, side="right")
    row_index = bottom[at] + rank - (ends[at] - inside[at])
    return np.stack([column[at], row_index], axis=1).astype(np.int32)
