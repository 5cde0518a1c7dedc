r"""Fits pictures and writes what came of it.

    python -m experiments.fit --images='data/kodak/*.png' --workdir=results/kodak \
        --num_gaussians=10000 --steps=500

For each picture a folder in the workdir: gaussians.npz (the fields of the pytree),
picture.png (rendered), convergence.png (PSNR against step) and, last, metrics.json;
for all of them summary.json. On a rerun, pictures that have their metrics.json, of the
same settings and the same pixels, are skipped, and one whose fit was killed goes on. A
picture that fails is reported and the others go on; the exit code is 1 then.
"""

import dataclasses
import glob
import hashlib
import importlib.metadata
import io
import json
import math
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import jax
import matplotlib.figure
import numpy as np
from absl import app, logging

import gi_jax as gi
from experiments.config import define_flags, fingerprint, from_flags, setting
from experiments.records import write_json
from gi_jax.images import atomic_write, load_image, save_image
from gi_jax.metrics import ms_ssim, round_to_8_bits

_CROP: Final = re.compile(r"(\d+):(\d+),(\d+):(\d+)")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to fit, how, and where the results go."""

    images: str = setting(help="pattern of picture files; ** crosses folders")
    workdir: str = setting(help="folder for the results, made if it does not exist")
    num_gaussians: int = setting(10_000, help="Gaussians per picture")
    steps: int = setting(500, help="steps of the fit")
    preset: Literal["fast", "paper"] = setting("fast", help="recipe of the fit")
    loss: Literal["l2", "l1", "ssim", "l1+ssim", "l2+ssim"] = setting(
        "l2", help="what the fit minimises"
    )
    seed: int = setting(0, help="of everything random")
    crop: str | None = setting(
        None, help="rows and columns of the pictures to fit, as in 200:296,300:428"
    )

    def __post_init__(self) -> None:
        if self.crop is not None and not _CROP.fullmatch(self.crop):
            raise ValueError(f"crop: expected ROWS,COLUMNS as 0:96,0:128: {self.crop}")
        for name, low in ("num_gaussians", 1), ("steps", 1), ("seed", 0):
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"{name}: expected at least {low}, got {value}")


# Fields of Config that do not change the result for a picture.
_PLACES: Final = frozenset({"images", "workdir"})

_COLUMNS: Final = ("picture", "psnr", "ms_ssim", "num_gaussians", "steps", "seconds")


def run(config: Config) -> int:
    """Fits all pictures that are not finished yet, and writes a summary.

    Returns:
      The number of pictures that failed.

    Raises:
      ValueError: where no file matches, or two would share a folder.
    """
    paths = [Path(path) for path in sorted(glob.glob(config.images, recursive=True))]
    stems = [path.stem for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if not paths:
        raise ValueError(f"images: no file matches {config.images!r}")
    if twice:
        raise ValueError(f"images: two pictures of the same name: {', '.join(twice)}")
    results, failures = [], {}
    print(_row(_COLUMNS), flush=True)
    for path in paths:
        try:
            result = fit_picture(path, Path(config.workdir) / path.stem, config)
        except Exception as error:  # Anything: the other pictures are to be done.
            failures[path.stem] = f"{type(error).__name__}: {error}"
            print(f"{path.stem}: {failures[path.stem]}", file=sys.stderr)
        else:
            results.append({name: result[name] for name in _COLUMNS})
            print(_row(results[-1].values()), flush=True)
    mean = {name: _mean([result[name] for result in results]) for name in _COLUMNS[1:]}
    print(_row(["mean", *mean.values()]))
    summary = {
        "config": dataclasses.asdict(config),
        "mean": mean,
        "pictures": results,
        "failures": failures,
    }
    write_json(Path(config.workdir) / "summary.json", summary)
    return len(failures)


def fit_picture(path: Path, folder: Path, config: Config) -> dict[str, Any]:
    """Fits one picture and writes its folder; or reads it, where it is finished.

    Args:
      path: the picture file.
      folder: made if it does not exist; metrics.json is written last.
      config: `images` and `workdir` are not looked at.

    Returns:
      The content of metrics.json.
    """
    image = load_image(path)
    if config.crop is not None:
        top, bottom, left, right = map(int, config.crop.replace(",", ":").split(":"))
        image = image[top:bottom, left:right]
    settings = dataclasses.asdict(config)
    settings = {key: value for key, value in settings.items() if key not in _PLACES}
    settings["pixels"] = hashlib.sha256(image.tobytes()).hexdigest()
    identity = fingerprint(settings)
    metrics_file = folder / "metrics.json"
    if metrics_file.exists():
        finished = json.loads(metrics_file.read_bytes())
        if finished["fingerprint"] == identity:
            return finished
        metrics_file.unlink()  # It is of other settings, and the others are next.
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"checkpoint-{identity}.npz"
    fitted = gi.fit(
        image,
        config.num_gaussians,
        config.steps,
        preset=config.preset,
        loss=config.loss,
        seed=config.seed,
        progress=sys.stderr.isatty(),
        checkpoint=checkpoint,
    )
    picture = round_to_8_bits(gi.rasterize(fitted.gaussians, image.shape[:2]))
    height, width, channels = image.shape
    result = {
        "picture": path.stem,
        "psnr": fitted.psnr if math.isfinite(fitted.psnr) else None,  # equal pictures
        "ms_ssim": float(ms_ssim(picture, image)),
        "num_gaussians": fitted.gaussians.means.shape[0],
        "steps": config.steps,
        "seconds": float(fitted.seconds),
        "height": height,
        "width": width,
        "channels": channels,
        "config": settings,
        "fingerprint": identity,
        "device": jax.devices()[0].device_kind,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("gi_jax", "jax")},
        },
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        name: np.asarray(x) for name, x in fitted.gaussians._asdict().items()
    }
    np.savez(buffer, **arrays)
    atomic_write(folder / "gaussians.npz", buffer.getvalue())
    save_image(folder / "picture.png", np.asarray(picture))
    atomic_write(folder / "convergence.png", _convergence(fitted.history, path.stem))
    write_json(metrics_file, result)
    checkpoint.unlink(missing_ok=True)
    return result


def _convergence(history: dict[str, np.ndarray], title: str) -> bytes:
    """Returns a PNG file: PSNR against step."""
    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(history["step"], history["psnr"])
    axes.set(xlabel="step", ylabel="PSNR, dB", title=title)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _row(values: Iterable[Any]) -> str:
    """Returns a line of the table: names to the left, numbers to the right."""
    name, *others = (f"{x:.4f}" if isinstance(x, float) else f"{x}" for x in values)
    return f"{name:<24}" + "".join(f"{other:>14}" for other in others)


def main(argv: Sequence[str]) -> int:
    """Runs what the flags say; the exit code is 1 where a picture failed."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {' '.join(argv[1:])}")
    try:
        return min(run(from_flags(Config)), 1)
    except ValueError as error:
        raise app.UsageError(str(error)) from error


if __name__ == "__main__":
    define_flags(Config)
    # JAX informs about every backend that it does not find.
    app.call_after_init(lambda: logging.set_verbosity(logging.WARNING))
    app.run(main)
