"""Tables of the grids of `sensitivity.py`: the same on every machine.

What a stream of symbols means must not hang on the last bit of somebody's sinh. So all
grids are integer arithmetic on tables, and the tables are made in decimal arithmetic,
which is defined to the last digit (IEEE 754-2008, Python's `decimal`): here are no
floats but those that the tables are rounded to at their end.

Sizes m and aspects ρ are integers in units of 1 / `LOG_UNITS`, positions in units of
1 / `PIXEL_UNITS` pixel. All arithmetic fits int32, for JAX without 64 bits.
"""

import math
from decimal import ROUND_FLOOR, Decimal, localcontext
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

LOG_UNITS: Final = 2**12
PIXEL_UNITS: Final = 2**8

# Colours are integers up to this. The energy Σ k² of 16 of them stays below 2^30.
MAX_COLOR: Final = 2**13 - 1
# Steps are 2^(-c/2), and those of this class for all that have more energy.
MAX_CLASS: Final = 20
# No step of m or ρ is above this, however little energy: a Gaussian can be shaped.
MAX_LOG_STEP: Final = Decimal("0.6")

# m = ln √(s₁ s₂) is in this range, in LOG_UNITS: 0.22 pixels to 60,000.
MIN_LOG_SIZE: Final = -LOG_UNITS * 3 // 2
MAX_LOG_SIZE: Final = LOG_UNITS * 11
# ρ = ln √(s₁ / s₂) is at most 2.2: an aspect of 81 to 1. Edges use it: with 1.7 a fifth
# of the Gaussians of some classes and more were at the bound, and J up to 6 % higher.
MAX_LOG_ASPECT: Final = LOG_UNITS * 22 // 10

# The lattice of positions follows the shape in coarse steps; errors of the order of
# 10 % in its basis cost nothing.
LATTICE_ASPECTS: Final = 8  # per unit of ρ
LATTICE_ANGLES: Final = 128  # orientations in [0, π)
LATTICE_SCALES: Final = 8  # per octave
# LATTICE_SCALES · log₂ e / LOG_UNITS in units of 2^-SCALE_SHIFT.
SCALE_SHIFT: Final = 22
SCALE_FACTOR: Final = 11819
# Of `lattice_scale`, from the smallest size in the last class on.
MIN_SCALE: Final = -93
MAX_SCALE: Final = 131

# Products of two numbers of this many bits are exact in float32.
HALF_BITS: Final = 12

# e^-m is a product of one entry for the upper and one for the lower bits of m.
EXP_LOW_BITS: Final = 6

_DIGITS: Final = 30  # of the decimal arithmetic
_PI: Final = Decimal("3.14159265358979323846264338327950288419716939937510582")


class Tables(NamedTuple):
    """What `tables` makes."""

    class_energies: np.ndarray  # [MAX_CLASS] least Σ k² of class 1, 2, …, int32
    log_steps: np.ndarray  # [classes] step of m and ρ, LOG_UNITS, int32
    num_sizes: np.ndarray  # [classes] grid points of m, int32
    num_rings: np.ndarray  # [classes] grid points of ρ, int32
    first_ring: np.ndarray  # [classes] where a class starts in `num_angles`, int32
    num_angles: np.ndarray  # angles of each ring of each class, int32
    exp_high: np.ndarray  # e^-(m - MIN_LOG_SIZE) / √π for the upper bits, float32
    exp_low: np.ndarray  # [2^EXP_LOW_BITS] for the lower bits, float32
    basis: np.ndarray  # [ρ, θ, 3] l11, l21, l22 of unit area, HALF_BITS, float32
    scales: np.ndarray  # side of a cell, PIXEL_UNITS, from MIN_SCALE on, likewise


