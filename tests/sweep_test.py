"""Tests of experiments/sweep.py, tasks.py and clusters.py, on real clusters."""

import collections
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster

from experiments import clusters, sweep, tasks
from tests import slurm, sweep_experiment

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


def listens_on_loopback(driver: int, workers: set[int]) -> bool:
    """Looks at all processes of a sweep; true if some listen, and all on loopback."""
    processes = [psutil.Process(driver), *psutil.Process(driver).children(True)]
    addresses = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for worker in map(psutil.Process, workers):
            processes += [worker, worker.parent()]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    addresses.append(connection.laddr.ip)
    return set(addresses) == {"127.0.0.1"}


def refuses_a_partition(machine, tmp_path, monkeypatch):
    """A job that Slurm does not take is an error at once."""
    config = sweep.Config(
        experiment=EXPERIMENT,
        images=f"{tmp_path}/in/*",
        workdir=f"{tmp_path}/other",
        cluster="slurm",
        slurm_partition="nowhere",
    )
    with monkeypatch.context() as patch:
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, machine.environment[name])
        with pytest.raises(ValueError, match=r"refuses a job: .*partition"):
            sweep.run(config)


# Without retries, tasks that lost a worker to others are blamed, and then acquitted.
@pytest.mark.parametrize(("cluster", "retries"), [("local", 1), ("slurm", 0)])
def test_nothing_is_lost_and_nothing_counted_twice(
    cluster, retries, pictures, tmp_path, monkeypatch
):
    """A worker, two nodes and the driver are killed; two tasks are poisoned."""
    orders = {f"good{number}": "go" for number in range(8)}
    orders |= {"good1": "raise once"} if retries else {}
    orders |= {"raises": "raise", "takes_its_worker": "die"}
    workdir = tmp_path / "out"
    workdir.mkdir()
    command = [sys.executable, "-m", "experiments.sweep"]
    command += [f"--experiment={EXPERIMENT}", f"--images={pictures(**orders)}"]
    command += ["--grid=seconds=0.4", f"--workdir={workdir}", f"--retries={retries}"]
    command += [f"--cluster={cluster}", "--workers=2"]
    command += ["--slurm_cores=1", "--slurm_memory=500MB"]

    def finished() -> set[str]:
        return {path.parts[-3] for path in workdir.glob("*/*/metrics.json")}

    with contextlib.ExitStack() as stack:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if cluster == "slurm":
            machine = stack.enter_context(a_slurm(tmp_path))
            environment |= machine.environment
            refuses_a_partition(machine, tmp_path, monkeypatch)
            environment["DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT"] = "4s"

        def start() -> subprocess.Popen:
            log = stack.enter_context((tmp_path / "log").open("a"))
            return subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=log)

        driver = start()
        stack.callback(driver.kill)
        wait_for(lambda: len(journal(workdir)["start"]) >= 2)
        workers = [int(pid) for _, pid, _ in journal(workdir)["start"]]
        assert listens_on_loopback(driver.pid, set(workers))
        os.kill(workers[-1], signal.SIGKILL)
        if cluster == "slurm":
            wait_for(finished)
            used = {node for *_, node in journal(workdir)["start"]}
            for node in used:
                machine.kill_node(node)
            wait_for(lambda: journal(workdir)["start"][-1][-1] not in used)
        wait_for(lambda: len(finished()) >= 3)
        driver.kill()
        driver.wait()
        if cluster == "local":
            pids = {int(pid) for _, pid, _ in journal(workdir)["start"]}
            wait_for(lambda: not any(map(psutil.pid_exists, pids)))
        done = finished()
        started = len(journal(workdir)["start"])

        again = start()
        stack.callback(again.kill)
        assert again.wait(100) == 1
        text = (tmp_path / "log").read_text()
        if cluster == "slurm":
            queue = ["squeue", "--noheader", "--states=PENDING,RUNNING"]
            assert subprocess.check_output(queue, env=environment) == b"", text

    entries = journal(workdir)
    good = {name for name in orders if name.startswith("good")}
    assert finished() == good, text
    assert not entries["twice"]
    assert not done & {task[:-2] for task, *_ in entries["start"][started:]}
    failures = json.loads((workdir / "failures.json").read_text())
    errors = {Path(failure["picture"]).name: failure["error"] for failure in failures}
    assert errors == {
        "raises": "RuntimeError: told to",
        "takes_its_worker": f"lost its worker, tried {retries + 1} times",
    }
    assert "2 of 10 tasks failed" in text
    assert "raises seconds=0.4: RuntimeError: told to" in text
    names = workdir / "summaries" / "seconds=0.4" / "names.txt"
    assert names.read_text().split() == sorted(good)


