"""Which Gaussians touch which 16×16 tile, with static shapes and no silent cap.

Entries (tile, Gaussian) are numbered by a running sum over the Gaussians. A *pass*
takes `capacity` consecutive numbers, drops those whose ellipse misses its tile, sorts
the rest by tile and cuts each tile's run into blocks of equal length. A renderer loops
over passes until none is left, so the capacity bounds memory and never the picture.
"""

import math
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp

from gi_jax.gaussians import RADIUS, whitening

# Side of a tile, pixels.
TILE: Final = 16

# The tile test may keep too much, never too little: it allows for rounding of the
# exponent, which is computed in another way at the pixels, by this relative margin.
_MARGIN: Final = 1.001

# Upper bound of the default capacity; an entry takes about 100 bytes.
_MAX_CAPACITY: Final = 1 << 20

# Gaussians in a block. More fill the blocks worse, fewer make small matrix products;
# this and the next two numbers were the fastest at 1,000, 10,000 and 70,000 Gaussians
# on 768×512 pixels on two CPU cores.
BLOCK: Final = 32

# (Gaussian, pixel) pairs in flight: more falls out of the cache, fewer costs overhead.
_CHUNK_PAIRS: Final = 1 << 16

# Chunks in a group: their moments, 24 C bytes for each Gaussian, stay in the cache.
_GROUP_CHUNKS: Final = 64


