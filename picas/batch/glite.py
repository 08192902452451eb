"""The gLite middleware of the European Grid: its Workload Management System, and its computing element CREAM."""

from __future__ import annotations

from collections.abc import Mapping

from .base import BatchSystem, text_of


class GliteWMS(BatchSystem):
    """The gLite WMS, by its environment variable."""

    job_id_field = "wms_job_id"

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """Return the address of the job. A job that bypassed the WMS has another text in the variable."""
        job_id = text_of(environment, "GLITE_WMS_JOBID")
        if not job_id:
            return None
        return job_id if job_id.startswith("http") else ""


class CREAM(BatchSystem):
    """CREAM, by its environment variable."""

    job_id_field = "cream_job_id"

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """See `BatchSystem.job_id`."""
        return text_of(environment, "CREAM_JOBID") or None
