"""IBM Spectrum LSF. Its variables contain neither the time limit nor the memory of a job."""

from __future__ import annotations

from collections.abc import Mapping

from .base import UNKNOWN_KILL_WAIT, ArrayTask, BatchSystem, KillWait, text_of

KILL_WAIT = KillWait(10.0, is_certain=False)
"""The default of JOB_TERMINATE_INTERVAL, in seconds (lsb.params(5))."""


class LSF(BatchSystem):
    """LSF, by its environment variables."""

    job_id_field = "lsf_job_id"

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """Return the id of the job, with the number of an array task ("60[3]")."""
        job_id = text_of(environment, "LSB_JOBID")
        if not job_id:
            return None
        task = self.array_task(environment)
        return job_id if task is None else f"{job_id}[{task.number}]"

    def array_task(self, environment: Mapping[str, str]) -> ArrayTask | None:
        """See `BatchSystem.array_task`. The number is "0" outside an array."""
        job_id, number = text_of(environment, "LSB_JOBID"), text_of(environment, "LSB_JOBINDEX")
        return ArrayTask(job_id, number) if job_id and number not in ("", "0") else None

    def kill_wait(self, environment: Mapping[str, str]) -> KillWait:
        """Return the seconds that LSF waits unless the site has set others, which a job can't see."""
        return KILL_WAIT if text_of(environment, "LSB_JOBID") else UNKNOWN_KILL_WAIT
