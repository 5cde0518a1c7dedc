"""Results of experiments on disk: found, told apart, and put into groups."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from experiments.runner import METRICS
from experiments.tasks import EXPERIMENTS, load_experiment

UNKNOWN: Final = "unknown"


class Run(NamedTuple):
    """What came of one picture."""

    experiment: str  # name of its module, or UNKNOWN
    folder: Path
    result: dict[str, Any]  # content of metrics.json

    @property
    def settings(self) -> dict[str, Any]:
        """All that decided the result, but for the picture."""
        return {k: v for k, v in self.result["config"].items() if k != "pixels"}


class Group(NamedTuple):
    """Runs of one experiment and the same settings, each of another picture."""

    experiment: str
    settings: dict[str, Any]
    runs: tuple[Run, ...]


def find(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Returns the results below folders, and what is wrong with those left out.

    Raises:
      ValueError: where a folder is none, or no result is in any.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"expected a folder, got {folder}")
    files = (path for folder in folders for path in folder.rglob(METRICS))
    runs, problems = [], []
    for file in sorted({path.resolve() for path in files}):
        try:
            result = _checked(json.loads(file.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{file}: {type(error).__name__}: {error}")
        else:
            runs.append(Run(_experiment(result), file.parent, result))
    if not runs:
        places = ", ".join(map(str, folders))
        broken = f", only broken ones: {'; '.join(problems)}" if problems else ""
        raise ValueError(f"no finished {METRICS} below {places}{broken}")
    return runs, problems


def group(runs: Iterable[Run]) -> list[Group]:
    """Returns runs by experiment and settings, in order, without what is there twice.

    Pictures of one name that are not the same have the folder in their names.
    """
    groups: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs:
        key = run.experiment, json.dumps(run.settings, sort_keys=True)
        groups.setdefault(key, {}).setdefault(run.result["fingerprint"], run)
    found = []
    for (experiment, _), members in groups.items():
        each = [*members.values()]
        names = [run.result["picture"] for run in each]
        for i, run in enumerate(each):
            if names.count(names[i]) > 1:
                name = f"{names[i]} ({run.folder})"
                each[i] = run._replace(result=run.result | {"picture": name})
        found.append(Group(experiment, each[0].settings, tuple(each)))
    order = [*EXPERIMENTS, UNKNOWN]
    return sorted(
        found,
        key=lambda g: (order.index(g.experiment), natural(json.dumps(g.settings))),
    )


def natural(text: str) -> list[tuple[int, str]]:
    """Returns what sorts 50 before 100."""
    parts = re.findall(r"\d+|\D+", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def differing(groups: Sequence[Group]) -> list[str]:
    """Returns the names of the settings in which groups differ."""
    names = dict.fromkeys(name for group in groups for name in group.settings)
    return [
        name
        for name in names
        if len({json.dumps(group.settings.get(name)) for group in groups}) > 1
    ]


def config_of(group: Group, **places: str) -> Any:
    """Returns the configuration that a group was made with.

    Args:
      group: of a known experiment.
      **places: other fields, where the experiment has them.

    Raises:
      TypeError, ValueError: where the settings are of another version.
    """
    experiment = load_experiment(group.experiment)
    names = {field.name for field in dataclasses.fields(experiment.config)}
    places = {name: value for name, value in places.items() if name in names}
    return experiment.config(
        **({"images": "", "workdir": ""} | group.settings | places)
    )


def _experiment(result: dict[str, Any]) -> str:
    """Returns the experiment whose settings are most like those of a result."""
    settings = {*result["config"]} - {"pixels"}
    distances = {}
    for name in EXPERIMENTS:
        config = load_experiment(name).config
        fields = {field.name for field in dataclasses.fields(config)}
        if settings <= fields:
            distances[name] = len(fields - settings)
    return min(distances, key=lambda name: distances[name], default=UNKNOWN)


def _checked(result: Any) -> dict[str, Any]:
    """Returns what was read, if it is what `runner.write_finished` writes."""
    kinds = {"picture": str, "fingerprint": str, "config": dict}
    if not isinstance(result, dict):
        raise ValueError(f"expected an object, got {type(result).__name__}")
    for name, kind in kinds.items():
        if not isinstance(result.get(name), kind):
            raise ValueError(f"expected {name!r}, of type {kind.__name__}")
    points = result.get("points", [])
    if not isinstance(points, list) or not all(isinstance(p, dict) for p in points):
        raise ValueError("expected 'points' to be a list of objects")
    return result
