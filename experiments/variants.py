"""The variants of the paper's ablations: what each does instead of the usual.

All fits have the paper's recipe: a random start, Adan with a rate that is halved after
0.4 and 0.8 of the steps, the picture clamped before the loss. The published figures are
those of GaussianImage, arXiv:2403.08551v5, tables 3 and 4.

Where the paper leaves it open, or we deviate:
* Opacities that are apart from colours are sigmoids and start at 0.1, as in the 3D GS
  of its release; colours may have any sign in all variants.
* Alpha blending has a fixed, random order (see alpha_blending.py).
* Rotation and scale step in log scales and radians; the release steps in scales.
* Codebooks follow moving averages with and without the commitment loss, as in the
  release. The paper's equation 10 trains them by that loss.
* Fine-tuning is this library's (`fine_tuning`): steps in each Gaussian's own frame.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gi_jax as gi
from experiments.alpha_blending import OpaqueGaussians, blend, merge
from gi_jax.coding.paper_quantizer import paper_state
from gi_jax.coding.vector_quantization import ResidualVQState

# Opacity of a Gaussian at the start, where it is apart from the colour.
_FIRST_OPACITY: Final = 0.1

# Bits of a shape parameter and entries of a colour codebook, two of which add up.
_SHAPE_BITS: Final = 6
_CODEBOOK_SIZE: Final = 8
_NUM_STAGES: Final = 2

# Uniform levels are of colours times this, so that the steps of the optimizer that
# learns a step and an offset, 0.01, are small against a step of 8 bits.
_COLOR_UNITS: Final = 16.0


class Variant(NamedTuple):
    """A row of table 3: how Gaussians represent a picture."""

    label: str
    published: dict[str, float]  # means over Kodak at 30,000 Gaussians, V100
    loss: str = "l2"
    start: Callable[[gi.Cholesky], Any] = lambda gaussians: gaussians
    render: Callable[..., jax.Array] = gi.rasterize  # (gaussians, image_size)


class Coding(NamedTuple):
    """A row of table 4: how Gaussians are quantized."""

    label: str
    published: dict[str, float]  # Bjøntegaard against the first row: dB, % of bytes
    commitment: float = 1.0
    color_bits: int | None = None  # of each colour, or None for codebooks


def _published(psnr, ms_ssim, seconds, frames_per_second, parameters):
    return {
        "psnr": psnr,
        "ms_ssim": ms_ssim,
        "fit_seconds": seconds,
        "frames_per_second": frames_per_second,
        "parameters": 1e3 * parameters,
    }


def _opaque(gaussians: gi.Cholesky) -> OpaqueGaussians:
    logit = math.log(_FIRST_OPACITY / (1 - _FIRST_OPACITY))
    return OpaqueGaussians(*gaussians, jnp.full(gaussians.means.shape[0], logit))


def _turned(gaussians: gi.Cholesky) -> gi.RotationScale:
    """Returns the release's start: scales in [0.5, 1.5), angles 2π sigmoid([0, 1))."""
    l11, l21, l22 = gaussians.cholesky.T
    log_scales = jnp.log(jnp.stack([l11, l22], axis=1))
    angles = 2 * jnp.pi * jax.nn.sigmoid(l21)
    return gi.RotationScale(gaussians.means, log_scales, angles, gaussians.colors)


def _add_up(gaussians: OpaqueGaussians, image_size: tuple[int, int]) -> jax.Array:
    return gi.rasterize(merge(gaussians), image_size)


BASE: Final = "base"

VARIANTS: Final = {
    BASE: Variant(
        "L2, accumulated, colour and opacity merged, Cholesky",
        _published(38.57, 0.9961, 91.06, 2565, 240),
    ),
    "alpha": Variant(
        "alpha blending",
        _published(37.89, 0.9961, 104.76, 2340, 270),
        start=_opaque,
        render=jax.jit(blend, static_argnums=1),
    ),
    "opacity": Variant(
        "opacity apart from colour",
        _published(38.69, 0.9963, 98.54, 2555, 270),
        start=_opaque,
        render=jax.jit(_add_up, static_argnums=1),
    ),
    "l1": Variant("L1", _published(36.46, 0.9937, 92.68, 2438, 240), "l1"),
    "ssim": Variant("SSIM", _published(35.65, 0.9952, 183.20, 2515, 240), "ssim"),
    "l1+ssim": Variant(
        "L1 + SSIM", _published(36.57, 0.9945, 188.22, 2576, 240), "l1+ssim"
    ),
    "l2+ssim": Variant(
        "L2 + SSIM", _published(34.73, 0.9932, 189.17, 2481, 240), "l2+ssim"
    ),
    "rotation_scale": Variant(
        "rotation and scale",
        _published(38.83, 0.9964, 98.55, 2321, 240),
        start=_turned,
    ),
}

