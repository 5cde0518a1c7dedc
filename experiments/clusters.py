"""Places where the tasks of a sweep are done: this machine, Slurm, any Dask scheduler.

Each worker is a process that does one task at a time. A worker that is lost is
replaced, and everything listens on loopback alone unless an interface is named: who
reaches a Dask scheduler can run code as its owner.
"""

import contextlib
import dataclasses
import getpass
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from experiments.config import check_least, fingerprint, setting
from experiments.optional import optional

dask = optional("dask", "cluster")
distributed = optional("distributed", "cluster")
ioloop = optional("tornado.ioloop", "cluster")

LOOPBACK: Final = "127.0.0.1"

# A worker on CPUs takes two cores: programs of XLA are threaded only in part.
_CORES: Final = 2

# Jobs of Slurm, unless told otherwise.
_JOBS: Final = 4

# Milliseconds after which workers that are lost are looked for.
_REPLACE: Final = 2000

# Seconds to find a scheduler.
_TIMEOUT: Final = 10

# Of the memory of a GPU, what JAX takes at its start where nobody says otherwise.
_MEMORY_FRACTION: Final = 0.75

_ROOT: Final = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where the tasks are done."""

    cluster: str = setting(
        "local", help="local, slurm, or a Dask scheduler's address as tcp://HOST:PORT"
    )
    workers: int | None = setting(
        None,
        help="processes that work at once, each a job on Slurm; default: one for each "
        "GPU or each two cores of this machine, or 4 jobs",
    )
    interface: str | None = setting(
        None,
        help="network interface to listen on, as eth0; default: loopback, which "
        "only processes of this machine reach",
    )
    slurm_partition: str | None = setting(None, help="partition (queue) of the jobs")
    slurm_account: str | None = setting(None, help="account of the jobs")
    slurm_cores: int = setting(_CORES, help="CPU cores of a job")
    slurm_memory: str = setting("8GB", help="memory of a job")
    slurm_walltime: str = setting("04:00:00", help="time limit of a job")
    slurm_gpus: int = setting(0, help="GPUs of a job")
    slurm_directives: str | None = setting(
        None, help="more of them, as '--constraint=h200;--qos=long'"
    )
    slurm_setup: str | None = setting(
        None, help="shell commands of a job before its worker, as 'module load cuda'"
    )

    def __post_init__(self) -> None:
        if self.cluster not in ("local", "slurm") and "://" not in self.cluster:
            raise ValueError(
                "cluster: expected local, slurm or tcp://HOST:PORT, "
                f"got {self.cluster!r}"
            )
        check_least(self, workers=1, slurm_cores=1, slurm_gpus=0)


@contextlib.contextmanager
def connect(place: Place, most: int, retries: int, logs: Path) -> Iterator[Any]:
    """Starts workers, or finds those of a scheduler that runs.

    Args:
      place: where.
      most: workers that have something to do.
      retries: workers that a task may lose before it has failed.
      logs: folder for what jobs print.

    Yields:
      Who takes tasks. The workers end with the context, but for a scheduler's own.

    Raises:
      ValueError: where there is no such cluster.
    """
    settings = {
        "distributed.scheduler.allowed-failures": retries,
        # Tasks wait at the scheduler, not at workers, where others would hold them up.
        "distributed.scheduler.worker-saturation": 1.0,
    }
    with dask.config.set(settings):
        if "://" in place.cluster:
            try:
                client = distributed.Client(place.cluster, timeout=_TIMEOUT)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"cluster: no scheduler answers at {place.cluster!r}: {error}"
                ) from error
            with client:
                yield client
            return
        start = _start_local if place.cluster == "local" else _start_slurm
        with start(place, most, logs) as cluster, distributed.Client(cluster) as client:
            yield client


def _start_local(place: Place, most: int, logs: Path) -> Any:
    gpus = visible_gpus()
    cores = len(os.sched_getaffinity(0))
    count = place.workers or min(most, len(gpus) or max(cores // _CORES, 1))
    listen = _listen(place)
    workers = {
        number: {
            "cls": distributed.Nanny,
            "options": listen
            | {
                "nthreads": 1,
                "memory_limit": 0,  # It is JAX that takes memory, not results.
                "env": worker_environment(number, count, gpus, cores),
                "silence_logs": logging.CRITICAL,
            },
        }
        for number in range(count)
    }
    scheduler = {"cls": distributed.Scheduler, "options": listen | {"port": 0}}
    return distributed.SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL)


def _start_slurm(place: Place, most: int, logs: Path) -> Any:
    SLURMCluster = optional("dask_jobqueue", "cluster").SLURMCluster

    if shutil.which("sbatch") is None:
        raise ValueError("cluster: Slurm's sbatch is not on the path of this machine")
    if place.interface is None:
        print(
            "the scheduler listens on loopback: jobs on other machines find it only "
            "with --interface",
            file=sys.stderr,
        )
    # Jobs of an earlier sweep with this workdir would wait for a driver that is dead.
    name = f"sweep-{fingerprint({'logs': str(logs.absolute())})}"
    subprocess.run(["scancel", f"--user={getpass.getuser()}", f"--name={name}"])
    directives = [part for part in (place.slurm_directives or "").split(";") if part]
    if place.slurm_gpus:
        directives.append(f"--gres=gpu:{place.slurm_gpus}")
    count = place.workers or min(most, _JOBS)
    cluster = SLURMCluster(
        queue=place.slurm_partition,
        account=place.slurm_account,
        cores=1,  # Threads for tasks.
        processes=1,
        job_cpu=place.slurm_cores,
        memory=place.slurm_memory,
        walltime=place.slurm_walltime,
        job_extra_directives=directives,
        job_script_prologue=[
            f"export PYTHONPATH={shlex.quote(_python_path())}",
            f"export PJRT_NPROC={place.slurm_cores}",
            place.slurm_setup or "",
        ],
        interface=place.interface or "lo",
        scheduler_options=_listen(place),
        worker_extra_args=["--memory-limit 0", "--dashboard-address", f"{LOOPBACK}:0"],
        job_name=name,
        log_directory=str(logs),
        silence_logs=logging.CRITICAL,
    )
    check = subprocess.run(
        ["sbatch", "--test-only"],
        input=cluster.job_script(),
        capture_output=True,
        text=True,
    )
    if check.returncode:
        cluster.close()
        raise ValueError(f"cluster: sbatch refuses a job: {check.stderr.strip()}")
    print(f"{count} jobs of the name {name}; what they print is in {logs}", flush=True)
    cluster.scale(count)
    # A job that is lost, with its node for example, does not come back by itself.
    replace = ioloop.PeriodicCallback(lambda: cluster.scale(count), _REPLACE)
    cluster.loop.add_callback(replace.start)  # type: ignore[union-attr]
    return cluster


def _listen(place: Place) -> dict[str, Any]:
    """Returns where a server listens."""
    host = (
        LOOPBACK
        if place.interface is None
        else distributed.utils.get_ip_interface(place.interface)
    )
    return {"host": host, "dashboard_address": f"{LOOPBACK}:0"}


def _python_path() -> str:
    """Returns where the workers find the project, and what else is found here."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(_ROOT), *filter(None, [inherited])])


def worker_environment(
    number: int, count: int, gpus: list[str], cores: int
) -> dict[str, str]:
    """Returns the variables of a local worker: its GPU, or its share of the cores.

    Args:
      number: of the worker, from 0.
      count: of workers.
      gpus: as `visible_gpus` names them.
      cores: of this machine.
    """
    environment = {}
    if gpus:
        shared = -(-count // len(gpus))
        fraction = f"{_MEMORY_FRACTION / shared:.3f}"
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        if shared > 1:
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = fraction
    else:
        environment["PJRT_NPROC"] = str(max(cores // count, 1))
    return environment


def visible_gpus() -> list[str]:
    """Returns the GPUs that JAX would take, without starting it in this process."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []  # No driver, no GPU.
    return listed.stdout.split()
