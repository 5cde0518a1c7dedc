"""Symbols of the paper's quantizer to sections of a file: codecs 1 and 3.

N Gaussians that are summed have no order. Codec 1 sorts them and codes how positions
rise; codec 3 codes each Gaussian for itself, and has the order paid back.

Codec 1, "sorted": by position, the same order in all sections

    MEAN  positions               (`positions.py`)
    SHAP  three columns of shape  (`entropy_models.py`)
    COLR  a column for each stage (`entropy_models.py`)

Codec 3, "bits_back":

    GAUS  a row for each Gaussian (`bits_back.py`): high and low byte of y, of x; three
          symbols of shape; a symbol for each stage. Low bytes are noise, eight mantissa
          bits of a half.

Codec 3 reads Gaussians in the order of codec 1; where positions are equal, shapes and
then colours decide, while codec 1 leaves those as they were.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

import numpy as np

from gi_jax.coding.bits_back import NOISE, decode_rows, encode_rows, saving_bound
from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.entropy_models import MAX_ALPHABET, decode_columns, encode_columns
from gi_jax.coding.positions import decode_positions, encode_positions, sorted_order
from gi_jax.coding.quantization import Fields

Order = Literal["sorted", "bits_back"]

PAPER_CODEC: Final = 1  # in the header
BITS_BACK_CODEC: Final = 3

SHAPE_COLUMNS: Final = 3  # of both parametrizations

_POSITION: Final = (MAX_ALPHABET, NOISE)  # high and low byte of a coordinate
_POSITION_COLUMNS: Final = 2 * len(_POSITION)


class Alphabets(NamedTuple):
    """How many symbols there are."""

    shape: int
    codebook: int
    num_stages: int


class SymbolInfo(NamedTuple):
    """What the order of the Gaussians did to a file."""

    order: Order
    num_plain: int  # Gaussians that are coded in a given order
    saved: float  # bits that bits-back coding saved
    bound: float  # and what it could save at most


class SymbolCoding(NamedTuple):
    """A way from symbols to sections and back.

    encode: symbols (Fields of [N, 2], [N, 3] and [N, num_stages]), Alphabets ->
      payloads by tag.
    decode: payloads by tag, any bytes at all; N; Alphabets -> symbols, SymbolInfo.
      Raises BitstreamError if N symbols cannot have been encoded to these payloads.
    """

    codec: int
    tags: tuple[bytes, ...]
    encode: Callable[[Fields, Alphabets], dict[bytes, bytes]]
    decode: Callable[[Mapping[bytes, bytes], int, Alphabets], tuple[Fields, SymbolInfo]]


def _encode_sorted(symbols: Fields, alphabets: Alphabets) -> dict[bytes, bytes]:
    order = sorted_order(symbols.means)
    means, shapes, colors = (field[order] for field in symbols)
    shape_alphabets, color_alphabets = _columns(alphabets)
    return {
        b"MEAN": encode_positions(means),
        b"SHAP": encode_columns(shapes, shape_alphabets),
        b"COLR": encode_columns(colors, color_alphabets),
    }


def _decode_sorted(
    payloads: Mapping[bytes, bytes], count: int, alphabets: Alphabets
) -> tuple[Fields, SymbolInfo]:
    shape_alphabets, color_alphabets = _columns(alphabets)
    symbols = Fields(
        decode_positions(payloads[b"MEAN"], count),
        decode_columns(payloads[b"SHAP"], count, shape_alphabets),
        decode_columns(payloads[b"COLR"], count, color_alphabets),
    )
    return symbols, SymbolInfo("sorted", count, 0.0, 0.0)


def _encode_bits_back(symbols: Fields, alphabets: Alphabets) -> dict[bytes, bytes]:
    x, y = symbols.means.T
    columns = [y >> 8, y & 0xFF, x >> 8, x & 0xFF, *symbols.shape.T, *symbols.colors.T]
    rows = np.stack(columns, axis=1)
    return {b"GAUS": encode_rows(rows, _row_alphabets(alphabets))}


def _decode_bits_back(
    payloads: Mapping[bytes, bytes], count: int, alphabets: Alphabets
) -> tuple[Fields, SymbolInfo]:
    rows, num_plain, saved = decode_rows(
        payloads[b"GAUS"], count, _row_alphabets(alphabets)
    )
    positions, shapes, colors = np.split(
        rows, [_POSITION_COLUMNS, _POSITION_COLUMNS + SHAPE_COLUMNS], axis=1
    )
    y_high, y_low, x_high, x_low = positions.T
    means = np.stack([x_high << 8 | x_low, y_high << 8 | y_low], axis=1)
    info = SymbolInfo("bits_back", num_plain, saved, saving_bound(count))
    return Fields(means, shapes, colors), info


def _columns(alphabets: Alphabets) -> tuple[list[int], list[int]]:
    shape, codebook, num_stages = alphabets
    return [shape] * SHAPE_COLUMNS, [codebook] * num_stages


def _row_alphabets(alphabets: Alphabets) -> list[int]:
    shapes, colors = _columns(alphabets)
    return [*_POSITION, *_POSITION, *shapes, *colors]


ORDERS: Final[dict[Order, SymbolCoding]] = {
    "sorted": SymbolCoding(
        PAPER_CODEC, (b"MEAN", b"SHAP", b"COLR"), _encode_sorted, _decode_sorted
    ),
    "bits_back": SymbolCoding(
        BITS_BACK_CODEC, (b"GAUS",), _encode_bits_back, _decode_bits_back
    ),
}


def coding_of(codec: int) -> SymbolCoding:
    """Returns the coding that a header names.

    Raises:
      BitstreamError: if there is none.
    """
    for coding in ORDERS.values():
        if coding.codec == codec:
            return coding
    expected = " or ".join(str(coding.codec) for coding in ORDERS.values())
    raise BitstreamError(f"expected codec {expected}, got {codec}")
