"""A pilot knows when its job must end, and takes no token that can't end before."""

from __future__ import annotations

import logging
import math
import os
import time

import pytest
from support.tokens import make_token
from support.workers import Worker

from picas import EndlessViewIterator, RunActor, TaskViewIterator
from picas.batch import walltimes
from picas.batch.walltimes import deadline, job_end, parse_time_left
from picas.exceptions import SettingsError
from picas.tokens.states import state_of
from picas.views import count_states

SLURM = {"SLURM_JOB_ID": "7", "PATH": os.devnull}
PBS = {"PBS_JOBID": "7.server"}


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    """Whatever runs the tests, and whatever was asked before."""
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "JOBFEATURES", "MACHINEFEATURES", "_CONDOR_JOB_AD", "PICAS_WALLTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(walltimes, "_asked", {})


@pytest.fixture
def feature(tmp_path):
    """Write a file of the machine and job features, and return the environment that tells of it."""

    def feature(variable, **values):
        folder = tmp_path / variable
        folder.mkdir()
        for name, value in values.items():
            (folder / name).write_text(f"{value}\n")
        return {variable: str(folder)}

    return feature


@pytest.mark.timing
class TestTheEndOfTheJob:
    def test_slurm_tells_its_time(self):
        end = job_end({**SLURM, "SLURM_JOB_END_TIME": str(int(time.time()) + 100)})
        assert 98 < end.seconds <= 100
        assert end.source == "SLURM_JOB_END_TIME"

    def test_that_of_a_shell_in_which_there_is_no_job_says_nothing(self):
        assert job_end({"SLURM_JOB_END_TIME": "1", "PBS_WALLTIME": "1"}).seconds == math.inf

    def test_torque_tells_how_long_a_job_may_take(self):
        end = job_end({**PBS, "PBS_WALLTIME": str(10**6)})
        assert 0 <= 10**6 - end.seconds < time.clock_gettime(time.CLOCK_BOOTTIME)  # this session has begun earlier
        assert end.source == "PBS_WALLTIME"

    def test_a_grid_site_tells_it_in_files(self, feature):
        begin = int(time.time()) - 30
        job = feature("JOBFEATURES", wall_limit_secs=100, jobstart_secs=begin)
        end = job_end(job)
        assert 68 < end.seconds <= 70
        assert end.source == "$JOBFEATURES/wall_limit_secs"

    def test_a_machine_tells_when_it_goes_down(self, feature):
        end = job_end(feature("MACHINEFEATURES", shutdowntime=int(time.time()) + 50))
        assert 48 < end.seconds <= 50
        assert end.source == "$MACHINEFEATURES/shutdowntime"

    def test_htcondor_tells_how_long_a_job_may_take(self, tmp_path):
        ad = tmp_path / "ad"
        ad.write_text(
            f'ClusterId = 5\nJobCurrentStartDate = {int(time.time()) - 10}\nAllowedJobDuration = 60\nCmd = "x"\n'
        )
        end = job_end({"_CONDOR_JOB_AD": str(ad)})
        assert 48 < end.seconds <= 50
        assert end.source == "AllowedJobDuration of HTCondor's job"

    def test_of_layered_systems_the_earliest_end_counts(self, feature):
        now = int(time.time())
        environment = {
            **SLURM,
            "SLURM_JOB_END_TIME": str(now + 100),
            **feature("JOBFEATURES", shutdowntime_job=now + 40),
        }
        assert job_end(environment).source == "$JOBFEATURES/shutdowntime_job"

    @pytest.mark.parametrize("value", ["", "soon", "-5", "0x10", "1e3"])
    def test_what_is_no_time_says_nothing(self, feature, value):
        features = feature("JOBFEATURES", wall_limit_secs=value, jobstart_secs=value, shutdowntime_job=value)
        features |= feature("MACHINEFEATURES", shutdowntime=value)
        assert job_end({**PBS, "PBS_WALLTIME": value, **features}).seconds == math.inf

    def test_a_machine_that_is_to_stay_up_says_so_with_a_zero(self, feature):
        assert job_end(feature("MACHINEFEATURES", shutdowntime=0)).seconds == math.inf

    def test_without_squeue_nothing_is_known_and_a_line_says_so_once(self, caplog):
        assert job_end(SLURM).seconds == math.inf
        assert job_end(SLURM).seconds == math.inf
        assert caplog.text.count("squeue does not tell") == 1

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("59", 59),
            ("4:59", 299),
            ("1:00:00", 3600),
            ("1-02:03:04", 93784),
            (" 0:00 ", 0),
            ("UNLIMITED", None),
            ("NOT_SET", None),
            ("INVALID", None),
            ("", None),
        ],
    )
    def test_squeue_writes_it_in_its_own_way(self, text, seconds):
        assert parse_time_left(text) == seconds


@pytest.mark.timing
class TestTheMargin:
    """Before the end there is some time in which nothing is at work any more."""

    def test_is_two_minutes_of_a_long_job(self):
        assert deadline(10_000)[0] - time.monotonic() == pytest.approx(10_000 - 120, abs=1)

    def test_is_a_tenth_of_a_short_one(self):
        assert deadline(100)[0] - time.monotonic() == pytest.approx(90, abs=1)

    def test_is_not_needed_without_an_end(self):
        assert deadline() == (math.inf, "")


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_nonsense_in_the_environment_is_refused_before_any_token_is_taken(client, push, monkeypatch, value):
    push(1)
    monkeypatch.setenv("PICAS_WALLTIME", value)
    with pytest.raises(SettingsError, match="PICAS_WALLTIME must be a number of seconds"):
        Worker(client).run()
    assert count_states(client)["todo"] == 1


