"""`BatchSystem`: all that PiCaS can know of a batch system, or do with it."""

from __future__ import annotations

import math
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from ..exceptions import PicasError

COMMAND_TIMEOUT = 60.0
"""Seconds that a command of a batch system may take."""
_POLL = 0.5
"""Seconds between two looks at what a running command has said on standard error."""
DISTURBING = {
    "squeue": re.compile(r"SQUEUE_|SLURM_(TIME_FORMAT|BITSTR_LEN|DEBUG_FLAGS)$"),
    "sbatch": re.compile(r"SBATCH_(WAIT|TEST_ONLY|DEBUG|ARRAY_INX|JOB_NAME)$"),
    "scontrol": re.compile(r"SLURM_(TIME_FORMAT|BITSTR_LEN|DEBUG_FLAGS)$"),
}
"""The environment variables of a user that are withheld from a command, because they change its output, which jobs it
lists, or when it ends. All others take effect, such as SBATCH_ACCOUNT. See squeue(1) and sbatch(1)."""
MAX_ERRORS = 3
"""The most lines of an error message that are kept."""
_ERROR = re.compile(r"\s*[\w./-]+: (error|fatal): ")

T = TypeVar("T")


class SchedulerError(PicasError):
    """A command of the batch system failed; the text is its error message."""


class NoAnswer(SchedulerError):
    """A command of the batch system did not end in time."""


class LimitReached(SchedulerError):
    """The batch system accepts no further job for now, because there are too many."""


class Jobs(NamedTuple):
    """The jobs of one name that have not ended."""

    pending: frozenset[str]
    """The ids of the jobs that wait for a node."""
    running: frozenset[str]
    """The ids of the jobs that run, as tokens and pilots record them, see `picas.jobid`."""
    blocked: Mapping[str, str] = MappingProxyType({})
    """Those of the pending jobs that will not start unless a person does something, each with the reason."""
    closed: str = ""
    """Why no further job of this kind could start either, '' if it could."""

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


class KillWait(NamedTuple):
    """How soon after SIGTERM a batch system kills a job that is cancelled."""

    seconds: float
    """Infinity if unknown."""
    is_certain: bool
    """Whether the batch system has said so; if not, a site may have set another time."""


UNKNOWN_KILL_WAIT = KillWait(math.inf, False)


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


@dataclass(frozen=True)
class JobTemplate:
    """What jobs that are submitted alike have in common."""

    name: str
    """The name of the jobs, by which they are found in the queue."""
    script: str
    """The batch script."""
    arguments: tuple[str, ...] = ()
    """The arguments of the script."""
    options: tuple[str, ...] = ()
    """Options of the command that submits."""


class Submitted(NamedTuple):
    """Jobs that were submitted."""

    groups: tuple[tuple[str, int], ...]
    """The id of each group of jobs, such as a job array, and the number of its jobs."""
    refusal: str = ""
    """Why there are fewer jobs, or smaller groups, than asked for; '' if that is not so."""


@dataclass(frozen=True)
class Granted:
    """What a job will have, as far as that is known before it runs. What is None is unknown."""

    cores: int | None = None
    memory: float | None = None
    """Megabytes of 2^20 bytes."""
    gpus: int | None = None
    tags: frozenset[str] | None = None
    walltime: float | None = None
    """Seconds; infinity if there is no limit."""


class Scheduler:
    """What the autopilot needs of a batch system. A subclass implements `jobs` and `submit`; the rest is optional."""

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

    def place(self) -> str:
        """Return a short name for the queue with this user's jobs, '' if all autopilots of a pool see the same queue.

        :raises SchedulerError: if the batch system does not answer
        """
        return ""

    def queue(self, templates: Sequence[JobTemplate]) -> list[Jobs | SchedulerError]:
        """Return this user's jobs of each template, or why they are not known."""
        return [self._jobs_of(template) for template in templates]

    def submit_jobs(self, template: JobTemplate, count: int) -> Submitted:
        """Submit jobs, fewer if the batch system has limits.

        :raises SchedulerError: if the batch system accepts none
        """
        id = self.submit(template.name, count, template.script, template.arguments, template.options)
        return Submitted(((id, count),))

    def granted(self, template: JobTemplate) -> Granted:
        """Return what a job will have."""
        return Granted()

    def output_file(self, template: JobTemplate, job: str, folder: str) -> str:
        """Return the path of the file with the output of a job, '' if it is unknown.

        :param template: what the job was submitted with
        :param job: the id of the job
        :param folder: the working directory in which it was submitted
        """
        return ""

    def _jobs_of(self, template: JobTemplate) -> Jobs | SchedulerError:
        try:
            return self.jobs(template.name)
        except SchedulerError as error:
            return error


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

    def kill_wait(self, environment: Mapping[str, str]) -> KillWait:
        """Return how soon after SIGTERM this system kills a job that is cancelled."""
        return UNKNOWN_KILL_WAIT

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
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
    give_up: re.Pattern[str] | None = None,
) -> str:
    """Run a command of a batch system and return its standard output.

    :param command: the command and its arguments
    :param environment: the environment of the command; None for that of this process. Variables in `DISTURBING` are
        withheld.
    :param timeout: seconds that it may take, by default `COMMAND_TIMEOUT`
    :param give_up: the command is ended once it has said something like this on standard error
    :raises NoAnswer: if it does not end in time
    :raises SchedulerError: if it fails; the text is its error message
    """
    given = os.environ if environment is None else environment
    withheld = DISTURBING.get(command[0])
    usable = {name: value for name, value in given.items() if withheld is None or not withheld.match(name)}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=usable,
        )
    except FileNotFoundError:
        raise SchedulerError(f"there is no command {command[0]} here") from None
    except OSError as error:
        raise SchedulerError(f"{command[0]}: {error.strerror}") from None
    with process:
        try:
            stdout, stderr = _wait(process, COMMAND_TIMEOUT if timeout is None else timeout, give_up, command[0])
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise SchedulerError(error_line(stderr) or f"{command[0]} ended with exit code {process.returncode}")
    return stdout


def _wait(
    process: subprocess.Popen[str], timeout: float, give_up: re.Pattern[str] | None, name: str
) -> tuple[str, str]:
    """Return the standard output and the standard error of a process once it has ended."""
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise NoAnswer(f"{name} did not answer within {timeout:.0f} s")
        try:
            return process.communicate(timeout=left if give_up is None else min(_POLL, left))
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace")  # bytes, whatever the mode of the process
            if give_up is not None and give_up.search(said):
                raise SchedulerError(error_line(said)) from None


def error_line(text: str) -> str:
    """Return the error message in standard error, as one line; '' if there is none.

    These are the last lines of the form "sbatch: error: ...", because banners of the site may come before, else the
    last line that is not blank.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)][-MAX_ERRORS:]
    return "; ".join([*errors[:1], *(_ERROR.sub("", line) for line in errors[1:])]) or (lines or [""])[-1]
