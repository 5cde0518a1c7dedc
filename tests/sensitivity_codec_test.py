"""Codec 4 from symbols to files: golden files, pictures, files made by an enemy.

The golden files fix the format, and what every machine has to read from them. After a
deliberate change of the format (with a new version number) write them anew by

    python -c "from tests.sensitivity_codec_test import write_golden; write_golden()"
"""

import json
import os
import struct
import subprocess
import sys
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
from gi_jax.coding.adaptive_coding import Decoder
from gi_jax.coding.bitstream import BitstreamError
from gi_jax.coding.codec import decode, read_gaussians, read_symbols
from gi_jax.coding.file_info import file_info
from gi_jax.coding.sensitivity import (
    Symbols,
    dequantize,
    sensitivity_matched,
)
from gi_jax.coding.sensitivity_codec import (
    MAX_STEP,
    complete_gaussians,
    quantized_mean,
    read_contents,
    write_symbols,
)
from gi_jax.command import flags, main, printing
from gi_jax.gaussians import RotationScale
from gi_jax.rendering.rasterize import rasterize
from tests.helpers import random_symbols

GOLDEN = Path(__file__).parent / "golden"
SIZE = (37, 61)  # H, W
STEP = 0.15


def _mean(channels: int) -> np.ndarray:
    return np.linspace(0.25, 0.75, channels)


def _file(count: int, channels: int, size=SIZE) -> bytes:
    symbols = random_symbols(count, channels, size)
    return write_symbols(symbols, STEP, _mean(channels), size)


def _rows(symbols: Symbols) -> list:
    return [field.tolist() for field in symbols]


@pytest.mark.parametrize(
    ("count", "channels", "size"),
    [(0, 3, SIZE), (1, 1, (1, 1)), (200, 3, SIZE), (20, 4, (1, 99)), (9, 16, SIZE)],
)
def test_files_hold_the_gaussians_and_the_mean(count, channels, size):
    data = _file(count, channels, size)
    gaussians, image_size = read_gaussians(data)
    symbols, step, mean, bits = read_contents(*bitstream.unpack(data))
    assert image_size == size and bits == {}
    assert isinstance(gaussians, RotationScale)
    assert step == np.float32(STEP)
    np.testing.assert_array_equal(mean, quantized_mean(_mean(channels)))
    np.testing.assert_allclose(mean, _mean(channels), atol=2.0**-15)
    assert gaussians.colors.shape == (count + 1, channels)
    expected = dequantize(symbols, step, size)
    for a, b in zip(expected, gaussians):
        np.testing.assert_array_equal(a, np.asarray(b)[:-1])
    np.testing.assert_array_equal(gaussians.colors[-1], mean)
    assert write_symbols(symbols, step, mean, size) == data


def test_the_background_is_the_mean_colour():
    picture = decode(_file(0, 3, (40, 50)))
    expected = np.round(255 * quantized_mean(_mean(3)))
    assert (picture == expected).all() and picture.shape == (40, 50, 3)
    # Off the picture's corners, too: Gaussians are complete without a background.
    nothing = random_symbols(0, 1, (1, 1))
    for size in ((1, 1), (5, 2000)):
        gaussians = complete_gaussians(nothing, 1.0, [0.5], size)
        corners = gaussians._replace(means=gaussians.means - jnp.float32(size[::-1]))
        weight = rasterize(corners, (1, 1))[0, 0, 0] / 0.5
        assert abs(weight - 1) < 1e-5


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files_decode_to_what_training_saw(channels):
    quantizer = sensitivity_matched(SIZE, STEP, parametrization=RotationScale)
    params, state = quantizer.init(None, None)
    gaussians = dequantize(random_symbols(60, channels, SIZE), np.float32(STEP), SIZE)
    gaussians = jax.tree.map(jnp.asarray, gaussians)
    gaussians = gaussians._replace(means=gaussians.means + 0.3)
    seen, _, _ = jax.jit(quantizer.apply)(params, state, gaussians, None)
    symbols = quantizer.encode(params, state, gaussians)
    data = write_symbols(symbols, params.step, _mean(channels), SIZE)
    decoded = read_gaussians(data).gaussians
    rows = [
        np.column_stack([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x)])
        for x in (seen, decoded)
    ]
    # What has no colour is not written; the last Gaussian is the mean colour.
    rows = [rows[0][rows[0][:, 5:].any(axis=1)], rows[1][:-1]]
    assert len(rows[0]) > 50
    assert sorted(map(tuple, rows[0])) == sorted(map(tuple, rows[1]))


