"""What the integers of a Gaussian mean, in integers: the grids of `sensitivity.py`.

Everything takes NumPy or JAX arrays of int32 and gives arrays of the same kind, with
equal bits. Nothing here overflows int32 for symbols that are within their ranges.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from gi_jax.coding.exact_tables import (
    LATTICE_ANGLES,
    LATTICE_ASPECTS,
    LATTICE_SCALES,
    LOG_UNITS,
    MIN_LOG_SIZE,
    MIN_SCALE,
    PIXEL_UNITS,
    SCALE_FACTOR,
    SCALE_SHIFT,
    tables,
)

Array = Any  # np.ndarray or jax.Array, int32

# Centres lie at most this far outside of the picture, in PIXEL_UNITS: 4 pixels.
MARGIN: Final = 4 * PIXEL_UNITS


class Lattice(NamedTuple):
    """The positions (column · i, shear · i + row · j), i and j integers.

    The basis is about √2 d L, with L the Cholesky factor of Σ and d the unit step: a
    square lattice in the Gaussian's own metric. In PIXEL_UNITS.
    """

    column: Array  # [N] distance of two columns in x, above 0
    shear: Array  # [N] rise in y from a column to the next, any sign
    row: Array  # [N] distance of two points of a column, above 0


def energy_class(colors: Array) -> Array:
    """Returns the class c = round(log₂ Σ k²) of each row of colours, [N].

    Args:
      colors: [N, C] integers k, |k| ≤ MAX_COLOR, C ≤ 16.

    Returns:
      0 to MAX_CLASS; a Gaussian has the unit step d = 2^(-c/2).
    """
    xp = colors.__array_namespace__()
    energy = xp.sum(colors * colors, axis=-1, dtype=np.int32)
    thresholds = xp.asarray(tables().class_energies)
    return xp.sum(energy[..., None] >= thresholds, axis=-1, dtype=np.int32)


def log_size(size: Array, energy_class: Array) -> Array:
    """Returns m = ln √(s₁ s₂) in LOG_UNITS from its index on the class's grid."""
    return MIN_LOG_SIZE + size * take(tables().log_steps, energy_class)


def log_aspect(ring: Array, energy_class: Array) -> Array:
    """Returns ρ = ln √(s₁ / s₂) in LOG_UNITS from its index on the class's grid."""
    return ring * take(tables().log_steps, energy_class)


def num_angles(ring: Array, energy_class: Array) -> Array:
    """Returns how many orientations a ring has; a ring of ρ = 0 has one."""
    first = take(tables().first_ring, energy_class)
    return take(tables().num_angles, first + ring)


def lattice_scale(log_size: Array, energy_class: Array) -> Array:
    """Returns the size of a cell: its side is 2^(scale / LATTICE_SCALES) pixels.

    scale = round(LATTICE_SCALES · log₂(√2 e^m d)).

    Args:
      log_size: m in LOG_UNITS.
      energy_class: c, d = 2^(-c/2).
    """
    scale = (log_size * SCALE_FACTOR + 2 ** (SCALE_SHIFT - 1)) >> SCALE_SHIFT
    return scale + LATTICE_SCALES // 2 * (1 - energy_class)


def lattice(
    scale: Array,
    log_aspect: Array,
    angle: Array,
    num_angles: Array,
    image_size: tuple[int, int],
) -> Lattice:
    """Returns the lattices of N Gaussians.

    It follows the shape in coarse steps of ρ (1/8), orientation (π/128) and size (1/8
    octave), so that small changes of a shape leave the centre where it is.

    Args:
      scale: [N] from `lattice_scale`.
      log_aspect: [N] ρ in LOG_UNITS.
      angle: [N] 0 to num_angles - 1.
      num_angles: [N].
      image_size: H, W; no cell is larger than the picture with its margin.
    """
    xp = scale.__array_namespace__()
    turn = (angle * LATTICE_ANGLES + num_angles // 2) // num_angles % LATTICE_ANGLES
    unit = LOG_UNITS // LATTICE_ASPECTS
    aspect = (log_aspect + unit // 2) // unit
    # Products of 12-bit numbers: exact in float32.
    side = take(tables().scales, scale - MIN_SCALE)
    basis = xp.asarray(tables().basis)[aspect, turn]
    column, shear, row = (
        xp.astype(xp.round(basis[..., k] * side), np.int32) for k in range(3)
    )
    # |shear / column| < 70 and |column · i| < 2^24.1: products stay in int32.
    height, width = (s * PIXEL_UNITS + 2 * MARGIN for s in image_size)
    column = xp.clip(column, 1, width)
    row = xp.clip(row, 1, height)
    return Lattice(column, shear, row)


def lattice_points(lattice: Lattice, indices: Array) -> Array:
    """Returns where points i, j [N, 2] of lattices are: [N, 2] x, y in PIXEL_UNITS."""
    xp = indices.__array_namespace__()
    i, j = indices[..., 0], indices[..., 1]
    x, y = lattice.column * i, lattice.shear * i + lattice.row * j
    return xp.stack([x, y], axis=-1)


def take(table: np.ndarray, indices: Array) -> Array:
    """Returns entries of a table as an array of the kind of the indices."""
    return indices.__array_namespace__().asarray(table)[indices]
