"""The benchmark and the demonstration, run small."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments import benchmark, demo
from gi_jax.images import to_uint8
from tests.helpers import photo

ROOT = Path(__file__).parents[1]


def test_benchmark_measures_and_compiles_once(capsys):
    config = benchmark.Config(num_gaussians="60", height=40, width=48, repeats=2)
    report = benchmark.run(config)
    assert len(report["results"]) == 3
    for row in report["results"]:
        assert row["milliseconds"] > 0 and row["recompilations"] == 0
        assert row["memory_bytes"] > 0
    assert "forward + backward" in capsys.readouterr().out
    json.dumps(report)


def test_benchmark_scene_is_a_picture():
    gaussians = benchmark.scene(100, 64, 96)
    assert gaussians.means.shape == (100, 2)
    assert np.isfinite(gaussians.cholesky).all()


def test_demo_writes_its_files(tmp_path):
    line = demo.run(to_uint8(photo(40, 48)), tmp_path, 60, 25)
    for word in ("bytes", "bpp", "PSNR", "MS-SSIM", "encoded in"):
        assert word in line
    for name in ("astronaut.gi", "astronaut.png", "side_by_side.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_scripts_say_what_they_take():
    for name in ("benchmark", "demo", "fit"):
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert "--num_gaussians" in done.stdout
        bad = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", "--num_gaussians=many"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert bad.returncode != 0 and "num_gaussians" in bad.stderr + bad.stdout
