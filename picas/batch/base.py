"""`BatchSystem`: all that PiCaS can know of a batch system, or do with it."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ..exceptions import PicasError

COMMAND_TIMEOUT = 60.0
"""Seconds that a command of a batch system may take."""

T = TypeVar("T")


class SchedulerError(PicasError):
    """A command of the batch system failed; the text is its error message."""


class Jobs(NamedTuple):
    """The jobs of one name that have not ended."""

    pending: frozenset[str]
    """The ids of the jobs that wait for a node."""
    running: frozenset[str]
    """The ids of the jobs that run, as tokens and pilots record them, see `picas.jobid`."""

    def __len__(self) -> int:
        return len(self.pending) + len(self.running)


class ArrayTask(NamedTuple):
    """One task of a job array."""

    array: str
    """The id of the array."""
    number: str
    """The number of the task in the array."""


class End(NamedTuple):
    """When a job must end."""

    seconds: float
    """Seconds from now; infinity if unknown."""
    source: str
    """The variable or command that says so, for log messages."""


UNKNOWN_END = End(math.inf, "")


@dataclass(frozen=True)
class Share:
    """The share of a process in what was granted on its node, where the batch system has started several of a kind."""

    number: int
    """The number of the process among those on this node, from 0 on."""
    count: int
    """How many there are on this node."""

    def of(self, things: Sequence[T]) -> Sequence[T]:
        """Return the things that belong to this process: each belongs to one of them, and neighbours stay together."""
        first, end = (-(-len(things) * number // self.count) for number in (self.number, self.number + 1))
        return things[first:end]


WHOLE = Share(0, 1)
"""The share of a process that is alone on its node."""


class Scheduler:
    """What the autopilot needs of a batch system. A subclass implements both methods."""

    def jobs(self, name: str) -> Jobs:
        """Return this user's jobs of a name.

        :raises SchedulerError: if the batch system does not answer
        """
        raise NotImplementedError("jobs is not implemented")

    def submit(self, name: str, count: int, script: str, arguments: Sequence[str], options: Sequence[str]) -> str:
        """Submit jobs and return the id that the batch system gives to all of them.

        :param name: the name of the jobs
        :param count: the number of jobs
        :param script: the batch script
        :param arguments: the arguments of the script
        :param options: options of the command that submits
        :raises SchedulerError: if the batch system refuses them
        """
        raise NotImplementedError("submit is not implemented")


class BatchSystem(Scheduler):
    """A batch system. Each method returns what a job's environment says; by default, nothing is known.

    Batch systems are layered: an environment may carry the variables of several. `layers` combines their answers.
    """

    job_id_field = ""
    """The field of a token that holds the job id, '' if tokens record none."""

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """Return the id of the job, '' for a job whose id is unusable, None outside a job of this system."""
        return None

    def array_task(self, environment: Mapping[str, str]) -> ArrayTask | None:
        """Return which task of which job array the job is, None if it is not part of an array."""
        return None

    def restart_count(self, environment: Mapping[str, str]) -> int | None:
        """Return how often the job was restarted, None if unknown."""
        return None

    def end(self, environment: Mapping[str, str]) -> End:
        """Return when this system ends the job."""
        return UNKNOWN_END

    def kill_wait(self, environment: Mapping[str, str]) -> float:
        """Return how many seconds after SIGTERM this system kills a job that is cancelled, infinity if unknown."""
        return math.inf

    def share(self, environment: Mapping[str, str]) -> Share:
        """Return the share of this process in what the job was granted on this node."""
        return WHOLE

    def cores(self, environment: Mapping[str, str]) -> int | None:
        """Return how many processors of this node this process was granted, None if unknown."""
        return None

    def memory(self, environment: Mapping[str, str]) -> float:
        """Return how many megabytes of 2^20 bytes the job may use on this node, infinity if unknown."""
        return math.inf

    def gpus(self, environment: Mapping[str, str]) -> int | None:
        """Return how many GPUs of this node the job was granted, None if unknown."""
        return None


def text_of(environment: Mapping[str, str], name: str) -> str:
    """Return the value of an environment variable without surrounding white space, '' if it is not set."""
    try:  # faster than get(), which matters: the job id is looked up for each token
        return environment[name].strip()
    except KeyError:
        return ""


def whole_number(text: str) -> int | None:
    """Return the number above or equal to 0 that a text holds, None if it holds anything else."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,20}\s*", text) else None


def number_of(environment: Mapping[str, str], *names: str) -> int | None:
    """Return the number above 0 in the first of these environment variables that has one, None if none has."""
    numbers = (whole_number(environment.get(name, "")) for name in names)
    return next((number for number in numbers if number), None)


def run_command(
    command: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = COMMAND_TIMEOUT
) -> str:
    """Run a command of a batch system and return its standard output.

    :param environment: the environment of the command; None for that of this process
    :param timeout: seconds that it may take
    :raises SchedulerError: if it fails
    """
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise SchedulerError(f"there is no command {command[0]} here") from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command[0]} did not answer within {timeout:.0f} s") from None
    except OSError as error:
        raise SchedulerError(f"{command[0]}: {error.strerror}") from None
    if ran.returncode:
        raise SchedulerError(first_line(ran.stderr) or f"{command[0]} ended with exit code {ran.returncode}")
    return ran.stdout


def first_line(text: str) -> str:
    """Return the first line of a text that is not blank, '' if there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
