r"""Compresses pictures at several rates, beside JPEG, JPEG 2000, WebP and AVIF.

    python -m experiments.compression --images='data/kodak/*.png' --workdir=results/rd

The paper's Table 2 and its rate-distortion curves. For each picture a folder in the
workdir: our files, one for each step, contact.png (the original, ours, and each other
codec at no more bytes, with their errors) and, last, metrics.json with bytes, bits per
pixel, PSNR of 8-bit pixels, MS-SSIM and seconds of every file. For all of them
rates.png (curves of each picture), means.png (of the means), summary.json and
summary.md: Bjøntegaard figures (how many percent more bytes at equal quality, and how
many dB more at equal bytes than another codec, by piecewise cubics over the range that
both reach), and all codecs at the rates of our files.

Seconds are those of the first call, compilation included; the warm ones are of calls
after it: an encoding is made again where the first compiled something.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

import gi_jax as gi
from experiments import anchors, compression_tables, plots, runner
from experiments import rate_distortion as rd
from experiments.config import check_least, choices, integers, numbers, setting
from experiments.markdown import fixed
from experiments.measure import count_compilations, time_runs
from experiments.records import write_json
from gi_jax.images import atomic_write, load_image, to_uint8

# Fields of Config that do not change the result for a picture.
_PLACES: Final = runner.PLACES | {"range", "published"}

# Decodings that are timed, after one that is not.
_REPEATS: Final = 3


@dataclasses.dataclass(frozen=True)
class Config(runner.Places):
    """What to compress, how, and where the results go."""

    steps: str = setting(
        "0.13,0.19,0.27,0.39,0.56", help="quantization steps D of our files, by commas"
    )
    effort: int = setting(5, help="of our encoder, 1 to 9")
    tune: Literal["psnr", "ssim"] = setting("psnr", help="of our encoder")
    others: str = setting(
        ",".join(anchors.ANCHORS), help="codecs to compare with, by commas"
    )
    paper: str = setting(
        "",
        help="numbers of Gaussians, by commas, for files of the paper's codec, which "
        "takes a minute for each on a CPU",
    )
    published: str = setting(
        "", help="JSON file of published points, to be shown beside the means"
    )
    range: str = setting(
        "0.1,0.5", help="bits per pixel of our files that count for the rates"
    )
    seed: int = setting(0, help="of everything random")

    def __post_init__(self) -> None:
        steps = numbers("steps", self.steps)
        names = {_file_name(step) for step in steps}
        if not all(0 < step < np.inf for step in steps) or len(names) < len(steps):
            raise ValueError(
                "steps: expected numbers over 0 that differ in 6 digits, got "
                f"{self.steps!r}"
            )
        if not 1 <= self.effort <= 9:
            raise ValueError(f"effort: expected 1 to 9, got {self.effort}")
        check_least(self, seed=0)
        self.other_codecs()
        self.paper_counts()
        # Before the work, not after it.
        rd.parse_range(self.range)
        rd.published(self.published)

    def other_codecs(self) -> list[str]:
        """Returns the names of the codecs to compare with."""
        return choices("others", self.others, anchors.ANCHORS) if self.others else []

    def paper_counts(self) -> list[int]:
        """Returns the numbers of Gaussians of the paper's codec."""
        return integers("paper", self.paper) if self.paper else []


def _file_name(step: float) -> str:
    return f"{step:g}.gi"


def settings_of(config: Config, pixels: np.ndarray) -> dict[str, Any]:
    """Returns all that decides the result for a picture, as plain data."""
    return runner.settings_of(config, pixels, _PLACES)


class _Job(NamedTuple):
    """A file to make of a picture."""

    codec: str
    setting: float
    encode: Callable[[], bytes]
    decode: Callable[[bytes], np.ndarray]
    name: str | None = None  # of the file, where it is kept


def run_picture(path: Path, folder: Path, config: Config) -> dict[str, Any]:
    """Compresses one picture by all codecs; or reads what came of it before.

    Returns:
      The content of metrics.json: 'picture', and 'points', a list of dicts.
    """
    pixels = to_uint8(load_image(path))
    if pixels.shape[2] != 3:
        raise ValueError(f"expected 3 channels, got {pixels.shape[2]}")
    settings = settings_of(config, pixels)
    if finished := runner.read_finished(folder, settings):
        return finished
    folder.mkdir(parents=True, exist_ok=True)

    points, files = [], {}
    for job in _jobs(pixels, config):
        # Our files take minutes: a run that was killed goes on after the last one.
        names = ("effort", "tune", "seed", "pixels")
        identity = {name: settings[name] for name in names}
        identity["file"] = job.codec, job.setting
        data, point = _measure(job, pixels, folder, identity)
        points.append(point)
        files[_key(point)] = functools.partial(job.decode, data)
    panels = [
        (
            f"{p['codec']}: {p['bytes']:,} bytes, {fixed(p['psnr'], 2)} dB",
            files[_key(p)](),
        )
        for p in rd.at_no_more_bytes(points)
    ]
    sheet = plots.contact_sheet(pixels, panels)
    atomic_write(folder / "contact.png", plots.png(sheet, dpi=100))
    values = {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "points": points,
    }
    return runner.write_finished(folder, path, settings, values)


