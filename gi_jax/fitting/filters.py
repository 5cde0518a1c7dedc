"""Small image filters for initialization and densification."""

import math
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

# Half width of a Gaussian kernel in standard deviations.
_TRUNCATE: Final = 4.0


def blur(image: jax.Array, sigma: float) -> jax.Array:
    """Convolves with a Gaussian of `sigma` pixels; edges are mirrored.

    Args:
      image: [H, W] or [H, W, C].
      sigma: standard deviation, pixels; static.

    Returns:
      The blurred image, of the same shape.
    """
    radius = math.ceil(_TRUNCATE * sigma)
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (0, 1):
        size = image.shape[axis]
        # Mirrored indices, whatever the ratio of radius and size.
        index = np.arange(-radius, size + radius) % (2 * size)
        padded = jnp.take(image, np.minimum(index, 2 * size - 1 - index), axis=axis)
        image = sum(
            tap * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i, tap in enumerate(taps)
        )
    return image


def gradients(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the derivatives of [H, W] along x and y, per pixel, [H, W] each."""

    def derivative(axis):
        if image.shape[axis] == 1:
            return jnp.zeros_like(image)
        return jnp.gradient(image, axis=axis)

    return derivative(1), derivative(0)
