"""Bits-back coding: round trips of multisets, what it saves, and forged payloads."""

import math

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gi_jax.coding.bits_back import NOISE, decode_rows, encode_rows, saving_bound
from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.entropy_models import encode_counts, encode_varint

# As of a Gaussian: high and low bytes of y and x, three of shape, two of colour.
GAUSSIAN = (256, NOISE, 256, NOISE, 64, 64, 64, 8, 8)
POOR = (NOISE, 4, 3)  # a few bits beside the noise: the stack is filled slowly

GOLDEN_PAYLOAD = "000000000001000000000000000000060505040106098aedb01cd5010000"

fast = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def _rows(seed: int, count: int, alphabets, copies: int = 1) -> np.ndarray:
    """Rows in no order, all columns of which are skewed but noise."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.integers(0, 256, count)
        if alphabet == NOISE
        else np.minimum(rng.exponential(alphabet / 8, count), alphabet - 1)
        for alphabet in alphabets
    ]
    rows = np.stack(columns, axis=1).astype(np.int32)
    return rows[rng.integers(0, -(-count // copies), count)] if copies > 1 else rows


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("alphabets", [GAUSSIAN, POOR, (NOISE,), (NOISE, 1, 256)])
@pytest.mark.parametrize("copies", [1, 7, 10**6])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 1000])
def test_decode_gives_back_the_multiset(alphabets, copies, count):
    rows = _rows(count, count, alphabets, copies)
    payload = encode_rows(rows, alphabets)
    decoded, num_plain, _ = decode_rows(payload, count, alphabets)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, _sorted(rows))
    assert min(count, 1) <= num_plain <= count
    assert encode_rows(decoded, alphabets) == payload  # the order leaves no trace


@fast
@given(
    st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=40), st.data()
)
def test_any_number_of_plain_rows(rows, data):
    rows = np.array(rows)
    num_plain = data.draw(st.integers(1, len(rows)))
    payload = encode_rows(rows, POOR, num_plain=num_plain)
    decoded = decode_rows(payload, len(rows), POOR)
    np.testing.assert_array_equal(decoded.rows, _sorted(rows))
    assert decoded.num_plain == num_plain


@pytest.mark.parametrize("count", [1000, 10_000])
def test_the_saving_is_log2_of_n_factorial_less_log2_n(count):
    rows = _rows(0, count, GAUSSIAN)
    payload = encode_rows(rows, GAUSSIAN)
    in_order = encode_rows(rows, GAUSSIAN, num_plain=count)
    bound = math.lgamma(count + 1) / math.log(2) - math.log2(count)
    assert math.isclose(bound, saving_bound(count))
    saved = 8 * (len(in_order) - len(payload))
    # Within a word of 32 bits, and 1 % for probabilities of 24 bits.
    assert abs(saved - bound) < 0.01 * bound + 32
    decoded = decode_rows(payload, count, GAUSSIAN)
    assert decoded.num_plain == 1
    assert abs(decoded.saved_bits - saved) < 64
    assert abs(decode_rows(in_order, count, GAUSSIAN).saved_bits) < 64


def test_copies_are_coded_without_their_order_too():
    count, copies = 2000, 40
    rows = _rows(0, count, GAUSSIAN, copies)
    numbers = np.unique(rows, axis=0, return_counts=True)[1]
    orders = math.lgamma(count + 1) - sum(math.lgamma(n + 1) for n in numbers)
    decoded = decode_rows(encode_rows(rows, GAUSSIAN), count, GAUSSIAN)
    bound = orders / math.log(2) - math.log2(count)
    assert 0.98 * bound - 32 < decoded.saved_bits < bound + 32


@pytest.mark.parametrize("alphabets", [GAUSSIAN, POOR])
@pytest.mark.parametrize("count", [2, 40, 150])
def test_no_other_number_of_plain_rows_is_better(alphabets, count):
    """By a word at most, which is what sizes are counted in."""
    rows = _rows(1, count, alphabets)
    payload = encode_rows(rows, alphabets)
    sizes = [
        len(encode_rows(rows, alphabets, num_plain=k)) for k in range(1, count + 1)
    ]
    assert len(payload) <= min(sizes) + 4
    assert len(payload) in sizes


def test_bytes_are_those_of_the_format():
    """The words are constriction's; another version of it has to give the same."""
    rows = np.array([[0, i % 3, i * i % 3] for i in range(14)] + [[1, 3, 0]])
    payload = encode_rows(rows, POOR, num_plain=6)
    assert payload.hex() == GOLDEN_PAYLOAD
    decoded = decode_rows(bytes.fromhex(GOLDEN_PAYLOAD), 15, POOR)
    np.testing.assert_array_equal(decoded.rows, _sorted(rows))