def _key(point: rd.Point) -> tuple[str, float]:
    return point["codec"], point["setting"]


def _jobs(pixels: np.ndarray, config: Config) -> Iterator[_Job]:
    common: dict[str, Any] = {"seed": config.seed, "progress": sys.stderr.isatty()}
    for step in numbers("steps", config.steps):
        encode = functools.partial(
            gi.encode,
            pixels,
            step=step,
            effort=config.effort,
            tune=config.tune,
            **common,
        )
        yield _Job(rd.OURS, step, encode, gi.decode, _file_name(step))
    for count in config.paper_counts():
        encode = functools.partial(
            gi.encode_paper, pixels, num_gaussians=count, **common
        )
        yield _Job(rd.PAPER, count, encode, gi.decode, f"paper-{count}.gi")
    for name in config.other_codecs():
        anchor = anchors.ANCHORS[name]
        for value in anchor.values:
            encode = functools.partial(anchors.encode, anchor, pixels, value)
            yield _Job(name, value, encode, anchors.decode)


def _measure(
    job: _Job, pixels: np.ndarray, folder: Path, identity: dict[str, Any]
) -> tuple[bytes, rd.Point]:
    """Encodes and decodes.

    Args:
      job: what to do.
      pixels: the picture, [H, W, 3] uint8.
      folder: for the file, where it is kept.
      identity: all that decides what is in the file.

    Returns:
      The file, and what is to be said of it.
    """
    file = folder / job.name if job.name else None
    if file is None:
        data, times = _encoded(job)
    else:

        def make() -> dict[str, Any]:
            data, times = _encoded(job)
            atomic_write(file, data)
            return times

        record = file.with_name(f"{file.name}.json")
        if not file.exists():
            record.unlink(missing_ok=True)
        times = runner.part(record, identity, make)
        data = file.read_bytes()
    decode = functools.partial(job.decode, data)
    picture, times["decode_seconds"] = _timed(decode)
    times["warm_decode_seconds"] = time_runs(decode, _REPEATS)["milliseconds"] / 1e3
    error = np.mean((picture.astype(np.float64) - pixels) ** 2)
    point = {
        "codec": job.codec,
        "setting": job.setting,
        "bytes": len(data),
        "bpp": 8 * len(data) / (pixels.shape[0] * pixels.shape[1]),
        # JSON has no infinity, which it is for equal pictures.
        "psnr": float(10 * np.log10(255**2 / error)) if error else None,
        "ms_ssim": float(gi.ms_ssim(picture / 255.0, pixels / 255.0)),
        **times,
    }
    if file:
        info = gi.file_info(data)
        # Ideal lengths by what symbols say, where the codec tells; else of sections.
        bits = getattr(info, "symbol_bits", info.bits_per_gaussian)
        point |= {"file": file.name, "num_gaussians": info.num_gaussians, "bits": bits}
    return data, point


def _encoded(job: _Job) -> tuple[bytes, dict[str, Any]]:
    """Returns a file, and the seconds that it took."""
    with count_compilations() as compilations:
        data, seconds = _timed(job.encode)
    times = {"encode_seconds": seconds, "warm_encode_seconds": seconds}
    if compilations.count:
        _, times["warm_encode_seconds"] = _timed(job.encode)
    return data, times


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def summarize(results: list[dict[str, Any]], config: Config, workdir: Path) -> str:
    """Writes summary.json, summary.md, rates.png and means.png.

    Returns:
      The tables, in Markdown.
    """
    low, high = rd.parse_range(config.range)
    published = rd.published(config.published)
    summary = compression_tables.summary(results, low, high) | {
        "config": dataclasses.asdict(config),
        "published": published,
    }
    text = compression_tables.markdown(summary)
    write_json(workdir / "summary.json", summary)
    atomic_write(workdir / "summary.md", text.encode())
    for name, figure in [
        ("rates.png", plots.picture_rates(results)),
        ("means.png", plots.mean_rates(results, published)),
    ]:
        atomic_write(workdir / name, plots.png(figure))
    return text


EXPERIMENT: Final = runner.Experiment(Config, run_picture, summarize)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
