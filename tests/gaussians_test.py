import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from gi_jax import gaussians as geometry
from gi_jax.gaussians import MAX_SIGMA, MIN_SIGMA, RADIUS, Cholesky, RotationScale
from tests.helpers import scene

SIZE = (40, 60)


def rotation_scale(seed=0, count=200):
    rng = np.random.default_rng(seed)
    fields = (
        rng.uniform(0, 60, (count, 2)),
        rng.uniform(-2, 3, (count, 2)),
        rng.uniform(-10, 10, count),
        rng.normal(size=(count, 3)),
    )
    return RotationScale(*(jnp.asarray(x, jnp.float32) for x in fields))


def by_definition(gaussians):
    """Returns Σ, [N, 2, 2] in float64."""
    if isinstance(gaussians, Cholesky):
        l11, l21, l22 = np.asarray(gaussians.cholesky, np.float64).T
        factor = np.moveaxis(np.array([[l11, 0 * l11], [l21, l22]]), -1, 0)
    else:
        angles = np.asarray(gaussians.angles, np.float64)
        cos, sin = np.cos(angles), np.sin(angles)
        rotation = np.moveaxis(np.array([[cos, -sin], [sin, cos]]), -1, 0)
        scales = np.exp(np.asarray(gaussians.log_scales, np.float64))
        factor = rotation * scales[:, None, :]
    return factor @ factor.transpose(0, 2, 1)


PARAMETRISATIONS = {
    "cholesky": lambda: scene(0, 200, SIZE),
    "negative_diagonal": lambda: scene(0, 200, SIZE)._replace(
        cholesky=scene(0, 200, SIZE).cholesky * np.array([-1, 1, -1], np.float32)
    ),
    "rotation_scale": rotation_scale,
}


@pytest.fixture(params=PARAMETRISATIONS, name="gaussians")
def fixture_gaussians(request):
    return PARAMETRISATIONS[request.param]()


def assert_same_covariance(actual, expected):
    # Float32 rounding of a few products and one root, relative to the larger axis.
    largest = np.linalg.eigvalsh(expected)[:, 1, None, None]
    np.testing.assert_allclose(actual / largest, expected / largest, atol=2e-6)


def test_covariance_is_its_definition(gaussians):
    assert_same_covariance(geometry.covariance(gaussians), by_definition(gaussians))


def test_conic_is_the_inverse_covariance(gaussians):
    # Compared through the product with Σ: its error grows with the condition number.
    expected = by_definition(gaussians)
    product = np.asarray(geometry.conic(gaussians), np.float64) @ expected
    condition = np.linalg.cond(expected)[:, None, None]
    np.testing.assert_array_less(np.abs(product - np.eye(2)) / condition, 2e-6)


def test_support_is_the_exact_box(gaussians):
    diagonal = np.diagonal(by_definition(gaussians), axis1=1, axis2=2)
    expected = RADIUS * np.sqrt(diagonal)
    np.testing.assert_allclose(geometry.support(gaussians), expected, rtol=1e-5)


def test_area_is_the_integral_of_the_square(gaussians):
    expected = np.pi * np.sqrt(np.linalg.det(by_definition(gaussians)))
    np.testing.assert_allclose(geometry.area(gaussians), expected, rtol=1e-4)


@pytest.mark.parametrize("convert", [gi.to_cholesky, gi.to_rotation_scale])
def test_conversions_keep_the_gaussians(gaussians, convert):
    converted = convert(gaussians)
    assert_same_covariance(by_definition(converted), by_definition(gaussians))
    np.testing.assert_array_equal(converted.means, gaussians.means)
    np.testing.assert_array_equal(converted.colors, gaussians.colors)


def test_canonical_form_is_unique_and_keeps_the_gaussians(gaussians):
    canonical = gi.canonical(gaussians)
    assert type(canonical) is type(gaussians)
    assert_same_covariance(by_definition(canonical), by_definition(gaussians))
    if isinstance(canonical, Cholesky):
        assert (canonical.cholesky[:, [0, 2]] > 0).all()
    else:
        assert (canonical.log_scales[:, 0] >= canonical.log_scales[:, 1]).all()
        assert ((canonical.angles >= 0) & (canonical.angles < np.pi)).all()
    jax.tree.map(np.testing.assert_array_equal, gi.canonical(canonical), canonical)


