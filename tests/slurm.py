"""A Slurm of one's own on this machine, as root, without systemd: real daemons."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobRequeue=1
KillWait=1
SlurmdTimeout=5
InactiveLimit=0
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm(NamedTuple):
    """A cluster that runs."""

    environment: dict[str, str]  # of programs that are to use it
    nodes: dict[str, subprocess.Popen]  # their daemons

    def kill_node(self, name: str) -> None:
        """Kills a node's daemon and all that runs on it, as when its power fails."""
        self.nodes[name].kill()
        self.nodes[name].wait()
        _kill_jobs(self.environment["SLURM_CONF"], name)


def why_not() -> str | None:
    """Returns why no Slurm can be started here."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    return None


@contextlib.contextmanager
def running(folder: Path, count: int) -> Iterator[Slurm]:
    """Starts a Slurm of some nodes with a core each, and ends it.

    Args:
      folder: for its files.
      count: of nodes, all of them this machine.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    ports = _free_ports(count + 1)
    host = socket.gethostname().split(".")[0]
    names = [f"n{number}" for number in range(count)]
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
        "CPUs=1 RealMemory=1000 State=UNKNOWN"
        for name, port in zip(names, ports[1:])
    ]
    text = _CONFIGURATION.format(
        host=host, ports=ports, folder=folder, nodes="\n".join(nodes)
    )
    configuration = folder / "slurm.conf"
    configuration.write_text(text)
    (folder / "cgroup.conf").write_text(_cgroup_configuration())
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": _path()}
    started: list[subprocess.Popen] = []

    def start(*command) -> subprocess.Popen:
        with (folder / f"{command[0]}{len(started)}.log").open("w") as log:
            started.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            )
        return started[-1]

    munge = {"socket": "munge.sock", "pid-file": "munged.pid", "seed-file": "seed"}
    munge |= {"key-file": "munge.key", "log-file": "munged.log"}
    options = [f"--{name}={folder}/{file}" for name, file in munge.items()]
    try:
        start("munged", "--foreground", "--force", *options)
        _wait(lambda: (folder / "munge.sock").exists())
        start("slurmctld", "-D")
        daemons = {name: start("slurmd", "-D", "-N", name) for name in names}
        query = ["sinfo", "--noheader", "--states=idle", "--format=%D"]

        def all_idle() -> bool:
            answer = subprocess.run(
                query, env=environment, capture_output=True, text=True
            )
            return answer.stdout.strip() == str(count)

        _wait(all_idle)
        yield Slurm(environment, daemons)
    finally:
        _kill_jobs(str(configuration))
        for daemon in reversed(started):
            daemon.send_signal(signal.SIGTERM)
        for daemon in started:
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _cgroup_configuration() -> str:
    """Returns how this version is told to leave cgroups alone."""
    version = subprocess.run(
        ["slurmd", "-V"],
        env=os.environ | {"PATH": _path()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    year = int(version.split()[1].split(".")[0])  # As in "slurm-wlm 22.05.8".
    return "CgroupAutomount=no\n" if year < 23 else "CgroupPlugin=disabled\n"


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _kill_jobs(configuration: str, node: str | None = None) -> None:
    """Kills what runs in jobs, of one node or of all."""
    jobs, keepers = [], set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            name = environment.get("SLURMD_NODENAME")
            ours = environment.get("SLURM_CONF") == configuration
            if ours and name is not None and node in (None, name):
                jobs.append(process)
                parents = process.parents()
                keepers |= {one for one in parents if "slurmstepd" in one.name()}
    # Those who keep the jobs first: they would report them as ended.
    for process in [*keepers, *jobs]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _wait(ready, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError("Slurm did not start")
        time.sleep(0.05)
