r"""Runs an experiment over a grid of settings and many pictures, on many workers.

    python -m experiments.sweep --experiment=fit --images='data/kodak/*.png' \
        --grid='num_gaussians=5000,10000;steps=200' --workdir=results/sweep

works on this machine, a worker for each GPU or each two cores. --cluster=slurm starts
jobs (see --help), --cluster=tcp://HOST:PORT takes the workers of a Dask scheduler that
runs. The workdir and the pictures must be where all machines see them.

Each task writes its metrics.json, last, to WORKDIR/PICTURE/SETTING; summary.md has the
means of each setting, summaries/SETTING what the experiment says of it. Killing a
worker, a node or this process loses nothing that is finished: the same command goes on.
A task that raises, or takes its worker with it, is tried again and then fails alone: it
is in the list at the end and in failures.json, and the exit code is 1.
"""

import dataclasses
import signal
import statistics
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from absl import app
from tqdm import tqdm

from experiments import clusters
from experiments.config import check_least, run_script, setting
from experiments.markdown import literal, significant, table
from experiments.optional import optional
from experiments.records import scalars, write_failures, write_json
from experiments.runner import Experiment, find_pictures
from experiments.tasks import (
    EXPERIMENTS,
    Task,
    folder_name,
    load_experiment,
    make_configs,
    make_tasks,
    parse_grid,
    run_task,
)
from gi_jax.images import atomic_write

distributed = optional("distributed", "cluster")

# Of a mean in the table: what tells an MS-SSIM of 0.9985 from one of 0.9987.
_DIGITS: Final = 5

# Seconds between two looks at the progress, where it goes to a file.
_QUIET: Final = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(clusters.Place):
    """What to run, and where."""

    experiment: str = setting(help=f"{', '.join(EXPERIMENTS)}; or a module, with dots")
    images: str = setting(help="pattern of picture files; ** crosses folders")
    workdir: str = setting(help="folder for the results, made if it does not exist")
    grid: str = setting(
        "",
        help="settings of the experiment to combine, as 'steps=100,200;preset=fast'; "
        "quotes keep commas together: \"crop='0:96,0:128'\"",
    )
    retries: int = setting(2, help="of a task that raises or loses its worker")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, retries=0)


def run(config: Config) -> int:
    """Does all tasks that are not finished yet, and writes summaries.

    Returns:
      The number of tasks that failed.

    Raises:
      ValueError: on an experiment, a grid, pictures or a cluster that are not there.
    """
    experiment = load_experiment(config.experiment)
    workdir = Path(config.workdir)
    configs = make_configs(
        experiment, parse_grid(config.grid), config.images, config.workdir
    )
    pictures = find_pictures(config.images)
    tasks = make_tasks(config.experiment, configs, pictures, workdir)
    print(f"{len(tasks)} tasks: {len(pictures)} pictures, {len(configs)} settings")
    logs = workdir / "logs"
    with clusters.connect(config, len(tasks), config.retries, logs) as client:
        results, failures = execute(client, tasks, config.retries)
    write_failures(workdir, failures)
    settings: dict[str, list[dict[str, Any]]] = {text: [] for text in configs}
    for key, task in tasks.items():
        if key in results:
            settings[task["setting"]].append(results[key])
    for text, done in settings.items():
        if done:
            _summarize(experiment, done, configs[text], workdir / _summaries(text))
    if config.grid and results:
        print(_write_table(settings, workdir))
        print(f"what {config.experiment} says of each: {workdir / 'summaries'}")
    if failures:
        print(f"{len(failures)} of {len(tasks)} tasks failed:", file=sys.stderr)
    for failure in failures:
        print(f"  {_name(failure)}: {failure['error']}", file=sys.stderr)
    return len(failures)


def _summaries(setting_text: str) -> str:
    """Returns the folder, in the workdir, of what is over all pictures of a setting."""
    return f"summaries/{folder_name(setting_text)}" if setting_text else "."


