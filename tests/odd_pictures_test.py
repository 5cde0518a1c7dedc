"""Tests of odd picture files: TIFF of any depth, several pictures in one file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gi_jax import images
from tests.images_test import DEEP, PIXELS, RNG, _png


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
