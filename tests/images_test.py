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


def _tiff(pixels, order="<", is_big=False, is_deflated=False):
    """Returns a TIFF or BigTIFF file of any type of pixels, [H, W, C]."""
    height, width, channels = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if is_deflated else data
    tags = [
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", [8 * pixels.itemsize] * channels),
        (259, "H", [8 if is_deflated else 1]),
        (262, "H", [1 if channels == 1 else 2]),
        (273, "I", [1000]),
        (277, "H", [channels]),
        (278, "H", [height]),
        (279, "I", [len(data)]),
        (339, "H", [kind] * channels),
    ]
    if channels in (2, 4):
        tags.insert(9, (338, "H", [2]))
    offset, head, count = ("Q", 16, "Q") if is_big else ("I", 8, "H")
    size = struct.calcsize(f"={offset}")
    start = head + struct.calcsize(f"={count}") + len(tags) * (4 + 2 * size) + size
    entries, extra = b"", b""
    for name, type, values in tags:
        content = struct.pack(f"{order}{len(values)}{type}", *values)
        if len(content) > size:
            place = struct.pack(order + offset, start + len(extra))
            extra, content = extra + content, place
        entry = struct.pack(
            f"{order}HH{offset}", name, {"H": 3, "I": 4}[type], len(values)
        )
        entries += entry + content.ljust(size, b"\0")
    numbers = (43, 8, 0, head) if is_big else (42, head)
    file = {"<": b"II", ">": b"MM"}[order]
    file += struct.pack(order + ("HHHQ" if is_big else "HI"), *numbers)
    file += struct.pack(order + count, len(tags)) + entries + bytes(size) + extra
    return file.ljust(1000, b"\0") + data


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "i1", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
)
def test_tiff_has_8_or_16_bits_or_is_refused_with_the_rule(tmp_path, dtype, channels):
    pixels = np.arange(5 * 7 * channels).reshape(5, 7, channels).astype(dtype)
    (tmp_path / "a.tif").write_bytes(_tiff(pixels))
    if dtype in ("u1", "u2"):
        loaded = images.load_image(tmp_path / "a.tif")
        if dtype == "u2" and channels == 3:
            np.testing.assert_array_equal(loaded, (pixels >> 8) / np.float32(255))
        else:
            top = np.float32(np.iinfo(dtype).max)
            np.testing.assert_array_equal(loaded, pixels / top)
        return
    message = r"a\.tif: .*8 or 16 bits per channel, unsigned: .*scaled to 0\.\.1"
    with pytest.raises(ValueError, match=message):
        images.load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., :3], PIXELS[..., :1], DEEP])
@pytest.mark.parametrize(("order", "is_big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("is_deflated", [False, True])
def test_tiff_and_big_tiff(tmp_path, pixels, order, is_big, is_deflated):
    pixels = pixels.reshape(5, 7, -1)
    (tmp_path / "a.tif").write_bytes(_tiff(pixels, order, is_big, is_deflated))
    expected = pixels / np.float32(np.iinfo(pixels.dtype).max)
    np.testing.assert_array_equal(images.load_image(tmp_path / "a.tif"), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_big_tiff_of_the_other_order_is_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(_tiff(PIXELS, ">", is_big=True))
    with pytest.raises(
        ValueError, match=r"a\.tif: expected .* no BigTIFF of big-endian"
    ):
        images.load_image(tmp_path / "a.tif")


def test_first_page_of_a_tiff(tmp_path):
    pages = [Image.fromarray(PIXELS[..., i]) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    loaded = images.to_uint8(images.load_image(tmp_path / "a.tif"))
    np.testing.assert_array_equal(loaded, PIXELS[..., :1])


@pytest.mark.parametrize("is_ultra_hdr", [False, True])
def test_main_picture_of_multi_picture_jpeg(tmp_path, is_ultra_hdr):
    path = tmp_path / "a.jpg"
    main = Image.fromarray(np.tile(PIXELS[..., :3], (4, 4, 1)))
    gain_map = Image.new("L", (8, 8), 200)
    main.save(path, "MPO", save_all=True, append_images=[gain_map], quality=95)
    if is_ultra_hdr:
        xmp = b'http://ns.adobe.com/xap/1.0/\0<x hdrgm="" hdrgm:Version="1.0"/>'
        data = path.read_bytes()
        segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
        path.write_bytes(data[:2] + segment + data[2:])
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    loaded = images.to_uint8(images.load_image(path))
    assert loaded.shape == (20, 28, 3)
    np.testing.assert_array_equal(loaded, expected)
    main.save(tmp_path / "b.jpg", quality=95)
    plain = images.load_image(tmp_path / "b.jpg")
    np.testing.assert_array_equal(images.load_image(path), plain)


def test_default_picture_of_an_animated_png(tmp_path):
    frames = [Image.new("RGB", (7, 5), color) for color in ("red", "lime", "blue")]
    frames[0].save(
        tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True
    )
    loaded = images.load_image(tmp_path / "a.png")
    assert loaded[0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_level_of_grey(tmp_path, depth):
    top = 2**depth - 1
    levels = np.arange(16) * 37 % (top + 1)
    bits = "".join(f"{level:0{depth}b}" for level in levels)
    row = int(bits, 2).to_bytes(2 * depth, "big")
    png = _png(16, 1, depth, 0, [row], struct.pack(">H", levels[5]))
    (tmp_path / "a.png").write_bytes(png)
    loaded = images.load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded[0, :, 0], np.float32(levels) / np.float32(top))
    np.testing.assert_array_equal(loaded[0, :, 1], levels != levels[5])


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour(tmp_path, depth):
    row = RNG.integers(0, 2**depth, (16, 3)).astype(f">u{depth // 8}")
    key = row[5].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(_png(16, 1, depth, 2, [row.tobytes()], key))
    loaded = images.load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded[0, :, 3], np.arange(16) != 5)


def test_float_tiff_is_refused(tmp_path):
    Image.fromarray(DEEP.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="not 8 or 16 bits"):
        images.load_image(tmp_path / "a.tif")


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
