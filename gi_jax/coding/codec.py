"""Files: Gaussians to bytes by the paper's codec, and bytes of any codec to pictures.

Codecs 1 and 3 are the paper's, of this module; codec 4 is that of
`sensitivity_codec.py`.

In the paper's codec positions are halves, shapes have a learned step, colours are
residual vector quantized (GaussianImage, arXiv:2403.08551, section 3.3), all symbols
are entropy coded, and the file holds everything that decoding needs. Its sections are,
little-endian:

    SIDE  u8 bits of a shape symbol, u16 entries of a codebook, u8 stages;
          float32 step[3], offset[3], codebooks[stages, entries, channels]
    MEAN, SHAP, COLR of codec 1 or GAUS of codec 3: the symbols (`paper_symbols.py`)
"""

import math
import struct
from typing import Any, Final, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gi_jax.arguments import check_image_size, check_integer, check_positive
from gi_jax.coding import bitstream
from gi_jax.coding.bitstream import BitstreamError, Header
from gi_jax.coding.entropy_models import MAX_ALPHABET
from gi_jax.coding.paper_quantizer import (
    MAX_SHAPE_BITS,
    MAX_STAGES,
    PARAMETRIZATIONS,
    PaperState,
    paper_quantizer,
    paper_state,
    quantizer_of,
)
from gi_jax.coding.paper_symbols import (
    ORDERS,
    SHAPE_COLUMNS,
    Alphabets,
    Order,
    SymbolInfo,
    coding_of,
)
from gi_jax.coding.quantization import Fields, Quantizer, UniformParams
from gi_jax.coding.sensitivity_codec import (
    SENSITIVITY_CODEC,
    complete_gaussians,
    read_contents,
)
from gi_jax.coding.vector_quantization import ResidualVQState
from gi_jax.gaussians import Gaussians, blurred, support
from gi_jax.images import to_uint8
from gi_jax.rendering.rasterize import Implementation, check_gaussians, rasterize
from gi_jax.rendering.tiles import TILE

# `decode` renders strips of about this many pixels, in multiples of the rasterizer's
# tiles, which keeps its temporaries below some 100 MiB.
STRIP_PIXELS: Final = 2**22
STRIP_ROWS: Final = 16

# At this scale all pictures are one pixel, and numbers are far from overflowing.
MIN_SCALE: Final = 2.0**-20

_SIDE_TAG: Final = b"SIDE"
_SIDE: Final = struct.Struct("<BHB")
_FLOAT: Final = np.dtype("<f4")


class DecodedGaussians(NamedTuple):
    """What a file says: its picture is the sum of these Gaussians."""

    gaussians: Gaussians
    image_size: tuple[int, int]  # H, W of the fitted picture, pixels


class Contents(NamedTuple):
    """A file before its symbols are decoded."""

    header: Header
    sections: dict[bytes, bytes]  # payloads by tag
    quantizer: Quantizer
    params: Fields
    state: PaperState
    symbols: Fields  # [N, 2], [N, 3], [N, stages] int32, NumPy
    symbol_info: SymbolInfo


def write_gaussians(
    gaussians: Gaussians,
    params: Fields,
    state: PaperState,
    image_size: tuple[int, int],
    *,
    shape_bits: int | None = None,
    order: Order = "sorted",
) -> bytes:
    """Returns the file of Gaussians that are quantized by a `paper_quantizer`.

    Everything that the file needs stands in the params and the state. It decodes to
    what `apply` of the quantizer returns, exactly, but in another order.

    Args:
      gaussians: N Gaussians of C channels, in pixels of the picture.
      params: of the quantizer.
      state: of the quantizer.
      image_size: H, W of the fitted picture, as given to the quantizer.
      shape_bits: may be given to check that the quantizer has so many.
      order: what becomes of the bits that the order of the Gaussians is worth; see
        `paper_symbols.py`. "sorted" is quicker, "bits_back" the paper's proposal.

    Raises:
      ValueError: if the order is unknown, params and state are not those of a
        `paper_quantizer` for these Gaussians, this size and these bits, or something is
        not finite or beyond the limits of `bitstream`.
    """
    if order not in get_args(Order):
        raise ValueError(f"order: expected one of {list(ORDERS)}, got {order!r}")
    check_gaussians(gaussians)
    num_gaussians, channels = gaussians.colors.shape
    coding = ORDERS[order]
    quantizer, state = quantizer_of(params, state)
    number = int(state.parametrization)
    height, width = check_image_size(image_size)
    header = Header(coding.codec, number, width, height, channels, num_gaussians)
    if problem := bitstream.find_problem(header):
        raise ValueError(problem)
    num_stages, codebook_size, codebook_channels = state.colors.codebooks.shape
    learned_bits = int(state.shape_bits)
    given_bits = learned_bits if shape_bits is None else shape_bits
    for name, expected, got in (
        ("image_size", tuple(state.image_size.tolist()), (height, width)),
        ("shape_bits", learned_bits, given_bits),
        ("gaussians", PARAMETRIZATIONS[number].__name__, type(gaussians).__name__),
    ):
        if got != expected:
            raise ValueError(
                f"{name}: the quantizer was made for {expected}, got {got}"
            )
    if codebook_channels != channels:
        raise ValueError(
            f"codebooks: expected {channels} channels, got {codebook_channels}"
        )
    if not _all_finite(gaussians):
        raise ValueError("gaussians: expected finite numbers only")
    symbols = jax.tree.map(np.asarray, quantizer.encode(params, state, gaussians))
    shape, codebooks = params.shape, state.colors.codebooks
    floats = [np.ravel(x).astype(_FLOAT) for x in (shape.step, shape.offset, codebooks)]
    side = _SIDE.pack(learned_bits, codebook_size, num_stages)
    side += np.concatenate(floats).tobytes()
    alphabets = Alphabets(2**learned_bits, codebook_size, num_stages)
    payloads = coding.encode(symbols, alphabets)
    return bitstream.pack(header, {_SIDE_TAG: side} | payloads)