@cache
def tables() -> Tables:
    """Returns the tables, made on first use."""
    with localcontext() as context:
        context.prec = _DIGITS
        log_steps = _log_steps()
        num_rings = MAX_LOG_ASPECT // log_steps + 1
        angles = [_num_angles(step, n) for step, n in zip(log_steps, num_rings)]
        return Tables(
            # The least integer that is at least 2^(c - 1/2).
            _int32(
                [math.isqrt(2 ** (2 * c - 1) - 1) + 1 for c in range(1, MAX_CLASS + 1)]
            ),
            log_steps,
            (MAX_LOG_SIZE - MIN_LOG_SIZE) // log_steps + 1,
            num_rings,
            np.cumsum([0, *num_rings[:-1]], dtype=np.int32),
            np.concatenate(angles),
            *_exponentials(),
            _basis(),
            _scales(),
        )


def _log_steps() -> np.ndarray:
    steps = [min(_power(-c, 2), MAX_LOG_STEP) for c in range(MAX_CLASS + 1)]
    return _int32([_round(step * LOG_UNITS) for step in steps])


def _num_angles(step: int, num_rings: int) -> np.ndarray:
    """Returns max(2, round(π sinh(2ρ) / step)) for each ring, and 1 for ρ = 0."""
    growth = (2 * Decimal(int(step)) / LOG_UNITS).exp()
    factor = _PI * LOG_UNITS / (2 * int(step))
    angles, power = [1], Decimal(1)
    for _ in range(1, int(num_rings)):
        power *= growth
        angles.append(max(2, _round(factor * (power - 1 / power))))
    return _int32(angles)


def _exponentials() -> tuple[np.ndarray, np.ndarray]:
    low = 2**EXP_LOW_BITS
    ratio = (-1 / Decimal(LOG_UNITS)).exp()
    start = ratio**MIN_LOG_SIZE / _PI.sqrt()
    count = (MAX_LOG_SIZE - MIN_LOG_SIZE) // low + 1
    high = [start * ratio ** (low * k) for k in range(count)]
    return _float32(high), _float32([ratio**k for k in range(low)])


def _basis() -> np.ndarray:
    """Returns the Cholesky factors of exp 2E for all coarse ρ and θ.

    Σ = cosh 2ρ I + sinh 2ρ [[cos 2θ, sin 2θ], [sin 2θ, -cos 2θ]], det Σ = 1.
    """
    count = MAX_LOG_ASPECT * LATTICE_ASPECTS // LOG_UNITS + 2
    basis = np.empty((count, LATTICE_ANGLES, 3), np.float32)
    turns = [_cos_sin(2 * _PI * k / LATTICE_ANGLES) for k in range(LATTICE_ANGLES)]
    for i in range(count):
        square = (Decimal(2 * i) / LATTICE_ASPECTS).exp()
        cosh, sinh = (square + 1 / square) / 2, (square - 1 / square) / 2
        for j, (cos, sin) in enumerate(turns):
            l11 = (cosh + sinh * cos).sqrt()
            row = l11, sinh * sin / l11, 1 / l11
            basis[i, j] = [_half_precision(x) for x in row]
    return basis


def _scales() -> np.ndarray:
    steps = range(MIN_SCALE, MAX_SCALE + 1)
    powers = [PIXEL_UNITS * _power(k, LATTICE_SCALES) for k in steps]
    return _float32([_half_precision(x) for x in powers])


def _power(numerator: int, denominator: int) -> Decimal:
    """Returns 2^(numerator / denominator)."""
    return (Decimal(2).ln() * numerator / denominator).exp()


def _cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Returns cos and sin by their power series; |angle| up to some 2π."""
    term, sums, k = Decimal(1), [Decimal(1), Decimal(0)], 0
    while abs(term) > Decimal(10) ** -_DIGITS or k < 4:
        k += 1
        term *= angle / k
        sums[k % 2] += term if k % 4 < 2 else -term
    return sums[0], sums[1]


def _int32(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)


def _float32(values: list[Any]) -> np.ndarray:
    return np.array([float(x) for x in values], np.float32)


def _round(x: Decimal) -> int:
    return int((x + Decimal("0.5")).to_integral_value(ROUND_FLOOR))


def _half_precision(x: Decimal) -> float:
    """Rounds to HALF_BITS significant bits."""
    if x == 0:
        return 0.0
    exponent = math.frexp(float(x))[1] - HALF_BITS
    return math.ldexp(_round(x / Decimal(2) ** exponent), exponent)
