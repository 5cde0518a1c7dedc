"""The GPU tile renderer: launches of the Triton kernels, their VJP and their batching.

The only module that knows `triton_kernels`, which it imports when something is
rendered. Every function below works on a batch, [B, N, ...] arrays; `vmap`
folds its axis into that one, so that a batch is a longer launch of the same kernels.
"""

import functools
import math
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp

from gi_jax.gaussians import CUTOFF, RADIUS, whitening_columns
from gi_jax.rendering.first_order import first_order
from gi_jax.rendering.triton_call import float32, int32, launch

# Side of a tile, pixels; warps that share a tile's list.
_TILE: Final = 16
_WARPS: Final = 4

# The kernels work in units of base-2 exponents: W = _UNIT · L⁻¹, weight 2^-|W d|².
_UNIT: Final = math.sqrt(math.log2(math.e) / 2)
_CUT: Final = CUTOFF * math.log2(math.e)

# Boxes allow for rounding of the exponent, which pixels compute in another way.
_MARGIN: Final = 1.001

# Gaussians, entries or tiles that one program of a list kernel handles.
_BLOCK: Final = 256

# Fewer tiles than this are sorted by keys of 16 bits, others by keys of 32.
_SHORT_KEYS: Final = 1 << 16

# Channels that one launch of the kernels draws together.
_GROUP: Final = 3

# Backward, a warp walks squares of this side, and strips of about so many pixels or
# more; a launch has so many programs at least, so that few large Gaussians keep a GPU
# busy, and at least so many of them for strips.
SIDE: Final = 8
_STRIP_PIXELS: Final = 2048
_PROGRAMS: Final = 1 << 15
_MIN_STRIPS: Final = 1 << 11


