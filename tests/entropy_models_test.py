"""Static models: round trips, rates, and payloads that no encoder wrote."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.entropy_models import (
    decode_columns,
    decode_varint,
    encode_columns,
    encode_varint,
)

GOLDEN_PAYLOAD = "09000009090002032a7e09d2e1dd3df7902c0000"

fast = settings(max_examples=200, deadline=None, derandomize=True)


def _columns(seed: int, n: int, alphabets: list[int]) -> np.ndarray:
    """Columns from skewed to uniform, over part of their alphabets."""
    rng = np.random.default_rng(seed)
    columns = [
        np.minimum(rng.exponential(a * rng.choice([0.01, 0.2, 5]), n), a - 1)
        for a in alphabets
    ]
    return np.stack(columns, axis=1).astype(np.int32)


@fast
@given(
    st.integers(0, 1000),
    st.sampled_from([0, 1, 2, 3, 50, 1000]),
    st.lists(st.integers(1, 256), min_size=1, max_size=4),
)
def test_decode_gives_back_what_was_encoded(seed, n, alphabets):
    symbols = _columns(seed, n, alphabets)
    payload = encode_columns(symbols, alphabets)
    decoded = decode_columns(payload, n, alphabets)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)


def test_rate_is_the_entropy():
    symbols = _columns(2, 20_000, [256, 64, 8])
    bits = 0.0
    for column in symbols.T:
        counts = np.bincount(column)
        p = counts[counts > 0] / column.size
        bits -= column.size * (p * np.log2(p)).sum()
    payload = encode_columns(symbols, [256, 64, 8])
    # Tables take at most three bytes per symbol, ANS less than two words.
    assert bits / 8 <= len(payload) <= 1.0005 * bits / 8 + 3 * (256 + 64 + 8) + 8


def test_one_symbol_and_no_symbols_cost_a_table():
    assert encode_columns(np.zeros((0, 3), np.int32), [8, 8, 8]) == b""
    assert encode_columns(np.full((300, 1), 5), [8]) == b"\0\4" + encode_varint(300)


def test_bytes_are_those_of_the_format():
    """The words are constriction's; another version of it has to give the same."""
    symbols = np.array([[0, 3, 2, 3, 2, 0, 2, 3, 0, 7] * 3]).T
    assert encode_columns(symbols, [8]).hex() == GOLDEN_PAYLOAD
    np.testing.assert_array_equal(
        decode_columns(bytes.fromhex(GOLDEN_PAYLOAD), 30, [8]), symbols
    )


def test_symbols_outside_the_alphabet_are_refused():
    for wrong in ([[8]], [[-1]]):
        with pytest.raises(ValueError, match="expected 0 to 7"):
            encode_columns(np.array(wrong), [8])
    with pytest.raises(ValueError, match="alphabets"):
        encode_columns(np.array([[0]]), [257])


@given(st.integers(0, 2**32 - 1))
def test_varints(value):
    payload = encode_varint(value)
    assert decode_varint(b"x" + payload, 1) == (value, 1 + len(payload))
    with pytest.raises(BitstreamError):
        decode_varint(payload[:-1], 0)


@pytest.mark.parametrize("wrong", [b"\x80\0", b"\xff" * 5, b"\xff\xff\xff\xff\x10"])
def test_malformed_varints_are_refused(wrong):
    with pytest.raises(BitstreamError, match="malformed"):
        decode_varint(wrong, 0)


@fast
@given(st.data())
def test_changed_payloads_raise_or_give_symbols(data):
    alphabets = [64, 8]
    symbols = _columns(data.draw(st.integers(0, 9)), 50, alphabets)
    payload = bytearray(encode_columns(symbols, alphabets))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(
            st.integers(0, 255)
        )
    del payload[data.draw(st.sampled_from([len(payload), -1, -4, 7])) :]
    try:
        decoded = decode_columns(bytes(payload), 50, alphabets)
    except BitstreamError:
        return
    assert decoded.shape == (50, 2) and (decoded >= 0).all()
    assert (decoded < alphabets).all()


@fast
@given(st.binary(max_size=200), st.sampled_from([0, 1, 5, 1000]))
def test_random_payloads_raise_or_give_symbols(payload, n):
    try:
        decoded = decode_columns(payload, n, [256, 3])
    except BitstreamError:
        return
    assert decoded.shape == (n, 2) and (decoded < [256, 3]).all()


def test_a_table_of_absent_symbols_is_refused_at_once():
    with pytest.raises(BitstreamError, match="does not sum"):
        decode_columns(bytes(10_000_000), 5, [256])
