r"""Times rendering, gradients, steps of a fit and decoding.

    python -m experiments.benchmark --output=results/benchmark.json

Every figure is the median of several runs after a warm-up, with the quartiles beside
it; a run ends when its result is there. The scene is N Gaussians that just tile the
picture: means on a jittered grid, random orientations, axes up to 3 : 1.

On a GPU that is known here, a *floor* stands beside the times of the Triton kernels:
what pairs of pixel and Gaussian take at the instructions of the kernels' inner loops
(`python -m experiments.kernels`), or what the pictures take at the rate of the memory,
whichever is more.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gi_jax as gi
from experiments.config import check_least, integers, run_script, setting
from experiments.machine import describe_machine
from experiments.measure import calls_of_20_ms, measure, time_runs
from experiments.records import write_json
from gi_jax.gaussians import RADIUS
from gi_jax.rendering import tiles, triton_call, triton_rasterizer
from gi_jax.rendering.rasterize import Implementation

# What a GPU does in a second: instructions of one warp at boost clock, four for each
# multiprocessor and cycle, and bytes of memory. From the makers' data sheets.
_RATES: Final = {
    "NVIDIA A100": (108 * 4 * 1.41e9, 2.04e12),
    "NVIDIA GeForce RTX 4090": (128 * 4 * 2.52e9, 1.0e12),
    "NVIDIA H100": (132 * 4 * 1.98e9, 3.35e12),
    "NVIDIA H200": (132 * 4 * 1.98e9, 4.8e12),
}

# Instructions of the inner loops for a pixel and a Gaussian, on sm_90.
_FORWARD_INSTRUCTIONS: Final = 12.6
_BACKWARD_INSTRUCTIONS: Final = 28.0

_WARP_SIZE: Final = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    num_gaussians: str = setting("1000,10000,70000", help="numbers, by commas")
    sizes: str | None = setting(
        None,
        help="widths and heights in pixels, by commas; default: 768x512, on a GPU "
        "1020x678 and 3840x2160 too",
    )
    batches: str | None = setting(
        None, help="pictures at once, by commas; default: 1, on a GPU 16 too"
    )
    implementations: str | None = setting(
        None, help="of rasterize, by commas; default: all by tiles that run here"
    )
    repeats: int = setting(9, help="runs of each measurement")
    calls: int | None = setting(
        None, help="calls in a run; default: 1, on a GPU as many as take about 20 ms"
    )
    output: str | None = setting(None, help="JSON file to write")

    def __post_init__(self) -> None:
        check_least(self, repeats=1, calls=1)
        integers("num_gaussians", self.num_gaussians)
        self.image_sizes(False)
        self.batch_sizes(False)

    def counts(self) -> list[int]:
        """Returns the numbers of Gaussians."""
        return integers("num_gaussians", self.num_gaussians)

    def image_sizes(self, on_gpu: bool) -> list[tuple[int, int]]:
        """Returns the sizes of the pictures, H, W."""
        default = "768x512,1020x678,3840x2160" if on_gpu else "768x512"
        sizes = (self.sizes or default).split(",")
        found = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size) for size in sizes]
        if not all(found):
            raise ValueError(f"sizes: expected WIDTHxHEIGHT, got {self.sizes!r}")
        return [(int(size[2]), int(size[1])) for size in found if size]

    def batch_sizes(self, on_gpu: bool) -> list[int]:
        """Returns the numbers of pictures at once."""
        return integers("batches", self.batches or ("1,16" if on_gpu else "1"))


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


class Pairs(NamedTuple):
    """Pairs of pixel and Gaussian of one picture."""

    support: int  # where the weight is not 0
    tiles: int  # in tiles that the support touches: what is drawn
    boxes: int  # in squares that cover the boxes: what the gradient walks


def count_pairs(gaussians: gi.Cholesky, image_size: tuple[int, int]) -> Pairs:
    """Counts what a rendering and its gradient look at."""
    means, factor, _ = gaussians
    height, width = image_size
    grid = tiles.make_grid(len(means), image_size)
    boxes = tiles.find_boxes(grid, means, factor)
    grid = grid._replace(capacity=max(int(boxes.total), 1))
    blocks = tiles.make_blocks(grid, boxes, means, factor, jnp.int32(0))
    touched = int(jnp.sum(blocks.ids < len(means)))
    x0, y0, x1, y1 = triton_rasterizer.find_boxes(
        triton_rasterizer.Grid(height, width, 1), means, factor
    )
    side = triton_rasterizer.SIDE
    squares = -((x0 - x1) // side) * -((y0 - y1) // side)
    walked = side**2 * np.sum(np.asarray(squares, np.int64))
    area = np.pi * RADIUS**2 * np.abs(factor[:, 0] * factor[:, 2])
    return Pairs(int(area.sum()), touched * tiles.TILE**2, int(walked))


def tasks(
    implementation: Implementation, gaussians: gi.Cholesky, size: tuple[int, int]
) -> Iterator[tuple[str, Callable, tuple]]:
    """Yields names, functions and arguments; of a batch, [B, N, ...] Gaussians."""
    target = jax.random.uniform(jax.random.key(0), (*size, 3))
    fit_step = gi.make_fit_step(implementation=implementation)
    batch = len(gaussians.means)

    def render(gaussians):
        return gi.rasterize(gaussians, size, implementation=implementation)

    def forward_backward(gaussians):
        picture, transpose = jax.vjp(render, gaussians)
        return transpose(picture - target)

    def step(state):
        return fit_step(state, target)

    if implementation == "triton":
        yield "draw from lists", *_drawing(gaussians, size)
    yield "render", jax.vmap(render), (gaussians,)
    yield "forward + backward", jax.vmap(forward_backward), (gaussians,)
    keys = jax.random.split(jax.random.key(0), batch)
    yield "fit step", jax.vmap(step), (jax.vmap(fit_step.init)(gaussians, keys),)


def _drawing(gaussians, size):
    """Returns the kernel that draws, and what it draws from, lists included."""
    batch, count, channels = gaussians.colors.shape
    capacity = triton_rasterizer.default_capacity(count, size)
    grid = triton_rasterizer.Grid(size[0], size[1], capacity)
    records = triton_rasterizer.pack_records(*gaussians)
    boxes = triton_rasterizer.find_boxes(grid, *gaussians[:2])
    lists = jax.jit(triton_rasterizer.list_tiles, static_argnums=(0, 1))
    arguments = records, lists(grid, batch, records, boxes)
    draw = functools.partial(triton_rasterizer.draw, grid, batch, channels)
    return draw, arguments


def floor_milliseconds(
    name: str, pairs: Pairs, batch: int, size: tuple[int, int]
) -> float | None:
    """Returns the least time of the kernels that look at pixels, where it is known."""
    device = jax.devices()[0].device_kind
    rates = [rate for start, rate in _RATES.items() if device.startswith(start)]
    if not rates:
        return None
    instructions = pairs.tiles * _FORWARD_INSTRUCTIONS
    images = 1
    if name in ("forward + backward", "fit step"):
        instructions += pairs.boxes * _BACKWARD_INSTRUCTIONS
        images = 3  # Written, subtracted from, read.
    bytes_moved = images * 12 * size[0] * size[1]
    instruction_rate, byte_rate = rates[0]
    seconds = max(instructions / _WARP_SIZE / instruction_rate, bytes_moved / byte_rate)
    return 1e3 * batch * seconds


def measure_decoding(
    gaussians: gi.Cholesky, size: tuple[int, int], repeats: int
) -> dict[str, Any]:
    """Times decoding a file of the paper's codec to 8-bit pixels."""
    quantizer = gi.paper_quantizer(size)
    params, state = jax.jit(quantizer.init)(jax.random.key(0), gaussians)
    data = gi.write_gaussians(gaussians, params, state, size)
    return time_runs(lambda: gi.decode(data), repeats) | {"bytes": len(data)}