@pytest.mark.timing
@pytest.mark.usefixtures("quick", "nothing_left")
@pytest.mark.parametrize("slots", [1, 3], ids=["one slot", "three slots"])
class TestAPilot:
    def test_leaves_tokens_that_say_themselves_that_they_take_too_long(self, client, slots, caplog):
        walltimes = {0: 1000, 1: 1, 2: None, 3: 800, 4: 1}
        client.save_documents([make_token(n, **({"walltime": w} if w else {})) for n, w in walltimes.items()])
        worker = Worker(client, walltime=600)
        worker.run(slots=slots)
        assert sorted(worker.processed) == ["token_1", "token_2", "token_4"]
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 3, "error": 0}
        assert "attempts" not in client.get("token_0")
        assert "No further token: 5" in caplog.text
        assert "s are left for work in this job" in caplog.text

    def test_takes_them_if_its_own_limit_ends_them_in_time(self, client, push, slots):
        push(1, walltime=1000)
        worker = Worker(client, walltime=600)
        worker.run(max_token_time=60, slots=slots)
        assert worker.processed == ["token_0"]

    def test_leaves_what_its_own_limit_would_not_end_in_time(self, client, push, slots, caplog):
        push(2)
        worker = Worker(client, walltime=600)
        worker.run(max_token_time=1000, slots=slots)
        assert worker.processed == []
        assert "and one takes up to 1000 s" in caplog.text

    def test_takes_for_others_the_time_that_the_last_ones_took(self, client, push, slots):
        push(30)
        worker = Worker(client, lambda task: time.sleep(1), walltime=3)
        began = time.monotonic()
        worker.run(slots=slots)
        assert time.monotonic() - began < 3.5
        done = len(worker.processed)
        assert slots <= done < 30
        assert count_states(client) == {"todo": 30 - done, "locked": 0, "done": done, "error": 0}

    def test_heeds_what_the_environment_says(self, client, push, slots, monkeypatch):
        push(1, walltime=10)
        monkeypatch.setenv("PICAS_WALLTIME", "5")
        worker = Worker(client)
        worker.run(slots=slots)
        assert worker.processed == []

    def test_heeds_the_time_of_a_run_too(self, client, slots, caplog):
        client.save_documents([make_token(0, walltime=100), make_token(1, walltime=1), make_token(2)])
        caplog.set_level(logging.INFO)
        worker = Worker(client)
        worker.run(max_total_time=50, slots=slots)
        assert sorted(worker.processed) == ["token_1", "token_2"]
        assert "none could end within the 50 s of this run" in caplog.text

    def test_has_left_none_for_good_once_its_run_is_over(self, client, push, slots):
        push(1, walltime=100)
        worker = Worker(client, walltime=50)
        worker.run(slots=slots)
        worker.iterator.reset()
        assert next(worker.iterator).id == "token_0"

    def test_takes_in_the_next_run_what_it_has_left_in_this(self, client, push, slots):
        push(2, walltime=100)
        worker = Worker(client, walltime=50)
        worker.run(slots=slots)
        worker.walltime = 500
        worker.iterator.reset()
        worker.run(slots=slots)
        assert sorted(worker.processed) == ["token_0", "token_1"]

    @pytest.mark.parametrize("walltime", [None, "1:00:00", -5, 0, True, [9], 10**13, {"of": 9}], ids=repr)
    def test_takes_nonsense_for_no_time(self, client, push, slots, walltime):
        push(1, walltime=walltime)
        worker = Worker(client, walltime=50)
        worker.run(slots=slots)
        assert worker.processed == ["token_0"]

    def test_does_not_wait_for_ever_with_an_endless_iterator(self, client, push, slots):
        push(1)
        push_later = make_token(7, walltime=1000)
        worker = Worker(client, lambda task: client.save(push_later), walltime=3)
        worker.iterator = EndlessViewIterator(TaskViewIterator(client, "todo"))
        began = time.monotonic()
        worker.run(slots=slots)
        assert worker.processed == ["token_0"]
        assert time.monotonic() - began < 5
        assert state_of(client.get("token_7")) == "todo"

    def test_finds_what_fits_behind_a_thousand_that_do_not(self, client, slots):
        tokens = [make_token(number, walltime=1000) for number in range(1000)]
        client.save_documents([*tokens, *(make_token(number) for number in range(1000, 1030))])
        worker = Worker(client, walltime=600)
        worker.run(slots=slots)
        assert len(worker.processed) == 30
        assert count_states(client) == {"todo": 1000, "locked": 0, "done": 30, "error": 0}


def test_an_iterator_that_does_not_ask_what_fits_is_not_asked_again_and_again(client, push):
    push(1, walltime=100)
    given = []

    class Own(TaskViewIterator):
        def claim_task(self):
            given.append(super().claim_task())
            return given[-1]

    class Quiet(RunActor):
        def process_task(self, task):
            raise AssertionError("it does not fit")

    iterator = Own(client, "todo")
    iterator.fits = lambda token: True
    actor = Quiet(client, iterator, walltime=50)
    actor.run()
    assert len(given) <= 1
    assert count_states(client)["todo"] == 1
