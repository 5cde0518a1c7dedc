r"""Fits pictures and writes what came of it.

    python -m experiments.fit --images='data/kodak/*.png' --workdir=results/kodak \
        --num_gaussians=10000 --steps=500

For each picture a folder in the workdir: gaussians.npz (the fields of the pytree),
picture.png (rendered), convergence.png (PSNR against step) and, last, metrics.json;
for all of them summary.json and summary.md. On a rerun, pictures that have their
metrics.json, of the same settings and the same pixels, are skipped, and one whose fit
was killed goes on. A picture that fails is reported, also in failures.json, and the
others go on; the exit code is 1 then.
"""

import dataclasses
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import jax
import numpy as np

import gi_jax as gi
from experiments import plots, runner
from experiments.config import check_least, fingerprint, setting
from experiments.markdown import fixed, literal, table
from experiments.measure import count_compilations
from experiments.pictures import CROP_HELP, check_crop, load_crop
from experiments.rate_distortion import mean_of_all
from experiments.records import write_json
from gi_jax.images import atomic_write, save_image
from gi_jax.metrics import ms_ssim, round_to_8_bits


@dataclasses.dataclass(frozen=True)
class Config(runner.Places):
    """What to fit, how, and where the results go."""

    num_gaussians: int = setting(10_000, help="Gaussians per picture")
    steps: int = setting(500, help="steps of the fit")
    preset: Literal["fast", "paper"] = setting("fast", help="recipe of the fit")
    loss: Literal["l2", "l1", "ssim", "l1+ssim", "l2+ssim"] = setting(
        "l2", help="what the fit minimises"
    )
    seed: int = setting(0, help="of everything random")
    crop: str | None = setting(None, help=CROP_HELP)

    def __post_init__(self) -> None:
        check_crop(self.crop)
        check_least(self, num_gaussians=1, steps=1, seed=0)


# The columns of the table, and digits after the point.
_DIGITS: Final = {
    "psnr": 2,
    "ms_ssim": 4,
    "num_gaussians": 0,
    "steps": 0,
    "seconds": 1,
    "compile_seconds": 1,
}

# Their headings, where the name does not say it.
_HEADINGS: Final = {
    "seconds": "fit with compiling, s",
    "compile_seconds": "compiling, s",
}

# Points of a curve of convergence that are kept, at the most.
_HISTORY: Final = 200


def run_picture(path: Path, folder: Path, config: Config) -> dict[str, Any]:
    """Fits one picture and writes its folder; or reads it, where it is finished.

    Args:
      path: the picture file.
      folder: made if it does not exist; metrics.json is written last.
      config: `images` and `workdir` are not looked at.

    Returns:
      The content of metrics.json.
    """
    image = load_crop(path, config.crop)
    settings = runner.settings_of(config, image)
    finished = runner.read_finished(folder, settings)
    if finished:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"checkpoint-{fingerprint(settings)}.npz"
    with count_compilations() as compilations:
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
    values = write_fit(folder, path.stem, image, fitted)
    values |= {"steps": config.steps, "compile_seconds": compilations.seconds}
    result = runner.write_finished(folder, path, settings, values)
    checkpoint.unlink(missing_ok=True)
    return result


def write_fit(
    folder: Path,
    name: str,
    image: np.ndarray,
    fitted: gi.FitResult,
    render: Callable[..., jax.Array] = gi.rasterize,
) -> dict[str, Any]:
    """Writes gaussians.npz, picture.png and convergence.png of a fit.

    Args:
      folder: exists.
      name: of the picture.
      image: [H, W, C] what was fitted.
      fitted: what came of it.
      render: (gaussians, image_size) -> picture.

    Returns:
      How good it is, and of what size; plain data.
    """
    picture = round_to_8_bits(render(fitted.gaussians, image.shape[:2]))
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        name: np.asarray(x) for name, x in fitted.gaussians._asdict().items()
    }
    np.savez(buffer, **arrays)
    atomic_write(folder / "gaussians.npz", buffer.getvalue())
    save_image(folder / "picture.png", np.asarray(picture))
    history = _thinned(fitted.history)
    curve = plots.convergence([{"picture": name, "history": history}])
    assert curve is not None
    atomic_write(folder / "convergence.png", plots.png(curve))
    height, width, channels = image.shape
    return {
        "psnr": fitted.psnr if math.isfinite(fitted.psnr) else None,  # equal pictures
        "ms_ssim": float(ms_ssim(picture, image)),
        "num_gaussians": fitted.gaussians.means.shape[0],
        "seconds": float(fitted.seconds),
        "height": height,
        "width": width,
        "channels": channels,
        "history": history,
    }


def summarize(results: list[dict[str, Any]], config: Config, workdir: Path) -> str:
    """Writes summary.json and summary.md: each picture, and the means.

    Returns:
      The table, in Markdown.
    """
    columns = ["picture", *_DIGITS]
    # Results of earlier versions do not say what compiling took.
    results = [{"compile_seconds": None} | result for result in results]
    rows = [{name: result[name] for name in columns} for result in results]
    mean = {name: mean_of_all(row[name] for row in rows) for name in _DIGITS}
    headings = [_HEADINGS.get(name, name) for name in columns]
    text = table(headings, map(_line, [*rows, {"picture": "mean"} | mean]))
    summary = {"config": dataclasses.asdict(config), "mean": mean, "pictures": rows}
    write_json(workdir / "summary.json", summary)
    atomic_write(workdir / "summary.md", text.encode())
    return text


def _thinned(history: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Returns steps and PSNR of a fit, few of them, the last one too."""
    finite = np.flatnonzero(np.isfinite(history["psnr"]))
    if not len(finite):
        return {"step": [], "psnr": []}
    places = np.linspace(0, len(finite) - 1, min(_HISTORY, len(finite)))
    chosen = finite[places.round().astype(int)]
    return {name: history[name][chosen].tolist() for name in ("step", "psnr")}


def _line(row: dict[str, Any]) -> list[str | None]:
    """Returns a line of the table."""
    numbers = [fixed(row[name], digits) for name, digits in _DIGITS.items()]
    return [literal(row["picture"]), *numbers]


EXPERIMENT: Final = runner.Experiment(Config, run_picture, summarize)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
