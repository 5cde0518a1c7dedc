"""Partial bits-back coding of rows whose order means nothing.

N rows that are coded one by one say more than the rows: also which of them came first,
second, third. Bits-back coding hands these bits back. Before a row is pushed on the
stack of an ANS coder, what lies on the stack decides which of the M rows that are left
it is: a number from 0 to M - 1 is popped. The decoder pops the row, sees by the rows
that it has which number it must have been, and pushes that again. All together pop up
to log2 N! bits. A stack has to be filled before it can be popped, so that the first K
rows are coded in a given order, and the bound is log2 N! - log2 N, for K = 1.

    plain  1   2  ..  K          push the row
    back   K + 1  ..  N          pop a number, of log2 M bits, M = N - K .. 1; push its
                                 copy, of log2 d bits; push the row

The M rows are numbered as they are sorted. Where a row has d copies among them, any of
d numbers says the same; which one it was is pushed as well, so that the decoder can
push the number back. Thus N! / (d! ..) orders are paid back, as many as there are.

Every row comes with a number that is popped before it: where a row is worth more than
that, the stack grows although it is popped, and one or two rows fill it. (If the order
of N - K rows were popped at once, the K plain ones would have to be worth log2 (N - K)!
bits: nearly a fifth of all, for Gaussians of 50 bits and N = 10,000.)

A row is a string of bytes, one of each column. Columns have semi-static models, or are
noise: those stay beside the stack, as they are.

The payload of N rows; N = 0 takes nothing:

    bytes of noise, row by row, in the order in which the rows are decoded
    varint K, 1 to N
    tables of the other columns  (`entropy_models.py`)
    u32 words (little-endian) of constriction's AnsCoder, to the end

References:
  GaussianImage, arXiv:2403.08551, section 3.3, which proposes it and leaves it out of
  its code; D. Severo et al., Compressing Multisets with Large Alphabets,
  arXiv:2107.09202, for sampling without replacement and for copies.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import constriction
import numpy as np

from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.entropy_models import (
    MAX_ALPHABET,
    WORD,
    checked_alphabets,
    decode_counts,
    decode_varint,
    encode_counts,
    encode_varint,
    open_coder,
    rank_model,
)
from gi_jax.coding.order_statistics import RemainingCopies, SortedRows

# Stands for the alphabet of a column of bytes that are coded as they are.
NOISE: Final = 0

# constriction's models are of 24 bits: popping a number reads that many and puts back
# what it did not take. A stack of fewer does not reach all numbers.
MODEL_BITS: Final = 24

_uniform = constriction.stream.model.Uniform


class DecodedRows(NamedTuple):
    """What a payload says."""

    rows: np.ndarray  # [N, k] int32, sorted
    num_plain: int  # K
    saved_bits: float  # against the ideal code of the same rows in a given order


class _Column(NamedTuple):
    """What codes a column: its model, or what takes the place of one."""

    place: int  # in a row
    model: object | None  # of ranks; None if a single symbol occurs
    symbols: list[int]  # by rank
    ranks: dict[int, int]


def encode_rows(
    rows: np.ndarray, alphabets: Sequence[int], *, num_plain: int | None = None
) -> bytes:
    """Returns the payload of rows, whose order is lost.

    Args:
      rows: [N, k] integers; column j in 0..alphabets[j] - 1, or 0..255 for NOISE.
      alphabets: k numbers of symbols, 1 to MAX_ALPHABET, or NOISE.
      num_plain: K, 1 to N. By default as many as are needed for the stack to have a
        whole number of MODEL_BITS whenever one is popped, and not with one row less.

    Raises:
      ValueError: if a symbol is not in its alphabet, or `num_plain` out of range.
    """
    count = len(rows)
    limits = np.array([alphabet or MAX_ALPHABET for alphabet in alphabets])
    checked_alphabets(limits.tolist())
    if not ((rows >= 0) & (rows < limits)).all():
        raise ValueError(f"rows: expected symbols of alphabets {limits.tolist()}")
    if num_plain is not None and not 1 <= num_plain <= count:
        raise ValueError(f"num_plain: expected 1 to {count}, got {num_plain}")
    if not count:
        return b""
    tables, columns = bytearray(), []
    for index in _modelled(alphabets):
        counts = np.bincount(rows[:, index], minlength=limits[index])
        tables += encode_counts(counts)
        columns.append(_column(index, counts))
    ordered = sorted(_strings(rows))
    if num_plain is None:
        pushed = _push_fewest_plain(ordered, columns)
    else:
        pushed = _push(ordered, columns, num_plain)
    noise = _table(pushed.rows[::-1], len(alphabets))[:, _noisy(alphabets)]
    head = noise.tobytes() + encode_varint(pushed.num_plain) + bytes(tables)
    return head + pushed.words


def decode_rows(payload: bytes, num_rows: int, alphabets: Sequence[int]) -> DecodedRows:
    """Returns the rows that `encode_rows` was given, sorted.

    Args:
      payload: any bytes at all.
      num_rows: N; allocated only if the payload has noise for as many.
      alphabets: k numbers of symbols, 1 to MAX_ALPHABET, or NOISE; at least one NOISE,
        so that every row has a byte of its own.

    Raises:
      BitstreamError: if the payload is not one of N rows.
    """
    width = len(alphabets)
    noisy = _noisy(alphabets)
    assert noisy
    if not num_rows:
        if payload:
            raise BitstreamError("coded rows: expected no bytes for no rows")
        return DecodedRows(np.zeros((0, width), np.int32), 0, 0.0)
    start = num_rows * len(noisy)
    if len(payload) < start:
        raise BitstreamError(f"{num_rows} rows do not fit {len(payload)} bytes")
    noise = payload[:start]
    num_plain, start = decode_varint(payload, start)
    if not 1 <= num_plain <= num_rows:
        raise BitstreamError(f"coded rows: {num_plain} plain ones of {num_rows}")
    tables, columns = {}, []
    for index in _modelled(alphabets):
        tables[index], start = decode_counts(payload, start, num_rows, alphabets[index])
        columns.append(_column(index, tables[index]))
    coder = open_coder(payload, start)
    rows = _table(_pop(coder, noise, noisy, columns, width, num_plain), width)
    for index, counts in tables.items():
        if (np.bincount(rows[:, index], minlength=counts.size) != counts).any():
            raise BitstreamError("coded rows: they do not match their tables")
    if not coder.is_empty():
        raise BitstreamError("coded rows: more words than rows")
    ideal = sum(map(_code_length, tables.values()))
    saved = ideal - 8 * (len(payload) - start)
    return DecodedRows(rows.astype(np.int32), num_plain, saved)


def saving_bound(num_rows: int) -> float:
    """Returns what bits-back coding can save at most: log2 N! - log2 N bits."""
    return math.lgamma(max(num_rows, 1)) / math.log(2)  # = log2 (N - 1)!


class _Pushed(NamedTuple):
    """Rows as they were pushed, and what the stack has become."""

    num_plain: int
    rows: list[bytes]
    words: bytes


class _RunsDry(Exception):
    """The stack has fewer bits than a number is popped from."""


def _push_fewest_plain(ordered: list[bytes], columns: list[_Column]) -> _Pushed:
    """Pushes as many plain rows as it takes for the stack not to run dry.

    Each one more costs log2 M bits. Runs that fail do so early: where a row is worth
    what a number is popped from, after the first row or not at all.
    """
    fails, works = 0, 1
    pushed = None
    while pushed is None or works - fails > 1:
        plain = works if pushed is None else (fails + works) // 2
        try:
            pushed = _push(ordered, columns, plain, refuse_dry=True)
            works = plain
        except _RunsDry:
            fails = plain
            if pushed is None:
                works = min(2 * works, len(ordered))
    return pushed


def _push(
    ordered: list[bytes],
    columns: list[_Column],
    num_plain: int,
    *,
    refuse_dry: bool = False,
) -> _Pushed:
    """Pushes sorted rows.

    A number that is popped from a stack that is nearly empty comes out smaller than it
    could, and saves less: that can be undone like any other, or refused.
    """
    coder = constriction.stream.stack.AnsCoder()
    backwards = columns[::-1]

    def push(row: bytes) -> None:
        for place, model, _, ranks in backwards:
            if model is not None:
                coder.encode_reverse(ranks[row[place]], model)

    rows = ordered[:num_plain]
    for row in rows:
        push(row)
    numbers = Counter(ordered[num_plain:])
    distinct, copies = list(numbers), list(numbers.values())
    remaining = RemainingCopies(copies)
    for left in range(len(ordered) - num_plain, 0, -1):
        number = 0
        if left > 1:
            if refuse_dry and coder.num_valid_bits() <= MODEL_BITS:
                raise _RunsDry
            number = coder.decode(_uniform(left))
        which, copy = remaining.take(number)
        if copies[which] > 1:
            coder.encode_reverse(copy, _uniform(copies[which]))
        copies[which] -= 1
        push(distinct[which])
        rows.append(distinct[which])
    return _Pushed(num_plain, rows, coder.get_compressed().astype(WORD).tobytes())


def _pop(
    coder: constriction.stream.stack.AnsCoder,
    noise: bytes,
    noisy: list[int],
    columns: list[_Column],
    width: int,
    num_plain: int,
) -> list[bytes]:
    """Undoes `_push`, last row first; returns all rows, sorted."""
    row = bytearray(width)
    plain: list[bytes] = []
    back = SortedRows()
    num_rows = len(noise) // len(noisy)
    num_back = num_rows - num_plain
    values = iter(noise)
    for left in range(1, num_rows + 1):
        for place in noisy:
            row[place] = next(values)
        for place, model, symbols, _ in columns:
            row[place] = symbols[0 if model is None else coder.decode(model)]
        string = bytes(row)
        if left > num_back:
            plain.append(string)
            continue
        number, copies = back.insert(string)
        if copies:
            number += coder.decode(_uniform(copies + 1))
        if left > 1:
            coder.encode_reverse(number, _uniform(left))
    return sorted(plain + back.to_list())


def _noisy(alphabets: Sequence[int]) -> list[int]:
    return [j for j, alphabet in enumerate(alphabets) if alphabet == NOISE]


def _modelled(alphabets: Sequence[int]) -> list[int]:
    return [j for j, alphabet in enumerate(alphabets) if alphabet != NOISE]


def _column(place: int, counts: np.ndarray) -> _Column:
    occurring, model = rank_model(counts)
    symbols = occurring.tolist()
    return _Column(place, model, symbols, {s: rank for rank, s in enumerate(symbols)})


def _code_length(counts: np.ndarray) -> float:
    """Returns the bits of a column by its own table."""
    occurring = counts[counts > 0]
    return float((occurring * np.log2(occurring.sum() / occurring)).sum())


def _strings(rows: np.ndarray) -> list[bytes]:
    data, width = rows.astype(np.uint8).tobytes(), rows.shape[1]
    return [data[a:b] for a, b in pairwise(range(0, len(data) + 1, width))]


def _table(strings: list[bytes], width: int) -> np.ndarray:
    return np.frombuffer(b"".join(strings), np.uint8).reshape(-1, width)
