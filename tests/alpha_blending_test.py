"""Alpha blending against its definition, in float64, and its laws."""

import jax
import numpy as np
import pytest

import gi_jax as gi
from experiments.alpha_blending import MAX_ALPHA, OpaqueGaussians, blend, merge
from gi_jax.gaussians import CUTOFF
from tests.helpers import assert_close_as_vectors, on_the_cut, photo, scene

SIZE = (20, 36)  # Tiles that are not full.
COUNT = 120  # Several blocks in each tile.


def opaque_scene(seed: int, opacity: float = 0.0) -> OpaqueGaussians:
    """Returns Gaussians about half opaque; `opacity` is added to the logits."""
    logits = np.random.default_rng(seed).normal(size=COUNT) + opacity
    gaussians = scene(seed, COUNT, SIZE, sigma=(1.0, 6.0))
    return OpaqueGaussians(*gaussians, logits.astype(np.float32))


def definition(gaussians: OpaqueGaussians, image_size=SIZE) -> np.ndarray:
    """Returns the picture, one Gaussian after the other, float64."""
    means, factor, colors, logits = (np.asarray(x, np.float64) for x in gaussians)
    opacities = 1 / (1 + np.exp(-logits))
    y, x = np.mgrid[: image_size[0], : image_size[1]] + 0.5
    picture = np.zeros((*image_size, colors.shape[1]))
    through = np.ones(image_size)
    for mean, (l11, l21, l22), color, opacity in zip(means, factor, colors, opacities):
        u = (x - mean[0]) / l11
        v = (y - mean[1] - l21 * u) / l22
        q = (u * u + v * v) / 2
        alpha = np.minimum(MAX_ALPHA, opacity * np.exp(-q)) * (q <= CUTOFF)
        picture += (alpha * through)[..., None] * color
        through *= 1 - alpha
    return picture


draw = jax.jit(blend, static_argnums=1, static_argnames="capacity")


@pytest.mark.parametrize("opacity", [0.0, 8.0])  # The second is bounded at 0.99.
def test_the_picture_is_that_of_the_definition(opacity):
    gaussians = opaque_scene(1, opacity)
    away = ~on_the_cut(merge(gaussians), SIZE)
    picture = np.asarray(draw(gaussians, SIZE))
    np.testing.assert_allclose(picture[away], definition(gaussians)[away], atol=2e-6)


def test_gradients_are_those_of_the_definition():
    gaussians = opaque_scene(2)
    few = jax.tree.map(lambda x: x[::40].astype(np.float64), gaussians)
    cotangent = np.random.default_rng(0).normal(size=(*SIZE, 3))
    cotangent[on_the_cut(merge(gaussians), SIZE, width=1e-2)] = 0  # Of no derivative.

    def value(part):
        whole = jax.tree.map(lambda x: x.astype(np.float64), gaussians)
        for old, new in zip(whole, part):
            old[::40] = new
        return np.sum(definition(whole) * cotangent)

    expected = jax.tree.map(np.zeros_like, few)
    step = 1e-5
    for number, leaf in enumerate(few):
        for index in np.ndindex(leaf.shape):
            ends = []
            for side in (step, -step):
                moved = [x.copy() for x in few]
                moved[number][index] += side
                ends.append(value(moved))
            expected[number][index] = (ends[0] - ends[1]) / (2 * step)

    _, transpose = jax.vjp(lambda gaussians: draw(gaussians, SIZE), gaussians)
    (gradient,) = transpose(cotangent.astype(np.float32))
    gradient = jax.tree.map(lambda x: x[::40], gradient)
    assert_close_as_vectors(gradient, expected, 1e-4)


def test_order_counts_where_gaussians_overlap_and_is_that_of_the_rows():
    gaussians = opaque_scene(3)
    turned = jax.tree.map(lambda x: x[::-1], gaussians)
    assert np.abs(draw(gaussians, SIZE) - draw(turned, SIZE)).max() > 0.1
    # What is far in front of everything hides it, but for a hundredth of the light.
    wall = jax.tree.map(np.copy, gaussians)
    wall.means[0], wall.cholesky[0] = (18, 10), (1e4, 0, 1e4)
    wall.opacity_logits[0], wall.colors[0] = 20, 0
    gaussians.opacity_logits[0] = -100
    hidden = (1 - MAX_ALPHA) * np.asarray(draw(gaussians, SIZE))
    np.testing.assert_allclose(draw(wall, SIZE), hidden, atol=1e-6)


def test_faint_gaussians_just_add_up():
    gaussians = opaque_scene(4, opacity=-12.0)
    gaussians = gaussians._replace(colors=1e5 * gaussians.colors)
    expected = np.asarray(gi.rasterize(merge(gaussians), SIZE))
    # Each hides a share of about 1e-5 of those behind it.
    assert_close_as_vectors(draw(gaussians, SIZE), expected, 1e-3)


def test_lists_that_do_not_fit_are_no_picture():
    gaussians = opaque_scene(1)
    assert np.isnan(draw(gaussians, SIZE, capacity=64)).all()


def test_the_step_of_a_fit_draws_with_it():
    target = photo(*SIZE)
    step = gi.make_fit_step(
        optimizer=gi.adan(0.02), coordinates=gi.parameters(), render=blend
    )
    state = step.init(opaque_scene(5), jax.random.key(0))
    jitted = jax.jit(step)
    losses = []
    for _ in range(10):
        state, metrics = jitted(state, target)
        losses.append(float(metrics.loss))
    assert isinstance(state.gaussians, OpaqueGaussians)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    error = definition(opaque_scene(5)) - target
    np.testing.assert_allclose(losses[0], np.mean(error**2), rtol=1e-2)  # The cut.
