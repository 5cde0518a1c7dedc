import functools

import jax
import numpy as np
import pytest

import gi_jax as gi
from gi_jax import encoder
from gi_jax.encoder import _Goal, _next_step
from gi_jax.images import to_uint8
from tests.helpers import photo

# All tests encode pictures of this size, so that one compilation serves them.
IMAGE = photo(40, 48)


@functools.cache
def encoded(**arguments):
    defaults = {"step": 0.3, "effort": 4, "progress": False}
    return gi.encode(IMAGE, **defaults | arguments)


def quality(data):
    return float(gi.psnr(gi.decode(data) / np.float32(255), IMAGE))


def test_a_photo_goes_to_a_file_and_back():
    data = encoded()
    decoded = gi.decode(data)
    assert decoded.dtype == np.uint8 and decoded.shape == IMAGE.shape
    assert quality(data) > 22 and len(data) < 700
    info = gi.file_info(data)
    assert info.codec == 2 and info.num_bytes == len(data)
    gaussians, size = gi.read_gaussians(data)
    assert size == (40, 48) and len(gaussians.means) == info.num_gaussians + 1
    np.testing.assert_array_equal(to_uint8(gi.rasterize(gaussians, size)), decoded)


def test_work_pays():
    def cost(effort):
        data = encoded(effort=effort)
        error = np.sum((gi.decode(data) / 255.0 - IMAGE) ** 2)
        return error + 0.1 * 0.3**2 * 8 * len(data)

    assert cost(4) < 0.97 * cost(1)


def test_same_seed_same_bytes():
    first = encoded()
    encoded.cache_clear()
    assert encoded() == first


@pytest.mark.parametrize("target", [{"target_bytes": 500}, {"target_bpp": 1.2}])
def test_files_are_as_large_as_they_may_be(target):
    most = target.get("target_bytes") or int(target["target_bpp"] * 40 * 48 / 8)
    assert 0.93 * most <= len(encoded(step=None, **target)) <= most


def test_pictures_are_as_good_as_they_must_be():
    assert 26 <= quality(encoded(step=None, target_psnr=26.0)) < 26.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_bytes": 20}, "target_bytes=20 cannot be met: reached bytes of"),
        ({"quality": 101}, "1 to 100"),
        ({"step": -1.0}, "step: expected a number above 0"),
        ({"target_psnr": np.nan}, "target_psnr: expected a number above 0"),
        ({"quality": 3, "step": 1.0}, "expected one of"),
        ({"effort": 10}, "effort: expected 1 to 9"),
        ({"image": np.zeros((8, 8, 17))}, "channels"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        gi.encode(**{"image": IMAGE, "effort": 4, "progress": False} | arguments)


def test_quality_is_monotonous():
    steps = [encoder._choose_goal((8, 8), q, *[None] * 4)[1] for q in (1, 50, 100)]
    assert steps[0] > steps[1] > steps[2]


@pytest.mark.parametrize("kind", ["bytes", "psnr"])
def test_trials_close_in_on_the_goal(kind):
    # Two pictures, of which one is nothing like what is usual.
    for slope in 0.4, 3.0:
        if kind == "bytes":
            goal, value = _Goal(kind, 5000, ""), lambda d: 1000 * d**-slope
        else:
            goal, value = _Goal(kind, 33.0, ""), lambda d: 30 - 4 * slope * np.log(d)
        trials, step = {}, 0.5
        for _ in range(encoder._MAX_TRIALS):
            trials[step] = value(step)
            step = _next_step(goal, trials)
        assert min(abs(v / goal.value - 1) for v in trials.values()) < 0.02


@pytest.mark.parametrize("shape", [(1, 1, 4), (5, 7)])
def test_pictures_of_all_kinds(shape):
    image = to_uint8(np.resize(photo(32, 32), shape))
    data = gi.encode(image, effort=2, progress=False)
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
