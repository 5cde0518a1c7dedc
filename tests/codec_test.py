"""The paper's codec: files, pictures, golden files, and files made by an enemy.

The golden files fix the format: what is in tests/golden has to stay readable, and to be
written again byte by byte. After a deliberate change of the format (with a new version
number) write them anew by

    python -c "from tests.codec_test import write_golden; write_golden()"
"""

import json
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gi_jax.coding import bitstream
from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.codec import (
    paper_quantizer,
    read_gaussians,
    read_symbols,
    write_gaussians,
)
from gi_jax.coding.file_info import file_info
from gi_jax.coding.paper_quantizer import paper_state
from gi_jax.coding.paper_symbols import Alphabets, Order, coding_of
from gi_jax.coding.positions import sorted_order
from gi_jax.coding.quantization import (
    Fields,
    UniformParams,
)
from gi_jax.coding.vector_quantization import ResidualVQState
from gi_jax.gaussians import Cholesky, RotationScale

GOLDEN = Path(__file__).parent / "golden"
SIZE = (37, 61)  # H, W
KINDS = pytest.mark.parametrize("kind", [Cholesky, RotationScale])


def _gaussians(kind: type, n: int, channels: int, seed: int = 0):
    """Gaussians that look like a fitted picture's."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(-1, 1, (n, 2)) * SIZE[::-1] / 2 + np.array(SIZE[::-1]) / 2
    colors = 0.3 + 0.2 * rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, channels))
    scales = 3 * np.exp(0.4 * rng.normal(size=(n, 2)))
    third = rng.uniform(0, 3, n)
    if kind is Cholesky:
        fields = means, np.insert(scales, 1, third - 1.5, axis=1), colors
    else:
        fields = means, np.log(scales), third, colors
    return kind(*(jnp.asarray(x, jnp.float32) for x in fields))


def _learned(
    channels: int,
    bits: int = 6,
    entries: int = 8,
    stages: int = 2,
    kind: type = Cholesky,
):
    """Params and state that do not depend on a random generator's version."""
    step = np.float32([4.0, 3.0, 4.0]) / 2**bits
    offset = np.float32([0.5, -1.5, 0.1])
    grid = np.arange(stages * entries * channels, dtype=np.float32) * 0.37 % 1
    codebooks = grid.reshape(stages, entries, channels) - 0.3
    counts = jnp.ones((stages, entries))
    state = ResidualVQState(jnp.asarray(codebooks), counts)
    params = UniformParams(jnp.asarray(step), jnp.asarray(offset))
    return Fields((), params, ()), paper_state(state, SIZE, bits, parametrization=kind)


def _file(kind: type, n: int, channels: int, order: Order = "sorted") -> bytes:
    gaussians = _gaussians(kind, n, channels)
    learned = _learned(channels, kind=kind)
    return write_gaussians(gaussians, *learned, SIZE, order=order)


@KINDS
@pytest.mark.parametrize(("n", "channels"), [(0, 3), (1, 1), (150, 3)])
def test_reading_gives_what_the_quantizer_decodes_bit_for_bit(kind, n, channels):
    gaussians = _gaussians(kind, n, channels)
    quantizer = paper_quantizer(SIZE, parametrization=kind)
    params, state = quantizer.init(jax.random.key(0), gaussians)
    data = write_gaussians(gaussians, params, state, SIZE)
    decoded, image_size = read_gaussians(data)
    symbols = quantizer.encode(params, state, gaussians)
    order = sorted_order(np.asarray(symbols.means))
    symbols = jax.tree.map(lambda x: x[order], symbols)
    jax.tree.map(np.testing.assert_array_equal, symbols, read_symbols(data).symbols)
    expected = jax.jit(quantizer.decode)(params, state, symbols)
    assert image_size == SIZE and type(decoded) is kind
    for a, b in zip(expected, decoded):
        assert b.dtype == jnp.float32
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    in_training = quantizer.apply(params, state, gaussians, jax.random.key(1))[0]
    for a, b in zip(in_training, decoded):
        np.testing.assert_array_equal(np.asarray(a)[order], np.asarray(b))


@KINDS
@pytest.mark.parametrize(("n", "channels"), [(0, 3), (1, 1), (150, 3)])
def test_bits_back_coding_reads_as_sorting_does(kind, n, channels):
    sorted_file, back_file = (
        _file(kind, n, channels, order) for order in ("sorted", "bits_back")
    )
    symbols = [read_symbols(data).symbols for data in (sorted_file, back_file)]
    jax.tree.map(np.testing.assert_array_equal, *symbols)
    assert all(x.dtype == np.int32 for x in jax.tree.leaves(symbols))
    values = [read_gaussians(data) for data in (sorted_file, back_file)]
    jax.tree.map(np.testing.assert_array_equal, *values)
    assert len(back_file) < len(sorted_file)  # Fewer sections, if nothing else.


