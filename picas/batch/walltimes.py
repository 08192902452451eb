"""When the job that runs this process must end, as its batch system tells."""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..jobid import job_ad
from ..processes.descendants import age_of
from .features import JOB, MACHINE, feature

log = logging.getLogger(__name__)

VARIABLE = "PICAS_WALLTIME"
"""The environment variable that says how many seconds a pilot has, for batch systems that do not tell."""

MARGIN = 120.0
"""Seconds before the end in which no token is at work any more: time to save results, and for a batch system that warns
a job early. Slurm may do so a minute earlier than it was asked to (sbatch(1), --signal)."""
MARGIN_SHARE = 0.1
"""The margin is no more than this share of the time that is left when a pilot starts."""

ASK_TIMEOUT = 20.0
"""Seconds to wait for the batch system's answer."""


class End(NamedTuple):
    """When a job must end."""

    seconds: float
    """So many from now; infinity if nothing is known."""
    source: str
    """What tells."""


UNKNOWN = End(math.inf, "")


def deadline(walltime: float = math.inf) -> tuple[float, str]:
    """Return the time until which a pilot that starts now may have tokens at work, and what tells when it must end.

    That is some time before the end of its job, see `MARGIN`.

    :param walltime: seconds from now to that end; infinity if the batch system is to tell
    :returns: on the clock of `time.monotonic`, infinity if nothing tells
    """
    end = job_end() if walltime == math.inf else End(walltime, "as it was told")
    if end.seconds == math.inf:
        return math.inf, ""
    margin = min(MARGIN, MARGIN_SHARE * max(end.seconds, 0.0))
    return time.monotonic() + end.seconds - margin, end.source


def job_end(environment: Mapping[str, str] = os.environ) -> End:
    """Return when the job of this process must end.

    Batch systems are layered (DIRAC starts jobs through Slurm), and each ends what it has started: the earliest counts.
    LSF, Grid Engine and PBS Professional tell a job nothing of it.
    """
    return min(_ends(environment), default=UNKNOWN)


def _ends(environment: Mapping[str, str]) -> Iterator[End]:
    """Yield all that is told, in seconds from now."""
    now = time.time()
    job = _slurm_job(environment)
    if job:
        end = _number(environment.get("SLURM_JOB_END_TIME", ""))  # of newer releases
        if end is not None:
            yield End(end - now, "SLURM_JOB_END_TIME")
        else:
            yield End(_ask_squeue_once(job, environment) - time.monotonic(), "squeue")
    walltime = _number(environment.get("PBS_WALLTIME", ""))  # Torque
    if environment.get("PBS_JOBID") and walltime is not None:
        # The job is as old as the first process of its session.
        yield End(walltime - age_of(os.getsid(0)), "PBS_WALLTIME")
    yield from _features(environment, now)
    yield from _condor(environment, now)


def _slurm_job(environment: Mapping[str, str]) -> str:
    """Return the id by which Slurm tells of this very job, '' outside one.

    One task of an array has the id of the whole array, by which Slurm tells of all tasks.
    """
    array, task = environment.get("SLURM_ARRAY_JOB_ID", ""), environment.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID", "")


def _features(environment: Mapping[str, str], now: float) -> Iterator[End]:
    """Yield what the machine and job features say."""
    limit, start = feature(environment, JOB, "wall_limit_secs"), feature(environment, JOB, "jobstart_secs")
    if limit is not None and start is not None:
        yield End(start + limit - now, "$JOBFEATURES/wall_limit_secs")
    for folder, name in ((JOB, "shutdowntime_job"), (MACHINE, "shutdowntime")):
        when = feature(environment, folder, name)
        if when:  # 0 stands for none
            yield End(when - now, f"${folder}/{name}")


def _condor(environment: Mapping[str, str], now: float) -> Iterator[End]:
    """Yield what the file says in which HTCondor describes a job to it.

    The duration of the execution counts from a later time, which is not in there; the earlier one is on the safe side.
    """
    numbers = job_ad(environment)
    start = numbers.get("JobCurrentStartDate")
    for name in ("AllowedJobDuration", "AllowedExecuteDuration"):
        if start is not None and name in numbers:
            yield End(start + numbers[name] - now, f"{name} of HTCondor's job")


def _ask_squeue_once(job: str, environment: Mapping[str, str]) -> float:
    """Return when a job of Slurm's must end, on the clock of `time.monotonic`; infinity if Slurm does not tell.

    A script may call `run` again and again, and the controller has many to answer.
    """
    if job not in _asked:
        left = _ask_squeue(job, environment)
        _asked[job] = math.inf if left is None else time.monotonic() + left
    return _asked[job]


_asked: dict[str, float] = {}  # what Slurm has told, by the job


def _ask_squeue(job: str, environment: Mapping[str, str]) -> float | None:
    """Return how many seconds a job has left; None if Slurm says that there is no limit, or nothing."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%L"]
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "env": dict(environment)}
    try:
        asked = subprocess.run(command, timeout=ASK_TIMEOUT, check=True, **options)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("When this job must end is not known, squeue does not tell: %s", error)
        return None
    return parse_time_left(asked.stdout.decode("ascii", errors="replace").partition("\n")[0])


def parse_time_left(text: str) -> float | None:
    """Return the seconds that squeue's "[days-][[hours:]minutes:]seconds" stands for, None for no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _number(text: str) -> float | None:
    """Return the number above or equal to 0 that a text says, None if it is none."""
    return float(text) if text.strip().isdecimal() else None
