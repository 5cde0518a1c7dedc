"""`rasterize`: the contract, the checks, and the choice of an implementation."""

import functools
import operator
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gi_jax.arguments import check_image_size, check_positive
from gi_jax.gaussians import Cholesky, Gaussians, RotationScale, resize, to_cholesky
from gi_jax.rendering import triton_call
from gi_jax.rendering.dense import rasterize_dense
from gi_jax.rendering.triton_rasterizer import rasterize_triton
from gi_jax.rendering.varying import vary_as
from gi_jax.rendering.xla_rasterizer import rasterize_xla

Implementation = Literal["triton", "xla", "dense"]


def rasterize(
    gaussians: Gaussians,
    image_size: tuple[int, int],
    *,
    scale: ArrayLike = 1.0,
    implementation: Implementation | None = None,
    capacity: int | None = None,
) -> jax.Array:
    """Renders a sum of Gaussians, differentiable in every parameter and `scale`.

    The colour of pixel (i, j) is Σ colors · exp(-q) over the Gaussians, with
    q = dᵀ Σ⁻¹ d / 2 and d from the mean to the pixel's centre (j + 0.5, i + 0.5); a
    Gaussian adds exactly 0 where q > ln 255. The picture depends on the parameters
    alone: there is no background, no order and no limit on Gaussians per tile.
    Gaussians whose mean or shape is not finite draw nothing; colours must be finite.

    Under JAX's transformations:

    - jax.jit with static `image_size` (`static_argnames="image_size"`), lower, compile
      and jax.export, jax.vmap, jax.lax.scan, jax.checkpoint, jax.eval_shape,
      jax.shard_map, jax.enable_x64, strict dtype promotion, jax.debug_nans,
      jax.checking_leaks and jax.transfer_guard("disallow") work with every
      implementation. Gaussians that are sharded over a mesh are gathered first.
    - jax.grad, jax.vjp and jax.linearize followed by jax.linear_transpose: every one.
    - jax.jvp, jax.jacfwd, second derivatives, and jax.export with a symbolic number of
      Gaussians: 'dense' alone; the others raise TypeError (ValueError for the latter).

    'xla' and 'triton' compute in float32 from the values as they are given: bfloat16
    means are off by up to 1 pixel at 256. On one machine a picture has the same bits
    each time, but for 'xla' on GPUs, whose sums there are taken in any order.

    Args:
      gaussians: N Gaussians of C channels, in pixels of the picture they were fitted
        to; N = 0 gives a black picture.
      image_size: H, W of the picture that is returned, pixels.
      scale: enlarges the picture about its upper left corner: means are multiplied by
        it and covariances by its square. The picture of a fitted H×W image at scale s
        has the size (H·s, W·s).
      implementation: 'triton' (NVIDIA GPUs), 'xla' (any device), both by tiles in
        float32; 'dense' (the definition, O(N·H·W), any dtype); or None for the best
        that runs where the Gaussians are, and inside jit on the default device.
      capacity: pairs of tile and Gaussian; None chooses by N and the size. The picture
        does not depend on it. 'xla' handles so many at a time, about 100 bytes each.
        'triton' keeps lists of so many, 32 bytes each at most, or of so many times the
        pictures of a batch; what needs more is drawn without lists, slowly.

    Returns:
      [H, W, C] float32 (with 'dense': the dtype of the colours), not clipped.

    Raises:
      ValueError: on parameters of other shapes, an impossible size, scale or capacity,
        or an implementation that does not exist.
      RuntimeError: if the implementation that is asked for cannot run here.

    Reference:
      GaussianImage, arXiv:2403.08551, section 3.2.
    """
    check_gaussians(gaussians)
    image_size = _checked_size(image_size)
    scale = _checked_scale(scale)
    if capacity is not None:
        capacity = _checked_capacity(capacity)
    implementation = _choose(implementation, gaussians)
    if implementation != "dense" and not isinstance(gaussians.means.shape[0], int):
        raise ValueError(
            "gaussians: expected a number of them that is known, got "
            f"{gaussians.means.shape[0]}; implementation='dense' takes a symbolic one"
        )
    return _render(gaussians, scale, image_size, implementation, capacity)


def _choose(
    implementation: Implementation | None, gaussians: Gaussians
) -> Implementation:
    """Returns the implementation that is asked for, or the best that runs."""
    if implementation in ("xla", "dense"):
        return implementation
    if implementation not in (None, "triton"):
        raise ValueError(
            "implementation: expected 'triton', 'xla', 'dense' or None, "
            f"got {implementation!r}"
        )
    reason = triton_call.why_unavailable(_platform_of(gaussians))
    if implementation and reason:
        raise RuntimeError(f"implementation 'triton' cannot run here: {reason}")
    return "xla" if reason else "triton"


