"""Where the public names of `gi_jax` come from.

`gi_jax` loads this module when one of them is first asked for.
"""

# ruff: noqa: F401

from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.codec import (
    decode,
    paper_quantizer,
    read_gaussians,
    write_gaussians,
)
from gi_jax.coding.descent import descend
from gi_jax.coding.file_info import file_info
from gi_jax.coding.quantization import (
    YCOCG,
    Quantizer,
    chain,
    float16,
    linear,
    normalize,
    per_field,
    uniform,
)
from gi_jax.coding.rates import RateTables, rate_tables, symbol_bits
from gi_jax.coding.sensitivity import (
    SensitivityParams,
    Symbols,
    dequantize,
    quantized_colors,
    quantized_geometry,
    sensitivity_matched,
)
from gi_jax.coding.sensitivity_codec import quantized_mean, write_symbols
from gi_jax.coding.vector_quantization import residual_vq
from gi_jax.encoder import encode
from gi_jax.fitting.batch import fit_batch
from gi_jax.fitting.densification import densify
from gi_jax.fitting.fit import FitDivergedError, FitResult, fit
from gi_jax.fitting.fit_step import FitState, FitStep, Metrics, make_fit_step
from gi_jax.fitting.initialization import content, random, solve_colors
from gi_jax.fitting.optimizers import (
    Coordinates,
    Tangent,
    adan,
    own_frame,
    own_frame_adam,
    parameters,
)
from gi_jax.fitting.presets import Recipe, fine_tuning
from gi_jax.fitting.pursuit import pursue
from gi_jax.fitting.rate import energy_rate, estimated_bits
from gi_jax.gaussians import (
    Cholesky,
    Gaussians,
    RotationScale,
    area,
    blurred,
    canonical,
    conic,
    covariance,
    resize,
    support,
    to_cholesky,
    to_rotation_scale,
)
from gi_jax.images import load_image, save_image, to_uint8
from gi_jax.metrics import ms_ssim, psnr, ssim
from gi_jax.paper_encoder import encode_paper
from gi_jax.rendering.rasterize import rasterize
from gi_jax.visibility import visibility_weights
