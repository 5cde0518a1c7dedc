import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gi_jax as gi
from gi_jax.fitting import optimizers
from gi_jax.fitting.optimizers import Tangent
from tests.helpers import assert_close_as_vectors, scene

SIZE = (40, 60)


@jax.jit
@jax.grad
def gradient_of_picture(gaussians):
    weights = jax.random.normal(jax.random.key(0), (*SIZE, 3))
    return jnp.sum(weights * gi.rasterize(gaussians, SIZE, implementation="dense"))


def gaussians_and_gradient(count=50):
    gaussians = gi.canonical(scene(0, count, SIZE, sigma=(0.8, 5.0)))
    return gaussians, gradient_of_picture(gaussians)


def root(gaussians):
    """Returns the symmetric square roots of Σ, [N, 2, 2] float64."""
    values, vectors = np.linalg.eigh(np.asarray(gi.covariance(gaussians), np.float64))
    return (vectors * np.sqrt(values)[:, None, :]) @ vectors.transpose(0, 2, 1)


def test_pull_back_is_the_gradient_in_the_own_frame():
    """Against the formulas: g_u = Fᵀ g_μ, and g_v from M = Fᵀ (dL/dΣ) F."""
    gaussians, gradient = gaussians_and_gradient()
    actual = optimizers.own_frame().pull_back(gaussians, gradient, SIZE)

    f = root(gaussians)
    g_mean = np.asarray(gradient.means, np.float64)
    u = np.einsum("nji,nj->ni", f, g_mean)
    # dL/dL = 2 (dL/dΣ) L restricted to the lower triangle; solved for the symmetric
    # dL/dΣ = [[p, q], [q, r]]: g11 = 2 (p l11 + q l21), g21 = 2 (q l11 + r l21),
    # g22 = 2 r l22.
    l11, l21, l22 = np.asarray(gaussians.cholesky, np.float64).T
    g11, g21, g22 = np.asarray(gradient.cholesky, np.float64).T
    r = g22 / (2 * l22)
    q = (g21 / 2 - r * l21) / l11
    p = (g11 / 2 - q * l21) / l11
    by_covariance = np.moveaxis(np.array([[p, q], [q, r]]), -1, 0)
    m = f.transpose(0, 2, 1) @ by_covariance @ f
    v = np.stack([2 * m[:, 0, 0], 2 * m[:, 0, 1], 2 * m[:, 1, 1]], axis=1)
    # Colours change with the shape so that the energy stays.
    g_color = np.asarray(gradient.colors, np.float64)
    energy = 0.5 * np.sum(g_color * gaussians.colors, axis=1)
    v[:, [0, 2]] -= energy[:, None]
    area = np.pi * l11 * l22
    share = SIZE[0] * SIZE[1] / len(area)
    expected = Tangent(u, v, g_color * np.sqrt(share / area)[:, None])
    assert_close_as_vectors(actual, expected, 1e-3)


def test_pull_back_does_not_depend_on_the_signs_of_the_diagonal():
    gaussians, _ = gaussians_and_gradient()
    turned = gaussians._replace(cholesky=gaussians.cholesky * jnp.array([-1, -1, -1]))
    frame = optimizers.own_frame()

    def tangent(gaussians):
        return frame.pull_back(gaussians, gradient_of_picture(gaussians), SIZE)

    assert_close_as_vectors(tangent(turned), tangent(gaussians), 1e-5)


def test_retract_moves_in_the_own_frame():
    gaussians, _ = gaussians_and_gradient()
    rng = np.random.default_rng(0)
    tangent = Tangent(
        *(jnp.asarray(rng.uniform(-0.1, 0.1, (50, k)), jnp.float32) for k in (2, 3, 3))
    )
    moved = optimizers.own_frame().retract(gaussians, tangent, SIZE)
    f = root(gaussians)
    step = np.einsum("nij,nj->ni", f, tangent.means)
    inside = (np.abs(gaussians.means - [30, 20]) < [28, 18]).all(axis=1)
    np.testing.assert_allclose(
        moved.means[inside], (gaussians.means + step)[inside], rtol=1e-4
    )
    v1, v2, v3 = np.asarray(tangent.shape, np.float64).T
    e = np.moveaxis(np.array([[np.exp(v1), v2 / 2], [v2 / 2, np.exp(v3)]]), -1, 0)
    new = f @ e
    np.testing.assert_allclose(
        gi.covariance(moved), new @ new.transpose(0, 2, 1), rtol=1e-3, atol=1e-3
    )


def test_a_step_in_shape_keeps_the_energy():
    gaussians, _ = gaussians_and_gradient()
    zero = optimizers.own_frame().locate(gaussians)
    tangent = zero._replace(shape=zero.shape + jnp.array([0.2, 0.1, -0.1]))
    moved = optimizers.own_frame().retract(gaussians, tangent, SIZE)

    def energy(g):
        return np.sum(g.colors**2, axis=1) * np.asarray(gi.gaussians.area(g))

    np.testing.assert_allclose(energy(moved), energy(gaussians), rtol=1e-4)


def test_retract_holds_to_its_guards():
    gaussians, _ = gaussians_and_gradient()
    wild = Tangent(
        jnp.full((50, 2), 1e3), jnp.full((50, 3), -100.0), jnp.zeros((50, 3))
    )
    frame = optimizers.own_frame()
    for sign in (1, -1):
        moved = gaussians
        for _ in range(30):
            step = jax.tree.map(lambda leaf, sign=sign: sign * leaf, wild)
            moved = frame.retract(moved, step, SIZE)
        covariance = np.asarray(gi.covariance(moved))
        assert np.isfinite(covariance).all()
        assert (covariance[:, [0, 1], [0, 1]] >= 0.09 * 0.999).all()
        share = SIZE[0] * SIZE[1] / 50
        assert (covariance[:, [0, 1], [0, 1]].sum(1) <= 36 * share * 1.001).all()
        assert (moved.means >= -1).all()
        assert (moved.means <= np.array([SIZE[1] + 1, SIZE[0] + 1])).all()


