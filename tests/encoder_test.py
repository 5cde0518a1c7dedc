import functools
from pathlib import Path

import jax
import numpy as np
import pytest

import gi_jax as gi
from gi_jax import encoder, symbol_search
from gi_jax.encoder import _Goal, _next_step
from gi_jax.images import to_uint8
from gi_jax.symbol_search import Effort
from gi_jax.visibility import visibility_weights
from tests.helpers import photo

IMAGE = photo(40, 48)
STEP = 0.15

# One set of programs for all tests, from the definition, which compiles faster.
DEFAULTS = {"effort": 2, "implementation": "dense", "progress": False}


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        short = {1: Effort(30), 2: Effort(30, 1, 10, 1, 4)}
        patch.setattr(encoder, "EFFORTS", encoder.EFFORTS | short)
        yield


@functools.cache
def encoded(**arguments):
    return gi.encode(IMAGE, **DEFAULTS | {"step": STEP} | arguments)


def quality(data):
    return float(gi.psnr(gi.decode(data) / np.float32(255), IMAGE))


def test_a_photo_goes_to_a_file_and_back():
    data = encoded()
    decoded = gi.decode(data)
    assert decoded.dtype == np.uint8 and decoded.shape == IMAGE.shape
    assert quality(data) > 20
    info = gi.file_info(data)
    assert info.codec == "sensitivity" and info.num_bytes == len(data)
    gaussians, size = gi.read_gaussians(data)
    assert size == (40, 48) and len(gaussians.means) == info.num_gaussians + 1
    np.testing.assert_array_equal(to_uint8(gi.rasterize(gaussians, size)), decoded)


def test_effort_pays_and_steps_choose_the_size():
    def cost(effort):
        data = encoded(effort=effort)
        error = np.sum((gi.decode(data) / 255.0 - IMAGE) ** 2)
        return error + symbol_search.TRADE_OFF * STEP**2 * 8 * len(data)

    assert cost(2) < cost(1)
    assert len(encoded(step=2 * STEP)) < 0.7 * len(encoded())


def test_tuned_for_ssim_errors_go_where_they_are_seen_less():
    weights = np.asarray(visibility_weights(IMAGE))
    shares = []
    for tune in "psnr", "ssim":
        error = (gi.decode(encoded(tune=tune)) / 255.0 - IMAGE) ** 2
        shares.append(np.sum(weights * error) / np.sum(error))
    assert shares[1] < 0.97 * shares[0]
    with pytest.raises(ValueError, match=r"tune: expected one of .*got 'eye'"):
        encoded(tune="eye")


def test_fine_steps_have_room_for_more():
    fine, coarse = (
        symbol_search.Search(IMAGE, step, implementation="dense")
        for step in (0.99 * symbol_search._FINE_STEP, symbol_search._FINE_STEP)
    )
    assert (fine._capacity, coarse._capacity) == (160, 60)
    # Also where a search comes to them later.
    symbols = coarse.fit(STEP, 1)
    assert len(symbols.size) == 60
    refined = coarse.refine(symbols, STEP, 0.5 * STEP, 20)
    assert len(refined.size) == 160
    assert np.count_nonzero(refined.colors.any(1)) > 0


def test_same_seed_same_bytes_and_nothing_compiled_twice():
    first = encoded()
    encoded.cache_clear()
    assert encoded() == first
    programs = symbol_search._make_programs((40, 48, 3), 60, "dense")
    # Descent has one more, with weights.
    sizes = programs._replace(descend=programs.start)
    assert all(program._cache_size() == 1 for program in sizes)
    assert programs.descend._cache_size() <= 2


@pytest.mark.parametrize("name", ["target_bytes", "target_bpp"])
def test_files_are_as_large_as_they_may_be(name):
    most = round(0.9 * len(encoded()))
    target = most if name == "target_bytes" else 8 * (most + 0.5) / (40 * 48)
    assert 0.9 * most <= len(encoded(step=None, **{name: target})) <= most


