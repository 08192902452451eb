"""A pilot knows when its job must end, and takes no token that can't finish before that."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from support.tokens import make_token
from support.workers import PATIENCE, Worker

from picas import EndlessViewIterator, RunActor, TaskViewIterator
from picas.exceptions import SettingsError
from picas.pilot import term
from picas.tokens.states import state_of
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("no_job")


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_an_invalid_setting_is_refused_before_any_token_is_taken(client, push, monkeypatch, value):
    push(1)
    monkeypatch.setenv("PICAS_WALLTIME", value)
    with pytest.raises(SettingsError, match="PICAS_WALLTIME must be a number of seconds"):
        Worker(client).run()
    assert count_states(client)["todo"] == 1


@pytest.mark.timing
@pytest.mark.usefixtures("quick", "nothing_left")
@pytest.mark.parametrize("slots", [1, 3], ids=["one slot", "three slots"])
class TestAPilot:
    def test_leaves_tokens_whose_own_walltime_is_too_long(self, client, slots, caplog):
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

    def test_expects_other_tokens_to_take_as_long_as_the_last_ones(self, client, push, slots):
        push(30)
        worker = Worker(client, lambda task: time.sleep(1), walltime=3)
        began = time.monotonic()
        worker.run(slots=slots)
        assert time.monotonic() - began < 3.5
        done = len(worker.processed)
        assert slots <= done < 30
        assert count_states(client) == {"todo": 30 - done, "locked": 0, "done": done, "error": 0}

    def test_obeys_the_environment(self, client, push, slots, monkeypatch):
        push(1, walltime=10)
        monkeypatch.setenv("PICAS_WALLTIME", "5")
        worker = Worker(client)
        worker.run(slots=slots)
        assert worker.processed == []

    def test_obeys_the_time_limit_of_a_run_too(self, client, slots, caplog):
        client.save_documents([make_token(0, walltime=100), make_token(1, walltime=1), make_token(2)])
        caplog.set_level(logging.INFO)
        worker = Worker(client)
        worker.run(max_total_time=50, slots=slots)
        assert sorted(worker.processed) == ["token_1", "token_2"]
        assert "none could end within the 50 s of this run" in caplog.text

    def test_leaves_no_token_for_good_after_its_run(self, client, push, slots):
        push(1, walltime=100)
        worker = Worker(client, walltime=50)
        worker.run(slots=slots)
        worker.iterator.reset()
        assert next(worker.iterator).id == "token_0"

    def test_leaves_its_iterator_to_a_run_that_has_more_time(self, client, push, slots):
        push(2, walltime=100)
        worker = Worker(client, walltime=50)
        worker.run(slots=slots)
        longer = Worker(client, walltime=500)
        longer.iterator = worker.iterator
        longer.iterator.reset()
        longer.run(slots=slots)
        assert (worker.processed, sorted(longer.processed)) == ([], ["token_0", "token_1"])

    @pytest.mark.parametrize("walltime", [None, "1:00", -5, 0, True, [9], 10**13, {"of": 9}], ids=repr)
    def test_ignores_an_invalid_walltime_of_a_token(self, client, push, slots, walltime):
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


@pytest.mark.parametrize(("grace", "is_too_long"), [(30, True), (5, False), (None, False)])
def test_a_grace_period_that_may_outlast_the_job_is_worth_a_warning(
    client, push, monkeypatch, caplog, grace, is_too_long
):
    """PBS does not say how much time there is."""
    push(1)
    asked = threading.Event()
    monkeypatch.setenv("PBS_JOBID", "7")
    monkeypatch.setattr(term, "pause_before_asking", lambda left: asked.set() or 60)
    worker = Worker(client, lambda task: asked.wait(PATIENCE), grace=grace)
    worker.run()
    assert asked.is_set()
    said = "Tokens may stay locked when this job is cancelled: often only 5 s are left, not 30 s (PICAS_GRACE)"
    assert (said in caplog.text) == is_too_long


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
