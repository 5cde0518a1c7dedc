"""Static models of integer columns: a table of counts each, coded by ANS.

The table of a column holds how often each symbol occurs, exactly. It costs a byte or so
per symbol, needs no assumption about the distribution, and what was decoded can be
checked against it.

The payload of some columns of N symbols:

    for each column, its counts, symbol by symbol from 0, until they sum to N:
        a count above 0 as a varint; r symbols that do not occur as a byte 0 and the
        varint r - 1
    u32 words (little-endian) of constriction's AnsCoder, to the end

Varints are LEB128: 7 bits per byte, low bits first, high bit set on all but the last.
A column with a single symbol takes nothing but its table, and N = 0 takes nothing.

Reference:
  constriction (R. Bamler, arXiv:2201.01741). Its versions 0.4.2 and 0.5.0 were seen to
  give the same words.
"""

from collections.abc import Sequence
from typing import Final

import constriction
import numpy as np

from gi_jax.coding.bitstream import BitstreamError

# Tables of wider symbols would outweigh the symbols: split those into bytes.
MAX_ALPHABET: Final = 256

WORD: Final = np.dtype("<u4")  # of constriction, in payloads


def encode_columns(symbols: np.ndarray, alphabets: Sequence[int]) -> bytes:
    """Returns the payload of columns of symbols.

    Args:
      symbols: [N, k] integers; column j in 0..alphabets[j] - 1.
      alphabets: k numbers of symbols, 1 to MAX_ALPHABET.

    Raises:
      ValueError: if a symbol is not in its alphabet.
    """
    tables, models = bytearray(), []
    for column, alphabet in zip(symbols.T, checked_alphabets(alphabets), strict=True):
        if column.size and not (column.min() >= 0 and column.max() < alphabet):
            raise ValueError(
                f"symbols: expected 0 to {alphabet - 1}, "
                f"got {column.min()} to {column.max()}"
            )
        counts = np.bincount(column, minlength=alphabet)
        tables += encode_counts(counts)
        models.append(rank_model(counts))
    coder = constriction.stream.stack.AnsCoder()
    for column, (occurring, model) in reversed(list(zip(symbols.T, models))):
        if model is not None:
            ranks = np.searchsorted(occurring, column).astype(np.int32)
            coder.encode_reverse(ranks, model)
    return bytes(tables) + coder.get_compressed().astype(WORD).tobytes()


def decode_columns(
    payload: bytes, num_symbols: int, alphabets: Sequence[int]
) -> np.ndarray:
    """Returns what `encode_columns` was given.

    Args:
      payload: any bytes at all.
      num_symbols: N, trusted: this much is allocated.
      alphabets: k numbers of symbols, 1 to MAX_ALPHABET.

    Returns:
      [N, k] int32.

    Raises:
      BitstreamError: if the payload is not exactly one of N symbols.
    """
    start, tables = 0, []
    for alphabet in checked_alphabets(alphabets):
        counts, start = decode_counts(payload, start, num_symbols, alphabet)
        tables.append(counts)
    coder = open_coder(payload, start)
    symbols = np.empty((num_symbols, len(tables)), np.int32)
    for column, counts in zip(symbols.T, tables):
        occurring, model = rank_model(counts)
        if model is None:
            column[:] = occurring[0] if num_symbols else 0
            continue
        ranks = coder.decode(model, num_symbols)
        if (np.bincount(ranks, minlength=occurring.size) != counts[occurring]).any():
            raise BitstreamError("coded symbols: they do not match their table")
        column[:] = occurring[ranks]
    if not coder.is_empty():
        raise BitstreamError("coded symbols: more words than symbols")
    return symbols


def encode_varint(value: int) -> bytes:
    """Returns a number of 0 or more as LEB128."""
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def decode_varint(payload: bytes, start: int) -> tuple[int, int]:
    """Returns the number at `start` and where it ends.

    Raises:
      BitstreamError: if it is cut off, above 32 bits or longer than it has to be.
    """
    value, position = 0, start
    for shift in range(0, 35, 7):
        if position >= len(payload):
            raise BitstreamError("a table of counts is cut off")
        byte = payload[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 2**32 or (shift and byte == 0):
                break
            return value, position
    raise BitstreamError("a number in a table of counts is malformed")


def open_coder(payload: bytes, start: int) -> constriction.stream.stack.AnsCoder:
    """Returns the coder of the words from `start` to the end of a payload.

    Raises:
      BitstreamError: if no coder could have left them.
    """
    if (len(payload) - start) % WORD.itemsize:
        raise BitstreamError("coded symbols: expected a whole number of 32-bit words")
    words = np.frombuffer(payload, WORD, offset=start).astype(np.uint32)
    if words.size and words[-1] == 0:
        raise BitstreamError("coded symbols: the last word is 0")
    return constriction.stream.stack.AnsCoder(words)


def checked_alphabets(alphabets: Sequence[int]) -> Sequence[int]:
    """Returns numbers of symbols; raises ValueError if a table has no room for them."""
    if not all(1 <= alphabet <= MAX_ALPHABET for alphabet in alphabets):
        raise ValueError(f"alphabets: expected 1 to {MAX_ALPHABET}, got {alphabets}")
    return alphabets


def rank_model(counts: np.ndarray) -> tuple:
    """Returns the symbols that occur, and a model of their ranks if it takes one.

    constriction gives every symbol of a model some probability and needs at least two.
    """
    occurring = np.flatnonzero(counts)
    if occurring.size < 2:
        return occurring, None
    frequencies = counts[occurring].astype(np.float64)
    model = constriction.stream.model.Categorical(frequencies, perfect=False)
    return occurring, model


def encode_counts(counts: np.ndarray) -> bytes:
    """Returns the table of a column."""
    table, absent = bytearray(), 0
    for count in counts.tolist():
        if count == 0:
            absent += 1
            continue
        if absent:
            table += b"\0" + encode_varint(absent - 1)
            absent = 0
        table += encode_varint(count)
    return bytes(table)  # the rest follows from the sum


def decode_counts(
    payload: bytes, start: int, total: int, alphabet: int
) -> tuple[np.ndarray, int]:
    """Returns the counts [alphabet] of the table at `start`, and where it ends.

    Raises:
      BitstreamError: if it is not a table of counts with this total.
    """
    counts = np.zeros(alphabet, np.int64)
    symbol, left = 0, total
    while left:
        count, start = decode_varint(payload, start)
        if count == 0:
            absent, start = decode_varint(payload, start)
            symbol += absent + 1
            count, start = decode_varint(payload, start)
        if symbol >= alphabet or not 0 < count <= left:
            raise BitstreamError(
                f"a table of counts does not sum to {total} in {alphabet} symbols"
            )
        counts[symbol] = count
        symbol, left = symbol + 1, left - count
    return counts, start
