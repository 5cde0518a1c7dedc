r"""Tables 3 and 4 of GaussianImage: what each part of the method gives.

    python -m experiments.ablations --images='data/kodak/*.png' \
        --workdir=results/ablations --table=representation
    python -m experiments.ablations --images='data/kodak/*.png' \
        --workdir=results/codings --table=compression

Rows differ from the first one in one thing each (variants.py); everything else is the
paper's recipe, with its numbers by default: 30,000 Gaussians and 50,000 steps, which is
for GPUs. A table at reduced size, with a rate for its fewer steps:

    --crop=128:256,256:448 --num_gaussians=1250 --steps=400 --learning_rate=0.01

For each picture a folder in the workdir, in it one for each row and number of Gaussians
with the picture, and a file in the second table; and, last, metrics.json. For all of
them summary.json, summary.md and ablations.png, with the difference to the first row,
ours and published. What is done is not done again on a rerun.

What the columns are: those of representation.py, but for
  fit: seconds without those that XLA compiled, tracing included; and
  BD-rate, BD-PSNR: Bjøntegaard's, of bytes at equal PSNR and of PSNR at equal bytes
    against the first row, means over the pictures; from two numbers of Gaussians on.
  bpp: bits of the file per pixel. Where colours are uniform the tables are left out
    that a step and an offset tell: that rate is estimated.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import jax
import numpy as np

import gi_jax as gi
from experiments import ablation_tables as tables
from experiments import fit, plots, runner
from experiments.config import check_least, choices, integers, setting
from experiments.measure import count_compilations, frames_per_second
from experiments.pictures import CROP_HELP, check_crop, load_crop
from experiments.records import write_json
from experiments.variants import (
    BASE,
    CODINGS,
    VARIANTS,
    quantizer,
    recipe,
    write_file,
)
from gi_jax.images import atomic_write, save_image

_ROWS: Final[dict[str, dict[str, Any]]] = {
    "representation": VARIANTS,
    "compression": CODINGS,
}

# What the paper has: 30,000 in table 3, those of its curves in table 4.
_NUM_GAUSSIANS: Final = {
    "representation": "30000",
    "compression": "800,1000,3000,5000,7000,9000",
}


@dataclasses.dataclass(frozen=True)
class Config(runner.Places):
    """What to compare, how, and where the results go."""

    table: Literal["representation", "compression"] = setting(
        "representation", help="table 3 or table 4 of the paper"
    )
    rows: str | None = setting(
        None,
        help=f"some rows, by commas: {','.join(VARIANTS)}; or {','.join(CODINGS)}; "
        "default: all of the table",
    )
    num_gaussians: str | None = setting(
        None, help="Gaussians per picture, by commas; default: the paper's"
    )
    steps: int = setting(50_000, help="steps of the fits")
    fine_tuning_steps: int = setting(
        25_000, help="steps with quantization, of the second table"
    )
    learning_rate: float = setting(1e-3, help="of the fits at their start")
    repeats: int = setting(20, help="frames that are timed")
    seed: int = setting(0, help="of everything random")
    crop: str | None = setting(None, help=CROP_HELP)

    def __post_init__(self) -> None:
        self.points()
        check_crop(self.crop)
        check_least(self, steps=1, fine_tuning_steps=1, repeats=1, seed=0)
        if not 0 < self.learning_rate < np.inf:
            raise ValueError(
                f"learning_rate: expected a number over 0, got {self.learning_rate}"
            )

    def points(self) -> list[tuple[str, int]]:
        """Returns what is done with each picture: row and number of Gaussians."""
        known = _ROWS[self.table]
        rows = [*known] if self.rows is None else choices("rows", self.rows, known)
        counts = self.num_gaussians or _NUM_GAUSSIANS[self.table]
        return [*itertools.product(rows, integers("num_gaussians", counts))]


def run_picture(path: Path, folder: Path, config: Config) -> dict[str, Any]:
    """Does all rows for one picture; or reads what came of it, where it is finished.

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
    lists = "rows", "num_gaussians"
    common = {key: value for key, value in settings.items() if key not in lists}

    def part(name: str, count: int, compute: Callable) -> dict[str, Any]:
        place = folder / f"{name}-{count}"
        point = {"row": name, "num_gaussians": count}
        decisive = common | point
        if compute is _fit:  # What follows it may change without another fit.
            decisive.pop("fine_tuning_steps")
        compute = functools.partial(compute, place, path.stem, image, config, **point)
        return point | runner.part(place / "row.json", decisive, compute)

    points = []
    for row, count in config.points():
        if config.table == "compression":
            part("fit", count, _fit)  # All rows begin with the same one.
        compute = _fit if config.table == "representation" else _compress
        points.append(part(row, count, compute))
    return runner.write_finished(folder, path, settings, {"points": points})


