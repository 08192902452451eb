"""When a Grid site ends a job, by the files of the machine and job features."""

from __future__ import annotations

import math
import time

from picas.batch.features import MachineJobFeatures


def end(environment):
    return MachineJobFeatures().end(environment)


def test_a_job_has_a_time_limit(feature):
    start = int(time.time()) - 30
    found = end(feature("JOBFEATURES", wall_limit_secs=100, jobstart_secs=start))
    assert 68 < found.seconds <= 70
    assert found.source == "$JOBFEATURES/wall_limit_secs"


def test_a_machine_may_be_shut_down(feature):
    found = end(feature("MACHINEFEATURES", shutdowntime=int(time.time()) + 50))
    assert 48 < found.seconds <= 50
    assert found.source == "$MACHINEFEATURES/shutdowntime"


def test_a_zero_stands_for_no_shutdown(feature):
    assert end(feature("MACHINEFEATURES", shutdowntime=0)).seconds == math.inf


def test_a_folder_that_does_not_exist_says_nothing(tmp_path):
    assert end({"JOBFEATURES": str(tmp_path / "none"), "MACHINEFEATURES": ""}).seconds == math.inf
