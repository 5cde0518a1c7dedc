"""The container: round trips, limits, and damage of every kind."""

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gi_jax.coding.bitstream import (
    MAGIC,
    MAX_CHANNELS,
    MAX_GAUSSIANS,
    MAX_SIDE,
    BitstreamError,
    Header,
    pack,
    unpack,
)

HEADER = Header(
    codec=1, parametrization=2, width=7, height=5, channels=3, num_gaussians=9
)
SECTIONS = {b"AAAA": b"some payload", b"BBBB": b"", b"\0\1\2\3": bytes(range(256))}
FILE = pack(HEADER, SECTIONS)


def with_checksum(data: bytes) -> bytes:
    """Returns the file with its last four bytes made the checksum of the others."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def test_unpack_gives_back_what_was_packed():
    header, sections = unpack(FILE)
    assert header == HEADER
    assert list(sections.items()) == list(SECTIONS.items())
    assert unpack(pack(HEADER._replace(num_gaussians=0), {}))[1] == {}


def test_bytes_are_those_of_the_format():
    expected = (
        b"\x89.gi\r\n\x1a\n\1\1\2" + struct.pack("<IIHI", 7, 5, 3, 9)
        + b"AAAA\2\0\0\0xy"
    )  # fmt: skip
    expected += struct.pack("<I", zlib.crc32(expected))
    assert pack(HEADER, {b"AAAA": b"xy"}) == expected


LIMITS = [
    {"width": 0},
    {"height": 0},
    {"width": MAX_SIDE + 1},
    {"height": 2**31},
    {"width": 2**14, "height": 2**13 + 1},
    {"channels": 0},
    {"channels": MAX_CHANNELS + 1},
    {"num_gaussians": MAX_GAUSSIANS + 1},
]


@pytest.mark.parametrize("change", LIMITS, ids=str)
def test_limits_hold_for_writer_and_reader(change):
    header = HEADER._replace(**change)
    with pytest.raises(ValueError, match="expected"):
        pack(header, SECTIONS)
    fields = struct.pack("<BBIIHI", *header)
    with pytest.raises(BitstreamError, match="expected"):
        unpack(with_checksum(FILE[:9] + fields + FILE[25:]))


def test_every_truncation_is_an_error():
    for length in range(len(FILE)):
        with pytest.raises(BitstreamError):
            unpack(FILE[:length])


def test_a_forged_truncation_ends_after_a_section_or_is_an_error():
    ends = [25]
    for payload in SECTIONS.values():
        ends.append(ends[-1] + 8 + len(payload))
    for length in range(4, len(FILE) + 1):
        forged = with_checksum(FILE[:length])
        if length - 4 in ends:
            assert len(unpack(forged)[1]) == ends.index(length - 4)
        else:
            with pytest.raises(BitstreamError):
                unpack(forged)


def test_every_flipped_bit_is_an_error():
    for position in range(8 * len(FILE)):
        flipped = bytearray(FILE)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(BitstreamError):
            unpack(bytes(flipped))


def test_extended_doubled_and_mangled_files_are_errors():
    for wrong in (
        FILE + b"\0",
        FILE + FILE,
        b"\0" + FILE,
        FILE.replace(b"\r\n", b"\n"),  # transferred as text
        bytes(byte & 0x7F for byte in FILE),  # through 7 bits
        b"\x89PNG\r\n\x1a\n" + FILE[8:],
        b"",
    ):
        with pytest.raises(BitstreamError):
            unpack(wrong)
    for wrong in (FILE + b"\0", FILE + b"AAAA\0\0\0\0"):  # a byte, a second AAAA
        with pytest.raises(BitstreamError):
            unpack(with_checksum(wrong + bytes(4)))


@pytest.mark.parametrize(("version", "ok"), [(0, False), (1, True), (2, False)])
def test_other_versions_are_refused_by_name(version, ok):
    data = with_checksum(FILE[:8] + bytes([version]) + FILE[9:])
    if ok:
        unpack(data)
    else:
        with pytest.raises(BitstreamError, match=f"version 1, got {version}"):
            unpack(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.integers(0, 30))
def test_random_bytes_raise_or_give_sections(noise, keep):
    with pytest.raises(BitstreamError):
        unpack(noise)
    data = with_checksum(FILE[: len(MAGIC) + 1 + keep] + noise + bytes(4))
    try:
        _, sections = unpack(data)
    except BitstreamError:
        return
    assert sum(map(len, sections.values())) < len(data)


@pytest.mark.parametrize("claim", [8 * len(FILE) + 1, 2**24, 2**31, 2**32 - 1])
def test_absurd_claims_allocate_nothing(claim):
    gaussians = with_checksum(FILE[:21] + struct.pack("<I", claim) + FILE[25:])
    section = with_checksum(FILE[:29] + struct.pack("<I", claim) + FILE[33:])
    tracemalloc.start()
    try:
        for data in (gaussians, section):
            with pytest.raises(BitstreamError):
                unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000  # bytes
    finally:
        tracemalloc.stop()