def test_dead_gaussians_are_not_written():
    symbols = random_symbols(30, 3, SIZE)
    dead = Symbols(*(np.concatenate([field, 0 * field[:9]]) for field in symbols))
    assert write_symbols(dead, STEP, _mean(3), SIZE) == _file(30, 3)


def test_info_accounts_for_every_byte_and_bit():
    data = _file(200, 3)
    info = file_info(data)
    assert (info.codec, info.num_gaussians, info.image_size) == (
        "sensitivity",
        200,
        SIZE,
    )
    assert sum(info.section_bytes.values()) == info.num_bytes == len(data)
    coded = sum(info.symbol_bits.values()) * 200
    assert coded <= 8 * (info.section_bytes["GAUS"] - 18) <= 1.001 * coded + 96
    assert file_info(_file(0, 1)).symbol_bits == {}


def test_the_command_line_says_what_is_in_a_file(capsys):
    path = GOLDEN / "sensitivity_rgb.gi"
    assert main.main(flags.parse(["gi", "info", str(path)])) == printing.OK
    printed = capsys.readouterr().out
    for name in ("sensitivity", "num_gaussians", "GAUS", "lattice"):
        assert name in printed


def test_what_cannot_be_written_is_refused():
    symbols = random_symbols(5, 3, SIZE)
    for change, match in (
        ({"colors": symbols.colors + 9999}, "colors"),
        ({"size": symbols.size + 10**5}, "size"),
        ({"ring": symbols.ring - 10**5}, "ring"),
        ({"angle": symbols.angle + 10**6}, "angle"),
        ({"lattice": symbols.lattice + 10**5}, "lattice"),
    ):
        with pytest.raises(ValueError, match=match):
            write_symbols(symbols._replace(**change), STEP, _mean(3), SIZE)
    for change, match in (
        ({"size": symbols.size[:-1]}, r"size, ring and angle \[N\]"),
        ({"angle": symbols.angle[:, None]}, r"expected colors \[N, C\]"),
        ({"lattice": symbols.lattice[:, :1]}, r"lattice \[N, 2\]"),
        ({"colors": symbols.colors[:, 0]}, r"expected colors \[N, C\]"),
        ({"ring": symbols.ring + 0.5}, "ring: expected integers, got float64"),
        ({"size": symbols.size.astype(np.int64) + 2**32}, "size: expected int32"),
    ):
        with pytest.raises(ValueError, match=match):
            write_symbols(symbols._replace(**change), STEP, _mean(3), SIZE)
    for step in (0.0, -1.0, np.nan, np.inf, 2 * MAX_STEP):
        with pytest.raises(ValueError, match="step"):
            write_symbols(symbols, step, _mean(3), SIZE)
    for mean in (_mean(2), [0, 0, 3.0], [0, 0, np.nan]):
        with pytest.raises(ValueError, match="mean"):
            write_symbols(symbols, STEP, mean, SIZE)
    with pytest.raises(ValueError, match="sides"):
        write_symbols(symbols, STEP, _mean(3), (0, 61))
    with pytest.raises(ValueError, match="image_size: expected two integers"):
        write_symbols(symbols, STEP, _mean(3), (37.5, 61))
    with pytest.raises(ValueError, match="step: expected a finite number above 0"):
        sensitivity_matched(SIZE, "1")
    with pytest.raises(BitstreamError, match="codec 1"):
        read_symbols(_file(1, 1))


def test_files_of_the_retired_codec_are_told_so():
    data = bytearray(_file(1, 1)[:-4])
    data[9] = 2
    data += zlib.crc32(data).to_bytes(4, "little")
    for read in read_gaussians, decode, file_info:
        with pytest.raises(BitstreamError, match="codec 2 is from before"):
            read(bytes(data))


