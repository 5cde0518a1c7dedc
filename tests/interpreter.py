"""Runs Triton kernels on NumPy arrays, in Triton's interpreter, without torch or a GPU.

`conftest.py` sets TRITON_INTERPRET where there is no GPU. The interpreter takes torch
tensors; it needs little of them, which `_Tensor` gives.
"""

from typing import Any

import jax
import numpy as np
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction

from gi_jax.rendering import triton_call, triton_rasterizer

# The interpreter's time goes by the number of operations on blocks, not by their size:
# larger blocks and fewer programs than a GPU would want.
BLOCKS = {"_WARPS": 32, "SIDE": 32, "_PROGRAMS": 0, "_MIN_STRIPS": 8}


def use(monkeypatch, **constants) -> None:
    """Lets the Triton implementation run here: on a GPU as it is, else interpreted.

    Args:
      monkeypatch: pytest's.
      **constants: of `triton_rasterizer`, instead of what it has or `BLOCKS` has.
    """
    on_gpu = jax.default_backend() == "gpu"
    for name, value in (constants if on_gpu else BLOCKS | constants).items():
        monkeypatch.setattr(triton_rasterizer, name, value)
    if on_gpu:
        return
    monkeypatch.setattr(triton_call, "why_unavailable", lambda platform=None: None)
    monkeypatch.setattr(triton_call, "_call", _call)
    monkeypatch.setattr(InterpretedFunction, "__call__", _call_device_function)


def _call_device_function(self, *arguments, **keywords):
    """Calls a @triton.jit function from a kernel.

    The interpreter would prepare all of triton.language again in each such call, which
    takes most of the time; each module needs that once in a launch.
    """
    if id(self.fn.__globals__) not in _prepared:
        _prepared.add(id(self.fn.__globals__))
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*arguments, **keywords)


# Modules whose view of triton.language is prepared, in the launch that is running.
_prepared: set[int] = set()


class _Tensor:
    """The part of torch.Tensor that the interpreter uses, of an array on the host.

    It is its own storage, and its copy on the host is itself.
    """

    def __init__(self, array: np.ndarray):
        assert array.flags.c_contiguous and array.flags.writeable
        self.array = array
        self.dtype = array.dtype  # Triton knows a type by its name, as 'float32'.

    def data_ptr(self):
        return self.array.ctypes.data

    def untyped_storage(self):
        return self

    def cpu(self):
        return self

    def new_empty(self, *shape, device):
        return _Tensor(self.array)

    def set_(self, storage, *layout):
        self.array = storage.array

    def copy_(self, other):
        assert other.array is self.array

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    def stride(self):
        return tuple(step // self.array.itemsize for step in self.array.strides)


def _call(kernel, arrays, out, grid, num_warps, constants) -> Any:
    """Takes the place of `triton_call._call`, as a callback from XLA."""
    del num_warps  # The interpreter has no warps.

    def run(*inputs):
        # Fresh memory of a GPU holds anything: here NaN, and numbers that are no index.
        results = [
            np.full(x.shape, np.nan if x.dtype == np.float32 else -7).astype(x.dtype)
            for x in out
        ]
        tensors = [_Tensor(np.array(x)) for x in inputs]
        tensors += [_Tensor(x) for x in results]
        _prepared.clear()
        with np.errstate(all="ignore"):  # Lanes that are masked out may overflow.
            kernel[grid](*tensors, **constants)
        return results

    return jax.pure_callback(run, out, *arrays, vmap_method="sequential")
