"""Coding of positions, whose order means nothing.

N Gaussians that are summed have no order, so a file may choose one. Sorted by y, then
by x, the y are a rising sequence that is coded by its differences. This collects most
of the log2 N! bits that a given order would cost, without bits-back coding, which
GaussianImage (arXiv:2403.08551, section 3.3) proposes for it and leaves out of its
code. What is lost against log2 N! is the order of x among equal y.

The payload, for symbols of 16 bits:

    N bytes  low bytes of x, plain: they are noise (eight mantissa bits of a half), and
             give every Gaussian a byte of its own (`bitstream.py`)
    columns  (`entropy_models.py`) high and low byte of the y differences, the first of
             which is y itself; high byte of x
"""

from typing import Final

import numpy as np

from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.entropy_models import decode_columns, encode_columns

MAX_SYMBOL: Final = 0xFFFF

_BYTES: Final = (256, 256, 256)


def sorted_order(symbols: np.ndarray) -> np.ndarray:
    """Returns the permutation [N] that sorts position symbols [N, 2] by y, then x."""
    return np.lexsort((symbols[:, 0], symbols[:, 1]))


def encode_positions(symbols: np.ndarray) -> bytes:
    """Returns the payload of sorted positions.

    Args:
      symbols: [N, 2] x and y, 0..65535, in `sorted_order`.

    Raises:
      ValueError: if they are out of range or not sorted.
    """
    x, y = symbols.T.astype(np.int64)
    if symbols.size and not (symbols.min() >= 0 and symbols.max() <= MAX_SYMBOL):
        raise ValueError(
            f"symbols: expected 0 to {MAX_SYMBOL}, "
            f"got {symbols.min()} to {symbols.max()}"
        )
    if not _is_sorted(x, y):
        raise ValueError("symbols: expected positions in `sorted_order`")
    rise = np.diff(y, prepend=0)
    columns = np.stack([rise >> 8, rise & 0xFF, x >> 8], axis=1)
    return (x & 0xFF).astype(np.uint8).tobytes() + encode_columns(columns, _BYTES)


def decode_positions(payload: bytes, num_positions: int) -> np.ndarray:
    """Returns what `encode_positions` was given.

    Args:
      payload: any bytes at all.
      num_positions: N.

    Returns:
      [N, 2] int32.

    Raises:
      BitstreamError: if the payload is not exactly one of N sorted positions.
    """
    if len(payload) < num_positions:
        raise BitstreamError(
            f"{num_positions} positions do not fit {len(payload)} bytes"
        )
    low = np.frombuffer(payload, np.uint8, num_positions)
    columns = decode_columns(payload[num_positions:], num_positions, _BYTES)
    x = columns[:, 2] << 8 | low
    y = np.cumsum(columns[:, 0] << 8 | columns[:, 1], dtype=np.int64)
    if num_positions and y[-1] > MAX_SYMBOL:
        raise BitstreamError("positions: y runs out of its range")
    if not _is_sorted(x, y):
        raise BitstreamError("positions: they are not sorted")
    return np.stack([x, y], axis=1).astype(np.int32)


def _is_sorted(x: np.ndarray, y: np.ndarray) -> bool:
    keys = y << 16 | x
    return bool((keys[1:] >= keys[:-1]).all())
