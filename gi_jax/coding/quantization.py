"""Quantizers: pure functions from values to integer symbols and back.

A quantizer is used twice, and both uses must agree to the last bit: inside a jitted
training step, where `apply` returns what the decoder will see, and at the end, where
`encode` and `decode` go through a file, perhaps op by op and on another machine. So
`decode(encode(x)) == apply(x)` exactly, which takes two precautions everywhere here:

* The gradient is straight-through by a `custom_jvp` that returns the quantized value
  itself; the usual `x + stop_gradient(q - x)` rounds a second time.
* Wherever a product meets a sum, the product is exact in float32, because one factor is
  rounded to fewer bits. A fused multiply-add then equals a multiply and an add, so it
  does not matter which of the two a compiler chooses. Nothing is a matrix product, and
  every sum has a fixed order.

Values must be finite: the symbols of NaN are unspecified, except for `float16`.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from gi_jax.gaussians import Cholesky, Gaussians, RotationScale

MAX_HALF: Final = 65504.0  # the largest finite IEEE half

FLOAT32_BITS: Final = 24  # bits of a float32's significand, the implicit one included

# The smallest step of `uniform`: far above the subnormal numbers, which some machines
# round to zero, and far below any parameter of a Gaussian that can be seen.
MIN_STEP: Final = 2.0**-60

# The first step of `uniform` relative to the column's largest value: below it, adding
# offset + k·step in float32 would round steps away (a constant column has no range).
MIN_RELATIVE_STEP: Final = 2.0**-20

# The share of each column's values on either side that `uniform` clips at first.
OUTLIERS: Final = 0.005

# RGB -> Y, Co, Cg by `rgb @ YCOCG` (H. S. Malvar, G. J. Sullivan, "YCoCg-R", JVT-I014,
# 2003). All entries, and those of the inverse, are 0 or ± a power of two.
YCOCG: Final = np.array([[0.25, 0.5, -0.25], [0.5, 0.0, 0.5], [0.25, -0.5, -0.25]])


def _ones(params: Any) -> Any:
    return jax.tree.map(jnp.ones_like, params)


class Quantizer(NamedTuple):
    """A quantizer of N values, in the manner of `optax.GradientTransformation`.

    All four are pure and work in jax.jit, vmap and scan. `values` is [N, k] float32, or
    the pytree that the factory names; `params` is what an optimizer learns by gradient;
    `state` is everything else that changes; each may be ().
    """

    # (key, values) -> (params, state)
    init: Callable[..., tuple[Any, Any]]
    # (params, state, values, key) -> (values_hat, new state, aux): the values as the
    # decoder sees them under the old state, and a scalar to be added to the loss. The
    # gradient with respect to `values` passes straight through.
    apply: Callable[..., tuple[Any, Any, jax.Array]]
    # (params, state, values) -> symbols, [N, k] int32
    encode: Callable[..., Any]
    # (params, state, symbols) -> values_hat
    decode: Callable[..., Any]
    # params -> the size of a change of each that moves no decoded value by more than
    # about a step: what learning rates are relative to
    scales: Callable[[Any], Any] = _ones


class Transform(NamedTuple):
    """A reversible map of values, which changes how they are quantized."""

    forward: Callable[[jax.Array], jax.Array]  # [N, k] -> [N, k]
    inverse: Callable[[jax.Array], jax.Array]  # [N, k] -> [N, k]


class UniformParams(NamedTuple):
    """What `uniform` learns."""

    step: jax.Array  # [k] distance of two levels
    offset: jax.Array  # [k] value of symbol 0


class Fields(NamedTuple):
    """One thing for each field of a set of Gaussians: symbols, params, a quantizer."""

    means: Any
    shape: Any
    colors: Any


@jax.custom_jvp
def straight_through(values: jax.Array, quantized: jax.Array) -> jax.Array:
    """Returns `quantized`, with the derivative of `values`."""
    del values
    return quantized


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[1], tangents[0]


def no_loss() -> jax.Array:
    """Returns the auxiliary loss of a quantizer that has none."""
    return jnp.zeros((), jnp.float32)


def float16() -> Quantizer:
    """Rounds to IEEE halves, saturating at ±65504; 16 bits per value.

    A symbol is the rank of the half: `symbols` in 0..65535 are ordered as the values
    are. NaN gives a symbol that decodes to NaN.

    Returns:
      A quantizer without params and state.
    """

    def encode(params, state, values):
        del params, state
        halves = jnp.clip(values, -MAX_HALF, MAX_HALF).astype(jnp.float16)
        bits = lax.bitcast_convert_type(halves, jnp.uint16).astype(jnp.int32)
        # Halves are sign and magnitude: negative ones are ordered backwards.
        return jnp.where(bits >= 0x8000, 0xFFFF - bits, bits + 0x8000)

    def decode(params, state, symbols):
        del params, state
        bits = jnp.where(symbols < 0x8000, 0xFFFF - symbols, symbols - 0x8000)
        halves = lax.bitcast_convert_type(bits.astype(jnp.uint16), jnp.float16)
        return halves.astype(jnp.float32)

    def apply(params, state, values, key):
        del key
        # Through the integers: XLA may drop a plain cast to half and back as "excess
        # precision".
        rounded = decode(params, state, encode(params, state, values))
        clipped = lax.clamp(np.float32(-MAX_HALF), values, np.float32(MAX_HALF))
        return straight_through(clipped, rounded), state, no_loss()

    return Quantizer(lambda key, values: ((), ()), apply, encode, decode)


def uniform(bits: int) -> Quantizer:
    """Uniform quantization with a learned step and offset per column.

    symbols = round(clip((x - offset) / step, 0, 2^bits - 1)), decoded to
    offset + symbols · step. The first step and offset span each column's range, but for
    0.5 % of outliers on either side, which would make steps coarse for all the rest.
    LSQ's scaling of the gradients by 1/√(N·levels) is left out: it is a learning rate,
    to which Adam-like optimizers are indifferent.

    Args:
      bits: 1 to 16; symbols are in 0..2^bits - 1.

    Returns:
      A quantizer of [N, k] with `UniformParams` and no state.

    Raises:
      ValueError: if `bits` is out of range.

    Reference:
      LSQ+, arXiv:2004.09576, section 3 (with n = 0, p = 2^bits - 1).
    """
    if bits not in range(1, 17) or isinstance(bits, bool):
        raise ValueError(f"bits: expected a whole number, 1 to 16, got {bits!r}")
    bits = int(bits)
    top = 2.0**bits - 1

    def init(key, values):
        del key
        if values.shape[0] == 0:
            ones = jnp.ones(values.shape[1:], jnp.float32)
            return UniformParams(ones, 0 * ones), ()
        low, high = jnp.quantile(values, jnp.array([OUTLIERS, 1 - OUTLIERS]), axis=0)
        largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
        step = jnp.maximum((high - low) / top, MIN_RELATIVE_STEP * largest)
        return UniformParams(jnp.maximum(step, MIN_STEP), low), ()

    def exact_step(params):
        # A symbol has `bits` bits: with FLOAT32_BITS - bits bits in the step, their
        # product is exact, and decoding is one rounded addition on every machine.
        step = lax.reduce_precision(params.step, 8, FLOAT32_BITS - bits - 1)
        return straight_through(params.step, jnp.maximum(step, MIN_STEP))

    def levels(params, values):
        # Times 1/step, as a compiler rewrites a division if it knows the step.
        scaled = (values - params.offset) * (1 / exact_step(params))
        clipped = lax.clamp(np.float32(0), scaled, np.float32(top))
        return straight_through(clipped, jnp.round(clipped))

    def encode(params, state, values):
        del state
        return levels(params, values).astype(jnp.int32)

    def decode(params, state, symbols):
        del state
        return symbols.astype(jnp.float32) * exact_step(params) + params.offset

    def apply(params, state, values, key):
        del key
        return decode(params, state, levels(params, values)), state, no_loss()

    def scales(params):
        # The last symbol moves by `top` times the change of the step.
        step = lax.stop_gradient(exact_step(params))
        return UniformParams(step / top, step)

    return Quantizer(init, apply, encode, decode, scales)


def linear(matrix: ArrayLike) -> Transform:
    """The transform `values @ matrix`, for a change of colour space.

    Quantization through it is exact to the bit if the entries of the matrix and of its
    inverse are 0 or ± powers of two, as those of `YCOCG` are; with other matrices,
    values half way between two symbols may depend on the compiler.

    Args:
      matrix: [C, C], invertible.

    Raises:
      ValueError: if the matrix has no inverse.
    """
    matrix = np.asarray(matrix, np.float64)
    try:
        inverse = np.linalg.inv(matrix)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"matrix: expected an invertible one, got {matrix}") from error
    # Takes away the rounding errors of the inversion itself.
    inverse = np.round(inverse * 2.0**40) / 2.0**40
    return Transform(lambda x: _times(x, matrix), lambda x: _times(x, inverse))


def normalize(image_size: tuple[int, int]) -> Transform:
    """The transform of positions in pixels to about [-1, 1] from the picture's centre.

    y = (x - side / 2) / 2^k with the smallest 2^k ≥ side / 2, for each axis: a power of
    two is exact. Without it, halves beyond 512 pixels would be 0.5 pixels apart.

    Halves are then 2^k / 2048 pixels apart in the outer part of the picture (0.25 for
    sides of 513 to 1024) and closer towards its centre.

    Deviation: the paper codes atanh of the position, which confines it to the picture;
    our means may leave it.

    Args:
      image_size: H, W in pixels.
    """
    sides = [int(side) for side in image_size[::-1]]  # W, H, as x, y
    centre = np.array(sides, np.float32) / 2
    scale = np.array([2.0 ** ((s - 1).bit_length() - 1) for s in sides], np.float32)
    return Transform(lambda x: (x - centre) * (1 / scale), lambda y: y * scale + centre)


def chain(*links: Transform | Quantizer) -> Quantizer:
    """Quantizes what some transforms make of the values.

    Args:
      *links: any number of `Transform`, first to last, then one `Quantizer`.

    Returns:
      A quantizer of the untransformed values, with the last link's params and state.

    Raises:
      ValueError: if the links are of other types.
    """
    transforms: Sequence[Any] = links[:-1]
    inner: Any = links[-1] if links else None
    if not isinstance(inner, Quantizer) or not all(
        isinstance(link, Transform) for link in transforms
    ):
        got = [type(link).__name__ for link in links]
        raise ValueError(f"chain: expected Transforms, then one Quantizer, got {got}")

    def forward(values):
        return reduce(lambda x, t: t.forward(x), transforms, values)

    def inverse(values):
        return reduce(lambda y, t: t.inverse(y), reversed(transforms), values)

    def apply(params, state, values, key):
        values, state, aux = inner.apply(params, state, forward(values), key)
        return inverse(values), state, aux

    return Quantizer(
        lambda key, values: inner.init(key, forward(values)),
        apply,
        lambda params, state, values: inner.encode(params, state, forward(values)),
        lambda params, state, symbols: inverse(inner.decode(params, state, symbols)),
        inner.scales,
    )


def per_field(
    *,
    means: Quantizer,
    shape: Quantizer,
    colors: Quantizer,
    parametrization: type[Cholesky] | type[RotationScale] = Cholesky,
) -> Quantizer:
    """Quantizes Gaussians, each field by its own quantizer.

    Args:
      means: quantizer of [N, 2].
      shape: quantizer of [N, 3]: `cholesky`, or `log_scales` and `angles` side by side.
      colors: quantizer of [N, C].
      parametrization: type of the Gaussians.

    Returns:
      A quantizer of Gaussians; its params, state and symbols are `Fields`.
    """
    quantizers = Fields(means, shape, colors)

    def init(key, gaussians):
        keys = jax.random.split(key, len(quantizers))
        fields = _fields(gaussians, parametrization)
        made = [q.init(k, x) for q, k, x in zip(quantizers, keys, fields)]
        return Fields(*(params for params, _ in made)), Fields(*(s for _, s in made))

    def apply(params, state, gaussians, key):
        keys = jax.random.split(key, len(quantizers))
        inputs = zip(params, state, _fields(gaussians, parametrization), keys)
        results = [q.apply(*x) for q, x in zip(quantizers, inputs)]
        values, states, losses = zip(*results)
        return _gaussians(values, parametrization), Fields(*states), sum(losses)

    def encode(params, state, gaussians):
        inputs = zip(params, state, _fields(gaussians, parametrization))
        return Fields(*(q.encode(*x) for q, x in zip(quantizers, inputs)))

    def decode(params, state, symbols):
        inputs = zip(params, state, symbols)
        values = [q.decode(*x) for q, x in zip(quantizers, inputs)]
        return _gaussians(values, parametrization)

    def scales(params):
        return Fields(*(q.scales(p) for q, p in zip(quantizers, params)))

    return Quantizer(init, apply, encode, decode, scales)


def _fields(gaussians: Gaussians, parametrization: type) -> Fields:
    if not isinstance(gaussians, parametrization):
        raise ValueError(
            f"gaussians: expected {parametrization.__name__}, "
            f"got {type(gaussians).__name__}"
        )
    if isinstance(gaussians, Cholesky):
        return Fields(*gaussians)
    shape = jnp.concatenate([gaussians.log_scales, gaussians.angles[:, None]], axis=1)
    return Fields(gaussians.means, shape, gaussians.colors)


def _gaussians(fields: Sequence[jax.Array], parametrization: type) -> Gaussians:
    means, shape, colors = fields
    if parametrization is Cholesky:
        return Cholesky(means, shape, colors)
    return RotationScale(means, shape[:, :2], shape[:, 2], colors)


def _times(values: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Returns `values @ matrix`, summed in the order of the rows of the matrix."""
    rows = matrix.astype(np.float32)
    return reduce(jnp.add, [values[:, i, None] * row for i, row in enumerate(rows)])