def execute(
    client: Any, tasks: dict[str, Task], retries: int
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Does tasks on the workers of a client, and shows how far they are.

    Args:
      client: to the workers.
      tasks: by their keys.
      retries: of a task that raises.

    Returns:
      What the finished ones returned, by their keys; and the failed ones, with 'error'
      and 'traceback'.
    """
    results: dict[str, dict[str, Any]] = {}
    failures = []
    interval = 0.1 if sys.stderr.isatty() else _QUIET
    with tqdm(total=len(tasks), unit="task", mininterval=interval) as bar:
        for key, outcome in _outcomes(client, tasks, retries):
            if isinstance(outcome, dict):
                results[key] = outcome
            else:
                lines = traceback.format_exception(outcome)
                failure = {"error": _text(outcome), "traceback": "".join(lines)}
                failures.append({**tasks[key], **failure})
                bar.write(f"{_name(tasks[key])}: {failure['error']}", sys.stderr)
            bar.set_postfix(failed=len(failures), refresh=False)
            bar.update()
    return results, failures


def _outcomes(
    client: Any, tasks: dict[str, Task], retries: int
) -> Iterator[tuple[str, dict[str, Any] | BaseException]]:
    """Yields keys with results, or errors, in the order in which they come."""
    suspects = {}
    for key, outcome in _submit(client, tasks, "tasks", retries):
        if isinstance(outcome, distributed.KilledWorker):
            suspects[key] = tasks[key]
        else:
            yield key, outcome
    # Of two tasks that a dead worker had, one may be innocent. Alone it goes well.
    for key, task in suspects.items():
        yield from _submit(client, {key: task}, "alone", retries)


def _submit(
    client: Any, tasks: dict[str, Task], group: str, retries: int
) -> Iterator[tuple[str, dict[str, Any] | BaseException]]:
    keys = [(group, key) for key in tasks]
    futures = client.map(run_task, [*tasks.values()], key=keys, retries=retries)
    for future, outcome in distributed.as_completed(
        futures, with_results=True, raise_errors=False
    ):
        if future.status == "error":
            _, error, trace = outcome
            outcome = error.with_traceback(trace)
        yield future.key[1], outcome
        future.release()


def _text(error: BaseException) -> str:
    if isinstance(error, distributed.KilledWorker):
        return f"lost its worker, tried {error.allowed_failures + 1} times"
    return f"{type(error).__name__}: {error}"


def _name(task: Mapping[str, Any]) -> str:
    return " ".join([Path(task["picture"]).stem, task["setting"]]).strip()


def _summarize(
    experiment: Experiment,
    results: list[dict[str, Any]],
    config: Any,
    folder: Path,
) -> None:
    """Writes what an experiment says of a setting; a failure there stops nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        experiment.summarize(results, config, folder)
    except Exception:  # Anything: the results themselves are there.
        traceback.print_exc()


def _write_table(settings: dict[str, list[dict[str, Any]]], workdir: Path) -> str:
    """Writes means over pictures, a row for each setting; returns them as Markdown."""
    rows = {text: _means(results) for text, results in settings.items()}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [
        [literal(setting), *(significant(row.get(name), _DIGITS) for name in columns)]
        for setting, row in rows.items()
    ]
    text = table(["setting", *map(literal, columns)], lines)
    write_json(workdir / "summary.json", rows)
    atomic_write(workdir / "summary.md", text.encode())
    return text


def _means(results: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the number of pictures, and the means of what is a number in all."""
    each = [scalars(result) for result in results]
    names = [n for n in (each[0] if each else ()) if all(n in row for row in each)]
    means = {name: statistics.fmean(row[name] for row in each) for name in names}
    return {"pictures": len(results), **means}


def main(config: Config) -> int:
    """Runs what the flags say; the exit code is 1 where a task failed."""
    # Who is asked to end ends its jobs first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return min(run(config), 1)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    run_script(Config, main)
