"""Checks of arguments that several functions share; errors say what was expected."""

import math
import operator
import os
from typing import Any

import numpy as np


def check_positive(name: str, value: Any) -> float:
    """Returns a finite number above 0 as a float.

    Raises:
      ValueError: on anything else, text and arrays with axes included.
    """
    number = np.asarray(value)
    if number.ndim == 0 and number.dtype.kind in "iuf" and 0 < number < math.inf:
        return float(number)
    raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")


def check_integer(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """Returns an integer in a range as an int.

    Raises:
      ValueError: on anything else.
    """
    try:
        if not isinstance(value, bool) and least <= operator.index(value) <= most:
            return operator.index(value)
    except TypeError:
        pass
    wanted = f"{least} to {most}" if most < math.inf else f"{least} or more"
    raise ValueError(f"{name}: expected an integer, {wanted}, got {value!r}")


def check_image_size(image_size: Any) -> tuple[int, int]:
    """Returns the sides H, W of a picture, pixels, as ints.

    Raises:
      ValueError: if they are not two integers.
    """
    try:
        height, width = (operator.index(side) for side in image_size)
    except (TypeError, ValueError):
        raise ValueError(
            f"image_size: expected two integers (H, W), got {image_size!r}"
        ) from None
    return height, width


def check_not_path(name: str, value: Any, wanted: str, reader: str) -> None:
    """Raises ValueError where the path of a file is given instead of what is in it.

    Args:
      name: of the argument.
      value: of the argument.
      wanted: what is expected instead of a path.
      reader: code that reads the file, with {} for the path.
    """
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        raise ValueError(
            f"{name}: expected {wanted}, got the path {path!r}; "
            f"{reader.format(repr(path))} reads it"
        )
