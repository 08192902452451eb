"""What a pilot logs of its normal work, and what it says of tokens that other pilots hold."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from support.workers import Worker, wait_for

from picas import Task
from picas.actors import summary
from picas.pilot import holders
from picas.pilot.identity import RUNNING, Pilot
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture
def lines(caplog):
    """Return a function that returns the lines that pilots have logged, at a level and above."""
    caplog.set_level(logging.INFO, "picas")
    return lambda level=logging.INFO: [record.getMessage() for record in caplog.records if record.levelno >= level]


@pytest.fixture
def other(client):
    """Return the id of a pilot that holds token_0, and may live or not."""

    def lock(**fields):
        pilot = Pilot().id
        client.save({"_id": pilot, "type": "pilot", "state": RUNNING, "holds": [], **fields})
        client.save(Task(client.get("token_0")).lock(pilot))
        return pilot

    return lock


def of_tokens(lines):
    return [line for line in lines if line.startswith("Token ")]


class TestLog:
    def test_of_tokens_that_succeed_and_fail(self, client, push, lines):
        push(3)

        def work(token):
            token["exit_code"] = {"token_0": 0, "token_1": 3}.get(token.id)
            if token.id == "token_2":
                raise ValueError("no such place")

        actor = Worker(client, work)
        actor.run()
        assert sorted(of_tokens(lines())) == [
            "Token token_0 is done",
            "Token token_0 is taken",
            "Token token_1 failed: exit 3",
            "Token token_1 is taken",
            "Token token_2 failed: ValueError: no such place",
            "Token token_2 is taken",
        ]
        assert lines()[-1] == summary(actor) == "Processed 3 tokens: 1 done, 2 failed"

    def test_of_a_retry(self, client, push, lines):
        push(1)
        Worker(client, lambda token: token.update(exit_code=1)).run(max_scrub=1)
        assert of_tokens(lines()) == [
            "Token token_0 is taken",
            "Token token_0 failed: exit 1",
            "Token token_0 is put back for another try (1 of 1)",
            "Token token_0 is taken",
            "Token token_0 failed: exit 1",
        ]

    @pytest.mark.parametrize(
        "options", [{}, {"slots": 4}, {"stop_function": lambda: False}], ids=["one", "four slots", "each seen"]
    )
    def test_counts_results_that_could_not_be_stored_as_they_were(self, client, push, lines, options):
        push(6)

        def work(token):
            token["output"] = {"mean": 2.5, "spread": float("nan")} if token.id in ("token_1", "token_4") else 1

        Worker(client, work).run(**options)
        summed_up = "Processed 6 tokens: 6 done; the results of 2 tokens could not be stored as they were"
        assert lines()[-1] == summed_up
        assert client.get("token_1")["output"] == {"mean": 2.5, "spread": None}
        assert "output.spread" in client.get("token_1")["error"][-1]["message"]
        assert any("token_1" in line and "output.spread" in line for line in lines(logging.WARNING))

    def test_of_a_run_that_finds_nothing(self, client, lines):
        Worker(client).run()
        assert lines()[-1] == "Processed 0 tokens"


class TestHolders:
    def test_a_pilot_without_work_says_who_holds_tokens(self, client, push, other, lines):
        push(1)
        pilot = other()
        began = time.monotonic()
        Worker(client).run()
        assert time.monotonic() - began < 10
        assert lines(logging.WARNING) == [
            f"1 token is locked by {pilot}; what a dead pilot holds comes back after its lease "
            "(wait_for_locked waits for that)"
        ]

    def test_it_says_since_when_it_knows_that_they_are_silent(self, client, push, other, lines):
        push(2)
        pilot = other()

        def work(token):
            time.sleep(2)

        actor = Worker(client, work, lease=3, heartbeat=1)
        actor.run()
        assert any(f"1 token is locked by {pilot}, silent for " in line for line in lines())
        assert not any("locked by" in line for line in lines(logging.WARNING)), "it had other work"

    def test_at_the_end_of_a_pool_it_is_no_warning(self, client, push, other, lines):
        push(2)
        other()
        Worker(client).run()
        assert any("1 token is locked by" in line for line in lines())
        assert lines(logging.WARNING) == []

    def test_names_some_of_many_pilots(self, client, push, lines):
        push(5)
        for number in range(5):
            client.save(Task(client.get(f"token_{number}")).lock(f"picas_pilot_{number}"))
        Worker(client).run()
        (line,) = lines(logging.WARNING)
        assert line.startswith("5 tokens are locked by picas_pilot_")
        assert line.count("which has left the pool") == holders.MAX_NAMED
        assert line.endswith("and 2 other pilots")

    @pytest.mark.timing
    def test_waits_until_the_lease_of_a_dead_pilot_is_over(self, client, push, other, lines, monkeypatch):
        monkeypatch.setattr(holders, "PAUSE", 0.2)
        push(1)
        pilot = other()
        actor = Worker(client, lease=1.5, heartbeat=0.5)
        actor.run(wait_for_locked=True)
        assert actor.tasks_processed == 1
        assert client.get("token_0")["lost_count"] == 1
        assert lines(logging.WARNING)[0] == f"1 token is locked by {pilot}; waiting until it is known whether they live"

    @pytest.mark.timing
    def test_says_again_for_how_long_it_has_seen_no_sign_of_life(self, client, push, other, lines, monkeypatch):
        monkeypatch.setattr(holders, "PAUSE", 0.2)
        monkeypatch.setattr(holders, "REMINDER", 1)
        push(1)
        pilot = other()
        Worker(client, lease=3, heartbeat=1).run(wait_for_locked=True)
        assert any(line.startswith(f"1 token is locked by {pilot}, silent for ") for line in lines(logging.WARNING))

    @pytest.mark.timing
    def test_waits_no_longer_for_a_pilot_that_lives(self, client, push, other, monkeypatch):
        monkeypatch.setattr(holders, "PAUSE", 0.2)
        push(1)
        pilot = other()
        beat = threading.Timer(1, lambda: client.copy().edit(pilot, lambda content: {**content, "beat": 2}))
        beat.start()
        began = time.monotonic()
        Worker(client).run(wait_for_locked=True)
        beat.join()
        assert 1 <= time.monotonic() - began < 10
        assert count_states(client)["locked"] == 1

    @pytest.mark.timing
    def test_takes_what_comes_back_meanwhile(self, client, push, other, monkeypatch):
        monkeypatch.setattr(holders, "PAUSE", 0.2)
        push(1)
        other()
        release = threading.Timer(0.6, lambda: client.copy().save(Task(client.get("token_0")).scrub()))
        release.start()
        actor = Worker(client)
        actor.run(wait_for_locked=True)
        release.join()
        assert actor.tasks_processed == 1

    @pytest.mark.timing
    def test_a_wait_ends_with_the_time_of_the_run(self, client, push, other):
        push(1)
        other()
        began = time.monotonic()
        Worker(client).run(wait_for_locked=True, max_total_time=1)
        assert time.monotonic() - began < 10

    def test_a_wait_can_be_stopped(self, client, push, other, pilot):
        push(1)
        other()
        process = pilot("Noting(connect()).run(wait_for_locked=True)")
        wait_for(lambda: "waiting until" in process.errors.read_text())
        assert process.stop() == 0
        assert count_states(client)["locked"] == 1

    def test_tokens_of_pilots_that_have_left_no_document_are_not_waited_for(self, client, push):
        push(1)
        client.save(Task(client.get("token_0")).lock("picas_pilot_gone"))
        began = time.monotonic()
        Worker(client).run(wait_for_locked=True)
        assert time.monotonic() - began < 5
