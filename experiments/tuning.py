r"""Times the Triton kernels with other constants than theirs, one change at a time.

    python -m experiments.tuning --output=results/tuning.json

Each variant is measured as in experiments.benchmark (median of several runs after a
warm-up, synchronized), beside the kernels as they are, which are measured first and
last: what differs between those two is chance. A variant that fails is reported, and
the others go on, unless it leaves the GPU in disorder.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from unittest import mock

import jax
from tqdm import tqdm

from experiments import benchmark
from experiments.config import check_least, choices, integers, run_script, setting
from experiments.machine import describe_machine
from experiments.measure import calls_of_20_ms, measure
from experiments.records import write_json
from gi_jax.rendering import triton_call, triton_rasterizer


class Variant(NamedTuple):
    """What is different."""

    constants: dict[str, int]  # of triton_rasterizer
    compiler_options: dict[str, Any] | None = None  # of XLA
    typed_calls: bool = False  # see `_typed_calls`


_AS_IT_IS: Final = Variant({})

VARIANTS: Final = {
    "tile-8": Variant({"_TILE": 8}),
    "tile-32": Variant({"_TILE": 32}),
    "warps-2": Variant({"_WARPS": 2}),
    "warps-8": Variant({"_WARPS": 8}),
    "square-16": Variant({"SIDE": 16}),
    "strip-512": Variant({"_STRIP_PIXELS": 512}),
    "strip-8192": Variant({"_STRIP_PIXELS": 8192}),
    "block-128": Variant({"_BLOCK": 128}),
    "block-1024": Variant({"_BLOCK": 1024}),
    "keys-32": Variant({"_SHORT_KEYS": 0}),
    "no-graphs": Variant({}, {"xla_gpu_enable_command_buffer": ""}),
    "typed-calls": Variant({}, None, typed_calls=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    num_gaussians: str = setting("70000", help="numbers, by commas")
    height: int = setting(512, help="of the picture, pixels")
    width: int = setting(768, help="of the picture, pixels")
    variants: str = setting(",".join(VARIANTS), help="which, by commas")
    repeats: int = setting(9, help="runs of each measurement")
    output: str | None = setting(None, help="JSON file to write")

    def __post_init__(self) -> None:
        integers("num_gaussians", self.num_gaussians)
        choices("variants", self.variants, VARIANTS)
        check_least(self, height=1, width=1, repeats=1)


def run(config: Config) -> dict[str, Any]:
    """Measures everything, prints a table and writes it line by line.

    Raises:
      RuntimeError: where the kernels do not run.
    """
    reason = triton_call.why_unavailable()
    if reason:
        raise RuntimeError(f"the kernels do not run here: {reason}")
    names = choices("variants", config.variants, VARIANTS)
    order = ["as it is", *names, "as it is again"]
    counts = integers("num_gaussians", config.num_gaussians)
    rows: list[dict[str, Any]] = []
    report = {
        "config": dataclasses.asdict(config),
        **describe_machine(),
        "results": rows,
    }
    print(_columns("N", "variant", *_TASKS))
    bar = tqdm(
        total=len(counts) * len(order),
        unit="variant",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        for count in counts:
            base: dict[str, float] = {}
            for name in order:
                variant = VARIANTS.get(name, _AS_IT_IS)
                row: dict[str, Any] = {"num_gaussians": count, "variant": name}
                try:
                    row["milliseconds"] = _measure(variant, count, config)
                except Exception as error:  # Anything: the others are to be measured.
                    row["failed"] = f"{type(error).__name__}: {error}"
                base = base or row.get("milliseconds", {})
                rows.append(row)
                bar.write(_line(row, base))
                bar.update()
                if config.output:
                    write_json(config.output, report)
    return report


_TASKS: Final = "draw from lists", "render", "forward + backward", "fit step"


def _line(row: dict[str, Any], base: dict[str, float]) -> str:
    """Returns a line of the table: milliseconds, and how they differ."""
    if "failed" in row:
        return _columns(row["num_gaussians"], row["variant"]) + f"  {row['failed']:.99}"
    cells = []
    for name, value in row["milliseconds"].items():
        change = 100 * (value / base[name] - 1) if name in base else 0
        cells.append(f"{value:.4f} ({change:+.1f} %)")
    return _columns(row["num_gaussians"], row["variant"], *cells)


def _columns(number: Any, name: str, *cells: str) -> str:
    return f"{number:>7}  {name:<16}" + "".join(f"{cell:>21}" for cell in cells)


def _measure(variant: Variant, count: int, config: Config) -> dict[str, float]:
    """Returns milliseconds by task."""
    size = config.height, config.width
    found = {}
    with as_variant(variant):
        gaussians = jax.tree.map(lambda leaf: leaf[None], benchmark.scene(count, *size))
        for name, function, arguments in benchmark.tasks("triton", gaussians, size):
            calls = calls_of_20_ms(function, arguments)
            result = measure(
                function, arguments, config.repeats, calls, variant.compiler_options
            )
            found[name] = result["milliseconds"]
    return found


@contextlib.contextmanager
def as_variant(variant: Variant) -> Iterator[None]:
    """Lets everything be traced anew, with the constants of a variant."""
    jax.clear_caches()
    with contextlib.ExitStack() as stack:
        for name, value in variant.constants.items():
            stack.enter_context(mock.patch.object(triton_rasterizer, name, value))
        if variant.typed_calls:
            stack.enter_context(_typed_calls())
        yield
    jax.clear_caches()


def _typed_calls() -> Any:
    """Lets jax-triton 0.3 call kernels by the interface that 0.4 calls them by.

    XLA can put those calls into a CUDA graph.
    """
    lowering: Callable[..., Callable] = jax.ffi.ffi_lowering

    def typed(name: str, **options: Any) -> Callable:
        if name != "triton_kernel_call":
            return lowering(name, **options)
        opaque = options.pop("backend_config")
        options["api_version"] = 4
        rule = lowering(f"{name}_ffi", **options)
        return lambda context, *operands: rule(context, *operands, opaque=opaque)

    return mock.patch.object(jax.ffi, "ffi_lowering", typed)


def main(config: Config) -> None:
    """Measures what the flags say."""
    run(config)


if __name__ == "__main__":
    run_script(Config, main)
