"""Contexts and alphabets of the symbols of Gaussians, for coding and for rates.

Gaussians are divided into groups by the size of their lattice cells, which fixes most
of their size and how finely they are placed. Given its group, a Gaussian's integers are
coded in this order, each in the context of some that precede it:

    |k₀| given the group; |k₁| given |k₀| and the group; |k_j| given |k_{j-1}| and |k₀|
    signs given the signs of the two channels before; the first one that is not 0 is
      a plain bit
    size: uniform among those of the group and the class
    ring given the class and the size: the upper bits; the lower ones are uniform
    angle: a sixteenth of the half turn given whether ρ is large; uniform within that
    lattice: uniform among the points in the tile of the group

Everything takes NumPy or JAX arrays.
"""

from functools import cache
from typing import Any, Final

import numpy as np

from gi_jax.coding.adaptive_coding import INCREMENT, Table
from gi_jax.coding.exact_grids import lattice_scale, log_size, take
from gi_jax.coding.exact_tables import (
    LATTICE_SCALES,
    LOG_UNITS,
    MAX_CLASS,
    MAX_COLOR,
    MAX_SCALE,
    MIN_SCALE,
    PIXEL_UNITS,
    tables,
)
from gi_jax.coding.point_sets import SplitModel
from gi_jax.coding.priors import Priors

Array = Any  # np.ndarray or jax.Array

# A group is 3/4 octave of the side of a cell, 1.5 of its area.
GROUP_SCALES: Final = 6
MIN_GROUP: Final = MIN_SCALE // GROUP_SCALES
NUM_GROUPS: Final = MAX_SCALE // GROUP_SCALES - MIN_GROUP + 1

# Magnitudes below this are tokens themselves; above there are two for each octave.
DIRECT: Final = 8
_DIRECT_BITS: Final = DIRECT.bit_length() - 1
NUM_TOKENS: Final = DIRECT + 2 * (MAX_COLOR.bit_length() - _DIRECT_BITS)

# Least magnitudes of the contexts.
AFTER_FIRST: Final = (1, 2, 3, 5, 8, 13, 32)  # of |k₁|, by |k₀|
AFTER_PREVIOUS: Final = (1, 2, 4, 8)  # of the others, by the channel before
AFTER_GREY: Final = (3, 12)  # and by |k₀|
# And least groups: |k₁| depends on whether cells are below 0.35 and 1 pixel too.
WIDE_GROUPS: Final = (14, 16)

