"""Colours that are not seen cost nothing; those that are seen count as they are."""

import functools
import json

import numpy as np
import pytest

import gi_jax as gi
from gi_jax.command.flags import parse
from gi_jax.command.main import OK, main
from gi_jax.encoder import _write_mean
from gi_jax.transparency import as_seen, error_weights, fill_unseen, is_transparent
from tests.helpers import photo

SIZE = (32, 40)
RNG = np.random.default_rng(0)
ENCODE = {"step": 0.1, "effort": 3, "implementation": "dense", "progress": False}


@functools.cache
def sprite(kind: str, channels: int) -> np.ndarray:
    """A disc of a photo with a soft edge; what is around it: 0, noise or the photo."""
    color = photo(*SIZE)[..., : channels - 1]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    radius = np.hypot(y - 15.5, x - 19.5)[..., None]
    alpha = np.clip((12 - radius) / 2, 0, 1).astype(np.float32)
    around = {"black": 0, "noise": np.random.default_rng(1).random(color.shape)}[kind]
    color = np.where(alpha > 0, color, around).astype(np.float32)
    return np.concatenate([color, alpha], axis=2)


def seen_psnr(data, picture):
    decoded = gi.decode(data).astype(np.float32) / 255
    return float(gi.psnr(as_seen(decoded), as_seen(picture)))


@pytest.mark.parametrize("channels", [2, 4])
def test_noise_that_is_not_seen_costs_nothing(channels):
    clean, noisy = (sprite(kind, channels) for kind in ("black", "noise"))
    files = [gi.encode(picture, **ENCODE) for picture in (clean, noisy)]
    assert len(files[1]) == pytest.approx(len(files[0]), rel=0.02)
    psnr = [seen_psnr(data, clean) for data in files]
    assert psnr[1] == pytest.approx(psnr[0], abs=0.1)
    exact = gi.encode(noisy, **ENCODE, exact=True)
    assert len(exact) > 1.5 * len(files[1])
    unseen = noisy[..., -1] == 0
    errors = [
        np.mean((gi.decode(data) / 255 - noisy)[unseen] ** 2)
        for data in (exact, files[1])
    ]
    assert errors[0] < 0.6 * errors[1]  # `exact` is about all channels.
    assert psnr[1] > seen_psnr(exact, clean) - 0.5


def test_targets_are_about_what_is_seen():
    noisy = sprite("noise", 4)
    data = gi.encode(noisy, **ENCODE | {"step": None}, target_psnr=27)
    assert 27 <= seen_psnr(data, noisy) < 28.5


def test_only_alpha_makes_a_picture_transparent():
    for channels, expected in ((1, False), (2, True), (3, False), (4, True)):
        assert is_transparent(np.full((2, 2, channels), 0.5)) == expected
        assert not is_transparent(np.ones((2, 2, channels)))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (32, 40), (5, 3)])
def test_filling_keeps_what_is_seen_and_depends_on_nothing_else(size):
    picture = RNG.random((*size, 4)).astype(np.float32)
    picture[..., 3] = np.round(picture[..., 3])
    other = picture.copy()
    other[..., :3] = np.where(picture[..., 3:] > 0, picture[..., :3], 0.3)
    filled = fill_unseen(picture)
    np.testing.assert_array_equal(filled, fill_unseen(other))
    seen = picture[..., 3] > 0
    np.testing.assert_array_equal(filled[seen], picture[seen])
    np.testing.assert_array_equal(filled[..., 3], picture[..., 3])
    if seen.any():
        low, high = picture[seen][:, :3].min(0), picture[seen][:, :3].max(0)
        assert (filled[..., :3] >= low - 1e-6).all()
        assert (filled[..., :3] <= high + 1e-6).all()


def test_what_is_filled_is_smooth():
    x = np.linspace(0, 1, 64, dtype=np.float32)
    picture = np.ones((64, 64, 2), np.float32)
    picture[..., 0] = x
    picture[16:48, 16:48] = [0.77, 0]
    filled = fill_unseen(picture)[..., 0]
    assert np.abs(filled - x).max() < 0.15
    assert np.abs(np.diff(filled, axis=0)).max() < 0.03


def test_nothing_that_is_seen_is_black():
    assert not fill_unseen(np.full((4, 4, 4), [0.5, 0.5, 0.5, 0]))[..., :3].any()


def test_weights_are_those_of_premultiplied_errors():
    picture = RNG.random((4, 5, 4)).astype(np.float32)
    error = RNG.normal(size=(4, 5, 4)).astype(np.float32) / 100
    error[..., 3] = 0
    picture[..., 3] = 0.2 + 0.8 * picture[..., 3]
    difference = as_seen(picture + error) - as_seen(picture)
    weighted = error_weights(picture) * error**2
    np.testing.assert_allclose(weighted, difference**2, rtol=1e-2, atol=1e-8)


def test_the_command_compares_what_is_seen(tmp_path, capsys, monkeypatch):
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[4:12, 4:12] = 200
    picture[:4, :, :3] = RNG.integers(0, 255, (4, 16, 3))
    gi.save_image(tmp_path / "a.png", picture / np.float32(255))
    said = []

    def encode(image, *, exact=False, **_):
        said.append(exact)
        return _write_mean(image.mean(axis=(0, 1)), image.shape[:2])

    monkeypatch.setattr(gi, "encode", encode)
    psnr = []
    for flags in [], ["--exact"]:
        source, output = str(tmp_path / "a.png"), str(tmp_path / "a.gi")
        command = ["gi", "encode", source, "-o", output, "--force", "--json", *flags]
        assert main(parse(command)) == OK
        psnr.append(json.loads(capsys.readouterr().out)["psnr"])
    assert said == [False, True]
    decoded = gi.decode((tmp_path / "a.gi").read_bytes()) / np.float32(255)
    original = picture / np.float32(255)
    expected = gi.psnr(as_seen(decoded), as_seen(original)), gi.psnr(decoded, original)
    np.testing.assert_allclose(psnr, expected, atol=1e-3)
