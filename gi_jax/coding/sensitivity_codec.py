"""Files of Gaussians quantized by `sensitivity_matched`: codec 4.

The one section, little-endian:

    GAUS  float32 step D; int16 mean colour[C] in units of 2^-14;
          the symbols, u32 words  (`symbol_coding.py`)

Gaussians are coded less the mean colour of the picture, which comes back as one more
Gaussian, so wide that it is the same everywhere.
"""

import math
import struct
from typing import Final, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gi_jax.arguments import check_image_size, check_positive
from gi_jax.coding import bitstream
from gi_jax.coding.bitstream import BitstreamError, Header
from gi_jax.coding.exact_grids import (
    MARGIN,
    energy_class,
    lattice,
    lattice_points,
    lattice_scale,
    log_aspect,
    log_size,
    num_angles,
)
from gi_jax.coding.exact_tables import MAX_COLOR, PIXEL_UNITS, tables
from gi_jax.coding.sensitivity import Symbols, dequantize
from gi_jax.coding.symbol_coding import decode_symbols, encode_symbols
from gi_jax.gaussians import MAX_SIGMA, RotationScale

SENSITIVITY_CODEC: Final = 4  # in the header
_TAG: Final = b"GAUS"

# Number of `RotationScale` in the header, see `paper_quantizer.PARAMETRIZATIONS`.
_PARAMETRIZATION: Final = 2

# Bounds that keep all colours finite, far from anything that is of use.
MIN_STEP: Final = 2.0**-40
MAX_STEP: Final = 2.0**40

# Means are in -2 to 2, to a 128th of a step of an 8-bit picture.
MEAN_UNITS: Final = 2**14

_STEP: Final = struct.Struct("<f")
_MEAN: Final = np.dtype("<i2")


class SensitivityContents(NamedTuple):
    """What a file says."""

    symbols: Symbols  # N Gaussians in the order of the file, NumPy
    step: np.float32  # D
    mean: np.ndarray  # [C] mean colour, float32
    bits: dict[str, float]  # ideal length of the symbols by name, if asked for


def quantized_mean(mean: ArrayLike) -> np.ndarray:
    """Returns a mean colour as it is in a file, float32 [C].

    What Gaussians are fitted to is the picture less this.
    """
    return _mean_symbols(mean).astype(np.float32) / np.float32(MEAN_UNITS)


def write_symbols(
    symbols: Symbols, step: ArrayLike, mean: ArrayLike, image_size: tuple[int, int]
) -> bytes:
    """Returns the file of symbols of `sensitivity_matched`.

    Args:
      symbols: Gaussians of C channels; those whose colours are all 0 are left out.
      step: D of the quantizer's params, float32.
      mean: [C] mean colour of the picture, which the Gaussians are without.
      image_size: H, W of the fitted picture, as given to the quantizer.

    Raises:
      ValueError: if something is out of range, or beyond the limits of `bitstream`.
    """
    symbols = _checked_symbols(symbols)
    alive = symbols.colors.any(axis=1)
    symbols = Symbols(*(field[alive] for field in symbols))
    step = np.float32(check_positive("step", step))
    if not MIN_STEP <= step <= MAX_STEP:
        raise ValueError(f"step: expected {MIN_STEP} to {MAX_STEP}, got {step}")
    count, channels = symbols.colors.shape
    means = _mean_symbols(mean)
    if means.shape != (channels,):
        raise ValueError(f"mean: expected [{channels}], got {np.shape(mean)}")
    height, width = image_size = check_image_size(image_size)
    header = Header(SENSITIVITY_CODEC, _PARAMETRIZATION, width, height, channels, count)
    if problem := bitstream.find_problem(header) or _find_problem(symbols, image_size):
        raise ValueError(problem)
    words, _ = encode_symbols(symbols, image_size)
    return bitstream.pack(header, {_TAG: _STEP.pack(step) + means.tobytes() + words})


