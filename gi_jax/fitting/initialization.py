"""Where a fit starts: the paper's random Gaussians, or Gaussians shaped by content."""

import functools
import math
from typing import Final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gi_jax.filters import blur, gradients
from gi_jax.gaussians import Cholesky, RotationScale, area, to_cholesky
from gi_jax.rendering.rasterize import Implementation, rasterize

# Standard deviation of a Gaussian over the distance to its neighbours.
_SPREAD: Final = 0.45

# Along and across an edge, sigma is multiplied and divided by exp(this · coherence).
_ELONGATION: Final = 0.3

# Sizes follow the density, but not below this share of what it is without weights.
_LEAST_DENSITY: Final = 0.1

# Side of the blocks in which points are placed, pixels.
_BLOCK_SIDE: Final = 16

# Bounds of sigma and of the structure tensor's window, pixels.
_MIN_SIGMA: Final = 0.35
_MAX_WINDOW: Final = 8.0


def random(
    key: jax.Array, num_gaussians: int, image_size: tuple[int, int], num_channels: int
) -> Cholesky:
    """The paper's start: everything uniform, about one pixel large.

    Args:
      key: a PRNG key.
      num_gaussians: N.
      image_size: H, W in pixels.
      num_channels: C.

    Returns:
      N Gaussians: means uniform over the picture, l11 and l22 in [0.5, 1.5) and l21 in
      [0, 1) pixels, colours in [0, 1).

    Reference:
      GaussianImage, arXiv:2403.08551, section 4.1 and its release.
    """
    keys = jax.random.split(key, 3)
    height, width = image_size
    size = jnp.array([width, height], jnp.float32)
    uniform = functools.partial(jax.random.uniform, dtype=jnp.float32)
    means = uniform(keys[0], (num_gaussians, 2)) * size
    factor = uniform(keys[1], (num_gaussians, 3))
    factor = factor + jnp.array([0.5, 0.0, 0.5], jnp.float32)
    colors = uniform(keys[2], (num_gaussians, num_channels))
    return Cholesky(means, factor, colors)


@functools.partial(
    jax.jit,
    static_argnames=("num_gaussians", "edge_share", "color_steps", "implementation"),
)
def content(
    key: jax.Array,
    image: jax.Array,
    num_gaussians: int,
    *,
    edge_share: float = 0.65,
    color_steps: int = 3,
    implementation: Implementation | None = None,
    weights: jax.Array | None = None,
) -> Cholesky:
    """Gaussians dense, small and oriented where the picture has edges; jittable.

    Positions: error diffusion of the density (1 - β) uniform + β edge strength. Sizes
    from the density; orientation and elongation from the structure tensor. Colours: the
    local colour shared among the Gaussians there, then `solve_colors`.

    Args:
      key: a PRNG key.
      image: [H, W, C].
      num_gaussians: N, static.
      edge_share: β, the share of the Gaussians that follow edges.
      color_steps: steps of the colour solver; each costs a rendering and its gradient.
      implementation: of `rasterize`.
      weights: [H, W, C] or [H, W, 1] of squared errors. Gaussians are as much sparser
        as the root of the weight is smaller, and hardly any stand where it is 0.

    Returns:
      N Gaussians.
    """
    image = jnp.asarray(image, jnp.float32)
    if image.ndim != 3:
        raise ValueError(f"image: expected [H, W, C], got {list(image.shape)}")
    height, width, _ = image.shape
    luminance = image.mean(axis=2)
    dx, dy = gradients(blur(luminance, 0.5))
    edges = blur(jnp.hypot(dx, dy), 1.0)
    total = edges.sum()
    edges = jnp.where(total > 0, edges / total, 1 / (height * width))
    density = (1 - edge_share) / (height * width) + edge_share * edges
    sharpest = density
    if weights is not None:
        density = density * jnp.sqrt(jnp.mean(weights, axis=2) / jnp.max(weights))
    scale = num_gaussians / density.sum()
    density = scale * density  # Gaussians per pixel
    rows, columns, means = _scatter_points(key, density, num_gaussians)

    # Rounding may leave a point where weights, and so the density, are 0: without this
    # floor its Gaussian would be as large as the picture.
    around = blur(jnp.maximum(density, _LEAST_DENSITY * scale * sharpest), 0.5)
    spacing = jnp.sqrt(1 / around[rows, columns])
    sigma = jnp.maximum(_SPREAD * spacing, _MIN_SIGMA)
    window = min(0.5 * math.sqrt(height * width / num_gaussians), _MAX_WINDOW)
    angle, coherence = _orientation(luminance, window)
    angle = angle[rows, columns]
    stretch = jnp.exp(_ELONGATION * coherence[rows, columns])
    scales = jnp.stack([sigma * stretch, sigma / stretch], axis=1)
    blank = RotationScale(means, jnp.log(scales), angle, means)
    shape = to_cholesky(blank).cholesky

    def render(colors):
        gaussians = Cholesky(means, shape, colors)
        return rasterize(gaussians, (height, width), implementation=implementation)

    coverage = render(jnp.ones((num_gaussians, 1), jnp.float32))[rows, columns]
    colors = blur(image, 0.5)[rows, columns] / jnp.maximum(coverage, 0.3)
    gaussians = Cholesky(means, shape, colors)
    return solve_colors(
        gaussians,
        image,
        steps=color_steps,
        implementation=implementation,
        weights=weights,
    )


