"""What a caller of `decode` may say: bytes, limits, an implementation."""

from pathlib import Path

import numpy as np
import pytest

import gi_jax as gi
from gi_jax.coding import codec
from gi_jax.coding.bitstream import MAX_SIDE
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
