import jax
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.images import to_uint8
from tests.helpers import photo


def test_a_photo_goes_to_a_file_and_back():
    image = photo(64, 80)
    data = gi.encode(image, num_gaussians=250, steps=60, progress=False)
    decoded = gi.decode(data)
    assert decoded.dtype == np.uint8 and decoded.shape == (64, 80, 3)
    assert gi.psnr(decoded / np.float32(255), image) > 22
    info = gi.file_info(data)
    assert info.num_gaussians == 250 and info.num_bytes == len(data)
    assert info.bpp == 8 * len(data) / (64 * 80)
    gaussians, size = gi.read_gaussians(data)
    assert size == (64, 80)
    rendered = gi.rasterize(gaussians, size)
    np.testing.assert_array_equal(to_uint8(rendered), decoded)
    assert gi.decode(data, scale=2.0).shape == (128, 160, 3)


def test_fine_tuning_makes_up_for_quantization():
    image = photo(48, 48)
    arguments = dict(num_gaussians=150, steps=60, progress=False)
    plain = gi.decode(gi.encode(image, fine_tuning_steps=0, **arguments))
    tuned = gi.decode(gi.encode(image, fine_tuning_steps=60, **arguments))
    quality = [gi.psnr(x / np.float32(255), image) for x in (plain, tuned)]
    assert quality[1] > quality[0] + 0.5


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 1, 1), (20, 24), (16, 16, 4)])
def test_pictures_of_all_kinds(shape):
    image = np.resize(photo(32, 32), shape)
    data = gi.encode(to_uint8(image), steps=25, progress=False)
    decoded = gi.decode(data)
    assert decoded.shape == (*shape, 1)[:3]


def test_same_seed_same_bytes():
    image = photo(24, 24)
    one, two = (gi.encode(image, steps=25, progress=False) for _ in range(2))
    assert one == two
    assert gi.encode(image, steps=25, seed=1, progress=False) != one


def test_the_paper_s_preset():
    image = photo(24, 24)
    data = gi.encode(image, num_gaussians=60, steps=50, preset="paper", progress=False)
    assert gi.file_info(data).num_gaussians == 60


def test_quantized_fits_see_what_the_decoder_sees():
    """The PSNR of a quantization-aware fit is that of the decoded file."""
    from gi_jax.coding.codec import paper_quantizer, write_gaussians
    from gi_jax.fitting.presets import fine_tuning

    image = photo(40, 48)
    start = gi.canonical(gi.fit(image, 120, 40, progress=False).gaussians)
    quantizer = paper_quantizer((40, 48))
    result = gi.fit(
        image,
        initial=start,
        steps=30,
        recipe=fine_tuning(30),
        quantizer=quantizer,
        progress=False,
    )
    data = write_gaussians(
        result.gaussians, result.quantizer.params, result.quantizer.state, (40, 48)
    )
    decoded = gi.decode(data) / np.float32(255)
    np.testing.assert_allclose(gi.psnr(decoded, image), result.psnr, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gaussians": 0}, "num_gaussians"),
        ({"steps": -1}, "steps"),
        ({"fine_tuning_steps": -1}, "steps"),
        ({"shape_bits": 9}, "shape_bits"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"preset": "best"}, "preset"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        gi.encode(photo(8, 8), **{"steps": 1, "progress": False, **arguments})


def test_encode_leaves_no_trace_of_x64():
    with jax.enable_x64(True):
        data = gi.encode(photo(16, 16), steps=22, progress=False)
        with_x64 = gi.read_gaussians(data).gaussians
    without = gi.read_gaussians(data).gaussians
    jax.tree.map(np.testing.assert_array_equal, with_x64, without)