@functools.partial(jax.jit, static_argnames=("steps", "implementation"))
def solve_colors(
    gaussians: Cholesky,
    image: jax.Array,
    *,
    steps: int,
    implementation: Implementation | None = None,
    weights: jax.Array | None = None,
) -> Cholesky:
    """Improves the colours by conjugate gradients on the squared error.

    The preconditioner is the inverse of the diagonal that a Gaussian has where pixels
    are small against it, its `area`.

    Args:
      gaussians: N Gaussians of C channels.
      image: [H, W, C].
      steps: number of steps, static; each costs a rendering and its gradient, and so
        does the start.
      implementation: of `rasterize`.
      weights: [H, W, C] or [H, W, 1] of squared errors, 0 or more; where one is 0 the
        image must be finite all the same.

    Returns:
      The Gaussians with other colours.
    """
    if steps == 0:
        return gaussians
    height, width, _ = image.shape

    def render(colors):
        return rasterize(
            gaussians._replace(colors=colors),
            (height, width),
            implementation=implementation,
        )

    def normal(colors, target):
        picture, transpose = jax.vjp(render, colors)
        error = picture - target
        return transpose(error if weights is None else weights * error)[0]

    def dot(a, b):
        return jnp.sum(a * b, axis=0)

    inverse = 1 / area(gaussians)[:, None]
    tiny = jnp.finfo(jnp.float32).tiny

    def step(i, carry):
        # The first step only finds the residual. It is in the loop because its program
        # is the same, and compiled but once.
        first = i == 0
        colors, residual, direction, energy = carry
        image_of = normal(
            jnp.where(first, colors, direction), jnp.where(first, image, 0)
        )
        length = energy / jnp.maximum(dot(direction, image_of), tiny)
        length = jnp.where(first, 1, length)
        colors = colors + length * direction
        residual = residual - length * image_of
        new_energy = dot(residual, inverse * residual)
        ratio = jnp.where(energy > 0, new_energy / jnp.maximum(energy, tiny), 0)
        return colors, residual, inverse * residual + ratio * direction, new_energy

    zeros = jnp.zeros_like(gaussians.colors)
    carry = gaussians.colors, zeros, zeros, zeros[0]
    colors = jax.lax.fori_loop(0, steps + 1, step, carry)[0]
    return gaussians._replace(colors=colors)