@pytest.mark.parametrize(("count", "num_plain"), [(9, 2), (15, 1), (200, 9), (60, 60)])
def test_a_payload_is_what_its_description_says(count, num_plain):
    """Written once more, with a list in the place of whatever is quick."""
    alphabet = 5
    rows = _rows(3, count, (alphabet, NOISE), copies=2)
    left = sorted(map(tuple, rows.tolist()))
    counts = np.bincount(rows[:, 0], minlength=alphabet)
    ranks = np.cumsum(counts > 0) - 1
    frequencies = counts[counts > 0].astype(float)
    model = constriction.stream.model.Categorical(frequencies, perfect=False)
    uniform = constriction.stream.model.Uniform
    stack, noise = constriction.stream.stack.AnsCoder(), []
    for step in range(count):
        number = 0
        if step >= num_plain:
            number = stack.decode(uniform(len(left))) if len(left) > 1 else 0
            if (copies := left.count(left[number])) > 1:
                stack.encode_reverse(number - left.index(left[number]), uniform(copies))
        symbol, byte = left.pop(number)
        stack.encode_reverse(int(ranks[symbol]), model)
        noise.insert(0, byte)
    words = stack.get_compressed().astype("<u4").tobytes()
    expected = bytes(noise) + encode_varint(num_plain) + encode_counts(counts) + words
    assert encode_rows(rows, (alphabet, NOISE), num_plain=num_plain) == expected


def test_wrong_arguments_are_refused():
    rows = np.array([[0, 1, 2]])
    for wrong in ([[256, 0, 0]], [[0, 4, 0]], [[0, 0, -1]]):
        with pytest.raises(ValueError, match="rows"):
            encode_rows(np.array(wrong), POOR)
    for num_plain in (0, 2):
        with pytest.raises(ValueError, match="num_plain: expected 1 to 1"):
            encode_rows(rows, POOR, num_plain=num_plain)
    with pytest.raises(ValueError, match="alphabets"):
        encode_rows(rows, (NOISE, 257, 3))


@pytest.mark.parametrize("alphabets", [GAUSSIAN, POOR])
@fast
@given(st.data())
def test_changed_payloads_raise_or_give_sorted_rows(alphabets, data):
    payload = bytearray(encode_rows(_rows(0, 40, alphabets, 2), alphabets))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place] = data.draw(st.integers(0, 255))
    del payload[data.draw(st.sampled_from([len(payload), -1, -4, 7])) :]
    try:
        decoded = decode_rows(bytes(payload), 40, alphabets)
    except BitstreamError:
        return
    rows = decoded.rows
    assert ((rows >= 0) & (rows < [a or 256 for a in alphabets])).all()
    np.testing.assert_array_equal(rows, _sorted(rows))


@pytest.mark.parametrize(
    ("payload", "count", "match"),
    [
        (b"\0", 0, "no bytes"),
        (b"\0" * 9, 10, "do not fit"),
        (b"\0" * 100_000, 2**24, "do not fit"),
        (b"\7\7\0\2\2", 2, "0 plain ones of 2"),
        (b"\7\7\3\2\2", 2, "3 plain ones of 2"),
        (b"\7\7\1\2", 2, "cut off"),
        (b"\7\7\1\2\2\1\0\0\0", 2, "more words"),
        (b"\7\7\1\1\1\2", 2, "match their tables"),
    ],
)
def test_payloads_that_no_encoder_wrote(payload, count, match):
    with pytest.raises(BitstreamError, match=match):
        decode_rows(payload, count, POOR)
