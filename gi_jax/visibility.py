"""How much errors are seen: texture hides what shows in smooth areas."""

from typing import Final

import jax
import jax.numpy as jnp

from gi_jax.filters import blur

# Window in which a pixel's surroundings count, pixels.
_SIGMA: Final = 3.0

# Standard deviation of what looks smooth, in 0..1; MS-SSIM has the same constant.
_SMOOTH: Final = 0.03


def visibility_weights(image: jax.Array) -> jax.Array:
    """Returns weights of squared errors by which they add up as they are seen.

    They fall with the contrast around a pixel, w ∝ 1 / √(variance + 0.03²). SSIM
    divides by the variance itself; its root is as good for MS-SSIM at equal bytes, and
    costs half as much PSNR.

    Args:
      image: [H, W, C] in 0..1.

    Returns:
      [H, W, 1] above 0, of geometric mean 1: files are about as large as without.
    """
    grey = jnp.mean(image, axis=2, keepdims=True)
    grey -= jnp.mean(grey)
    variance = jnp.maximum(blur(grey**2, _SIGMA) - blur(grey, _SIGMA) ** 2, 0)
    contrast = jnp.log(variance + _SMOOTH**2) / 2
    return jnp.exp(jnp.mean(contrast) - contrast)
