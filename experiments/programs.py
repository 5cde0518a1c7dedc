r"""Compiles the programs of a fit for a GPU that need not be there; counts launches.

    python -m experiments.programs --num_gaussians=70000 --steps=100

XLA compiles for an H200 on any machine that has JAX's compiler for CUDA
(`pip install 'gi_jax[cuda]'`, or jax-cuda13-pjrt and jax-cuda13-plugin alone). What a
program launches outside of loops, and each time that a loop runs, says what a GPU does
and how often it waits for the host; memory is what the program takes beyond its data.

A sort counts as one launch. Without a GPU XLA takes another sort than with one, unless
it knows how much memory that needs; it says so in a warning.
"""

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

import gi_jax as gi
from experiments.config import check_least, run_script, setting
from experiments.records import write_json
from gi_jax.fitting import loop
from gi_jax.fitting.fit import choose_recipe
from gi_jax.fitting.losses import get_loss
from gi_jax.rendering import triton_call

# The GPU that is compiled for, as XLA wants it described.
_TARGET: Final = """
    platform_name: "CUDA"
    device_description_str: "NVIDIA H200"
    dnn_version_info { major: 9 minor: 8 }
    gpu_device_info {
      cuda_compute_capability { major: 9 }
      core_count: 132
      fpus_per_core: 128
      clock_rate_ghz: 1.98
      memory_bandwidth: 4800000000000
      device_memory_size: 150000000000
      l2_cache_size: 62914560
      threads_per_warp: 32
      threads_per_block_limit: 1024
      threads_per_core_limit: 2048
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
      shared_memory_per_block: 49152
      shared_memory_per_block_optin: 232448
      shared_memory_per_core: 233472
      registers_per_core_limit: 65536
      registers_per_block_limit: 65536
    }
"""
_CAPABILITY: Final = 90