def test_pictures_are_as_good_as_they_must_be():
    least = quality(encoded()) - 0.5
    assert least <= quality(encoded(step=None, target_psnr=least)) < least + 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target_bytes": 20},
            "target_bytes=20 cannot be met: the smallest .* 47 bytes",
        ),
        (
            {"target_bytes": 0.5},
            "target_bytes=0.5 cannot be met: the smallest .* bytes",
        ),
        ({"target_bpp": 1e-6}, r"target_bpp=1e-06 cannot be met: .* \(0.196 bpp\)"),
        ({"quality": 101}, "1 to 100"),
        ({"quality": "50"}, "quality: expected a finite number above 0, got '50'"),
        ({"target_bpp": [0.3]}, r"target_bpp: expected .* got \[0.3\]"),
        ({"effort": [1]}, r"effort: expected 1 to 9, got \[1\]"),
        ({"effort": "5"}, "effort: expected 1 to 9, got '5'"),
        ({"image": "photo.png"}, r"path 'photo.png'; gi_jax.load_image"),
        ({"image": Path("photo.png")}, r"path 'photo.png'; gi_jax.load_image"),
        ({"step": -1.0}, "step: expected a finite number above 0"),
        ({"step": 1e20}, "step: expected .* to"),
        ({"target_psnr": np.nan}, "target_psnr: expected a finite number above 0"),
        ({"quality": 3, "step": 1.0}, "expected one of"),
        ({"effort": 10}, "effort: expected 1 to 9"),
        ({"image": np.zeros((8, 8, 17))}, "channels"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        gi.encode(**DEFAULTS | {"image": IMAGE} | arguments)


def test_files_as_small_as_possible_are_made():
    least = len(encoder._write_mean(np.zeros(3), (40, 48)))
    data = encoded(step=None, target_bytes=least)
    assert len(data) == least
    assert gi.decode(data).std(axis=(0, 1)).max() == 0


def test_targets_out_of_reach_say_what_was_reached():
    with pytest.warns(UserWarning, match=r"target_bytes=1000000: .* has \d+ bytes"):
        data = gi.encode(IMAGE[:8, :8], **DEFAULTS | {"effort": 1}, target_bytes=10**6)
    assert len(data) < 10**5
    with pytest.raises(ValueError, match=r"reached psnr of .* dB"):
        gi.encode(IMAGE[:8, :8], **DEFAULTS | {"effort": 1}, target_psnr=200)


def test_a_search_that_diverges_writes_nothing():
    weights = np.full((40, 48, 1), np.nan, np.float32)
    search = symbol_search.Search(IMAGE, STEP, weights=weights, implementation="dense")
    with pytest.raises(gi.FitDivergedError, match="error is nan"):
        search.fit(STEP, 1)


def test_encoding_works_with_64_bits():
    with jax.enable_x64(True):
        data = gi.encode(IMAGE[:16, :16], effort=1, progress=False)
    assert gi.decode(data).shape == (16, 16, 3)


def test_quality_is_monotonous():
    steps = [encoder._choose_goal((8, 8), q, *[None] * 4)[1] for q in (1, 50, 100)]
    assert steps[0] > steps[1] > steps[2]


@pytest.mark.parametrize("kind", ["bytes", "psnr"])
@pytest.mark.parametrize("slope", [0.4, 3.0])  # Neither is what is usual.
def test_trials_close_in_on_the_goal(kind, slope):
    goal = _Goal(kind, 5000 if kind == "bytes" else 33.0, "")
    trials, step = {}, 0.5
    for _ in range(encoder._MAX_TRIALS):
        logarithm = -slope * np.log(step)
        trials[step] = (
            1000 * np.exp(logarithm) if kind == "bytes" else 30 + 4 * logarithm
        )
        step = _next_step(goal, trials)
    assert min(abs(value / goal.value - 1) for value in trials.values()) < 0.02


@pytest.mark.parametrize("shape", [(1, 1, 4), (5, 7)])
def test_pictures_of_all_kinds(shape):
    image = to_uint8(np.resize(photo(32, 32), shape))
    data = gi.encode(image, **DEFAULTS | {"effort": 1})
    assert gi.decode(data).shape == (*shape, 1)[:3]


def test_smaller_pictures_do_not_alias():
    data = encoded()
    small = gi.decode(data, scale=0.25) / 255.0
    expected = (gi.decode(data) / 255.0).reshape(10, 4, 12, 4, 3).mean(axis=(1, 3))
    gaussians, _ = gi.read_gaussians(data)
    sampled = gi.rasterize(gaussians, (10, 12), scale=0.25)
    error = np.sqrt(np.mean((small - expected) ** 2))
    assert error < 0.5 * np.sqrt(np.mean((np.clip(sampled, 0, 1) - expected) ** 2))
    assert error < 0.03


def test_x64_changes_nothing_that_is_decoded():
    with jax.enable_x64(True):
        with_x64 = gi.read_gaussians(encoded()).gaussians
    without = gi.read_gaussians(encoded()).gaussians
    jax.tree.map(np.testing.assert_array_equal, with_x64, without)
