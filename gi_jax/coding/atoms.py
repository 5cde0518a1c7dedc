"""Gaussians of unit energy: where symbols are, and how much two have in common."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from gi_jax.coding.exact_grids import (
    Lattice,
    lattice,
    lattice_points,
    lattice_scale,
    log_aspect,
    log_size,
    num_angles,
)
from gi_jax.coding.exact_tables import LOG_UNITS, PIXEL_UNITS
from gi_jax.coding.sensitivity import Symbols


class Atoms(NamedTuple):
    """Gaussians of unit energy."""

    means: jax.Array  # [N, 2] pixels
    log_scales: jax.Array  # [N, 2]
    angles: jax.Array  # [N]
    fade: jax.Array  # [N] colour of unit energy, 1 / √(π s₁ s₂)


def atoms_of(
    symbols: Symbols, energy_class: jax.Array, image_size: tuple[int, int]
) -> Atoms:
    """Returns Gaussians of unit energy of a given class, whatever their colours."""
    cells = cells_of(
        symbols.size, symbols.ring, symbols.angle, energy_class, image_size
    )
    points = lattice_points(cells, symbols.lattice)
    m = log_size(symbols.size, energy_class).astype(jnp.float32) / LOG_UNITS
    rho = log_aspect(symbols.ring, energy_class).astype(jnp.float32) / LOG_UNITS
    angles = symbols.angle * (math.pi / num_angles(symbols.ring, energy_class))
    return Atoms(
        points.astype(jnp.float32) / PIXEL_UNITS,
        jnp.stack([m + rho, m - rho], axis=1),
        angles,
        jnp.exp(-m) / math.sqrt(math.pi),
    )


def overlap(first: Atoms, second: Atoms, image_size: tuple[int, int]) -> jax.Array:
    """Returns Σ over the pixels of the product of two atoms of unit energy, [N].

    The integral in closed form; where the product is so narrow that pixels show, times
    the first terms of Poisson's sum; and times its share inside the picture, along x
    and along y.
    """
    # Along the axes of the first, where sums of two long ones do not cancel.
    u, v = _turned(second.means - first.means, -first.angles)
    s1, s2 = jnp.exp(2 * first.log_scales).T
    xx, xy, yy = _covariance(second._replace(angles=second.angles - first.angles))
    xx, yy = xx + s1, yy + s2
    det = xx * yy - xy * xy
    # (A + B)⁻¹ times the distance of the means.
    tu, tv = (yy * u - xy * v) / det, (xx * v - xy * u) / det
    sizes = jnp.sum(first.log_scales + second.log_scales, axis=1) / 2
    integral = 2 * jnp.exp(sizes - (u * tu + v * tv) / 2) * jax.lax.rsqrt(det)
    # The product: covariance A (A + B)⁻¹ B, mean between the two.
    x, y = _turned(jnp.stack([s1 * tu, s2 * tv], axis=1), first.angles)
    x, y = first.means[:, 0] + x, first.means[:, 1] + y
    a, b = _covariance(first), _covariance(second)
    det_a, det_b = (jnp.exp(2 * jnp.sum(p.log_scales, axis=1)) for p in (first, second))
    var_x = (det_a * b[0] + det_b * a[0]) / det
    var_y = (det_a * b[2] + det_b * a[2]) / det
    height, width = image_size
    for place, variance, side in ((x, var_x, width), (y, var_y, height)):
        wave = jnp.exp(-2 * math.pi**2 * variance)
        integral *= 1 + 2 * wave * jnp.cos(2 * math.pi * (place - 0.5))
        sigma = jnp.sqrt(variance)
        integral *= ndtr((side - place) / sigma) - ndtr(-place / sigma)
    return integral


def _turned(vectors, angles):
    """Returns x and y of vectors [N, 2] turned by angles."""
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    x, y = vectors.T
    return cos * x - sin * y, sin * x + cos * y


def _covariance(atoms):
    s1, s2 = jnp.exp(2 * atoms.log_scales).T
    cos, sin = jnp.cos(atoms.angles), jnp.sin(atoms.angles)
    xy = (s1 - s2) * cos * sin
    return s1 * cos**2 + s2 * sin**2, xy, s1 * sin**2 + s2 * cos**2


def cells_of(
    size: jax.Array,
    ring: jax.Array,
    angle: jax.Array,
    c: jax.Array,
    image_size: tuple[int, int],
) -> Lattice:
    """Returns the lattices of Gaussians of class c."""
    scale = lattice_scale(log_size(size, c), c)
    turns = num_angles(ring, c)
    return lattice(scale, log_aspect(ring, c), angle, turns, image_size)


class MeanWeights(NamedTuple):
    """Means of the weights under atoms.

    Closed forms of products of atoms are of pictures without weights. With them, they
    are times the mean weight under the atom, for each channel; colours z are in axes
    that mix the channels.
    """

    weights: jax.Array | None  # [N, 1] or [N, C]
    axes: np.ndarray  # [C, C] colour axes as rows, orthonormal

    def times(self, z: jax.Array) -> jax.Array:
        """Returns colours z [N, C] times the weights of their channels."""
        return z if self.weights is None else self._scaled(z, self.weights)

    def divide(self, z: jax.Array) -> jax.Array:
        """Returns the inverse of `times`."""
        return z if self.weights is None else self._scaled(z, 1 / self.weights)

    def _scaled(self, z, weights):
        if weights.shape[1] == 1:
            return weights * z
        return (weights * (z @ self.axes)) @ self.axes.T
