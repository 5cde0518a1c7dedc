"""Every implementation against the definition, and the definition against itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.gaussians import CUTOFF, Cholesky, to_cholesky
from gi_jax.rendering.dense import rasterize_dense
from gi_jax.rendering.tiles import BLOCK, find_boxes, make_blocks, make_grid
from tests import interpreter
from tests.helpers import assert_close_as_vectors, on_the_cut, scene

# A tile's corner is 11 px from its centre: at sigma = 0.3 px exponents are sums of
# terms up to (11 / 0.3)² / 2 = 700, with an error of 700 · 2^-24 = 4e-5, which is the
# relative error of a weight. Sums of up to a thousand terms add less.
PICTURE_TOLERANCE = 5e-5
GRADIENT_TOLERANCE = 1e-4

# The needle's axes are 28 and 0.28 px: offsets of up to 90 px cancel to within a few
# times the small one, so ten times the error remains, in both implementations.
# Dots have ten times the exponents of sigma = 0.3 px.
TOLERANCE_FACTOR = {"needle": 10, "dots": 20}


def one(mean, factor, color=(1.0, 0.5, -0.25)):
    fields = ([mean], [factor], [color])
    return Cholesky(*(jnp.asarray(x, jnp.float32) for x in fields))


SCENES = {
    "photo_like": (lambda: scene(0, 100, (64, 96)), (64, 96)),
    "no_multiple_of_a_tile": (lambda: scene(1, 60, (37, 53)), (37, 53)),
    "one_pixel": (lambda: scene(2, 5, (1, 1)), (1, 1)),
    "one_row": (lambda: scene(3, 20, (1, 70)), (1, 70)),
    "one_column": (lambda: scene(3, 20, (70, 1)), (70, 1)),
    "one_gaussian": (lambda: one((20.3, 11.7), (3.0, 1.0, 2.0)), (32, 48)),
    "off_the_picture": (lambda: one((-50.0, 400.0), (3.0, 1.0, 2.0)), (32, 48)),
    "just_reaching_in": (lambda: one((-5.0, 20.0), (2.0, 1.0, 2.0)), (32, 48)),
    "larger_than_the_picture": (
        lambda: one((9.0, 5.0), (400.0, 90.0, 300.0)),
        (40, 50),
    ),
    "needle": (lambda: one((30.0, 30.0), (28.0, 27.9, 0.4)), (64, 64)),
    "subpixel": (lambda: scene(4, 60, (32, 32), sigma=(0.3, 0.6)), (32, 32)),
    "dots": (lambda: scene(4, 60, (32, 32), sigma=(1e-3, 0.2)), (32, 32)),
    # More than the 256 Gaussians that the release draws in a tile.
    "crowded_tile": (lambda: scene(5, 300, (16, 16), sigma=(0.5, 3.0)), (16, 16)),
    "one_channel": (lambda: scene(6, 40, (40, 40), channels=1), (40, 40)),
    "seven_channels": (lambda: scene(7, 40, (40, 40), channels=7), (40, 40)),
    "negative_diagonal": (
        lambda: one((20.3, 11.7), (-3.0, 1.0, -2.0)),
        (32, 48),
    ),
}


@pytest.fixture(params=["xla", "triton"], name="implementation")
def fixture_implementation(request, monkeypatch):
    if request.param == "triton":
        interpreter.use(monkeypatch)
    return request.param


@pytest.fixture(params=SCENES, name="case")
def fixture_case(request):
    make, size = SCENES[request.param]
    factor = TOLERANCE_FACTOR.get(request.param, 1)
    return jax.tree.map(jnp.asarray, make()), size, factor


def test_picture_and_gradients_are_the_dense_ones(case, implementation):
    gaussians, size, factor = case
    channels = gaussians.colors.shape[1]
    decided = ~on_the_cut(gaussians, size)
    weights = jax.random.normal(jax.random.key(0), (*size, channels))
    weights = weights * decided[..., None]

    def run(implementation):
        def loss(gaussians):
            picture = gi.rasterize(gaussians, size, implementation=implementation)
            return jnp.sum(weights * picture), picture

        (_, picture), gradient = jax.value_and_grad(loss, has_aux=True)(gaussians)
        return picture, gradient

    (actual, gradient), (expected, expected_gradient) = (
        run(implementation),
        run("dense"),
    )
    assert actual.shape == (*size, channels) and actual.dtype == jnp.float32
    tolerance = PICTURE_TOLERANCE * factor * max(1.0, float(jnp.abs(expected).max()))
    np.testing.assert_allclose(actual[decided], expected[decided], atol=tolerance)
    # Where rounding decides, a Gaussian may lack 1/255 of its colour.
    step = 2 * float(jnp.abs(gaussians.colors).max()) / 255
    np.testing.assert_allclose(actual, expected, atol=step + tolerance)

    tolerance = factor * GRADIENT_TOLERANCE
    assert_close_as_vectors(gradient, expected_gradient, tolerance)
    for a, b in zip(gradient, expected_gradient):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=10 * tolerance)


@pytest.mark.parametrize("parametrisation", [gi.to_cholesky, gi.to_rotation_scale])
def test_dense_gradients_are_finite_differences(parametrisation):
    size = (12, 14)
    with jax.enable_x64(True):
        gaussians = scene(8, 6, size, sigma=(1.0, 4.0), dtype=np.float64)
        gaussians = parametrisation(jax.tree.map(jnp.asarray, gaussians))
        weights = jax.random.normal(jax.random.key(1), (*size, 3), jnp.float64)

        @jax.jit
        def loss(gaussians):
            factored = to_cholesky(gaussians)
            return jnp.sum(weights * rasterize_dense(*factored, size) ** 2)

        flat, restore = jax.flatten_util.ravel_pytree(gaussians)
        actual = jax.flatten_util.ravel_pytree(jax.grad(loss)(gaussians))[0]
        step = 1e-6  # So small that no pixel crosses the cut; error 1e-9 in float64.
        expected = np.array(
            [
                (loss(restore(flat + d)) - loss(restore(flat - d))) / (2 * step)
                for d in step * np.eye(flat.size)
            ]
        )
    assert_close_as_vectors(actual, expected, 1e-7)


def test_dense_is_the_formula():
    gaussians = one((2.25, 1.5), (0.8, 0.3, 0.6))
    picture = gi.rasterize(gaussians, (4, 5), implementation="dense")
    covariance = np.asarray(gi.covariance(gaussians)[0], np.float64)
    for i in range(4):
        for j in range(5):
            d = np.array([j + 0.5 - 2.25, i + 0.5 - 1.5])
            q = d @ np.linalg.inv(covariance) @ d / 2
            weight = np.exp(-q) if q <= CUTOFF else 0
            np.testing.assert_allclose(
                picture[i, j], weight * gaussians.colors[0], atol=1e-6
            )


@pytest.mark.parametrize("capacity", [1, 64, 10**5])
def test_picture_does_not_depend_on_the_capacity(capacity, implementation):
    gaussians = jax.tree.map(jnp.asarray, scene(9, 40, (50, 70)))
    options = {"implementation": implementation}

    def loss(gaussians, capacity):
        picture = gi.rasterize(gaussians, (50, 70), capacity=capacity, **options)
        return jnp.sum(picture**2), picture

    run = jax.value_and_grad(loss, has_aux=True)
    (_, actual), gradient = run(gaussians, capacity)
    (_, expected), expected_gradient = run(gaussians, None)
    np.testing.assert_allclose(actual, expected, atol=PICTURE_TOLERANCE)
    assert_close_as_vectors(gradient, expected_gradient, GRADIENT_TOLERANCE)


def test_more_entries_than_can_be_numbered_are_reported():
    # 2^21 Gaussians over 1024 tiles each: 2^31 entries.
    grid = make_grid(2**21, (512, 512))
    means = jnp.full((2**21, 2), 256.0)
    factor = jnp.broadcast_to(jnp.array([1e4, 0.0, 1e4]), (2**21, 3))
    assert not jax.jit(lambda m, f: find_boxes(grid, m, f).countable)(means, factor)


def test_no_gaussians_give_a_black_picture(implementation):
    empty = Cholesky(jnp.zeros((0, 2)), jnp.zeros((0, 3)), jnp.zeros((0, 4)))
    picture, vjp = jax.vjp(
        lambda g: gi.rasterize(g, (5, 6), implementation=implementation), empty
    )
    np.testing.assert_array_equal(picture, np.zeros((5, 6, 4)))
    assert vjp(picture)[0].colors.shape == (0, 4)


def test_parameters_that_are_not_finite_draw_nothing(implementation):
    gaussians = scene(10, 20, (30, 30))
    broken = jax.tree.map(np.copy, gaussians)
    broken.means[3] = np.nan
    broken.cholesky[5, 1] = np.nan
    broken.means[7] = np.inf
    rest = np.setdiff1d(np.arange(20), [3, 5, 7])
    kept = jax.tree.map(lambda leaf: leaf[rest], gaussians)
    for capacity in None, 1:
        actual = gi.rasterize(
            broken, (30, 30), implementation=implementation, capacity=capacity
        )
        np.testing.assert_allclose(actual, gi.rasterize(kept, (30, 30)), atol=1e-5)


def test_inside_jit_vmap_scan_and_grad(implementation):
    size = (20, 33)
    batch = [jax.tree.map(jnp.asarray, scene(seed, 15, size)) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch)

    def loss(gaussians):
        picture = gi.rasterize(gaussians, size, implementation=implementation)
        return jnp.mean(picture**2)

    each = [jax.value_and_grad(loss)(gaussians) for gaussians in batch]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    vmapped = jax.jit(jax.vmap(jax.value_and_grad(loss)))(stacked)
    _, scanned = jax.lax.scan(
        lambda carry, gaussians: (carry, jax.value_and_grad(loss)(gaussians)),
        None,
        stacked,
    )
    inner = jax.grad(lambda g: jax.vmap(loss)(g).sum())(stacked)
    for actual in (vmapped, scanned):
        assert_close_as_vectors(actual, expected, 1e-6)
    assert_close_as_vectors(inner, expected[1], 1e-6)


def test_vmap_over_some_arguments_only(implementation):
    size = (20, 20)
    gaussians = jax.tree.map(jnp.asarray, scene(11, 15, size))
    colors = jnp.stack([gaussians.colors, 2 * gaussians.colors])

    def render(colors):
        replaced = gaussians._replace(colors=colors)
        return gi.rasterize(replaced, size, implementation=implementation)

    pictures = jax.vmap(jax.vmap(render))(colors[None])[0]
    np.testing.assert_allclose(pictures[1], 2 * pictures[0], atol=1e-5)
    # The rows of a Jacobian: cotangents are batched, Gaussians are not.
    transpose = jax.vjp(render, colors[0])[1]
    (rows,) = jax.vmap(transpose)(jnp.stack([pictures[0], 3 * pictures[0]]))
    np.testing.assert_allclose(rows[1], 3 * rows[0], rtol=1e-4, atol=1e-4)


def test_a_second_call_compiles_nothing_and_gives_the_same(implementation):
    def loss(gaussians):
        picture = gi.rasterize(gaussians, (24, 24), implementation=implementation)
        return jnp.sum(picture**2)

    step = jax.jit(jax.value_and_grad(loss))
    gaussians = jax.tree.map(jnp.asarray, scene(12, 40, (24, 24)))
    first = step(gaussians)
    step(jax.tree.map(jnp.asarray, scene(13, 40, (24, 24))))
    jax.tree.map(np.testing.assert_array_equal, first, step(gaussians))
    assert step._cache_size() == 1


@pytest.mark.parametrize("parametrisation", [gi.to_cholesky, gi.to_rotation_scale])
def test_scale_enlarges_the_picture(parametrisation):
    # At an odd scale the centres of the small picture's pixels are centres again.
    gaussians = parametrisation(scene(15, 40, (20, 30), sigma=(1.0, 6.0)))
    small = gi.rasterize(gaussians, (20, 30))
    large = gi.rasterize(gaussians, (60, 90), scale=3.0)
    decided = ~on_the_cut(to_cholesky(gaussians), (20, 30), 1e-2)
    np.testing.assert_allclose(large[1::3, 1::3][decided], small[decided], atol=1e-4)
    gradient = jax.jit(
        jax.grad(lambda s: jnp.sum(gi.rasterize(gaussians, (60, 90), scale=s)))
    )(3.0)
    # Areas grow with the square of the scale.
    total = float(jnp.sum(large))
    assert np.isfinite(gradient) and abs(gradient) <= 3 * abs(total) + 1e3


GOOD = scene(16, 4, (8, 8))

BAD_CALLS = {
    "no_gaussians": (lambda: gi.rasterize((1, 2, 3), (8, 8)), "expected Cholesky"),
    "shapes": (
        lambda: gi.rasterize(GOOD._replace(means=GOOD.means[:2]), (8, 8)),
        "expected the shapes",
    ),
    "no_channels": (
        lambda: gi.rasterize(GOOD._replace(colors=GOOD.colors[:, :0]), (8, 8)),
        "expected the shapes",
    ),
    "size_of_one": (lambda: gi.rasterize(GOOD, 8), "two integers"),
    "size_of_floats": (lambda: gi.rasterize(GOOD, (8.0, 8)), "two integers"),
    "size_of_zero": (lambda: gi.rasterize(GOOD, (0, 8)), "1 or more"),
    "scale": (lambda: gi.rasterize(GOOD, (8, 8), scale=0.0), "above 0"),
    "scale_nan": (lambda: gi.rasterize(GOOD, (8, 8), scale=np.nan), "above 0"),
    "capacity": (lambda: gi.rasterize(GOOD, (8, 8), capacity=0), "positive"),
    "implementation": (
        lambda: gi.rasterize(GOOD, (8, 8), implementation="cuda"),
        "expected 'triton', 'xla'",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_say_what_was_expected(name):
    call, message = BAD_CALLS[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("capacity", [None, 40])
def test_lists_hold_every_pair_that_touches(capacity):
    """No (tile, Gaussian) pair with a pixel above the cut is missing, none is twice."""
    size = (50, 70)
    gaussians = scene(17, 80, size, sigma=(0.4, 20.0))
    means, factor = jnp.asarray(gaussians.means), jnp.asarray(gaussians.cholesky)
    grid = make_grid(80, size, capacity)
    boxes = find_boxes(grid, means, factor)
    listed = []
    for number in range(-(-int(boxes.total) // grid.capacity)):
        blocks = make_blocks(grid, boxes, means, factor, jnp.int32(number))
        tiles = np.repeat(np.asarray(blocks.tile)[:, None], BLOCK, 1)
        filled = np.asarray(blocks.ids) < 80
        assert not filled[int(blocks.used) :].any()
        listed += [*zip(tiles[filled], np.asarray(blocks.ids)[filled])]
    assert len(listed) == len(set(listed))
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    tile = (y // 16).astype(int) * grid.columns + (x // 16).astype(int)
    needed = set()
    for n, (mean, (l11, l21, l22)) in enumerate(zip(*gaussians[:2])):
        u = (x - mean[0]) / l11
        v = (y - mean[1] - l21 * u) / l22
        needed |= {(t, n) for t in tile[(u * u + v * v) / 2 <= CUTOFF]}
    assert needed <= set(listed)
    # The cull is exact up to the gaps between pixels.
    assert len(listed) < 1.2 * len(needed)
