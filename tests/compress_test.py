import functools

import numpy as np
import pytest

import gi_jax as gi
from gi_jax import encoder
from tests.helpers import photo

IMAGE = photo(40, 48)
STEP = 0.15


@functools.cache
def compressed(effort=2, seed=0, step=STEP):
    # One set of programs for all tests, from the definition: it compiles faster.
    return gi.compress(
        IMAGE, step=step, effort=effort, seed=seed, implementation="dense"
    )


def objective(data):
    error = np.sum(np.square(gi.decode(data) / np.float64(255) - IMAGE))
    return error + encoder.TRADE_OFF * STEP**2 * 8 * len(data)


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    efforts = encoder.EFFORTS
    with pytest.MonkeyPatch.context() as patch:
        short = {
            1: encoder.Effort(30),
            2: encoder.Effort(30, 1, 10, 1, 4),
        }
        patch.setattr(encoder, "EFFORTS", efforts | short)
        yield


def test_a_photo_goes_to_a_file_and_back():
    data = compressed()
    decoded = gi.decode(data)
    assert decoded.dtype == np.uint8 and decoded.shape == IMAGE.shape
    assert gi.psnr(decoded / np.float32(255), IMAGE) > 20
    assert gi.file_info(data).num_gaussians <= 60


def test_effort_pays_and_steps_choose_the_size():
    assert objective(compressed(2)) < objective(compressed(1))
    assert len(compressed(step=2 * STEP)) < 0.7 * len(compressed())


def test_same_seed_same_bytes_and_nothing_compiled_twice():
    one = compressed()
    compressed.cache_clear()
    assert compressed() == one
    (programs,) = [encoder._programs((40, 48), 60, "dense")]
    assert all(program._cache_size() == 1 for program in programs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"effort": 0}, "effort: expected 1 to 9, got 0"),
        ({"effort": 10}, "effort: expected"),
        ({"step": 0.0}, "step: expected"),
        ({"step": float("nan")}, "step: expected"),
        ({"image": np.zeros((2, 2, 17))}, "channels"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        gi.compress(**({"image": IMAGE, "step": STEP} | arguments))
