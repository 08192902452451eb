"""DIRAC, the workload management system of several Grids. It starts jobs through other batch systems."""

from __future__ import annotations

from collections.abc import Mapping

from .base import BatchSystem, number_of, text_of


class DIRAC(BatchSystem):
    """DIRAC, by its environment variables."""

    job_id_field = "dirac_job_id"

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """Return DIRACJOBID, or JOBID where that is DIRAC's: DIRAC 9 sets only this, and other systems use it too."""
        job_id = text_of(environment, "DIRACJOBID")
        if job_id:
            return job_id
        job_id = text_of(environment, "JOBID")
        return job_id if job_id and text_of(environment, "DIRACSITE") else None

    def cores(self, environment: Mapping[str, str]) -> int | None:
        """See `BatchSystem.cores`."""
        return number_of(environment, "DIRAC_JOB_PROCESSORS")
