"""The Triton kernels of the tile rasterizer; nothing else, and no JAX.

A picture of H×W pixels is cut into tiles of TILE×TILE. A batch of B pictures of N
Gaussians each is flat everywhere: Gaussian n of picture b is number b·N + n, and tile t
of picture b is number b·T + t, so that a batch is a longer launch of the same kernels.

    boxes ─> block_sums ─> running_sum ─> fill ─> (sort) ─> offsets ─┐
    records ─────────────────────────────────────────────────────────┴─> forward
    boxes ─> block_sums ─> running_sum ─┐
    records, dL/dpicture ───────────────┴─> backward ─> gather_strips ─> moments

`lists` says which Gaussians touch which tile, `forward` adds them up tile by tile, and
`backward` walks each Gaussian over its own pixels. `gaussian` holds what all of them
share: how a Gaussian lies in memory, and its weight at a pixel.

Every array is row-major; names that end in `_ptr` are arrays in GPU memory, names in
capitals are constants that a kernel is compiled for.
"""

from triton_kernels.backward import backward_kernel, gather_strips_kernel
from triton_kernels.forward import forward_kernel
from triton_kernels.lists import (
    block_sums_kernel,
    fill_kernel,
    offsets_kernel,
    running_sum_kernel,
)

__all__ = [
    "backward_kernel",
    "block_sums_kernel",
    "fill_kernel",
    "forward_kernel",
    "gather_strips_kernel",
    "offsets_kernel",
    "running_sum_kernel",
]