def read_symbols(data: bytes) -> Contents:
    """Returns the symbols of a file of the paper's codec and what decodes them.

    Args:
      data: a whole file; any bytes at all.

    Raises:
      BitstreamError: if it is not a file that `write_gaussians` could have written.
    """
    return read_paper(*bitstream.unpack(data))


def read_paper(header: Header, sections: dict[bytes, bytes]) -> Contents:
    """Returns what `read_symbols` does, from a file that is unpacked already."""
    coding = coding_of(header.codec)
    if header.parametrization not in PARAMETRIZATIONS:
        raise BitstreamError(
            f"expected a parametrization of {list(PARAMETRIZATIONS)}, "
            f"got {header.parametrization}"
        )
    tags = _SIDE_TAG, *coding.tags
    if tuple(sections) != tags:
        raise BitstreamError(f"expected sections {tags}, got {tuple(sections)}")
    side = sections[_SIDE_TAG]
    shape_bits, uniform_params, vq_state = _read_side(side, header.channels)
    num_stages, codebook_size, _ = vq_state.codebooks.shape
    image_size = header.height, header.width
    parametrization = PARAMETRIZATIONS[header.parametrization]
    quantizer = paper_quantizer(
        image_size,
        parametrization=parametrization,
        shape_bits=shape_bits,
        codebook_size=codebook_size,
        num_stages=num_stages,
    )
    alphabets = Alphabets(2**shape_bits, codebook_size, num_stages)
    symbols, info = coding.decode(sections, header.num_gaussians, alphabets)
    params = Fields((), uniform_params, ())
    state = paper_state(
        vq_state, image_size, shape_bits, parametrization=parametrization
    )
    return Contents(header, sections, quantizer, params, state, symbols, info)


def read_gaussians(data: bytes) -> DecodedGaussians:
    """Returns the Gaussians of a file, exactly as the quantizer decodes them.

    Args:
      data: a whole file of any codec; any bytes at all.

    Raises:
      BitstreamError: if it is not a file that `write_gaussians` or `write_symbols`
        could have written.
    """
    return _read(*bitstream.unpack(data))


def _read(header: Header, sections: dict[bytes, bytes]) -> DecodedGaussians:
    image_size = header.height, header.width
    gaussians: Gaussians
    if header.codec == SENSITIVITY_CODEC:
        symbols, step, mean, _ = read_contents(header, sections)
        gaussians = complete_gaussians(symbols, step, mean, image_size)
    else:
        contents = read_paper(header, sections)
        fields = jax.tree.map(jnp.asarray, contents.symbols)
        _, _, quantizer, params, state, *_ = contents
        gaussians = quantizer.decode(params, state, fields)
    if not _all_finite(gaussians):
        raise BitstreamError("parameters that are not finite")
    return DecodedGaussians(gaussians, image_size)


