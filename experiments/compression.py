r"""Compresses pictures at several rates, beside JPEG, JPEG 2000, WebP and AVIF.

    python -m experiments.compression --images='data/kodak/*.png' --workdir=results/rd

For each picture a folder in the workdir: our files, one for each step, contact.png (the
original, ours, and each other codec at no more bytes) and, last, metrics.json with
bytes, bits per pixel, PSNR of 8-bit pixels, MS-SSIM and seconds of every file. For all
of them rates.png (curves), summary.json and summary.md with the Bjøntegaard rates: how
many percent more or fewer bytes than another codec ours take at equal quality, by
piecewise cubics (Akima) over the range that both reach. Pictures that are done, with
the same settings and pixels, are skipped on a rerun.
"""

import dataclasses
import functools
import glob
import hashlib
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import bjontegaard
import matplotlib.figure
import numpy as np
from absl import app, logging

import gi_jax as gi
from experiments import anchors
from experiments.config import define_flags, fingerprint, from_flags, setting
from experiments.records import write_json
from gi_jax.images import atomic_write, load_image, to_uint8

OURS: Final = "gaussians"

# Fields of Config that do not change the result for a picture.
_PLACES: Final = frozenset({"images", "workdir", "range"})


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compress, how, and where the results go."""

    images: str = setting(help="pattern of picture files; ** crosses folders")
    workdir: str = setting(help="folder for the results, made if it does not exist")
    steps: str = setting(
        "0.13,0.19,0.27,0.39,0.56", help="quantization steps D of our files, by commas"
    )
    effort: int = setting(5, help="of our encoder, 1 to 9")
    others: str = setting(
        ",".join(anchors.ANCHORS), help="codecs to compare with, by commas"
    )
    range: str = setting(
        "0.1,0.5", help="bits per pixel of our files that count for the rates"
    )
    seed: int = setting(0, help="of everything random")

    def __post_init__(self) -> None:
        _numbers("steps", self.steps)
        if len(_numbers("range", self.range)) != 2:
            raise ValueError(f"range: expected LOW,HIGH, got {self.range!r}")
        unknown = set(self.other_codecs()) - set(anchors.ANCHORS)
        if unknown:
            raise ValueError(
                f"others: expected names of {[*anchors.ANCHORS]}, got {unknown}"
            )

    def other_codecs(self) -> list[str]:
        """Returns the names of the codecs to compare with."""
        return [name for name in self.others.split(",") if name]


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{name}: expected numbers with commas between them, got {text!r}"
        ) from None


def run(config: Config) -> int:
    """Compresses all pictures that are not finished yet, and writes a summary.

    Returns:
      The number of pictures that failed.

    Raises:
      ValueError: where no file matches.
    """
    paths = [Path(path) for path in sorted(glob.glob(config.images, recursive=True))]
    if not paths:
        raise ValueError(f"images: no file matches {config.images!r}")
    workdir = Path(config.workdir)
    results, failures = [], {}
    for number, path in enumerate(paths, 1):
        start = time.perf_counter()
        try:
            results.append(compress_picture(path, workdir / path.stem, config))
        except Exception as error:  # Anything: the other pictures are to be done.
            failures[path.stem] = f"{type(error).__name__}: {error}"
            print(f"{path.stem}: {failures[path.stem]}", file=sys.stderr)
        else:
            seconds = time.perf_counter() - start
            print(f"{number}/{len(paths)} {path.stem}: {seconds:.0f} s", flush=True)
    if results:
        report = summarize(results, config)
        text = markdown(report)
        atomic_write(workdir / "summary.md", text.encode())
        atomic_write(workdir / "rates.png", _plot(results))
        write_json(workdir / "summary.json", report | {"failures": failures})
        print(text)
    return len(failures)


def compress_picture(path: Path, folder: Path, config: Config) -> dict[str, Any]:
    """Compresses one picture by all codecs; or reads what came of it before.

    Returns:
      The content of metrics.json: 'picture', and 'points', a list of dicts.
    """
    pixels = to_uint8(load_image(path))
    if pixels.shape[2] != 3:
        raise ValueError(f"expected 3 channels, got {pixels.shape[2]}")
    settings = dataclasses.asdict(config)
    settings = {key: value for key, value in settings.items() if key not in _PLACES}
    settings["pixels"] = hashlib.sha256(pixels.tobytes()).hexdigest()
    identity = fingerprint(settings)
    metrics_file = folder / "metrics.json"
    if metrics_file.exists():
        finished = json.loads(metrics_file.read_bytes())
        if finished["fingerprint"] == identity:
            return finished
    folder.mkdir(parents=True, exist_ok=True)

    points, decoded = [], {}

    def add(codec, value, encode: Callable[[], bytes], decode):
        start = time.perf_counter()
        data = encode()
        middle = time.perf_counter()
        picture = decode(data)
        end = time.perf_counter()
        error = np.mean((picture.astype(np.float64) - pixels) ** 2)
        point = {
            "codec": codec,
            "setting": value,
            "bytes": len(data),
            "bpp": 8 * len(data) / (pixels.shape[0] * pixels.shape[1]),
            "psnr": float(10 * np.log10(255**2 / error)),
            "ms_ssim": float(gi.ms_ssim(picture / 255.0, pixels / 255.0)),
            "encode_seconds": middle - start,
            "decode_seconds": end - middle,
        }
        points.append(point)
        decoded[codec, value] = picture
        return data

    encode_ours = functools.partial(
        gi.encode,
        pixels,
        effort=config.effort,
        seed=config.seed,
        progress=sys.stderr.isatty(),
    )
    for step in _numbers("steps", config.steps):
        encode = functools.partial(encode_ours, step=step)
        atomic_write(folder / f"{step:g}.gi", add(OURS, step, encode, gi.decode))
    for name in config.other_codecs():
        anchor = anchors.ANCHORS[name]
        for value in anchor.values:
            encode = functools.partial(anchors.encode, anchor, pixels, value)
            add(name, value, encode, anchors.decode)

    atomic_write(folder / "contact.png", _contact_sheet(pixels, points, decoded))
    result = {
        "picture": path.stem,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "config": settings,
        "fingerprint": identity,
        "points": points,
    }
    write_json(metrics_file, result)
    return result


def summarize(results: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    """Returns Bjøntegaard rates against each codec, per picture and their mean.

    Percent of bytes at equal PSNR, and at equal MS-SSIM; negative is smaller files.
    """
    low, high = _numbers("range", config.range)
    table = {}
    for result in results:
        ours = [p for p in _curve(result, OURS) if low <= p["bpp"] <= high]
        rows = {}
        for codec in config.other_codecs():
            theirs = _curve(result, codec)
            rows[codec] = {
                quality: _bd_rate(theirs, ours, quality)
                for quality in ("psnr", "ms_ssim")
            }
        table[result["picture"]] = rows
    mean = {
        codec: {
            quality: _mean([rows[codec][quality] for rows in table.values()])
            for quality in ("psnr", "ms_ssim")
        }
        for codec in config.other_codecs()
    }
    return {
        "config": dataclasses.asdict(config),
        "bd_rates": table,
        "mean": mean,
        "ours": {result["picture"]: _curve(result, OURS) for result in results},
    }


def _curve(result: dict[str, Any], codec: str) -> list[dict[str, Any]]:
    """Returns a codec's points by size, without those that more bytes made worse."""
    points = [p for p in result["points"] if p["codec"] == codec]
    curve: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: p["bytes"]):
        if not curve or (
            point["bytes"] > curve[-1]["bytes"] and point["psnr"] > curve[-1]["psnr"]
        ):
            curve.append(point)
    return curve


