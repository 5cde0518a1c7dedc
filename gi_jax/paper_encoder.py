"""`encode_paper`: from a picture to a file, the paper's way."""

import math
from typing import Final, get_args

from jax.typing import ArrayLike

from gi_jax.arguments import check_integer
from gi_jax.coding.bitstream import Header, find_problem
from gi_jax.coding.codec import paper_quantizer, write_gaussians
from gi_jax.coding.paper_symbols import PAPER_CODEC, Order
from gi_jax.fitting.arguments import checked_image
from gi_jax.fitting.fit import fit
from gi_jax.fitting.presets import Preset, fine_tuning
from gi_jax.gaussians import canonical
from gi_jax.rendering.rasterize import Implementation

# Pixels per Gaussian where no number is asked for, as 10,000 on 768×512.
_PIXELS_PER_GAUSSIAN: Final = 40


def encode_paper(
    image: ArrayLike,
    *,
    num_gaussians: int | None = None,
    steps: int = 500,
    fine_tuning_steps: int | None = None,
    preset: Preset = "fast",
    seed: int = 0,
    shape_bits: int = 7,
    codebook_size: int = 32,
    num_stages: int = 2,
    order: Order = "sorted",
    implementation: Implementation | None = None,
    progress: bool = True,
) -> bytes:
    """Compresses a picture: fit, quantization-aware fine-tuning, entropy coding.

    The defaults of `shape_bits` and `codebook_size` are better at equal rate than the
    paper's 6 and 8, which the short fine-tuning cannot make up for.

    Args:
      image: [H, W, C] or [H, W]; floats in 0..1, uint8 or uint16; 1 to 16 channels.
      num_gaussians: N; by default one for each 40 pixels.
      steps: of the fit, see `fit`.
      fine_tuning_steps: with quantization in the loop; by default half of `steps`.
      preset: of the fit.
      seed: of everything random.
      shape_bits: of each shape parameter, 1 to 8.
      codebook_size: entries of each colour codebook, 1 to 256.
      num_stages: colour codebooks that add up, 1 to 8.
      order: what becomes of the bits that the order is worth, see `write_gaussians`.
      implementation: of `rasterize`.
      progress: shows bars on standard error.

    Returns:
      The file. `decode` needs nothing else.

    Raises:
      ValueError: on an image or a number that is not as described.

    Reference:
      GaussianImage, arXiv:2403.08551, section 3.3.
    """
    pixels = checked_image(image)
    height, width, channels = pixels.shape
    if num_gaussians is None:
        num_gaussians = math.ceil(height * width / _PIXELS_PER_GAUSSIAN)
    if fine_tuning_steps is None:
        fine_tuning_steps = steps // 2
    quantizer = paper_quantizer(
        (height, width),
        shape_bits=shape_bits,
        codebook_size=codebook_size,
        num_stages=num_stages,
    )
    # Before the work, not after it.
    header = Header(PAPER_CODEC, 1, width, height, channels, num_gaussians)
    if problem := find_problem(header):
        raise ValueError(problem)
    check_integer("fine_tuning_steps", fine_tuning_steps, least=0)
    if order not in get_args(Order):
        raise ValueError(f"order: expected one of {get_args(Order)}, got {order!r}")
    fitted = fit(
        pixels,
        num_gaussians,
        steps,
        preset=preset,
        seed=seed,
        implementation=implementation,
        progress=progress,
    )
    tuned = fit(
        pixels,
        initial=canonical(fitted.gaussians),
        steps=fine_tuning_steps,
        recipe=fine_tuning(fine_tuning_steps),
        seed=seed,
        quantizer=quantizer,
        implementation=implementation,
        progress=progress,
    )
    assert tuned.quantizer is not None
    return write_gaussians(
        tuned.gaussians,
        tuned.quantizer.params,
        tuned.quantizer.state,
        (height, width),
        order=order,
    )