# Operations of compiled programs that launch nothing.
_SILENT: Final = frozenset(
    ["parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"]
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compile."""

    num_gaussians: int = setting(70_000, help="Gaussians of a picture")
    steps: int = setting(100, help="budget of the fit")
    height: int = setting(512, help="of the picture, pixels")
    width: int = setting(768, help="of the picture, pixels")
    output: str | None = setting(None, help="JSON file to write")

    def __post_init__(self) -> None:
        check_least(self, num_gaussians=1, steps=1, height=1, width=1)


class Loop(NamedTuple):
    """What runs once, or again and again."""

    name: str
    trips: int | None  # None where it ends by a condition, which the host looks at
    launches: int  # of one run, without those of the loops in it
    loops: list["Loop"]


def read_loops(program: str) -> Loop:
    """Reads what a compiled program launches, from its text.

    Args:
      program: XLA's optimized HLO, `compiled.as_text()`.

    Returns:
      The program itself, as a loop that runs once.
    """
    computations: dict[str, list[tuple[str, str]]] = {}
    entry, operations = "", []
    for line in program.splitlines():
        if start := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            operations = computations[start[2]] = []
            entry = start[2] if start[1] else entry
        elif found := re.match(
            r"\s+(?:ROOT )?%?[\w.-]+ = (?:\(.*?\)|\S+) ([\w-]+)\((.*)", line
        ):
            operations.append((found[1], found[2]))

    def read(name: str, computation: str, trips: int | None) -> Loop:
        launches, loops = 0, []
        for operation, rest in computations[computation]:
            if operation == "while":
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
                body = re.search(r"body=%?([\w.-]+)", rest)
                source = re.search(r'op_name="([^"]*)"', rest)
                assert body
                inner = (
                    source[1].removesuffix("/while").split("/")[-1] if source else ""
                )
                loops.append(read(inner, body[1], int(known[1]) if known else None))
            elif operation in ("call", "conditional"):
                # All branches: one of them runs, and they are rare.
                for branch in re.findall(r"%([\w.-]+)", rest.partition("),")[2]):
                    part = read(name, branch, 1)
                    launches += part.launches
                    loops += part.loops
            elif operation not in _SILENT:
                launches += 1
        return Loop(name, trips, launches, loops)

    return read("", entry, 1)


@contextlib.contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Lets what is traced be what a GPU gets, wherever this runs."""
    from jax._src import xla_bridge

    canonical = xla_bridge.canonicalize_platform

    def canonicalize(platform):
        return "cuda" if platform in ("gpu", "cuda") else canonical(platform)

    with (
        # JAX knows "gpu" for the platform of a device that is there, and for no other.
        mock.patch.object(xla_bridge, "canonicalize_platform", canonicalize),
        mock.patch.object(triton_call, "why_unavailable", lambda platform=None: None),
        mock.patch.object(triton_call, "_compute_capability", _CAPABILITY),
        mock.patch.object(loop, "default_platform", lambda: "gpu"),
    ):
        yield


def _device() -> Any:
    """Returns the sharding of arrays that lie on a GPU.

    Raises:
      RuntimeError: where there is no compiler for it.
    """
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=_TARGET, topology="1x1x1"
        )
    except (NotImplementedError, RuntimeError) as error:
        raise RuntimeError(
            "no compiler for CUDA here (pip install 'gi_jax[cuda]'; jax-cuda13-pjrt "
            f"and jax-cuda13-plugin alone will do): {error}"
        ) from error
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def programs(config: Config) -> Iterator[tuple[str, Any, tuple]]:
    """Yields names, jitted functions and the shapes of their arguments."""
    size = config.height, config.width
    sharding = _device()

    def place(shapes):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
        )

    recipe = choose_recipe("fast", config.num_gaussians, (*size, 3), config.steps)
    parts = loop.make_programs(recipe, get_loss("l2"), implementation="triton")
    key = place(jax.eval_shape(lambda: jax.random.key(0)))
    target = place(jax.ShapeDtypeStruct((*size, 3), jnp.float32))
    state = place(jax.eval_shape(parts.start, key, target, None))
    number = place(jax.ShapeDtypeStruct((), jnp.int32))
    goal = place(jax.ShapeDtypeStruct((), jnp.float32))

    def render(gaussians):
        return gi.rasterize(gaussians, size, implementation="triton")

    def forward_backward(gaussians, target):
        picture, transpose = jax.vjp(render, gaussians)
        return transpose(picture - target)

    yield "render", jax.jit(render), (state.gaussians,)
    yield "forward + backward", jax.jit(forward_backward), (state.gaussians, target)
    yield "start of a fit", parts.start, (key, target, None)
    yield "steps of a fit", parts.run, (state, target, number, goal)
    if parts.growth_steps:
        yield "births", parts.grow, (state, target)


def run(config: Config) -> list[dict[str, Any]]:
    """Compiles everything and prints a table."""
    heads = "program", "runs", "launches", "MB", "compile_s"
    print("{:<32}{:>8}{:>10}{:>8}{:>11}".format(*heads))
    rows = []
    with _as_on_a_gpu():
        for name, function, shapes in programs(config):
            start = time.perf_counter()
            compiled = function.lower(*shapes).compile()
            seconds = time.perf_counter() - start
            found = read_loops(compiled.as_text())
            memory = compiled.memory_analysis().temp_size_in_bytes
            rows.append(
                {
                    "program": name,
                    "temporary_bytes": memory,
                    "compile_seconds": seconds,
                    **_plain(found),
                }
            )
            tail = f"{memory / 1e6:8.1f}{seconds:11.1f}"
            print(f"{name:<32}{'':>8}{found.launches:>10}{tail}", flush=True)
            _print_loops(found.loops, depth=1)
    return rows


def _print_loops(loops: list[Loop], depth: int) -> None:
    for found in loops:
        trips = "until" if found.trips is None else found.trips
        label = f"{'  ' * depth}loop {found.name}"
        print(f"{label:<32}{trips:>8}{found.launches:>10}")
        _print_loops(found.loops, depth + 1)


def _plain(found: Loop) -> dict[str, Any]:
    loops = [{"name": x.name, "trips": x.trips, **_plain(x)} for x in found.loops]
    return {"launches": found.launches, "loops": loops}


def main(config: Config) -> None:
    """Compiles what the flags say."""
    rows = run(config)
    if config.output:
        write_json(config.output, rows)


if __name__ == "__main__":
    # Read when JAX looks for devices: no GPU has to be there, nor the rest of CUDA.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    run_script(Config, main)
