"""Weights of errors: every part of a fit obeys them, and hidden pixels say nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.fitting.losses import LOSSES, blended, weighted
from gi_jax.transparency import fill_hidden

SIZE = 24, 32
ROWS, COLUMNS = np.mgrid[: SIZE[0], : SIZE[1]] / np.array(SIZE)[:, None, None]
TRUTH = np.stack(
    [ROWS, COLUMNS, 0.5 + 0.4 * np.sin(9 * ROWS + 7 * COLUMNS)], axis=2
).astype(np.float32)
HOLE = np.zeros(SIZE, bool)
HOLE[6:16, 10:22] = True


def with_hole(value):
    return np.where(HOLE[:, :, None], np.float32(value), TRUTH)


def fit(image, **options):
    options = {"weights": ~HOLE, "progress": False} | options
    return gi.fit(image, num_gaussians=40, steps=30, **options)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "l1+ssim"},
        {"preset": "paper"},
        {"loss": lambda a, b: abs(a - b).mean()},
    ],
    ids=["fast", "l1+ssim", "paper", "own loss"],
)
def test_hidden_pixels_have_no_influence_on_any_bit(options):
    results = [
        fit(image, **options) for image in (TRUTH, with_hole(1), with_hole(np.nan))
    ]
    for other in results[1:]:
        assert_same(results[0].gaussians, other.gaussians)
        assert results[0].psnr == other.psnr
    # They would have, without weights.
    assert results[0].psnr != fit(TRUTH, **options | {"weights": None}).psnr


def test_visible_pixels_are_fitted_as_well_as_without_a_hole():
    result = fit(with_hole(0))
    picture = gi.rasterize(result.gaussians, SIZE)
    visible = gi.psnr(picture, TRUTH, ~HOLE[:, :, None])
    whole = fit(TRUTH, weights=None)
    assert visible > whole.psnr - 1
    # What is reported is what is visible, of the picture rounded to 8 bits.
    assert result.psnr == pytest.approx(float(visible), abs=0.2)


def test_errors_go_where_weights_are_small():
    weights = np.where(COLUMNS < 0.5, 1, 0.01)
    result = fit(TRUTH, weights=weights)
    picture = gi.rasterize(result.gaussians, SIZE)
    left = gi.psnr(picture, TRUTH, (COLUMNS < 0.5)[:, :, None])
    right = gi.psnr(picture, TRUTH, (COLUMNS >= 0.5)[:, :, None])
    assert left > right + 2


def test_a_batch_obeys_them():
    images = np.stack([TRUTH, TRUTH[::-1]])
    broken = images.copy()
    broken[:, HOLE] = np.nan
    options = {"num_gaussians": 40, "steps": 30, "progress": False}
    for a, b in zip(
        gi.fit_batch(images, weights=[~HOLE, ~HOLE], **options),
        gi.fit_batch(broken, weights=[~HOLE, ~HOLE], **options),
    ):
        assert_same(a.gaussians, b.gaussians)


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    path = tmp_path / "fit.npz"
    fit(TRUTH, checkpoint=path)
    with pytest.raises(ValueError, match="another fit"):
        fit(TRUTH, checkpoint=path, weights=np.where(HOLE, 0.5, 1))


def test_losses_weigh_errors():
    picture, weights = TRUTH[::-1], np.where(HOLE, 0.0, 2.0)[:, :, None]
    error = np.abs(picture - TRUTH)[~HOLE]
    assert LOSSES["l1"](picture, TRUTH, weights) == pytest.approx(
        error.mean(), rel=1e-5
    )
    squared = (error**2).mean()
    assert LOSSES["l2"](picture, TRUTH, weights) == pytest.approx(squared, rel=1e-5)
    own = weighted(lambda a, b: jnp.mean((a - b) ** 2))
    assert own(picture, TRUTH, weights) == pytest.approx(squared, rel=1e-5)
    np.testing.assert_array_equal(blended(picture, TRUTH, weights)[HOLE], TRUTH[HOLE])


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_pulls_at_hidden_pixels(name):
    weights = jnp.asarray(~HOLE[:, :, None], jnp.float32)
    gradient = jax.grad(weighted(LOSSES[name]))(
        jnp.asarray(TRUTH[::-1]), TRUTH, weights
    )
    assert not np.any(np.asarray(gradient)[HOLE])
    assert np.any(np.asarray(gradient)[~HOLE])


@pytest.mark.parametrize("hidden", [HOLE, COLUMNS > 0.05, np.ones(SIZE, bool)])
def test_filled_pixels_are_means_of_visible_ones(hidden):
    visible = ~hidden[:, :, None]
    filled = np.asarray(fill_hidden(np.where(visible, TRUTH, np.nan), visible))
    np.testing.assert_array_equal(filled[~hidden], TRUTH[~hidden])
    seen = TRUTH[~hidden] if visible.any() else np.zeros((1, 3))
    assert (filled >= seen.min(0) - 1e-5).all() and (filled <= seen.max(0) + 1e-5).all()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.zeros(SIZE), "not all 0"),
        (np.full(SIZE, np.nan), "finite"),
        (-np.ones(SIZE), "0 or more"),
        (np.ones((3, 3)), "shape"),
        (np.full(SIZE, "a"), "numbers"),
    ],
)
def test_weights_that_are_none(weights, said):
    with pytest.raises(ValueError, match=f"weights: .*{said}"):
        fit(TRUTH, weights=weights)


def test_masked_arrays_are_refused_with_what_to_do():
    masked = np.ma.MaskedArray(TRUTH, HOLE[:, :, None] | np.zeros_like(TRUTH, bool))
    for function in (fit, gi.encode):
        with pytest.raises(ValueError, match="weights="):
            function(masked)


def test_paths_are_refused_with_what_to_do():
    for function in (gi.fit, gi.encode, gi.encode_paper):
        with pytest.raises(ValueError, match="load_image"):
            function("photo.png")
