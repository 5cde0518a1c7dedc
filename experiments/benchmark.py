r"""Times rendering and fitting.

    python -m experiments.benchmark --output=results/benchmark.json

Every figure is the median of several runs after a warm-up, with the quartiles beside
it; a run ends when its result is there. The scene is N Gaussians that just tile the
picture: means on a jittered grid, random orientations, axes up to 3 : 1.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, logging

import gi_jax as gi
from experiments.config import define_flags, from_flags, setting
from gi_jax.images import atomic_write


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    num_gaussians: str = setting("1000,10000,70000", help="numbers, by commas")
    height: int = setting(512, help="of the picture, pixels")
    width: int = setting(768, help="of the picture, pixels")
    repeats: int = setting(9, help="runs of each measurement")
    implementation: Literal["xla", "dense"] | None = setting(
        None, help="of rasterize; default: the best"
    )
    output: str | None = setting(None, help="JSON file to write")

    def __post_init__(self) -> None:
        for name in "height", "width", "repeats":
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.counts()

    def counts(self) -> list[int]:
        """Returns the numbers of Gaussians."""
        try:
            return [int(text) for text in self.num_gaussians.split(",")]
        except ValueError:
            raise ValueError(
                "num_gaussians: expected integers with commas between them, "
                f"got {self.num_gaussians!r}"
            ) from None


def scene(count: int, height: int, width: int) -> gi.Cholesky:
    """Returns Gaussians that just tile the picture, in random order."""
    rng = np.random.default_rng(0)
    spacing = np.sqrt(height * width / count)
    columns = int(np.ceil(width / spacing))
    rows = int(np.ceil(count / columns))
    number = np.arange(count)
    means = np.stack([number % columns, number // columns], axis=1) + 0.5
    means = means * [width / columns, height / rows]
    means += rng.normal(0, 0.35 * spacing, (count, 2))
    means = np.clip(means, 0.5, [width - 0.5, height - 0.5])
    sigma = spacing / rng.uniform(1.0, 1.3, count)
    ratio = np.sqrt(rng.uniform(1, 3, count))
    log_scales = np.log(np.stack([sigma * ratio, sigma / ratio], axis=1))
    colors = rng.normal(0.1, 0.25, (count, 3))
    fields = means, log_scales, rng.uniform(0, np.pi, count), colors
    order = rng.permutation(count)
    arrays = (jnp.asarray(field[order], jnp.float32) for field in fields)
    return gi.to_cholesky(gi.RotationScale(*arrays))


class count_compilations:
    """A context in which the programs that XLA compiles are counted."""

    def __enter__(self) -> "count_compilations":
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def _listen(self, event: str, duration_secs: float, **details: Any) -> None:
        self.count += "backend_compile" in event

    def __exit__(self, *error: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


def measure(run: Callable, arguments: tuple, repeats: int) -> dict[str, Any]:
    """Compiles and times a function.

    Returns:
      Milliseconds per run (median and quartiles), seconds to compile, bytes of memory
      beyond arguments and results, and compilations after the first call.
    """
    jitted = jax.jit(run)
    start = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    jax.block_until_ready(jitted(*arguments))
    times = []
    with count_compilations() as compilations:
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(jitted(*arguments))
            times.append(1e3 * (time.perf_counter() - start))
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return {
        "milliseconds": middle,
        "quartiles": [low, high],
        "compile_seconds": compile_seconds,
        "memory_bytes": memory.temp_size_in_bytes if memory else None,
        "recompilations": compilations.count,
    }


def run(config: Config) -> dict[str, Any]:
    """Measures everything and prints a table."""
    size = config.height, config.width
    target = jax.random.uniform(jax.random.key(0), (*size, 3))

    def render(gaussians):
        return gi.rasterize(gaussians, size, implementation=config.implementation)

    def forward_backward(gaussians):
        picture, transpose = jax.vjp(render, gaussians)
        return transpose(picture - target)

    fit_step = gi.make_fit_step(implementation=config.implementation)

    rows = []
    heads = "N", "what", "ms", "quartiles", "MB", "compile s", "recompiled"
    print("{:>7}  {:<20}{:>9}{:>20}{:>8}{:>11}{:>12}".format(*heads))
    for count in config.counts():
        gaussians = scene(count, *size)
        state = fit_step.init(gaussians, jax.random.key(0))
        for name, function, arguments in (
            ("render", render, (gaussians,)),
            ("forward + backward", forward_backward, (gaussians,)),
            ("fit step", fit_step, (state, target)),
        ):
            row = measure(function, arguments, config.repeats)
            rows.append({"num_gaussians": count, "what": name, **row})
            spread = "{:.1f} .. {:.1f}".format(*row["quartiles"])
            print(
                f"{count:>7}  {name:<20}{row['milliseconds']:>9.1f}{spread:>20}"
                f"{(row['memory_bytes'] or 0) / 1e6:>8.0f}"
                f"{row['compile_seconds']:>11.1f}{row['recompilations']:>12}",
                flush=True,
            )
    return {
        "config": dataclasses.asdict(config),
        "device": jax.devices()[0].device_kind,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("gi_jax", "jax")},
        },
        "results": rows,
    }


def main(argv: Sequence[str]) -> None:
    """Measures what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {' '.join(argv[1:])}")
    config = from_flags(Config)
    report = run(config)
    if config.output:
        path = Path(config.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, f"{json.dumps(report, indent=2)}\n".encode())


if __name__ == "__main__":
    define_flags(Config)
    # JAX informs about every backend that it does not find.
    app.call_after_init(lambda: logging.set_verbosity(logging.WARNING))
    app.run(main)
