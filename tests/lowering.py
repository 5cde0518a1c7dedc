"""Lowers fit steps for NVIDIA GPUs, on any machine; prints what they are made of.

    python -m tests.lowering

Two simulated devices stand for two GPUs. One line of JSON per program.
"""

import collections
import json
import os
import re

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.pop("TRITON_INTERPRET", None)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import gi_jax as gi
from gi_jax.rendering import triton_call
from tests.helpers import scene

SIZE = (40, 50)


def print_operations(name, function, *arguments) -> None:
    """Prints the operations and the calls of kernels in a lowered function."""
    traced = jax.jit(function).trace(*arguments)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @(\w+)", text)
    operations = collections.Counter(re.findall(r"stablehlo\.(\w+)", text))
    print(json.dumps({"name": name, "calls": calls, "operations": operations}))


def main() -> None:
    """Lowers a step under every transformation."""
    triton_call.why_unavailable = lambda platform=None: None
    triton_call._compute_capability = 90
    fit_step = gi.make_fit_step(implementation="triton")
    target = jnp.zeros((*SIZE, 3))
    state = fit_step.init(scene(0, 30, SIZE), jax.random.key(0))
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), (state, target))

    def steps(state, target):
        return jax.lax.scan(lambda s, _: fit_step(s, target), state, length=10)

    each = PartitionSpec("batch")
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    vmapped = jax.vmap(fit_step)
    sharded = jax.shard_map(vmapped, mesh=mesh, in_specs=each, out_specs=each)
    print_operations("step", fit_step, state, target)
    print_operations("scan", steps, state, target)
    print_operations("vmap", vmapped, *batch)
    print_operations("shard_map", sharded, *batch)


if __name__ == "__main__":
    main()
