"""What a pilot may use, and for how long: what the user says comes before what the batch system says."""

from __future__ import annotations

import math
import time

import pytest

from picas.batch import grants
from picas.batch.base import KillWait
from picas.batch.gpus import VARIABLES
from picas.batch.grants import GPUEnvironment, Grace, deadline, granted_grace, hides_gpus, resources
from picas.batch.layers import granted_gpus
from picas.exceptions import SettingsError
from picas.pilot.identity import Pilot
from picas.tokens.resources import Resources

pytestmark = pytest.mark.usefixtures("machine")


@pytest.mark.timing
class TestTheMargin:
    """Some time before the end of the job, no token is at work any more."""

    def test_is_two_minutes_for_a_long_job(self):
        assert deadline(10_000)[0] - time.monotonic() == pytest.approx(10_000 - 120, abs=1)

    def test_is_a_tenth_for_a_short_job(self):
        assert deadline(100)[0] - time.monotonic() == pytest.approx(90, abs=1)

    def test_stays_the_same_while_the_run_goes_on(self):
        began = time.monotonic() - 900
        assert deadline(1000, began)[0] == pytest.approx(began + 900)

    @pytest.mark.parametrize("seconds", [100, 1200, 86_400])
    def test_is_added_again_to_tell_how_long_the_job_is(self, seconds):
        until, _ = deadline(seconds)
        assert Pilot(deadline=until).describe()["walltime"] == pytest.approx(seconds, abs=2)
        assert "walltime" not in Pilot().describe()

    def test_is_not_needed_without_an_end(self):
        assert deadline() == (math.inf, "")


class TestTheGracePeriod:
    def test_is_limited_by_nothing_outside_a_job(self):
        assert granted_grace() == Grace(15, math.inf)

    @pytest.mark.parametrize(("seconds", "usual", "limit"), [(30, 15, 20), (8, 4, 4), (300, 15, 290), (0, 0, 0)])
    def test_leaves_time_to_put_tokens_back(self, monkeypatch, seconds, usual, limit):
        """Slurm's default is 30 s."""
        monkeypatch.setattr(grants, "kill_wait", lambda: KillWait(seconds, is_certain=True))
        assert granted_grace() == Grace(usual, limit, is_certain=True)


class TestGPUs:
    def test_are_as_many_as_the_user_says(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
        assert GPUEnvironment(2).of([0, 1]) == {"CUDA_VISIBLE_DEVICES": "4,5"}
        assert GPUEnvironment(4).of([3]) == {"CUDA_VISIBLE_DEVICES": "3"}  # the user knows better

    def test_programs_get_all_variables_that_the_batch_system_sets(self, monkeypatch):
        assert GPUEnvironment(2).of([1]) == {"CUDA_VISIBLE_DEVICES": "1"}
        for variable in VARIABLES:
            monkeypatch.setenv(variable, "2,3")
        assert GPUEnvironment(2).of([1]) == dict.fromkeys(VARIABLES, "3")
        assert GPUEnvironment(2).of([]) == dict.fromkeys(VARIABLES, "-1")

    def test_a_token_that_needs_none_changes_nothing_where_there_are_none(self):
        assert GPUEnvironment(0).of([]) == {}

    def test_a_token_that_needs_none_sees_none_of_others_either(self, monkeypatch):
        """One of several tasks of a step, whose GPUs the others have."""
        for variable, value in {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GTIDS": "0,1", "SLURM_LOCALID": "1"}.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        assert granted_gpus().count == 0
        assert GPUEnvironment(0).of([]) == {"CUDA_VISIBLE_DEVICES": "-1"}

    def test_the_user_can_leave_them(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert GPUEnvironment(1, hides=False).of([]) == {}
        assert hides_gpus()
        monkeypatch.setenv("PICAS_HIDE_GPUS", "0")
        assert not hides_gpus()
        monkeypatch.setenv("PICAS_HIDE_GPUS", "some")
        with pytest.raises(SettingsError, match="PICAS_HIDE_GPUS must be 0 or 1, not 'some'"):
            hides_gpus()


class TestWhatThePilotHas:
    def test_by_default_what_the_machine_has(self):
        assert resources() == Resources(5, 32 * 1024, granted_gpus().count, frozenset())

    def test_the_environment_comes_before_that(self, monkeypatch):
        for name, value in {"CORES": "3", "MEMORY": "2G", "GPUS": "0", "TAGS": "avx2, fast,"}.items():
            monkeypatch.setenv(f"PICAS_{name}", value)
        assert resources() == Resources(3, 2048, 0, frozenset({"avx2", "fast"}))

    def test_arguments_come_first(self, monkeypatch):
        for name, value in {"CORES": "3", "MEMORY": "2G", "GPUS": "1", "TAGS": "avx2"}.items():
            monkeypatch.setenv(f"PICAS_{name}", value)
        assert resources(8, 500, 2, ["slow"]) == Resources(8, 500, 2, frozenset({"slow"}))
        assert resources(8, "1G", 0, "a,b") == Resources(8, 1024, 0, frozenset({"a", "b"}))
        assert resources(8, "1G", 0, []).tags == frozenset()

    @pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "4 cores", "9" * 400])
    def test_nonsense_is_one_line(self, monkeypatch, value):
        monkeypatch.setenv("PICAS_CORES", value)
        with pytest.raises(SettingsError) as raised:
            resources()
        assert str(raised.value) == f"PICAS_CORES must be a whole number, at least 1, not {value!r}"

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ({"cores": True}, "the argument cores must be a whole number, at least 1, not True"),
            ({"gpus": -1}, "the argument gpus must be a whole number, at least 0, not -1"),
            ({"memory": "4 cows"}, "the argument memory must be a number of megabytes, or like \"4G\", not '4 cows'"),
            ({"memory": 0}, 'the argument memory must be a number of megabytes, or like "4G", not 0'),
            ({"tags": [1]}, "the argument tags must be texts, not [1]"),
        ],
        ids=str,
    )
    def test_so_are_arguments(self, argument, message):
        with pytest.raises(SettingsError) as raised:
            resources(**argument)
        assert str(raised.value) == message
