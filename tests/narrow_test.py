"""Pictures of one row or one column are as good as others."""

import numpy as np
import pytest

import gi_jax as gi
from gi_jax import encoder, symbol_search
from tests.helpers import photo

ENCODE = {"effort": 3, "implementation": "dense", "progress": False}


@pytest.mark.parametrize("part", [np.s_[40:41], np.s_[:, 60:61]])
def test_a_row_and_a_column_are_as_good_as_the_whole_photo(part):
    """The whole photo has 30.9 dB at these settings."""
    picture = photo(96, 128)[part]
    data = gi.encode(picture, **ENCODE)
    assert float(gi.psnr(gi.decode(data) / np.float32(255), picture)) > 29.5


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_room_and_steps_do_not_jump(side):
    """From a row to a picture of some rows, nothing changes at once."""
    image = np.zeros((side, 64, 3), np.float32)
    room = symbol_search.Search(image, 1.0, implementation="dense")._capacity
    assert room == 8 * 64 // 32
    steps = [
        encoder._choose_goal((rows, 64, 3), 50, *[None] * 4)[1]
        for rows in (side, 2 * side)
    ]
    assert 1 <= steps[1] / steps[0] <= 1.5
