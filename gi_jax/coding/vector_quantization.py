"""Residual vector quantization with codebooks that follow the values."""

import operator
from functools import reduce
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gi_jax.coding.quantization import (
    FLOAT32_BITS,
    Quantizer,
    no_loss,
    straight_through,
)

# An entry of a codebook that stands for less than this many values is replaced.
DEAD_COUNT: Final = 1.0

# Pseudo-count of a codebook entry at its own place (Laplace smoothing of the counts).
SMOOTHING: Final = 1e-5

# Most float32 of one masked sum, so that memory does not grow with N · entries · C:
# 16 MiB.
BLOCK_VALUES: Final = 2**22


class ResidualVQState(NamedTuple):
    """Codebooks of `residual_vq`; decoding needs `codebooks` alone."""

    codebooks: jax.Array  # [stages, entries, C]
    counts: jax.Array  # [stages, entries] moving average of how many values use each


def residual_vq(
    codebook_size: int = 8,
    num_stages: int = 2,
    *,
    decay: float = 0.8,
    commitment: float = 1.0,
    kmeans_steps: int = 10,
) -> Quantizer:
    """Residual vector quantization: each stage codes what the ones before it left.

    A stage takes the nearest entry of its codebook. Codebooks start by k-means, follow
    moving averages of the values they stand for, and move unused entries to values that
    are badly represented. The auxiliary loss is commitment · Σ over the stages of
    mean((residual - sg(entry))²).

    Quantizing a second time may change values if there are several stages: an entry sum
    c₀[i] + c₁[j] can be nearer to another first entry.

    Args:
      codebook_size: entries per stage.
      num_stages: stages; symbols are [N, num_stages] in 0..codebook_size - 1.
      decay: of the moving averages, per call of `apply`.
      commitment: weight of the auxiliary loss.
      kmeans_steps: Lloyd iterations of `init`, after a k-means++ seeding.

    Returns:
      A quantizer of [N, C] with `ResidualVQState` and no params.

    Raises:
      ValueError: if entries, stages or Lloyd iterations are not whole numbers, there
        are no entries or no stages, or a weight is out of range.

    Reference:
      GaussianImage, arXiv:2403.08551, section 3.3; SoundStream, arXiv:2107.03312,
      section III-C; k-means++, D. Arthur and S. Vassilvitskii, SODA 2007.
    """
    codebook_size = _whole("codebook_size", codebook_size, least=1)
    num_stages = _whole("num_stages", num_stages, least=1)
    kmeans_steps = _whole("kmeans_steps", kmeans_steps, least=0)
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: expected a number in 0..1, got {decay}")
    if not 0 <= commitment < float("inf"):
        raise ValueError(f"commitment: expected 0 or more, got {commitment}")

    def init(key, values):
        def stage(residual, key):
            codebook = _kmeans(key, residual, codebook_size, kmeans_steps)
            nearest = _nearest(residual, codebook)
            counts, _ = _usage(residual, nearest, codebook_size)
            return residual - codebook[nearest], ResidualVQState(codebook, counts)

        return (), lax.scan(stage, values, jax.random.split(key, num_stages))[1]

    def encode(params, state, values):
        del params
        return lax.scan(_encode_stage, values, state.codebooks)[1].T

    def decode(params, state, symbols):
        del params
        stages = zip(state.codebooks, symbols.T)
        return reduce(jnp.add, [codebook[symbol] for codebook, symbol in stages])

    def apply(params, state, values, key):
        state = lax.stop_gradient(state)
        if values.shape[0] == 0:
            return values, state, no_loss()
        symbols = encode(params, state, lax.stop_gradient(values))

        def stage(residual, inputs):
            old, nearest, key = inputs
            new = _moved(old, lax.stop_gradient(residual), nearest, key, decay)
            residual = residual - old.codebooks[nearest]
            return residual, (new, jnp.mean(residual**2))

        inputs = state, symbols.T, jax.random.split(key, num_stages)
        _, (new_state, losses) = lax.scan(stage, values, inputs)
        values_hat = straight_through(values, decode(params, state, symbols))
        return values_hat, new_state, commitment * jnp.sum(losses)

    # Outside of jax.jit, loops over closures would be compiled again for each call.
    return Quantizer(jax.jit(init), jax.jit(apply), encode, decode)


