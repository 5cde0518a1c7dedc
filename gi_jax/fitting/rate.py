"""Rate in the loss: what Gaussians will cost in the file, as a smooth function.

A Gaussian of energy E = |c|² · area, quantized with steps that match its sensitivity
(its colour to D, everything else to D / √E), takes about

    R = 4 log2(1 + E / D²) - log2(area / π) + constant

bits: eight parameters whose resolution grows with √E, and two coordinates that are
coarser, in pixels, by the standard deviations along the axes.
"""

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gi_jax.gaussians import Gaussians, area

# (gaussians, step, image_shape) -> what to add to the loss
RateTerm = Callable[[Gaussians, jax.Array, tuple[int, ...]], jax.Array]

# Squared error that a bit is worth, over the squared quantization step. At high rate
# the error of a uniform quantizer, D² / 12 per value, falls by ln 4 · D² / 12 = 0.12 D²
# with a bit more of each; somewhat less is as good or better (`coding.descent`).
TRADE_OFF: Final = 0.08

# Bits of log2(1 + E / D²): half a bit for each of eight parameters.
_BITS_PER_OCTAVE: Final = 4.0


def estimated_bits(gaussians: Gaussians, step_size: ArrayLike) -> jax.Array:
    """Returns the estimated bits of each Gaussian, but for a constant, [N].

    Args:
      gaussians: N Gaussians of C channels.
      step_size: D, the quantization step of the colour of a Gaussian of unit energy.
    """
    size = area(gaussians)
    energy = jnp.sum(gaussians.colors**2, axis=1) * size
    resolution = jnp.log2(1 + energy / step_size**2)
    return _BITS_PER_OCTAVE * resolution - jnp.log2(size / jnp.pi)


def energy_rate(
    step_size: ArrayLike, *, trade_off: float = TRADE_OFF, ramp_steps: ArrayLike = 0
) -> RateTerm:
    """The rate term λ R of a loss that is a mean squared error.

    λ = trade_off · D² is the squared error, summed over pixels and channels, that a bit
    is worth. Gaussians that do not earn their bits lose their energy, and can then be
    pruned.

    Args:
      step_size: D; may be traced, as may `ramp_steps`.
      trade_off: λ / D².
      ramp_steps: λ grows linearly over so many steps; Gaussians are worth little before
        they have found their place.

    Returns:
      A function (gaussians, step, image_shape) -> scalar, for `make_fit_step`.
    """

    def term(gaussians, step, image_shape):
        ramp = jnp.minimum(1.0, (step + 1) / jnp.maximum(ramp_steps, 1))
        weight = trade_off * step_size**2 / (image_shape[0] * image_shape[1])
        bits = jnp.sum(estimated_bits(gaussians, step_size))
        return weight / image_shape[2] * ramp * bits

    return term
