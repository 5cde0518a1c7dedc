r"""Table 1 of GaussianImage: how well and how fast Gaussians represent pictures.

    python -m experiments.representation --images='data/kodak/*.png' \
        --workdir=results/representation --num_gaussians=3000,10000 --presets=fast,paper

For each picture a folder in the workdir, in it one for each preset, number of Gaussians
and budget of steps, with gaussians.npz, picture.png, convergence.png and fit.json; and,
last, metrics.json. For all of them summary.json, summary.md and psnr.png (PSNR against
number and against seconds), beside the paper's figures, which are labelled published.
What is done is not done again on a rerun; a fit that was killed starts anew, so that
its seconds are those of a whole fit.

What the columns are:
  PSNR and MS-SSIM: of the picture rounded to 8 bits; means over the pictures.
  fit: seconds from the picture to Gaussians, less those of compiling.
  compiling: XLA's seconds of the fit beside these, 0 for the second picture of a size,
    and with --warm_up for the first one too.
  FPS: 1 / the median seconds from parameters to picture, after a warm-up; a frame ends
    when it is there.
  memory: the device's peak during the fit, where JAX reports one and it was reached in
    this fit, mean over the pictures of which it is known; else (*XLA*) what XLA allots
    to one rendering with its gradient, data included.
  parameters: numbers that are fitted.
"""

import dataclasses
import functools
import itertools
import sys
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

import gi_jax as gi
from experiments import fit, plots, runner
from experiments.config import check_least, choices, integers, setting
from experiments.markdown import fixed, mebibytes, significant, table
from experiments.measure import (
    allotted_bytes,
    count_compilations,
    frames_per_second,
    peak_memory,
)
from experiments.optional import optional
from experiments.pictures import CROP_HELP, check_crop, load_crop
from experiments.rate_distortion import mean
from experiments.records import write_json
from gi_jax.images import atomic_write
from gi_jax.metrics import mse

ticker = optional("matplotlib.ticker")

# GaussianImage on Kodak, mean of 24 pictures: arXiv:2403.08551, table 1 (a).
PUBLISHED: Final[dict[str, Any]] = {
    "method": "paper, published (V100)",
    "num_gaussians": 70_000,
    "steps": 50_000,
    "pictures": 24,
    "psnr": 44.08,
    "ms_ssim": 0.9985,
    "seconds": 106.59,
    "frames_per_second": 2092.17,
    "memory_bytes": 419 * 2**20,
    "parameters": 560_000,
}

# What a row is a mean of.
_QUANTITIES: Final = (
    "psnr",
    "ms_ssim",
    "seconds",
    "compile_seconds",
    "frames_per_second",
    "parameters",
)


@dataclasses.dataclass(frozen=True)
class Config(runner.Places):
    """What to fit, how, and where the results go."""

    num_gaussians: str = setting("70000", help="Gaussians per picture, by commas")
    presets: str = setting("fast", help="recipes, by commas: fast, paper")
    steps: str = setting("500", help="budgets of the fits in steps, by commas")
    repeats: int = setting(20, help="frames that are timed")
    seed: int = setting(0, help="of everything random")
    crop: str | None = setting(None, help=CROP_HELP)
    warm_up: bool = setting(
        False, help="make each fit once before the one that is measured"
    )

    def __post_init__(self) -> None:
        self.points()
        check_crop(self.crop)
        check_least(self, repeats=1, seed=0)

    def points(self) -> list[dict[str, Any]]:
        """Returns what is fitted to each picture: preset, num_gaussians, steps."""
        # Small fits first: the peak of memory of each is above that before it.
        counts = sorted(integers("num_gaussians", self.num_gaussians))
        presets = choices("presets", self.presets, ("fast", "paper"))
        steps = integers("steps", self.steps)
        names = "num_gaussians", "preset", "steps"
        values = itertools.product(counts, presets, steps)
        return [dict(zip(names, point)) for point in values]


def run_picture(path: Path, folder: Path, config: Config) -> dict[str, Any]:
    """Fits one picture and measures; or reads what came of it, where it is finished.

    Args:
      path: the picture file.
      folder: made if it does not exist; metrics.json is written last.
      config: `images` and `workdir` are not looked at.

    Returns:
      The content of metrics.json; 'points' is a list of dicts.
    """
    image = load_crop(path, config.crop)
    settings = runner.settings_of(config, image)
    finished = runner.read_finished(folder, settings)
    if finished:
        return finished
    lists = "num_gaussians", "presets", "steps"
    common = {key: value for key, value in settings.items() if key not in lists}
    points = []
    for point in config.points():
        place = folder / f"{point['preset']}-{point['num_gaussians']}-{point['steps']}"
        compute = functools.partial(_measure_fit, place, path.stem, image, config)
        compute = functools.partial(compute, **point)
        points.append(runner.part(place / "fit.json", common | point, compute))
    return runner.write_finished(folder, path, settings, {"points": points})


