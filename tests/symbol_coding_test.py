"""Codec 4 from symbols to payloads: round trips, rates, models, sets of tiles."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.priors import no_priors
from gi_jax.coding.adaptive_coding import INCREMENT, Decoder, Encoder, Table, batches
from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.exact_grids import (
    lattice_scale,
    log_size,
    num_angles,
)
from gi_jax.coding.exact_tables import MAX_CLASS, MAX_COLOR, tables
from gi_jax.coding.point_sets import (
    SMALL,
    SplitModel,
    code_points,
    morton_codes,
    morton_tiles,
)
from gi_jax.coding.priors import load_priors
from gi_jax.coding.rates import rate_tables, symbol_bits
from gi_jax.coding.sensitivity import Symbols
from gi_jax.coding.symbol_coding import coding_order, decode_symbols, encode_symbols
from gi_jax.coding.symbol_models import (
    MIN_BINNED_ANGLES,
    NUM_GROUPS,
    NUM_TOKENS,
    RING_SIZES,
    RING_TOKENS,
    angle_bin,
    angle_range,
    group_of,
    least_of,
    ring_context,
    size_ranges,
    tile_shift,
    token_of,
)
from tests.helpers import random_symbols

SIZE = (90, 130)  # H, W


def _sorted_rows(symbols: Symbols) -> np.ndarray:
    columns = [
        np.reshape(field, (len(symbols.size), math.prod(field.shape[1:])))
        for field in symbols
    ]
    rows = np.concatenate(columns, axis=1)
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize(
    ("count", "channels", "size"),
    [(0, 3, SIZE), (1, 1, (1, 1)), (700, 3, SIZE), (300, 4, (1, 500)), (90, 16, SIZE)],
)
def test_decoding_gives_back_the_set(count, channels, size):
    symbols = random_symbols(count, channels, size)
    payload, bits = encode_symbols(symbols, size)
    decoded, accounted = decode_symbols(payload, count, channels, size, account=True)
    np.testing.assert_array_equal(_sorted_rows(symbols), _sorted_rows(decoded))
    assert all(field.dtype == np.int32 for field in decoded)
    assert accounted == pytest.approx(bits)
    # The order of what is written means nothing; the decoded order is a fixed point.
    shuffled = np.random.default_rng(1).permutation(count)
    again = encode_symbols(Symbols(*(field[shuffled] for field in symbols)), size)[0]
    assert again == payload == encode_symbols(decoded, size)[0]
    # ANS ends with less than three words of 32 bits; models have 24 bits.
    total = sum(bits.values())
    assert total <= 8 * len(payload) <= 1.001 * total + 96


def test_symbols_at_the_ends_of_their_ranges():
    rows = []
    for c in range(MAX_CLASS + 1):
        k = min(MAX_COLOR, round(2 ** (c / 2)))
        for size in (0, tables().num_sizes[c] - 1):
            ring = int(tables().num_rings[c]) - 1
            turns = int(num_angles(np.int32([ring]), np.int32([c]))[0])
            for r, a in ((0, 0), (ring, 0), (ring, turns - 1)):
                rows.append((k, size, r, a))
    k, size, ring, angle = np.array(rows, np.int32).T
    colors = np.stack([0 * k, -k], axis=1)
    symbols = Symbols(colors, size, ring, angle, np.zeros((len(k), 2), np.int32))
    payload, _ = encode_symbols(symbols, SIZE)
    decoded, _ = decode_symbols(payload, len(k), 2, SIZE)
    np.testing.assert_array_equal(_sorted_rows(symbols), _sorted_rows(decoded))


def test_alike_gaussians_are_learned_and_keep_a_bit_each():
    one = random_symbols(1, 3, SIZE)
    many = Symbols(*(np.repeat(field, 4000, axis=0) for field in one))
    payload, _ = encode_symbols(many, SIZE)
    # Sign, and the uniform choices: all the rest is learned.
    assert 4000 <= 8 * len(payload) < 4000 * 16
    decoded, _ = decode_symbols(payload, 4000, 3, SIZE)
    np.testing.assert_array_equal(_sorted_rows(many), _sorted_rows(decoded))


def test_rates_are_those_of_the_file():
    size = (600, 800)
    symbols = random_symbols(3000, 3, size)
    dead = Symbols(*(np.concatenate([x, 0 * x[:7]]) for x in symbols))
    rates = rate_tables(dead, size)
    bits = symbol_bits(rates, dead, size)
    assert (bits[-7:] == 0).all() and (bits[:-7] > 0).all()
    payload, _ = encode_symbols(symbols, size)
    # Places are priced at the margin; the file pays for learning, and more of it than
    # those of pictures: random symbols are not what the priors expect.
    total = bits.sum() + 3000 * math.log2(math.e)
    assert total == pytest.approx(8 * len(payload), rel=0.04)
    jitted = jax.jit(symbol_bits, static_argnums=2)
    actual = jitted(rates, jax.tree.map(jnp.asarray, dead), size)
    np.testing.assert_allclose(actual, bits, rtol=1e-5)


# --- models


def test_tokens_and_ranges_divide_everything():
    magnitudes = np.arange(MAX_COLOR + 1, dtype=np.int32)
    token, width, rest = token_of(magnitudes)
    assert token.max() == NUM_TOKENS - 1 and (np.diff(token) >= 0).all()
    np.testing.assert_array_equal(np.bincount(token), least_of(np.unique(token))[1])
    assert ((rest >= 0) & (rest < width)).all()
    np.testing.assert_array_equal(least_of(token)[0] + rest, magnitudes)
    for n in range(MIN_BINNED_ANGLES, 200):
        angles = np.arange(n, dtype=np.int32)
        bins = angle_bin(angles, np.full_like(angles, n))
        start, count = angle_range(bins, n)
        assert (((angles - start) % n) < count).all()
        np.testing.assert_array_equal(count, np.bincount(bins)[bins])
    c = np.arange(MAX_CLASS + 1, dtype=np.int32)
    for m in (-(10**4), RING_SIZES[0], 10**6):
        context, low_bits = ring_context(c, np.full_like(c, m))
        assert (context < len(load_priors().rings)).all()
        most = (tables().num_rings[c] - 1) >> low_bits
        for k, tokens in enumerate(RING_TOKENS):
            assert most[context // (len(RING_SIZES) + 1) == k].max() == tokens - 1
    first, count = size_ranges()
    for c in (0, 7, MAX_CLASS):
        sizes = np.arange(tables().num_sizes[c], dtype=np.int32)
        classes = np.full_like(sizes, c)
        groups = group_of(lattice_scale(log_size(sizes, classes), classes))
        within = sizes - first[c, groups]
        assert ((within >= 0) & (within < count[c, groups])).all()


def test_tiles_are_some_cells_wide():
    for group in range(NUM_GROUPS):
        scales = np.arange(-400, 400)
        scales = scales[group_of(scales) == group]
        cells = 256 * 2.0 ** (scales / 8)
        side = 2 ** tile_shift(group)
        if side > 4:
            assert (side / cells > 2.9).all() and (side / cells < 11).all()


def test_batches_cover_everything_and_grow():
    for seen in (0, 1000, 10**6):
        slices = list(batches(50_000, seen))
        assert slices[0].start == 0 and slices[-1].stop == 50_000
        assert all(a.stop == b.start for a, b in itertools.pairwise(slices))
    assert sorted(coding_order(1000)) == list(range(1000))
    assert coding_order(200)[:4].tolist() == [0, 64, 128, 192]


def test_tables_learn_from_where_priors_begin():
    table = Table(np.full((3, 4), 32))
    table.update(np.array([2] * 500 + [0]), np.array([3] * 500 + [1]))
    expected = [[32, 64, 32, 32], [32] * 4, [32, 32, 32, 32 + 500 * 32]]
    assert table.frequencies.tolist() == expected


def test_priors_allow_everything_and_cover_all_contexts():
    for prior, flat in zip(load_priors(), no_priors()):
        assert prior.shape == flat.shape
        assert prior.min() >= 1 and prior.sum(axis=1).max() < 100 * INCREMENT


# --- sets of tiles


def _code(shape, codes, earlier=()):
    encoder = Encoder()
    earlier = np.array(earlier, np.int64)
    arguments = len(codes), shape, earlier
    code_points(encoder, SplitModel(load_priors()), *arguments, codes)
    decoder = Decoder(payload := encoder.finish())
    decoded = code_points(decoder, SplitModel(load_priors()), *arguments, None)
    decoder.finish()
    np.testing.assert_array_equal(decoded, codes)
    return 8 * len(payload)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 5), (7, 64), (100, 3)])
def test_sets_come_back_from_any_region(shape):
    rng = np.random.default_rng(0)
    for count in (1, SMALL, 300):
        tiles = np.stack([rng.integers(0, side, count) for side in shape], axis=1)
        np.testing.assert_array_equal(morton_tiles(morton_codes(tiles)), tiles)
        _code(shape, np.sort(morton_codes(tiles)))


def test_order_costs_nothing_and_density_is_learned():
    rng = np.random.default_rng(0)
    side, count = 256, 4000
    order = math.lgamma(count + 1) / math.log(2)
    uniform = np.sort(morton_codes(rng.integers(0, side, (count, 2))))
    entropy = count * 2 * math.log2(side) - order
    bits = _code((side, side), uniform)
    assert 0.99 * entropy < bits < 1.03 * entropy
    dense = np.sort(morton_codes(np.int64(side * rng.beta(2, 6, (count, 2)))))
    assert _code((side, side), dense) < 0.9 * bits
    assert _code((side, side), dense, earlier=dense) < _code((side, side), dense)


# --- payloads that no encoder wrote


def test_wrong_payloads_are_refused():
    symbols = random_symbols(40, 3, SIZE)
    payload, _ = encode_symbols(symbols, SIZE)
    rng = np.random.default_rng(0)
    wrong = [payload[:-1], payload + bytes(4), payload[:-4], payload + b"\1\0\0\0"]
    wrong += [rng.bytes(4 * n) for n in range(40)]
    outcomes = []
    for data in wrong:
        try:
            decoded, _ = decode_symbols(data, 40, 3, SIZE)
            # Then it is the payload of other symbols.
            assert encode_symbols(decoded, SIZE)[0] == data
            outcomes.append(True)
        except BitstreamError:
            outcomes.append(False)
    assert not any(outcomes[:4])
