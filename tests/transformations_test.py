"""What `rasterize`, a fit step and `decode` do under JAX's transformations."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.rendering import rasterize as choosing
from gi_jax.rendering import triton_call

SIZE = 16, 24
RANDOM = np.random.default_rng(0)
GAUSSIANS = gi.Cholesky(
    jnp.asarray(RANDOM.uniform(0, 16, (8, 2)), jnp.float32),
    jnp.tile(jnp.array([2.0, 0.5, 1.5]), (8, 1)),
    jnp.asarray(RANDOM.uniform(0, 1, (8, 3)), jnp.float32),
)
TARGET = jnp.full((*SIZE, 3), 0.5, jnp.float32)


def render(gaussians, implementation="xla"):
    return gi.rasterize(gaussians, SIZE, implementation=implementation)


def loss(gaussians, implementation="xla"):
    return jnp.mean((render(gaussians, implementation) - TARGET) ** 2)


EXPECTED = render(GAUSSIANS), jax.grad(loss)(GAUSSIANS)


def assert_close(found, expected, atol=1e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol)


CONTEXTS = {
    "x64": lambda: jax.enable_x64(True),
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "debug_nans": lambda: jax.debug_nans(True),
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
    "checking_leaks": jax.checking_leaks,
}


@pytest.mark.parametrize("implementation", ["xla", "dense"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_pictures_and_gradients_under_a_context(context, implementation):
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    with CONTEXTS[context]():
        picture = render(GAUSSIANS, implementation)
        slopes = gradient(GAUSSIANS, implementation)
        assert picture.dtype == jnp.float32
    assert_close((picture, slopes), EXPECTED)


def test_float64_parameters_are_taken():
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), GAUSSIANS)
        assert_close(jax.grad(loss)(wide), EXPECTED[1])


def test_fits_and_files_under_x64():
    image = np.asarray(EXPECTED[0]) / float(EXPECTED[0].max())
    with jax.enable_x64(True):
        result = gi.fit(image, 10, 25, progress=False)
        results = gi.fit_batch(image[None], 10, 25, progress=False)
        data = gi.encode(image, quality=20, effort=1, progress=False)
        picture = gi.decode(data)
    assert np.isfinite([result.psnr, results[0].psnr]).all()
    np.testing.assert_array_equal(picture, gi.decode(data))


@pytest.mark.parametrize("context", [c for c in CONTEXTS if c != "checking_leaks"])
def test_a_fit_step_under_a_context(context):
    step = gi.make_fit_step()
    state = step.init(GAUSSIANS, jax.random.key(0))
    expected, _ = jax.jit(step)(state, TARGET)
    with CONTEXTS[context]():
        found, _ = jax.jit(step)(state, TARGET)
    assert_close(found.gaussians, expected.gaussians, atol=1e-4)


@pytest.mark.parametrize("context", CONTEXTS)
def test_decoding_under_a_context(context):
    data = gi.encode(np.full((*SIZE, 3), 0.3), quality=20, effort=1, progress=False)
    expected = gi.decode(data)
    guarded = context == "transfer_guard"  # Bytes have to go to a device.
    with contextlib.nullcontext() if guarded else CONTEXTS[context]():
        np.testing.assert_array_equal(gi.decode(data), expected)


TRANSFORMATIONS = {
    "linearize": lambda f, g: jax.linearize(f, g)[0],
    "checkpoint": lambda f, g: jax.checkpoint(f)(g),
    "lower and compile": lambda f, g: jax.jit(f).lower(g).compile()(g),
    "vmap": lambda f, g: jax.vmap(f)(jax.tree.map(lambda x: x[None], g))[0],
    "scan": lambda f, g: jax.lax.scan(lambda c, _: (f(g), None), f(g), length=1)[0],
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
    assert_close(TRANSFORMATIONS[name](render, GAUSSIANS), EXPECTED[0])


def test_eval_shape():
    found = jax.eval_shape(render, GAUSSIANS)
    assert (found.shape, found.dtype) == ((*SIZE, 3), jnp.float32)


@pytest.mark.parametrize("function", [render, jax.grad(loss)], ids=["picture", "slope"])
def test_export(function):
    exported = jax.export.export(jax.jit(function))(GAUSSIANS)
    if importlib.util.find_spec("flatbuffers"):
        exported = jax.export.deserialize(exported.serialize())
    assert_close(exported.call(GAUSSIANS), function(GAUSSIANS))


def test_export_of_any_number_of_gaussians():
    (count,) = jax.export.symbolic_shape("n")
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), GAUSSIANS
    )

    def export(implementation):
        function = jax.jit(lambda gaussians: render(gaussians, implementation))
        return jax.export.export(function)(shapes)

    assert_close(export("dense").call(GAUSSIANS), EXPECTED[0])
    with pytest.raises(ValueError, match="got n; implementation='dense'"):
        export("xla")


def test_dense_has_all_derivatives():
    dense = jax.jit(loss, static_argnums=1), "dense"
    ones = jax.tree.map(jnp.ones_like, GAUSSIANS)
    _, forward = jax.jvp(lambda g: dense[0](g, dense[1]), (GAUSSIANS,), (ones,))
    slopes = jax.tree.map(jnp.sum, EXPECTED[1])
    assert forward == pytest.approx(float(sum(slopes)), abs=1e-5)
    colors = jax.hessian(lambda c: loss(GAUSSIANS._replace(colors=c), "dense"))
    assert np.isfinite(colors(GAUSSIANS.colors)).all()


SECOND = {
    "hessian": jax.hessian,
    "gradient of a gradient": lambda f: jax.grad(
        lambda g: jnp.sum(jax.grad(f)(g).means)
    ),
    "forward over reverse": lambda f: lambda g: jax.jvp(jax.grad(f), (g,), (g,)),
}


@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives_say_who_has_them(name):
    with pytest.raises(TypeError, match="implementation='dense' has all"):
        SECOND[name](loss)(GAUSSIANS)


def test_forward_mode_is_refused_as_jax_does():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(render, (GAUSSIANS,), (GAUSSIANS,))


def test_a_size_that_is_traced_says_how_to_make_it_static():
    with pytest.raises(ValueError, match="static_argnames='image_size'"):
        jax.jit(gi.rasterize)(GAUSSIANS, SIZE)
    static = jax.jit(gi.rasterize, static_argnames="image_size")
    assert_close(static(GAUSSIANS, image_size=SIZE), EXPECTED[0])


def test_an_own_batching_rule_may_draw():
    @jax.custom_batching.custom_vmap
    def draw(gaussians):
        return render(gaussians)

    @draw.def_vmap
    def batched(size, batches, gaussians):
        del batches
        return jax.lax.map(render, gaussians), True

    pair = jax.tree.map(lambda x: jnp.stack([x, x]), GAUSSIANS)
    assert_close(jax.vmap(draw)(pair)[1], EXPECTED[0])


SHARDED = """
    import jax, numpy as np, tests.transformations_test as t
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    for kind in AxisType.Auto, AxisType.Explicit:
        mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,))
        shard = NamedSharding(mesh, P("x"))
        gaussians = jax.tree.map(lambda leaf: jax.device_put(leaf, shard), t.GAUSSIANS)
        for implementation in "xla", "dense":
            with jax.set_mesh(mesh):
                picture = jax.jit(t.render, static_argnums=1)(gaussians, implementation)
                slopes = jax.jit(jax.grad(t.loss), static_argnums=1)(
                    gaussians, implementation
                )
            t.assert_close((picture, slopes), t.EXPECTED)
