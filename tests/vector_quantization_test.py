"""Formulas of residual vector quantization; its laws are in quantization_test.py."""

import jax
import jax.numpy as jnp
import numpy as np

from gi_jax.coding import vector_quantization
from gi_jax.coding.vector_quantization import ResidualVQState, residual_vq
from tests.helpers import assert_same_bits, normal

KEY = jax.random.key(0)


def test_residual_vq_takes_the_nearest_entry_of_each_stage():
    values = normal(3)(0, 300)
    params, state = residual_vq(8, 2).init(KEY, values)
    symbols = np.asarray(residual_vq(8, 2).encode(params, state, values))
    residual = np.asarray(values)
    for stage, codebook in enumerate(np.asarray(state.codebooks)):
        distances = ((residual[:, None] - codebook) ** 2).sum(-1)
        chosen = distances[np.arange(300), symbols[:, stage]]
        # Differences have 12 bits: 2^-11 relative in their squares.
        assert (chosen <= distances.min(axis=1) * (1 + 2.0**-10)).all()
        residual = residual - codebook[symbols[:, stage]]


def test_residual_vq_finds_separate_clusters_and_few_values():
    centres = 10.0 * normal(3)(1, 8)
    values = jnp.repeat(centres, 20, axis=0) + 1e-3 * normal(3)(2, 160)
    params, state = residual_vq(8, 1).init(KEY, values)
    error = residual_vq(8, 1).apply(params, state, values, KEY)[2]
    assert error < 1e-5
    few = values[::50]  # 4 values, 8 entries
    params, state = residual_vq(8, 2).init(KEY, few)
    assert_same_bits(few, residual_vq(8, 2).apply(params, state, few, KEY)[0])


def test_residual_vq_follows_its_values_and_reports_their_error():
    q = residual_vq(4, 2, commitment=0.25)
    params, state = q.init(KEY, normal(3)(0, 500))
    moved = normal(3, 0.5, 4.0)(1, 500)
    symbols = q.encode(params, state, moved)
    first = moved - state.codebooks[0][symbols[:, 0]]
    second = first - state.codebooks[1][symbols[:, 1]]
    losses = []
    for k in range(40):
        _, state, loss = q.apply(params, state, moved, jax.random.fold_in(KEY, k))
        losses.append(loss)
    expected = 0.25 * (np.mean(first**2) + np.mean(second**2))
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)
    # Uniform density on 4 cells per stage: far below the variance 0.25 after one stage.
    assert losses[-1] < 0.25 * 0.25
    assert (state.counts > 0).all() and np.isfinite(state.codebooks).all()


def test_memory_of_the_sums_does_not_grow_with_values_times_entries():
    count, size, channels = 300_000, 256, 3
    shapes = (
        jax.ShapeDtypeStruct((count, channels), jnp.float32),
        jax.ShapeDtypeStruct((count,), jnp.int32),
    )
    usage = jax.jit(vector_quantization._usage, static_argnums=2)
    compiled = usage.lower(*shapes, size).compile()
    # A padded copy of what is summed, and a few arrays of one block.
    most = 4 * count * (channels + 1) + 8 * 4 * vector_quantization.BLOCK_VALUES
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * most


def test_sums_of_blocks_are_those_of_all(monkeypatch):
    rng = np.random.default_rng(0)
    values = jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
    nearest = jnp.asarray(rng.integers(0, 4, 50), jnp.int32)
    counts, sums = vector_quantization._usage(values, nearest, 4)
    monkeypatch.setattr(vector_quantization, "BLOCK_VALUES", 7 * 4 * 3)
    in_blocks = vector_quantization._usage(values, nearest, 4)
    np.testing.assert_array_equal(in_blocks[0], counts)
    np.testing.assert_allclose(in_blocks[1], sums, rtol=1e-5, atol=1e-6)


def test_residual_vq_replaces_dead_entries_and_averages_the_others():
    values = jnp.float32([[0.0], [1.0], [10.0], [11.0]])
    codebooks = jnp.float32([[[0.5], [99.0]]])
    state = ResidualVQState(codebooks, jnp.float32([[4.0, 0.5]]))
    _, new, _ = residual_vq(2, 1).apply((), state, values, KEY)
    assert float(new.codebooks[0, 1, 0]) in values[:, 0].tolist()
    np.testing.assert_allclose(new.counts, [[4.0, 1.0]])
    np.testing.assert_allclose(new.codebooks[0, 0, 0], 0.8 * 0.5 + 0.2 * 5.5, rtol=1e-5)
