"""The state of the paper's quantizer holds what a file takes; that of others not."""

import jax
import numpy as np
import pytest

from gi_jax.coding.codec import read_gaussians, write_gaussians
from gi_jax.coding.file_info import file_info
from gi_jax.coding.paper_quantizer import PaperState, paper_quantizer
from gi_jax.coding.quantization import (
    chain,
    float16,
    linear,
    normalize,
    per_field,
    uniform,
)
from gi_jax.coding.vector_quantization import residual_vq
from gi_jax.gaussians import Cholesky, RotationScale
from tests.codec_test import KINDS, SIZE
from tests.codec_test import _gaussians as looks_fitted
from tests.codec_test import _learned as learned

WRITTEN = [(6, 8, 2), (7, 32, 2), (1, 1, 1), (8, 5, 3)]


@KINDS
@pytest.mark.parametrize("order", ["sorted", "bits_back"])
@pytest.mark.parametrize(("bits", "entries", "stages"), WRITTEN)
def test_files_decode_to_what_training_saw(kind, order, bits, entries, stages):
    """A writer is told nothing but what the quantizer returned."""
    quantizer = paper_quantizer(
        SIZE,
        parametrization=kind,
        shape_bits=bits,
        codebook_size=entries,
        num_stages=stages,
    )
    gaussians = looks_fitted(kind, 60, 3)
    params, state = jax.jit(quantizer.init)(jax.random.key(0), gaussians)
    seen, new_state, _ = jax.jit(quantizer.apply)(
        params, state, gaussians, jax.random.key(1)
    )
    assert isinstance(new_state, PaperState)
    data = write_gaussians(gaussians, params, state, SIZE, order=order)
    assert file_info(data).shape_bits == bits
    decoded = read_gaussians(data).gaussians
    rows = [
        sorted(map(tuple, np.column_stack(jax.tree.leaves(x)).tolist()))
        for x in (seen, decoded)
    ]
    assert rows[0] == rows[1]


def _foreign(means=None, shape=None, colors=None):
    return per_field(
        means=means or chain(normalize(SIZE), float16()),
        shape=shape or uniform(6),
        colors=colors or residual_vq(8, 2),
    )


@pytest.mark.parametrize(
    "quantizer",
    [
        _foreign(),  # The same in effect, but nothing says so.
        _foreign(means=uniform(8)),
        _foreign(means=float16()),
        _foreign(means=chain(normalize((99, 99)), float16())),
        _foreign(shape=uniform(7)),
        _foreign(colors=uniform(6)),
        _foreign(colors=float16()),
        _foreign(colors=chain(linear(2 * np.eye(3)), residual_vq(8, 2))),
    ],
)
def test_other_quantizers_are_refused(quantizer):
    gaussians = looks_fitted(Cholesky, 30, 3)
    made = quantizer.init(jax.random.key(0), gaussians)
    with pytest.raises(ValueError, match="a file holds what paper_quantizer"):
        write_gaussians(gaussians, *made, SIZE)


def test_what_was_said_to_the_quantizer_must_not_be_said_otherwise():
    gaussians = looks_fitted(Cholesky, 5, 3)
    made = learned(3, bits=7)
    data = write_gaussians(gaussians, *made, SIZE)
    assert write_gaussians(gaussians, *made, SIZE, shape_bits=7) == data
    with pytest.raises(ValueError, match="shape_bits: the quantizer was made for 7"):
        write_gaussians(gaussians, *made, SIZE, shape_bits=6)
    with pytest.raises(ValueError, match=r"image_size: .* \(37, 61\), got \(61, 37\)"):
        write_gaussians(gaussians, *made, SIZE[::-1])
    with pytest.raises(ValueError, match="gaussians: the quantizer was made for Chol"):
        write_gaussians(looks_fitted(RotationScale, 5, 3), *made, SIZE)
    params, state = made
    for bad in (
        params._replace(means=params.shape),
        params._replace(shape=()),
        params._replace(shape=jax.tree.map(lambda x: x[:2], params.shape)),
    ):
        with pytest.raises(ValueError, match="those of one paper_quantizer"):
            write_gaussians(gaussians, bad, state, SIZE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape_bits": 2.5}, "shape_bits: expected an integer, 1 to 8, got 2.5"),
        ({"shape_bits": True}, "shape_bits: expected an integer"),
        ({"codebook_size": "8"}, "codebook_size: expected an integer, 1 to 256"),
        ({"num_stages": [2]}, "num_stages: expected an integer, 1 to 8"),
        ({"image_size": (37.0, 61)}, "image_size: expected two integers"),
        ({"image_size": 37}, "image_size: expected two integers"),
        ({"parametrization": "Cholesky"}, "parametrization: expected Cholesky or"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        paper_quantizer(**{"image_size": SIZE} | arguments)


def test_equal_arguments_give_the_same_quantizer():
    """So that what is jitted with it is compiled once."""
    sizes = SIZE, list(SIZE), np.array(SIZE)
    assert len({paper_quantizer(size, shape_bits=7) for size in sizes}) == 1


def test_rates_of_what_it_learns_are_those_of_its_parts():
    quantizer = paper_quantizer(SIZE, shape_bits=7)
    gaussians = looks_fitted(Cholesky, 60, 3)
    params, _ = quantizer.init(jax.random.key(0), gaussians)
    found, expected = quantizer.scales(params).shape, uniform(7).scales(params.shape)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)
