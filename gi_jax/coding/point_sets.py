"""Coding of sets of tiles, whose order means nothing, by halving the region.

A region of tiles is halved again and again, and of the points in each part the number
in its first half is coded. That costs log₂ N! bits less than N positions in an order
would, without bits-back coding. Splits of up to `SMALL` points have adaptive models, so
that the density is learned: by how unequal halves are, and by where points of earlier
sets lie. Empty parts cost nothing.

Parts are intervals of Morton codes: the bits of y and x, interleaved, y first. Halves
of a part are an upper and a lower or a left and a right one in turn.
"""

from typing import Final

import numpy as np

from gi_jax.coding.adaptive_coding import Coder, Table, batches
from gi_jax.coding.priors import Priors

# Splits of more points are coded in BINS of equal shares, and uniformly within those.
SMALL: Final = 16
BINS: Final = 16

# Contexts are divided by how much more points of earlier sets lie in one half: the
# thresholds of (n₁ - n₂)² / (n₁ + n₂), which is about 1 by chance.
IMBALANCES: Final = (1, 3, 9)

CONTEXTS: Final = len(IMBALANCES) + 1


class SplitModel:
    """What is learned of the splits of all sets."""

    def __init__(self, priors: Priors):
        """Starts from what is expected."""
        self.small = Table(priors.small_splits)  # [contexts · (SMALL + 1), SMALL + 1]
        self.large = Table(priors.large_splits)  # [contexts, BINS]
        self.seen = 0


def morton_codes(tiles: np.ndarray) -> np.ndarray:
    """Returns the codes of tiles [n, 2] x, y from 0 to 2^26 - 1, int64."""
    x, y = _spread(tiles[:, 0]), _spread(tiles[:, 1])
    return y << 1 | x


def morton_tiles(codes: np.ndarray) -> np.ndarray:
    """Returns the tiles of codes, [n, 2] x, y int64."""
    return np.stack([_gather(codes), _gather(codes >> 1)], axis=1)


def code_points(
    coder: Coder,
    model: SplitModel,
    count: int,
    shape: tuple[int, int],
    earlier: np.ndarray,
    codes: np.ndarray | None,
) -> np.ndarray:
    """Codes a multiset of tiles.

    Args:
      coder: an `Encoder` or a `Decoder`.
      model: what was learned of earlier sets.
      count: n.
      shape: of the region, columns and rows of tiles.
      earlier: sorted Morton codes of points that are known already.
      codes: [n] sorted Morton codes; None when decoding.

    Returns:
      [n] sorted Morton codes.
    """
    # Part k has counts[k] points, with codes in [starts[k], starts[k] + 2^(level + 1)).
    starts, counts = np.zeros(1, np.int64), np.full(1, count, np.int64)
    corners = np.zeros((1, 2), np.int64)  # its first tile, x, y
    for level in reversed(range(2 * (max(shape) - 1).bit_length())):
        some = counts > 0
        starts, counts, corners = starts[some], counts[some], corners[some]
        axis = level % 2  # x or y, by which it is halved
        second = corners[:, axis] + (1 << level // 2)
        middles = starts + (1 << level)
        first = counts.copy()
        (inside,) = np.nonzero(second < shape[axis])
        for batch in batches(len(inside), model.seen):
            part = inside[batch]
            ends = starts[part], middles[part], middles[part] + (1 << level)
            lower, middle, upper = np.searchsorted(earlier, ends)
            known = None
            if codes is not None:
                low, high = np.searchsorted(codes, ends[:2])
                known = high - low
            halves = middle - lower, upper - middle
            first[part] = _code_splits(coder, model, counts[part], *halves, known)
        model.seen += len(inside)
        starts = np.stack([starts, middles], axis=1).ravel()
        counts = np.stack([first, counts - first], axis=1).ravel()
        corners = np.repeat(corners, 2, axis=0)
        corners[1::2, axis] = second
    return np.repeat(starts, counts)


def _code_splits(coder, model, counts, left, right, first):
    """Codes how many of each part's points lie in its first half.

    Args:
      coder: an `Encoder` or a `Decoder`.
      model: a `SplitModel`.
      counts: [n] points of each part, above 0.
      left: [n] earlier points in its first half.
      right: [n] earlier points in its second half.
      first: [n] points in its first half; None when decoding.
    """
    # The half with more earlier points is coded, so that both sides learn alike.
    swapped = right > left
    if first is not None:
        first = np.where(swapped, counts - first, first)
    total = np.maximum(left + right, 1)
    imbalance = (left - right) ** 2 // total
    contexts = np.digitize(imbalance, IMBALANCES)
    result = np.empty(counts.shape, np.int64)
    small = counts <= SMALL
    for chosen, code in ((small, _code_small), (~small, _code_large)):
        if chosen.any():
            known = None if first is None else first[chosen]
            result[chosen] = code(coder, model, counts[chosen], contexts[chosen], known)
    return np.where(swapped, counts - result, result)


def _code_small(coder, model, counts, contexts, first):
    rows = contexts * (SMALL + 1) + counts
    first = coder.adaptive("tiles", model.small, rows, first)
    return np.minimum(first, counts)


def _code_large(coder, model, counts, contexts, first):
    bins = None if first is None else first * BINS // (counts + 1)
    bins = coder.adaptive("tiles", model.large, contexts, bins).astype(np.int64)
    # The least `first` of a bin and of the next one.
    start, end = (-(-(bins + k) * (counts + 1) // BINS) for k in (0, 1))
    rest = None if first is None else first - start
    return start + coder.uniform("tiles", end - start, rest)


def _spread(values: np.ndarray) -> np.ndarray:
    """Puts a 0 before each of the lower 32 bits."""
    x = values.astype(np.int64)
    for shift, mask in _STEPS:
        x = (x | x << shift) & mask
    return x


def _gather(codes: np.ndarray) -> np.ndarray:
    """Undoes `_spread`, whatever the bits between."""
    x = codes & _STEPS[-1][1]
    masks = [0xFFFFFFFF, *(mask for _, mask in _STEPS[:-1])]
    for (shift, _), mask in zip(reversed(_STEPS), reversed(masks)):
        x = (x | x >> shift) & mask
    return x


_STEPS: Final = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)
