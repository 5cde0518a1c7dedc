"""Checks of pictures and weights, for fits and encoders."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from gi_jax.arguments import check_not_path
from gi_jax.transparency import fill_hidden

# How far float pictures may leave 0..1, by rounding.
_SLACK = 1e-3


def checked_image(image: ArrayLike, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns a picture as float32 [H, W, C] in 0..1.

    Args:
      image: [H, W, C] or [H, W]; floats in 0..1, or 8-bit or 16-bit unsigned integers.
      weights: what `checked_weights` returned; where one is 0 the picture may hold
        anything, NaN too, and is filled from what is around.

    Raises:
      ValueError: on anything else.
    """
    check_not_path("image", image, "an array", "gi_jax.load_image({})")
    if isinstance(image, np.ma.MaskedArray):
        raise ValueError(
            "image: expected an array without a mask; to leave pixels out of a fit, "
            "pass image.filled(0) and weights=~np.ma.getmaskarray(image)"
        )
    values = np.asarray(image)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(
            f"image: expected the shape [H, W, C] or [H, W], got {np.shape(image)}"
        )
    if values.dtype in (np.uint8, np.uint16):
        values = values.astype(np.float32) / np.iinfo(values.dtype).max
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"image: expected floats in 0..1, uint8 or uint16, got {values.dtype}"
        )
    if weights is not None:
        values = fill_hidden(values, weights > 0)
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN fails too.
        raise ValueError(f"image: expected values in 0..1, got {low:g} to {high:g}")
    return values.astype(np.float32)


def checked_weights(weights: Any, image: ArrayLike) -> np.ndarray:
    """Returns weights of squared errors as float32 [H, W, C] or [H, W, 1].

    Args:
      weights: [H, W], [H, W, 1] or [H, W, C] numbers or bools, 0 or more, finite and
        not all 0.
      image: [H, W, C] or [H, W], what they are for.

    Raises:
      ValueError: on anything else.
    """
    values = np.asarray(weights)
    values = values[:, :, None] if values.ndim == 2 else values
    shape = (*np.shape(image), 1)[:3]
    if values.shape not in (shape, (*shape[:2], 1)):
        raise ValueError(
            f"weights: expected the shape {list(shape[:2])} or {list(shape)} of the "
            f"image, got {list(np.shape(weights))}"
        )
    if values.dtype != bool and not np.issubdtype(values.dtype, np.number):
        raise ValueError(f"weights: expected numbers, got {values.dtype}")
    values = values.astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
        raise ValueError(
            "weights: expected finite numbers of 0 or more, not all 0, got "
            f"{values.min():g} to {values.max():g}"
        )
    return values
