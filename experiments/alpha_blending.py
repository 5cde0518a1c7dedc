"""Pictures of 2D Gaussians by alpha blending: what accumulated summation replaces.

The library adds Gaussians up. The paper's ablation compares with the blending of 3D
Gaussian splatting, front to back:

    C = Σ_i c_i a_i T_i,   a_i = min(0.99, o_i exp(-q_i)),   T_i = Π_{j<i} (1 - a_j)

Gaussians of a picture have no depth. Their order is that of their rows, which stays
fixed, and is arbitrary where the means start at random. As in the rest of the library
exp(-q) is exactly 0 beyond ln 255, a rule per pixel. There is no background and no
early end: every Gaussian in front of a pixel counts.

References:
  GaussianImage, arXiv:2403.08551, section 3.2, equations 4 to 6.
  3D Gaussian Splatting, arXiv:2308.04079, appendix C: the bound of 0.99.
"""

import functools
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp

import gi_jax as gi
from gi_jax.gaussians import CUTOFF, whitening
from gi_jax.rendering.tiles import BLOCK, TILE, Grid, find_boxes, make_blocks, make_grid
from gi_jax.rendering.xla_rasterizer import from_tiles

# So that some light always goes through, and the product has a gradient.
MAX_ALPHA: Final = 0.99

# In full: GPUs would round what they multiply to 10 bits.
_product = functools.partial(jnp.matmul, precision="highest")

# Room in the lists, in multiples of what Gaussians need that just tile the picture.
_ROOM: Final = 4


class OpaqueGaussians(NamedTuple):
    """Gaussians whose opacity is apart from their colour, those in front first."""

    means: jax.Array  # [N, 2] x, y of the centre, pixels
    cholesky: jax.Array  # [N, 3] l11, l21, l22 of L, Σ = L Lᵀ, pixels
    colors: jax.Array  # [N, C] any sign
    opacity_logits: jax.Array  # [N] opacity = sigmoid of it, in 0..1


def merge(gaussians: OpaqueGaussians) -> gi.Cholesky:
    """Returns Gaussians to be added up, each colour times its opacity."""
    means, factor, colors, logits = gaussians
    return gi.Cholesky(means, factor, colors * jax.nn.sigmoid(logits)[:, None])


def blend(
    gaussians: OpaqueGaussians,
    image_size: tuple[int, int],
    *,
    capacity: int | None = None,
) -> jax.Array:
    """Renders by alpha blending, front to back; reverse mode differentiable.

    Args:
      gaussians: N Gaussians of C channels.
      image_size: H, W in pixels.
      capacity: most pairs of tile and Gaussian, about 4 (C + 3) kB for 32 of them; by
        default four times what Gaussians need that just tile the picture.

    Returns:
      [H, W, C] float32, not clipped; NaN where there are more pairs.
    """
    means, factor, colors = gi.to_cholesky(gi.Cholesky(*gaussians[:3]))
    opacities = jax.nn.sigmoid(gaussians.opacity_logits)
    grid = make_grid(means.shape[0], image_size)
    grid = grid._replace(capacity=capacity or _ROOM * grid.capacity)
    lists = jax.lax.stop_gradient((means, factor))
    boxes = find_boxes(grid, *lists)
    blocks = make_blocks(grid, boxes, *lists, jnp.int32(0))

    # One more row is what empty places of a block hold: it lets all light through.
    records = jnp.concatenate([means, whitening(factor), opacities[:, None]], axis=1)
    records, colors = (jnp.pad(x, ((0, 1), (0, 0))) for x in (records, colors))

    in_front = jnp.tri(BLOCK, k=-1)

    def blend_block(ids, tile):
        alpha = _alphas(grid, records[ids], tile)  # [BLOCK, pixels]
        # A product of those in front is a sum of logarithms: one matrix product.
        before = jnp.exp(_product(in_front, jnp.log1p(-alpha)))
        light = _product(colors[ids].T, alpha * before)
        return light, before[-1] * (1 - alpha[-1])

    @jax.checkpoint  # Weights are computed again backwards.
    def blend_chunk(chunk):
        nothing = jax.vmap(lambda *_: (jnp.zeros(shape), jnp.ones(shape[1])))
        in_use = chunk[1][0] < grid.num_tiles
        return jax.lax.cond(in_use, jax.vmap(blend_block), nothing, *chunk)

    shape = colors.shape[1], TILE * TILE
    chunks = [x.reshape(-1, grid.chunk, *x.shape[1:]) for x in blocks[:2]]
    light, through = jax.lax.map(blend_chunk, tuple(chunks))
    most = -(-grid.num_gaussians // BLOCK)
    light, through = light.reshape(-1, *shape), through.reshape(-1, shape[1])
    light = light * _before_each(blocks.tile, through, most)[:, None]
    tiles = jnp.zeros((grid.num_tiles + 1, *light.shape[1:]), light.dtype)
    tiles = tiles.at[blocks.tile].add(light)
    picture = from_tiles(grid, tiles)
    fits = boxes.countable & (boxes.total <= grid.capacity)
    return jnp.where(fits, picture, jnp.nan)


def _alphas(grid: Grid, records: jax.Array, tile: jax.Array) -> jax.Array:
    """Returns how much light Gaussians take at each pixel of a tile, [K, pixels]."""
    rows, columns = jnp.divmod(jnp.arange(TILE * TILE), TILE)
    row, column = jnp.divmod(tile, grid.columns)
    x, y, w11, w21, w22, opacity = records.T[..., None]
    dx = (column * TILE + columns) + 0.5 - x
    dy = (row * TILE + rows) + 0.5 - y
    q = ((w11 * dx) ** 2 + (w21 * dx + w22 * dy) ** 2) / 2
    weight = jnp.where(q <= CUTOFF, jnp.exp(-q), 0)
    return jnp.minimum(MAX_ALPHA, opacity * weight)


def _before_each(tile: jax.Array, through: jax.Array, most: int) -> jax.Array:
    """Returns the share of light that reaches each block, [blocks, pixels].

    Args:
      tile: [blocks] of each block; those of a tile follow each other.
      through: [blocks, pixels] the share of light that a block lets through.
      most: blocks that a tile may have.
    """

    def ahead(values, distance):
        """Returns the value of the block so far ahead, 1 where there is none."""
        same = tile[distance:, None] == tile[:-distance, None]
        moved = jnp.where(same, values[:-distance], 1)
        return jnp.concatenate([jnp.ones_like(values[:distance]), moved])

    product = ahead(through, 1)
    distance = 1
    while distance < min(most, len(tile)):  # Twice as many are in it each time.
        product = product * ahead(product, distance)
        distance *= 2
    return product
