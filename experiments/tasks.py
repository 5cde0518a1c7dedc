"""Tasks of a sweep: a grid of settings times pictures, as plain data.

A task says all that a worker on another machine needs. Doing it is idempotent: results
are keyed by the settings and the pixels, and written last and at once.
"""

import contextlib
import csv
import dataclasses
import fcntl
import importlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypedDict

from absl import app, flags

from experiments.config import define_flags, fingerprint, from_flags
from experiments.runner import PLACES, Experiment

# Modules of this folder.
EXPERIMENTS: Final = ("fit", "representation", "compression", "ablations")

_FOLDER_NAME: Final = re.compile(r"[\w.,=+-]{1,100}", re.ASCII)


class Task(TypedDict):
    """One picture at one setting."""

    experiment: str  # name of its module
    picture: str  # file, absolute
    folder: str  # for the results, absolute
    setting: str  # what the grid says of it, for people
    config: dict[str, Any]  # fields of the experiment's Config


def load_experiment(name: str) -> Experiment:
    """Returns the EXPERIMENT of a module: of a name in this folder, or with dots.

    Raises:
      ValueError: where there is none.
    """
    module_name = name if "." in name else f"experiments.{name}"
    try:
        return importlib.import_module(module_name).EXPERIMENT
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != module_name:
            raise  # It is there, and lacks something itself.
        raise ValueError(
            f"experiment: expected one of {', '.join(EXPERIMENTS)}, or a module with "
            f"an EXPERIMENT, got {name!r}"
        ) from error


def parse_grid(text: str) -> dict[str, list[str]]:
    """Returns the values of each field, as texts.

    Args:
      text: as "steps=20,50;crop='0:96,0:128'"; quotes keep commas together.

    Raises:
      ValueError: on anything else.
    """
    grid: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, values = (piece.strip() for piece in part.partition("="))
        rows = csv.reader([values], quotechar="'", skipinitialspace=True)
        found = [value.strip() for value in next(rows, [])]
        if not name or not all(found) or not found:
            raise ValueError(
                f"grid: expected NAME=VALUE,VALUE;NAME=VALUE, got {part!r} in {text!r}"
            )
        if name in grid:
            raise ValueError(f"grid: {name} is there twice in {text!r}")
        grid[name] = found
    return grid


def make_configs(
    experiment: Experiment, grid: dict[str, list[str]], images: str, workdir: str
) -> dict[str, Any]:
    """Returns the configurations of all combinations, by what the grid says of each.

    Values are read as the flags of the experiment are.

    Raises:
      ValueError: on a field that the experiment does not have, or a value that it
        refuses.
    """
    names = [field.name for field in dataclasses.fields(experiment.config)]
    for name in grid:
        if name in PLACES or name not in names:
            known = ", ".join(name for name in names if name not in PLACES)
            raise ValueError(f"grid: expected names of {known}; got {name!r}")
    configs: dict[str, Any] = {}
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values))
        flag_values = flags.FlagValues()
        define_flags(experiment.config, flag_values)
        places = {"images": images, "workdir": workdir}
        args = [f"--{name}={value}" for name, value in (places | chosen).items()]
        try:
            flag_values(["sweep", *args])
            config: Any = from_flags(experiment.config, flag_values)
        except (flags.Error, app.UsageError) as error:
            raise ValueError(f"grid: {error}") from error
        setting = ",".join(f"{name}={value}" for name, value in chosen.items())
        if config in configs.values():
            raise ValueError(f"grid: {setting} is there twice")
        configs[setting] = config
    return configs


def make_tasks(
    name: str, configs: dict[str, Any], pictures: list[Path], workdir: Path
) -> dict[str, Task]:
    """Returns the tasks by their keys, one setting after the other.

    Args:
      name: of the experiment.
      configs: of `make_configs`.
      pictures: files.
      workdir: each task has a folder PICTURE/SETTING there.
    """
    tasks = {}
    for (setting, config), picture in itertools.product(configs.items(), pictures):
        task = Task(
            experiment=name,
            picture=str(picture.absolute()),
            folder=str(workdir.absolute() / picture.stem / folder_name(setting)),
            setting=setting,
            config=dataclasses.asdict(config),
        )
        tasks[fingerprint(task)] = task
    return tasks


def folder_name(setting: str) -> str:
    """Returns a setting as the name of a folder; its hash where that cannot be."""
    if not setting or _FOLDER_NAME.fullmatch(setting):
        return setting
    return fingerprint({"setting": setting})


def run_task(task: Task) -> dict[str, Any]:
    """Does a task, or reads its results where they are there; returns metrics.json."""
    experiment = load_experiment(task["experiment"])
    folder = Path(task["folder"])
    with _held(folder):
        config = experiment.config(**task["config"])
        return experiment.run_picture(Path(task["picture"]), folder, config)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Holds a folder: the second of two workers that are given one task waits.

    Workers of a driver that was killed may still finish what they began, beside those
    of the next driver. What a process held is free when it is dead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with lock.open("w") as file:
        with contextlib.suppress(OSError):  # A file system without locks.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
        lock.unlink(missing_ok=True)  # All is written: who still waits will read it.
