"""An experiment for the tests of sweeps: it writes down what it does, and obeys files.

A "picture" is a text: 'raise', 'raise once', 'die', or anything else.
"""

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runner
from experiments.config import fingerprint, setting
from experiments.records import write_json
from gi_jax.images import atomic_write


@dataclasses.dataclass(frozen=True)
class Config:
    images: str = setting(help="files")
    workdir: str = setting(help="folder")
    level: int = setting(1, help="a number")
    seconds: float = setting(0.0, help="that a task takes")
    name: str | None = setting(None, help="a text")

    def __post_init__(self) -> None:
        if self.level < 0:
            raise ValueError(f"level: expected at least 0, got {self.level}")


def note(workdir: str, *words: Any) -> None:
    """Appends a line to the journal, whole even where others do the same."""
    with open(Path(workdir) / "journal", "a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def run_picture(path: Path, folder: Path, config: Config) -> dict[str, Any]:
    order = path.read_bytes()
    settings = runner.settings_of(config, np.frombuffer(order, np.uint8))
    finished = runner.read_finished(folder, settings)
    if finished:
        return finished
    node = os.environ.get("SLURMD_NODENAME", "here")
    task = f"{path.stem},{config.level}"
    note(config.workdir, "start", task, os.getpid(), node)
    time.sleep(config.seconds)
    if order == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == b"raise" or (order == b"raise once" and not (folder / "once").exists()):
        (folder / "once").touch()
        raise RuntimeError("told to")
    if (folder / runner.METRICS).exists():
        note(config.workdir, "twice", task, os.getpid(), node)
    result = {"picture": path.stem, "bytes": len(order), "config": settings}
    result |= {"fingerprint": fingerprint(settings)}
    write_json(folder / runner.METRICS, result)
    note(config.workdir, "finish", task, os.getpid(), node)
    return result


def summarize(results: list[dict[str, Any]], config: Config, workdir: Path) -> str:
    text = " ".join(result["picture"] for result in results)
    atomic_write(workdir / "names.txt", text.encode())
    return text


EXPERIMENT = runner.Experiment(Config, run_picture, summarize)