def test_any_scheduler_by_its_address(pictures, tmp_path, capsys, monkeypatch):
    config = sweep.Config(
        experiment=EXPERIMENT,
        images=pictures(a="go", b="go now", c="raise"),
        workdir=f"{tmp_path}/out",
        grid="level=1,2; name='x,y'",
        retries=0,
        cluster="tcp://",
    )

    def fail(*args):
        raise RuntimeError("no summary")

    (tmp_path / "out").mkdir()
    local = {"processes": False, "host": "127.0.0.1", "protocol": "tcp"}
    local |= {"dashboard_address": "127.0.0.1:0", "threads_per_worker": 1}
    with LocalCluster(n_workers=2, **local) as cluster:
        config = dataclasses.replace(config, cluster=cluster.scheduler_address)
        with monkeypatch.context() as patch:
            failing = sweep_experiment.EXPERIMENT._replace(summarize=fail)
            patch.setattr(sweep_experiment, "EXPERIMENT", failing)
            assert sweep.run(config) == 2
        assert "RuntimeError: no summary" in capsys.readouterr().err
        (tmp_path / "in" / "c").write_text("go again")
        assert sweep.run(config) == 0
    workdir = tmp_path / "out"
    counts = collections.Counter(task for task, *_ in journal(workdir)["finish"])
    assert counts == {f"{name},{level}": 1 for name in "abc" for level in (1, 2)}
    assert not (workdir / "failures.json").exists()
    # The commas of a text cannot be in the name of a folder: its hash is.
    folders = {path.name for path in (workdir / "a").iterdir()}
    assert folders == {path.name for path in (workdir / "summaries").iterdir()}
    table = (workdir / "summary.md").read_text()
    assert table in capsys.readouterr().out
    assert table.splitlines() == [
        "| setting | pictures | bytes |",
        "|---|---|---|",
        "| level=1,name=x,y | 3 | 5.3333 |",
        "| level=2,name=x,y | 3 | 5.3333 |",
    ]


def test_means_of_a_setting_are_of_its_only_point():
    results = [
        {"picture": "a", "psnr": None, "points": [{"psnr": 20.0, "preset": "fast"}]},
        {"picture": "b", "points": [{"psnr": 30.0, "extra": 1}]},
    ]
    assert sweep._means(results) == {"pictures": 2, "psnr": 25.0}
    assert sweep._means([]) == {"pictures": 0}


def test_one_task_given_to_two_workers_is_done_once(pictures, tmp_path):
    configs = {"": sweep_experiment.Config("", str(tmp_path), seconds=0.1)}
    (path,) = Path(pictures(a="go")).parent.iterdir()
    (task,) = tasks.make_tasks(EXPERIMENT, configs, [path], tmp_path).values()
    threads = [threading.Thread(target=tasks.run_task, args=[task]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal(tmp_path)["start"]) == len(journal(tmp_path)["finish"]) == 1
    assert [file.name for file in Path(task["folder"]).iterdir()] == ["metrics.json"]


def test_grid():
    text = " level = 1,2 ; name='a,b',c;"
    grid = {"level": ["1", "2"], "name": ["a,b", "c"]}
    assert tasks.parse_grid(text) == grid
    assert tasks.parse_grid("") == {}
    configs = tasks.make_configs(sweep_experiment.EXPERIMENT, grid, "in/*", "out")
    assert configs["level=2,name=a,b"] == sweep_experiment.Config(
        "in/*", "out", level=2, name="a,b"
    )
    assert len(configs) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"grid": "level"}, "expected NAME=VALUE,VALUE;NAME=VALUE, got 'level'"),
        ({"grid": "level=1,,2"}, "got 'level=1,,2'"),
        ({"grid": "level=1;level=2"}, "level is there twice"),
        ({"grid": "level=1,01"}, "level=01 is there twice"),
        ({"grid": "levle=1"}, "expected names of level, seconds, name; got 'levle'"),
        ({"grid": "workdir=1"}, "got 'workdir'"),
        ({"grid": "level=high"}, "level=high: .*invalid literal"),
        ({"grid": "level=-1"}, "level: expected at least 0, got -1"),
        ({"experiment": "fti"}, "expected one of .*fit, .*or a module.*got 'fti'"),
        ({"experiment": "tests.slurm"}, "or a module with an EXPERIMENT"),
        ({"images": "nothing*"}, "no file matches 'nothing.'"),
        ({"cluster": "pbs"}, "expected local, slurm or tcp://HOST:PORT, got 'pbs'"),
        ({"cluster": "tcp://127.0.0.1:9"}, "no scheduler answers at 'tcp:"),
        ({"cluster": "slurm"}, "sbatch is not on the path"),
        ({"workers": 0}, "workers: expected at least 1"),
        ({"retries": -1}, "retries: expected at least 0"),
    ],
)
def test_bad_flags_say_what_was_expected(
    flags, message, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(clusters, "_TIMEOUT", 0.2)
    monkeypatch.setenv("PATH", "")
    given = {"experiment": EXPERIMENT, "images": pictures(a="go")}
    given |= {"workdir": f"{tmp_path}/out"} | flags
    with pytest.raises(ValueError, match=message):
        sweep.run(sweep.Config(**given))
    assert not (tmp_path / "out").exists()


def test_local_workers_share_the_machine(monkeypatch, tmp_path):
    def variables(count, gpus):
        shares = [clusters.worker_environment(n, count, gpus, 8) for n in range(count)]
        return [{k: v for k, v in x.items() if k != "PYTHONPATH"} for x in shares]

    assert variables(2, []) == [{"PJRT_NPROC": "4"}] * 2
    assert variables(2, ["a", "b"]) == [
        {"CUDA_VISIBLE_DEVICES": "a"},
        {"CUDA_VISIBLE_DEVICES": "b"},
    ]
    assert variables(3, ["a", "b"])[2] == {
        "CUDA_VISIBLE_DEVICES": "a",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.375",
    }

    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho GPU-1\necho GPU-2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    assert clusters.visible_gpus() == ["GPU-1", "GPU-2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert clusters.visible_gpus() == ["3", "5"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert clusters.visible_gpus() == []
