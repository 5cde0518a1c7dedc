import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.programs import Loop, read_loops

# Where `make test` puts XLA's compiler for GPUs, which JAX would look for a GPU with.
COMPILER = Path(sys.prefix) / "gpu-compiler"


def test_read_loops():
    def step(x, _):
        return jnp.sort(x @ x), None

    def function(x):
        return jax.lax.scan(step, x, length=7)[0].sum()

    text = jax.jit(function).lower(jnp.zeros((5, 5))).compile().as_text()
    found = read_loops(text)
    assert found.trips == 1 and found.launches >= 1
    (inner,) = found.loops
    assert inner.trips == 7 and inner.launches >= 2


def test_read_loops_of_branches_and_loops_in_loops():
    text = """HloModule example

%inner (x: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %add = f32[] fusion(%x), kind=kLoop, calls=%fused
}

%outer (y: f32[]) -> f32[] {
  %y = f32[] parameter(0)
  %copy.1 = f32[] copy(%y)
  ROOT %while.1 = f32[] while(%copy.1), condition=%c, body=%inner, \
metadata={op_name="jit(f)/scan/while"}, \
backend_config={"known_trip_count":{"n":"16"}}
}

ENTRY %main (z: f32[]) -> (f32[], f32[2]) {
  %z = f32[] parameter(0)
  %call.1 = (f32[], f32[2]{0}) call(%z, %z), to_apply=%inner
  %if.1 = f32[] conditional(%z, %z, %z), branch_computations={%inner, %inner}
  %while.2 = f32[] while(%z), condition=%c, body=%outer
  ROOT %sort.1 = (f32[], f32[2]{0}) custom-call(%while.2), custom_call_target="s"
}
"""
    inner = Loop("scan", 16, 1, [])
    assert read_loops(text) == Loop("", 1, 4, [Loop("", None, 1, [inner])])


@pytest.mark.skipif(not COMPILER.exists(), reason="XLA has no compiler for GPUs here")
def test_programs_for_a_gpu_launch_little(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{COMPILER}:{os.getcwd()}"}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": ""}
    environment.pop("TRITON_INTERPRET", None)
    output = tmp_path / "programs.json"
    command = [sys.executable, "-m", "experiments.programs", f"--output={output}"]
    command += ["--num_gaussians=3000", "--height=128", "--width=192"]
    done = subprocess.run(
        command, env=environment, timeout=300, capture_output=True, text=True
    )
    # The machine's ptxas may be older than what this XLA compiles to.
    if too_old := re.search(r"Unsupported \.version .*", done.stderr):
        pytest.skip(f"ptxas is too old: {too_old[0]}")
    done.check_returncode()
    found = {row["program"]: row for row in json.loads(output.read_text())}
    assert found["render"]["launches"] <= 11 and not found["render"]["loops"]
    assert found["forward + backward"]["launches"] <= 22
    # Nothing is done by many small steps, each of which a GPU would be launched for.
    start = found["start of a fit"]
    assert start["launches"] + _launches(start) < 900
    looked, steps = found["steps of a fit"]["loops"][0], 16
    (chunk,) = looked["loops"]
    assert chunk["trips"] == steps and chunk["launches"] <= 49 and not chunk["loops"]
    assert not found["births"]["loops"]


def _launches(program):
    """Counts the launches of all loops, which all run a known number of times."""
    return sum(
        inner["trips"] * (inner["launches"] + _launches(inner))
        for inner in program["loops"]
    )