def _bd_rate(theirs, ours, quality: str) -> float | None:
    def values(points):
        raw = np.array([point[quality] for point in points])
        # Differences of MS-SSIM near 1 count by their ratio.
        return -10 * np.log10(1 - raw) if quality == "ms_ssim" else raw

    if len(ours) < 2 or len(theirs) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Theirs reach further: that is intended.
        rate = bjontegaard.bd_rate(
            [point["bpp"] for point in theirs],
            values(theirs),
            [point["bpp"] for point in ours],
            values(ours),
            method="akima" if len(ours) > 2 else "pchip",
            require_matching_points=False,
            min_overlap=0,
        )
    return float(rate) if np.isfinite(rate) else None


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as tables."""
    codecs = [*report["mean"]]
    lines = ["Bytes at equal PSNR (at equal MS-SSIM), percent of the other codec's", ""]
    lines += ["| picture | " + " | ".join(codecs) + " |"]
    lines += ["|---" * (len(codecs) + 1) + "|"]
    for picture, rows in (report["bd_rates"] | {"mean": report["mean"]}).items():
        cells = (
            f"{_percent(rows[c]['psnr'])} ({_percent(rows[c]['ms_ssim'])})"
            for c in codecs
        )
        lines += [f"| {picture} | " + " | ".join(cells) + " |"]
    lines += [
        "",
        "| picture | D | bytes | bpp | PSNR, dB | MS-SSIM | encode, s | decode, s |",
    ]
    lines += ["|---" * 8 + "|"]
    for picture, points in report["ours"].items():
        for p in points:
            lines += [
                f"| {picture} | {p['setting']:g} | {p['bytes']:,} | {p['bpp']:.3f} | "
                f"{p['psnr']:.2f} | {p['ms_ssim']:.4f} | {p['encode_seconds']:.1f} | "
                f"{p['decode_seconds']:.2f} |"
            ]
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f} %"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _plot(results: list[dict[str, Any]]) -> bytes:
    """Returns a PNG file: PSNR against rate, a panel for each picture."""
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = matplotlib.figure.Figure(
        figsize=(5 * columns, 4 * rows), layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, result in zip(panels, results):
        most = 1.5 * max(point["bpp"] for point in _curve(result, OURS))
        for codec in dict.fromkeys(point["codec"] for point in result["points"]):
            points = [p for p in _curve(result, codec) if p["bpp"] <= most]
            axes.plot(
                [p["bpp"] for p in points],
                [p["psnr"] for p in points],
                marker="o" if codec == OURS else ".",
                linewidth=2.5 if codec == OURS else 1,
                label=codec,
            )
        axes.set(
            title=result["picture"],
            xlabel="bits per pixel of the file",
            ylabel="PSNR, dB",
        )
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    for axes in panels[len(results) :]:
        axes.set_axis_off()
    return _png(figure, dpi=120)


def _contact_sheet(pixels, points, decoded) -> bytes:
    """Returns a PNG: original, ours at the middle rate, others at no more bytes."""
    ours = sorted((p for p in points if p["codec"] == OURS), key=lambda p: p["bytes"])
    chosen = [ours[len(ours) // 2]]
    for codec in dict.fromkeys(p["codec"] for p in points if p["codec"] != OURS):
        fitting = [p for p in points if p["codec"] == codec]
        fitting = [p for p in fitting if p["bytes"] <= chosen[0]["bytes"]]
        if fitting:
            chosen.append(max(fitting, key=lambda p: p["psnr"]))
    panels = [("original", pixels)]
    for p in chosen:
        title = f"{p['codec']}: {p['bytes']:,} bytes, {p['psnr']:.2f} dB"
        panels.append((title, decoded[p["codec"], p["setting"]]))

    columns = 2 if pixels.shape[1] >= pixels.shape[0] else 4
    rows = -(-len(panels) // columns)
    height, width = (side / 100 for side in pixels.shape[:2])
    figure = matplotlib.figure.Figure(
        figsize=(columns * width, rows * (height + 0.3)), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (title, picture) in zip(grid, panels):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=8)
    return _png(figure, dpi=100)


def _png(figure: matplotlib.figure.Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


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