def _fit(
    folder: Path,
    name: str,
    image: np.ndarray,
    config: Config,
    *,
    row: str,
    num_gaussians: int,
) -> dict[str, Any]:
    """Fits a variant, writes the files of the fit, and returns its figures."""
    variant = VARIANTS.get(row, VARIANTS[BASE])
    way = recipe(
        row if row in VARIANTS else BASE,
        num_gaussians,
        config.steps,
        config.learning_rate,
    )
    with count_compilations() as compilations:
        fitted = gi.fit(
            image,
            num_gaussians,
            config.steps,
            recipe=way,
            loss=variant.loss,
            seed=config.seed,
            progress=sys.stderr.isatty(),
        )
    values = fit.write_fit(folder, name, image, fitted, variant.render)
    return values | {
        "fit_seconds": fitted.seconds - compilations.seconds,
        "frames_per_second": frames_per_second(
            variant.render, fitted.gaussians, image.shape[:2], config.repeats
        ),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(fitted.gaussians)),
    }


def _compress(
    folder: Path,
    name: str,
    image: np.ndarray,
    config: Config,
    *,
    row: str,
    num_gaussians: int,
) -> dict[str, Any]:
    """Fine-tunes with a quantizer from the fit beside, writes a file, measures it."""
    del name
    with np.load(folder.parent / f"fit-{num_gaussians}" / "gaussians.npz") as arrays:
        fitted = gi.Cholesky(**arrays)
    size = image.shape[:2]
    tuned = gi.fit(
        image,
        initial=gi.canonical(fitted),
        steps=config.fine_tuning_steps,
        recipe=gi.fine_tuning(config.fine_tuning_steps),
        quantizer=quantizer(row, size, image.shape[2]),
        seed=config.seed,
        progress=sys.stderr.isatty(),
    )
    assert isinstance(tuned.gaussians, gi.Cholesky)
    data, redundant = write_file(row, tuned.gaussians, tuned.quantizer, size)
    picture = gi.decode(data)
    atomic_write(folder / "picture.gi", data)
    save_image(folder / "picture.png", picture)
    decoded = picture.astype(np.float32) / 255
    psnr = float(gi.psnr(decoded, image))
    return {
        "psnr": psnr if np.isfinite(psnr) else None,
        "ms_ssim": float(gi.ms_ssim(decoded, image)),
        "file_bytes": len(data),
        "bytes": len(data) - redundant,
        "bpp": 8 * (len(data) - redundant) / (size[0] * size[1]),
        "rate_is": "estimated" if redundant else "file",
        "seconds": tuned.seconds,
    }


def summarize(results: list[dict[str, Any]], config: Config, workdir: Path) -> str:
    """Writes summary.json, summary.md and ablations.png.

    Returns:
      The table, in Markdown.
    """
    known = _ROWS[config.table]
    rows = tables.mean_rows(results, known)
    published = {row: known[row].published for row in known}
    summary = {"config": dataclasses.asdict(config), "rows": rows}
    summary |= {"published": published}
    if config.table == "compression":
        deltas = tables.deltas(results)
        summary |= {"bjontegaard": deltas}
        text = tables.codings_text(rows, deltas)
        figure = tables.codings_plot(rows)
    else:
        text = tables.variants_text(rows)
        figure = tables.variants_plot(rows)
    write_json(workdir / "summary.json", summary)
    atomic_write(workdir / "summary.md", text.encode())
    atomic_write(workdir / "ablations.png", plots.png(figure))
    return text


EXPERIMENT: Final = runner.Experiment(Config, run_picture, summarize)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
