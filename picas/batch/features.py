"""Machine and job features (HSF-TN-2016-02): a Grid site describes a job in files that hold one number each."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

from .base import UNKNOWN_END, BatchSystem, End, whole_number

JOB = "JOBFEATURES"
MACHINE = "MACHINEFEATURES"
"""The environment variables that name the folders."""


class MachineJobFeatures(BatchSystem):
    """The files of a site, whichever batch system it has."""

    def end(self, environment: Mapping[str, str]) -> End:
        """Return the earliest of the job's time limit and the shutdown of the job or the machine."""
        now = time.time()
        ends = [UNKNOWN_END]
        limit, start = feature(environment, JOB, "wall_limit_secs"), feature(environment, JOB, "jobstart_secs")
        if limit is not None and start is not None:
            ends.append(End(start + limit - now, "$JOBFEATURES/wall_limit_secs"))
        for folder, name in ((JOB, "shutdowntime_job"), (MACHINE, "shutdowntime")):
            when = feature(environment, folder, name)
            if when:  # 0 stands for no shutdown
                ends.append(End(when - now, f"${folder}/{name}"))
        return min(ends)

    def cores(self, environment: Mapping[str, str]) -> int | None:
        """See `BatchSystem.cores`."""
        return feature(environment, JOB, "allocated_cpu") or None

    def memory(self, environment: Mapping[str, str]) -> float:
        """See `BatchSystem.memory`."""
        resident = feature(environment, JOB, "max_rss_bytes")
        return resident / (1 << 20) if resident else math.inf


def feature(environment: Mapping[str, str], folder: str, name: str) -> int | None:
    """Return the number above or equal to 0 in a file, None if there is no such file or number.

    :param folder: `JOB` or `MACHINE`
    """
    if not environment.get(folder):
        return None
    try:
        text = (Path(environment[folder]) / name).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return whole_number(text)