def run(config: Config) -> dict[str, Any]:
    """Measures everything, prints a table and writes it line by line."""
    on_gpu = jax.default_backend() == "gpu"
    rows: list[dict[str, Any]] = []
    report = {
        "config": dataclasses.asdict(config),
        **describe_machine(),
        "results": rows,
    }
    heads = "B size N what by ms quartiles floor per_s MB compile_s recompiled"
    print(_LINE.format(*heads.split()))

    def add(name, implementation, batch, size, count, result, floor=None):
        row = {"batch": batch, "height": size[0], "width": size[1]}
        row |= {"num_gaussians": count, "what": name, "implementation": implementation}
        row |= {"floor_milliseconds": floor, **result}
        row["per_second"] = 1e3 * batch / row["milliseconds"]
        rows.append(row)
        print(_line(row), flush=True)
        if config.output:
            write_json(config.output, report)

    for size, count in itertools.product(config.image_sizes(on_gpu), config.counts()):
        gaussians = scene(count, *size)
        pairs = count_pairs(gaussians, size)
        result = measure_decoding(gaussians, size, config.repeats)
        add("decode a file", None, 1, size, count, result)
        for batch, name in itertools.product(
            config.batch_sizes(on_gpu), _implementations(config)
        ):
            if batch > 1 and name == "xla" and on_gpu and not config.implementations:
                continue  # One picture after the other: it takes minutes.
            many = jax.tree.map(lambda x, b=batch: jnp.stack([x] * b), gaussians)
            for what, function, arguments in tasks(name, many, size):
                calls = config.calls or (
                    calls_of_20_ms(function, arguments) if on_gpu else 1
                )
                result = measure(function, arguments, config.repeats, calls)
                floor = (
                    floor_milliseconds(what, pairs, batch, size)
                    if name == "triton"
                    else None
                )
                result |= {"calls": calls, "pairs": pairs._asdict()}
                add(what, name, batch, size, count, result, floor)
    return report


_LINE: Final = "{:>3}{:>11}{:>7}  {:<19}{:<7}{:>9}{:>18}{:>8}{:>10}{:>6}{:>10}{:>11}"


def _line(row: dict[str, Any]) -> str:
    memory, floor = row.get("memory_bytes"), row["floor_milliseconds"]
    compiled = row.get("compile_seconds")
    return _LINE.format(
        row["batch"],
        f"{row['width']}x{row['height']}",
        row["num_gaussians"],
        row["what"],
        row["implementation"] or "",
        f"{row['milliseconds']:.4g}",
        "{:.4g} .. {:.4g}".format(*row["quartiles"]),
        "" if floor is None else f"{floor:.3g}",
        f"{row['per_second']:.4g}",
        "" if memory is None else f"{memory / 1e6:.0f}",
        "" if compiled is None else f"{compiled:.1f}",
        row.get("recompilations", ""),
    )


def _implementations(config: Config) -> list[Implementation]:
    if config.implementations:
        return config.implementations.split(",")  # type: ignore[return-value]
    return ["xla"] if triton_call.why_unavailable() else ["triton", "xla"]


def main(config: Config) -> None:
    """Measures what the flags say."""
    run(config)


if __name__ == "__main__":
    run_script(Config, main)
