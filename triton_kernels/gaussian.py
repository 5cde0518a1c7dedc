"""What all kernels share: how a Gaussian lies in memory, and its weight at a pixel.

A *record* is eight float32, 32 bytes:

    mean x, mean y, w11, w21, w22, colour 0, colour 1, colour 2

with W = [[w11, 0], [w21, w22]] = √(log2 e / 2) L⁻¹ for the Cholesky factor L of Σ. So
with (u, v) = W d, d from the mean to the pixel's centre, exp(-dᵀ Σ⁻¹ d / 2) is
2^-(u² + v²): no determinant, no difference of large numbers, and the exponent costs a
pixel two multiply-adds once W is multiplied out along x.

Pictures with more than three channels are drawn in groups of three, one launch for all:
the records of group k follow those of group k - 1, with the same geometry.
"""

import triton
import triton.language as tl


@triton.jit
def weight(u, v, CUT: tl.constexpr):
    """Returns 2^-(u² + v²), and exactly 0 where u² + v² > CUT."""
    exponent = u * u + v * v
    return tl.where(exponent <= CUT, tl.exp2(-exponent), 0.0)


@triton.jit
def load_record(record_ptr, index, mask):
    """Loads records as four pairs of floats; those masked out have no colour.

    A pair is one 64-bit integer, since that halves the load instructions.
    """
    pairs = record_ptr.to(tl.pointer_type(tl.int64)) + index.to(tl.int64) * 4
    return (
        tl.load(pairs, mask=mask, other=0),
        tl.load(pairs + 1, mask=mask, other=0),
        tl.load(pairs + 2, mask=mask, other=0),
        tl.load(pairs + 3, mask=mask, other=0),
    )


@triton.jit
def channel_group(CHANNELS: tl.constexpr):
    """Returns which three channels a program draws, a constant where it is 0."""
    group = tl.full([], 0, tl.int64)
    if CHANNELS > 3:
        group = tl.program_id(1).to(tl.int64)
    return group


@triton.jit
def first_of(pair):
    """Returns the first float of a pair."""
    return pair.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def second_of(pair):
    """Returns the second float of a pair."""
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def count_below(sorted_ptr, size, value, STEPS: tl.constexpr):
    """Returns how many of `size` sorted integers are below `value`, by bisection.

    Args:
      sorted_ptr: [size] integers below 2^31, not falling.
      size: how many.
      value: a number or a block of numbers.
      STEPS: bits of `size`.
    """
    below = value * 0
    for step in tl.static_range(STEPS):
        probe = below + (1 << (STEPS - 1 - step))
        inside = probe <= size
        found = tl.load(sorted_ptr + probe - 1, mask=inside, other=0).to(tl.int32)
        below = tl.where(inside & (found < value), probe, below)
    return below
