"""Contexts and alphabets of the symbols of Gaussians, for coding and for rates.

Gaussians are divided into groups by the size of their lattice cells, which fixes most
of their size and how finely they are placed. Given its group, a Gaussian's integers are
coded in this order, each in the context of some that precede it:

    |k₀| given the group; |k₁| given |k₀|; |k_j| given |k_{j-1}| and |k₀|
    signs given the signs of the two channels before; the first one that is not 0 is
      a plain bit
    size: uniform among those of the group and the class
    ring given the class: the upper bits; the lower ones are uniform
    angle: an eighth of the half turn given whether ρ is large; uniform within that
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

# Rings of finer classes than this are divided into upper and lower bits.
PLAIN_CLASS: Final = 6
RING_TOKENS: Final = (3, 3, 4, 5, 7, 10, 14, 10)  # of each context
NUM_RING_TOKENS: Final = max(RING_TOKENS)

ANGLE_BINS: Final = 8
MIN_BINNED_ANGLES: Final = 12  # rings of fewer angles are uniform
LARGE_ASPECT: Final = LOG_UNITS * 2 // 5  # ρ = 0.4


# Priors: at first, magnitude k + 1 is as probable as k times this many twentieths. By
# context, as in pictures in general; of |k₀|, of |k₁|, of the others by AFTER_PREVIOUS.
DECAY_UNITS: Final = 20
FIRST_DECAY: Final = 16
SECOND_DECAYS: Final = (15, 12, 5, 6, 9, 12, 14, 16)
OTHER_DECAYS: Final = (1, 8, 11, 14, 17)
PRIOR: Final = 16  # symbols that a prior is worth


class SymbolModel:
    """What is learned of the symbols of a picture."""

    def __init__(self, channels: int):
        """Starts from priors: small colours are more probable."""
        decays: list[tuple[int, ...]] = [(FIRST_DECAY,) * NUM_GROUPS, SECOND_DECAYS]
        others = tuple(d for d in OTHER_DECAYS for _ in range(len(AFTER_GREY) + 1))
        decays += [others] * max(0, channels - 2)
        self.colors = [_colors(rows) for rows in decays[:channels]]
        self.signs = Table(np.full((9 * channels, 2), 2 * INCREMENT))
        prior = PRIOR * INCREMENT // NUM_RING_TOKENS
        possible = np.arange(NUM_RING_TOKENS) < np.array(RING_TOKENS)[:, None]
        self.rings = Table(np.where(possible, prior, 0), neighbours=True)
        self.angles = Table(np.full((2, ANGLE_BINS), 4 * INCREMENT))


def _colors(decays: tuple[int, ...]) -> Table:
    """Returns a table whose prior falls geometrically with the token."""
    rows = []
    for decay in decays:
        powers = [decay**k * DECAY_UNITS ** (NUM_TOKENS - k) for k in range(NUM_TOKENS)]
        rows.append([PRIOR * INCREMENT * p // sum(powers) + 1 for p in powers])
    return Table(np.array(rows), neighbours=True)


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
        return _rank(magnitudes[0], AFTER_FIRST)
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


def ring_context(energy_class: Array) -> tuple[Array, Array]:
    """Returns the row of the rings' table, and the number of lower bits."""
    xp = energy_class.__array_namespace__()
    context = xp.where(
        energy_class > PLAIN_CLASS, PLAIN_CLASS + energy_class % 2, energy_class
    )
    return context, xp.clip(energy_class - PLAIN_CLASS + 1, 0, None) // 2


def angle_bin(angle: Array, num_angles: Array) -> Array:
    """Returns the eighth of the half turn around one of eight directions."""
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
