"""When Torque ends a job."""

from __future__ import annotations

import time

from picas.batch.pbs import PBS


def test_the_walltime_counts_from_the_begin_of_the_session():
    end = PBS().end({"PBS_JOBID": "7.server", "PBS_WALLTIME": str(10**6)})
    assert 0 <= 10**6 - end.seconds < time.clock_gettime(time.CLOCK_BOOTTIME)  # the session began after the machine
    assert end.source == "PBS_WALLTIME"
