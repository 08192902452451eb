"""PBS: PBS Professional, OpenPBS and Torque."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..processes.descendants import age_of
from .base import (
    UNKNOWN_END,
    UNKNOWN_KILL_WAIT,
    ArrayTask,
    BatchSystem,
    End,
    KillWait,
    number_of,
    text_of,
    whole_number,
)

JOB = "PBS_JOBID"

KILL_WAIT = KillWait(10.0, is_certain=False)
"""The default of a queue's kill_delay, in seconds (pbs_queue_attributes(7B) of OpenPBS)."""


class PBS(BatchSystem):
    """PBS, by its environment variables."""

    job_id_field = "pbs_job_id"

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """Return PBS_JOBID, with the number of an array task ("12[3].server") also where the server omits it."""
        job_id = text_of(environment, JOB)
        if not job_id:
            return None
        task = self.array_task(environment)
        if task is None or "[" in job_id:
            return job_id
        number, dot, server = job_id.partition(".")
        return f"{number}[{task.number}]{dot}{server}"

    def array_task(self, environment: Mapping[str, str]) -> ArrayTask | None:
        """See `BatchSystem.array_task`.

        A job that was submitted with `qsub -V` by a task of an array inherits the variables of that array. PBS_ARRAY_ID
        names the array then, but not PBS_JOBID.
        """
        job_id, array = text_of(environment, JOB), text_of(environment, "PBS_ARRAY_ID")
        number = text_of(environment, "PBS_ARRAY_INDEX") or text_of(environment, "PBS_ARRAYID")  # Torque has the latter
        name, bracket, inner = job_id.partition(".")[0].partition("[")
        if not name or not number or (array and name != array.partition("[")[0]):
            return None
        return ArrayTask(name, inner.rstrip("]") if bracket else number)

    def end(self, environment: Mapping[str, str]) -> End:
        """Return the end of the walltime, which only Torque puts into a variable."""
        walltime = whole_number(environment.get("PBS_WALLTIME", ""))
        if walltime is None or not environment.get(JOB):
            return UNKNOWN_END
        # The job is as old as the first process of its session.
        return End(walltime - age_of(os.getsid(0)), "PBS_WALLTIME")

    def kill_wait(self, environment: Mapping[str, str]) -> KillWait:
        """Return the seconds that PBS waits unless the site has set others, which a job can't see."""
        return KILL_WAIT if environment.get(JOB) else UNKNOWN_KILL_WAIT

    def cores(self, environment: Mapping[str, str]) -> int | None:
        """Return NCPUS (PBS Professional and OpenPBS) or PBS_NUM_PPN (Torque).

        Slurm's plug-in for PBS scripts also sets PBS_JOBID. There, the variables of Slurm count.
        """
        if not environment.get(JOB) or environment.get("SLURM_JOB_ID"):
            return None
        return number_of(environment, "NCPUS", "PBS_NUM_PPN")
