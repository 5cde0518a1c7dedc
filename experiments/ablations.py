r"""Tables 3 and 4 of GaussianImage: what each part of the method gives.

    python -m experiments.ablations --images='data/kodak/*.png' \
        --workdir=results/ablations --table=representation
    python -m experiments.ablations --images='data/kodak/*.png' \
        --workdir=results/codings --table=compression

Rows differ from the first one in one thing each (variants.py); everything else is the
paper's recipe, with its numbers by default: 30,000 Gaussians and 50,000 steps, which is
for GPUs. A table at reduced size, with a rate for its fewer steps:

    --crop=128:320,256:512 --num_gaussians=1250 --steps=500 --learning_rate=0.01

For each picture a folder in the workdir, in it one for each row and number of Gaussians
with the picture, and a file in the second table; and, last, metrics.json. For all of
them summary.json, summary.md and ablations.png, with the difference to the first row,
ours and published. What is done is not done again on a rerun.

What the columns are: those of representation.py, and
  BD-rate, BD-PSNR: Bjøntegaard's, of bytes at equal PSNR and of PSNR at equal bytes
    against the first row, means over the pictures; from two numbers of Gaussians on.
  bpp: bits of the file per pixel. Where colours are uniform the tables are left out
    that a step and an offset tell: that rate is estimated.
"""

import dataclasses
import functools
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal

import bjontegaard
import jax
import matplotlib.figure
import numpy as np

import gi_jax as gi
from experiments import fit, runner
from experiments.config import choices, integers, setting
from experiments.measure import count_compilations, frames_per_second
from experiments.pictures import CROP_HELP, check_crop, load_crop
from experiments.records import number, table, write_json, write_plot
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
class Config:
    """What to compare, how, and where the results go."""

    images: str = setting(help="pattern of picture files; ** crosses folders")
    workdir: str = setting(help="folder for the results, made if it does not exist")
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
        for name in "steps", "fine_tuning_steps", "repeats":
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {self.steps}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected above 0: {self.learning_rate}")

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
        place.mkdir(parents=True, exist_ok=True)
        point = {"row": name, "num_gaussians": count}
        compute = functools.partial(compute, place, path.stem, image, config, **point)
        return point | runner.part(place / "row.json", common | point, compute)

    points = []
    for row, count in config.points():
        if config.table == "compression":
            part("fit", count, _fit)  # All rows begin with the same one.
        compute = _fit if config.table == "representation" else _compress
        points.append(part(row, count, compute))
    return runner.write_finished(folder, path.stem, settings, {"points": points})


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
        "compile_seconds": compilations.seconds,
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
        quantizer=quantizer(row, size),
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
    compression = config.table == "compression"
    known = _ROWS[config.table]
    points = [point for result in results for point in result["points"]]
    kinds = {(point["row"], point["num_gaussians"]) for point in points}
    order = sorted(kinds, key=lambda kind: ([*known].index(kind[0]), kind[1]))
    rows = [_mean_row(row, count, points) for row, count in order]
    for row in rows:
        row["label"] = known[row["row"]].label
        bases = [r for r in rows if r["row"] == BASE]
        same = [r for r in bases if r["num_gaussians"] == row["num_gaussians"]]
        row["difference"] = _minus(row["psnr"], same[0]["psnr"] if same else None)
    names = dict.fromkeys(row["row"] for row in rows)
    deltas = {name: _deltas(name, results) for name in names} if compression else {}
    published = {name: known[name].published for name in names}
    summary = {"config": dataclasses.asdict(config), "rows": rows}
    summary |= {"bjontegaard": deltas, "published": published}
    text = _codings_text(rows, deltas) if compression else _variants_text(rows)
    devices = sorted({result["device"] for result in results})
    text += (
        f"\nMeans over pictures; {', '.join(devices)}; differences to the first row. "
    )
    text += "Published: Kodak, 24 pictures, V100, the paper's numbers and steps.\n"
    write_json(workdir / "summary.json", summary)
    atomic_write(workdir / "summary.md", text.encode())
    plot = _plot_rates if compression else _plot_differences
    write_plot(workdir / "ablations.png", plot(rows))
    return text


