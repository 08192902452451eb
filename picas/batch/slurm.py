"""Slurm: what the environment of a job says.

`slurm_controller` asks for what only the controller knows of it; `slurm_jobs` lists and submits jobs, and
`slurm_options` reads what the options of these say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from . import slurm_controller as controller
from .base import (
    UNKNOWN_END,
    UNKNOWN_KILL_WAIT,
    WHOLE,
    ArrayTask,
    BatchSystem,
    End,
    KillWait,
    Share,
    number_of,
    text_of,
    whole_number,
)
from .slurm_jobs import SlurmQueue

JOB = "SLURM_JOB_ID"
"""The environment variable that is set in every job. Users set others, such as SLURM_CPUS_PER_TASK, in their shells."""

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
        task = self.array_task(environment)
        if task is not None:
            return f"{task.array}_{task.number}"
        return text_of(environment, JOB) or text_of(environment, "SLURM_ARRAY_JOB_ID") or None

    def array_task(self, environment: Mapping[str, str]) -> ArrayTask | None:
        """See `BatchSystem.array_task`.

        A job that a task of an array has submitted inherits the variables of that array. Nothing in its environment
        differs from that of a task, so Slurm is asked once for the job's name.
        """
        array = text_of(environment, "SLURM_ARRAY_JOB_ID")
        number = array and text_of(environment, "SLURM_ARRAY_TASK_ID")
        if not number:
            return None
        job = text_of(environment, JOB)
        if job not in ("", array) and controller.name_of(job, environment) == job:
            return None
        return ArrayTask(array, number)

    def restart_count(self, environment: Mapping[str, str]) -> int | None:
        """Return how often the job was requeued; Slurm sets no variable before the first time."""
        if not environment.get(JOB):
            return None
        return number_of(environment, "SLURM_RESTART_COUNT") or 0

    def end(self, environment: Mapping[str, str]) -> End:
        """Return the end of the job's time limit.

        Newer releases have it in a variable when the job starts. Later, and in older ones, squeue knows it.
        """
        task, job = self.array_task(environment), text_of(environment, JOB)
        if not job:
            return UNKNOWN_END
        # squeue lists the whole array for the task that has the id of the array.
        name = job if task is None or task.array != job else f"{task.array}_{task.number}"
        return controller.end_of(name, environment)

    def kill_wait(self, environment: Mapping[str, str]) -> KillWait:
        """Return KillWait of slurm.conf(5)."""
        seconds = controller.kill_wait(environment) if environment.get(JOB) else math.inf
        return UNKNOWN_KILL_WAIT if seconds == math.inf else KillWait(seconds, is_certain=True)

    def share(self, environment: Mapping[str, str]) -> Share:
        """Return the share of a task that srun has started. Slurm sets both variables anew for each step.

        SLURM_GTIDS lists the tasks of the step on this node (srun(1)); the batch script is alone in a step of its own.
        """
        tasks = text_of(environment, "SLURM_GTIDS").split(",") if environment.get(JOB) else []
        number = whole_number(environment.get("SLURM_LOCALID", ""))
        return Share(number, len(tasks)) if number is not None and number < len(tasks) else WHOLE

    def cores(self, environment: Mapping[str, str]) -> int | None:
        """Return the processors of one task if the user asked for a number, but at most its share of the node.

        SLURM_CPUS_PER_TASK may be inherited, from the batch script or from a job that has submitted this one.
        SLURM_CPUS_ON_NODE is that of the step.
        """
        if not environment.get(JOB):
            return None
        asked, on_node = (number_of(environment, f"SLURM_CPUS_{name}") for name in ("PER_TASK", "ON_NODE"))
        share = None if on_node is None else max(1, len(self.share(environment).of(range(on_node))))
        return min((number for number in (asked, share) if number), default=None)

    def memory(self, environment: Mapping[str, str]) -> float:
        """See `BatchSystem.memory`."""
        limits = [math.inf]
        if environment.get(JOB):
            for name, unit in MEMORY_VARIABLES:
                each = number_of(environment, name)  # 0 stands for all that the node has
                count = 1 if unit is None else number_of(environment, unit)
                if each and count:
                    limits.append(each * count * (1 if unit else _part_of_job(environment)))
        return min(limits)

    def gpus(self, environment: Mapping[str, str]) -> int | None:
        """Return the number of GPUs that the step has on this node."""
        return number_of(environment, "SLURM_GPUS_ON_NODE") or 0 if environment.get(JOB) else None


def _part_of_job(environment: Mapping[str, str]) -> float:
    """Return the part of the job's processors on this node that this step has; 1 if that is unknown.

    Each of several steps side by side inherits the memory of the whole job in SLURM_MEM_PER_NODE.
    """
    of_job = re.fullmatch(r"([0-9]{1,9})(\(x[0-9]+\))?", environment.get("SLURM_JOB_CPUS_PER_NODE", ""))
    of_step = number_of(environment, "SLURM_CPUS_ON_NODE")
    return min(1.0, of_step / max(1, int(of_job[1]))) if of_job and of_step else 1.0
