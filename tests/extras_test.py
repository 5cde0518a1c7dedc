"""Each extra alone, in a new environment, runs what it is for; see `make extras`."""

import shlex
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]

# What is run, from the clone, with what each extra brings. {} is a folder that holds
# photo.png.
RUNS = {
    "": [
        "-c 'import gi_jax as gi; gi.fit'",
        "-m experiments.benchmark --num_gaussians=20 --sizes=32x24 --batches=1"
        " --repeats=1 --calls=1 --output={}/benchmark.json",
    ],
    "experiments": [
        "-m experiments.representation --images={}/*.png --num_gaussians=20,30"
        " --steps=10 --repeats=1 --workdir={}/table",
        "-m experiments.report {}/table --output={}/report.html",
    ],
    "cluster": [
        "-m experiments.sweep --experiment=fit --images={}/*.png"
        " '--grid=num_gaussians=20,30;steps=10' --workdir={}/sweep",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("extra", RUNS)
def test_an_extra_suffices(tmp_path, extra):
    python = tmp_path / "environment" / "bin" / "python"
    commands = [[sys.executable, "-m", "venv", tmp_path / "environment"]]
    package = f"{ROOT}[{extra}]" if extra else ROOT
    commands += [[python, "-m", "pip", "install", "--quiet", package]]
    commands += [
        [python, *shlex.split(run.replace("{}", str(tmp_path)))] for run in RUNS[extra]
    ]
    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    iio.imwrite(tmp_path / "photo.png", picture)
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
