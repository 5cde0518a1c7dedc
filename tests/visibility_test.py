"""What contrast hides."""

import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.visibility import visibility_weights


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_texture_hides_errors(channels):
    rng = np.random.default_rng(0)
    image = np.full((40, 80, channels), 0.5, np.float32)
    image[:, 40:] += rng.normal(0, 0.2, (40, 40, 1)).astype(np.float32)
    weights = np.asarray(visibility_weights(jnp.asarray(image)))
    assert weights.shape == (40, 80, 1) and weights.min() > 0
    assert np.exp(np.mean(np.log(weights))) == pytest.approx(1, rel=1e-4)
    smooth, textured = weights[:, :25].mean(), weights[:, 55:].mean()
    # √(0.2² + 0.03²) / 0.03
    assert smooth / textured == pytest.approx(6.7, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_without_contrast_all_is_alike(value):
    flat = visibility_weights(jnp.full((1, 7, 3), value))
    np.testing.assert_allclose(flat, 1, rtol=1e-3)


def test_errors_in_texture_are_also_less_for_ms_ssim():
    rng = np.random.default_rng(0)
    image = np.full((180, 360, 1), 0.5, np.float32)
    image[:, 180:] += rng.normal(0, 0.1, (180, 180, 1)).astype(np.float32)
    error = rng.normal(0, 0.02, (180, 180, 1)).astype(np.float32)
    scores = []
    for part in slice(0, 180), slice(180, None):
        wrong = image.copy()
        wrong[:, part] += error
        scores.append(float(gi.ms_ssim(wrong, image)))
    assert scores[0] < scores[1]
