"""Coding of positions: round trips, the rate, and payloads that no encoder wrote."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.positions import decode_positions, encode_positions, sorted_order
from gi_jax.coding.quantization import chain, float16, normalize

fast = settings(max_examples=200, deadline=None, derandomize=True)


def _sorted(symbols: np.ndarray) -> np.ndarray:
    return symbols[sorted_order(symbols)]


@fast
@given(st.integers(0, 1000), st.integers(0, 60), st.sampled_from([2, 300, 65536]))
def test_decode_gives_back_sorted_positions(seed, n, limit):
    symbols = np.random.default_rng(seed).integers(0, limit, (n, 2), dtype=np.int32)
    symbols = _sorted(symbols)
    decoded = decode_positions(encode_positions(symbols), n)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)


def test_order_is_by_y_then_x():
    symbols = np.array([[3, 2], [1, 2], [9, 0], [1, 2]])
    assert _sorted(symbols).tolist() == [[9, 0], [1, 2], [1, 2], [3, 2]]


def test_random_positions_take_half_of_their_32_bits():
    n, size = 10_000, (512, 768)
    positions = np.random.default_rng(0).random((n, 2)) * size[::-1]
    quantizer = chain(normalize(size), float16())
    symbols = np.asarray(quantizer.encode((), (), positions.astype(np.float32)))
    bits = 8 * len(encode_positions(_sorted(symbols))) / n
    # A uniform coordinate has one bit of sign, ten of mantissa and about two of
    # exponent; no order of 10,000 is worth log2(N!) / N = 11.8 bits. Reached: 15.4.
    bound = 2 * 13 - math.lgamma(n + 1) / math.log(2) / n
    assert bound < bits < bound + 1.5 < 16


def test_unsorted_and_wide_symbols_are_refused():
    with pytest.raises(ValueError, match="sorted_order"):
        encode_positions(np.array([[0, 1], [0, 0]]))
    for wrong in ([[0, 65536]], [[-1, 0]]):
        with pytest.raises(ValueError, match="65535"):
            encode_positions(np.array(wrong))


@fast
@given(st.data())
def test_changed_payloads_raise_or_give_sorted_positions(data):
    n = 40
    symbols = np.random.default_rng(0).integers(0, 65536, (n, 2), dtype=np.int32)
    payload = bytearray(encode_positions(_sorted(symbols)))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(
            st.integers(0, 255)
        )
    del payload[data.draw(st.sampled_from([len(payload), -1, -4, 7])) :]
    try:
        decoded = decode_positions(bytes(payload), n)
    except BitstreamError:
        return
    assert decoded.min() >= 0 and decoded.max() <= 65535
    np.testing.assert_array_equal(decoded, _sorted(decoded))


def test_y_may_not_run_out_of_range():
    # The low bytes of x, then columns with counts: 255 twice, 255 twice, 0 twice.
    table = b"\0\xfe\x01\2"
    payload = b"\0\0" + table + table + b"\2"
    with pytest.raises(BitstreamError, match="out of its range"):
        decode_positions(payload, 2)
