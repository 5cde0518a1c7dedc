"""Tests of experiments/sweep.py, tasks.py and clusters.py, on real clusters."""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import slurm

ROOT = Path(__file__).parents[1]
EXPERIMENT = "tests.sweep_experiment"


@pytest.fixture
def pictures(tmp_path):
    """Makes files to sweep over; returns a function from names and orders."""

    def make(**orders: str) -> str:
        (tmp_path / "in").mkdir(exist_ok=True)
        for name, order in orders.items():
            (tmp_path / "in" / name).write_text(order)
        return f"{tmp_path}/in/*"

    return make


def journal(workdir: Path) -> dict[str, list[list[str]]]:
    """Returns what tasks wrote: lists of [task, pid, node] by 'start', 'finish'."""
    entries = collections.defaultdict(list)
    with contextlib.suppress(FileNotFoundError):
        for line in (workdir / "journal").read_text().splitlines():
            word, *rest = line.split()
            entries[word].append(rest)
    return entries


def wait_for(ready, seconds: float = 60):
    """Returns what a function returns as soon as that is something."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def a_slurm(tmp_path):
    why = slurm.why_not()
    if why:
        pytest.skip(f"no Slurm here: {why}")
    with slurm.running(tmp_path / "slurm", 3) as cluster:
        yield cluster


def everything_listens_on_loopback(process: psutil.Process) -> bool:
    """Looks at a process and all that it started; true if some listen, on loopback."""
    addresses = []
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            for connection in one.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    addresses.append(connection.laddr.ip)
    assert set(addresses) <= {"127.0.0.1"}
    return bool(addresses)


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_nothing_is_lost_and_nothing_counted_twice(cluster, pictures, tmp_path):
    """A worker, a node and the driver are killed; two tasks are poisoned."""
    orders = {f"good{number}": "go" for number in range(9)}
    orders |= {"good1": "raise once", "raises": "raise", "takes_its_worker": "die"}
    workdir = tmp_path / "out"
    workdir.mkdir()
    command = [sys.executable, "-m", "experiments.sweep"]
    command += [f"--experiment={EXPERIMENT}", f"--images={pictures(**orders)}"]
    command += ["--grid=seconds=0.6", f"--workdir={workdir}", "--retries=1"]
    command += [f"--cluster={cluster}", "--workers=2"]
    command += ["--slurm_cores=1", "--slurm_memory=500MB"]
    with contextlib.ExitStack() as stack:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if cluster == "slurm":
            machine = stack.enter_context(a_slurm(tmp_path))
            environment |= machine.environment
            environment["DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT"] = "1s"

        def start() -> subprocess.Popen:
            log = stack.enter_context((tmp_path / "log").open("a"))
            return subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=log)

        driver = start()
        stack.callback(driver.kill)
        wait_for(lambda: len(journal(workdir)["start"]) >= 2)
        assert everything_listens_on_loopback(psutil.Process(driver.pid))
        _, worker, node = journal(workdir)["start"][-1]
        os.kill(int(worker), signal.SIGKILL)
        if cluster == "slurm":
            other = next(name for name in ("n0", "n1", "n2") if name != node)
            machine.kill_node(other)
        before = wait_for(lambda: journal(workdir)["finish"][:3][2:])
        driver.kill()
        driver.wait()
        done = {task for task, *_ in journal(workdir)["finish"]}
        started = len(journal(workdir)["start"])
        assert before and len(done) < len(orders)

        again = start()
        stack.callback(again.kill)
        assert again.wait(100) == 1
        text = (tmp_path / "log").read_text()

    entries = journal(workdir)
    finished = collections.Counter(task for task, *_ in entries["finish"])
    good = {f"{name},1" for name in orders if name.startswith("good")}
    assert finished == dict.fromkeys(good, 1), text
    assert not done & {task for task, *_ in entries["start"][started:]}
    failures = json.loads((workdir / "failures.json").read_text())
    errors = {Path(failure["picture"]).name: failure["error"] for failure in failures}
    assert errors == {
        "raises": "RuntimeError: told to",
        "takes_its_worker": "each of 2 workers died of it",
    }
    assert "2 of 11 tasks failed" in text
    assert "raises seconds=0.6: RuntimeError: told to" in text
    metrics = workdir.glob("*/seconds=0.6/metrics.json")
    assert {path.parts[-3] for path in metrics} == {task[:-2] for task in good}
    names = workdir / "summaries" / "seconds=0.6" / "names.txt"
    assert names.read_text().split() == sorted(task[:-2] for task in good)