def test_other_names_of_the_same_gaussians_have_one_canonical_form():
    gaussians = rotation_scale()
    turned = gaussians._replace(
        log_scales=gaussians.log_scales[:, ::-1], angles=gaussians.angles + np.pi / 2
    )
    one, other = gi.canonical(gaussians), gi.canonical(turned)
    np.testing.assert_array_equal(one.log_scales, other.log_scales)
    apart = np.abs(np.asarray(one.angles) - np.asarray(other.angles))
    np.testing.assert_array_less(np.minimum(apart, np.pi - apart), 1e-5)


def test_resize_scales_means_and_covariances(gaussians):
    resized = geometry.resize(gaussians, 2.5)
    np.testing.assert_allclose(resized.means, gaussians.means * 2.5, rtol=1e-6)
    expected = by_definition(gaussians) * 2.5**2
    assert_same_covariance(by_definition(resized), expected)


DEGENERATE = {
    "zero": Cholesky(np.ones((1, 2)), np.zeros((1, 3)), np.ones((1, 3))),
    "flat": Cholesky(np.ones((1, 2)), np.array([[1.0, 5.0, 0.0]]), np.ones((1, 3))),
    "huge": Cholesky(np.ones((1, 2)), np.full((1, 3), 1e30), np.ones((1, 3))),
    "thin": RotationScale(
        np.ones((1, 2)), np.array([[3.0, -200.0]]), np.ones(1), np.ones((1, 3))
    ),
    "wide": RotationScale(
        np.ones((1, 2)), np.array([[200.0, 200.0]]), np.ones(1), np.ones((1, 3))
    ),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_covariances_stay_finite(name):
    gaussians = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), DEGENERATE[name])
    factor = np.abs(gi.to_cholesky(gaussians).cholesky)
    assert (factor[:, [0, 2]] >= MIN_SIGMA * 0.999).all()
    assert (factor <= MAX_SIGMA * 1.001).all()
    for value in (geometry.covariance, geometry.conic, geometry.support):
        assert np.isfinite(value(gaussians)).all()
    picture, gradient = jax.value_and_grad(
        lambda g: gi.rasterize(g, (8, 8)).sum(), allow_int=False
    )(gaussians)
    assert np.isfinite(picture)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_where_rows_takes_rows_and_refuses_anything_else():
    rows = jnp.array([True, False, True])
    new = {"flat": jnp.ones(3), "deep": jnp.ones((3, 2))}
    old = jax.tree.map(jnp.zeros_like, new)
    chosen = geometry.where_rows(rows, new, old)
    np.testing.assert_array_equal(chosen["flat"], [1, 0, 1])
    np.testing.assert_array_equal(chosen["deep"], [[1, 1], [0, 0], [1, 1]])
    for other in (jnp.ones(()), jnp.ones(4), jnp.ones((2, 3))):
        with pytest.raises(ValueError, match="expected arrays of 3 rows"):
            geometry.where_rows(rows, other, other)


def test_round_gaussians_have_the_derivative_of_their_area():
    """The logarithm of s1 s2 is that of l11 l22, at equal scales too."""

    def log_area(factor):
        shape = Cholesky(jnp.zeros((1, 2)), factor[None], jnp.zeros((1, 1)))
        return jnp.sum(geometry.to_rotation_scale(shape).log_scales)

    found = jax.grad(log_area)(jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(found, [1, 0, 1], atol=1e-6)


def test_round_gaussians_have_finite_derivatives_of_every_field():
    round_ = Cholesky(jnp.ones((1, 2)), jnp.array([[2.0, 0.0, 2.0]]), jnp.ones((1, 3)))
    for leaf in jax.tree.leaves(jax.jacrev(geometry.to_rotation_scale)(round_)):
        assert np.isfinite(leaf).all()
