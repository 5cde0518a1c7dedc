import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gi_jax as gi
from experiments.measure import count_compilations
from gi_jax.fitting import loop, presets
from gi_jax.fitting.arguments import checked_image
from gi_jax.fitting.initialization import content, random
from gi_jax.fitting.optimizers import own_frame, own_frame_adam, parameters
from tests.helpers import photo

# Most tests fit this picture with these numbers, so that one compilation serves them.
IMAGE = photo(32, 40)
COUNT, STEPS = 60, 60

# For those with programs of their own: the definition compiles faster.
DENSE = {"implementation": "dense", "progress": False}


def fit(**arguments):
    arguments = {"image": IMAGE, "num_gaussians": COUNT, "steps": STEPS, **arguments}
    return gi.fit(**arguments, progress=False)


def test_psnr_is_that_of_the_8_bit_picture():
    result = fit()
    picture = np.clip(gi.rasterize(result.gaussians, (32, 40)), 0, 1)
    rounded = np.floor(picture * 255 + 0.5) / 255
    expected = -10 * np.log10(np.mean((rounded - IMAGE) ** 2))
    np.testing.assert_allclose(result.psnr, expected, rtol=1e-4)
    assert len(result.history["psnr"]) == len(result.history["step"])
    assert result.history["psnr"][-1] > result.history["psnr"][0] + 3


def test_a_perfect_picture_does_not_end_a_fit_without_a_goal():
    result = fit(image=np.zeros_like(IMAGE))
    assert result.psnr == np.inf and len(result.gaussians.means) == COUNT


def test_several_steps_per_look_change_nothing(monkeypatch):
    expected = fit()
    monkeypatch.setattr(loop, "default_platform", lambda: "gpu")
    loop.make_programs.cache_clear()
    result = fit()
    loop.make_programs.cache_clear()
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])
    jax.tree.map(np.testing.assert_array_equal, result.gaussians, expected.gaussians)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
def test_a_fit_on_a_gpu_is_as_good_as_on_a_cpu():
    # Fits are chaotic: of one, rounding alone changes 0.1 dB.
    def mean_psnr():
        fits = (
            fit(image=photo(64, 80), num_gaussians=300, steps=200, seed=seed)
            for seed in range(12)
        )
        return np.mean([result.psnr for result in fits])

    on_gpu = mean_psnr()
    with jax.default_device(jax.devices("cpu")[0]):
        on_cpu = mean_psnr()
    np.testing.assert_allclose(on_gpu, on_cpu, atol=0.12)


@pytest.mark.parametrize("loss", ["l1", "l2+ssim"])
def test_other_losses_improve_the_picture(loss):
    result = fit(loss=loss, steps=18, implementation="dense")
    assert result.history["loss"][-1] < 0.8 * result.history["loss"][0]


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    image = np.resize(photo(24, 24), (24, 24, channels))
    result = gi.fit(image, 30, 25, **DENSE)
    assert result.gaussians.colors.shape == (30, channels)


@pytest.mark.parametrize(
    ("preset", "size", "count", "steps"),
    [
        ("fast", (1, 1), 1, 30),
        ("fast", (20, 20), 3, 7),
        ("fast", (6, 6), 400, 60),
        ("paper", (1, 40), 1, 3),
    ],
)
def test_small_pictures_few_steps_many_gaussians(preset, size, count, steps):
    result = gi.fit(photo(*size), count, steps, preset=preset, **DENSE)
    assert result.gaussians.means.shape == (count, 2)
    assert all(np.isfinite(leaf).all() for leaf in result.gaussians)
    assert np.isfinite(result.psnr)


