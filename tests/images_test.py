"""Tests of picture files."""

import errno
import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from gi_jax import images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), np.uint16)


def _png(width, height, depth, color_type, rows, key=None):
    """Returns a PNG file.

    `rows` are the bytes of the picture without filters, `key` its transparent colour.
    """

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    start = b"\x89PNG\r\n\x1a\n"
    start += chunk(b"IHDR", header) + (chunk(b"tRNS", key) if key else b"")
    return start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 7), (5, 1)])
def test_png_round_trip_is_exact(tmp_path, channels, size):
    pixels = PIXELS[: size[0], : size[1], :channels]
    images.save_image(tmp_path / "a.png", pixels)
    loaded = images.load_image(tmp_path / "a.png")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, pixels / np.float32(255))
    np.testing.assert_array_equal(images.to_uint8(loaded), pixels)


@pytest.mark.parametrize("suffix", sorted(set(images.SUFFIXES) - {".gif"}))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_format_keeps_shape_and_values_or_refuses(tmp_path, suffix, channels):
    path = tmp_path / f"a{suffix.upper()}"
    try:
        images.save_image(path, PIXELS[..., :channels])
    except ValueError as error:
        assert f"for {channels} channels" in str(error)
        assert list(tmp_path.iterdir()) == []
        return
    loaded = images.to_uint8(images.load_image(path))
    tolerance = {".jpg": 30, ".jpeg": 30, ".avif": 5}.get(suffix, 0)
    assert loaded.shape == (5, 7, channels)
    assert np.abs(loaded.astype(int) - PIXELS[..., :channels]).max() <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey(tmp_path, suffix):
    deep = DEEP.astype(np.int32) if suffix == ".pgm" else DEEP
    Image.fromarray(deep).save(tmp_path / f"a{suffix}")
    loaded = images.load_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(loaded[..., 0], DEEP / np.float32(65535))


