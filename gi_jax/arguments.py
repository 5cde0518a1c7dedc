"""Checks of arguments that several functions share; errors say what was expected."""

import math
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


def check_not_path(image: Any) -> None:
    """Raises ValueError where a picture is given by its path."""
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        raise ValueError(
            f"image: expected an array, got the path {path!r}; "
            f"gi_jax.load_image({path!r}) reads it"
        )
