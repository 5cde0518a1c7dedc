"""The pictures of an experiment: parts of files."""

import re
from pathlib import Path
from typing import Final

import numpy as np

from gi_jax.images import load_image

_CROP: Final = re.compile(r"(\d+):(\d+),(\d+):(\d+)")

CROP_HELP: Final = "rows and columns of the pictures to use, as in 200:296,300:428"


def check_crop(crop: str | None) -> None:
    """Raises ValueError where a flag does not say rows and columns."""
    if crop is not None and not _CROP.fullmatch(crop):
        raise ValueError(f"crop: expected ROWS,COLUMNS as 0:96,0:128: {crop}")


def load_crop(path: Path, crop: str | None) -> np.ndarray:
    """Returns a picture or a part of it, [H, W, C] float32 in 0..1.

    Args:
      path: the file.
      crop: rows and columns, as `check_crop` takes them; None for all.

    Raises:
      ValueError: where there is no picture, or nothing of it is left.
    """
    image = load_image(path)
    if crop is None:
        return image
    top, bottom, left, right = map(int, crop.replace(",", ":").split(":"))
    part = image[top:bottom, left:right]
    if 0 in part.shape:
        height, width = image.shape[:2]
        raise ValueError(f"crop: nothing of {width}x{height} pixels is left: {crop}")
    return part
