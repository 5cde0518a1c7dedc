"""Tests of the chunks by which a PNG says its colours, without a profile."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gi_jax import images
from tests.color_profiles_test import (
    DEEP,
    P3,
    PIXELS,
    SPACES,
    SRGB,
    SRGB_CURVE,
    _formula,
    _from_linear,
    _load,
    _rgb_icc,
)


def _png_with(tmp_path, *chunks, pixels=PIXELS[..., :3], **options):
    """Saves a PNG with chunks, given as (kind, data), before its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    data = buffer.getvalue()
    extra = b""
    for kind, content in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        extra += struct.pack(">I", len(content)) + kind + content + checksum
    (tmp_path / "a.png").write_bytes(data[:33] + extra + data[33:])
    return tmp_path / "a.png"


def _gama(gamma):
    return b"gAMA", struct.pack(">I", round(gamma * 1e5))


def _chrm(*xy):
    return b"cHRM", struct.pack(">8I", *(round(v * 1e5) for v in xy))


P3_CHRM = _chrm(0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB_CHUNK = (b"sRGB", b"\0")
P3_CICP = (b"cICP", bytes([12, 13, 0, 1]))
BT709_CURVE = (3, 1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
CHUNKS = {
    "gAMA": ([_gama(1 / 1.8)], (SRGB, (0, 1.8))),
    "linear gAMA": ([_gama(1.0)], (SRGB, (0, 1.0))),
    "gAMA and cHRM": ([_gama(1 / 1.8), P3_CHRM], (P3, (0, 1.8))),
    "cHRM and the gamma of sRGB": ([_gama(0.45455), P3_CHRM], (P3, SRGB_CURVE)),
    "cICP": ([P3_CICP], (P3, SRGB_CURVE)),
    "cICP before gAMA": ([_gama(1.0), P3_CICP], (P3, SRGB_CURVE)),
    "cICP before sRGB": ([SRGB_CHUNK, P3_CICP], (P3, SRGB_CURVE)),
    "cICP of video": ([(b"cICP", bytes([1, 1, 0, 1]))], (SRGB, BT709_CURVE)),
    "the gamma of sRGB": ([_gama(0.45455)], None),
    "sRGB before gAMA": ([SRGB_CHUNK, _gama(1.0), P3_CHRM], None),
    "cHRM alone": ([P3_CHRM], None),
    "cICP of sRGB": ([(b"cICP", bytes([1, 13, 0, 1]))], None),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_of_png(tmp_path, name):
    chunks, space = CHUNKS[name]
    path = _png_with(tmp_path, *chunks)
    loaded = _load(path)
    stored = _load(path, color_management=False)
    np.testing.assert_array_equal(images.to_uint8(stored), PIXELS[..., :3])
    if space is None:
        np.testing.assert_array_equal(loaded, stored)
    else:
        expected = _formula(PIXELS[..., :3], *space)
        np.testing.assert_allclose(loaded, expected, atol=1.6 / 255)
        assert np.abs(loaded - stored).max() > 0.05


def test_profile_of_png_comes_before_its_gamma_and_after_cicp(tmp_path):
    adobe = _rgb_icc(*SPACES["adobe rgb"])
    path = _png_with(tmp_path, _gama(1.0), icc_profile=adobe)
    expected = _formula(PIXELS[..., :3], *SPACES["adobe rgb"])
    np.testing.assert_allclose(_load(path), expected, atol=1.5 / 255)
    path = _png_with(tmp_path, P3_CICP, icc_profile=adobe)
    expected = _formula(PIXELS[..., :3], *SPACES["display p3"])
    np.testing.assert_allclose(_load(path), expected, atol=1.5 / 255)


def test_gamma_of_deep_grey_png(tmp_path):
    path = _png_with(tmp_path, _gama(1.0), P3_CHRM, pixels=DEEP)
    expected = _from_linear(DEEP / 65535)
    np.testing.assert_allclose(_load(path)[..., 0], expected, atol=3e-5)


@pytest.mark.parametrize(
    "chunk",
    [
        (b"cICP", bytes([9, 16, 0, 1])),  # PQ.
        (b"cICP", bytes([9, 18, 0, 1])),  # HLG.
        (b"cICP", bytes([2, 2, 0, 1])),  # Unspecified.
        (b"cICP", bytes([1, 13, 0, 0])),  # Narrow range.
        (b"gAMA", bytes(4)),
        (b"iCCP", b"name\0\0" + b"no zlib stream"),
    ],
)
def test_chunks_that_cannot_be_used_warn(tmp_path, chunk):
    path = _png_with(tmp_path, chunk)
    with pytest.warns(UserWarning, match=r"a\.png: .*; the colours are taken as sRGB"):
        loaded = images.load_image(path)
    np.testing.assert_array_equal(images.to_uint8(loaded), PIXELS[..., :3])


@pytest.mark.parametrize(
    "chunk",
    [
        _chrm(*[0.3] * 8),
        _chrm(*[0.0] * 8),
        _chrm(0.3127, 0.0, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06),
    ],
)
def test_chromaticities_without_colours_warn(tmp_path, chunk):
    path = _png_with(tmp_path, _gama(0.45455), chunk)
    with pytest.warns(UserWarning, match=r"a\.png: .*; the colours are taken as sRGB"):
        images.load_image(path)
