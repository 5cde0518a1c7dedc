"""Pixels that are not seen: colours under transparency, holes in what is known.

A pixel of alpha α over any background shows its colour times α. So an error of the
colour counts α times, and a pixel of alpha 0 may have any colour: one that costs
nothing is between those of its neighbours.
"""

from typing import Final

import numpy as np

# Pictures with these numbers of channels end in alpha: grey or RGB.
ALPHA_CHANNELS: Final = (2, 4)

# What is less than half a step of 8 bits is decoded as 0: nothing is seen.
_UNSEEN: Final = 0.5 / 255

# The weight of errors of colours that are not seen, so that they stay near to those of
# their neighbours: that of α = 1/16.
_LEAST_WEIGHT: Final = 2.0**-8

# Rounds in which filled pixels become the means of their neighbours, at each size.
_ROUNDS: Final = 8


def is_transparent(pixels: np.ndarray) -> bool:
    """Says whether a picture [H, W, C] ends in an alpha that is not 1 everywhere."""
    return pixels.shape[2] in ALPHA_CHANNELS and bool((pixels[..., -1] < 1).any())


def as_seen(pixels: np.ndarray) -> np.ndarray:
    """Returns colours times alpha, and alpha itself: what compositing adds.

    Args:
      pixels: [H, W, C] in 0..1, the last channel alpha.
    """
    alpha = pixels[..., -1:]
    return np.concatenate([pixels[..., :-1] * alpha, alpha], axis=2)


def as_compared(
    decoded: np.ndarray, original: np.ndarray, exact: bool | None = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns two pictures as they are to be compared.

    Args:
      decoded: [H, W, C] in 0..1.
      original: [H, W, C] in 0..1.
      exact: no channel is alpha.

    Returns:
      Both `as_seen` if the original is transparent and not `exact`, else as they are.
    """
    if exact or not is_transparent(original):
        return decoded, original
    return as_seen(decoded), as_seen(original)


def error_weights(pixels: np.ndarray) -> np.ndarray:
    """Returns weights of squared errors as they are seen, [H, W, C] float32.

    Args:
      pixels: [H, W, C] in 0..1, the last channel alpha: α² for colours, 1 for alpha.
    """
    alpha = pixels[..., -1:]
    colors = np.maximum(alpha**2, np.float32(_LEAST_WEIGHT))
    shape = *pixels.shape[:2], pixels.shape[2] - 1
    return np.concatenate([np.broadcast_to(colors, shape), np.ones_like(alpha)], axis=2)


def fill_unseen(pixels: np.ndarray) -> np.ndarray:
    """Returns a picture with smooth colours where nothing is seen of them.

    They depend on the pixels that are seen alone.

    Args:
      pixels: [H, W, C] float32 in 0..1, the last channel alpha.
    """
    alpha = pixels[..., -1:]
    colors = fill_hidden(pixels[..., :-1], alpha >= _UNSEEN)
    return np.concatenate([colors, alpha], axis=2)


def fill_hidden(picture: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Replaces hidden pixels by smooth colours between those of visible ones.

    What stands at hidden pixels, NaN included, has no influence on any bit. They are
    filled from pictures of half the size, then smoothed.

    Args:
      picture: [H, W, C] float.
      visible: [H, W, C] or [H, W, 1] bool.

    Returns:
      [H, W, C]: the picture where it is visible; 0 in channels where nothing is.
    """
    seen = np.broadcast_to(visible, picture.shape)
    known = np.where(seen, picture, 0)
    if seen.all() or picture.shape[:2] == (1, 1):
        return known
    height, width, _ = picture.shape
    count = _halved(seen.astype(picture.dtype))
    coarse = fill_hidden(_halved(known) / np.maximum(count, 1), count > 0)
    filled = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    filled = np.where(seen, known, filled)
    for _ in range(_ROUNDS):
        around = np.pad(filled, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (around[2:, 1:-1] + around[:-2, 1:-1]) / 4
        mean += (around[1:-1, 2:] + around[1:-1, :-2]) / 4
        filled = np.where(seen, known, mean)
    return filled


def _halved(picture: np.ndarray) -> np.ndarray:
    """Sums squares of 2×2 pixels; there is nothing beyond the edges."""
    height, width, channels = picture.shape
    whole = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)))
    return whole.reshape(-(-height // 2), 2, -(-width // 2), 2, channels).sum((1, 3))