def _scatter_points(
    key: jax.Array, density: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws `count` evenly spread points; returns rows, columns and means in pixels."""
    ends = jnp.cumsum(_round_density(density).reshape(-1))
    # A few points may be missing, or too many.
    order = jnp.floor((jnp.arange(count) + 0.5) * (ends[-1] / count))
    pixel = jnp.searchsorted(ends, order.astype(ends.dtype), side="right")
    pixel = jnp.minimum(pixel, density.size - 1)
    rows, columns = jnp.divmod(pixel, density.shape[1])
    jitter = jax.random.uniform(key, (count, 2), jnp.float32, 0.2, 0.8)
    return rows, columns, jnp.stack([columns, rows], axis=1) + jitter


def _round_density(density: jax.Array) -> jax.Array:
    """Rounds a density to integers with its sum kept locally.

    The sums of blocks of pixels are rounded first, and then, all at once, the pixels of
    each block to that sum. One error diffusion over the picture would take a step for
    almost every pixel of its border, too many for a GPU, and is a worse start.

    Args:
      density: [H, W] points per pixel, not negative.

    Returns:
      [H, W] int32 points in each pixel; their sum is that of the density but for
      about one in a thousand.
    """
    (height, width), side = density.shape, _BLOCK_SIDE
    rows, columns = -(-height // side), -(-width // side)
    density = jnp.pad(density, ((0, -height % side), (0, -width % side)))
    blocks = density.reshape(rows, side, columns, side).swapaxes(1, 2)
    wanted = blocks.sum(axis=(2, 3))
    points = _error_diffusion(wanted[None], rows, columns)[0]
    share = points / jnp.maximum(wanted, jnp.finfo(wanted.dtype).tiny)
    blocks = (blocks * share[:, :, None, None]).reshape(-1, side, side)
    row, column = jnp.divmod(jnp.arange(rows * columns), columns)
    heights = jnp.minimum(height - side * row, side)
    widths = jnp.minimum(width - side * column, side)
    points = _error_diffusion(blocks, heights[:, None], widths[:, None])
    points = points.reshape(rows, columns, side, side).swapaxes(1, 2)
    return points.reshape(rows * side, columns * side)[:height, :width]


def _error_diffusion(
    densities: jax.Array, height: ArrayLike, width: ArrayLike
) -> jax.Array:
    """Rounds densities to integers by handing on what is left (Floyd and Steinberg).

    What is left over at a pixel goes on to the next one and to three of the row below;
    shares that would leave the picture go straight down, or on along the last row. All
    pixels with the same x + 2 y can be rounded at once.

    Args:
      densities: [B, H, W] points per pixel, not negative.
      height: of each, pixels, [B, 1] or a number; what is below is not looked at.
      width: of each, pixels, [B, 1] or a number; what is beyond is not looked at.

    Returns:
      [B, H, W] int32 points in each pixel.
    """
    size, most_rows, most_columns = densities.shape
    y = jnp.arange(most_rows)

    def from_above(front):
        return jnp.pad(front[:, :-1], ((0, 0), (1, 0)))

    def front(carry, t):
        last, second, third = carry  # What is left over on the last three fronts.
        x = t - 2 * y
        inside = (x >= 0) & (x < width) & (y < height)
        down = 5 / 16 + 3 / 16 * (x == 0) + 8 / 16 * (x == width - 1)
        wanted = densities[:, y, jnp.clip(x, 0, most_columns - 1)]
        wanted += jnp.where(y == height - 1, 1, 7 / 16) * last
        wanted += down * from_above(second)
        wanted += from_above(3 / 16 * last + 1 / 16 * third)
        points = jnp.where(inside, jnp.maximum(jnp.floor(wanted + 0.5), 0), 0)
        left = jnp.where(inside, wanted - points, 0)
        return (left, last, second), points.astype(jnp.int32)

    empty = jnp.zeros((size, most_rows), densities.dtype)
    fronts = jnp.arange(most_columns + 2 * (most_rows - 1))
    _, points = jax.lax.scan(front, (empty, empty, empty), fronts)
    x = jnp.arange(most_columns)
    return jnp.moveaxis(points[x + 2 * y[:, None], :, y[:, None]], 2, 0)


def _orientation(luminance: jax.Array, window: float) -> tuple[jax.Array, jax.Array]:
    """Returns the direction along edges, radians, and the coherence in 0..1."""
    dx, dy = gradients(blur(luminance, 0.7))
    xx, xy, yy = (blur(product, window) for product in (dx * dx, dx * dy, dy * dy))
    coherence = jnp.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-6)
    return jnp.arctan2(2 * xy, xx - yy) / 2 + jnp.pi / 2, coherence
