"""Numbers of things in their order, while they come or go one by one.

For coding things whose order means nothing (`bits_back.py`): which of those that are
left is the i-th, and how many of those that were seen come before a new one.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Final

import numpy as np

# Sorted blocks have up to twice this many rows: inserting one moves few pointers, and
# there are few blocks to count.
_BLOCK: Final = 4096


class RemainingCopies:
    """How many copies are left of things in their order, in log n steps.

    Node k of Fenwick's tree, from 1, has the sum of as many things up to the k-th as
    the lowest bit of k says.
    """

    def __init__(self, copies: list[int]):
        """Starts from how many copies there are of each thing, above 0."""
        sums = np.concatenate([[0], np.cumsum(copies, dtype=np.int64)])
        nodes = np.arange(len(sums))
        self._tree = (sums - sums[nodes - (nodes & -nodes)]).tolist()
        self._top = 1 << len(copies).bit_length()

    def take(self, number: int) -> tuple[int, int]:
        """Removes one copy.

        Args:
          number: of the copy, among all copies of all things that are left.

        Returns:
          Which thing it is of, and its number among the copies of that thing.
        """
        tree, which, step = self._tree, 0, self._top
        while step := step >> 1:
            node = which + step
            if node < len(tree):
                if tree[node] <= number:
                    number -= tree[node]
                    which = node
                else:
                    tree[node] -= 1
        return which, number


class SortedRows:
    """Strings of bytes in their order, in few more than sqrt(n) steps for each."""

    def __init__(self):
        """Starts empty."""
        self._blocks: list[list[bytes]] = [[]]
        self._ends: list[bytes] = []  # the last row of each block but the last

    def insert(self, row: bytes) -> tuple[int, int]:
        """Puts a row in its place.

        Returns:
          How many smaller rows there are, and how many others that are equal.
        """
        smaller, _, _ = self._find(row, bisect_left)
        up_to, where, place = self._find(row, bisect_right)
        block = self._blocks[where]
        block.insert(place, row)
        if len(block) >= 2 * _BLOCK:
            self._blocks[where : where + 1] = [block[:_BLOCK], block[_BLOCK:]]
            self._ends.insert(where, block[_BLOCK - 1])
        return smaller, up_to - smaller

    def _find(self, row: bytes, bisect: Callable) -> tuple[int, int, int]:
        """Returns how many rows are before a place, its block and its place there."""
        where = bisect(self._ends, row)
        place = bisect(self._blocks[where], row)
        return place + sum(map(len, self._blocks[:where])), where, place

    def to_list(self) -> list[bytes]:
        """Returns all rows, sorted."""
        return [row for block in self._blocks for row in block]