def decode(
    data: bytes,
    *,
    scale: float = 1.0,
    max_pixels: int = bitstream.MAX_PIXELS,
    max_pairs: int | None = None,
    implementation: Implementation | None = None,
) -> np.ndarray:
    """Returns the picture of a file.

    A small file may say a large picture of wide Gaussians. What `max_pixels` and
    `max_pairs` forbid is refused before it is drawn.

    Args:
      data: a whole file; any bytes at all.
      scale: of the returned picture to the fitted one, 2^-20 or more. Smaller
        pictures are those of wider Gaussians, so that they do not alias.
      max_pixels: the most pixels that the returned picture may have.
      max_pairs: the most pairs of a Gaussian and a tile of 16×16 pixels in its box;
        they bound the time. Pictures have some 10 for each tile, and one more for the
        mean colour. By default there is no limit.
      implementation: of `rasterize`.

    Returns:
      [max(1, round(H·scale)), max(1, round(W·scale)), C] uint8.

    Raises:
      BitstreamError: if it is not a file, see `read_gaussians`.
      ValueError: if the scale is impossible, or the picture has more pixels or pairs
        than it may have.
    """
    scale = check_positive("scale", scale)
    if scale < MIN_SCALE:
        raise ValueError(f"scale: expected {MIN_SCALE} or more, got {scale}")
    max_pixels = min(check_integer("max_pixels", max_pixels, 1), bitstream.MAX_PIXELS)
    if max_pairs is not None:
        check_integer("max_pairs", max_pairs, 0)
    header, sections = bitstream.unpack(data)
    sides = [max(1.0, side * scale) for side in (header.height, header.width)]
    if math.prod(sides) > max_pixels:
        raise ValueError(
            f"scale: expected a picture of at most {max_pixels} pixels (max_pixels), "
            f"got {sides[1]:.0f}x{sides[0]:.0f} for scale {scale}"
        )
    gaussians = _read(header, sections).gaussians
    if scale < 1:
        # A pixel is the mean of a square of 1 / scale pixels of the fitted picture: as
        # much wider, by its variance, than one of those.
        gaussians = blurred(gaussians, (1 / scale**2 - 1) / 12)
    height, width = map(round, sides)
    if max_pairs is not None:
        pairs = _count_pairs(gaussians, scale, (height, width))
        if pairs > max_pairs:
            raise ValueError(
                f"max_pairs: expected at most {max_pairs} pairs of Gaussian and tile, "
                f"got {pairs}"
            )
    rows = max(1, STRIP_PIXELS // width // STRIP_ROWS) * STRIP_ROWS
    rows = min(rows, height)  # the same for all strips, so that one compilation serves
    picture = np.empty((height, width, gaussians.colors.shape[1]), np.uint8)
    for top in range(0, height, rows):
        means = gaussians.means - jnp.array([0, top / scale], jnp.float32)
        strip = rasterize(
            gaussians._replace(means=means),
            (rows, width),
            scale=scale,
            implementation=implementation,
        )
        if np.isnan(strip).any():
            raise BitstreamError(
                "more pairs of Gaussian and tile than can be numbered: no picture"
            )
        picture[top : top + rows] = to_uint8(strip)[: height - top]
    return picture


def _count_pairs(
    gaussians: Gaussians, scale: float, image_size: tuple[int, int]
) -> int:
    """Returns how many tiles the boxes of all Gaussians touch in a scaled picture."""
    means, reach = (
        scale * np.asarray(x, np.float64) for x in (gaussians.means, support(gaussians))
    )
    tiles = -(-np.array(image_size[::-1]) // TILE)
    first = np.clip(np.floor((means - reach) / TILE), 0, tiles)
    last = np.clip(np.floor((means + reach) / TILE) + 1, 0, tiles)
    return int(np.prod(last - first, axis=1).sum())


def _read_side(
    side: bytes, channels: int
) -> tuple[int, UniformParams, ResidualVQState]:
    if len(side) < _SIDE.size:
        raise BitstreamError("section SIDE is cut off")
    shape_bits, codebook_size, num_stages = _SIDE.unpack_from(side)
    if not (
        1 <= shape_bits <= MAX_SHAPE_BITS
        and 1 <= codebook_size <= MAX_ALPHABET
        and 1 <= num_stages <= MAX_STAGES
    ):
        raise BitstreamError(
            f"section SIDE: {shape_bits} bits, {codebook_size} entries and "
            f"{num_stages} stages are out of range"
        )
    shape = num_stages, codebook_size, channels
    expected = _SIDE.size + _FLOAT.itemsize * (2 * SHAPE_COLUMNS + math.prod(shape))
    if len(side) != expected:
        raise BitstreamError(
            f"section SIDE: expected {expected} bytes, got {len(side)}"
        )
    floats = np.frombuffer(side, _FLOAT, offset=_SIDE.size).astype(np.float32)
    if not np.isfinite(floats).all():
        raise BitstreamError("section SIDE: numbers that are not finite")
    step, offset, codebooks = np.split(floats, [SHAPE_COLUMNS, 2 * SHAPE_COLUMNS])
    params = UniformParams(jnp.asarray(step), jnp.asarray(offset))
    counts = jnp.ones(shape[:2], jnp.float32)  # decoding does not use them
    state = ResidualVQState(jnp.asarray(codebooks.reshape(shape)), counts)
    return shape_bits, params, state


def _all_finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))
