"""Slurm. Its commands are squeue and sbatch."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping

from ..picaslogger import get_logger
from .base import (
    CUDA_VISIBLE_DEVICES,
    UNKNOWN_END,
    ArrayTask,
    BatchSystem,
    End,
    GPUs,
    SchedulerError,
    first_line,
    number_of,
    run_command,
    text_of,
    whole_number,
)
from .slurm_jobs import SlurmQueue

log = get_logger(__name__)

JOB = "SLURM_JOB_ID"
"""The environment variable that is set in every job. Users set others, such as SLURM_CPUS_PER_TASK, in their shells."""

SQUEUE_TIMEOUT = 20.0
"""Seconds that a pilot waits for squeue when it starts."""

MEMORY_VARIABLES = (
    ("SLURM_MEM_PER_NODE", None),
    ("SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"),
    ("SLURM_MEM_PER_GPU", "SLURM_GPUS_ON_NODE"),
)
"""The variables with megabytes, and the variable with the number by which they are multiplied."""


class Slurm(SlurmQueue, BatchSystem):
    """Slurm, by its environment variables and commands."""

    job_id_field = "slurm_job_id"

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """Return the id by which Slurm knows exactly this job.

        The id of one task of an array is also the id of the whole array; so a task is named array_number.
        """
        array = text_of(environment, "SLURM_ARRAY_JOB_ID")
        number = array and text_of(environment, "SLURM_ARRAY_TASK_ID")
        if number:
            return f"{array}_{number}"
        return text_of(environment, JOB) or array or None

    def array_task(self, environment: Mapping[str, str]) -> ArrayTask | None:
        """See `BatchSystem.array_task`."""
        array, number = text_of(environment, "SLURM_ARRAY_JOB_ID"), text_of(environment, "SLURM_ARRAY_TASK_ID")
        return ArrayTask(array, number) if array and number else None

    def restart_count(self, environment: Mapping[str, str]) -> int | None:
        """Return how often the job was requeued; Slurm sets no variable before the first time."""
        if not environment.get(JOB):
            return None
        return number_of(environment, "SLURM_RESTART_COUNT") or 0

    def end(self, environment: Mapping[str, str]) -> End:
        """Return the end of the job's time limit: a variable of newer releases has it, else squeue knows it."""
        job = self.job_id(environment)
        if job is None:
            return UNKNOWN_END
        end = whole_number(environment.get("SLURM_JOB_END_TIME", ""))
        if end is not None:
            return End(end - time.time(), "SLURM_JOB_END_TIME")
        return End(_end_by_squeue(job, environment) - time.monotonic(), "squeue")

    def cores(self, environment: Mapping[str, str]) -> int | None:
        """Return the processors of one task if the user asked for a number, else those of the job on this node."""
        if not environment.get(JOB):
            return None
        return number_of(environment, "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")

    def memory(self, environment: Mapping[str, str]) -> float:
        """See `BatchSystem.memory`."""
        limits = [math.inf]
        if environment.get(JOB):
            for name, unit in MEMORY_VARIABLES:
                each = number_of(environment, name)  # 0 stands for all that the node has
                count = 1 if unit is None else number_of(environment, unit)
                if each and count:
                    limits.append(float(each * count))
        return min(limits)

    def gpus(self, environment: Mapping[str, str]) -> GPUs | None:
        """Return the GPUs of the job on this node. Slurm may set only their number."""
        if not environment.get(JOB):
            return None
        count = number_of(environment, "SLURM_GPUS_ON_NODE") or 0
        return GPUs(CUDA_VISIBLE_DEVICES, [str(number) for number in range(count)])


_ends: dict[str, float] = {}
"""When jobs must end according to squeue, on the clock of `time.monotonic`; infinity if squeue did not say."""


def _end_by_squeue(job: str, environment: Mapping[str, str]) -> float:
    """Return when a job must end, on the clock of `time.monotonic`; infinity if squeue does not say.

    squeue runs once for each job: a script may call `run` often, and all pilots share one controller.
    """
    if job not in _ends:
        left = _ask_squeue(job, environment)
        _ends[job] = math.inf if left is None else time.monotonic() + left
    return _ends[job]


def _ask_squeue(job: str, environment: Mapping[str, str]) -> float | None:
    """Return how many seconds a job has left; None if it has no time limit, or squeue fails."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%L"]
    try:
        return parse_time_left(first_line(run_command(command, dict(environment), SQUEUE_TIMEOUT)))
    except SchedulerError as error:
        log.warning("The end of this job is unknown, squeue failed: %s", error)
        return None


def parse_time_left(text: str) -> float | None:
    """Return the seconds in squeue's "[days-][[hours:]minutes:]seconds", None for anything else, such as no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