def test_16_bit_colour_gives_the_upper_8_bits(tmp_path):
    deep = RNG.integers(0, 65536, (5, 7, 3)).astype(">u2")
    (tmp_path / "a.png").write_bytes(_png(7, 5, 16, 2, [row.tobytes() for row in deep]))
    loaded = images.to_uint8(images.load_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(loaded, deep >> 8)


def test_1_bit(tmp_path):
    bits = PIXELS[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    loaded = images.load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded[..., 0], bits.astype(np.float32))


def test_palette_expands_with_its_transparency(tmp_path):
    palette = Image.fromarray(PIXELS[..., :3]).quantize(8)
    palette.save(tmp_path / "a.png")
    palette.save(tmp_path / "b.png", transparency=0)
    assert images.load_image(tmp_path / "a.png").shape == (5, 7, 3)
    loaded = images.load_image(tmp_path / "b.png")
    np.testing.assert_array_equal(loaded[..., 3], np.asarray(palette) != 0)
    expanded = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(images.to_uint8(loaded[..., :3]), expanded)


def test_cmyk_jpeg_gives_rgb(tmp_path):
    orange = Image.new("RGB", (16, 16), (255, 128, 0))
    orange.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    loaded = images.load_image(tmp_path / "a.jpg")
    assert loaded.shape == (16, 16, 3)
    np.testing.assert_allclose(loaded[8, 8], [1, 0.5, 0], atol=0.03)


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16"])
def test_exif_orientation_is_applied(tmp_path, mode):
    upright = {
        "RGB": Image.fromarray(PIXELS[..., :3]),
        "P": Image.fromarray(PIXELS[..., :3]).quantize(8),
        "I;16": Image.fromarray(DEEP),
    }[mode]
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # The file is to be turned by 90 degrees clockwise.
    upright.save(tmp_path / "turned.png", exif=exif)
    expected = np.rot90(images.load_image(tmp_path / "upright.png"), -1)
    loaded = images.load_image(tmp_path / "turned.png")
    np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (7, 5), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(
        tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options
    )
    loaded = images.load_image(tmp_path / f"a{suffix}")
    assert loaded.shape[:2] == (5, 7)
    assert loaded[0, 0, :3].tolist() == [1, 0, 0]


def _whole_png():
    return _png(7, 5, 8, 2, [row.tobytes() for row in PIXELS[..., :3]])


BROKEN = {
    "empty": b"",
    "text": b"not a picture\n" * 100,
    "signature": _whole_png()[:8],
    "truncated": _whole_png()[:-40],
    "flipped": _whole_png().replace(b"IDAT", b"IDAT\xff", 1),
    "no rows": _png(7, 5, 8, 2, []),
    "bomb": _png(50_000, 50_000, 8, 2, []),
    "above the limit": _png(10_000, 10_000, 8, 2, []),
    "zero width": _png(0, 5, 8, 2, []),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("error")
def test_broken_files_give_a_value_error_that_names_the_file(tmp_path, name):
    path = tmp_path / "a.png"
    path.write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match=r"a\.png: expected a (whole )?picture"):
        images.load_image(path)


def test_every_truncation_loads_whole_or_raises(tmp_path):
    Image.fromarray(np.tile(PIXELS[..., :3], (4, 4, 1))).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    for size in range(0, len(data) - 2, 37):
        (tmp_path / "a.jpg").write_bytes(data[:size])
        with pytest.raises(ValueError, match="expected a"):
            images.load_image(tmp_path / "a.jpg")


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        images.load_image(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="got a folder"):
        images.load_image(tmp_path)
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(ValueError, match="got a folder or device"):
        images.load_image(tmp_path / "fifo.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_warnings_of_other_threads_are_left_alone(tmp_path, monkeypatch, suffix):
    """`catch_warnings` swaps the filters of the whole process before 3.14."""
    images.save_image(tmp_path / f"a{suffix}", PIXELS[..., :3])

    def refused(*args, **kwargs):
        raise AssertionError("not safe with threads")

    monkeypatch.setattr(warnings, "catch_warnings", refused)
    assert images.load_image(tmp_path / f"a{suffix}").shape == (5, 7, 3)


class _FailingFile(io.RawIOBase):
    """A file that cannot be read beyond some byte."""

    def __init__(self, data, end, error):
        self.data, self.end, self.error = data, end, error
        self.place = 0

    def readable(self):
        return True

    seekable = readable

    def seek(self, offset, whence=os.SEEK_SET):
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: len(self.data)}
        self.place = start[whence] + offset
        return self.place

    def readinto(self, buffer):
        if self.place >= self.end:
            raise OSError(self.error, os.strerror(self.error))
        data = self.data[self.place : min(self.end, self.place + len(buffer))]
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("suffix", images.SUFFIXES)
def test_errors_of_reading_keep_their_kind(tmp_path, monkeypatch, suffix, error):
    if suffix == ".jp2" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip(f"Pillow {PIL.__version__} ends the process here")
    path = tmp_path / f"a{suffix}"
    mode = "L" if suffix == ".pgm" else "RGB"
    Image.fromarray(np.tile(PIXELS[..., :3], (8, 8, 1))).convert(mode).save(path)
    whole = images.load_image(path)
    data = path.read_bytes()
    failures = 0
    for end in range(0, len(data), len(data) // 7):
        file = io.BufferedReader(_FailingFile(data, end, error))
        monkeypatch.setattr(Path, "open", lambda self, mode, file=file: file)
        try:
            loaded = images.load_image(path)
        except OSError as raised:
            assert type(raised) is type(OSError(error, ""))
            assert (raised.errno, raised.filename) == (error, str(path))
            failures += 1
        else:
            np.testing.assert_array_equal(loaded, whole)
    assert failures >= 3


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no /proc")
def test_a_file_of_the_system_that_cannot_be_read():
    with pytest.raises(OSError, match=r"Errno 5.*/proc/self/mem") as raised:
        images.load_image("/proc/self/mem")
    assert raised.value.errno == errno.EIO


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads all")
def test_permission(tmp_path):
    images.save_image(tmp_path / "a.png", PIXELS)
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(PermissionError, match=r"a\.png"):
        images.load_image(tmp_path / "a.png")


def test_want_of_memory_keeps_its_kind(tmp_path):
    side = 2**31 - 1
    (tmp_path / "a.png").write_bytes(_png(side, side, 8, 2, [b""]))
    with pytest.raises(MemoryError):
        images.load_image(tmp_path / "a.png", max_pixels=2**62)


def test_limit_on_pixels(tmp_path):
    path = tmp_path / "a.png"
    images.save_image(path, PIXELS)
    assert images.load_image(path, max_pixels=35).shape == (5, 7, 4)
    message = r"a\.png: expected a picture of at most 34 pixels .*max_pixels\), got 7x5"
    with pytest.raises(ValueError, match=message):
        images.load_image(path, max_pixels=34)
    with pytest.raises(ValueError, match="max_pixels: expected at least 1, got 0"):
        images.load_image(path, max_pixels=0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".gif", ".jpg"])
def test_limit_of_pillow_is_named_and_lifted(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PIXELS[..., :3]).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"of at most 89478485 pixels .*limit of 20"):
        images.load_image(path)
    lifted = images.MAX_PIXELS + 1
    shapes = []

    def load():
        shapes.append(images.load_image(path, max_pixels=lifted).shape)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(5, 7, 3)] * 8
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.xyz", PIXELS, r"expected a name that ends in \.png"),
        ("a", PIXELS, r"expected a name that ends in \.png"),
        ("a.gif", PIXELS, r"expected a name that ends in \.png"),
        ("a.png", PIXELS[..., 0], r"C in 1\.\.4, got \[5, 7\]"),
        ("a.png", np.zeros((5, 7, 5), np.uint8), r"C in 1\.\.4, got \[5, 7, 5\]"),
        ("a.png", PIXELS[:0], r"got \[0, 7, 4\]"),
        ("a.png", PIXELS.astype(int), "float or uint8"),
        ("a.jpg", PIXELS, "for 4 channels"),
        ("a.webp", np.zeros((1, 20_000, 3), np.uint8), "20000x1 pixels"),
    ],
)
def test_save_refuses(tmp_path, name, image, message):
    with pytest.raises(ValueError, match=message):
        images.save_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_to_uint8_rounds_half_up_and_clips():
    values = [-np.inf, -1, 0.49 / 255, 0.5 / 255, 127.5 / 255, 1, 7, np.inf, np.nan]
    rounded = images.to_uint8(np.array(values))
    assert rounded.dtype == np.uint8
    assert rounded.tolist() == [0, 0, 0, 1, 128, 255, 255, 255, 0]
    levels = np.arange(256, dtype=np.uint8)
    for dtype in (np.float16, np.float32, np.float64):
        scaled = (levels / 255).astype(dtype)
        np.testing.assert_array_equal(images.to_uint8(scaled), levels)


def test_atomic_write_replaces_honours_umask_and_cleans_up(tmp_path, monkeypatch):
    path = tmp_path / "a.gi"
    previous = os.umask(0o027)
    try:
        images.atomic_write(path, b"one")
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o640
    images.atomic_write(path, b"two")
    assert path.read_bytes() == b"two"

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        images.atomic_write(path, b"three")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_names_what_is_in_the_way(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such folder: .*missing'"):
        images.atomic_write(tmp_path / "missing" / "a.gi", b"")
    with pytest.raises(IsADirectoryError):
        images.atomic_write(tmp_path, b"")


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path):
    path = tmp_path / "file"
    images.atomic_write(path, b"old")
    with pytest.raises(FileExistsError):
        images.atomic_write(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]
    images.atomic_write(tmp_path / "other", b"new", replace=False)
    assert (tmp_path / "other").read_bytes() == b"new"
