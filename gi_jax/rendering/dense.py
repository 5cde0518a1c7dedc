"""The definition of the picture, O(N·H·W): the oracle of every other renderer."""

import jax
import jax.numpy as jnp

from gi_jax.gaussians import CUTOFF, whitening


def rasterize_dense(
    means: jax.Array,
    factor: jax.Array,
    colors: jax.Array,
    image_size: tuple[int, int],
) -> jax.Array:
    """Adds up every Gaussian at every pixel centre, in any floating dtype.

    Args:
      means: [N, 2] x, y in pixels; pixel (i, j) has its centre at (j + 0.5, i + 0.5).
      factor: [N, 3] l11, l21, l22 of the Cholesky factor of Σ, pixels, none 0.
      colors: [N, C].
      image_size: H, W in pixels.

    Returns:
      [H, W, C] the picture, of the dtype of the arguments, not clipped.

    Reference:
      GaussianImage, arXiv:2403.08551, section 3.2 (accumulated summation).
    """
    height, width = image_size
    x = jnp.arange(width, dtype=means.dtype) + 0.5
    y = jnp.arange(height, dtype=means.dtype) + 0.5

    @jax.checkpoint  # Keeps memory at O(H·W): weights are computed again backwards.
    def add(picture, gaussian):
        mean, whiten, color = gaussian
        dx, dy = x[None, :] - mean[0], y[:, None] - mean[1]
        q = ((whiten[0] * dx) ** 2 + (whiten[1] * dx + whiten[2] * dy) ** 2) / 2
        weight = jnp.where(q <= CUTOFF, jnp.exp(-q), 0)
        return picture + weight[..., None] * color, None

    empty = jnp.zeros((height, width, colors.shape[1]), colors.dtype)
    picture, _ = jax.lax.scan(add, empty, (means, whitening(factor), colors))
    return picture
