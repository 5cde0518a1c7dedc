"""`decode`: pictures of files, and what callers may say: limits, an implementation."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.coding import codec
from gi_jax.coding.bitstream import MAX_SIDE
from gi_jax.images import to_uint8
from gi_jax.rendering.tiles import TILE
from tests.codec_test import SIZE
from tests.codec_test import _file as paper_file

DATA = paper_file(gi.Cholesky, 60, 3)
READERS = [gi.decode, gi.read_gaussians, gi.file_info]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("path", ["photo.gi", Path("photo.gi")])
def test_a_path_is_told_how_to_read_it(read, path):
    with pytest.raises(ValueError, match=r"got the path 'photo.gi'; .*read_bytes\(\)"):
        read(path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("data", [None, 10**10, 1.5, [1, 2]])
def test_what_is_not_bytes_is_refused(read, data):
    with pytest.raises(ValueError, match="data: expected the bytes of a file"):
        read(data)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_buffer_is_read(kind):
    assert gi.file_info(kind(DATA)) == gi.file_info(DATA)


def test_no_more_pixels_than_allowed(monkeypatch):
    assert gi.decode(DATA, max_pixels=SIZE[0] * SIZE[1]).shape == (*SIZE, 3)
    # Before the symbols are read, and long before they are drawn.
    monkeypatch.setattr(codec, "_read", None)
    with pytest.raises(ValueError, match=r"at most 2256 pixels .* got 61x37"):
        gi.decode(DATA, max_pixels=SIZE[0] * SIZE[1] - 1)
    with pytest.raises(ValueError, match="got 122x74 for scale 2"):
        gi.decode(DATA, scale=2, max_pixels=3000)


def test_no_more_pairs_than_allowed():
    gaussians = gi.read_gaussians(DATA).gaussians
    # Each Gaussian touches a tile with a pixel where it is not 0.
    alone = [
        gi.rasterize(gi.Cholesky(*(leaf[i : i + 1] for leaf in gaussians)), SIZE)
        for i in range(60)
    ]
    touched = sum(
        (np.asarray(one[y : y + TILE, x : x + TILE]) != 0).any()
        for one in alone
        for y in range(0, SIZE[0], TILE)
        for x in range(0, SIZE[1], TILE)
    )
    pairs = codec._count_pairs(gaussians, 1.0, SIZE)
    assert touched <= pairs <= 2 * touched
    assert gi.decode(DATA, max_pairs=pairs).shape == (*SIZE, 3)
    with pytest.raises(
        ValueError, match=f"max_pairs: .* at most {pairs - 1} .*{pairs}"
    ):
        gi.decode(DATA, max_pairs=pairs - 1)


@pytest.mark.parametrize("name", ["max_pixels", "max_pairs"])
@pytest.mark.parametrize("value", ["9", 1.5, -1])
def test_limits_are_integers(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected an integer"):
        gi.decode(DATA, **{name: value})


def test_implementations_draw_the_same():
    pictures = [gi.decode(DATA, implementation=name) for name in ("xla", "dense")]
    difference = np.abs(pictures[0].astype(int) - pictures[1])
    assert difference.max() <= 1
    with pytest.raises(ValueError, match="implementation: expected"):
        gi.decode(DATA, implementation="cuda")


def test_the_smallest_scale_is_below_a_pixel_of_every_picture():
    assert codec.MIN_SCALE * MAX_SIDE < 0.5
    picture = gi.decode(DATA, scale=codec.MIN_SCALE)
    mean = gi.decode(DATA).mean(axis=(0, 1))
    assert picture.shape == (1, 1, 3) and np.isfinite(mean).all()


@pytest.mark.parametrize(
    ("kind", "scale", "strip_rows"),
    [(gi.Cholesky, 1.0, 99), (gi.RotationScale, 2.5, 16), (gi.Cholesky, 1e-6, 99)],
)
def test_decode_renders_what_was_read(kind, scale, strip_rows, monkeypatch):
    data = paper_file(kind, 60, 3)
    height, width = (max(1, round(side * scale)) for side in SIZE)
    render = jax.jit(partial(gi.rasterize, image_size=(height, width)))
    expected = to_uint8(render(gi.read_gaussians(data).gaussians, scale=scale))
    monkeypatch.setattr(codec, "STRIP_PIXELS", strip_rows * width)
    picture = gi.decode(data, scale=scale)
    assert picture.dtype == np.uint8 and picture.shape == (height, width, 3)
    # Shifting the means and another order of sums move a value by a few 2^-24, which
    # matters only next to a rounding threshold.
    difference = np.abs(picture.astype(int) - expected)
    assert difference.max() <= 1 and (difference != 0).mean() < 0.01


def test_no_gaussians_are_a_black_picture():
    assert (gi.decode(paper_file(gi.Cholesky, 0, 2)) == np.zeros((*SIZE, 2))).all()


@pytest.mark.parametrize(
    "scale", [0.0, -1.0, np.nan, np.inf, 1e5, 1e300, 1e-200, "2", None, True, [1.0]]
)
def test_impossible_scales_are_refused(scale):
    with pytest.raises(ValueError, match="scale: expected"):
        gi.decode(paper_file(gi.Cholesky, 1, 1), scale=scale)
