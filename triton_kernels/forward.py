"""Forward: the colours of a tile, by adding up the Gaussians of its list."""

import triton
import triton.language as tl

from triton_kernels.gaussian import (
    channel_group,
    first_of,
    load_record,
    second_of,
    weight,
)


@triton.jit
def forward_kernel(
    record_ptr,
    id_ptr,
    offset_ptr,
    total_ptr,
    picture_ptr,
    GAUSSIANS: tl.constexpr,
    PER_PICTURE: tl.constexpr,
    CAPACITY: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILES: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    CUT: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Draws one tile of one picture; program (picture · TILES + tile, channel group).

    The warps of a program share its tile and split its list: warp k takes entries k,
    k + WARPS, and so on. Blocks have the axes [ROWS, WARPS, 32], which Triton lays out
    as registers × warps × lanes: a lane holds ROWS pixels, one above the other, and
    what depends on x alone is computed once for them. One sum over the warps at the
    end, always in the same order, so that the picture is deterministic.

    Where the entries did not fit the capacity, the lists are not used: every Gaussian
    of the picture is tried at every pixel. That is slow, and the same picture.

    Args:
      record_ptr: [groups, GAUSSIANS, 8] float32.
      id_ptr: [CAPACITY] int32, Gaussians sorted by tile.
      offset_ptr: [pictures · TILES + 1] int32, where each tile's entries begin.
      total_ptr: [1] int32, number of entries.
      picture_ptr: [pictures, HEIGHT, WIDTH, CHANNELS] float32, written.
      GAUSSIANS: of all pictures.
      PER_PICTURE: Gaussians of one picture.
      CAPACITY: entries that the lists hold.
      HEIGHT: of a picture, pixels.
      WIDTH: of a picture, pixels.
      CHANNELS: of a picture.
      TILES: tiles of one picture.
      COLUMNS: of tiles.
      TILE: side of a tile, pixels; 8, 16 or 32.
      CUT: a weight of 2^-CUT and less is 0.
      WARPS: num_warps.
    """
    number = tl.program_id(0)
    group = channel_group(CHANNELS)
    picture = number // TILES
    tile = number % TILES
    ROWS: tl.constexpr = TILE * TILE // 32  # Pixels of a lane.
    STEP: tl.constexpr = 32 // TILE  # Rows of pixels between two of them.
    lane = tl.arange(0, 32)[None, None, :]
    below = tl.arange(0, ROWS)[:, None, None] * STEP
    warp = tl.arange(0, WARPS)[None, :, None]
    column = (tile % COLUMNS) * TILE + lane % TILE
    row = (tile // COLUMNS) * TILE + lane // TILE
    x = column.to(tl.float32) + 0.5
    y = row.to(tl.float32) + 0.5
    down = below.to(tl.float32)

    listed = tl.load(total_ptr) <= CAPACITY
    first = tl.load(offset_ptr + number)
    last = tl.load(offset_ptr + number + 1)
    first = tl.where(listed, first, picture * PER_PICTURE)
    last_listed = tl.where(listed, last, 0)
    last = tl.where(listed, last, (picture + 1) * PER_PICTURE)

    red = tl.zeros([ROWS, WARPS, 32], tl.float32)
    green = tl.zeros([ROWS, WARPS, 32], tl.float32)
    blue = tl.zeros([ROWS, WARPS, 32], tl.float32)
    records = record_ptr + group * (GAUSSIANS * 8)
    entry = first + warp
    index = tl.load(id_ptr + entry, mask=entry < last_listed, other=0)
    index = tl.where(listed, index, entry)
    mean, w1, w2, color = load_record(records, index, entry < last)
    for _ in range(first, last, WARPS):
        # The next record is on its way while this one is drawn.
        entry += WARPS
        index = tl.load(id_ptr + entry, mask=entry < last_listed, other=0)
        index = tl.where(listed, index, entry)
        next_mean, next_w1, next_w2, next_color = load_record(
            records, index, entry < last
        )
        dx = x - first_of(mean)
        dy = y - second_of(mean)
        u = first_of(w1) * dx
        v = second_of(w1) * dx + first_of(w2) * dy
        here = weight(u, v + first_of(w2) * down, CUT)
        red += here * second_of(w2)
        green += here * first_of(color)
        blue += here * second_of(color)
        mean, w1, w2, color = next_mean, next_w1, next_w2, next_color

    lane = tl.arange(0, 32)[None, :]
    column = (tile % COLUMNS) * TILE + lane % TILE
    row = (tile // COLUMNS) * TILE + lane // TILE + tl.arange(0, ROWS)[:, None] * STEP
    pixel = (picture * HEIGHT + row).to(tl.int64) * WIDTH + column
    channel = group * 3
    out = picture_ptr + pixel * CHANNELS + channel
    seen = (column < WIDTH) & (row < HEIGHT)
    tl.store(out, tl.sum(red, 1), mask=seen)
    if channel + 1 < CHANNELS:
        tl.store(out + 1, tl.sum(green, 1), mask=seen)
    if channel + 2 < CHANNELS:
        tl.store(out + 2, tl.sum(blue, 1), mask=seen)
