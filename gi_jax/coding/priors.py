"""What is expected of the symbols of a picture before any of them is known.

The numbers are part of the format. `python -m experiments.priors` made them from files
of photos; they say what is alike in all pictures, and each file's own symbols soon
outweigh them.
"""

import json
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

import numpy as np

FILE: Final = "priors.json"


class Priors(NamedTuple):
    """Frequencies to start from, [contexts, alphabet] each, `INCREMENT` to a symbol."""

    first: np.ndarray  # |k₀|
    second: np.ndarray  # |k₁|
    other: np.ndarray  # |k| of each further channel
    rings: np.ndarray
    angles: np.ndarray
    small_splits: np.ndarray
    large_splits: np.ndarray


@cache
def load_priors() -> Priors:
    """Returns the priors of the format; not to be changed."""
    text = resources.files(__package__).joinpath(FILE).read_text()
    tables = json.loads(text)
    return Priors(**{name: np.array(rows, np.int64) for name, rows in tables.items()})
