"""What only Slurm's controller knows of a job: its name, its end, and how soon after SIGTERM it is killed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ..picaslogger import get_logger
from .base import End, SchedulerError, run_command, whole_number

log = get_logger(__name__)

TIMEOUT = 20.0
"""Seconds that a pilot waits for an answer."""
END_VARIABLE = "SLURM_JOB_END_TIME"
KEPT = (120.0, 600.0)
"""The least and the most seconds for which an answer counts: 1,000 pilots ask less than ten times a second."""
KEPT_SHARE = 0.1
"""In between, it counts for this share of the time that the job has left."""


@dataclass(frozen=True)
class Answer:
    """What is known of a job."""

    name: str
    """The id by which squeue lists it, '' if unknown."""
    end: float
    """When it must end, on the clock of `time.monotonic`; infinity if it has no time limit, or that is unknown."""
    source: str
    """What says so, for people."""
    until: float
    """Until when this counts, on the same clock."""


_answers: dict[str, Answer] = {}
_kill_waits: dict[str, float] = {}


def pause_before_asking(seconds_left: float) -> float:
    """Return how many seconds an answer counts.

    :param seconds_left: the seconds that the job has left
    """
    least, most = KEPT
    return min(most, max(least, KEPT_SHARE * seconds_left))


def name_of(job: str, environment: Mapping[str, str]) -> str:
    """Return the id by which squeue lists a job, "array_number" for a task of an array; '' if it does not say.

    Called for each token, so squeue is asked once.

    :param job: the job's SLURM_JOB_ID
    """
    known = _answers.get(job)
    return (known or _ask(job, environment)).name


def end_of(job: str, environment: Mapping[str, str]) -> End:
    """Return when a job must end, as far as that is known.

    :param job: the id of exactly this job
    """
    known = _answers.get(job)
    if known is None and environment.get(END_VARIABLE):
        known = _keep(job, _told(environment))
    elif known is None or time.monotonic() >= known.until:
        known = _ask(job, environment)
    return End(known.end - time.monotonic(), known.source)


def kill_wait(environment: Mapping[str, str]) -> float:
    """Return how many seconds after SIGTERM Slurm kills a job, infinity if unknown (slurm.conf(5), KillWait)."""
    cluster = environment.get("SLURM_CLUSTER_NAME", "")
    if cluster not in _kill_waits:
        _kill_waits[cluster] = _ask_kill_wait(environment)
    return _kill_waits[cluster]


def parse_time_left(text: str) -> float | None:
    """Return the seconds in squeue's "[days-][[hours:]minutes:]seconds", infinity for no limit, None if unknown."""
    if text.strip() == "UNLIMITED":
        return math.inf
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _told(environment: Mapping[str, str]) -> Answer:
    """Return what the variables of a job say."""
    end = whole_number(environment.get(END_VARIABLE, ""))
    if end is None:
        return Answer("", math.inf, "squeue", 0.0)
    return Answer("", time.monotonic() + end - time.time(), END_VARIABLE, 0.0)


def _keep(job: str, answer: Answer) -> Answer:
    now = time.monotonic()
    kept = Answer(answer.name, answer.end, answer.source, now + pause_before_asking(answer.end - now))
    _answers[job] = kept
    return kept


def _ask(job: str, environment: Mapping[str, str]) -> Answer:
    """Return what squeue says of a job, or what was known before if it fails."""
    known = _answers.get(job) or _told(environment)
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%L %i"]
    try:
        answers = re.findall(r"^ *(\S+) +(\d\S*) *$", _run(command, environment), re.MULTILINE)
    except SchedulerError as error:
        if job not in _answers and known.end == math.inf:
            log.warning("The end of this job is unknown, squeue failed: %s", error)
        return _keep(job, known)
    if not answers:
        return _keep(job, known)
    left, name = answers[-1]
    # A heterogeneous job has a line for each component ("7+0"), and ends with the first of them.
    components = [parse_time_left(left) for left, name in answers if "+" in name]
    seconds = min((each for each in components if each is not None), default=parse_time_left(left))
    end = known.end if seconds is None else time.monotonic() + seconds
    return _keep(job, Answer(name, end, "squeue", 0.0))


def _ask_kill_wait(environment: Mapping[str, str]) -> float:
    try:
        config = _run(["scontrol", "show", "config"], environment)
    except SchedulerError as error:
        log.info("It is unknown how soon after SIGTERM Slurm kills a job, scontrol failed: %s", error)
        return math.inf
    match = re.search(r"^KillWait\s*=\s*(\d+) sec", config, re.MULTILINE)
    return float(match[1]) if match else math.inf


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    """Return what a command says of the cluster of this job, even if its user has submitted it from another."""
    own = {name: value for name, value in environment.items() if name != "SLURM_CLUSTERS"}
    return run_command(command, own, TIMEOUT)
