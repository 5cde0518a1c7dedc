"""Calling Triton kernels from JAX: where that works, and launches.

The only module that imports jax-triton, and it does so at the first launch.
"""

import functools
import importlib.util
import inspect
from typing import Any

import jax
import numpy as np

from gi_jax.rendering.varying import vary_as

# Compile for this architecture, as 90 for sm_90, instead of that of the first GPU.
_compute_capability: int | None = None


def why_unavailable(platform: str | None = None) -> str | None:
    """Returns why nothing can be rendered by Triton, or None where it can.

    Args:
      platform: of the device to render on; by default that of the default device.
    """
    missing = [name for name in ("triton", "jax_triton") if not _is_installed(name)]
    if missing:
        return f"{' and '.join(missing)} not found; pip install 'gi_jax[cuda]'"
    platform = platform or default_platform()
    if platform not in ("gpu", "cuda"):
        return f"it needs an NVIDIA GPU, and the device here is {platform!r}"
    if "cuda" not in jax.devices("gpu")[0].client.platform_version.lower():
        return "it needs an NVIDIA GPU, and the GPU here is another"
    return None


def default_platform() -> str:
    """Returns the platform of the default device, such as 'cpu' or 'gpu'."""
    device = getattr(jax.config, "jax_default_device", None) or jax.default_backend()
    return getattr(device, "platform", device)


@functools.cache
def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def launch(
    kernel: Any,
    *arrays: jax.Array,
    out: list[jax.ShapeDtypeStruct],
    grid: tuple[int, ...],
    num_warps: int = 4,
    **constants: Any,
) -> list[jax.Array]:
    """Launches a kernel with inputs, then outputs, then constants.

    Under `shard_map` results vary over the devices that the inputs vary over.
    """
    results = _call(kernel, arrays, out, grid, num_warps, constants)
    return vary_as(arrays, results)


def _call(kernel, arrays, out, grid, num_warps, constants):
    """Calls a kernel by jax-triton, 0.3 or later."""
    import jax_triton

    if "out_type" in inspect.signature(jax_triton.triton_call).parameters:
        options = {"out_type": out, "backend_options": {"enable_fp_fusion": True}}
    else:
        options = {"out_shape": out, "enable_fp_fusion": True}
    return jax_triton.triton_call(
        *arrays,
        kernel=kernel,
        grid=grid,
        num_warps=num_warps,
        num_stages=1,
        name=kernel.fn.__name__,
        compute_capability=_compute_capability,
        **options,
        **constants,
    )


def int32(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns the type of an output of `launch`."""
    return jax.ShapeDtypeStruct(shape, np.int32)


def float32(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns the type of an output of `launch`."""
    return jax.ShapeDtypeStruct(shape, np.float32)
