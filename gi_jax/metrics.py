"""How alike two pictures are: mse, psnr, ssim, ms_ssim.

Pictures are float [H, W, C] in 0..1, or pairs of uint8 or uint16, any C >= 1. Every
metric is a pure function of the two, symmetric, and works inside jax.jit, jax.grad and
jax.vmap. Values outside 0..1 are not clipped. Gradients are finite everywhere, also
where the pictures are equal.

Quality is reported on 8-bit pictures: round them first, with `round_to_8_bits`.
"""

from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gi_jax.filters import correlate, gaussian_window

# The window of SSIM, a Gaussian (Wang et al. 2004, section III-C): taps and sigma.
WINDOW_SIZE: Final = 11
WINDOW_SIGMA: Final = 1.5  # pixels

# SSIM's constants (K1 L)² and (K2 L)² for the data range L = 1.
C1: Final = 0.01**2
C2: Final = 0.03**2

# Exponents of MS-SSIM's scales, fine to coarse (Wang et al. 2003, section 3.2).
MS_SSIM_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def mse(a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None) -> jax.Array:
    """Returns the mean squared error over pixels and channels, a scalar.

    Args:
      a: [H, W, C] picture, float; or uint8 or uint16, as b then is.
      b: [H, W, C] the other picture.
      weights: [H, W, C] or [H, W, 1] of the squared errors; all alike by default.

    Raises:
      ValueError: where the pictures are not [H, W, C] of the same shape and kind.
    """
    a, b = check_pictures(a, b)
    return weighted_mean((a - b) ** 2, weights)


def weighted_mean(values: jax.Array, weights: ArrayLike | None) -> jax.Array:
    """Returns the mean of values [H, W, C], weighted by [H, W, C] or [H, W, 1]."""
    if weights is None:
        return jnp.mean(values)
    weights = jnp.broadcast_to(jnp.asarray(weights, values.dtype), values.shape)
    return jnp.sum(weights * values) / jnp.sum(weights)


def psnr(a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None) -> jax.Array:
    """Returns the peak signal-to-noise ratio -10 log₁₀ mse, a scalar in dB.

    The data range is 1 for floats, that of the type for uint8 and uint16. Equal
    pictures give inf, with a gradient of 0.

    Args:
      a: [H, W, C] picture, float; or uint8 or uint16, as b then is.
      b: [H, W, C] the other picture.
      weights: [H, W, C] or [H, W, 1] of the squared errors; all alike by default.

    Raises:
      ValueError: where the pictures are not [H, W, C] of the same shape and kind.
    """
    error = mse(a, b, weights)
    equal = error == 0
    decibels = -10 * jnp.log10(jnp.where(equal, 1, error))
    return jnp.where(equal, jnp.inf, decibels)


def round_to_8_bits(picture: ArrayLike) -> jax.Array:
    """Returns the picture that an 8-bit file holds, as float32 in 0..1.

    The jittable twin of `images.to_uint8`: clips to 0..1 and rounds to multiples of
    1/255, halves up; NaN stays NaN.
    """
    return jnp.floor(jnp.clip(picture, 0, 1) * 255 + 0.5) / 255


