import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.filters import blur
from gi_jax.fitting import initialization
from gi_jax.gaussians import Cholesky
from tests.helpers import photo

# What is compiled fastest. `test_content_starts_nearer_than_random` takes the default,
# as do all fits.
content = functools.partial(initialization.content, implementation="dense")
dense = functools.partial(gi.rasterize, implementation="dense")


def test_random_is_the_papers():
    start = initialization.random(jax.random.key(0), 5000, (40, 90), 3)
    assert start.means.shape == (5000, 2) and start.colors.shape == (5000, 3)
    np.testing.assert_allclose(start.means.min(0), 0, atol=0.5)
    np.testing.assert_allclose(start.means.max(0), [90, 40], atol=0.5)
    np.testing.assert_allclose(start.cholesky.min(0), [0.5, 0, 0.5], atol=0.01)
    np.testing.assert_allclose(start.cholesky.max(0), [1.5, 1, 1.5], atol=0.01)
    np.testing.assert_allclose(start.colors.mean(0), 0.5, atol=0.03)


@pytest.mark.parametrize(
    ("image", "count"),
    [
        (photo(40, 48), 200),
        (np.full((20, 30, 1), 0.3, np.float32), 17),
        (np.ones((1, 1, 3), np.float32), 3),
        (photo(8, 8), 500),
    ],
)
def test_content_gives_finite_gaussians_of_any_number(image, count):
    start = content(jax.random.key(0), image, count)
    assert start.means.shape == (count, 2)
    assert start.colors.shape == (count, image.shape[2])
    assert all(np.isfinite(leaf).all() for leaf in start)
    height, width = image.shape[:2]
    means = np.asarray(start.means)
    assert (means >= 0).all() and (means <= [width, height]).all()


def test_content_starts_nearer_than_random():
    image = photo()
    start = initialization.content(jax.random.key(0), image, 300)
    blind = initialization.random(jax.random.key(0), 300, image.shape[:2], 3)
    pictures = (dense(g, image.shape[:2]) for g in (start, blind))
    psnr = [gi.psnr(picture, image) for picture in pictures]
    assert psnr[0] > psnr[1] + 4


def test_content_puts_gaussians_along_edges():
    image = np.zeros((64, 64, 1), np.float32)
    image[:, 32:] = 1  # One vertical edge.
    start = content(jax.random.key(0), image, 100, color_steps=0)
    near = np.abs(start.means[:, 0] - 32) < 3
    assert near.mean() > 0.5
    covariance = np.asarray(gi.covariance(start))[near]
    assert (covariance[:, 1, 1] > 1.5 * covariance[:, 0, 0]).mean() > 0.9


@pytest.mark.parametrize("total", [1, 37, 500, 3000])
def test_points_keep_the_density(total):
    rng = np.random.default_rng(0)
    density = rng.uniform(0, 1, (40, 50)) ** 3
    density[:, 25:] *= 4
    density = jnp.asarray(density / density.sum() * total, jnp.float32)
    points = initialization._round_density(density)
    assert (points >= 0).all()
    assert abs(int(points.sum()) - total) <= 1
    share = points[:, 25:].sum() / max(points.sum(), 1)
    expected = density[:, 25:].sum() / density.sum()
    np.testing.assert_allclose(share, expected, atol=0.03 if total > 100 else 0.3)


def test_error_diffusion_is_floyd_and_steinbergs():
    densities = np.random.default_rng(1).uniform(0, 0.8, (2, 7, 9)).astype(np.float32)
    heights, widths = np.array([[7], [4]]), np.array([[9], [8]])
    actual = initialization._error_diffusion(jnp.asarray(densities), heights, widths)
    for points, density, (h,), (w,) in zip(actual, densities, heights, widths):
        np.testing.assert_array_equal(points[:h, :w], _diffused(density[:h, :w]))
        assert points.sum() == points[:h, :w].sum()


def _diffused(density):
    """Returns what Floyd and Steinberg's loop over the pixels gives."""
    height, width = density.shape
    left = density.astype(np.float64)
    points = np.zeros((height, width), int)
    for y, x in np.ndindex(height, width):
        points[y, x] = max(np.floor(left[y, x] + 0.5), 0)
        rest = left[y, x] - points[y, x]
        for dy, dx, part in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
            if y == height - 1:
                dy, dx = 0, 1
            elif not 0 <= x + dx < width:
                dy, dx = 1, 0
            if x + dx < width:
                left[y + dy, x + dx] += part / 16 * rest
    return points


def test_solve_colors_goes_to_the_least_squares():
    image = photo(24, 32)
    start = content(jax.random.key(0), image, 30, color_steps=0)

    # A channel for each Gaussian's colour.
    each = Cholesky(start.means, start.cholesky, jnp.eye(30))
    matrix = np.moveaxis(dense(each, (24, 32)), 2, 0).reshape(30, -1)
    best = np.linalg.lstsq(matrix.T, image.reshape(-1, 3), rcond=None)[0]
    solve = functools.partial(
        initialization.solve_colors, start, image, implementation="dense"
    )

    def error(colors):
        return float(np.mean((matrix.T @ colors - image.reshape(-1, 3)) ** 2))

    errors = [error(solve(steps=steps).colors) for steps in (0, 1, 3, 40)]
    assert errors[0] > errors[1] > errors[2] >= errors[3]
    np.testing.assert_allclose(errors[3], error(best), rtol=1e-2)


@pytest.mark.parametrize("sigma", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (33, 20, 3)])
def test_blur_keeps_the_mean_and_the_shape(shape, sigma):
    image = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    blurred = blur(jnp.asarray(image), sigma)
    assert blurred.shape == shape
    np.testing.assert_allclose(blur(jnp.ones(shape), sigma), 1, rtol=1e-5)
    assert blurred.std() <= image.std() + 1e-6
