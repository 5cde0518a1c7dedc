"""Pictures made of 2D Gaussians: fit, render and compress them in JAX.

GaussianImage, arXiv:2403.08551. `import gi_jax as gi`.

What is public stands in `gi_jax.api`, and is loaded, with JAX, at its first use: the
command `gi` is to answer `--help` and Ctrl-C before that.
"""

# ruff: noqa: F403, F405

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gi_jax.api import *

__all__ = [
    "YCOCG",
    "BitstreamError",
    "Cholesky",
    "Coordinates",
    "FitDivergedError",
    "FitResult",
    "FitState",
    "FitStep",
    "Gaussians",
    "Metrics",
    "Quantizer",
    "RateTables",
    "Recipe",
    "RotationScale",
    "SensitivityParams",
    "Symbols",
    "Tangent",
    "adan",
    "area",
    "blurred",
    "canonical",
    "chain",
    "conic",
    "content",
    "covariance",
    "decode",
    "densify",
    "dequantize",
    "descend",
    "encode",
    "encode_paper",
    "energy_rate",
    "estimated_bits",
    "file_info",
    "fine_tuning",
    "fit",
    "fit_batch",
    "float16",
    "linear",
    "load_image",
    "make_fit_step",
    "ms_ssim",
    "normalize",
    "own_frame",
    "own_frame_adam",
    "paper_quantizer",
    "parameters",
    "per_field",
    "psnr",
    "pursue",
    "quantized_colors",
    "quantized_geometry",
    "quantized_mean",
    "random",
    "rasterize",
    "rate_tables",
    "read_gaussians",
    "residual_vq",
    "resize",
    "save_image",
    "sensitivity_matched",
    "solve_colors",
    "ssim",
    "support",
    "symbol_bits",
    "to_cholesky",
    "to_rotation_scale",
    "to_uint8",
    "uniform",
    "visibility_weights",
    "write_gaussians",
    "write_symbols",
]


def __getattr__(name: str) -> Any:
    """Returns a public name or a module, and loads the library for it."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in __all__:
        value = getattr(importlib.import_module(f"{__name__}.api"), name)
        globals()[name] = value
        return value
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        text = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(text) from None
    if hasattr(module, "__path__"):  # Its own modules, as attributes of it.
        importlib.import_module(f"{__name__}.api")
    return module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