def test_equal_gaussians_are_all_kept():
    which = np.concatenate([np.arange(15), np.arange(10), np.arange(5)])
    gaussians = jax.tree.map(lambda x: x[which], _gaussians(Cholesky, 30, 3))
    data = write_gaussians(gaussians, *_learned(3), SIZE, order="bits_back")
    symbols = read_symbols(data).symbols
    rows = np.concatenate(symbols, axis=1)
    numbers = np.unique(rows, axis=0, return_counts=True)[1]
    assert sorted(numbers) == [1] * 5 + [2] * 5 + [3] * 5


def test_other_bits_entries_and_stages():
    gaussians = _gaussians(Cholesky, 50, 3)
    for bits, entries, stages in [(1, 1, 1), (8, 256, 3), (3, 5, 8)]:
        params, state = _learned(3, bits, entries, stages)
        data = write_gaussians(gaussians, params, state, SIZE, shape_bits=bits)
        info = file_info(data)
        assert (info.shape_bits, info.codebook_size) == (bits, entries)
        assert info.num_stages == stages
        assert len(read_gaussians(data).gaussians.means) == 50


@pytest.mark.parametrize("channels", [2, 5, bitstream.MAX_CHANNELS])
def test_any_number_of_channels(channels):
    gaussians = read_gaussians(_file(RotationScale, 20, channels)).gaussians
    assert gaussians.colors.shape == (20, channels)


def test_info_accounts_for_every_byte():
    data = _file(RotationScale, 100, 4)
    info = file_info(data)
    assert sum(info.section_bytes.values()) == info.num_bytes == len(data)
    assert info.bits_per_gaussian["total"] == 8 * len(data) / 100
    assert info.bpp == 8 * len(data) / (SIZE[0] * SIZE[1])
    assert (info.parametrization, info.image_size) == ("RotationScale", SIZE)
    assert (info.channels, info.num_gaussians) == (4, 100)
    assert (info.codec, info.order, info.num_plain) == ("paper", "sorted", 100)
    assert info.order_bits == {}
    assert file_info(_file(Cholesky, 0, 1)).bits_per_gaussian == {}


def test_info_says_what_bits_back_coding_saved():
    info = file_info(_file(Cholesky, 150, 3, "bits_back"))
    assert (info.codec, info.order, info.num_plain) == ("paper", "bits_back", 1)
    assert list(info.section_bytes) == ["header", "SIDE", "GAUS"]
    saved, bound = info.order_bits.values()
    assert 0 < bound - saved < 64 / 150  # Words have 32 bits.
    assert file_info(_file(Cholesky, 0, 1, "bits_back")).order_bits == {}


def test_a_file_is_smaller_than_its_plain_symbols():
    gaussians = _gaussians(Cholesky, 5000, 3)
    quantizer = paper_quantizer(SIZE)
    data = write_gaussians(
        gaussians, *quantizer.init(jax.random.key(0), gaussians), SIZE
    )
    assert 8 * len(data) < 0.75 * 56 * 5000


# --- wrong arguments


def test_what_cannot_be_written_is_refused():
    gaussians = _gaussians(Cholesky, 5, 3)
    params, state = _learned(3)
    infinite = gaussians._replace(colors=gaussians.colors.at[2, 1].set(jnp.inf))
    with pytest.raises(ValueError, match="finite"):
        write_gaussians(infinite, params, state, SIZE)
    with pytest.raises(ValueError, match="finite"):
        bad = params._replace(shape=params.shape._replace(step=jnp.full(3, jnp.nan)))
        write_gaussians(gaussians, bad, state, SIZE)
    with pytest.raises(ValueError, match="3 channels, got 2"):
        write_gaussians(gaussians, params, _learned(2)[1], SIZE)
    with pytest.raises(ValueError, match="sides"):
        write_gaussians(gaussians, params, state, (37, 65536))
    with pytest.raises(ValueError, match="order: expected"):
        write_gaussians(gaussians, params, state, SIZE, order="random")
    with pytest.raises(ValueError, match="shape_bits"):
        paper_quantizer(SIZE, shape_bits=9)


# --- golden files

GOLDEN_FILES = {
    "cholesky": (Cholesky, 24, 3),
    "rotation_scale": (RotationScale, 9, 1),
    "bits_back": (Cholesky, 24, 3, "bits_back"),
}


def _expected(data: bytes) -> dict:
    """Symbols and values of a file, for JSON; float32 is exact in it."""
    symbols = read_symbols(data).symbols._asdict()
    values = read_gaussians(data).gaussians._asdict()
    as_lists = {"symbols": symbols, "values": values}
    return jax.tree.map(lambda x: np.asarray(x).tolist(), as_lists)


def write_golden() -> None:
    """Writes tests/golden anew."""
    GOLDEN.mkdir(exist_ok=True)
    for name, recipe in GOLDEN_FILES.items():
        data = _file(*recipe)
        (GOLDEN / f"{name}.gi").write_bytes(data)
        (GOLDEN / f"{name}.json").write_text(json.dumps(_expected(data)) + "\n")


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files_stay_as_they_are(name):
    data = (GOLDEN / f"{name}.gi").read_bytes()
    assert _expected(data) == json.loads((GOLDEN / f"{name}.json").read_text())
    contents = read_symbols(data)
    coding = coding_of(contents.header.codec)
    alphabets = Alphabets(2**6, 8, 2)
    payloads = coding.encode(contents.symbols, alphabets)
    sections = {b"SIDE": contents.sections[b"SIDE"]} | payloads
    assert bitstream.pack(contents.header, sections) == data
    # Real numbers may be rounded in another way by another machine, half way.
    new = read_symbols(_file(*GOLDEN_FILES[name]))
    assert new.sections[b"SIDE"] == contents.sections[b"SIDE"]
    for a, b in zip(new.symbols, contents.symbols):
        assert np.mean(a != b) <= 0.1


