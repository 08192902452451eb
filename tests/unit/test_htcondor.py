"""When HTCondor ends a job."""

from __future__ import annotations

import time

import pytest

from picas.batch.htcondor import HTCondor


@pytest.mark.parametrize(
    ("limits", "left", "source"),
    [
        ({"AllowedJobDuration": 60}, 50, "AllowedJobDuration of HTCondor's job"),
        ({"AllowedJobDuration": 60, "AllowedExecuteDuration": 40}, 30, "AllowedExecuteDuration of HTCondor's job"),
    ],
    ids=["the job", "the execution"],
)
def test_a_job_has_time_limits(tmp_path, limits, left, source):
    ad = tmp_path / "ad"
    numbers = {"ClusterId": 5, "JobCurrentStartDate": int(time.time()) - 10, **limits}
    ad.write_text("".join(f"{name} = {number}\n" for name, number in numbers.items()) + 'Cmd = "x"\n')
    end = HTCondor().end({"_CONDOR_JOB_AD": str(ad)})
    assert left - 2 < end.seconds <= left
    assert end.source == source