def test_sizes_that_no_model_has_are_refused():
    for size in 0, 2**24:
        with pytest.raises(BitstreamError, match="no group is possible"):
            Decoder(bytes([1] * 8)).uniform("group", np.array([size]), None)


# --- golden files

GOLDEN_FILES = {"sensitivity_rgb": (150, 3), "sensitivity_rgba": (12, 4)}


def _expected(data: bytes) -> dict:
    """Symbols and values of a file, for JSON; float32 is exact in it."""
    symbols, step, mean, _ = read_contents(*bitstream.unpack(data))
    values = complete_gaussians(symbols, step, mean, SIZE)
    return {"symbols": _rows(symbols), "values": [x.tolist() for x in values]}


def write_golden() -> None:
    """Writes the golden files of codec 4 anew."""
    for name, recipe in GOLDEN_FILES.items():
        data = _file(*recipe)
        (GOLDEN / f"{name}.gi").write_bytes(data)
        (GOLDEN / f"{name}.json").write_text(json.dumps(_expected(data)) + "\n")


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files_stay_as_they_are(name):
    data = (GOLDEN / f"{name}.gi").read_bytes()
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert _expected(data) == expected
    symbols = Symbols(*(np.array(x, np.int32) for x in expected["symbols"]))
    mean = np.array(expected["values"][-1][-1])
    assert write_symbols(symbols, STEP, mean, SIZE) == data


def test_golden_files_are_read_alike_with_64_bits():
    """In a process of its own, since JAX is set up once."""
    program = (
        "import jax, tests.sensitivity_codec_test as t\n"
        "assert jax.numpy.ones(1, float).dtype == 'float64'\n"
        "for name in t.GOLDEN_FILES: t.test_golden_files_stay_as_they_are(name)\n"
    )
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    command = [sys.executable, "-c", program]
    subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], check=True)


# --- hostile files

FILES = [_file(30, 3), _file(12, 1)]


def _with_checksum(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def _is_read(data: bytes) -> bool:
    """Whether a file is read; it has to keep its promises, or raise BitstreamError."""
    try:
        gaussians, image_size = read_gaussians(data)
    except BitstreamError:
        return False
    header, _ = bitstream.unpack(data)
    assert image_size == (header.height, header.width)
    extra = header.codec == 4
    shape = header.num_gaussians + extra, header.channels
    assert gaussians.colors.shape == shape
    assert all(np.isfinite(x).all() for x in gaussians)
    return True


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_forged_files_are_refused_or_sound(data):
    file = bytearray(data.draw(st.sampled_from(FILES)))
    position = data.draw(st.integers(0, len(file) - 1))
    noise = data.draw(st.binary(max_size=12))
    removed = data.draw(st.integers(0, 12))
    file[position : position + removed] = noise
    if bytes(file) not in FILES:
        assert not _is_read(bytes(file))
    _is_read(_with_checksum(bytes(file) + bytes(4 * (len(file) < 4))))


@pytest.mark.parametrize("file", FILES, ids=["rgb", "grey"])
def test_every_byte_forged(file):
    for position in range(8, len(file) - 4):
        forged = bytearray(file)
        forged[position] ^= 0xFF if position % 2 else 0x01
        _is_read(_with_checksum(bytes(forged)))


@pytest.mark.parametrize(
    ("offset", "dtype"),
    [(11, "<u4"), (15, "<u4"), (19, "<u2"), (21, "<u4")],
    ids="WHCN",
)
def test_absurd_headers_are_refused_at_once_and_take_no_memory(offset, dtype):
    file = FILES[0]
    values = [0, 1, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1, 8 * len(file)]
    tracemalloc.start()
    start = time.perf_counter()
    try:
        for value in values:
            field = np.array(value).astype(dtype).tobytes()
            _is_read(
                _with_checksum(file[:offset] + field + file[offset + len(field) :])
            )
        assert time.perf_counter() - start < 10  # seconds
        # Some thousand Gaussians at most, and tables of some hundred symbols.
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
