"""The Triton implementation beyond what `rasterize_test` asks of all of them."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from experiments import tuning
from gi_jax.gaussians import CUTOFF
from gi_jax.rendering import triton_call, triton_rasterizer
from tests import interpreter
from tests.helpers import assert_close_as_vectors, scene

pytest.importorskip("triton", reason="Triton is not installed")


def value_and_gradient(gaussians, size, implementation):
    weights = jax.random.normal(jax.random.key(0), (*size, 3))

    @jax.jit
    @jax.value_and_grad
    def run(gaussians):
        picture = gi.rasterize(gaussians, size, implementation=implementation)
        return jnp.sum(weights * picture)

    return run(gaussians)


# Room for so many strips: none, too few, enough. Then the sizes that a GPU gets.
BLOCKS = {
    "no_strips": {"_STRIP_PIXELS": 64, "_MIN_STRIPS": 0},
    "few_strips": {"_STRIP_PIXELS": 64, "_MIN_STRIPS": 7},
    "many_strips": {"_STRIP_PIXELS": 64, "_MIN_STRIPS": 200},
    "as_on_a_gpu": {"_WARPS": 4},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_large_gaussians_are_cut_into_strips(monkeypatch, name):
    interpreter.use(monkeypatch, **{"SIDE": 8} | BLOCKS[name])
    # One size for each case, as programs that are compiled are kept by size.
    size = (50 + len(name), 60)
    gaussians = jax.tree.map(jnp.asarray, scene(0, 8, size, sigma=(2.0, 20.0)))
    actual = value_and_gradient(gaussians, size, "triton")
    assert_close_as_vectors(actual, value_and_gradient(gaussians, size, "dense"), 1e-4)


@pytest.mark.parametrize("size", [1, 4, 5, 37])
def test_running_sum_over_many_blocks(monkeypatch, size):
    interpreter.use(monkeypatch, _BLOCK=4)
    counts = np.random.default_rng(size).integers(0, 9, size).astype(np.int32)
    first, total = triton_rasterizer._running_sum(jnp.asarray(counts))
    np.testing.assert_array_equal(first, np.cumsum(counts) - counts)
    assert total == counts.sum()


def test_running_sum_stops_at_the_largest_integer(monkeypatch):
    interpreter.use(monkeypatch, _BLOCK=4)
    first, total = triton_rasterizer._running_sum(jnp.full(12, 2**29, jnp.int32))
    expected = np.minimum(np.arange(12, dtype=np.int64) * 2**29, 2**31 - 1)
    np.testing.assert_array_equal(first, expected)
    assert total == 2**31 - 1


def test_lists_hold_every_pair_that_touches_once(monkeypatch):
    interpreter.use(monkeypatch)
    size, count = (50, 70), 40
    batch = [scene(seed, count, size, sigma=(0.4, 20.0)) for seed in range(2)]
    means, factor, colors = jax.tree.map(lambda *x: jnp.stack(x), *batch)
    grid = triton_rasterizer.Grid(*size, 400)
    records = triton_rasterizer.pack_records(means, factor, colors)
    boxes = triton_rasterizer.find_boxes(grid, means, factor)
    ids, offsets, total = triton_rasterizer.list_tiles(grid, 2, records, boxes)
    listed = []
    for tile in range(2 * grid.num_tiles):
        here = np.asarray(ids[offsets[tile] : offsets[tile + 1]])
        assert (np.diff(here) > 0).all()  # In the order of Gaussians, each once.
        listed += [(tile, n) for n in here]
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    tile = (y // 16).astype(int) * grid.columns + (x // 16).astype(int)
    needed = set()
    for picture, gaussians in enumerate(batch):
        for n, (mean, (l11, l21, l22)) in enumerate(zip(*gaussians[:2])):
            u = (x - mean[0]) / l11
            v = (y - mean[1] - l21 * u) / l22
            touched = tile[(u * u + v * v) / 2 <= CUTOFF]
            needed |= {
                (picture * grid.num_tiles + t, picture * count + n) for t in touched
            }
    assert needed <= set(listed)
    # The cull is exact up to the gaps between pixels; entries are counted before it.
    assert len(listed) < 1.2 * len(needed) and len(listed) <= total[0]


@pytest.mark.parametrize("rows", [255, 256])  # Keys of 16 and of 32 bits.
def test_lists_of_small_and_large_pictures(monkeypatch, rows):
    interpreter.use(monkeypatch)
    grid = triton_rasterizer.Grid(16 * rows, 16 * 256, 20)
    tiles = np.array([grid.num_tiles - 1, 0, 300, 5, 5, 4, grid.num_tiles - 1])
    y, x = np.divmod(tiles, 256)
    means = jnp.asarray(np.stack([x, y], axis=1) * 16 + 8.0, jnp.float32)[None]
    factor = jnp.tile(jnp.array([0.4, 0, 0.4]), (1, 7, 1))
    records = triton_rasterizer.pack_records(means, factor, jnp.ones((1, 7, 3)))
    boxes = triton_rasterizer.find_boxes(grid, means, factor)
    ids, offsets, total = triton_rasterizer.list_tiles(grid, 1, records, boxes)
    assert total == 7
    order = np.argsort(tiles, kind="stable")
    np.testing.assert_array_equal(ids[:7], order)
    counts = np.bincount(tiles, minlength=grid.num_tiles)
    np.testing.assert_array_equal(np.diff(offsets), counts)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
def test_both_calls_of_kernels_draw_the_same():
    gaussians = scene(0, 300, (97, 61))

    def draw():
        return jax.jit(lambda g: gi.rasterize(g, (97, 61)))(gaussians)

    expected = draw()
    with tuning.as_variant(tuning.VARIANTS["typed-calls"]):
        np.testing.assert_array_equal(draw(), expected)


def test_errors_say_what_is_missing(monkeypatch):
    gaussians = scene(0, 3, (8, 8))
    if jax.default_backend() != "gpu":
        with pytest.raises(RuntimeError, match=r"needs an NVIDIA GPU, and .* is 'cpu'"):
            gi.rasterize(gaussians, (8, 8), implementation="triton")
    monkeypatch.setattr(triton_call, "_is_installed", lambda name: False)
    with pytest.raises(RuntimeError, match=r"jax_triton not found.*gi_jax\[cuda\]"):
        gi.rasterize(gaussians, (8, 8), implementation="triton")


def run_module(*command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["JAX_PLATFORMS"] = "cpu"  # A GPU's memory is this process's.
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("architectures", ["80,86,89", "90,100,120"])
def test_kernels_compile_for_all_gpus(tmp_path, architectures):
    output = tmp_path / "kernels.json"
    flags = f"--architectures={architectures}", f"--output={output}"
    run_module("experiments.kernels", *flags)
    rows = json.loads(output.read_text())
    assert len(rows) == 7 * len(architectures.split(","))
    for row in rows:
        assert row["spilled"] == row["atomics"] == 0, row
        assert row["registers"] <= 80 and row["shared"] <= 16384, row
        # Per pixel of a Gaussian; measured 12 and 28, of which 8 and 20 are arithmetic.
        bounds = {"forward_kernel": (8, 14), "backward_kernel": (20, 31)}
        if row["kernel"] in bounds:
            low, high = bounds[row["kernel"]]
            assert low <= row["instructions"] <= high, row


def test_a_whole_step_is_one_program_for_the_gpu():
    pytest.importorskip(
        "jax_triton", reason="jax-triton does not run here", exc_type=ImportError
    )
    programs = [json.loads(line) for line in run_module("tests.lowering").splitlines()]
    assert [p["name"] for p in programs] == ["step", "scan", "vmap", "shard_map"]
    for program in programs:
        # Lists 4, forward 1, numbering of strips 2, backward 1, gathering 1; a batch
        # takes no more. Nothing asks the host which way to go on, but for the scan.
        launches = [name for name in program["calls"] if name.startswith("triton")]
        assert len(launches) == 9
        operations = program["operations"]
        assert not {"case", "if"} & set(operations)
        assert operations.get("while", 0) == (program["name"] == "scan")
        assert operations["sort"] == 1
