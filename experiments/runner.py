"""Runs an experiment over pictures: what fit, compression and the paper's tables share.

An experiment is a module with

    @dataclasses.dataclass(frozen=True)
    class Config(runner.Places): ...  # what changes the results

    def run_picture(path: Path, folder: Path, config: Config) -> dict: ...

    def summarize(results: list[dict], config: Config, workdir: Path) -> str: ...

    EXPERIMENT = runner.Experiment(Config, run_picture, summarize)

    if __name__ == "__main__":
        runner.main(EXPERIMENT)

`run_picture` is idempotent: it begins with `read_finished` and ends with
`write_finished`, so that metrics.json is there exactly where all the rest is.
"""

import dataclasses
import glob
import hashlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from absl import app, flags
from tqdm import tqdm

from experiments.config import fingerprint, run_script, setting
from experiments.machine import versions
from experiments.records import write_failures, write_json

# Flags defined through here belong to the calling script, and so to its --help.
flags.disclaim_key_flags()


@dataclasses.dataclass(frozen=True)
class Places:
    """What every Config begins with; it does not change the result for a picture."""

    images: str = setting(help="pattern of picture files; ** crosses folders")
    workdir: str = setting(help="folder for the results, made if it does not exist")


PLACES: Final = frozenset(field.name for field in dataclasses.fields(Places))

METRICS: Final = "metrics.json"

# What bytes of names become that are no text.
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")

_PACE: Final = 5  # Pictures: the last ones say how long the others will take.


class Experiment(NamedTuple):
    """What is done with pictures.

    Attributes:
      config: frozen dataclass, see experiments/config.py, with `images`, `workdir`.
      run_picture: (path, folder, config) -> content of metrics.json; does one picture
        and writes what came of it into the folder; or reads it, where it is finished.
      summarize: (results, config, workdir) -> Markdown; writes summary.json and what
        else is over all pictures. Results are those of `run_picture`, at least one.
    """

    config: type
    run_picture: Callable[[Path, Path, Any], dict[str, Any]]
    summarize: Callable[[list[dict[str, Any]], Any, Path], str]


def find_pictures(pattern: str) -> list[Path]:
    """Returns the files that a pattern matches, sorted.

    Raises:
      ValueError: where there are none, or two would share a folder of results, or a
        name cannot be printed.
    """
    names = sorted(glob.glob(pattern, recursive=True))
    paths = [path for path in map(Path, names) if path.is_file()]
    odd = [ascii(path.name) for path in paths if _NO_TEXT.search(path.stem)]
    stems = [path.stem for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if not paths:
        raise ValueError(f"images: no file matches {pattern!r}")
    if odd:
        raise ValueError(f"images: names that are not UTF-8: {', '.join(odd)}")
    if twice:
        raise ValueError(f"images: two pictures of the same name: {', '.join(twice)}")
    return paths


def run(experiment: Experiment, config: Any) -> int:
    """Does all pictures that are not finished yet, and writes a summary.

    A picture that fails is reported, here and in failures.json, and the others go on.

    Returns:
      The number of pictures that failed.

    Raises:
      ValueError: where no file matches, or two would share a folder.
    """
    paths, workdir = find_pictures(config.images), Path(config.workdir)
    results: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    times: list[float] = []
    for number, path in enumerate(paths, 1):
        start = time.perf_counter()
        try:
            results.append(experiment.run_picture(path, workdir / path.stem, config))
        except Exception as error:  # Anything: the other pictures are to be done.
            failures[path.stem] = f"{type(error).__name__}: {error}"
            print(f"{path.stem}: {failures[path.stem]}", file=sys.stderr)
        times.append(time.perf_counter() - start)
        left = statistics.fmean(times[-_PACE:]) * (len(paths) - number)
        print(
            f"{number}/{len(paths)} {path.stem}: {times[-1]:.1f} s, "
            f"{tqdm.format_interval(left)} left",
            flush=True,
        )
    write_failures(workdir, failures)
    if results:
        print(experiment.summarize(results, config, workdir))
    return len(failures)


def main(experiment: Experiment) -> None:
    """Runs what the flags say; the exit code is 1 where a picture failed."""

    def run_flags(config):
        try:
            find_pictures(config.images)
        except ValueError as error:
            raise app.UsageError(str(error)) from error
        return min(run(experiment, config), 1)

    run_script(experiment.config, run_flags)


def settings_of(
    config: Any, pixels: np.ndarray, without: Iterable[str] = PLACES
) -> dict[str, Any]:
    """Returns all that decides the result for a picture, as plain data.

    Args:
      config: of the experiment.
      pixels: of the picture, as it is used.
      without: fields that change nothing in a folder; `PLACES`, or more than those.
    """
    settings = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in without
    }
    return settings | {"pixels": hashlib.sha256(pixels.tobytes()).hexdigest()}


def read_finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the content of metrics.json where it is of these settings, else None."""
    file = folder / METRICS
    finished = _read_if_of(file, settings)
    if finished is None:
        # It is of other settings, or none; and the other files are next.
        file.unlink(missing_ok=True)
    return finished


def part(
    file: Path, settings: dict[str, Any], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Returns a part of a picture's results, computed now or in a run that was killed.

    Args:
      file: JSON; written last, where it is not there or of other settings. Its
        folder is made before.
      settings: all that decides the result.
      compute: returns plain data.
    """
    stored = _read_if_of(file, settings)
    if stored is not None:
        return stored["values"]
    file.parent.mkdir(parents=True, exist_ok=True)
    values = compute()
    write_json(file, {"fingerprint": fingerprint(settings), "values": values})
    return values


def _read_if_of(file: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Returns what is in a file where it is of these settings; None if it is broken."""
    try:
        stored = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(stored, dict) and stored.get("fingerprint")
    return stored if known == fingerprint(settings) else None


def write_finished(
    folder: Path, path: Path, settings: dict[str, Any], values: dict[str, Any]
) -> dict[str, Any]:
    """Writes metrics.json, after which the picture counts as finished.

    Args:
      folder: of the picture.
      path: the picture file.
      settings: of `settings_of`.
      values: what came of it.

    Returns:
      What was written: the values, and where they are from.
    """
    result = {
        "picture": path.stem,
        "source": str(path.resolve()),
        **values,
        "config": settings,
        "fingerprint": fingerprint(settings),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }
    write_json(folder / METRICS, result)
    return result
