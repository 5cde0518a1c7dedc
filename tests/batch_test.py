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


# Devices share means and shapes, and have colours of their own.
SHARED_GEOMETRY = """
import jax, jax.numpy as jnp, numpy as np, gi_jax as gi
from jax.sharding import Mesh, PartitionSpec as P
from tests import conftest
from tests.helpers import assert_close_as_vectors, scene

means, factor, colors = jax.tree.map(jnp.asarray, scene(0, 15, (20, 33)))
colors = jnp.stack([colors, 2 * colors])

def gradient(means, factor, colors):
    def loss(means, factor, colors):
        gaussians = gi.Cholesky(means, factor, colors[0])
        return jnp.sum(gi.rasterize(gaussians, (20, 33)) ** 2)
    return jax.grad(loss, argnums=(0, 1, 2))(means, factor, colors)

specs = P(), P(), P("batch")
mesh = Mesh(np.array(jax.devices()), ("batch",))
sharded = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs)
actual = jax.jit(sharded)(means, factor, colors)
each = jax.jit(jax.vmap(gradient, in_axes=(None, None, 0)))
m, f, c = each(means, factor, colors[:, None])
assert_close_as_vectors(actual, (m.sum(0), f.sum(0), c[:, 0]), 1e-5)
"""


@pytest.mark.parametrize("program", [PROGRAM, SHARED_GEOMETRY], ids=["fit", "shared"])
def test_work_is_spread_over_devices(program):
    two = "--xla_force_host_platform_device_count=2"
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {two}"}
    done = subprocess.run(
        [sys.executable, "-c", program],
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
