"""Tests of experiments/ellipses.py."""

import io
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

import gi_jax as gi
from experiments import ellipses, plots
from gi_jax.images import save_image
from tests.helpers import photo

GOLDEN = Path(__file__).parent / "golden"
TILTED = gi.RotationScale(
    np.float32([[30, 20]]),
    np.log(np.float32([[9, 3]])),
    np.float32([0.5]),
    np.float32([[0.5, 0.1, -0.3]]),
)

SIDE = 640
SCALE = 10  # of pictures 64 pixels wide


def drawn(gaussians, background, **options):
    figure = ellipses.draw(gaussians, background, side=SIDE, **options)
    data = plots.png(figure, ellipses.DPI)
    return iio.imread(io.BytesIO(data))[:, :, :3].astype(float)


@pytest.mark.parametrize("sigmas", [1.0, 1.5])
@pytest.mark.parametrize("color_by", ["size", "contribution", "color"])
def test_contours_are_where_the_gaussian_says(color_by, sigmas):
    gray = np.full((40, 64, 3), 128, np.uint8)
    shown = drawn(TILTED, gray, color_by=color_by, sigmas=sigmas)
    panel = shown[-40 * SCALE :, :SIDE]  # The picture, without its margins.
    y, x = np.nonzero(np.ptp(panel, axis=2) > 25)
    assert len(y) > 200
    offsets = np.stack([x + 0.5, y + 0.5], axis=1) / SCALE - TILTED.means
    conic = np.asarray(gi.conic(TILTED))[0]
    distances = np.sqrt(np.einsum("ni,ij,nj->n", offsets, conic, offsets))
    # A line is a pixel wide; 10 pixels are one of the picture, 3 of those a sigma.
    np.testing.assert_allclose(distances, sigmas, atol=1.5 / SCALE / 3)
    # All around it, not a part of it.
    angles = np.arctan2(offsets[:, 1], offsets[:, 0])
    assert len(np.unique((angles * 4).astype(int))) >= 24


def test_the_share_that_contributes_most():
    gaussians = gi.Cholesky(
        np.float32([[10, 10], [40, 30]]),
        np.float32([[3, 0, 3]] * 2),
        np.float32([[0.1], [-0.2]]),
    )
    white = np.ones((40, 64, 1), np.float32)
    both = drawn(gaussians, white)[-40 * SCALE :, :SIDE] < 200
    one = drawn(gaussians, white, fraction=0.5)[-40 * SCALE :, :SIDE] < 200
    assert both.any(axis=2)[:, :250].any() and both.any(axis=2)[:, 250:].any()
    assert not one.any(axis=2)[:, :250].any() and one.any(axis=2)[:, 250:].any()


@pytest.mark.parametrize("name", ["rotation_scale", "sensitivity_rgba"])
def test_files_are_drawn(name, tmp_path):
    file = GOLDEN / f"{name}.gi"
    gaussians, (height, width) = gi.read_gaussians(file.read_bytes())
    save_image(tmp_path / "white.png", np.ones((height, width, 3), np.float32))
    config = ellipses.Config(
        f"{tmp_path}/new/e.png", image=f"{tmp_path}/white.png", side=SIDE
    )
    shown = iio.imread(ellipses.run(file, config))
    assert shown.shape[0] >= height and shown.shape[1] >= width
    fields = {k: np.asarray(x) for k, x in gaussians._asdict().items()}
    np.savez(tmp_path / "gaussians.npz", **fields)
    ellipses.run(tmp_path / "gaussians.npz", config)
    np.testing.assert_array_equal(iio.imread(config.output), shown)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sigmas": 0.0}, "sigmas: expected a number over 0"),
        ({"side": 0}, "side: expected at least 1"),
        ({"fraction": 0.0}, "fraction: expected 0 to 1"),
        ({"fraction": 1.5}, "fraction: expected 0 to 1"),
        ({"output": "e.gif"}, "output: expected a name in .png"),
    ],
)
def test_impossible_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        ellipses.Config(**setting)


def test_files_that_cannot_be_drawn(tmp_path):
    config = ellipses.Config(f"{tmp_path}/e.png")
    np.savez(tmp_path / "other.npz", a=[1])
    with pytest.raises(ValueError, match=r"other\.npz: expected arrays of Gaussians"):
        ellipses.run(tmp_path / "other.npz", config)
    (tmp_path / "bad.gi").write_bytes(b"no file of Gaussians")
    with pytest.raises(ValueError, match=r"bad\.gi: expected a \.gi file"):
        ellipses.run(tmp_path / "bad.gi", config)
    np.savez(tmp_path / "good.npz", **TILTED._asdict())
    for data in (b"no zip", b"", (tmp_path / "good.npz").read_bytes()[:300]):
        (tmp_path / "bad.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"bad\.npz: expected arrays of Gaussian"):
            ellipses.run(tmp_path / "bad.npz", config)
    with pytest.raises(ValueError, match="not known without --image"):
        ellipses.run(tmp_path / "good.npz", config)
    save_image(tmp_path / "photo.png", photo(40, 48))
    other = ellipses.Config(f"{tmp_path}/e.png", image=f"{tmp_path}/photo.png")
    with pytest.raises(ValueError, match=r"image: expected 61x37 pixels as in .*48x40"):
        ellipses.run(GOLDEN / "cholesky.gi", other)
    assert not (tmp_path / "e.png").exists()


def test_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.ellipses", f"{tmp_path}/no.gi"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "ellipses: " in done.stderr
    assert f"{tmp_path}/no.gi" in done.stderr and "Traceback" not in done.stderr