CODINGS: Final = {
    BASE: Coding("the paper's codec", {"quality": 0.0, "rate": 0.0}),
    "no_commitment": Coding(
        "without commitment loss",
        {"quality": -3.145, "rate": 333.16},
        commitment=0.0,
    ),
    "uniform6": Coding(
        "colours of 6 bits instead of residual VQ (rate estimated)",
        {"quality": -0.159, "rate": 7.02},
        color_bits=6,
    ),
    "uniform8": Coding(
        "colours of 8 bits instead of residual VQ (rate estimated)",
        {"quality": -0.195, "rate": 11.69},
        color_bits=8,
    ),
}


@functools.cache  # So that pictures of one size share their programs.
def recipe(
    variant: str, num_gaussians: int, steps: int, learning_rate: float
) -> gi.Recipe:
    """Returns the paper's recipe for a budget.

    Args:
      variant: of VARIANTS.
      num_gaussians: N.
      steps: T; the rate is halved after each 0.4 T, as after 20,000 of 50,000.
      learning_rate: of Adan at the start; the paper's is 1e-3.
    """
    start, render = VARIANTS[variant].start, VARIANTS[variant].render

    def initialize(key, image, implementation):
        del implementation
        height, width, channels = image.shape
        return start(gi.random(key, num_gaussians, (height, width), channels))

    halving = max(1, round(0.4 * steps))
    rate = optax.exponential_decay(learning_rate, halving, 0.5, staircase=True)
    return gi.Recipe(
        initialize,
        num_gaussians,
        steps,
        gi.adan(rate),
        gi.parameters(),
        densification=None,
        clamp=True,
        render=render,
    )


@functools.cache
def quantizer(coding: str, image_size: tuple[int, int], channels: int) -> gi.Quantizer:
    """Returns the quantizer of a row of CODINGS, for pictures of H, W and C."""
    return gi.per_field(
        means=gi.chain(gi.normalize(image_size), gi.float16()),
        shape=gi.uniform(_SHAPE_BITS),
        colors=_color_quantizer(coding, channels),
    )


def _color_quantizer(coding: str, channels: int) -> gi.Quantizer:
    row = CODINGS[coding]
    if row.color_bits is None:
        return gi.residual_vq(_CODEBOOK_SIZE, _NUM_STAGES, commitment=row.commitment)
    units = gi.linear(_COLOR_UNITS * np.eye(channels))
    return gi.chain(units, gi.uniform(row.color_bits))


def write_file(
    coding: str, gaussians: gi.Cholesky, learned: Any, image_size: tuple[int, int]
) -> tuple[bytes, int]:
    """Writes the file of quantized Gaussians.

    The format knows codebooks of colours. Uniform levels are written as one codebook
    for each channel, all of whose entries follow from a step and an offset.

    Args:
      coding: of CODINGS.
      gaussians: N Gaussians of C channels, of a fit with the quantizer.
      learned: its params and state, `FitResult.quantizer`.
      image_size: H, W in pixels.

    Returns:
      The file, and how many of its bytes are tables that a step and an offset tell.
    """
    params, state = learned.params, learned.state
    bits, redundant = CODINGS[coding].color_bits, 0
    if bits is not None:
        channels = gaussians.colors.shape[1]
        levels = jnp.broadcast_to(jnp.arange(2**bits)[:, None], (2**bits, channels))
        colors = _color_quantizer(coding, channels)
        values = colors.decode(params.colors, (), levels)  # [2^bits, C]
        codebooks = values.T[:, :, None] * jnp.eye(channels)[:, None]
        counts = jnp.ones(codebooks.shape[:2])
        quantized, *_ = colors.apply(params.colors, (), gaussians.colors, None)
        gaussians = gaussians._replace(colors=quantized)
        params = params._replace(colors=())
        state = state._replace(colors=ResidualVQState(codebooks, counts))
        redundant = np.float32().nbytes * (codebooks.size - 2 * channels)
    state = paper_state(state.colors, image_size, _SHAPE_BITS)
    return gi.write_gaussians(gaussians, params, state, image_size), redundant
