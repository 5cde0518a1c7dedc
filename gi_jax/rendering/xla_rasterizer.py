"""The pure-JAX tile renderer: matrix products over blocks, hand-written VJP.

Within a tile the exponent of a Gaussian is a quadratic polynomial of the pixel, so one
matrix product `[Gaussians, 6] @ [6, pixels]` gives all exponents of a block, another
sums the colours. Backwards one product `[6 C, pixels] @ [pixels, Gaussians]` gives the
moments of the weighted cotangent, from which all gradients follow. Moments and
exponents are taken in whitened coordinates w = L⁻¹ d, where little cancels.
"""

import functools
import math
import operator
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from gi_jax.gaussians import CUTOFF, whitening, whitening_columns
from gi_jax.rendering.tiles import (
    BLOCK,
    TILE,
    Blocks,
    find_boxes,
    make_blocks,
    make_grid,
)
from gi_jax.rendering.varying import vary_as

_LOG2_E: Final = math.log2(math.e)
_PIXELS: Final = TILE * TILE

# Keeps XLA from fusing across a point where data should lie in memory in that layout.
_barrier = jax.lax.optimization_barrier

# In full: GPUs would round what they multiply to 10 bits, and exponents need all 24.
_product = functools.partial(jnp.matmul, precision="highest")

# exp2 on [-1/2, 1/2], from degree 5 down: relative error 2e-7.
_EXP2: Final = (1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 2.4022651e-1, 6.9314718e-1, 1)