def test_same_seed_same_gaussians_other_seed_others():
    one, two, other = (fit(seed=seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one.gaussians, two.gaussians)
    assert not np.array_equal(one.gaussians.means, other.gaussians.means)


def test_a_second_fit_compiles_nothing():
    fit()
    with count_compilations() as compilations:
        fit(image=1 - IMAGE, seed=5)
    assert compilations.count == 0


def test_target_psnr_stops_when_it_is_reached():
    goal = fit().psnr - 4
    result = fit(target_psnr=goal)
    assert goal <= result.psnr
    # The first picture that reaches it, and no later one.
    assert (result.history["psnr"][:-1] < goal).all()
    assert len(result.history["psnr"]) < STEPS - 5
    assert (result.gaussians.means > -10).all()  # None that waits to be born.


def test_initial_gaussians_are_kept_to():
    first = fit()
    again = fit(initial=first.gaussians, steps=120)
    assert again.gaussians.means.shape == (COUNT, 2)
    np.testing.assert_allclose(again.history["psnr"][0], first.psnr, rtol=1e-4)
    assert again.psnr > first.psnr - 0.5


def test_rotation_scale_fits_with_parameter_steps():
    start = gi.to_rotation_scale(random(jax.random.key(0), 100, (32, 40), 3))
    result = fit(initial=start, preset="paper", implementation="dense")
    assert isinstance(result.gaussians, gi.RotationScale)
    assert result.psnr > result.history["psnr"][0] + 1


def test_step_works_in_jit_scan_vmap():
    """The pure step, as a researcher would use it."""
    images = jnp.stack([photo(24, 32), photo(24, 32)[::-1]])
    starts = jax.vmap(lambda key, image: content(key, image, 40))(
        jax.random.split(jax.random.key(0), 2), images
    )
    step = gi.make_fit_step()

    @jax.jit
    @jax.vmap
    def run(start, image, key):
        state = step.init(start, key)
        return jax.lax.scan(lambda state, _: step(state, image), state, length=10)

    keys = jax.random.split(jax.random.key(1), 2)
    states, metrics = run(starts, images, keys)
    assert metrics.psnr.shape == (2, 10)
    assert (metrics.psnr[:, -1] > metrics.psnr[:, 0] + 1).all()
    assert metrics.finite.all()
    one = jax.tree.map(lambda leaf: leaf[1], starts)
    state = step.init(one, keys[1])
    for _ in range(10):
        state, _ = jax.jit(step)(state, images[1])
    np.testing.assert_allclose(
        state.gaussians.means, states.gaussians.means[1], atol=1e-2
    )


def test_any_optax_transformation_steps_in_any_coordinates():
    image = photo(24, 32)
    start = content(jax.random.key(0), image, 40)
    for optimizer, coordinates in (
        (optax.sgd(1e-2), own_frame()),
        (optax.adam(1e-3), parameters()),
        (optax.chain(optax.clip(1.0), optax.lion(1e-3)), own_frame()),
    ):
        step = gi.make_fit_step(optimizer=optimizer, coordinates=coordinates)
        state = step.init(start, jax.random.key(0))
        first, (second, metrics) = state, jax.jit(step)(state, image)
        assert metrics.finite
        assert not np.array_equal(first.gaussians.means, second.gaussians.means)


def test_divergence_is_reported():
    recipe = presets.fast(50, (24, 32, 3), 40)
    rates = jax.tree.map(
        lambda rate: rate * 1e30, gi.fitting.optimizers.Tangent(1, 1, 1)
    )
    recipe = recipe._replace(optimizer=own_frame_adam(rates))
    with pytest.raises(gi.FitDivergedError, match="diverged in step"):
        gi.fit(photo(24, 32), 50, 40, recipe=recipe, **DENSE)


def test_an_exception_from_the_callback_ends_the_fit():
    def stop(state, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gi.fit(photo(24, 32), 20, 30, callback=stop, **DENSE)


def test_the_callback_may_stop_a_fit():
    def stop(state, metrics):
        raise StopIteration

    result = gi.fit(photo(24, 32), 20, 30, callback=stop, **DENSE)
    assert 1 <= len(result.history["psnr"]) < 20
    assert np.isfinite(result.psnr)


BAD = {
    "fraction": (dict(num_gaussians=100.0), "num_gaussians: expected an integer"),
    "infinity": (dict(num_gaussians=np.inf), "num_gaussians: expected an integer"),
    "presets": (dict(preset=["fast"]), "preset: expected one of"),
    "shape": (dict(image=np.zeros(5)), "expected the shape"),
    "empty": (dict(image=np.zeros((0, 5, 3))), "expected the shape"),
    "type": (dict(image=np.zeros((5, 5, 3), int)), "expected floats"),
    "range": (dict(image=np.full((5, 5, 3), 200.0)), "values in 0..1"),
    "nan": (dict(image=np.full((5, 5, 3), np.nan)), "values in 0..1"),
    "count": (dict(num_gaussians=0), "num_gaussians: expected"),
    "steps": (dict(steps=-1), "steps: expected"),
    "preset": (dict(preset="slow"), "preset: expected one of"),
    "loss": (dict(loss="l3"), "loss: expected one of"),
    "initial": (dict(initial=(1, 2)), "expected Cholesky"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_say_what_was_expected(name):
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        gi.fit(**{"image": photo(8, 8), "progress": False, **arguments})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integer_pictures_are_scaled(dtype):
    integers = np.round(IMAGE * np.iinfo(dtype).max).astype(dtype)
    np.testing.assert_allclose(checked_image(integers), IMAGE, atol=0.01)
    assert checked_image(integers[:, :, 0]).shape == (*IMAGE.shape[:2], 1)
