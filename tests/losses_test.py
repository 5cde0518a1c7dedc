"""Tests of the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gi_jax import metrics
from gi_jax.fitting import losses

every_loss = pytest.mark.parametrize("loss", losses.LOSSES.values(), ids=losses.LOSSES)


def _pair(shape=(14, 17, 3)):
    """Returns a picture that leaves 0..1, as a rendered one may, and a target."""
    rng = np.random.default_rng(0)
    return rng.uniform(-0.3, 1.3, shape), rng.uniform(0, 1, shape)


def test_values():
    picture, target = _pair()
    l1 = np.mean(np.abs(picture - target))
    l2 = np.mean((picture - target) ** 2)
    structure = 1 - metrics.ssim(picture, target)
    expected = {
        "l2": l2,
        "l1": l1,
        "ssim": structure,
        "l1+ssim": 0.7 * l1 + 0.3 * structure,
        "l2+ssim": 0.7 * l2 + 0.3 * structure,
    }
    assert set(expected) == set(losses.LOSSES)
    for name, value in expected.items():
        loss = losses.get_loss(name)
        np.testing.assert_allclose(loss(picture, target), value, rtol=1e-5)


@every_loss
def test_gradients_match_finite_differences(loss):
    picture, target = _pair()
    direction = np.random.default_rng(1).standard_normal(picture.shape)
    with jax.enable_x64(True):
        picture, target = jnp.asarray(picture), jnp.asarray(target)
        step = 1e-6
        ahead = loss(picture + step * direction, target)
        behind = loss(picture - step * direction, target)
        slope = jnp.vdot(jax.grad(loss)(picture, target), direction)
        np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=1e-5)


@every_loss
def test_zero_at_the_target_with_finite_gradients(loss):
    _, target = _pair()
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(target, jnp.float32), target)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert jnp.isfinite(gradient).all()


@every_loss
def test_overshooting_pixels_are_pulled_back(loss):
    target = jnp.ones((12, 12, 1))
    picture = target.at[6, 6].set(1.5)
    assert jax.grad(loss)(picture, target)[6, 6, 0] > 0


@every_loss
def test_shapes_must_agree(loss):
    with pytest.raises(ValueError, match="same shape"):
        loss(jnp.zeros((4, 5, 3)), jnp.zeros((4, 5, 1)))


def test_unknown_name():
    with pytest.raises(ValueError, match=r"expected one of l2, l1, .* got 'l3'"):
        losses.get_loss("l3")
