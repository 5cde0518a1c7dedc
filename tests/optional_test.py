"""Experiments without their optional packages: what works, and what an error says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.optional import optional

ROOT = Path(__file__).parents[1]
PACKAGES = "skimage matplotlib bjontegaard markdown_it distributed dask dask_jobqueue"

# Python runs `sitecustomize` at its start: imports of these fail there.
BLOCK = f"""
import sys
for name in {PACKAGES.split()!r}:
    sys.modules[name] = None
"""

# Commands by a flag of theirs.
COMMANDS = {
    "ablations": "table",
    "benchmark": "repeats",
    "compression": "effort",
    "demo": "effort",
    "ellipses": "sigmas",
    "fit": "num_gaussians",
    "priors": "files",
    "report": "output",
    "representation": "presets",
    "sweep": "retries",
}


def run(tmp_path, *arguments):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_the_library_alone(tmp_path, name):
    done = run(tmp_path, f"experiments.{name}", "--help")
    assert f"--{COMMANDS[name]}" in done.stdout, done.stderr


def test_what_is_missing_is_named_with_its_extra(tmp_path):
    done = run(tmp_path, "experiments.demo", f"--workdir={tmp_path}")
    assert done.returncode != 0
    assert "skimage is not installed: pip install 'gi_jax[experiments]'" in done.stderr


def test_modules_are_imported_at_their_first_use():
    sqlite = optional("sqlite3.dbapi2")
    assert sqlite.apilevel == "2.0"
    with pytest.raises(ModuleNotFoundError, match=r"no_such is .*gi_jax\[cluster\]"):
        optional("no_such.module", "cluster").anything  # noqa: B018