def _mean_row(row: str, count: int, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the means over the pictures of one row and number of Gaussians."""
    found = [p for p in points if (p["row"], p["num_gaussians"]) == (row, count)]
    quantities = [key for key, value in found[0].items() if not isinstance(value, str)]
    return {
        "row": row,
        "pictures": len(found),
        **{key: _mean(point[key] for point in found) for key in quantities},
        "num_gaussians": count,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [*values]
    return None if None in known else float(np.mean(known))  # type: ignore[arg-type]


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _deltas(name: str, results: list[dict[str, Any]]) -> dict[str, float | None]:
    """Returns mean BD-PSNR in dB and BD-rate in percent against the first row."""
    values: dict[str, list[float | None]] = {"bd_psnr": [], "bd_rate": []}
    for result in results:
        base, other = (
            sorted(
                (point["bpp"], point["psnr"])
                for point in result["points"]
                if point["row"] == row
            )
            for row in (BASE, name)
        )
        for key, found in values.items():
            found.append(_delta(getattr(bjontegaard, key), base, other))
    return {key: _mean(found) for key, found in values.items()}


def _delta(
    function: Callable[..., float],
    base: list[tuple[float, float]],
    other: list[tuple[float, float]],
) -> float | None:
    """Returns a Bjøntegaard delta of two curves (bpp, psnr), None where it is none."""
    if min(len(base), len(other)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Curves that do not span the same range.
        value = function(
            *np.transpose(base),
            *np.transpose(other),
            method="akima" if min(len(base), len(other)) > 2 else "pchip",
            require_matching_points=False,
            min_overlap=0,
        )
    return float(value) if np.isfinite(value) else None


def _variants_text(rows: list[dict[str, Any]]) -> str:
    columns = ["variant", "Gaussians", "pictures", "PSNR, dB", "difference", "MS-SSIM"]
    columns += ["fit, s", "FPS", "parameters, K"]
    columns += [f"published {name}" for name in ("PSNR, dB", "difference", "MS-SSIM")]
    columns += [f"published {name}" for name in ("fit, s", "FPS", "parameters, K")]
    base = VARIANTS[BASE].published["psnr"]
    lines = []
    for row in rows:
        theirs = VARIANTS[row["row"]].published
        theirs = theirs | {"difference": theirs["psnr"] - base}
        lines.append([row["label"], f"{row['num_gaussians']:,}", f"{row['pictures']}"])
        for values in row, theirs:
            lines[-1] += [
                number(values["psnr"], ".2f"),
                number(values["difference"], "+.2f"),
                number(values["ms_ssim"], ".4f"),
                number(values["seconds"], ".1f"),
                number(values["frames_per_second"], ".0f"),
                number(values["parameters"] / 1e3, ".4g"),
            ]
    return table(columns, lines)


def _codings_text(
    rows: list[dict[str, Any]], deltas: dict[str, dict[str, float | None]]
) -> str:
    columns = ["variant", "BD-PSNR, dB", "BD-rate, %"]
    columns += ["published BD-PSNR, dB", "published BD-rate, %"]
    lines = []
    for name, ours in deltas.items():
        lines.append([CODINGS[name].label])
        for values in ours, CODINGS[name].published:
            lines[-1] += [number(values["bd_psnr"], "+.2f")]
            lines[-1] += [number(values["bd_rate"], "+.1f")]
    text = table(columns, lines)
    columns = ["variant", "Gaussians", "pictures", "bpp", "bits per Gaussian"]
    columns += ["PSNR, dB", "difference", "MS-SSIM"]
    lines = [
        [
            row["label"],
            f"{row['num_gaussians']:,}",
            f"{row['pictures']}",
            f"{row['bpp']:.3f}",
            f"{8 * row['bytes'] / row['num_gaussians']:.1f}",
            number(row["psnr"], ".2f"),
            number(row["difference"], "+.2f"),
            number(row["ms_ssim"], ".4f"),
        ]
        for row in rows
    ]
    return text + "\n" + table(columns, lines)


def _plot_differences(rows: list[dict[str, Any]]) -> matplotlib.figure.Figure:
    """Returns bars: difference of PSNR to the first row, ours and published."""
    rows = [row for row in rows if row["row"] != BASE and row["difference"] is not None]
    figure = matplotlib.figure.Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(rows))
    base = VARIANTS[BASE].published["psnr"]
    theirs = [VARIANTS[row["row"]].published["psnr"] - base for row in rows]
    axes.barh(place - 0.2, [row["difference"] for row in rows], 0.4, label="ours")
    axes.barh(place + 0.2, theirs, 0.4, color="0.7", label="published")
    labels = [f"{row['label']}, {row['num_gaussians']:,}" for row in rows]
    axes.set_yticks(place, labels)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel=f"PSNR, dB, less that of {VARIANTS[BASE].label}")
    axes.grid(alpha=0.3, axis="x")
    axes.legend()
    return figure


def _plot_rates(rows: list[dict[str, Any]]) -> matplotlib.figure.Figure:
    """Returns curves: PSNR against bits per pixel, means over the pictures."""
    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["row"] for row in rows):
        curve = [row for row in rows if row["row"] == name and row["psnr"] is not None]
        rates = [row["bpp"] for row in curve]
        psnr = [row["psnr"] for row in curve]
        axes.plot(rates, psnr, marker="o", label=CODINGS[name].label)
    axes.set(xlabel="bits per pixel", ylabel="PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


EXPERIMENT: Final = runner.Experiment(Config, run_picture, summarize)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
