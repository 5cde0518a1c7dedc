"""The benchmark and the demonstration, run small."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import gi_jax as gi
from experiments import benchmark, demo, tuning
from experiments.measure import _repeated
from gi_jax.images import to_uint8
from tests import interpreter
from tests.helpers import photo

ROOT = Path(__file__).parents[1]


def test_benchmark_measures_and_compiles_once(capsys):
    config = benchmark.Config(
        num_gaussians="60", sizes="48x40", batches="2", repeats=2, calls=2
    )
    report = benchmark.run(config)
    decoding, *rows = report["results"]
    assert [row["what"] for row in rows] == ["render", "forward + backward", "fit step"]
    assert decoding["milliseconds"] > 0
    for row in rows:
        assert row["milliseconds"] > 0 and row["recompilations"] == 0
        assert row["memory_bytes"] > 0
        pairs = row["pairs"]
        assert 0 < pairs["support"] < 4 * pairs["tiles"]
    assert "forward + backward" in capsys.readouterr().out
    json.dumps(report)


def test_repeated_calls_are_all_made():
    calls = []

    def counted(x):
        def note(x):
            calls.append(1)
            return np.asarray(x)

        return jax.pure_callback(note, x, 2 * x)

    repeated = jax.jit(_repeated(counted, 5))
    assert repeated(np.float32(3)) == 6
    assert len(calls) == 5


def test_benchmark_draws_from_lists(monkeypatch):
    interpreter.use(monkeypatch)
    gaussians = benchmark.scene(30, 40, 48)
    batch = jax.tree.map(lambda x: x[None], gaussians)
    name, draw, arguments = next(benchmark.tasks("triton", batch, (40, 48)))
    assert name == "draw from lists"
    expected = gi.rasterize(gaussians, (40, 48))
    np.testing.assert_allclose(draw(*arguments)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "flags", [{"sizes": "48"}, {"sizes": "axb"}, {"batches": "0"}, {"repeats": 0}]
)
def test_benchmark_refuses_impossible_flags(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        benchmark.Config(**flags)


def test_benchmark_scene_is_a_picture():
    gaussians = benchmark.scene(100, 64, 96)
    assert gaussians.means.shape == (100, 2)
    assert np.isfinite(gaussians.cholesky).all()


def test_tuning_goes_on_where_a_variant_fails(monkeypatch, capsys):
    interpreter.use(monkeypatch)
    tasks = benchmark.tasks  # Two of them are enough.
    monkeypatch.setattr(benchmark, "tasks", lambda *x: itertools.islice(tasks(*x), 2))
    monkeypatch.setitem(tuning.VARIANTS, "odd", tuning.Variant({"_NO_SUCH": 1}))
    config = tuning.Config(
        num_gaussians="3", height=9, width=10, variants="odd,keys-32", repeats=1
    )
    report = tuning.run(config)
    names = "as it is", "odd", "keys-32", "as it is again"
    assert tuple(row["variant"] for row in report["results"]) == names
    odd = report["results"].pop(1)
    assert "_NO_SUCH" in odd["failed"]
    for row in report["results"]:
        assert len(row["milliseconds"]) == 2 and min(row["milliseconds"].values()) > 0
    assert "keys-32" in capsys.readouterr().out
    json.dumps(report)


def test_tuning_needs_the_kernels():
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeError, match="do not run here"):
        tuning.run(tuning.Config())


def test_demo_writes_its_files(tmp_path):
    line = demo.run(to_uint8(photo(40, 48)), tmp_path, quality=50, effort=1)
    for word in ("bytes", "bpp", "PSNR", "MS-SSIM", "encoded in"):
        assert word in line
    for name in ("astronaut.gi", "astronaut.png", "side_by_side.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_scripts_say_what_they_take():
    names = {"benchmark": "repeats", "demo": "effort", "fit": "num_gaussians"}
    names |= {"tuning": "repeats", "programs": "steps"}
    names |= {"kernels": "num_gaussians", "compression": "effort", "sweep": "retries"}
    for name, flag in names.items():
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert f"--{flag}" in done.stdout
        bad = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", f"--{flag}=many"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert bad.returncode != 0 and flag in bad.stderr + bad.stdout
