"""Backward: one warp walks each Gaussian over its own pixels; no lists, no atomics.

With g = weight · (colour · dL/dpicture) at a pixel and (u, v) as in `gaussian`, the
gradients of a Gaussian follow from the *moments* Σ g u, Σ g v, Σ g u², Σ g uv, Σ g v²
and from Σ weight · dL/dpicture. Only dL/dpicture is read: the forward pass leaves
nothing behind.

A box of many pixels would keep one warp busy long after all others are done. So boxes
are cut into *strips* of rows; all but the last strip of a Gaussian go to programs of
their own, as far as there are any, and `gather_strips_kernel` adds them up.
"""

import triton
import triton.language as tl

from triton_kernels.gaussian import channel_group, count_below, weight


@triton.jit
def backward_kernel(
    record_ptr,
    box_ptr,
    strip_rows_ptr,
    first_ptr,
    count_ptr,
    total_ptr,
    cotangent_ptr,
    moment_ptr,
    GAUSSIANS: tl.constexpr,
    PER_PICTURE: tl.constexpr,
    STRIPS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    CUT: tl.constexpr,
    STEPS: tl.constexpr,
    SIDE: tl.constexpr,
):
    """Sums the moments of one strip; program (strip, channel group), one warp.

    Programs below GAUSSIANS take what is left of their own Gaussian; program
    GAUSSIANS + k takes the k-th of the other strips.

    Args:
      record_ptr: [groups, GAUSSIANS, 8] float32.
      box_ptr: [GAUSSIANS, 4] int32, pixels x0, y0, x1, y1, the last ones outside.
      strip_rows_ptr: [GAUSSIANS] int32, rows of a strip, 1 or more.
      first_ptr: [GAUSSIANS] int32, number of each Gaussian's first strip.
      count_ptr: [GAUSSIANS] int32, number of its strips, without the last one.
      total_ptr: [1] int32, number of all those strips.
      cotangent_ptr: [pictures, HEIGHT, WIDTH, CHANNELS] float32, dL/dpicture.
      moment_ptr: [groups, GAUSSIANS + STRIPS, 8] float32, written: Σ g u, Σ g v,
        Σ g u², Σ g uv, Σ g v², and Σ weight · dL/dpicture of three channels.
      GAUSSIANS: of all pictures.
      PER_PICTURE: Gaussians of one picture.
      STRIPS: programs for strips; strips with higher numbers stay with their Gaussian.
      HEIGHT: of a picture, pixels.
      WIDTH: of a picture, pixels.
      CHANNELS: of a picture.
      CUT: a weight of 2^-CUT and less is 0.
      STEPS: bits of GAUSSIANS.
      SIDE: pixels are walked in squares of this side, a power of 2.
    """
    program = tl.program_id(0)
    group = channel_group(CHANNELS)
    number = program - GAUSSIANS
    if number < tl.minimum(tl.load(total_ptr), STRIPS):
        owner = program
        if number >= 0:  # The last Gaussian that begins at or before a strip.
            owner = count_below(first_ptr, GAUSSIANS, number + 1, STEPS) - 1
        box = box_ptr + owner.to(tl.int64) * 4  # Past 31 bits from 2^28 Gaussians on.
        x0, y0 = tl.load(box), tl.load(box + 1)
        x1, y1 = tl.load(box + 2), tl.load(box + 3)
        strip_rows = tl.load(strip_rows_ptr + owner)
        first = tl.load(first_ptr + owner)
        if number >= 0:
            y0 += (number - first) * strip_rows
            y1 = y0 + strip_rows
        else:
            count = tl.load(count_ptr + owner)
            y0 += tl.minimum(count, tl.maximum(STRIPS - first, 0)) * strip_rows

        record = record_ptr + (group * GAUSSIANS + owner) * 8
        mean_x = tl.load(record)
        mean_y = tl.load(record + 1)
        w11 = tl.load(record + 2)
        w21 = tl.load(record + 3)
        w22 = tl.load(record + 4)
        color_0 = tl.load(record + 5)
        color_1 = tl.load(record + 6)
        color_2 = tl.load(record + 7)

        column = tl.arange(0, SIDE)[None, :]
        row = tl.arange(0, SIDE)[:, None]
        channel = group * 3
        # The colour of a channel that is not there is 0, and nobody reads its sum.
        next_1 = tl.minimum(channel + 1, CHANNELS - 1) - channel
        next_2 = tl.minimum(channel + 2, CHANNELS - 1) - channel
        zero = tl.zeros([SIDE, SIDE], tl.float32)
        sum_u, sum_v, sum_uu, sum_uv, sum_vv = zero, zero, zero, zero, zero
        sum_0, sum_1, sum_2 = zero, zero, zero
        first_row = (owner // PER_PICTURE) * HEIGHT + y0 + row
        corner = cotangent_ptr + first_row.to(tl.int64) * (WIDTH * CHANNELS) + channel
        for x in range(x0, x1, SIDE):
            # Along a column of pixels u stays: sums of 1, v, v² give all moments.
            dx = (x + column).to(tl.float32) + 0.5 - mean_x
            u = w11 * dx
            along = w21 * dx + w22 * ((y0 + row).to(tl.float32) + 0.5 - mean_y)
            pixel = corner + (x + column) * CHANNELS
            column_1, column_v, column_vv = zero, zero, zero
            for y in range(0, y1 - y0, SIDE):
                v = along + w22 * y
                here = weight(u, v, CUT)
                # Pixels outside the strip have no cotangent, and so add nothing.
                inside = (x + column < x1) & (y + row < y1 - y0)
                d_0 = tl.load(pixel, mask=inside, other=0.0)
                d_1 = tl.load(pixel + next_1, mask=inside, other=0.0)
                d_2 = tl.load(pixel + next_2, mask=inside, other=0.0)
                sum_0 += here * d_0
                sum_1 += here * d_1
                sum_2 += here * d_2
                g = here * (d_0 * color_0 + d_1 * color_1 + d_2 * color_2)
                gv = g * v
                column_1 += g
                column_v += gv
                column_vv += gv * v
                pixel += SIDE * WIDTH * CHANNELS
            sum_u += column_1 * u
            sum_v += column_v
            sum_uu += column_1 * u * u
            sum_uv += column_v * u
            sum_vv += column_vv

        out = group * (GAUSSIANS + STRIPS) + program
        out = moment_ptr + out * 8
        tl.store(out, _total(sum_u))
        tl.store(out + 1, _total(sum_v))
        tl.store(out + 2, _total(sum_uu))
        tl.store(out + 3, _total(sum_uv))
        tl.store(out + 4, _total(sum_vv))
        tl.store(out + 5, _total(sum_0))
        tl.store(out + 6, _total(sum_1))
        tl.store(out + 7, _total(sum_2))


@triton.jit
def _total(block):
    """Sums a square of pixels."""
    return tl.sum(tl.sum(block, 1), 0)


@triton.jit
def gather_strips_kernel(
    moment_ptr,
    first_ptr,
    count_ptr,
    sum_ptr,
    GAUSSIANS: tl.constexpr,
    STRIPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds its strips to each Gaussian; program (block of Gaussians, channel group).

    Args:
      moment_ptr: [groups, GAUSSIANS + STRIPS, 8] float32.
      first_ptr: [GAUSSIANS] int32, number of each Gaussian's first strip.
      count_ptr: [GAUSSIANS] int32, number of its strips, without the last one.
      sum_ptr: [groups, GAUSSIANS, 8] float32, written.
      GAUSSIANS: of all pictures.
      STRIPS: strips with numbers from here on were left to their Gaussian.
      BLOCK: Gaussians of a program, a power of 2.
    """
    group = tl.program_id(1).to(tl.int64)
    owner = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = owner < GAUSSIANS
    first = tl.load(first_ptr + owner, mask=known, other=0)
    count = tl.load(count_ptr + owner, mask=known, other=0)
    count = tl.minimum(count, tl.maximum(STRIPS - first, 0))
    moment = tl.arange(0, 8)[None, :]
    rows = moment_ptr + group * ((GAUSSIANS + STRIPS) * 8) + moment
    sums = tl.load(rows + owner[:, None] * 8, mask=known[:, None], other=0.0)
    for k in range(0, tl.max(count, 0)):
        strip = GAUSSIANS + first + k
        mask = (k < count)[:, None]
        sums += tl.load(rows + strip[:, None] * 8, mask=mask, other=0.0)
    out = sum_ptr + group * (GAUSSIANS * 8) + owner[:, None] * 8 + moment
    tl.store(out, sums, mask=known[:, None])