@jax.jit
def ssim(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Returns the structural similarity, the mean over positions and channels.

    The window is a Gaussian of 11x11 taps at every position where it lies inside the
    picture, with biased (population) covariances. In a picture too small for it, it
    shrinks to the largest odd size that fits, 1x1 at the least, at the same sigma.

    Args:
      a: [H, W, C] picture, float; or uint8 or uint16, as b then is.
      b: [H, W, C] the other picture.

    Returns:
      A scalar, 1 for equal pictures.

    Raises:
      ValueError: where the pictures are not [H, W, C] of the same shape and kind.

    Reference:
      Wang et al., Image quality assessment: from error visibility to structural
      similarity, IEEE TIP 2004.
    """
    a, b = check_pictures(a, b)
    similarity, _ = _similarity_and_contrast(a, b, _window(a))
    return jnp.mean(similarity)


@jax.jit
def ms_ssim(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Returns the multi-scale structural similarity, the mean over channels.

    For each channel, the product over five scales of contrastᵂ, at the coarsest
    similarityᵂ; negative factors count as 0. Each scale is the mean of 2x2 pixels of
    the one before. These are the semantics of the package pytorch_msssim, with which
    results are commonly reported: along a side of odd length, a zero is put in front of
    the picture and takes part in the mean.

    A picture too small for five scales (shorter side of 160 or less) has those that the
    window fits into, and the weights are scaled up to the same sum. The window itself
    shrinks as in `ssim`; where it is a single pixel, there is one scale.

    Args:
      a: [H, W, C] picture, float; or uint8 or uint16, as b then is.
      b: [H, W, C] the other picture.

    Returns:
      A scalar in 0..1, 1 for equal pictures.

    Raises:
      ValueError: where the pictures are not [H, W, C] of the same shape and kind.

    Reference:
      Wang et al., Multi-scale structural similarity for image quality assessment,
      Asilomar 2003.
    """
    a, b = check_pictures(a, b)
    window = _window(a)
    weights = np.array(MS_SSIM_WEIGHTS[: _num_scales(a.shape, len(window))])
    weights *= sum(MS_SSIM_WEIGHTS) / weights.sum()
    product = jnp.ones(a.shape[2], a.dtype)
    for weight in weights[:-1]:
        _, contrast = _similarity_and_contrast(a, b, window)
        product *= _power(contrast, float(weight))
        a, b = _halve(a), _halve(b)
    similarity, _ = _similarity_and_contrast(a, b, window)
    return jnp.mean(product * _power(similarity, float(weights[-1])))


def check_pictures(a: ArrayLike, b: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Returns both as arrays of one dtype, float32 or float64, in 0..1.

    Raises:
      ValueError: where they are not [H, W, C] of the same shape, both float, both uint8
        or both uint16: the data range of other integers is not known, and a pair of
        two kinds is rather a mistake than a wish.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.ndim != 3 or 0 in a.shape or a.shape != b.shape:
        raise ValueError(
            "expected two pictures [H, W, C] of the same shape, "
            f"got {list(a.shape)} and {list(b.shape)}"
        )
    if a.dtype == b.dtype and a.dtype in (jnp.uint8, jnp.uint16):
        most = jnp.float32(jnp.iinfo(a.dtype).max)
        return a.astype(jnp.float32) / most, b.astype(jnp.float32) / most
    if not (
        jnp.issubdtype(a.dtype, jnp.floating) and jnp.issubdtype(b.dtype, jnp.floating)
    ):
        raise ValueError(
            "expected two float pictures in 0..1, two of uint8 or two of uint16, "
            f"got {a.dtype} and {b.dtype}"
        )
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return a.astype(dtype), b.astype(dtype)


def _similarity_and_contrast(
    a: jax.Array, b: jax.Array, window: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """Returns SSIM and its contrast-structure term, [C] each, means over positions.

    Both are written as 1 minus a ratio in the sum s and the difference e of the
    pictures, as var a + var b - 2 cov(a, b) = var e and var a + var b = (var s + var e)
    / 2: what is subtracted then vanishes with e, so float32 is exact where it matters.
    """
    s, e = a + b, a - b
    # One filter of 4C channels compiles several times faster than four.
    moments = correlate(jnp.concatenate([s, e, s**2, e**2], axis=2), window)
    mean_s, mean_e, square_s, square_e = jnp.split(moments, 4, axis=2)
    var_s, var_e = square_s - mean_s**2, square_e - mean_e**2
    luminance = 1 - mean_e**2 / ((mean_s**2 + mean_e**2) / 2 + C1)
    contrast = 1 - var_e / ((var_s + var_e) / 2 + C2)
    return jnp.mean(luminance * contrast, (0, 1)), jnp.mean(contrast, (0, 1))


def _window(picture: jax.Array) -> np.ndarray:
    """Returns the taps of the window along one side, of odd number, summing to 1."""
    shorter = min(picture.shape[:2])
    size = min(WINDOW_SIZE, shorter - 1 + shorter % 2)
    return gaussian_window(size, WINDOW_SIGMA)


def _num_scales(shape: tuple[int, ...], window_size: int) -> int:
    """Returns how many scales of a picture the window fits into, 1 to 5."""
    if window_size == 1:
        return 1
    # The side after s halvings, rounded up, is window_size or more.
    shorter = min(shape[:2])
    fits = [shorter > (window_size - 1) * 2**s for s in range(len(MS_SSIM_WEIGHTS))]
    return sum(fits)


def _halve(picture: jax.Array) -> jax.Array:
    """Averages 2x2 pixels, after a row and a column of zeros before odd sides."""
    height, width, channels = picture.shape
    picture = jnp.pad(picture, [(height % 2, 0), (width % 2, 0), (0, 0)])
    blocks = picture.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, channels)
    return jnp.mean(blocks, (1, 3))


def _power(base: jax.Array, exponent: float) -> jax.Array:
    """Returns max(base, 0) ** exponent, with a gradient of 0 where base <= 0."""
    positive = base > 0
    return jnp.where(positive, jnp.where(positive, base, 1) ** exponent, 0)
