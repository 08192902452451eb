"""Grid Engine (Sun, Univa, Altair, Son of). Its variables contain neither the time limit nor the memory of a job."""

from __future__ import annotations

from collections.abc import Mapping

from .base import ArrayTask, BatchSystem, text_of


class SGE(BatchSystem):
    """Grid Engine, by its environment variables."""

    job_id_field = "sge_job_id"

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """Return the id of the job, with the number of an array task ("70.4").

        JOB_ID alone may be any program's; a second variable must show that it is Grid Engine's.
        """
        job_id = text_of(environment, "JOB_ID")
        if not job_id or not (text_of(environment, "SGE_TASK_ID") or text_of(environment, "SGE_ROOT")):
            return None
        task = self.array_task(environment)
        return job_id if task is None else f"{job_id}.{task.number}"

    def array_task(self, environment: Mapping[str, str]) -> ArrayTask | None:
        """See `BatchSystem.array_task`. The number is "undefined" outside an array."""
        job_id, number = text_of(environment, "JOB_ID"), text_of(environment, "SGE_TASK_ID")
        return ArrayTask(job_id, number) if job_id and number not in ("", "undefined") else None