def rasterize_xla(
    means: jax.Array,
    factor: jax.Array,
    colors: jax.Array,
    image_size: tuple[int, int],
    capacity: int | None = None,
) -> jax.Array:
    """Renders by tiles; the same picture as `rasterize_dense`, float32.

    Args:
      means: [N, 2] x, y, pixels.
      factor: [N, 3] l11, l21, l22, pixels, none 0.
      colors: [N, C].
      image_size: H, W in pixels.
      capacity: entries (tile, Gaussian) handled at a time. It bounds memory (about 100
        bytes each); the picture does not depend on it beyond the order of sums.

    Returns:
      [H, W, C] the picture, not clipped.
    """
    if means.shape[0] == 0:
        return jnp.zeros((*image_size, colors.shape[1]), jnp.float32)
    grid = make_grid(means.shape[0], image_size, capacity)
    return _rasterize(grid, means, factor, colors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rasterize(grid, means, factor, colors):
    return _rasterize_fwd(grid, means, factor, colors)[0]


def _rasterize_fwd(grid, means, factor, colors):
    # A batch is rendered one after the other: loops of different lengths, batched
    # element by element, would run as long as the longest and copy every carry.
    forward = jax.custom_batching.sequential_vmap(functools.partial(_forward, grid))
    picture, blocks = forward(means, factor, colors)
    return picture, (means, factor, colors, blocks)


def _rasterize_bwd(grid, residuals, cotangent):
    backward = jax.custom_batching.sequential_vmap(functools.partial(_backward, grid))
    return backward(*residuals, cotangent)


_rasterize.defvjp(_rasterize_fwd, _rasterize_bwd)


def _forward(grid, means, factor, colors):
    """Returns the picture and the blocks of the last pass."""
    boxes = find_boxes(grid, means, factor)

    def one_pass(number, carry):
        tiles, _ = carry
        blocks = make_blocks(grid, boxes, means, factor, number)
        return _add_blocks(grid, blocks, means, factor, colors, tiles), blocks

    start = (
        jnp.zeros((grid.num_tiles + 1, colors.shape[1], _PIXELS), jnp.float32),
        jnp.zeros((grid.num_blocks, BLOCK), jnp.int32),
        jnp.zeros(grid.num_blocks, jnp.int32),
        jnp.int32(0),
    )
    tiles, *block_fields = vary_as((means, factor, colors), start)
    blocks = Blocks(*block_fields)
    passes = _num_passes(grid, boxes)
    tiles, blocks = jax.lax.fori_loop(0, passes, one_pass, (tiles, blocks))
    picture = from_tiles(grid, tiles)
    return jnp.where(boxes.countable, picture, jnp.nan), blocks


def _backward(grid, means, factor, colors, blocks, cotangent):
    """Returns the cotangents of means, factor and colors."""
    boxes = find_boxes(grid, means, factor)
    tiles = _to_tiles(grid, cotangent)
    passes = _num_passes(grid, boxes)

    def one_pass(done, carry):
        sums, blocks = carry
        sums = _add_moments(grid, blocks, means, factor, colors, tiles, sums)
        number = passes - 2 - done  # The forward pass left the last one's blocks.
        blocks = jax.lax.cond(
            number >= 0,
            lambda: make_blocks(grid, boxes, means, factor, number),
            lambda: blocks,
        )
        return sums, blocks

    sums = jnp.zeros((grid.num_gaussians + 1, 5 + colors.shape[1]), jnp.float32)
    (sums,) = vary_as((means, factor, colors, cotangent), [sums])
    sums, _ = jax.lax.fori_loop(0, passes, one_pass, (sums, blocks))
    sums = jnp.where(boxes.countable, sums[:-1], jnp.nan)

    # With m = Σ g w and P = Σ g w wᵀ, g = weight · (colour · cotangent):
    # dμ = L⁻ᵀ m, and dL is the lower triangle of L⁻ᵀ P.
    m1, m2, p11, p12, p22 = sums[:, :5].T
    w11, w21, w22 = whitening_columns(factor)
    d_means = jnp.stack([w11 * m1 + w21 * m2, w22 * m2], axis=1)
    d_factor = jnp.stack([w11 * p11 + w21 * p12, w22 * p12, w22 * p22], axis=1)
    return d_means, d_factor, sums[:, 5:]


def _num_passes(grid, boxes):
    return jnp.where(boxes.countable, -(-boxes.total // grid.capacity), 0)


def _add_blocks(grid, blocks, means, factor, colors, tiles):
    """Adds the blocks' Gaussians to `tiles`, [num_tiles + 1, C, pixels]."""
    table = _padded(means, factor, colors).T
    basis = _basis()

    def add_group(i, tiles):
        ids, tile = _slice(grid.group, i, (blocks.ids, blocks.tile))
        entries = table[:, ids.reshape(-1)]
        coefficients = _barrier(_exponents(grid, tile, entries).T)
        color = entries[5:].reshape(-1, grid.group, BLOCK)
        color = _barrier(color.transpose(1, 0, 2))

        def add_chunk(j, tiles):
            (terms,) = _slice(grid.chunk * BLOCK, j, (coefficients,))
            here, color_here = _slice(grid.chunk, j, (tile, color))
            weights = _weights(_product(terms, basis))
            weights = weights.reshape(grid.chunk, BLOCK, _PIXELS)
            sums = _product(color_here, weights)
            return tiles.at[here].add(sums, mode="promise_in_bounds")

        return _chunks_of_group(grid, blocks, i, add_chunk, tiles)

    return jax.lax.fori_loop(0, -(-blocks.used // grid.group), add_group, tiles)


def _add_moments(grid, blocks, means, factor, colors, tiles, sums):
    """Adds m1, m2, P11, P12, P22 and the colours' cotangents to `sums`, [N + 1, 5 + C].

    Args:
      grid: the static shape.
      blocks: one pass.
      means: [N, 2].
      factor: [N, 3].
      colors: [N, C].
      tiles: [num_tiles + 1, C, pixels] the picture's cotangent.
      sums: what earlier passes gave.
    """
    rows = 6 * colors.shape[1]
    table = _padded(means, factor, colors).T
    basis = _basis()

    def add_group(i, sums):
        ids, tile = _slice(grid.group, i, (blocks.ids, blocks.tile))
        entries = table[:, ids.reshape(-1)]
        coefficients = _barrier(_exponents(grid, tile, entries))
        coefficients = coefficients.reshape(6, grid.group, BLOCK)
        coefficients = _barrier(coefficients.transpose(1, 0, 2))

        def moments(j, out):
            here, terms = _slice(grid.chunk, j, (tile, coefficients))
            points = jnp.broadcast_to(basis.T, (grid.chunk, _PIXELS, 6))
            weights = _barrier(_weights(_product(points, terms)))
            by_basis = tiles[here][:, :, None, :] * basis
            by_basis = _barrier(by_basis.reshape(grid.chunk, rows, _PIXELS))
            part = _barrier(_product(by_basis, weights))
            return jax.lax.dynamic_update_slice_in_dim(out, part, j * grid.chunk, 0)

        (out,) = vary_as([entries], [jnp.zeros((grid.group, rows, BLOCK), jnp.float32)])
        out = _chunks_of_group(grid, blocks, i, moments, out)
        out = out.transpose(1, 0, 2).reshape(-1, 6, grid.group * BLOCK)
        parts = _barrier(_whitened_moments(grid, tile, entries, out).T)
        return sums.at[ids.reshape(-1)].add(parts, mode="promise_in_bounds")

    return jax.lax.fori_loop(0, -(-blocks.used // grid.group), add_group, sums)


def _whitened_moments(grid, tile, entries, moments):
    """Turns moments about the tile's centre into those of w = L⁻¹ d about the mean.

    Args:
      grid: the static shape.
      tile: [blocks].
      entries: [5 + C, blocks · BLOCK] mean, L⁻¹ and colour.
      moments: [C, 6, blocks · BLOCK] of weight times cotangent, on the basis.

    Returns:
      [5 + C, blocks · BLOCK] m1, m2, P11, P12, P22 and the colours' cotangents.
    """
    s, sx, sy, sxx, sxy, syy = _barrier(
        tuple(sum(map(operator.mul, moments[:, j], entries[5:])) for j in range(6))
    )
    a, b, c = entries[2:5]
    u, v = _whitened_means(grid, tile, entries)
    ux, uy = a * sx, b * sx + c * sy
    return jnp.stack(
        [
            ux - u * s,
            uy - v * s,
            a * a * sxx - 2 * ux * u + u * u * s,
            a * (b * sxx + c * sxy) - ux * v - uy * u + u * v * s,
            b * b * sxx + 2 * b * c * sxy + c * c * syy - 2 * uy * v + v * v * s,
            *moments[:, 0],
        ]
    )


def _chunks_of_group(grid, blocks, group, body, carry):
    """Loops over the chunks of a group that hold anything."""
    used = jnp.minimum(blocks.used - group * grid.group, grid.group)
    return jax.lax.fori_loop(0, -(-used // grid.chunk), body, carry)


def _slice(size, number, arrays):
    """Returns the `number`-th run of `size` rows of each array."""
    start = number * size
    return [jax.lax.dynamic_slice_in_dim(array, start, size) for array in arrays]


def _padded(means, factor, colors):
    """Stacks mean, L⁻¹ and colour, [N + 1, 5 + C]; the last row draws nothing."""
    table = jnp.concatenate([means, whitening(factor), colors], axis=1)
    return jnp.pad(table, ((0, 1), (0, 0)))


def _whitened_means(grid, tile, entries):
    """Returns L⁻¹ (mean - centre of the tile) of each entry, two arrays."""
    tile = jnp.repeat(tile, BLOCK)
    dx = entries[0] - ((tile % grid.columns) * TILE + TILE / 2)
    dy = entries[1] - ((tile // grid.columns) * TILE + TILE / 2)
    return entries[2] * dx, entries[3] * dx + entries[4] * dy


def _exponents(grid, tile, entries):
    """Returns the coefficients of -q log2 e on the basis, [6, entries]."""
    u, v = _whitened_means(grid, tile, entries)
    a, b, c = entries[2:5]
    terms = [
        -(u * u + v * v) / 2,
        u * a + v * b,
        v * c,
        -(a * a + b * b) / 2,
        -b * c,
        -c * c / 2,
    ]
    return _LOG2_E * jnp.stack(terms)


def _basis():
    """Returns 1, x, y, x², xy, y² of the pixels about the tile's centre, [6, 256]."""
    offset = np.arange(TILE) - (TILE - 1) / 2
    x, y = np.tile(offset, TILE), np.repeat(offset, TILE)
    return np.stack([np.ones(_PIXELS), x, y, x * x, x * y, y * y]).astype(np.float32)


def _weights(exponent):
    """Returns 2^exponent where it is above the cut, else 0."""
    # By hand, as XLA's own exp2 on CPUs takes twice the time.
    clipped = jnp.clip(exponent, -126.0, 0.0)  # Rounding may lift it above 0.
    whole = (clipped - 0.5).astype(jnp.int32)
    rest = clipped - whole.astype(jnp.float32)
    value = jnp.float32(_EXP2[0])
    for coefficient in _EXP2[1:]:
        value = value * rest + np.float32(coefficient)
    bits = jax.lax.bitcast_convert_type(value, jnp.int32) + (whole << 23)
    value = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(exponent >= -CUTOFF * _LOG2_E, value, 0.0)


def from_tiles(grid, tiles):
    """Returns [num_tiles + 1, C, pixels] as [H, W, C]; the last tile is left out."""
    tiles = tiles[:-1].reshape(grid.rows, grid.columns, -1, TILE, TILE)
    picture = tiles.transpose(0, 3, 1, 4, 2)
    picture = picture.reshape(grid.rows * TILE, grid.columns * TILE, -1)
    return picture[: grid.height, : grid.width]


def _to_tiles(grid, picture):
    """[H, W, C] to [num_tiles + 1, C, pixels]; the last tile is empty."""
    below = grid.rows * TILE - grid.height
    right = grid.columns * TILE - grid.width
    picture = jnp.pad(picture, ((0, below), (0, right), (0, 0)))
    tiles = picture.reshape(grid.rows, TILE, grid.columns, TILE, -1)
    tiles = tiles.transpose(0, 2, 4, 1, 3).reshape(grid.num_tiles, -1, _PIXELS)
    return jnp.pad(tiles, ((0, 1), (0, 0), (0, 0)))
