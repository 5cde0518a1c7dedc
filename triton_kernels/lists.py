"""Tile lists: which Gaussians touch which tile, sorted by tile, without atomics.

Each Gaussian's pixel box covers a box of tiles; those tiles are its *entries*. Entries
are numbered one Gaussian after the other by a running sum of their counts. The fill
kernel then works on entry numbers, not on Gaussians: it finds the owner of a number by
bisection, so that one Gaussian with thousands of tiles is spread over many programs.
Entries whose tile the ellipse misses get a key behind all tiles. A sort by key, which
keeps the order of Gaussians, puts the entries of a tile next to each other. Keys are
unsigned, and of 16 bits where that is enough: a radix sort takes a pass for every byte.
"""

import triton
import triton.language as tl

from triton_kernels.gaussian import count_below


@triton.jit
def block_sums_kernel(count_ptr, sum_ptr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Adds up the counts of each block; one program per block.

    Args:
      count_ptr: [SIZE] int32, 0 or more.
      sum_ptr: [blocks] int32, written; held below 2^31.
      SIZE: how many counts.
      BLOCK: counts in a block, a power of 2.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    counts = tl.load(count_ptr + index, mask=index < SIZE, other=0).to(tl.int64)
    total = tl.minimum(tl.sum(counts, 0), 2**31 - 1)
    tl.store(sum_ptr + tl.program_id(0), total.to(tl.int32))


@triton.jit
def running_sum_kernel(
    count_ptr,
    sum_ptr,
    first_ptr,
    total_ptr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Numbers things: where those of each count begin; one program per block.

    A program adds up the sums of all blocks before its own, which are few, instead of
    waiting for its neighbour.

    Args:
      count_ptr: [SIZE] int32.
      sum_ptr: [blocks] int32, from `block_sums_kernel`.
      first_ptr: [SIZE] int32, written: the sum of all counts before, below 2^31.
      total_ptr: [1] int32, written: the sum of all counts, below 2^31.
      SIZE: how many counts.
      BLOCK: counts in a block, a power of 2.
    """
    block = tl.program_id(0)
    before = tl.zeros([BLOCK], tl.int64)
    for start in range(0, block, BLOCK):
        other = start + tl.arange(0, BLOCK)
        before += tl.load(sum_ptr + other, mask=other < block, other=0).to(tl.int64)

    index = block * BLOCK + tl.arange(0, BLOCK)
    counts = tl.load(count_ptr + index, mask=index < SIZE, other=0).to(tl.int64)
    end = tl.sum(before, 0) + tl.cumsum(counts, 0)
    first = tl.minimum(end - counts, 2**31 - 1).to(tl.int32)
    tl.store(first_ptr + index, first, mask=index < SIZE)
    end = tl.minimum(end, 2**31 - 1).to(tl.int32)
    tl.store(total_ptr + index - (SIZE - 1), end, mask=index == SIZE - 1)


@triton.jit
def fill_kernel(
    record_ptr,
    box_ptr,
    first_ptr,
    total_ptr,
    key_ptr,
    id_ptr,
    GAUSSIANS: tl.constexpr,
    PER_PICTURE: tl.constexpr,
    CAPACITY: tl.constexpr,
    TILES: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    REACH: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes the entries in the order of Gaussians; one program per BLOCK entries.

    Args:
      record_ptr: [GAUSSIANS, 8] float32.
      box_ptr: [GAUSSIANS, 4] int32, pixels x0, y0, x1, y1, the last ones outside.
      first_ptr: [GAUSSIANS] int32, number of each Gaussian's first entry.
      total_ptr: [1] int32, number of entries.
      key_ptr: [CAPACITY] uint16 or uint32, written: picture · TILES + tile, or the
        number of all tiles, which sorts behind them.
      id_ptr: [CAPACITY] int32, written: the Gaussian.
      GAUSSIANS: of all pictures.
      PER_PICTURE: Gaussians of one picture.
      CAPACITY: entries that are written; those with higher numbers are not.
      TILES: tiles of one picture.
      COLUMNS: of tiles.
      TILE: side of a tile, pixels.
      REACH: a Gaussian touches what it has an exponent u² + v² of up to this at, with a
        margin for rounding: pixels compute it in another way.
      STEPS: bits of GAUSSIANS.
      BLOCK: entries of a program, a power of 2.
    """
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = entry < tl.minimum(tl.load(total_ptr), CAPACITY)
    # The last Gaussian that begins at or before an entry owns it.
    owner = count_below(first_ptr, GAUSSIANS, entry + 1, STEPS) - 1
    nth = entry - tl.load(first_ptr + owner, mask=used, other=0)

    wide = owner.to(tl.int64)  # Records of 2^28 Gaussians are past 31 bits.
    box = box_ptr + wide * 4
    column = tl.load(box, mask=used, other=0) // TILE
    row = tl.load(box + 1, mask=used, other=0) // TILE
    columns = (tl.load(box + 2, mask=used, other=1) + (TILE - 1)) // TILE - column
    column += nth % columns
    row += nth // columns

    hit = used & _touches(record_ptr + wide * 8, column, row, used, TILE, REACH)
    key = (owner // PER_PICTURE) * TILES + row * COLUMNS + column
    key = tl.where(hit, key, GAUSSIANS // PER_PICTURE * TILES)
    key = key.to(key_ptr.dtype.element_ty)
    tl.store(key_ptr + entry, key, mask=entry < CAPACITY)
    tl.store(id_ptr + entry, owner, mask=entry < CAPACITY)


@triton.jit
def _touches(record, column, row, mask, TILE: tl.constexpr, REACH: tl.constexpr):
    """Tells where the ellipse reaches any pixel centre's square of its tile, exactly.

    In the coordinates (u, v) the ellipse is a disc. Where the tile does not hold the
    centre, the nearest point lies on the vertical or the horizontal side that faces
    the centre, at the foot of the perpendicular, held within the side.
    """
    x = tl.load(record, mask=mask, other=0.0)
    y = tl.load(record + 1, mask=mask, other=0.0)
    w11 = tl.load(record + 2, mask=mask, other=1.0)
    w21 = tl.load(record + 3, mask=mask, other=0.0)
    w22 = tl.load(record + 4, mask=mask, other=1.0)
    left = (column * TILE).to(tl.float32) + 0.5 - x
    top = (row * TILE).to(tl.float32) + 0.5 - y
    right, bottom = left + (TILE - 1), top + (TILE - 1)

    dx = tl.where(left > 0, left, right)
    dy = tl.minimum(tl.maximum(-w21 / w22 * dx, top), bottom)
    u, v = w11 * dx, w21 * dx + w22 * dy
    vertical = u * u + v * v
    dy = tl.where(top > 0, top, bottom)
    dx = -w21 * w22 / (w11 * w11 + w21 * w21) * dy
    dx = tl.minimum(tl.maximum(dx, left), right)
    u, v = w11 * dx, w21 * dx + w22 * dy
    horizontal = u * u + v * v

    # Infinity where a side does not face the centre: the other one is nearer.
    vertical = tl.where((left > 0) | (right < 0), vertical, float("inf"))
    horizontal = tl.where((top > 0) | (bottom < 0), horizontal, float("inf"))
    inside = (left <= 0) & (right >= 0) & (top <= 0) & (bottom >= 0)
    return inside | (tl.minimum(vertical, horizontal) <= REACH)


@triton.jit
def offsets_kernel(
    key_ptr,
    offset_ptr,
    CAPACITY: tl.constexpr,
    TILES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Finds where each tile's entries begin; one program per BLOCK tiles.

    Args:
      key_ptr: [CAPACITY] uint16 or uint32, sorted.
      offset_ptr: [TILES + 1] int32, written: entries of tile t are those from
        offset[t] up to offset[t + 1].
      CAPACITY: how many keys.
      TILES: of all pictures.
      STEPS: bits of CAPACITY.
      BLOCK: tiles of a program, a power of 2.
    """
    tile = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offset = count_below(key_ptr, CAPACITY, tile, STEPS)
    tl.store(offset_ptr + tile, offset, mask=tile <= TILES)
