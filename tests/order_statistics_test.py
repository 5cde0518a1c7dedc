"""Numbers of things in their order, against lists."""

import numpy as np
import pytest

from gi_jax.coding import order_statistics
from gi_jax.coding.order_statistics import RemainingCopies, SortedRows


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 100])
def test_taking_copies_is_that_of_a_list(count):
    rng = np.random.default_rng(count)
    copies = rng.integers(1, 4, count).tolist()
    expected = [thing for thing, n in enumerate(copies) for _ in range(n)]
    remaining = RemainingCopies(copies)
    while expected:
        number = int(rng.integers(len(expected)))
        thing = expected[number]
        assert remaining.take(number) == (thing, number - expected.index(thing))
        expected.remove(thing)


@pytest.mark.parametrize("length", [1, 3])
def test_sorted_rows_are_a_sorted_list(length, monkeypatch):
    monkeypatch.setattr(order_statistics, "_BLOCK", 4)  # many blocks
    rng = np.random.default_rng(length)
    rows, expected = SortedRows(), []
    for _ in range(500):
        row = rng.bytes(length)
        copies = expected.count(row)
        expected = sorted([*expected, row])
        assert rows.insert(row) == (expected.index(row), copies)
    assert rows.to_list() == expected
