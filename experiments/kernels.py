r"""Compiles the Triton kernels for many GPUs, without one, and says what they take.

    python -m experiments.kernels --architectures=80,90

For each kernel of a rendering and its gradient: registers of a thread, bytes it spills,
shared memory of a program, and for the two kernels that look at pixels the machine
instructions per pair of pixel and Gaussian in their inner loop.
"""

import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from experiments.config import run_script, setting
from experiments.records import write_json
from gi_jax.rendering import triton_call
from gi_jax.rendering.triton_rasterizer import rasterize_triton

_WARP_SIZE: Final = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compile."""

    architectures: str = setting("80,86,89,90,100,120", help="as 90 for sm_90")
    num_gaussians: int = setting(70_000, help="Gaussians of a picture")
    height: int = setting(512, help="of the picture, pixels")
    width: int = setting(768, help="of the picture, pixels")
    channels: int = setting(3, help="of the picture")
    output: str | None = setting(None, help="JSON file to write")


class Launch(NamedTuple):
    """One kernel launch of a rendering or its gradient."""

    kernel: Any
    dtypes: list[str]  # of the arrays, inputs first
    grid: tuple[int, ...]
    num_warps: int
    constants: dict[str, Any]


class Resources(NamedTuple):
    """What a compiled kernel takes."""

    registers: int  # of a thread
    spilled: int  # bytes of stack and local memory of a thread
    shared: int  # bytes of a program
    instructions: float | None  # per pixel and Gaussian, where the kernel sees any
    atomics: int  # instructions


def launches(config: Config) -> dict[str, Launch]:
    """Traces a rendering and its gradient; returns one launch of each kernel."""
    found = {}

    def record(kernel, arrays, out, grid, num_warps, constants):
        dtypes = [str(array.dtype) for array in (*arrays, *out)]
        found[kernel.__name__] = Launch(kernel, dtypes, grid, num_warps, constants)
        return [jnp.zeros(x.shape, x.dtype) for x in out]

    size = config.height, config.width

    def render(means, factor, colors):
        return rasterize_triton(means, factor, colors, size)

    def render_and_pull_back(*gaussians):
        picture, transpose = jax.vjp(render, *gaussians)
        return transpose(picture)

    arrays = [
        jax.ShapeDtypeStruct((config.num_gaussians, columns), jnp.float32)
        for columns in (2, 3, config.channels)
    ]
    with mock.patch.object(triton_call, "_call", record):
        jax.eval_shape(render_and_pull_back, *arrays)
    return found


def compile_launch(launch: Launch, architecture: int) -> Resources:
    """Compiles a kernel for one architecture by Triton and ptxas."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    kinds = {"float32": "*fp32", "int32": "*i32", "uint16": "*u16", "uint32": "*u32"}
    pointers = dict(zip(names, (kinds[dtype] for dtype in launch.dtypes)))
    source = ASTSource(
        launch.kernel,
        signature={name: pointers.get(name, "constexpr") for name in names},
        constexprs=launch.constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(pointers))},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", architecture, _WARP_SIZE),
        options={
            "num_warps": launch.num_warps,
            "num_stages": 1,
            "enable_fp_fusion": True,
        },
    )
    usage = _cuobjdump(compiled.asm["cubin"], "-res-usage")
    taken = {
        name: int(number)
        for name, number in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)
    }
    code = [*_instructions(_cuobjdump(compiled.asm["cubin"], "-sass"))]
    return Resources(
        taken["REG"],
        taken["STACK"] + taken["LOCAL"],
        compiled.metadata.shared,
        _instructions_per_exponential(code),
        sum(re.match(r"(ATOM\w*|RED)\b", text) is not None for _, text in code),
    )


def _cuobjdump(cubin: bytes, option: str) -> str:
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(folder / "cuobjdump"), option, file.name]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout


def _instructions(listing: str) -> Iterator[tuple[int, str]]:
    """Yields the address and the text of each instruction, without its predicate."""
    for address, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", listing):
        yield int(address, 16), re.sub(r"^@!?U?P\w+\s+", "", text)


def _instructions_per_exponential(code: list[tuple[int, str]]) -> float | None:
    """Counts the instructions of the inner loop that takes exponentials, per one."""
    loops = []
    for address, text in code:
        branch = re.match(r"BRA\S*\s.*?0x([0-9a-f]+)", text)
        if branch and (start := int(branch[1], 16)) < address:
            body = [text for at, text in code if start <= at <= address]
            exponentials = sum(text.startswith("MUFU.EX2") for text in body)
            if exponentials:
                loops.append((len(body), exponentials))
    if not loops:
        return None
    length, exponentials = min(loops)
    return length / exponentials


def run(config: Config) -> list[dict[str, Any]]:
    """Compiles everything and prints a table."""
    found = launches(config)
    if not all(hasattr(launch.kernel, "cache_key") for launch in found.values()):
        raise RuntimeError("expected compiled kernels; unset TRITON_INTERPRET")
    rows = []
    heads = "kernel", "sm", "warps", "registers", "spilled", "shared", "per pixel"
    print("{:<24}{:>4}{:>7}{:>11}{:>9}{:>8}{:>11}".format(*heads))
    for name, launch in found.items():
        for architecture in map(int, config.architectures.split(",")):
            taken = compile_launch(launch, architecture)
            rows.append(
                {"kernel": name, "architecture": architecture, **taken._asdict()}
            )
            per_pixel = f"{taken.instructions:.1f}" if taken.instructions else ""
            print(
                f"{name.removesuffix('_kernel'):<24}{architecture:>4}"
                f"{launch.num_warps:>7}{taken.registers:>11}{taken.spilled:>9}"
                f"{taken.shared:>8}{per_pixel:>11}",
                flush=True,
            )
    return rows


def main(config: Config) -> None:
    """Compiles what the flags say."""
    rows = run(config)
    if config.output:
        write_json(config.output, rows)


if __name__ == "__main__":
    run_script(Config, main)