def _whole(name: str, value: int, least: int) -> int:
    """Returns a whole number of `least` or more.

    Raises:
      ValueError: where it is something else.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(
            f"{name}: expected a whole number, {least} or more, got {value!r}"
        )
    return number


def _distances(values: jax.Array, codebook: jax.Array) -> jax.Array:
    """Returns squared distances [N, entries], the same with every compiler.

    Differences are rounded to half the bits of a float32 (a relative 2^-12), so that
    their squares are exact.
    """
    differences = values[:, None, :] - codebook  # [N, entries, C]
    differences = lax.reduce_precision(differences, 8, FLOAT32_BITS // 2 - 1)
    return reduce(jnp.add, jnp.moveaxis(differences * differences, -1, 0))


def _nearest(values: jax.Array, codebook: jax.Array) -> jax.Array:
    """Returns the index of each value's nearest entry, [N] int32."""
    return jnp.argmin(_distances(values, codebook), axis=1).astype(jnp.int32)


def _encode_stage(residual: jax.Array, codebook: jax.Array) -> tuple:
    """Returns what a stage leaves over, [N, C], and its symbols, [N]."""
    nearest = _nearest(residual, codebook)
    return residual - codebook[nearest], nearest


def _usage(values: jax.Array, nearest: jax.Array, size: int) -> tuple:
    """Returns how many values each entry stands for, and their sums, [K] and [K, C].

    Written as masked sums: scattered additions would be in any order on a GPU. Many
    values are summed block by block, in their order.
    """
    count, channels = values.shape
    rows = max(BLOCK_VALUES // (size * channels), 1)
    if count <= rows:
        return _block_usage(values, nearest, size)
    blocks = -(-count // rows)
    padding = blocks * rows - count
    values = jnp.pad(values, ((0, padding), (0, 0))).reshape(blocks, rows, channels)
    # No entry has the number `size`.
    nearest = jnp.pad(nearest, (0, padding), constant_values=size)

    def add(total, block):
        values, nearest = block
        part = _block_usage(values, nearest, size)
        return jax.tree.map(jnp.add, total, part), None

    zero = jnp.zeros(size, jnp.float32), jnp.zeros((size, channels), jnp.float32)
    return lax.scan(add, zero, (values, nearest.reshape(blocks, rows)))[0]


def _block_usage(values: jax.Array, nearest: jax.Array, size: int) -> tuple:
    mask = nearest[:, None] == jnp.arange(size)  # [N, K]
    sums = jnp.sum(jnp.where(mask[..., None], values[:, None, :], 0.0), axis=0)
    return jnp.sum(mask, axis=0).astype(jnp.float32), sums


def _kmeans(key: jax.Array, values: jax.Array, size: int, steps: int) -> jax.Array:
    """Returns `size` cluster centres, [size, C]; surplus ones repeat a value."""
    count, channels = values.shape
    codebook = jnp.zeros((size, channels), jnp.float32)
    if count == 0:
        return codebook

    def seed(k, carry):
        # In proportion to the squared distance from the nearest one so far.
        codebook, nearest = carry
        chosen = jax.random.choice(jax.random.fold_in(key, k), values, p=nearest)
        distances = _distances(values, chosen[None])[:, 0]
        nearest = jnp.where(k == 0, distances, jnp.minimum(nearest, distances))
        return codebook.at[k].set(chosen), nearest

    def move(_, codebook):
        counts, sums = _usage(values, _nearest(values, codebook), size)
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        return jnp.where(counts[:, None] > 0, means, codebook)

    codebook, _ = lax.fori_loop(0, size, seed, (codebook, jnp.ones(count)))
    return lax.fori_loop(0, steps, move, codebook)


def _moved(
    stage: ResidualVQState,
    residual: jax.Array,
    nearest: jax.Array,
    key: jax.Array,
    decay: float,
) -> ResidualVQState:
    """Returns one stage ([K, C] and [K]) after a step of its moving averages."""
    codebook, old = stage
    counts, sums = _usage(residual, nearest, old.shape[0])
    new = decay * old + (1 - decay) * counts
    sums = (decay * old + SMOOTHING)[:, None] * codebook + (1 - decay) * sums
    moved = sums / (new + SMOOTHING)[:, None]
    # Unused entries go to values drawn in proportion to their squared errors.
    errors = jnp.sum((residual - codebook[nearest]) ** 2, axis=1)
    drawn = jax.random.choice(key, residual, old.shape, p=errors)
    dead = new < DEAD_COUNT
    codebook = jnp.where(dead[:, None], drawn, moved)
    return ResidualVQState(codebook, jnp.where(dead, DEAD_COUNT, new))
