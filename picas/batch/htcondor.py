"""HTCondor. It describes a job to itself in a file, the job ad."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

from .base import UNKNOWN_END, ArrayTask, BatchSystem, End, text_of

LIMITS = ("AllowedJobDuration", "AllowedExecuteDuration")
"""The attributes with the seconds that a job, and its execution, may take."""


class HTCondor(BatchSystem):
    """HTCondor, by the job ad."""

    job_id_field = "condor_job_id"

    def job_id(self, environment: Mapping[str, str]) -> str | None:
        """Return "cluster.process"."""
        numbers = job_ad(environment)
        return f"{numbers['ClusterId']}.{numbers.get('ProcId', 0)}" if "ClusterId" in numbers else None

    def array_task(self, environment: Mapping[str, str]) -> ArrayTask | None:
        """Return the cluster and the process, if several jobs were submitted together."""
        numbers = job_ad(environment)
        if numbers.get("TotalSubmitProcs", 1) < 2 or "ClusterId" not in numbers:
            return None
        return ArrayTask(str(numbers["ClusterId"]), str(numbers.get("ProcId", 0)))

    def restart_count(self, environment: Mapping[str, str]) -> int | None:
        """See `BatchSystem.restart_count`. HTCondor counts the starts, this one included."""
        starts = job_ad(environment).get("NumShadowStarts", 0)
        return starts - 1 if starts else None

    def end(self, environment: Mapping[str, str]) -> End:
        """Return the earliest end that the job's limits allow.

        The execution starts later than the job, at a time that is not in the job ad. Counting from the start of the
        job is on the safe side.
        """
        numbers = job_ad(environment)
        if "JobCurrentStartDate" not in numbers:
            return UNKNOWN_END
        left = numbers["JobCurrentStartDate"] - time.time()
        ends = [End(left + numbers[name], f"{name} of HTCondor's job") for name in LIMITS if name in numbers]
        return min(ends, default=UNKNOWN_END)


def job_ad(environment: Mapping[str, str]) -> dict[str, int]:
    """Return the attributes in the job ad that are whole numbers; empty if there is no job ad."""
    path = text_of(environment, "_CONDOR_JOB_AD")
    if not path:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {name: int(number) for name, number in re.findall(r"^(\w+)\s*=\s*(\d{1,20})\s*$", text, re.MULTILINE)}