# Rings of finer classes than this are divided into upper and lower bits.
PLAIN_CLASS: Final = 6
RING_TOKENS: Final = (4, 4, 5, 7, 9, 13, 18, 13)  # of classes 0 to 6, and above
NUM_RING_TOKENS: Final = max(RING_TOKENS)
# Least sizes m of contexts: large Gaussians are more elongated.
RING_SIZES: Final = tuple(LOG_UNITS * k // 2 for k in range(5))

ANGLE_BINS: Final = 16
MIN_BINNED_ANGLES: Final = 24  # rings of fewer angles are uniform
LARGE_ASPECT: Final = LOG_UNITS * 2 // 5  # ρ = 0.4


class SymbolModel:
    """What is learned of the symbols of a picture."""

    def __init__(self, channels: int, priors: Priors):
        """Starts from what is expected."""
        colors = [priors.first, priors.second] + [priors.other] * (channels - 2)
        self.colors = [Table(prior) for prior in colors[:channels]]
        self.signs = Table(np.full((9 * channels, 2), 2 * INCREMENT))
        self.rings = Table(priors.rings)
        self.angles = Table(priors.angles)
        self.splits = SplitModel(priors)


def group_of(scale: Array) -> Array:
    """Returns the group of a cell's scale, 0 to NUM_GROUPS - 1."""
    return scale // GROUP_SCALES - MIN_GROUP


def tile_shift(group: int) -> int:
    """Returns the log₂ of the side of a group's tiles, PIXEL_UNITS: 4 to 8 cells."""
    middle = 2 * GROUP_SCALES * (group + MIN_GROUP) + GROUP_SCALES - 1
    octaves = -(-middle // (2 * LATTICE_SCALES))
    return max(2, octaves + 2 + PIXEL_UNITS.bit_length() - 1)


@cache
def size_ranges() -> tuple[np.ndarray, np.ndarray]:
    """Returns the first size of each class and group, and their number; int32."""
    shape = MAX_CLASS + 1, NUM_GROUPS
    first, count = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for c in range(MAX_CLASS + 1):
        sizes = np.arange(tables().num_sizes[c], dtype=np.int32)
        classes = np.full_like(sizes, c)
        groups = group_of(lattice_scale(log_size(sizes, classes), classes))
        first[c] = np.searchsorted(groups, np.arange(NUM_GROUPS))
        count[c] = np.bincount(groups, minlength=NUM_GROUPS)
    return first, count


def color_context(channel: int, group: Array, magnitudes: list[Array]) -> Array:
    """Returns the row of the channel's table, given |k| of the channels before."""
    if channel == 0:
        return group
    if channel == 1:
        wide = _rank(group, WIDE_GROUPS)
        return _rank(magnitudes[0], AFTER_FIRST) * (len(WIDE_GROUPS) + 1) + wide
    previous = _rank(magnitudes[channel - 1], AFTER_PREVIOUS)
    return previous * (len(AFTER_GREY) + 1) + _rank(magnitudes[0], AFTER_GREY)


def sign_context(channel: int, signs: list[Array]) -> Array:
    """Returns the row of the signs' table, given the signs of the channels before."""
    zero = 0 * signs[0]
    one = signs[channel - 1] if channel > 0 else zero
    two = signs[channel - 2] if channel > 1 else zero
    return 9 * channel + 3 * (one + 1) + two + 1


def token_of(magnitudes: Array) -> tuple[Array, Array, Array]:
    """Divides magnitudes into tokens and rests.

    Returns:
      The tokens; how many magnitudes each stands for; which of these it is.
    """
    token = _rank(magnitudes, _bounds()[1:])
    least = take(_bounds(), token)
    return token, take(_widths(), token), magnitudes - least


def least_of(token: Array) -> tuple[Array, Array]:
    """Returns the least magnitude of tokens, and how many magnitudes they stand for."""
    return take(_bounds(), token), take(_widths(), token)


@cache
def _bounds() -> np.ndarray:
    """Least magnitude of each token."""
    octaves = range(_DIRECT_BITS, MAX_COLOR.bit_length())
    halves = [(2 + half) << (e - 1) for e in octaves for half in (0, 1)]
    return np.array([*range(DIRECT), *halves], np.int32)


@cache
def _widths() -> np.ndarray:
    return np.diff(_bounds(), append=MAX_COLOR + 1).astype(np.int32)


def ring_context(energy_class: Array, log_size: Array) -> tuple[Array, Array]:
    """Returns the row of the rings' table, and the number of lower bits."""
    xp = energy_class.__array_namespace__()
    tokens = xp.where(
        energy_class > PLAIN_CLASS, PLAIN_CLASS + energy_class % 2, energy_class
    )
    context = tokens * (len(RING_SIZES) + 1) + _rank(log_size, RING_SIZES)
    return context, xp.clip(energy_class - PLAIN_CLASS + 1, 0, None) // 2


def angle_bin(angle: Array, num_angles: Array) -> Array:
    """Returns the part of the half turn around one of ANGLE_BINS directions."""
    return (angle * ANGLE_BINS + num_angles // 2) // num_angles % ANGLE_BINS


def angle_range(bin_: Array, num_angles: Array) -> tuple[Array, Array]:
    """Returns the first angle of a bin, perhaps below 0, and their number."""
    start, end = (
        -((num_angles // 2 - (bin_ + k) * num_angles) // ANGLE_BINS) for k in (0, 1)
    )
    return start, end - start


def _rank(values: Array, thresholds: Any) -> Array:
    """Returns how many of the thresholds are reached."""
    xp = values.__array_namespace__()
    thresholds = xp.asarray(np.array(thresholds, np.int32))
    return xp.sum(values[..., None] >= thresholds, axis=-1, dtype=np.int32)
