"""The container of a .gi file: header, sections, checksum. Bytes in, bytes out.

Everything is little-endian:

    8 bytes  MAGIC
    u8       format version
    u8       codec                 (what the sections mean: `codec.py`)
    u8       parametrization       (of the Gaussians: `codec.py`)
    u32 u32  width, height         pixels
    u16      channels
    u32      number of Gaussians
    sections, each: 4 bytes tag, u32 length, payload
    u32      CRC-32 (that of zlib and PNG) of all bytes before it

A file is read as if an enemy had written it: every number is checked before anything is
allocated by it, and whatever is wrong raises `BitstreamError`.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from gi_jax.arguments import check_not_path

# As in PNG: a byte with the high bit set, the name, and line ends and a DOS end-of-file
# mark, so that a transfer as text or as 7-bit data shows at once.
MAGIC: Final = b"\x89.gi\r\n\x1a\n"
VERSION: Final = 1

# A side fits 16 bits. Positions are halves of normalized coordinates, which would be
# tens of pixels coarse beyond it.
MAX_SIDE: Final = 65535
# 134 megapixels: an RGB picture has 384 MiB in 8 bits, so that one can be held.
MAX_PIXELS: Final = 2**27
# constriction's probabilities are multiples of 2^-24: a number from 0 to this many has
# a uniform model. One Gaussian for eight pixels is more than pictures have use for.
MAX_GAUSSIANS: Final = 2**24 - 2
# What 4 was before it had its priors, and before any release.
RETIRED_CODEC: Final = 2
# Beyond colour and alpha: multispectral pictures.
MAX_CHANNELS: Final = 16

_HEADER: Final = struct.Struct("<8s3B2IHI")
_SECTION: Final = struct.Struct("<4sI")
SECTION_HEAD_BYTES: Final = _SECTION.size
_CHECKSUM: Final = struct.Struct("<I")


class BitstreamError(ValueError):
    """The bytes are not a .gi file that this version reads, or they are damaged."""


class Header(NamedTuple):
    """What stands before the sections."""

    codec: int
    parametrization: int
    width: int  # pixels
    height: int  # pixels
    channels: int
    num_gaussians: int


def pack(header: Header, sections: Mapping[bytes, bytes]) -> bytes:
    """Returns the file.

    Args:
      header: within the limits of this module.
      sections: payload for each 4-byte tag, written in this order.

    Raises:
      ValueError: if the header breaks a limit.
    """
    if problem := find_problem(header):
        raise ValueError(problem)
    parts = [_HEADER.pack(MAGIC, VERSION, *header)]
    for tag, payload in sections.items():
        parts += [_SECTION.pack(tag, len(payload)), payload]
    body = b"".join(parts)
    return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack(data: bytes) -> tuple[Header, dict[bytes, bytes]]:
    """Returns the header and the sections, in the order of the file.

    Args:
      data: a whole file; bytes, a bytearray, a memoryview or another buffer.

    Raises:
      BitstreamError: if anything is wrong with the container.
      ValueError: if it is no buffer of bytes, but a path for instance.
    """
    data = _as_bytes(data)
    if data[: len(MAGIC)] != MAGIC:
        raise BitstreamError(
            f"expected a .gi file, which starts with {MAGIC!r}, "
            f"got {data[: len(MAGIC)]!r}"
        )
    if len(data) < _HEADER.size + _CHECKSUM.size:
        raise BitstreamError(f"the file ends within its header: {len(data)} bytes")
    _, version, *fields = _HEADER.unpack_from(data)
    if version != VERSION:
        raise BitstreamError(f"expected format version {VERSION}, got {version}")
    body, (checksum,) = data[: -_CHECKSUM.size], _CHECKSUM.unpack(data[-4:])
    if zlib.crc32(body) != checksum:
        raise BitstreamError("the checksum does not match: the file is damaged")
    header = Header(*fields)
    if problem := find_problem(header):
        raise BitstreamError(problem)
    # Every Gaussian has a bit of its own at least (a byte in codec 1, `positions.py`, a
    # sign in codec 4, `symbol_coding.py`, two bytes in codec 3, `paper_symbols.py`), so
    # that no number of Gaussians can make the reader allocate much more than the file
    # has bytes.
    if header.num_gaussians > 8 * len(data):
        raise BitstreamError(
            f"{header.num_gaussians} Gaussians do not fit {len(data)} bytes"
        )
    return header, _sections(body)


def _as_bytes(data: Any) -> bytes:
    reader = "pathlib.Path({}).read_bytes()"
    check_not_path("data", data, "the bytes of a file", reader)
    try:
        return bytes(memoryview(data))  # bytes(10**10) would be so many zeros.
    except TypeError:
        raise ValueError(
            f"data: expected the bytes of a file, got {type(data).__name__}"
        ) from None


def _sections(body: bytes) -> dict[bytes, bytes]:
    sections: dict[bytes, bytes] = {}
    start = _HEADER.size
    while start < len(body):
        if start + _SECTION.size > len(body):
            raise BitstreamError("the file ends within the head of a section")
        tag, length = _SECTION.unpack_from(body, start)
        start += _SECTION.size
        if length > len(body) - start:
            raise BitstreamError(
                f"section {tag!r} has {length} bytes, but {len(body) - start} are left"
            )
        if tag in sections:
            raise BitstreamError(f"section {tag!r} occurs twice")
        sections[tag] = body[start : start + length]
        start += length
    return sections


def find_problem(header: Header) -> str | None:
    """Says which limit the header breaks, or returns None."""
    width, height = header.width, header.height
    if header.codec == RETIRED_CODEC:
        return f"codec {RETIRED_CODEC} is from before the first release"
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        return f"sides: expected 1 to {MAX_SIDE} pixels, got {width}x{height}"
    if width * height > MAX_PIXELS:
        return f"expected at most {MAX_PIXELS} pixels, got {width}x{height}"
    if not 1 <= header.channels <= MAX_CHANNELS:
        return f"channels: expected 1 to {MAX_CHANNELS}, got {header.channels}"
    if not 0 <= header.num_gaussians <= MAX_GAUSSIANS:
        return f"expected at most {MAX_GAUSSIANS} Gaussians, got {header.num_gaussians}"
    return None
