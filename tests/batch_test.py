"""Fits of batches, on two simulated devices."""

import os
import subprocess
import sys

import numpy as np
import pytest

import gi_jax as gi
from tests.helpers import photo

# A process asks for devices at its start. The paper's start compiles fastest.
PROGRAM = """
import jax, numpy as np, gi_jax as gi
from gi_jax.fitting import presets
from tests import conftest
from tests.helpers import photo

assert len(jax.devices()) == 2
image = photo(24, 40)
images = np.stack([image, np.full_like(image, 0.5), image[::-1]])
recipe = presets.paper(40, image.shape, 100)
recipe = recipe._replace(num_born=30, densification=gi.densify({20: 6, 40: 4}))
results = gi.fit_batch(images, 40, 100, recipe=recipe, progress=False)
assert len(results) == 3
for image, result in zip(images, results):
    picture = gi.to_uint8(gi.rasterize(result.gaussians, (24, 40)))
    assert result.gaussians.means.shape == (40, 2)
    np.testing.assert_allclose(result.psnr, gi.psnr(picture / 255, image), atol=0.01)
    assert len(result.history["psnr"]) == len(result.history["loss"]) == 100
    assert result.psnr > result.history["psnr"][0] + 1
"""


def test_pictures_are_fitted_on_all_devices():
    two = "--xla_force_host_platform_device_count=2"
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {two}"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | flags | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "one size"),
        ([photo(8, 8), photo(8, 9)], {}, "one size"),
        ([np.full((8, 8, 3), 7.0)], {}, "0..1"),
        (photo(8, 8), {}, "single picture"),
        ([photo(8, 8)], {"preset": "slow"}, "preset"),
        ([photo(8, 8)], {"devices": []}, "devices"),
        ([photo(8, 8)], {"num_gaussians": 0}, "num_gaussians"),
    ],
)
def test_bad_calls_say_what_was_expected(images, options, message):
    with pytest.raises(ValueError, match=message):
        gi.fit_batch(images, **{"num_gaussians": 3, "steps": 2, **options})