class Grid(NamedTuple):
    """The static shape of a rasterization, the same for every picture of a batch."""

    height: int  # pixels
    width: int  # pixels
    capacity: int  # entries (tile, Gaussian) of one picture

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.height // _TILE)

    @property
    def columns(self) -> int:
        """Columns of tiles."""
        return -(-self.width // _TILE)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns

    def total_capacity(self, pictures: int) -> int:
        """Returns the entries of a batch; they are numbered by 31 bits."""
        return min(pictures * self.capacity, 2**31 - 2 * _BLOCK)


class Boxes(NamedTuple):
    """The pixels that Gaussians may reach, [B·N] int32 each; the last ones are outside.

    Empty, at 0, where a Gaussian is off the picture or not finite.
    """

    x0: jax.Array
    y0: jax.Array
    x1: jax.Array
    y1: jax.Array


class Lists(NamedTuple):
    """Which Gaussians touch which tile, of all pictures of a batch."""

    ids: jax.Array  # [B · capacity] Gaussians, sorted by tile
    offsets: jax.Array  # [B · tiles + 1] where each tile's entries begin
    total: jax.Array  # [1] number of entries; above the capacity the rest is undefined


def default_capacity(num_gaussians: int, image_size: tuple[int, int]) -> int:
    """Returns entries (tile, Gaussian) enough for one and a half times what is usual.

    Usual are Gaussians that just tile the picture: boxes of side 2r, in tiles, touch
    (2r + 1)² tiles on average.
    """
    height, width = image_size
    tiles = -(-height // _TILE) * -(-width // _TILE)
    radius = RADIUS / _TILE * math.sqrt(height * width / max(num_gaussians, 1))
    usual = num_gaussians * (2 * radius + 1) ** 2
    return math.ceil(min(1.5 * usual, num_gaussians * tiles)) + tiles


def rasterize_triton(
    means: jax.Array,
    factor: jax.Array,
    colors: jax.Array,
    image_size: tuple[int, int],
    capacity: int | None = None,
) -> jax.Array:
    """Renders by Triton kernels; the same picture as `rasterize_dense`, float32.

    Args:
      means: [N, 2] x, y, pixels.
      factor: [N, 3] l11, l21, l22, pixels, none 0.
      colors: [N, C].
      image_size: H, W in pixels.
      capacity: entries (tile, Gaussian) that the tile lists hold, 16 bytes each at most
        and as much again while they are sorted; in a batch, the mean over its pictures.
        A batch that needs more is drawn without lists: slowly, and just the same.

    Returns:
      [H, W, C] the picture, not clipped.
    """
    if means.shape[0] == 0:
        return jnp.zeros((*image_size, colors.shape[1]), jnp.float32)
    if capacity is None:
        capacity = default_capacity(means.shape[0], image_size)
    return _rasterize(Grid(*image_size, capacity), means, factor, colors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rasterize(grid, means, factor, colors):
    forward = _fold_batches(functools.partial(_forward, grid))
    return first_order(forward, "triton")(means, factor, colors)


def _rasterize_fwd(grid, means, factor, colors):
    return _rasterize(grid, means, factor, colors), (means, factor, colors)


def _rasterize_bwd(grid, gaussians, cotangent):
    backward = _fold_batches(functools.partial(_backward, grid))
    return first_order(backward, "triton")(*gaussians, cotangent)


_rasterize.defvjp(_rasterize_fwd, _rasterize_bwd)


def _fold_batches(function):
    """Turns a function of batches into one of single items; vmap batches it again."""

    @jax.custom_batching.custom_vmap
    def batched(*arrays):
        return function(*arrays)

    @batched.def_vmap
    def fold(size, is_batched, *arrays):
        stacked = [
            array if mapped else jnp.broadcast_to(array, (size, *array.shape))
            for array, mapped in zip(arrays, is_batched)
        ]
        if size == 0:
            shapes = jax.eval_shape(batched, *(jnp.zeros(x.shape[1:]) for x in stacked))
            results = jax.tree.map(lambda x: jnp.zeros((0, *x.shape)), shapes)
        else:
            results = batched(*(x.reshape(-1, *x.shape[2:]) for x in stacked))
            results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
        return results, jax.tree.map(lambda _: True, results)

    def single(*arrays):
        results = batched(*(array[None] for array in arrays))
        return jax.tree.map(lambda x: x[0], results)

    return single


def _forward(grid, means, factor, colors):
    """Returns the pictures, [B, H, W, C]."""
    pictures, _, channels = colors.shape
    records = pack_records(means, factor, colors)
    boxes = find_boxes(grid, means, factor)
    lists = list_tiles(grid, pictures, records, boxes)
    return draw(grid, pictures, channels, records, lists)


def list_tiles(grid: Grid, pictures: int, records: jax.Array, boxes: Boxes) -> Lists:
    """Returns the Gaussians that touch each tile, of B pictures."""
    import triton_kernels as kernels

    count = records.shape[1]
    capacity = grid.total_capacity(pictures)
    all_tiles = pictures * grid.num_tiles
    key_type = jnp.uint16 if all_tiles < _SHORT_KEYS else jnp.uint32
    columns = -(-boxes.x1 // _TILE) - boxes.x0 // _TILE
    rows = -(-boxes.y1 // _TILE) - boxes.y0 // _TILE
    first, total = _running_sum(columns * rows)
    keys, ids = launch(
        kernels.fill_kernel,
        *(records, jnp.stack(boxes, axis=1), first, total),
        out=[jax.ShapeDtypeStruct((capacity,), key_type), int32(capacity)],
        grid=(-(-capacity // _BLOCK),),
        REACH=_CUT * _MARGIN**2,
        STEPS=count.bit_length(),
        BLOCK=_BLOCK,
        **_sizes(grid, pictures, count),
    )
    # Unsigned keys, one operand of 32 bits, a stable order: XLA takes a radix sort.
    keys, ids = jax.lax.sort((keys, ids), num_keys=1, is_stable=True)
    (offsets,) = launch(
        kernels.offsets_kernel,
        keys,
        out=[int32(all_tiles + 1)],
        grid=(-(-(all_tiles + 1) // _BLOCK),),
        CAPACITY=capacity,
        TILES=all_tiles,
        STEPS=capacity.bit_length(),
        BLOCK=_BLOCK,
    )
    return Lists(ids, offsets, total)


def draw(
    grid: Grid, pictures: int, channels: int, records: jax.Array, lists: Lists
) -> jax.Array:
    """Returns the pictures, [B, H, W, C], from tile lists."""
    import triton_kernels as kernels

    groups, count, _ = records.shape
    (picture,) = launch(
        kernels.forward_kernel,
        *(records, *lists),
        out=[float32(pictures, grid.height, grid.width, channels)],
        grid=(pictures * grid.num_tiles, groups),
        num_warps=_WARPS,
        HEIGHT=grid.height,
        WIDTH=grid.width,
        CHANNELS=channels,
        CUT=_CUT,
        WARPS=_WARPS,
        **_sizes(grid, pictures, count),
    )
    return picture


def _sizes(grid, pictures, count):
    """Returns the constants that the kernels of tiles share."""
    return {
        "GAUSSIANS": count,
        "PER_PICTURE": count // pictures,
        "CAPACITY": grid.total_capacity(pictures),
        "TILES": grid.num_tiles,
        "COLUMNS": grid.columns,
        "TILE": _TILE,
    }


def _backward(grid, means, factor, colors, cotangent):
    """Returns the cotangents of means, factor and colors, [B, N, ...] each."""
    import triton_kernels as kernels

    pictures, per_picture, channels = colors.shape
    count = pictures * per_picture
    records = pack_records(means, factor, colors)
    boxes = find_boxes(grid, means, factor)
    groups = records.shape[0]

    strips = max(_PROGRAMS - count, _MIN_STRIPS)
    width, height = boxes.x1 - boxes.x0, boxes.y1 - boxes.y0
    # Few large Gaussians get small strips, many get such as there are programs for.
    pixels = jnp.sum(width.astype(jnp.float32) * height)
    strip_pixels = jnp.maximum(pixels / max(strips, 1), _STRIP_PIXELS)
    strip_rows = (strip_pixels / jnp.maximum(width, 1)).astype(jnp.int32)
    strip_rows = jnp.maximum(strip_rows // SIDE, 1) * SIDE
    strip_count = jnp.where(width > 0, jnp.maximum(height - 1, 0) // strip_rows, 0)
    first, total = _running_sum(strip_count)
    (moments,) = launch(
        kernels.backward_kernel,
        *(records, jnp.stack(boxes, axis=1), strip_rows, first, strip_count, total),
        cotangent,
        out=[float32(groups, count + strips, 8)],
        grid=(count + strips, groups),
        num_warps=1,
        GAUSSIANS=count,
        PER_PICTURE=per_picture,
        STRIPS=strips,
        HEIGHT=grid.height,
        WIDTH=grid.width,
        CHANNELS=channels,
        CUT=_CUT,
        STEPS=count.bit_length(),
        SIDE=SIDE,
    )
    (sums,) = launch(
        kernels.gather_strips_kernel,
        *(moments, first, strip_count),
        out=[float32(groups, count, 8)],
        grid=(-(-count // _BLOCK), groups),
        GAUSSIANS=count,
        STRIPS=strips,
        BLOCK=_BLOCK,
    )

    # With m = Σ g w and P = Σ g w wᵀ, w = L⁻¹ d, g = weight · (colour · cotangent):
    # dμ = L⁻ᵀ m, and dL is the lower triangle of L⁻ᵀ P.
    geometry = jnp.sum(sums[:, :, :5], axis=0).reshape(pictures, per_picture, 5)
    m1, m2, p11, p12, p22 = jnp.moveaxis(geometry, 2, 0)
    m1, m2 = m1 / _UNIT, m2 / _UNIT
    p11, p12, p22 = p11 / _UNIT**2, p12 / _UNIT**2, p22 / _UNIT**2
    w11, w21, w22 = whitening_columns(factor)
    d_means = jnp.stack([w11 * m1 + w21 * m2, w22 * m2], axis=2)
    d_factor = jnp.stack([w11 * p11 + w21 * p12, w22 * p12, w22 * p22], axis=2)
    d_colors = jnp.moveaxis(sums[:, :, 5:], 0, 1).reshape(count, groups * _GROUP)
    d_colors = d_colors[:, :channels].reshape(colors.shape)
    return d_means, d_factor, d_colors


def pack_records(means: jax.Array, factor: jax.Array, colors: jax.Array) -> jax.Array:
    """Packs what the kernels read of each Gaussian, [channel groups, B·N, 8]."""
    channels = colors.shape[2]
    groups = -(-channels // _GROUP)
    # One column after the other: XLA fuses this to one kernel.
    means, factor, colors = (
        x.reshape(-1, x.shape[-1]) for x in (means, factor, colors)
    )
    whitened = [_UNIT * w for w in whitening_columns(factor)]
    geometry = [means[:, 0], means[:, 1], *whitened]
    shades = [colors[:, k] for k in range(channels)]
    shades += [jnp.zeros_like(means[:, 0])] * (groups * _GROUP - channels)
    records = [
        jnp.stack([*geometry, *shades[k : k + _GROUP]], axis=1)
        for k in range(0, groups * _GROUP, _GROUP)
    ]
    return jnp.stack(records)


def find_boxes(grid: Grid, means: jax.Array, factor: jax.Array) -> Boxes:
    """Returns the boxes of B·N Gaussians."""
    extents = jnp.abs(factor[..., 0]), jnp.hypot(factor[..., 1], factor[..., 2])

    def span(mean, extent, size):
        # Pixel centres in [mean - extent, mean + extent], as indices.
        reach = RADIUS * _MARGIN * extent
        low = jnp.maximum(jnp.ceil(mean - reach - 0.5), 0)
        high = jnp.minimum(jnp.floor(mean + reach - 0.5) + 1, size)
        return low.reshape(-1), high.reshape(-1)

    x0, x1 = span(means[..., 0], extents[0], grid.width)
    y0, y1 = span(means[..., 1], extents[1], grid.height)
    seen = (x0 < x1) & (y0 < y1)  # NaN is not.
    sides = (jnp.where(seen, side, 0).astype(jnp.int32) for side in (x0, y0, x1, y1))
    return Boxes(*sides)


def _running_sum(counts):
    """Returns the sum of all counts before each, [n], and of all, [1]."""
    import triton_kernels as kernels

    size = counts.shape[0]
    blocks = -(-size // _BLOCK)
    options = {"grid": (blocks,), "SIZE": size, "BLOCK": _BLOCK}
    (sums,) = launch(kernels.block_sums_kernel, counts, out=[int32(blocks)], **options)
    return launch(
        kernels.running_sum_kernel,
        *(counts, sums),
        out=[int32(size), int32(1)],
        **options,
    )
