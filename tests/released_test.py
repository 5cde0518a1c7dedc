"""Our side of the comparison with the released code, and its table."""

import json

import numpy as np
import pytest

from experiments import released
from gi_jax.images import load_image, save_image
from tests.helpers import photo

SIZE = (24, 32)


@pytest.fixture
def config(tmp_path):
    save_image(tmp_path / "photo.png", photo(*SIZE))
    return released.Config(
        checkout=str(tmp_path / "nowhere"),
        image=str(tmp_path / "photo.png"),
        workdir=str(tmp_path),
        num_gaussians="7",
        full_steps=1,
        full_gaussians=30,
        repeats=1,
    )


def _released_picture(xyz, cholesky, colors):
    """Draws as the released code does: pixel (i, j) has its centre at x = j, y = i."""
    height, width = SIZE
    y, x = np.mgrid[:height, :width]
    picture = np.zeros((*SIZE, 3))
    for (mx, my), (l11, l21, l22), color in zip(xyz, cholesky, colors):
        u = (x - (mx + 1) / 2 * width) / l11
        v = (y - (my + 1) / 2 * height - l21 * u) / l22
        weight = np.exp(-(u * u + v * v) / 2)
        picture += np.where(weight < 1 / 255, 0, weight)[:, :, None] * color
    return picture


def test_ours_draws_what_the_released_code_found(config, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "xyz": rng.uniform(-0.9, 0.9, (7, 2)),
        "cholesky": rng.uniform([1, 0, 1], [3, 2, 3], (7, 3)),
        "colors": rng.uniform(0, 0.5, (7, 3)),
    }
    picture = np.clip(_released_picture(**arrays), 0, 1)
    np.savez(tmp_path / "released-7.npz", picture=picture, **arrays)
    curve = [{"step": 1, "seconds": 3.0, "psnr": 5.0}]
    released_side = {"points": [], "curve": curve}
    (tmp_path / "released.json").write_text(json.dumps(released_side))

    ours = released.measure_ours(config)
    (point,) = ours["points"]
    assert point["largest_difference"] < 1e-5 and point["pixels_that_differ"] == 0
    image = load_image(config.image)
    psnr = released.psnr_of_8_bits(picture, image)
    np.testing.assert_allclose(point["psnr"], psnr, atol=0.1)
    assert ours["fits"][-1]["psnr"] > 5 and len(ours["fits"]) == 1
    json.dumps(ours)

    theirs = {**point, "frames_per_second": 1.0, "steps_per_second": 2.0}
    text = released.summary(released_side | {"points": [theirs]}, ours)
    assert f"| 7 | 1 | {point['frames_per_second']:,.0f} |" in text
    assert "Released, 1 steps: 5.00 dB in 3.0 s." in text


def test_the_released_code_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="expected the released GaussianImage in"):
        released._released_model(tmp_path)