def _measure_fit(
    folder: Path,
    name: str,
    image: np.ndarray,
    config: Config,
    *,
    preset: Any,
    num_gaussians: int,
    steps: int,
) -> dict[str, Any]:
    """Fits Gaussians, writes the files of the fit, and returns its figures."""
    make_fit = functools.partial(
        gi.fit,
        image,
        num_gaussians,
        steps,
        preset=preset,
        seed=config.seed,
        progress=sys.stderr.isatty(),
    )
    with peak_memory() as peak, count_compilations() as compilations:
        fitted = make_fit()
    if config.warm_up:
        with count_compilations() as compilations:
            fitted = make_fit()
    values = fit.write_fit(folder, name, image, fitted)
    size = image.shape[:2]
    speed = frames_per_second(gi.rasterize, fitted.gaussians, size, config.repeats)
    memory = peak.bytes
    if memory is None:
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), fitted.gaussians
        )
        memory = _gradient_bytes(shapes, image.shape)
    return values | {
        "preset": preset,
        "num_gaussians": num_gaussians,
        "steps": steps,
        "compile_seconds": compilations.seconds,
        "frames_per_second": speed,
        "memory_bytes": memory,
        "memory_is": "XLA" if peak.bytes is None else "device",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(fitted.gaussians)),
    }


@functools.cache
def _gradient_bytes(gaussians: Any, image_shape: tuple[int, ...]) -> int | None:
    """Returns the memory of one rendering with its gradient, of arrays' shapes."""

    def loss(gaussians, image):
        return mse(gi.rasterize(gaussians, image.shape[:2]), image)

    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    return allotted_bytes(jax.value_and_grad(loss), gaussians, image)


def summarize(results: list[dict[str, Any]], config: Config, workdir: Path) -> str:
    """Writes summary.json, summary.md and psnr.png.

    Returns:
      The table, in Markdown.
    """
    keys = "preset", "num_gaussians", "steps"
    points = [point for result in results for point in result["points"]]
    kinds = sorted({tuple(point[key] for key in keys) for point in points})
    rows = [_mean_row(dict(zip(keys, kind)), points) for kind in kinds]
    summary = {
        "config": dataclasses.asdict(config),
        "rows": rows,
        "published": PUBLISHED,
        "pictures": [
            {"picture": result["picture"], "points": result["points"]}
            for result in results
        ],
    }
    lines = [_line(row) for row in [*rows, PUBLISHED]]
    columns = ["method", "Gaussians", "steps", "pictures", "PSNR, dB", "MS-SSIM"]
    columns += ["fit, s", "compiling, s", "FPS", "memory, MiB", "parameters, K"]
    devices = sorted({result["device"] for result in results})
    text = table(columns, lines) + f"\nMeans over pictures; {', '.join(devices)}.\n"
    write_json(workdir / "summary.json", summary)
    atomic_write(workdir / "summary.md", text.encode())
    atomic_write(workdir / "psnr.png", plots.png(_plot(rows)))
    return text


def _mean_row(kind: dict[str, Any], points: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the means over the pictures of what was fitted in one way."""
    of_pictures = [
        point
        for point in points
        if all(point[key] == value for key, value in kind.items())
    ]
    # Peaks of a device and what XLA allots are two things: no mean is of both.
    known = {found["memory_is"] for found in of_pictures}
    memory_is = "device" if "device" in known else "XLA"
    memories = [p["memory_bytes"] for p in of_pictures if p["memory_is"] == memory_is]
    return {
        "method": kind["preset"],
        **kind,
        "pictures": len(of_pictures),
        **{key: mean(found[key] for found in of_pictures) for key in _QUANTITIES},
        "memory_bytes": mean(memories),
        "memory_is": memory_is,
    }


def _fit_seconds(row: dict[str, Any]) -> float:
    """Returns the seconds of a fit without those that compiling took."""
    return row["seconds"] - (row.get("compile_seconds") or 0)


def _line(row: dict[str, Any]) -> list[str | None]:
    memory = mebibytes(row["memory_bytes"])
    if row.get("memory_is"):
        memory = f"{memory} ({row['memory_is']})"
    return [
        row["method"],
        fixed(row["num_gaussians"], 0),
        fixed(row["steps"], 0),
        fixed(row["pictures"], 0),
        fixed(row["psnr"], 2),
        fixed(row["ms_ssim"], 4),
        significant(_fit_seconds(row)),
        fixed(row.get("compile_seconds"), 1),
        fixed(row["frames_per_second"], 1),
        memory,
        fixed(row["parameters"] / 1e3, 1),
    ]


def _plot(rows: list[dict[str, Any]]) -> plots.Figure:
    """Returns PSNR against the number of Gaussians, and against seconds."""
    figure, (by_number, by_seconds) = plots.new_figure(1, 2, size=(5.5, 4.5))
    rows = [row for row in rows if row["psnr"] is not None]
    _draw_curves(by_number, rows, "steps", "num_gaussians", "{:,} steps")
    _draw_curves(by_seconds, rows, "num_gaussians", "seconds", "{:,} Gaussians")
    for axes, key, label in (
        (by_number, "num_gaussians", "Gaussians"),
        (by_seconds, "seconds", "seconds of the fit, compiling included"),
    ):
        axes.plot(
            PUBLISHED[key], PUBLISHED["psnr"], "*", color="black", label="published"
        )
        axes.set(xlabel=label, ylabel="PSNR, dB", xscale="log")
        # A label at 1 and 3 of each decade, where those of all lines would overlap.
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def _draw_curves(
    axes: Any, rows: list[dict[str, Any]], each: str, along: str, label: str
) -> None:
    """Draws PSNR along one column, a curve for each preset and value of another."""
    for preset, value in dict.fromkeys((row["preset"], row[each]) for row in rows):
        curve = [row for row in rows if (row["preset"], row[each]) == (preset, value)]
        x, psnr = [row[along] for row in curve], [row["psnr"] for row in curve]
        axes.plot(x, psnr, marker="o", label=f"{preset}, {label.format(value)}")


EXPERIMENT: Final = runner.Experiment(Config, run_picture, summarize)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