# --- hostile files

FILES = [
    _file(Cholesky, 30, 3),
    _file(RotationScale, 12, 1),
    _file(RotationScale, 12, 1, "bits_back"),
]
KINDS_OF_FILE = pytest.mark.parametrize(
    "file", FILES, ids=["cholesky", "rotation_scale", "bits_back"]
)
hostile = {"refused": 0, "read": 0}  # files tried by the tests below


def _with_checksum(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def _is_read(data: bytes) -> bool:
    """Whether a file is read; it has to keep its promises, or raise BitstreamError."""
    try:
        gaussians, (height, width) = read_gaussians(data)
    except BitstreamError:
        hostile["refused"] += 1
        return False
    hostile["read"] += 1
    header, _ = bitstream.unpack(data)
    assert (header.height, header.width) == (height, width)
    assert gaussians.means.shape == (header.num_gaussians, 2)
    assert gaussians.colors.shape == (header.num_gaussians, header.channels)
    assert all(np.isfinite(x).all() for x in gaussians)
    return True


@st.composite
def _mutations(draw) -> bytes:
    data = draw(st.sampled_from(FILES))
    position = draw(st.integers(0, len(data) - 1))
    kind = draw(
        st.sampled_from(["flip", "set", "cut", "grow", "drop", "swap", "splice"])
    )
    changed = bytearray(data)
    if kind == "flip":
        for _ in range(draw(st.integers(1, 4))):
            changed[position] ^= 1 << draw(st.integers(0, 7))
            position = draw(st.integers(0, len(data) - 1))
    elif kind == "set":
        noise = draw(st.binary(min_size=1, max_size=8))
        changed[position : position + len(noise)] = noise
    elif kind == "cut":
        del changed[position:]
    elif kind == "grow":
        changed[position:position] = draw(st.binary(min_size=1, max_size=40))
    elif kind == "drop":
        del changed[position : position + draw(st.integers(1, 40))]
    elif kind == "swap":
        other = draw(st.integers(0, len(data) - 1))
        changed[position], changed[other] = changed[other], changed[position]
    else:
        other = draw(st.sampled_from(FILES))
        changed[position:] = other[draw(st.integers(0, len(other) - 1)) :]
    return bytes(changed)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(_mutations())
def test_damaged_files_are_refused(data):
    assert not _is_read(data) or data in FILES


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(_mutations())
def test_forged_files_are_refused_or_sound(data):
    _is_read(_with_checksum(data + bytes(4) if len(data) < 4 else data))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=400))
def test_foreign_bytes_are_refused(noise):
    assert not _is_read(noise)
    for file in FILES:  # noise behind a sound header
        assert not _is_read(_with_checksum(file[:25] + noise + bytes(4)))


@KINDS_OF_FILE
def test_every_byte_forged(file):
    for position in range(len(file) - 4):
        for mask in (0x01, 0xFF):
            forged = bytearray(file)
            forged[position] ^= mask
            _is_read(_with_checksum(bytes(forged)))


@KINDS_OF_FILE
@pytest.mark.parametrize(
    ("offset", "dtype"),
    [(11, "<u4"), (15, "<u4"), (19, "<u2"), (21, "<u4")],
    ids="WHCN",
)
def test_absurd_headers_are_refused_at_once_and_take_no_memory(file, offset, dtype):
    values = [0, 1, 2**16, 2**24, 2**27, 2**31 - 1, 2**31, 2**32 - 1]
    tracemalloc.start()
    start = time.perf_counter()
    try:
        for value in [*values, len(file), len(file) - 1]:
            field = np.array(value).astype(dtype).tobytes()
            _is_read(
                _with_checksum(file[:offset] + field + file[offset + len(field) :])
            )
        assert time.perf_counter() - start < 10  # seconds, for ten files
        peak = tracemalloc.get_traced_memory()[1]
        print(f"peak of ten files: {peak} bytes")
        assert peak < 1e6
    finally:
        tracemalloc.stop()


def test_decoded_numbers_have_to_be_finite():
    data = FILES[0]
    start = data.index(b"SIDE") + 8 + 4
    for value in (b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f"):
        # An infinite, a NaN and the largest step; times a symbol the last overflows.
        assert not _is_read(_with_checksum(data[:start] + value + data[start + 4 :]))


def test_hostile_files_were_many(record_property):
    """Runs last; `pytest -rP` and the JUnit report show the number."""
    for outcome, number in hostile.items():
        record_property(f"hostile files {outcome}", number)
    print(f"\nhostile files tried: {sum(hostile.values())}, {hostile}")
