"""The quantizer of the paper, whose state holds all that writing a file takes."""

import functools
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gi_jax.arguments import check_image_size, check_integer
from gi_jax.coding.entropy_models import MAX_ALPHABET
from gi_jax.coding.paper_symbols import SHAPE_COLUMNS
from gi_jax.coding.quantization import (
    Fields,
    Quantizer,
    UniformParams,
    chain,
    float16,
    normalize,
    per_field,
    uniform,
)
from gi_jax.coding.vector_quantization import ResidualVQState, residual_vq
from gi_jax.gaussians import Cholesky, RotationScale

# Numbers of the parametrizations in the header of a file.
PARAMETRIZATIONS: Final[dict[int, Any]] = {1: Cholesky, 2: RotationScale}

MAX_SHAPE_BITS: Final = 8  # one column of at most MAX_ALPHABET symbols
MAX_STAGES: Final = 8  # eight stages of eight entries are 24 bits already


class PaperState(NamedTuple):
    """State of `paper_quantizer`: the codebooks, and how the quantizer was made."""

    means: tuple[()]
    shape: tuple[()]
    colors: ResidualVQState
    shape_bits: jax.Array  # [] int32
    image_size: jax.Array  # [2] int32: H, W of the fitted picture, pixels
    parametrization: jax.Array  # [] int32: a key of PARAMETRIZATIONS


def paper_quantizer(
    image_size: tuple[int, int],
    *,
    parametrization: Any = Cholesky,
    shape_bits: int = 6,
    codebook_size: int = 8,
    num_stages: int = 2,
) -> Quantizer:
    """The quantizer of the paper: 32 + 18 + 6 bits per Gaussian before entropy coding.

    Deviation: positions are halves of centred coordinates, not of their atanh (see
    `normalize`).

    Args:
      image_size: H, W of the fitted picture, pixels.
      parametrization: type of the Gaussians.
      shape_bits: of each of the three shape parameters, 1 to 8.
      codebook_size: entries of each colour codebook, 1 to 256.
      num_stages: colour codebooks, 1 to 8.

    Returns:
      A quantizer of Gaussians that `write_gaussians` can write. Its params and symbols
      are `Fields`, its state is `PaperState`.

    Raises:
      ValueError: if a number is out of range, or there is no such parametrization.

    Reference:
      GaussianImage, arXiv:2403.08551, section 3.3.
    """
    if parametrization not in PARAMETRIZATIONS.values():
        raise ValueError(
            "parametrization: expected Cholesky or RotationScale, "
            f"got {parametrization!r}"
        )
    return _paper_quantizer(
        check_image_size(image_size),
        parametrization,
        check_integer("shape_bits", shape_bits, 1, MAX_SHAPE_BITS),
        check_integer("codebook_size", codebook_size, 1, MAX_ALPHABET),
        check_integer("num_stages", num_stages, 1, MAX_STAGES),
    )


@functools.lru_cache(maxsize=32)  # So that what is jitted with it is compiled once.
def _paper_quantizer(
    image_size, parametrization, shape_bits, codebook_size, num_stages
):
    fields = per_field(
        means=chain(normalize(image_size), float16()),
        shape=uniform(shape_bits),
        colors=residual_vq(codebook_size, num_stages),
        parametrization=parametrization,
    )

    def init(key, gaussians):
        params, state = fields.init(key, gaussians)
        made = paper_state(
            state.colors, image_size, shape_bits, parametrization=parametrization
        )
        return params, made

    def apply(params, state, gaussians, key):
        values, new, aux = fields.apply(params, _fields(state), gaussians, key)
        return values, state._replace(colors=new.colors), aux

    return Quantizer(
        init,
        apply,
        lambda params, state, x: fields.encode(params, _fields(state), x),
        lambda params, state, x: fields.decode(params, _fields(state), x),
        fields.scales,
    )


def paper_state(
    colors: ResidualVQState,
    image_size: tuple[int, int],
    shape_bits: int,
    *,
    parametrization: Any = Cholesky,
) -> PaperState:
    """Returns the state of a `paper_quantizer` that has these codebooks.

    Args:
      colors: the codebooks.
      image_size: H, W of the fitted picture, pixels.
      shape_bits: of each of the three shape parameters.
      parametrization: type of the Gaussians.
    """
    numbers_of = {kind: number for number, kind in PARAMETRIZATIONS.items()}
    number = numbers_of[parametrization]
    numbers = (jnp.asarray(x, jnp.int32) for x in (shape_bits, image_size, number))
    return PaperState((), (), colors, *numbers)


def quantizer_of(params: Any, state: Any) -> tuple[Quantizer, PaperState]:
    """Returns the `paper_quantizer` that params and state belong to.

    Args:
      params: of the quantizer.
      state: of the quantizer.

    Returns:
      The quantizer, and the state with numbers from NumPy.

    Raises:
      ValueError: if they are those of another quantizer, or not finite.
    """
    if not isinstance(state, PaperState) or not isinstance(params, Fields):
        raise ValueError(
            "params, state: a file holds what paper_quantizer(image_size, ...) learned "
            "(positions as halves, shapes by uniform(shape_bits), colours by "
            "residual_vq), but no other quantizer's params and state; expected Fields "
            f"and PaperState, got {type(params).__name__} and {type(state).__name__}"
        )
    params, state = jax.tree.map(np.asarray, (params, state))
    shape, colors = params.shape, state.colors
    if not (
        (params.means, params.colors) == ((), ())
        and isinstance(shape, UniformParams)
        and isinstance(colors, ResidualVQState)
        and shape.step.shape == shape.offset.shape == (SHAPE_COLUMNS,)
        and np.ndim(colors.codebooks) == 3
        and (state.shape_bits.shape, state.image_size.shape) == ((), (2,))
    ):
        raise ValueError(
            "params, state: expected those of one paper_quantizer, with a step and an "
            f"offset for {SHAPE_COLUMNS} columns of shape and codebooks of shape "
            f"[stages, entries, C], got {params} and {state}"
        )
    if not all(np.isfinite(x).all() for x in (*shape, colors.codebooks)):
        raise ValueError("params, state: expected finite numbers only")
    height, width = state.image_size.tolist()
    num_stages, codebook_size, _ = colors.codebooks.shape
    quantizer = paper_quantizer(
        (height, width),
        parametrization=PARAMETRIZATIONS[int(state.parametrization)],
        shape_bits=int(state.shape_bits),
        codebook_size=codebook_size,
        num_stages=num_stages,
    )
    return quantizer, state


def _fields(state: PaperState) -> Fields:
    return Fields(state.means, state.shape, state.colors)
