"""A real Slurm cluster with two nodes on this machine. It needs no systemd, root or keys, and listens on 127.0.0.1."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.workers import is_alive, wait_for

NODES = ("n1", "n2")
CORES = 4
"""Cores of each node."""
MEMORY = 1000
"""Megabytes of each node."""
ARRAY_SIZE = 20
"""The tasks of a job array have numbers below this."""
GPUS = 2
"""GPUs of each node. Their device files are links to /dev/null."""
_FOLDERS = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
)  # not every PATH contains the daemons

CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
MaxArraySize={array_size}
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
KillWait=5
SlurmdTimeout=6
MessageTimeout=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cores} RealMemory={memory} Gres=gpu:{gpus}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cores} RealMemory={memory} Gres=gpu:{gpus}
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
GENERIC_RESOURCES = "Name=gpu File={folder}/gpu[0-{last}]\n"
"""The file gres.conf. Slurm numbers the GPUs in the order of their files."""


def missing() -> str | None:
    """Return why Slurm is not available, or None if it is."""
    for program in ("slurmctld", "slurmd", "sbatch"):
        if shutil.which(program, path=_FOLDERS) is None:
            return f"not installed: {program} (root on Debian: tests/run.sh --install)"
    return None


class Slurm:
    """The cluster, as a context manager.

    Its folder has a short name, because the paths of the daemons' sockets have a maximum length.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="picas-slurm-", dir="/tmp"))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": _FOLDERS,
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Slurm:
        try:
            for name in ("state", "log", *(f"spool/{node}" for node in NODES)):
                (self.folder / name).mkdir(parents=True)
            host = socket.gethostname().partition(".")[0]
            settings = {"host": host, "ports": _free_ports(3), "user": getpass.getuser(), "folder": self.folder}
            text = CONFIGURATION.format(cores=CORES, memory=MEMORY, gpus=GPUS, array_size=ARRAY_SIZE, **settings)
            (self.folder / "slurm.conf").write_text(text, encoding="ascii")
            for number in range(GPUS):
                (self.folder / f"gpu{number}").symlink_to(os.devnull)  # Slurm wants a device
            resources = GENERIC_RESOURCES.format(folder=self.folder, last=GPUS - 1)
            (self.folder / "gres.conf").write_text(resources, encoding="ascii")
            self._start("slurmctld", "slurmctld", "-D")
            for node in NODES:
                self.start_node(node)
            self.wait_for_nodes()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End all jobs and daemons, and remove the folder."""
        with contextlib.suppress(AssertionError, subprocess.SubprocessError):
            self.cancel_all()
        for name in sorted(self._daemons):  # nodes first: "slurmctld" sorts after their names
            self._daemons[name].terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node: its daemon and all processes on it."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        for pid in self._left():
            if self._is_on(pid, node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def kill_daemons(self, node: str) -> None:
        """Kill the daemon of a node and the step daemons of its jobs, while the jobs themselves live on."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        for pid in self._left():
            if self._is_on(pid, node) and _read(pid, "comm").startswith(b"slurmstepd"):
                os.kill(pid, signal.SIGKILL)

    def pilots(self) -> list[int]:
        """Return the process ids of the running pilots."""
        return [pid for pid in self._left() if b"local-example.py" in _read(pid, "cmdline")]

    def wait_for_nodes(self) -> None:
        """Return when both nodes are ready for jobs."""
        wait_for(lambda: set(self._try("sinfo", "-h", "-N", "-t", "idle,alloc,mix", "-o", "%N").split()) == set(NODES))

    def run(self, *command: str | Path, **options: Any) -> str:
        """Run a Slurm command and return its output.

        :raises AssertionError: if it fails
        """
        options = {"env": self.environment, "capture_output": True, "text": True, "timeout": 30, **options}
        ran = subprocess.run(command, check=False, **options)
        assert ran.returncode == 0, f"{command[0]}: {ran.stdout}{ran.stderr}"
        return str(ran.stdout).strip()

    def submit(self, script: str | Path, *arguments: str, options: tuple[str, ...] = (), **run_options: Any) -> str:
        """Submit a batch script and return the job id."""
        return self.run("sbatch", "--parsable", *options, script, *arguments, **run_options)

    def states(self, job: str) -> dict[str, str]:
        """Return the states of the jobs that Slurm still knows under this id; a task of an array has the key "A_T"."""
        lines = self._try("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i %T").splitlines()
        return dict(line.split(None, 1) for line in lines)

    def wait_for_end(self, job: str, seconds: float = 60.0) -> dict[str, str]:
        """Wait until all jobs with this id have ended, and return their final states."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}

        def ended() -> dict[str, str] | None:
            states = self.states(job)
            return states if states and ends.issuperset(states.values()) else None

        found: dict[str, str] = wait_for(ended, seconds)
        return found

    def cancel_all(self) -> None:
        """Cancel all jobs and return when they have left the queue.

        If a node never reports the end of a job, make it forget the job, as an administrator would.
        """
        self.run("scancel", "-u", getpass.getuser())
        try:
            wait_for(self._is_empty, 20)
        except AssertionError:
            self.forget_jobs()
            wait_for(self._is_empty, 40)

    def forget_jobs(self) -> None:
        """Make both nodes forget their jobs, and return when they are ready for new ones."""
        for node in NODES:
            self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=stuck")
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.wait_for_nodes()

    def _is_empty(self) -> bool:
        return not self.run("squeue", "-h")

    def _try(self, *command: str) -> str:
        """Return the output of a command, or "" if it fails because the controller is not up yet or forgot the job."""
        try:
            return self.run(*command)
        except (AssertionError, subprocess.SubprocessError):
            return ""

    def _start(self, name: str, *command: str) -> None:
        log = self.folder / "log" / f"{name}.out"
        with log.open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _left(self) -> list[int]:
        """Return the running processes that this cluster has started."""
        daemons = {daemon.pid for daemon in self._daemons.values()}
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if pid not in {*daemons, os.getpid()} and mark in _environ(pid) and is_alive(pid)]

    @staticmethod
    def _is_on(pid: int, node: str) -> bool:
        return f"SLURMD_NODENAME={node}\0".encode() in _environ(pid) + b"\0"


def _environ(pid: int) -> bytes:
    return _read(pid, "environ")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