def read_contents(
    header: Header, sections: dict[bytes, bytes], *, account: bool = False
) -> SensitivityContents:
    """Returns what the section of a file says.

    Args:
      header: of the file, with this codec.
      sections: of the file; any bytes at all.
      account: computes the ideal length of the symbols.

    Raises:
      BitstreamError: if it is not as `write_symbols` could have written it.
    """
    if header.parametrization != _PARAMETRIZATION:
        raise BitstreamError(
            f"expected parametrization {_PARAMETRIZATION}, got {header.parametrization}"
        )
    if tuple(sections) != (_TAG,):
        raise BitstreamError(f"expected section {_TAG!r}, got {tuple(sections)}")
    payload = sections[_TAG]
    start = _STEP.size + _MEAN.itemsize * header.channels
    if len(payload) < start:
        raise BitstreamError("section GAUS is cut off")
    step = np.float32(_STEP.unpack_from(payload)[0])
    if not MIN_STEP <= step <= MAX_STEP:
        raise BitstreamError(f"section GAUS: the step {step} is out of range")
    means = np.frombuffer(payload, _MEAN, header.channels, _STEP.size)
    mean = means.astype(np.float32) / np.float32(MEAN_UNITS)
    symbols, bits = decode_symbols(
        payload[start:],
        header.num_gaussians,
        header.channels,
        (header.height, header.width),
        account=account,
    )
    return SensitivityContents(symbols, step, mean, bits)


def complete_gaussians(
    symbols: Symbols, step: ArrayLike, mean: ArrayLike, image_size: tuple[int, int]
) -> RotationScale:
    """Returns the N + 1 Gaussians of a file: those of the symbols and the mean colour.

    The weight of the last one falls by less than 1e-6 over pictures of 2000 pixels, and
    by 6e-4 over the largest ones.

    Args:
      symbols: N Gaussians, NumPy.
      step: D, float32.
      mean: [C] from `quantized_mean`.
      image_size: H, W, pixels.
    """
    height, width = image_size
    widest = math.log(MAX_SIGMA)
    background = (
        np.array([[width / 2, height / 2]], np.float32),
        np.array([[widest, widest]], np.float32),
        np.zeros(1, np.float32),
        np.asarray(mean, np.float32)[None],
    )
    gaussians = dequantize(symbols, np.asarray(step, np.float32), image_size)
    pairs = zip(gaussians, background)
    return RotationScale(*(jnp.asarray(np.concatenate(pair)) for pair in pairs))


def _mean_symbols(mean: ArrayLike) -> np.ndarray:
    values = np.round(np.asarray(mean, np.float64) * MEAN_UNITS)
    if not (np.abs(values) < 2 * MEAN_UNITS).all():  # NaN fails too.
        raise ValueError(f"mean: expected colours in -2 to 2, got {mean}")
    return values.astype(_MEAN)


def _checked_symbols(symbols: Symbols) -> Symbols:
    """Returns the symbols as int32 NumPy arrays.

    Raises:
      ValueError: if they are not integers, too large for int32, or of other shapes.
    """
    fields = Symbols(*(np.asarray(field) for field in symbols))
    shapes = {name: field.shape for name, field in fields._asdict().items()}
    count = shapes["colors"][0] if fields.colors.ndim == 2 else None
    one = (count,)
    expected = {"size": one, "ring": one, "angle": one, "lattice": (count, 2)}
    colors = shapes.pop("colors")
    if count is None or not colors[1] or shapes != expected:
        raise ValueError(
            "symbols: expected colors [N, C], size, ring and angle [N] and lattice "
            f"[N, 2], got the shapes {shapes | {'colors': colors}}"
        )
    limits = np.iinfo(np.int32)
    for name, field in fields._asdict().items():
        if not np.issubdtype(field.dtype, np.integer):
            raise ValueError(f"{name}: expected integers, got {field.dtype}")
        low, high = int(field.min(initial=0)), int(field.max(initial=0))
        if not limits.min <= low <= high <= limits.max:
            raise ValueError(f"{name}: expected int32, got {low} to {high}")
    return Symbols(*(field.astype(np.int32) for field in fields))


def _find_problem(symbols: Symbols, image_size: tuple[int, int]) -> str | None:
    """Says which symbols no file can hold, or returns None."""
    colors, size, ring, angle, points = symbols
    if np.abs(colors).max(initial=0) > MAX_COLOR:
        return f"colors: expected up to {MAX_COLOR}, got {np.abs(colors).max()}"
    c = energy_class(colors)
    limits = {"size": tables().num_sizes[c], "ring": tables().num_rings[c]}
    for name, values in (("size", size), ("ring", ring)):
        if not ((values >= 0) & (values < limits[name])).all():
            return f"{name}: not on the grid of its class"
    turns = num_angles(ring, c)
    if not ((angle >= 0) & (angle < turns)).all():
        return "angle: not on its ring"
    scale = lattice_scale(log_size(size, c), c)
    cells = lattice(scale, log_aspect(ring, c), angle, turns, image_size)
    where = lattice_points(cells, points.astype(np.int64))
    limit = np.array(image_size[::-1]) * PIXEL_UNITS + MARGIN
    if not ((where >= -MARGIN) & (where <= limit)).all():
        return "lattice: a point is further than 4 pixels from the picture"
    return None
