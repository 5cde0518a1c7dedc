"""Alpha blending against its definition, in float64, and its laws."""

import jax
import numpy as np
import pytest

import gi_jax as gi
from experiments.alpha_blending import MAX_ALPHA, OpaqueGaussians, blend, merge
from gi_jax.gaussians import CUTOFF
from tests.helpers import assert_close_as_vectors, on_the_cut, scene

SIZE = (20, 36)  # Six tiles, most of them not full.
COUNT = 120  # Several blocks in each tile.
CAPACITY = 6 * COUNT - 1


def opaque_scene(seed: int, opacity: float = 0.0) -> OpaqueGaussians:
    """Returns Gaussians about half opaque; `opacity` is added to the logits."""
    logits = np.random.default_rng(seed).normal(size=COUNT) + opacity
    gaussians = scene(seed, COUNT, SIZE, sigma=(1.0, 6.0))
    return OpaqueGaussians(*gaussians, logits.astype(np.float32))


def definition(gaussians: OpaqueGaussians) -> np.ndarray:
    """Returns the picture, one Gaussian after the other, float64."""
    means, factor, colors, logits = (np.asarray(x, np.float64) for x in gaussians)
    opacities = 1 / (1 + np.exp(-logits))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    picture = np.zeros((*SIZE, colors.shape[1]))
    through = np.ones(SIZE)
    for mean, (l11, l21, l22), color, opacity in zip(means, factor, colors, opacities):
        u = (x - mean[0]) / l11
        v = (y - mean[1] - l21 * u) / l22
        q = (u * u + v * v) / 2
        alpha = np.minimum(MAX_ALPHA, opacity * np.exp(-q)) * (q <= CUTOFF)
        picture += (alpha * through)[..., None] * color
        through *= 1 - alpha
    return picture


@jax.jit  # One program for all tests.
def picture_and_gradient(gaussians, cotangent):
    picture, transpose = jax.vjp(lambda g: blend(g, SIZE, capacity=CAPACITY), gaussians)
    return picture, transpose(cotangent)[0]


def draw(gaussians: OpaqueGaussians) -> np.ndarray:
    return np.asarray(picture_and_gradient(gaussians, np.ones((*SIZE, 3), "f4"))[0])


@pytest.mark.parametrize("opacity", [0.0, 8.0])  # The second is bounded at 0.99.
def test_the_picture_is_that_of_the_definition(opacity):
    gaussians = opaque_scene(1, opacity)
    away = ~on_the_cut(merge(gaussians), SIZE)
    expected = definition(gaussians)
    np.testing.assert_allclose(draw(gaussians)[away], expected[away], atol=2e-6)


def test_gradients_are_those_of_the_definition():
    gaussians = opaque_scene(2)
    cotangent = np.random.default_rng(0).normal(size=(*SIZE, 3))
    cotangent[on_the_cut(merge(gaussians), SIZE, width=1e-2)] = 0  # Of no derivative.
    whole = jax.tree.map(lambda x: np.asarray(x, np.float64), gaussians)
    some = [0, 50, COUNT - 1]  # In front, between, behind.
    expected = jax.tree.map(lambda x: np.zeros_like(x[some]), whole)
    step = 1e-5
    for leaf, derivatives in zip(whole, expected):
        for at in np.ndindex(derivatives.shape):
            place = (some[at[0]], *at[1:])
            here, ends = leaf[place], []
            for there in (here + step, here - step):
                leaf[place] = there
                ends.append(np.sum(definition(whole) * cotangent))
            leaf[place] = here
            derivatives[at] = (ends[0] - ends[1]) / (2 * step)
    _, gradient = picture_and_gradient(gaussians, cotangent.astype(np.float32))
    gradient = jax.tree.map(lambda x: x[np.array(some)], gradient)
    assert_close_as_vectors(gradient, expected, 1e-4)


def test_order_is_that_of_the_rows():
    gaussians = opaque_scene(3)
    turned = jax.tree.map(lambda x: x[::-1], gaussians)
    assert np.abs(draw(gaussians) - draw(turned)).max() > 0.1
    # What is in front of everything hides it, but for a hundredth of the light.
    wall = jax.tree.map(np.copy, gaussians)
    wall.means[0], wall.cholesky[0] = (18, 10), (1e4, 0, 1e4)
    wall.opacity_logits[0], wall.colors[0] = 20, 0
    gaussians.opacity_logits[0] = -100
    hidden = (1 - MAX_ALPHA) * draw(gaussians)
    np.testing.assert_allclose(draw(wall), hidden, atol=1e-6)


def test_faint_gaussians_just_add_up():
    gaussians = opaque_scene(4, opacity=-12.0)
    gaussians = gaussians._replace(colors=1e5 * gaussians.colors)
    expected = gi.rasterize(merge(gaussians), SIZE)
    # Each hides a share of about 1e-5 of those behind it.
    assert_close_as_vectors(draw(gaussians), expected, 1e-3)


def test_lists_that_do_not_fit_are_no_picture():
    gaussians = opaque_scene(1)
    everywhere = np.float32([1e4, 0, 1e4])
    gaussians.cholesky[:] = everywhere
    gaussians.means[:] = 10
    assert np.isnan(draw(gaussians)).all()