"""


def test_gaussians_sharded_over_a_mesh():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED)],
        env=os.environ | {"XLA_FLAGS": flags},
        check=True,
        capture_output=True,
        text=True,
    )


BAD = {
    "scale, text": (dict(scale="2"), "scale: expected a finite number"),
    "scale, two": (dict(scale=[1, 2]), "scale: expected a finite number"),
    "scale, 0": (dict(scale=0), "scale: expected a finite number"),
    "capacity, fraction": (dict(capacity=64.5), "capacity: expected a positive int"),
    "capacity, text": (dict(capacity="5"), "capacity: expected a positive integer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_say_what_was_expected(name):
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        gi.rasterize(GAUSSIANS, SIZE, **arguments)


@pytest.mark.parametrize("implementation", ["xla", "dense"])
def test_integer_colours_are_drawn(implementation):
    whole = GAUSSIANS._replace(colors=jnp.ones((8, 3), jnp.int32))
    expected = render(GAUSSIANS._replace(colors=jnp.ones((8, 3))), implementation)
    assert_close(render(whole, implementation), expected)


@pytest.mark.parametrize("implementation", ["xla", "dense"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_shapes_that_are_not_finite_draw_nothing(implementation, value):
    broken = [
        GAUSSIANS._replace(cholesky=jnp.full((8, 3), value)),
        gi.RotationScale(
            GAUSSIANS.means, jnp.full((8, 2), value), jnp.zeros(8), GAUSSIANS.colors
        ),
    ]
    for gaussians in broken:
        assert not np.any(render(gaussians, implementation))


def test_a_scale_on_a_device_is_not_waited_for():
    with jax.transfer_guard_device_to_host("disallow"):
        gi.rasterize(GAUSSIANS, SIZE, scale=jnp.float32(1.0), implementation="xla")


def test_the_implementation_is_that_of_the_device_that_holds_the_gaussians():
    assert choosing._platform_of(GAUSSIANS) == "cpu"
    inside = []
    jax.jit(lambda g: inside.append(choosing._platform_of(g)))(GAUSSIANS)
    assert inside == [None]
    assert "is 'tpu'" in triton_call.why_unavailable("tpu")