def _platform_of(gaussians: Gaussians) -> str | None:
    """Returns the platform of the device that Gaussians are on, None inside jit."""
    for leaf in gaussians:
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            return next(iter(leaf.devices())).platform
    return None


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _render(gaussians, scale, image_size, implementation, capacity):
    gaussians = jax.tree.map(_gathered, gaussians)
    if implementation == "dense":
        gaussians = jax.tree.map(_as_float, gaussians)
        gaussians = _without_infinite(gaussians)
        gaussians = resize(gaussians, jnp.asarray(scale, gaussians.means.dtype))
        return rasterize_dense(*to_cholesky(gaussians), image_size)
    gaussians = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gaussians)
    factored = to_cholesky(
        resize(_without_infinite(gaussians), jnp.asarray(scale, jnp.float32))
    )
    rasterize_tiles = rasterize_xla if implementation == "xla" else rasterize_triton
    means, factor, colors = vary_as(factored, factored)
    return rasterize_tiles(means, factor, colors, image_size, capacity)


def _gathered(array: jax.Array) -> jax.Array:
    """Returns an array that no explicit axis of a mesh cuts into shards."""
    sharding = jax.typeof(array).sharding
    if jax.sharding.AxisType.Explicit not in sharding.mesh.axis_types:
        return array
    whole = jax.sharding.PartitionSpec(*[None] * array.ndim)
    return jax.sharding.reshard(array, jax.NamedSharding(sharding.mesh, whole))


def _as_float(array: jax.Array) -> jax.Array:
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array if floating else array.astype(jnp.float32)


def _without_infinite(gaussians: Gaussians) -> Gaussians:
    """Marks shapes that are infinite as NaN, for which nothing is drawn.

    Bounds on sigma would make them as large as the picture.
    """

    def mark(array):
        return jnp.where(jnp.isinf(array), jnp.nan, array)

    if isinstance(gaussians, Cholesky):
        return gaussians._replace(cholesky=mark(gaussians.cholesky))
    return gaussians._replace(
        log_scales=mark(gaussians.log_scales), angles=mark(gaussians.angles)
    )


def check_gaussians(gaussians: Gaussians) -> None:
    """Raises ValueError where the fields are not those of N Gaussians."""
    if not isinstance(gaussians, Cholesky | RotationScale):
        raise ValueError(
            "gaussians: expected Cholesky or RotationScale, "
            f"got {type(gaussians).__name__}"
        )
    count = jnp.shape(gaussians.colors)[0] if jnp.ndim(gaussians.colors) else None
    expected: dict[str, tuple] = {"means": (count, 2)}
    if isinstance(gaussians, Cholesky):
        expected |= {"cholesky": (count, 3)}
    else:
        expected |= {"log_scales": (count, 2), "angles": (count,)}
    shapes = {name: jnp.shape(getattr(gaussians, name)) for name in gaussians._fields}
    colors = shapes.pop("colors")
    if len(colors) != 2 or colors[1] < 1 or shapes != expected:
        wanted = {name: ("N", *shape[1:]) for name, shape in expected.items()}
        raise ValueError(
            f"gaussians: expected the shapes {wanted | {'colors': ('N', 'C')}}, "
            f"got {shapes | {'colors': colors}}"
        )


def _checked_size(image_size: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = check_image_size(image_size)
    except ValueError as error:
        sides = jax.tree.leaves(image_size)
        if not any(isinstance(side, jax.core.Tracer) for side in sides):
            raise
        hint = "under jax.jit it is static: static_argnames='image_size'"
        raise ValueError(f"{error}; {hint}") from None
    if height < 1 or width < 1:
        raise ValueError(f"image_size: expected sides of 1 or more, got {image_size}")
    return height, width


def _checked_scale(scale: ArrayLike) -> ArrayLike:
    """Returns the scale; one on a device is not read, as the host would wait for it."""
    if isinstance(scale, jax.Array) and scale.ndim == 0:
        return scale
    value = check_positive("scale", scale)
    # An explicit transfer, which jax.transfer_guard("disallow") lets pass.
    return jax.device_put(value)


def _checked_capacity(capacity: int) -> int:
    try:
        number = operator.index(capacity)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"capacity: expected a positive integer, got {capacity!r}")
    return number
