"""Separable filters of pictures, as products with band matrices."""

import functools
import math
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

# Rows that one matrix product filters, for windows that are not longer.
_BLOCK: Final = 16

# Half width of the window of `blur` in standard deviations.
_TRUNCATE: Final = 4.0


def gaussian_window(size: int, sigma: float) -> np.ndarray:
    """Returns `size` taps of a centred Gaussian, an odd number, summing to 1."""
    offsets = np.arange(size) - size // 2
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    return taps / taps.sum()


def correlate(picture: jax.Array, window: np.ndarray) -> jax.Array:
    """Correlates along both axes with n taps, at the positions where they fit.

    Args:
      picture: [H, W, C], both sides n or more.
      window: [n] taps, NumPy.

    Returns:
      [H - n + 1, W - n + 1, C].
    """
    rows = _correlate_rows(picture, window)
    return _correlate_rows(rows.swapaxes(0, 1), window).swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames="sigma")
def blur(picture: jax.Array, sigma: float) -> jax.Array:
    """Convolves with a Gaussian of `sigma` pixels; edges are mirrored.

    Args:
      picture: [H, W] or [H, W, C].
      sigma: standard deviation, pixels; static.

    Returns:
      The blurred picture, of the same shape.
    """
    radius = math.ceil(_TRUNCATE * sigma)
    padded = picture.reshape(*picture.shape[:2], -1)
    for axis in (0, 1):
        size = picture.shape[axis]
        # Mirrored as often as it takes.
        index = np.arange(-radius, size + radius) % (2 * size)
        index = np.minimum(index, 2 * size - 1 - index)
        padded = jnp.take(padded, index, axis=axis)
    window = gaussian_window(2 * radius + 1, sigma)
    return correlate(padded, window).reshape(picture.shape)


def gradients(picture: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the derivatives of [H, W] along x and y, per pixel, [H, W] each."""

    def derivative(axis):
        if picture.shape[axis] == 1:
            return jnp.zeros_like(picture)
        return jnp.gradient(picture, axis=axis)

    return derivative(1), derivative(0)


def _correlate_rows(picture: jax.Array, window: np.ndarray) -> jax.Array:
    """Correlates along axis 0, block by block.

    Row i of a block of the result is the window laid over rows i, i+1, ... of the same
    block and of the next one. At 512x768x3 on two CPU cores the gradient of SSIM takes
    0.1 s; through a convolution 0.7 s, through a sum of shifted slices 1.7 s.
    """
    height, taps = picture.shape[0] - len(window) + 1, len(window)
    size = max(_BLOCK, taps - 1)
    blocks = -(-height // size)
    band = np.zeros((size, 2 * size))
    for i in range(size):
        band[i, i : i + taps] = window
    band = band.astype(picture.dtype)
    padding = (blocks + 1) * size - picture.shape[0]
    rows = jnp.pad(picture, [(0, padding), (0, 0), (0, 0)])
    rows = rows.reshape(blocks + 1, size, *picture.shape[1:])

    def product(matrix: np.ndarray, block: jax.Array) -> jax.Array:
        return jnp.einsum("ij,kjwc->kiwc", matrix, block, precision="highest")

    filtered = product(band[:, :size], rows[:-1])
    filtered += product(band[:, size:], rows[1:])
    return filtered.reshape(-1, *picture.shape[1:])[:height]