def test_own_frame_wants_cholesky():
    gaussians = gi.to_rotation_scale(scene(0, 3, SIZE))
    with pytest.raises(ValueError, match="expected Cholesky"):
        optimizers.own_frame().locate(gaussians)


def reference_adan(gradients, rate, b1, b2, b3, eps):
    """The release's update, written out in NumPy, in float64."""
    m = d = n = np.zeros_like(gradients[0])
    x = np.zeros_like(gradients[0])
    last = gradients[0]
    path = []
    for k, g in enumerate(gradients, start=1):
        difference = g - last
        last = g
        m = b1 * m + (1 - b1) * g
        d = b2 * d + (1 - b2) * difference
        n = b3 * n + (1 - b3) * (g + b2 * difference) ** 2
        denominator = np.sqrt(n) / np.sqrt(1 - b3**k) + eps
        x = x - rate * (m / (1 - b1**k) + b2 * d / (1 - b2**k)) / denominator
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize(
    ("rate", "b1", "b2", "b3", "eps"),
    [(1e-3, 0.98, 0.92, 0.99, 1e-8), (0.1, 0.9, 0.8, 0.95, 1e-3)],
)
def test_adan_is_the_released_one(rate, b1, b2, b3, eps):
    gradients = np.random.default_rng(0).normal(size=(60, 7)) * 10.0 ** np.arange(-3, 4)
    expected = reference_adan(gradients, rate, b1, b2, b3, eps)
    optimizer = optimizers.adan(rate, b1, b2, b3, eps)
    params = {"x": jnp.zeros(7)}
    state = optimizer.init(params)

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update({"x": gradient}, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params["x"]

    gradients = jnp.asarray(gradients, jnp.float32)
    _, actual = jax.lax.scan(step, (params, state), gradients)
    # 60 float32 updates of size `rate`.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * rate)
    theirs = optax.adan(rate, 1 - b1, 1 - b2, 1 - b3, eps)
    updates, state = theirs.update({"x": gradients[0]}, theirs.init(params), params)
    updates, _ = theirs.update({"x": gradients[1]}, state, params)
    ours_second = actual[1] - actual[0]
    assert not np.allclose(updates["x"], ours_second, rtol=1e-2)


def test_row_adam_is_adam_where_all_rows_start_together():
    gradients = np.random.default_rng(1).normal(size=(20, 5, 3)).astype(np.float32)
    ours = optimizers.scale_by_row_adam(0.9, 0.95, eps=1e-12)
    theirs = optax.scale_by_adam(0.9, 0.95, eps=1e-12)
    params = jnp.zeros((5, 3))
    ours_state, theirs_state = ours.init(params), theirs.init(params)
    for gradient in gradients:
        a, ours_state = ours.update(gradient, ours_state)
        b, theirs_state = theirs.update(gradient, theirs_state)
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_row_adam_lets_rows_start_later():
    adam = optimizers.scale_by_row_adam()
    state = adam.init(jnp.zeros((2, 1)))
    for _ in range(5):
        _, state = adam.update(jnp.ones((2, 1)), state)
    fresh = adam.init(jnp.zeros((2, 1)))
    state = jax.tree.map(lambda old, new: old.at[1].set(new[1]), state, fresh)
    update, _ = adam.update(jnp.full((2, 1), -3.0), state)
    np.testing.assert_allclose(update[1], -1, rtol=1e-5)  # A first step has length 1.
    assert update[0] > -1


def test_rows_without_gradients_do_not_move():
    adam = optimizers.own_frame_adam(Tangent(0.1, 0.1, 0.1))
    zero = Tangent(jnp.zeros((2, 2)), jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    update, _ = adam.update(zero, adam.init(zero))
    jax.tree.map(np.testing.assert_array_equal, update, zero)


def test_hold_then_decay():
    schedule = optimizers.hold_then_decay(100, hold=0.8, final=0.05)
    values = np.array([schedule(step) for step in range(100)])
    np.testing.assert_allclose(values[:79], 1)
    np.testing.assert_allclose(values[-1], 0.05, rtol=1e-5)
    assert (np.diff(values[80:]) < 0).all()


def test_row_adam_takes_leaves_of_any_rank():
    """Angles are [N]: each row is scaled by its own count of steps."""
    adam = optimizers.scale_by_row_adam(0.9, 0.95)
    tree = {"flat": jnp.arange(1.0, 5.0), "deep": jnp.ones((4, 2, 3))}
    update, state = adam.update(tree, adam.init(tree))
    assert jax.tree.map(jnp.shape, update) == jax.tree.map(jnp.shape, tree)
    np.testing.assert_allclose(update["flat"], 1, rtol=1e-5)
    late = state._replace(steps=jnp.array([0, 1, 1, 1]))
    update, _ = adam.update(tree, late)
    assert (update["flat"][0] > update["flat"][1:]).all()


def test_guards_have_derivatives():
    """Line searches differentiate a step, also where no guard acts."""
    gaussians, _ = gaussians_and_gradient()
    frame = optimizers.own_frame()
    moved = jax.grad(
        lambda tangent: sum(
            jnp.sum(leaf) for leaf in frame.retract(gaussians, tangent, SIZE)
        )
    )(frame.locate(gaussians))
    assert all(jnp.isfinite(leaf).all() for leaf in moved)
