"""Adaptive entropy coding of integers in batches, the same code in both directions.

Frequencies start from a prior and follow the symbols, so that a file holds no tables.
They are updated after batches instead of single symbols: then NumPy does the work, and
a batch that is a fraction of what was seen before loses next to nothing.

`Encoder` and `Decoder` have the same methods. A format is one function that calls them
in one order; it passes the values when it encodes, and gets them back when it decodes.

Symbols go to constriction's `AnsCoder` (R. Bamler, arXiv:2201.01741) with its models of
24 bits. `Uniform` is integer arithmetic; `Categorical` is given integers as float64 and
takes sums, a quotient and products of them in a fixed order, which IEEE 754 defines.
"""

from collections.abc import Iterator
from typing import Final

import constriction
import numpy as np

from gi_jax.coding.bitstream import BitstreamError

# What one symbol adds to its frequency; priors are in the same unit.
INCREMENT: Final = 32

# A batch has this many symbols, and in addition a share of those before it.
FIRST_BATCH: Final = 16
BATCH_SHARE: Final = 8
MAX_BATCH: Final = 2**14  # bounds memory

# `Uniform` sizes are below 2^24.
MAX_SIZE: Final = 2**24 - 1

_WORD: Final = np.dtype("<u4")
_uniform = constriction.stream.model.Uniform()
_categorical = constriction.stream.model.Categorical(perfect=False)


class Table:
    """Frequencies of the symbols of an alphabet in each of some contexts.

    f = INCREMENT · n + prior for n symbols seen.
    """

    def __init__(self, prior: np.ndarray):
        """Starts from a prior, [contexts, alphabet] integers above 0."""
        self._prior = np.array(prior, np.int64)
        self.counts = np.zeros_like(self._prior)
        self._frequencies: np.ndarray | None = None

    @property
    def frequencies(self) -> np.ndarray:
        """[contexts, alphabet] integers above 0; not to be changed."""
        if self._frequencies is None:
            self._frequencies = INCREMENT * self.counts + self._prior
        return self._frequencies

    def update(self, contexts: np.ndarray, symbols: np.ndarray) -> None:
        """Counts a batch."""
        shape = self.counts.shape
        cells = contexts * shape[1] + symbols
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(shape)
        self._frequencies = None


def batches(count: int, seen: int) -> Iterator[slice]:
    """Divides `count` symbols, which follow `seen` others, into batches."""
    start = 0
    while start < count:
        size = min(FIRST_BATCH + (seen + start) // BATCH_SHARE, MAX_BATCH)
        yield slice(start, min(start + size, count))
        start += size


class Encoder:
    """Collects symbols; `bits` is their ideal code length by name."""

    def __init__(self):
        """Starts empty."""
        self.bits: dict[str, float] = {}
        self._steps: list[tuple[np.ndarray, np.ndarray | None, np.ndarray]] = []

    def uniform(self, name: str, sizes: np.ndarray, values: np.ndarray | None):
        """Codes integers 0 to size - 1 that are equally probable.

        Args:
          name: for `bits`.
          sizes: [n] 1 to MAX_SIZE.
          values: [n]; None when decoding.

        Returns:
          The values, [n] int32.
        """
        assert values is not None
        assert ((values >= 0) & (values < sizes)).all()
        _note(self.bits, name, np.log2(sizes))
        several = sizes > 1
        self._steps.append((sizes[several], None, values[several]))
        return values.astype(np.int32)

    def adaptive(
        self, name: str, table: Table, contexts: np.ndarray, values: np.ndarray | None
    ):
        """Codes integers by a table, which then learns them.

        Args:
          name: for `bits`.
          table: of the frequencies.
          contexts: [n] rows of the table.
          values: [n] columns of the table; None when decoding.

        Returns:
          The values, [n] int32.
        """
        assert values is not None
        frequencies = table.frequencies
        _note(self.bits, name, _costs(frequencies, contexts, values))
        self._steps.append((frequencies, contexts, values))
        table.update(contexts, values)
        return values.astype(np.int32)

    def finish(self) -> bytes:
        """Returns the payload: whole words of 32 bits."""
        coder = constriction.stream.stack.AnsCoder()
        for parameters, contexts, values in reversed(self._steps):
            symbols = values.astype(np.int32)
            if not symbols.size:
                continue
            if contexts is None:
                coder.encode_reverse(symbols, _uniform, parameters.astype(np.int32))
            else:
                rows = parameters[contexts].astype(np.float64)
                coder.encode_reverse(symbols, _categorical, rows)
        return coder.get_compressed().astype(_WORD).tobytes()


class Decoder:
    """Gives back the symbols of a payload; see `Encoder` for the methods.

    Their ideal code length is computed only on demand: that takes time.
    """

    def __init__(self, payload: bytes, *, account: bool = False):
        """Starts at the first symbol of any bytes at all; fills `bits` to `account`."""
        if len(payload) % _WORD.itemsize:
            raise BitstreamError("coded symbols: expected whole 32-bit words")
        words = np.frombuffer(payload, _WORD).astype(np.uint32)
        if words.size and words[-1] == 0:
            raise BitstreamError("coded symbols: the last word is 0")
        self.bits: dict[str, float] = {}
        self._account = account
        self._coder = constriction.stream.stack.AnsCoder(words)

    def uniform(self, name: str, sizes: np.ndarray, values: np.ndarray | None):
        """Decodes 0 to size - 1; raises BitstreamError where a size is impossible."""
        del values
        if not ((sizes > 0) & (sizes <= MAX_SIZE)).all():
            raise BitstreamError(f"coded symbols: no {name} is possible")
        if self._account:
            _note(self.bits, name, np.log2(sizes))
        several = sizes > 1
        decoded = np.zeros(sizes.shape, np.int32)
        if several.any():
            sizes = sizes[several].astype(np.int32)
            decoded[several] = self._coder.decode(_uniform, sizes)
        return decoded

    def adaptive(
        self, name: str, table: Table, contexts: np.ndarray, values: np.ndarray | None
    ):
        """Decodes integers by a table, which then learns them."""
        del values
        if not contexts.size:
            return np.zeros(0, np.int32)
        frequencies = table.frequencies
        rows = frequencies[contexts].astype(np.float64)
        decoded = self._coder.decode(_categorical, rows)
        if self._account:
            _note(self.bits, name, _costs(frequencies, contexts, decoded))
        table.update(contexts, decoded)
        return decoded

    def finish(self) -> None:
        """Raises BitstreamError if something is left."""
        if not self._coder.is_empty():
            raise BitstreamError("coded symbols: more words than symbols")


Coder = Encoder | Decoder


def _costs(
    frequencies: np.ndarray, contexts: np.ndarray, values: np.ndarray
) -> np.ndarray:
    totals = frequencies.sum(axis=1)
    return np.log2(totals[contexts] / frequencies[contexts, values])


def _note(bits: dict[str, float], name: str, costs: np.ndarray) -> None:
    bits[name] = bits.get(name, 0.0) + float(np.sum(costs))
