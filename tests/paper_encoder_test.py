import functools

import jax
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.fitting.presets import fine_tuning
from gi_jax.images import to_uint8
from tests.helpers import photo

# Most tests encode this picture so, and one compilation serves them all.
IMAGE = photo(40, 48)
COUNT, STEPS = 150, 60


@functools.cache
def encoded(seed=0, fine_tuning_steps=60):
    return gi.encode_paper(
        IMAGE,
        num_gaussians=COUNT,
        steps=STEPS,
        fine_tuning_steps=fine_tuning_steps,
        seed=seed,
        implementation="dense",  # Compiles faster.
        progress=False,
    )


def quality(data):
    return float(gi.psnr(gi.decode(data) / np.float32(255), IMAGE))


def test_a_photo_goes_to_a_file_and_back():
    data = encoded()
    decoded = gi.decode(data)
    assert decoded.dtype == np.uint8 and decoded.shape == (40, 48, 3)
    assert quality(data) > 22
    info = gi.file_info(data)
    assert info.num_gaussians == COUNT and info.num_bytes == len(data)
    assert info.bpp == 8 * len(data) / (40 * 48)
    gaussians, size = gi.read_gaussians(data)
    assert size == (40, 48)
    np.testing.assert_array_equal(to_uint8(gi.rasterize(gaussians, size)), decoded)
    assert gi.decode(data, scale=2.0).shape == (80, 96, 3)


def test_fine_tuning_makes_up_for_quantization():
    assert quality(encoded()) > quality(encoded(fine_tuning_steps=0)) + 0.2


def test_same_seed_same_bytes():
    encoded.cache_clear()
    one = encoded()
    encoded.cache_clear()
    assert encoded() == one
    assert encoded(seed=1) != one


def test_quantized_fits_see_what_the_decoder_sees():
    """The PSNR of a quantization-aware fit is that of the decoded file."""
    start = gi.canonical(
        gi.fit(IMAGE, COUNT, STEPS, implementation="dense", progress=False).gaussians
    )
    quantizer = gi.paper_quantizer((40, 48), shape_bits=7, codebook_size=32)
    result = gi.fit(
        IMAGE,
        initial=start,
        steps=60,
        recipe=fine_tuning(60),
        quantizer=quantizer,
        implementation="dense",
        progress=False,
    )
    data = gi.write_gaussians(
        result.gaussians,
        result.quantizer.params,
        result.quantizer.state,
        (40, 48),
    )
    np.testing.assert_allclose(quality(data), result.psnr, atol=1e-3)
    learned = result.quantizer.params, result.quantizer.state
    seen, _, _ = jax.jit(quantizer.apply)(*learned, result.gaussians, jax.random.key(0))
    rows = [
        sorted(np.column_stack(jax.tree.leaves(gaussians)).tolist())
        for gaussians in (seen, gi.read_gaussians(data).gaussians)
    ]
    assert rows[0] == rows[1]


def test_x64_changes_nothing_in_a_file():
    with jax.enable_x64(True):
        with_x64 = gi.read_gaussians(encoded()).gaussians
        data = gi.encode_paper(
            photo(8, 8), steps=5, implementation="dense", progress=False
        )
    without = gi.read_gaussians(encoded()).gaussians
    jax.tree.map(np.testing.assert_array_equal, with_x64, without)
    assert gi.decode(data).shape == (8, 8, 3)


@pytest.mark.parametrize("shape", [(1, 1, 4), (5, 7)])
def test_pictures_of_all_kinds(shape):
    image = to_uint8(np.resize(photo(32, 32), shape))
    decoded = gi.decode(
        gi.encode_paper(image, steps=5, implementation="dense", progress=False)
    )
    assert decoded.shape == (*shape, 1)[:3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gaussians": 0}, "num_gaussians"),
        ({"steps": -1}, "steps"),
        ({"fine_tuning_steps": -1}, "fine_tuning_steps"),
        ({"shape_bits": 9}, "shape_bits"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"preset": "best"}, "preset"),
        ({"image": np.zeros((8, 8, 17))}, "channels"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        defaults = {"image": photo(8, 8), "steps": 1, "progress": False}
        gi.encode_paper(**defaults | arguments)