class Grid(NamedTuple):
    """The static shape of a rasterization."""

    num_gaussians: int
    height: int  # pixels
    width: int  # pixels
    capacity: int  # entries per pass

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.height // TILE)

    @property
    def columns(self) -> int:
        """Columns of tiles."""
        return -(-self.width // TILE)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns

    @property
    def _most_blocks(self) -> int:
        """Blocks that hold any pass: each tile touched may leave one incomplete."""
        return -(-self.capacity // BLOCK) + min(self.num_tiles, self.capacity)

    @property
    def chunk(self) -> int:
        """Blocks whose weights are in flight at a time."""
        return min(_CHUNK_PAIRS // (BLOCK * TILE**2), self._most_blocks)

    @property
    def group(self) -> int:
        """Blocks that are prepared and summed up at a time, a multiple of `chunk`."""
        chunks = -(-self._most_blocks // self.chunk)
        return min(_GROUP_CHUNKS, chunks) * self.chunk

    @property
    def num_blocks(self) -> int:
        """Blocks of a pass, a multiple of `group`."""
        return -(-self._most_blocks // self.group) * self.group


class Boxes(NamedTuple):
    """The box of tiles that each Gaussian's support touches."""

    first: jax.Array  # [N, 2] column, row of the first tile
    columns: jax.Array  # [N] columns of tiles
    start: jax.Array  # [N] number of the first entry
    total: jax.Array  # [] number of entries of all Gaussians
    countable: jax.Array  # [] bool: the numbers of all entries fit 31 bits


class Blocks(NamedTuple):
    """One pass: blocks of Gaussians that share a tile, in the order of tiles."""

    ids: jax.Array  # [num_blocks, BLOCK] Gaussian, or N where there is none
    tile: jax.Array  # [num_blocks] row·columns + column, or num_tiles after the end
    used: jax.Array  # [] blocks that hold anything


def make_grid(
    num_gaussians: int, image_size: tuple[int, int], capacity: int | None = None
) -> Grid:
    """Chooses the capacity where none is given.

    The default capacity is what Gaussians that just tile the picture need, and a
    quarter more; where they overlap more, there are more passes.
    """
    height, width = image_size
    grid = Grid(num_gaussians, height, width, capacity=1)
    if capacity is None:
        # A disc of radius r (in tiles) touches π r² + 4 r + 1 tiles on average.
        area = height * width / TILE**2
        radius = RADIUS / TILE * math.sqrt(height * width / max(num_gaussians, 1))
        entries = num_gaussians * (math.pi * radius**2 + 4 * radius + 1)
        entries = min(1.25 * entries, num_gaussians * grid.num_tiles, _MAX_CAPACITY)
        capacity = max(math.ceil(entries), math.ceil(area), 64)
    return grid._replace(capacity=capacity)


def find_boxes(grid: Grid, means: jax.Array, factor: jax.Array) -> Boxes:
    """Bounds each Gaussian's support by tiles and numbers the entries.

    Args:
      grid: the static shape.
      means: [N, 2] pixels.
      factor: [N, 3] l11, l21, l22, pixels.

    Returns:
      The boxes; a Gaussian that is off the picture or not finite has no entry.
    """
    height = jnp.hypot(factor[:, 1], factor[:, 2])
    extent = RADIUS * _MARGIN * jnp.stack([jnp.abs(factor[:, 0]), height], axis=1)
    # Pixel centres in [mean - extent, mean + extent], as indices.
    low = jnp.ceil(means - extent - 0.5)
    high = jnp.floor(means + extent - 0.5)
    last = jnp.array([grid.width - 1, grid.height - 1], means.dtype)
    seen = jnp.all((high >= 0) & (low <= last) & (low <= high), axis=1)
    first = jnp.clip(low, 0, last).astype(jnp.int32) // TILE
    size = jnp.clip(high, 0, last).astype(jnp.int32) // TILE - first + 1
    count = jnp.where(seen, size[:, 0] * size[:, 1], 0)
    end = jnp.cumsum(count)
    countable = jnp.sum(count.astype(jnp.float32)) < 2.0**31 - grid.capacity
    return Boxes(first, size[:, 0], end - count, jnp.sum(count), countable)


def make_blocks(
    grid: Grid, boxes: Boxes, means: jax.Array, factor: jax.Array, number: jax.Array
) -> Blocks:
    """Lists the entries of pass `number`, sorted by tile, in blocks.

    Args:
      grid: the static shape.
      boxes: what `find_boxes` returned for these Gaussians.
      means: [N, 2] pixels.
      factor: [N, 3] l11, l21, l22, pixels.
      number: [] int32, from 0.

    Returns:
      The blocks of the pass.
    """
    entry = number * grid.capacity + jnp.arange(grid.capacity, dtype=jnp.int32)
    owner = _owners(grid, boxes, number)
    within = entry - boxes.start[owner]
    columns = boxes.columns[owner]
    column = boxes.first[owner, 0] + within % columns
    row = boxes.first[owner, 1] + within // columns
    touched = (entry < boxes.total) & _touches(means, factor, owner, column, row)
    tile = jnp.where(touched, row * grid.columns + column, grid.num_tiles)
    tile, owner = _sort_by_tile(grid, tile, owner)

    start = jnp.searchsorted(tile, jnp.arange(grid.num_tiles + 1, dtype=jnp.int32))
    start = start.astype(jnp.int32)
    blocks_of_tile = -(-(start[1:] - start[:-1]) // BLOCK)
    end = jnp.cumsum(blocks_of_tile)
    block = jnp.arange(grid.num_blocks, dtype=jnp.int32)
    tile_of_block = jnp.searchsorted(end, block, side="right").astype(jnp.int32)
    known = jnp.minimum(tile_of_block, grid.num_tiles - 1)
    nth = block - (end - blocks_of_tile)[known]
    slot = (start[known] + nth * BLOCK)[:, None] + jnp.arange(BLOCK)
    filled = (slot < start[known + 1][:, None]) & (block < end[-1])[:, None]
    slot = jnp.minimum(slot, grid.capacity - 1)
    ids = jnp.where(filled, owner[slot], grid.num_gaussians)
    return Blocks(ids, tile_of_block, end[-1])


def _owners(grid: Grid, boxes: Boxes, number: jax.Array) -> jax.Array:
    """Returns whose entry each number of a pass is, [capacity]."""
    # The last Gaussian that starts at or before an entry owns it. Those that start
    # before the pass are marked at its first number.
    offset = jnp.clip(boxes.start - number * grid.capacity, 0, grid.capacity)
    marks = jnp.zeros(grid.capacity + 1, jnp.int32).at[offset].add(1)
    return jnp.cumsum(marks[:-1]) - 1


def _touches(
    means: jax.Array,
    factor: jax.Array,
    owner: jax.Array,
    column: jax.Array,
    row: jax.Array,
) -> jax.Array:
    """Tells where the ellipse reaches any pixel centre's square of its tile, exactly.

    In whitened coordinates the ellipse is a disc and the tile a parallelogram. The
    nearest point of a tile that does not hold the centre lies on one of its four
    sides, at the foot of the perpendicular, held within the side.
    """
    table = jnp.concatenate([means, whitening(factor)], axis=1)
    x, y, w11, w21, w22 = table.T[:, owner]
    x0 = ((column * TILE).astype(x.dtype) + 0.5) - x
    y0 = ((row * TILE).astype(y.dtype) + 0.5) - y
    x1, y1 = x0 + (TILE - 1), y0 + (TILE - 1)

    def squared(dx, dy):
        return (w11 * dx) ** 2 + (w21 * dx + w22 * dy) ** 2

    def vertical(dx):  # Nearest on the side x = dx: w21 dx + w22 dy = 0.
        return squared(dx, jnp.clip(-w21 / w22 * dx, y0, y1))

    slope = -w21 * w22 / (w11**2 + w21**2)

    def horizontal(dy):
        return squared(jnp.clip(slope * dy, x0, x1), dy)

    sides = jnp.minimum(
        jnp.minimum(vertical(x0), vertical(x1)),
        jnp.minimum(horizontal(y0), horizontal(y1)),
    )
    inside = (x0 <= 0) & (x1 >= 0) & (y0 <= 0) & (y1 >= 0)
    return inside | (sides <= (RADIUS * _MARGIN) ** 2)


def _sort_by_tile(
    grid: Grid, tile: jax.Array, owner: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sorts entries by tile, then by Gaussian (so that sums have one order)."""
    bits = max(grid.num_gaussians - 1, 1).bit_length()
    if bits + grid.num_tiles.bit_length() > 32:
        tile, owner = jax.lax.sort((tile, owner), num_keys=2)
        return tile, owner
    # One packed key sorts several times faster than a key with a payload.
    key = (tile.astype(jnp.uint32) << bits) | owner.astype(jnp.uint32)
    key = jax.lax.sort(key, is_stable=False)
    mask = (1 << bits) - 1
    return (key >> bits).astype(jnp.int32), (key & mask).astype(jnp.int32)
