"""What the autopilot needs of a batch system: which jobs of a name there are, and how to submit more."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from .exceptions import PicasError

TIMEOUT = 60.0
"""Seconds that a command of the batch system may take."""


class SchedulerError(PicasError):
    """A command of the batch system failed; the text says what it said."""


class Jobs(NamedTuple):
    """The jobs of one name that have not ended."""

    pending: frozenset[str]
    """The ids of those that wait for a node."""
    running: frozenset[str]
    """The ids of those that run, as tokens and pilots have them, see `jobid`."""

    def __len__(self) -> int:
        return len(self.pending) + len(self.running)


class Scheduler:
    """A batch system. A subclass implements both methods."""

    def jobs(self, name: str) -> Jobs:
        """Return this user's jobs of a name.

        :raises SchedulerError: if the batch system does not tell
        """
        raise NotImplementedError("jobs is not implemented")

    def submit(self, name: str, count: int, script: str, arguments: Sequence[str], options: Sequence[str]) -> str:
        """Submit so many jobs and return what the batch system calls them.

        :param name: their name
        :param script: the batch script
        :param arguments: its arguments
        :param options: options of the command that submits
        :raises SchedulerError: if it refuses
        """
        raise NotImplementedError("submit is not implemented")


class Slurm(Scheduler):
    """Slurm, by its commands squeue and sbatch."""

    WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"})
    AT_WORK = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "RESIZING"})

    def jobs(self, name: str) -> Jobs:
        """See `Scheduler.jobs`."""
        whose = f"--user={getpass.getuser()}"
        listed = _run(["squeue", "--noheader", "--array", whose, f"--name={name}", "--format=%i %T"])
        pairs = [line.split() for line in listed.splitlines()]
        if any(len(pair) != 2 for pair in pairs):
            raise SchedulerError(f"squeue wrote what is no list of jobs: {_first_line(listed)}")
        pending = frozenset(id for id, state in pairs if state in self.WAITING)
        return Jobs(pending, frozenset(id for id, state in pairs if state in self.AT_WORK))

    def submit(self, name: str, count: int, script: str, arguments: Sequence[str], options: Sequence[str]) -> str:
        """See `Scheduler.submit`: a job array."""
        command = ["sbatch", "--parsable", *options, f"--job-name={name}", f"--array=1-{count}", script, *arguments]
        environment = dict(os.environ)
        if "SLURM_JOB_ID" in environment:
            # What this job (scrontab's, say) was granted is not for those that it submits.
            granted = re.compile("SLURM_(?!CONF$|CLUSTERS$)")
            environment = {name: value for name, value in environment.items() if not granted.match(name)}
        return _run(command, environment).strip().partition(";")[0]  # the name of the cluster may follow


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Run a command and return its output.

    :raises SchedulerError: if it fails
    """
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise SchedulerError(f"there is no command {command[0]} here") from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command[0]} has not answered in {TIMEOUT:.0f} s") from None
    except OSError as error:
        raise SchedulerError(f"{command[0]}: {error.strerror}") from None
    if ran.returncode:
        raise SchedulerError(_first_line(ran.stderr) or f"{command[0]} ended with {ran.returncode}")
    return ran.stdout


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
