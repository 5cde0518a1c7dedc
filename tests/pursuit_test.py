import functools

import jax
import jax.numpy as jnp
import numpy as np

from gi_jax.fitting.densification import unborn
from gi_jax.fitting.pursuit import newborns, pursue
from gi_jax.gaussians import Cholesky, area, covariance
from gi_jax.rendering.rasterize import rasterize

SIZE = (64, 80)
STEP = 0.1

# A small round one, a long one and a large one, far from each other.
PLANTED = Cholesky(
    jnp.float32([[15.5, 12.5], [60, 20], [30, 48]]),
    jnp.float32([[1.2, 0, 1.2], [4, 3, 1.5], [6.8, 0, 6.8]]),
    jnp.float32([[0.3, 0.2, 0.1], [-0.2, 0.3, 0.2], [0.2, 0.1, -0.1]]),
)
RESIDUAL = rasterize(PLANTED, SIZE, implementation="dense")


@functools.partial(jax.jit, static_argnums=1)
def find(residual, count):
    return newborns(residual, count, STEP)


def test_newborns_are_what_the_residual_is_made_of():
    found, worth = find(RESIDUAL, 8)
    worth = np.asarray(worth)
    assert (np.diff(worth) <= 0).all() and (worth[:3] > 0).all()
    assert (np.asarray(found.colors)[worth <= 0] == 0).all()
    for mean, sigma, color in zip(PLANTED.means, covariance(PLANTED), PLANTED.colors):
        near = np.linalg.norm(found.means - mean, axis=1) < 4
        ratio = np.linalg.det(covariance(found)) / np.linalg.det(sigma)
        alike = found.colors @ color > 0.8 * color @ color
        assert (near & (ratio > 0.3) & (ratio < 3) & alike & (worth > 0)).any()


def test_no_residual_no_newborns():
    found, worth = find(jnp.zeros((*SIZE, 3)), 8)
    assert (worth <= 0).all() and (found.colors == 0).all()


def test_the_weak_make_room_and_the_step_is_joint():
    weak = PLANTED._replace(colors=PLANTED.colors * jnp.float32([[1], [1e-3], [1]]))
    gaussians = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), weak, unborn(2, 3))
    events = pursue([4], step_size=STEP, most=3, prune_from=4, implementation="dense")
    apply = jax.jit(events.apply)
    key, born = jax.random.key(0), jnp.int32(3)
    assert events.due(jnp.int32(4)) and not events.due(jnp.int32(3))
    new, count, placed = apply(key, jnp.int32(4), gaussians, born, RESIDUAL)
    np.testing.assert_array_equal(placed, [False, True, False, True, True])
    assert count == 5
    energy = np.sum(np.square(new.colors), axis=1) * area(new)
    assert energy[1] > STEP**2 / 4
    picture = rasterize(
        jax.tree.map(lambda x: x[placed], new), SIZE, implementation="dense"
    )
    # The large one is found in several parts, which do not add up to more than it.
    assert np.sum(picture * RESIDUAL) > 0.9 * np.sum(np.square(picture))
    assert np.sum(np.square(RESIDUAL - picture)) < 0.5 * np.sum(np.square(RESIDUAL))


def test_newborns_do_not_depend_on_how_errors_are_weighted():
    gaussians, born = unborn(6, 3), jnp.int32(0)
    key, step = jax.random.key(0), jnp.int32(1)
    colors = []
    for mask in 1.0, jnp.full((*SIZE, 1), 2.0):
        # What is worth its bits does: D grows with the errors.
        events = pursue(
            [1],
            step_size=STEP * jnp.max(jnp.asarray(mask)),
            most=6,
            mask=mask,
            implementation="dense",
        )
        new, *_ = jax.jit(events.apply)(key, step, gaussians, born, RESIDUAL)
        colors.append(new.colors)
    assert np.abs(colors[0]).max() > 0.1
    np.testing.assert_allclose(*colors, rtol=1e-4, atol=1e-6)
