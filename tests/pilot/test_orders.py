"""What people order pilots to do, which these find in their own documents."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from typing import ClassVar

import pytest
from support.tokens import make_token
from support.trees import TREE, pids
from support.workers import Worker, is_alive, pid_in, signal_after, wait_for

from picas import EndlessViewIterator, RunActor, Task, TaskViewIterator, modifiers
from picas.exceptions import UsageError
from picas.executers import run_command
from picas.pilot import find_pause, orders
from picas.pilot.cancelling import cancel_put_back
from picas.pilot.fleet import running_pilots
from picas.pilot.heartbeat import Duties, Heartbeat
from picas.pilot.identity import DEAD, PREFIX, Pilot
from picas.pilot.leases import Watch
from picas.pilot.mailbox import DRAIN, PAUSE, give
from picas.pilot.orders import (
    POOL_ID,
    cancel_tokens,
    drain_pilots,
    follow,
    pause_pool,
    resume_pool,
    wait_until_cancelled,
    wait_until_obeyed,
    watch,
    watched,
)
from picas.tokens.reasons import RESET
from picas.tokens.states import state_of
from picas.views import count_states

HEARTBEAT = 0.2
NEVER = 600.0

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture
def go():
    """Set when the work on tokens may end; the test's pilots end after it."""
    return threading.Event()


@pytest.fixture
def at_work(client, go):
    """Return a function that runs an actor in a thread, and returns that; it must have ended after the test."""
    threads = []

    def start(work=lambda token: None, actor=None, **options):
        actor = actor or Worker(client.copy(), work, heartbeat=HEARTBEAT, lease=60, grace=1)
        thread = threading.Thread(target=actor.run, kwargs=options)
        threads.append(thread)
        thread.start()
        return actor

    yield start
    go.set()
    if find_pause(client) is not None:
        resume_pool(client)
    drain_pilots(client)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def endless(client):
    """Return a function that makes an actor that waits for tokens."""

    def make(work=lambda token: None, **options):
        pool = client.copy()
        iterator = EndlessViewIterator(TaskViewIterator(pool, "todo"))
        return Worker(pool, work, iterator=iterator, heartbeat=HEARTBEAT, lease=60, grace=1, **options)

    return make


def the_pilot(client):
    """Wait until there is a pilot, and return its document."""
    return wait_for(lambda: next(running_pilots(client), None))


def last_attempt(client, id="token_0"):
    return client.get(id)["attempts"][-1]


def sleep_until(condition):
    """Sleep in a way that an interruption ends."""
    while not condition():
        time.sleep(0.01)


class TestCancel:
    @pytest.mark.timing
    @pytest.mark.parametrize("slots", [1, 4])
    def test_a_program_is_ended_with_its_whole_tree(self, client, push, at_work, tmp_path, slots):
        push(1)

        def work(token):
            token["exit_code"] = run_command(["bash", "-c", TREE], cwd=tmp_path).exit_code

        at_work(work, slots=slots, max_scrub=3)
        pid_in(tmp_path / "child")
        processes = pids(tmp_path)
        began = time.monotonic()
        (cancellation,) = cancel_tokens(client, ["token_0"], "wrong input", "ann")
        assert cancellation.order.pilot == the_pilot(client)["_id"]
        (ended,) = wait_until_cancelled(client, [cancellation])
        assert time.monotonic() - began < HEARTBEAT + 1 + 5  # with the grace period
        assert ended.outcome == "cancelled"
        assert not any(map(is_alive, processes.values()))
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"]) == ("error", 0)
        assert token["error"][-1]["message"] == "cancelled by ann: wrong input"
        assert [(attempt["outcome"], attempt["reason"]) for attempt in token["attempts"]] == [
            ("cancelled", "cancelled by ann: wrong input")
        ]

    @pytest.mark.timing
    def test_python_code_is_interrupted_and_the_pilot_goes_on(self, client, push, at_work, go):
        push(2)
        begun = threading.Event()

        def work(token):
            if not begun.is_set():
                begun.set()
                sleep_until(go.is_set)

        actor = at_work(work, slots=2)
        begun.wait()
        (id,) = [id for id in ("token_0", "token_1") if id == actor.processed[0]]
        wait_until_cancelled(client, cancel_tokens(client, [id]))
        assert last_attempt(client, id)["outcome"] == "cancelled"
        wait_for(lambda: count_states(client)["done"] == 1)
        assert actor._picas.pilot.outcomes == {"cancelled": 1, "done": 1}

    @pytest.mark.timing
    def test_the_logs_of_a_cancelled_program_are_kept(self, client, push, at_work, tmp_path):
        push(1)

        def work(token):
            result = run_command(["sh", "-c", "echo begun; echo > begun; sleep 60"], stdout="out", cwd=tmp_path)
            token["exit_code"] = result.exit_code
            token.put_attachment("logs_token_0.out", (tmp_path / "out").read_bytes())

        at_work(work)
        wait_for((tmp_path / "begun").exists)
        wait_until_cancelled(client, cancel_tokens(client, ["token_0"]))
        assert last_attempt(client)["outcome"] == "cancelled"
        assert client.read_attachment("token_0", "logs_token_0.out") == b"begun\n"

    @pytest.mark.timing
    @pytest.mark.parametrize("slots", [1, 2])
    def test_a_token_that_waits_for_a_slot(self, client, push, at_work, go, slots):
        """Tokens are locked ahead once some short ones have shown how long a token takes."""
        push(60)
        processed = []

        def work(token):
            processed.append(token.id)
            if len(processed) > 8 * slots:
                sleep_until(go.is_set)

        actor = Worker(client.copy(), work, heartbeat=HEARTBEAT, lease=60, claim_ahead=20)
        at_work(actor=actor, slots=slots)
        wait_for(lambda: len(processed) >= 9 * slots)  # now all slots wait
        beat = the_pilot(client)["beat"]
        held = wait_for(lambda: the_pilot(client)["beat"] > beat + 1 and the_pilot(client)["holds"])
        waiting = next(id for id in held if id not in processed)
        cancellations = cancel_tokens(client, [waiting])
        wait_until_obeyed(client, [cancellations[0].order])
        go.set()
        wait_until_cancelled(client, cancellations)
        assert last_attempt(client, waiting)["outcome"] == "cancelled"
        wait_for(lambda: count_states(client)["todo"] == count_states(client)["locked"] == 0)
        assert waiting not in processed

    def test_a_free_token_is_in_error_at_once(self, client, push):
        push(1)
        (cancellation,) = cancel_tokens(client, ["token_0"], "wrong input", "ann")
        assert (cancellation.outcome, cancellation.order) == ("cancelled", None)
        token = client.get("token_0")
        assert (state_of(token), token["error"][-1]["message"]) == ("error", "cancelled by ann: wrong input")
        assert (last_attempt(client)["outcome"], last_attempt(client)["reason"]) == (
            "cancelled",
            "cancelled by ann: wrong input",
        )
        assert "claim" not in token

    def test_many_free_tokens_take_few_requests(self, client, push, monkeypatch):
        push(60)
        saved = []
        monkeypatch.setattr(client, "save", saved.append)
        cancellations = cancel_tokens(client, [f"token_{number}" for number in range(60)])
        assert [each.outcome for each in cancellations] == ["cancelled"] * 60
        assert (count_states(client)["error"], saved) == (60, [])

    def test_a_free_token_that_is_changed_just_then_is_cancelled_all_the_same(self, client, push, monkeypatch):
        push(2)
        read = client.get_documents

        def lose_the_race(ids):
            tokens = read(ids)
            client.copy().edit("token_0", lambda token: {**token, "colour": "red"})
            client.copy().delete(client.copy().get("token_1"))
            return tokens

        monkeypatch.setattr(client, "get_documents", lose_the_race)
        assert [each.detail for each in cancel_tokens(client, ["token_0", "token_1"])] == [
            "token token_0 is cancelled",
            "there is no token token_1",
        ]
        assert client.get("token_0")["colour"] == "red"

    def test_a_free_token_that_a_pilot_locks_just_then_is_left_to_the_pilot(self, client, push, monkeypatch):
        push(1)
        rival = client.copy()
        rival.save({"_id": f"{PREFIX}a", "type": "pilot", "state": "running", "beat": 1, "orders": {}})
        read = client.get_documents

        def lose_the_race(ids):
            tokens = read(ids)
            rival.save(Task(rival.get("token_0")).lock(f"{PREFIX}a"))
            return tokens

        monkeypatch.setattr(client, "get_documents", lose_the_race)
        (cancellation,) = cancel_tokens(client, ["token_0"])
        assert cancellation.order.pilot == f"{PREFIX}a"
        token = client.get("token_0")
        assert state_of(token) == "locked"
        assert client.get(f"{PREFIX}a")["orders"]["cancel"]["token_0"]["claim"] == token["claim"]["id"]

    @pytest.mark.parametrize(
        ("token", "detail"),
        [
            (None, "there is no token token_0"),
            ({"type": "else"}, "token_0 is not a token"),
            ({"lock": 5, "done": 6, "exit_code": 0}, "token token_0 is done already"),
            ({"lock": 99, "done": 99}, "token token_0 is in error already"),
            ({"lock": "x"}, "token token_0 is in no state"),
            ({"lock": 5}, "token token_0 is locked by no known pilot"),
            ({"lock": 5, "claim": {"id": "1", "pilot": "p"}}, "can't be cancelled: p has left the pool"),
            ({"lock": 5, "claim": {"id": "1", "pilot": "picas_pilot_dead"}}, "picas_pilot_dead is marked as dead"),
        ],
    )
    def test_of_others_it_is_said_why_not(self, client, token, detail):
        client.save({"_id": f"{PREFIX}dead", "type": "pilot", "state": DEAD})
        if token is not None:
            client.save(make_token(0, **token))
        (cancellation,) = cancel_tokens(client, ["token_0"])
        assert detail in cancellation.detail
        assert (cancellation.outcome, cancellation.order) == ("", None)

    @pytest.mark.timing
    def test_an_order_for_an_earlier_lock_does_not_end_the_present_one(self, client, push, at_work, go):
        client.save(make_token(0, attempts=[{"claim": "an earlier one", "outcome": "stopped", "reason": RESET}]))
        at_work(lambda token: sleep_until(go.is_set))
        pilot = wait_for(lambda: the_pilot(client)["holds"] and the_pilot(client))
        order = give(client, pilot["_id"], lambda orders: {"cancel": {"token_0": {"claim": "an earlier one"}}})
        wait_until_obeyed(client, [order])
        assert client.get(pilot["_id"])["orders"] == {}
        go.set()
        wait_for(lambda: count_states(client)["done"] == 1)

    @pytest.mark.timing
    def test_an_order_that_is_faster_than_the_answer_to_the_lock_stands(self, client, push, at_work, endless, go):
        """The pilot does not know yet that it has locked the token."""
        actor = at_work(actor=endless(lambda token: sleep_until(go.is_set)))
        pilot = the_pilot(client)["_id"]
        token = Task(make_token(0)).lock(pilot)
        client.save(token)
        cancellations = cancel_tokens(client, ["token_0"])
        wait_until_obeyed(client, [cancellations[0].order])
        time.sleep(2 * HEARTBEAT)
        assert list(client.get(pilot)["orders"]["cancel"]) == ["token_0"]
        actor.iterator.iterator._current_claimer()._found = [client.get("token_0")]  # the answer has come
        client.save(make_token(1))  # wakes it
        wait_until_cancelled(client, cancellations)
        assert last_attempt(client)["outcome"] == "cancelled"
        wait_for(lambda: client.get(pilot)["orders"] == {})
        go.set()

    @pytest.mark.timing
    def test_finished_work_is_not_cancelled(self, client, push, at_work, go):
        push(1)
        begun = threading.Event()

        class Slow(RunActor):
            def process_task(self, token):
                token["exit_code"] = 0

            def cleanup_run(self):
                begun.set()
                go.wait(30)

        at_work(actor=Slow(client.copy(), heartbeat=HEARTBEAT, lease=60))
        begun.wait()
        assert cancel_tokens(client, ["token_0"])[0].detail == "token token_0 is done already"
        go.set()


class TestAnOrderThatComesTooLate:
    """A person who cancels a token wants that nobody works on it, whatever its pilot does before its next heartbeat."""

    ORDER: ClassVar = {"token_0": {"claim": "c", "by": "ann", "time": 1, "message": "wrong input"}}

    @pytest.mark.parametrize(
        ("attempts", "is_cancelled"),
        [
            ([{"claim": "c", "outcome": "stopped", "reason": "stopped: SIGTERM"}], True),
            ([{"claim": "c", "outcome": "lost"}], True),
            ([{"claim": "c", "outcome": "failed"}], True),
            ([{"claim": "c", "outcome": "stopped", "reason": RESET}], False),
            ([{"claim": "c", "outcome": "lost"}, {"claim": "d", "outcome": "cancelled"}], False),
            ([{"claim": "c", "outcome": "done"}], False),
            ([], False),
            ("odd", False),
        ],
    )
    def test_goes_for_a_token_that_was_put_back_but_not_by_a_person(self, client, attempts, is_cancelled):
        client.save(make_token(0, attempts=attempts))
        assert cancel_put_back(client, {**self.ORDER, "gone": {"claim": "c"}, "odd": 1}) == {}
        token = client.get("token_0")
        assert state_of(token) == ("error" if is_cancelled else "todo")
        if is_cancelled:
            assert token["attempts"][-1]["reason"] == "cancelled by ann: wrong input"
            assert len(token["attempts"]) == 2

    def test_who_waits_cancels_the_token_again(self, client):
        client.save({"_id": f"{PREFIX}a", "type": "pilot", "state": "running", "beat": 1, "orders": {}})
        client.save(make_token(0, lock=5, claim={"id": "c", "pilot": f"{PREFIX}a"}))
        cancellations = cancel_tokens(client, ["token_0"], "wrong input", "ann")
        client.edit("token_0", lambda token: modifiers.lose(token, 3))
        (ended,) = wait_until_cancelled(client, cancellations)
        assert (ended.outcome, ended.detail) == ("cancelled", "token token_0 is cancelled")
        assert last_attempt(client)["reason"] == "cancelled by ann: wrong input"
        assert [each.outcome for each in wait_until_cancelled(client, cancellations)] == ["cancelled"]

    def test_nobody_waits_for_ever_for_a_pilot_that_has_died(self, client):
        """There may be no other pilot that would put the token back."""
        client.save({"_id": f"{PREFIX}a", "type": "pilot", "state": "running", "beat": 1, "orders": {}, "lease": 0.1})
        client.save(make_token(0, lock=5, claim={"id": "c", "pilot": f"{PREFIX}a"}))
        (left,) = wait_until_cancelled(client, cancel_tokens(client, ["token_0"]))
        assert (left.outcome, left.order.pilot) == ("", f"{PREFIX}a")

    def test_is_kept_while_the_pilot_holds_the_token(self, client):
        client.save(make_token(0, lock=5, claim={"id": "c", "pilot": f"{PREFIX}a"}))
        assert cancel_put_back(client, self.ORDER) == self.ORDER
        assert state_of(client.get("token_0")) == "locked"

    def test_goes_to_the_pilot_that_has_locked_the_token_since(self, client):
        client.save({"_id": f"{PREFIX}b", "type": "pilot", "state": "running", "beat": 1, "orders": {}})
        attempts = [{"claim": "c", "outcome": "lost"}]
        client.save(make_token(0, lock=5, claim={"id": "d", "pilot": f"{PREFIX}b"}, attempts=attempts))
        cancel_put_back(client, self.ORDER)
        assert client.get(f"{PREFIX}b")["orders"]["cancel"]["token_0"] == {**self.ORDER["token_0"], "claim": "d"}

    @pytest.mark.timing
    def test_is_obeyed_for_a_token_that_was_given_back_before_its_work_began(self, client, at_work, endless):
        """Of that nothing is recorded in the token."""
        at_work(actor=endless(lambda token: sleep_until(lambda: False)))
        pilot = the_pilot(client)["_id"]
        client.save(make_token(0))
        wait_for(lambda: count_states(client)["locked"] == 1)
        give(client, pilot, lambda orders: {"cancel": {"token_0": {"by": "ann", "claim": "given back"}}})
        wait_for(lambda: count_states(client)["error"] == 1)
        assert last_attempt(client)["reason"] == "cancelled by ann"

    @pytest.mark.parametrize("is_read", [False, True])
    def test_is_obeyed_by_a_pilot_that_ends(self, client, heart, is_read):
        heartbeat, pilot, _ = heart()
        client.save(make_token(0, attempts=[{"claim": "c", "outcome": "stopped"}]))
        give(client, pilot, lambda orders: {"cancel": self.ORDER})
        if is_read:
            heartbeat._save()
        heartbeat.end(is_clean=True)
        assert last_attempt(client)["outcome"] == "cancelled"
        assert list(running_pilots(client)) == []

    @pytest.mark.timing
    @pytest.mark.parametrize("is_marked", [False, True])
    def test_survives_the_death_of_the_pilot(self, client, is_marked):
        """Also if the one that has marked it as dead has died then."""
        pilot = f"{PREFIX}a"
        state = DEAD if is_marked else "running"
        client.save({"_id": pilot, "type": "pilot", "state": state, "orders": {"cancel": self.ORDER}})
        client.save(make_token(0, lock=5, claim={"id": "c", "pilot": pilot}))
        watch = Watch(client, lease=0.2)
        wait_for(lambda: watch.look() and state_of(client.get("token_0")) == "error")
        outcomes = [attempt["outcome"] for attempt in client.get("token_0")["attempts"]]
        assert outcomes == ["lost", "cancelled"]

    @pytest.mark.timing
    @pytest.mark.parametrize("outcome", ["failed", "cancelled"])
    def test_a_token_that_has_just_failed_is_not_retried(self, client, push, at_work, monkeypatch, outcome):
        """The pilot waits for its own signal, since a signal has ended the program."""
        monkeypatch.setattr("picas.pilot.work.STOP_LAG", 5 * HEARTBEAT)
        push(1)
        failed = threading.Event()

        def work(token):
            failed.set()
            if outcome == "cancelled":
                raise subprocess.CalledProcessError(-9, "program")
            token["exit_code"] = -9

        at_work(work, max_scrub=3)
        failed.wait()
        wait_until_cancelled(client, cancel_tokens(client, ["token_0"]))
        assert [attempt["outcome"] for attempt in client.get("token_0")["attempts"]] == [outcome]
        assert state_of(client.get("token_0")) == "error"


class TestDrain:
    @pytest.mark.timing
    @pytest.mark.parametrize("slots", [1, 2])
    def test_an_endless_pilot_ends_once_its_tokens_have_ended(self, client, push, at_work, endless, slots, go):
        push(2)
        at_work(actor=endless(lambda token: sleep_until(go.is_set)), slots=slots)
        pilot = wait_for(lambda: the_pilot(client)["slots_busy"] == slots and the_pilot(client))
        issued = drain_pilots(client, [pilot["_id"]], "maintenance", "ann")
        assert [given.pilot for given in issued.given] == [pilot["_id"]]
        assert wait_until_obeyed(client, issued.given) == [pilot["_id"]]
        drained = the_pilot(client)
        assert (drained["free"], drained["orders"][DRAIN]["message"]) == (0, "maintenance")
        go.set()
        assert wait_until_obeyed(client, issued.given, until_ended=True) == [pilot["_id"]]
        assert count_states(client)["done"] == slots
        assert count_states(client)["todo"] == 2 - slots

    @pytest.mark.timing
    def test_an_iterator_of_a_script_s_own_that_waits_is_stopped(self, client, at_work):
        class Own(TaskViewIterator):
            def claim_task(self):
                self._wait(lambda: False)
                raise IndexError

        pool = client.copy()
        at_work(actor=Worker(pool, iterator=Own(pool, "todo"), heartbeat=HEARTBEAT, lease=60))
        the_pilot(client)
        assert wait_until_obeyed(client, drain_pilots(client).given, until_ended=True, timeout=20)

    def test_pilots_are_named_by_id_beginning_or_job(self, client):
        for name, fields in {"node1_1": {}, "node1_2": {"slurm_job_id": "7"}, "node2_1": {}}.items():
            client.save({"_id": PREFIX + name, "type": "pilot", "state": "running", "orders": {}, **fields})

        def drained(*names):
            issued = drain_pilots(client, names)
            return [given.pilot.removeprefix(PREFIX) for given in issued.given], issued.problems

        assert drained(f"{PREFIX}node1_1") == (["node1_1"], [])
        assert drained("node2") == (["node2_1"], [])
        assert drained("7", f"{PREFIX}node2") == (["node1_2", "node2_1"], [])
        assert drained("node3", "") == ([], ["no pilot node3 is running", "no pilot  is running"])
        with pytest.raises(UsageError, match="node1 is the beginning of 2 pilots: picas_pilot_node1_1, "):
            drained("node1")
        assert len(drain_pilots(client).given) == 3

    def test_a_pilot_of_an_older_release_is_named(self, client):
        """It would drop the orders with its next heartbeat."""
        client.save({"_id": f"{PREFIX}old", "type": "pilot", "state": "running"})
        line = f"pilot {PREFIX}old runs an older release, which knows no orders"
        for issued in (drain_pilots(client), pause_pool(client)):
            assert (issued.given, issued.problems) == ([], [line])
        client.save(Task(make_token(0)).lock(f"{PREFIX}old"))
        (cancellation,) = cancel_tokens(client, ["token_0"])
        assert cancellation.detail == f"token token_0 can't be cancelled: {line.removeprefix('pilot ')}"
        assert "orders" not in client.get(f"{PREFIX}old")

    def test_a_dead_pilot_can_not_be_drained(self, client):
        client.save({"_id": f"{PREFIX}a", "type": "pilot", "state": DEAD})
        assert drain_pilots(client, [f"{PREFIX}a"]).problems == [f"pilot {PREFIX}a is marked as dead"]
        assert drain_pilots(client).problems == ["no pilot is running"]


class TestPause:
    @pytest.mark.timing
    @pytest.mark.parametrize("slots", [1, 4])
    def test_a_paused_pilot_ends_its_tokens_and_locks_no_other_until_the_pool_is_resumed(
        self, client, push, at_work, slots, go
    ):
        push(12)
        actor = at_work(lambda token: sleep_until(go.is_set), slots=slots)
        wait_for(lambda: the_pilot(client)["slots_busy"] == slots)
        issued = pause_pool(client, "maintenance", "ann")
        assert wait_until_obeyed(client, issued.given) == [the_pilot(client)["_id"]]
        go.set()
        wait_for(lambda: count_states(client)["locked"] == 0)
        assert count_states(client) == {"todo": 12 - slots, "locked": 0, "done": slots, "error": 0}
        before = wait_for(lambda: the_pilot(client)["slots_busy"] == 0 and the_pilot(client))
        time.sleep(3 * HEARTBEAT)
        after = the_pilot(client)
        assert after["busy_seconds"] == before["busy_seconds"]
        assert after["idle_seconds"] > before["idle_seconds"]
        assert (after["slots_busy"], after["free"]) == (0, slots)
        assert count_states(client)["todo"] == 12 - slots
        resume_pool(client)
        wait_for(lambda: count_states(client)["done"] == 12)
        assert len(actor.processed) == 12

    @pytest.mark.timing
    @pytest.mark.parametrize("slots", [1, 2])
    def test_tokens_that_were_locked_ahead_are_given_back(self, client, push, at_work, slots, go):
        push(60)
        processed = []

        def work(token):
            processed.append(token.id)
            if len(processed) > 8 * slots:
                sleep_until(go.is_set)

        at_work(actor=Worker(client.copy(), work, heartbeat=HEARTBEAT, lease=60, claim_ahead=4), slots=slots)
        wait_for(lambda: len(the_pilot(client)["holds"]) > slots)
        wait_until_obeyed(client, pause_pool(client).given)
        wait_for(lambda: count_states(client)["locked"] <= slots)
        go.set()
        wait_for(lambda: count_states(client)["locked"] == 0)
        assert count_states(client)["todo"] > 0
        assert all("attempts" not in client.get(f"token_{number}") for number in range(60) if
                   f"token_{number}" not in processed)  # fmt: skip
        resume_pool(client)
        wait_for(lambda: count_states(client)["done"] == 60)

    @pytest.mark.timing
    def test_a_pilot_that_starts_in_a_pause_waits_and_says_why(self, client, push, at_work, caplog):
        push(2)
        pause_pool(client, "maintenance", "ann")
        at_work()
        assert wait_for(lambda: the_pilot(client)["orders"].get(PAUSE))["by"] == "ann"
        time.sleep(3 * HEARTBEAT)
        assert count_states(client)["todo"] == 2
        assert "The pool is paused by ann: maintenance. No further token is locked until" in caplog.text
        resume_pool(client)
        wait_for(lambda: count_states(client)["done"] == 2)

    @pytest.mark.timing
    def test_a_paused_pilot_heeds_its_time_a_drain_and_signals(self, client, push, at_work, endless):
        push(1)
        pause_pool(client)
        began = time.monotonic()
        Worker(client, heartbeat=HEARTBEAT, lease=60).run(max_total_time=0.5)
        assert time.monotonic() - began < 10
        at_work(actor=endless())
        the_pilot(client)
        assert wait_until_obeyed(client, drain_pilots(client).given, until_ended=True, timeout=20)
        with signal_after(0, 15, lambda: list(running_pilots(client))), pytest.raises(SystemExit):
            endless().run()
        assert count_states(client)["todo"] == 1
        assert list(running_pilots(client)) == []

    def test_the_document_of_the_pool_says_who_and_why(self, client):
        assert find_pause(client) is None
        pause_pool(client, "  main\ntenance ", "ann")
        pause = find_pause(client)
        assert (pause.by, pause.message, str(pause)) == ("ann", "main tenance", "paused by ann: main tenance")
        assert abs(pause.time - time.time()) < 10
        assert resume_pool(client, "it is over", "bob").problems == []
        assert find_pause(client) is None
        (problem,) = resume_pool(client).problems
        assert re.fullmatch(r"the pool is not paused: it was resumed \d+ s ago by bob: it is over", problem)
        pause_pool(client)
        assert "resumed" not in client.get(POOL_ID)
        assert client.get(POOL_ID)["type"] == "pool"

    @pytest.mark.parametrize("is_paused_last", [True, False])
    def test_of_two_people_at_once_the_last_has_their_way(self, client, monkeypatch, is_paused_last):
        """The pilots do what the pool says, whoever writes to them last."""
        client.save({"_id": f"{PREFIX}a", "type": "pilot", "state": "running", "orders": {}})
        first, last = (resume_pool, pause_pool) if is_paused_last else (pause_pool, resume_pool)
        pause_pool(client)
        listed = orders.pilots

        def list_after_the_other(pool):
            monkeypatch.setattr(orders, "pilots", listed)
            last(client.copy())
            return listed(pool)

        monkeypatch.setattr(orders, "pilots", list_after_the_other)
        first(client)
        assert (find_pause(client) is not None) == is_paused_last
        assert (PAUSE in client.get(f"{PREFIX}a")["orders"]) == is_paused_last

    def test_a_dead_pilot_is_not_said_to_obey(self, client):
        for name, state in {"a": "running", "b": "running"}.items():
            client.save({"_id": PREFIX + name, "type": "pilot", "state": state, "orders": {}})
        pause_pool(client)
        client.edit(f"{PREFIX}b", lambda content: {**content, "state": DEAD})
        assert [given.pilot for given in resume_pool(client).given] == [f"{PREFIX}a"]
        assert client.get(f"{PREFIX}b")["orders"] == {}

    def test_nobody_waits_for_ever_for_a_pilot_that_has_died(self, client):
        """There may be no other pilot that would mark it as dead."""
        client.save({"_id": f"{PREFIX}a", "type": "pilot", "state": "running", "orders": {}, "beat": 1, "lease": 0.1})
        for issued, until_ended in ((pause_pool(client), False), (drain_pilots(client), True)):
            assert wait_until_obeyed(client, issued.given, until_ended=until_ended) == []

    def test_who_gives_an_order_is_the_user_of_the_pool(self, client, monkeypatch):
        pause_pool(client)
        assert find_pause(client).by == client.username
        monkeypatch.setattr(client, "_credentials", None)
        monkeypatch.setenv("LOGNAME", "ann")
        pool = client.copy() if client.username else client
        monkeypatch.setattr(type(pool), "edit", lambda self, id, change: seen.append(change({"_id": id})))
        seen = []
        pause_pool(pool)
        assert seen[0]["paused"]["by"] == "ann"


class Recording(Duties):
    """Notes the orders that it gets."""

    def __init__(self):
        self.seen = []

    def obey(self, orders):
        self.seen.append(orders)
        return orders


@pytest.fixture
def heart(client):
    """Return a function that makes a heartbeat whose document is saved."""

    def make(save=True):
        pilot, duties = Pilot(), Recording()
        heartbeat = Heartbeat(client.copy(), pilot, 0.01, Watch(client, pilot.id, lease=NEVER), duties)
        if save:
            heartbeat.save_first()
        return heartbeat, pilot.id, duties

    return make


def order(client, pilot, kind, note="x"):
    return give(client, pilot, lambda orders: {**orders, kind: {"by": note, "time": 1, "message": ""}})


class TestRaces:
    def test_an_order_between_the_read_and_the_write_of_a_heartbeat_is_not_lost(self, client, heart, monkeypatch):
        heartbeat, pilot, duties = heart()
        order(client, pilot, DRAIN)
        read = heartbeat._client.get

        def interfere(id):
            stored = read(id)
            if PAUSE not in client.get(pilot)["orders"]:
                order(client, pilot, PAUSE)
            return stored

        monkeypatch.setattr(heartbeat._client, "get", interfere)
        heartbeat._save()
        assert set(client.get(pilot)["orders"]) == set(duties.seen[-1]) == {DRAIN, PAUSE}

    def test_two_people_who_give_orders_at_once_both_succeed(self, client, heart):
        heartbeat, pilot, duties = heart()
        people = [threading.Thread(target=order, args=(client.copy(), pilot, f"kind {number}")) for number in range(8)]
        for person in people:
            person.start()
        for person in people:
            person.join()
        heartbeat._save()
        assert set(duties.seen[-1]) == {f"kind {number}" for number in range(8)}

    def test_an_order_is_no_further_request(self, client, heart, monkeypatch):
        heartbeat, pilot, _ = heart()
        calls = []
        for name in ("get", "save", "all_docs"):
            real = getattr(heartbeat._client, name)
            monkeypatch.setattr(
                heartbeat._client, name, lambda *a, name=name, real=real, **k: (calls.append(name), real(*a, **k))[1]
            )
        heartbeat._save()
        assert calls == ["save"]
        order(client, pilot, DRAIN)
        heartbeat._save()
        assert calls == ["save", "save", "get", "save"]

    def test_an_order_of_an_outage_is_obeyed_after_it(self, client, far, gate):
        pilot, duties = Pilot(), Recording()
        heartbeat = Heartbeat(far, pilot, 0.01, Watch(far, pilot.id, lease=NEVER), duties)
        heartbeat.save_first()
        gate.close()
        order(client, pilot.id, DRAIN)
        assert not heartbeat._beat()
        gate.open()
        assert heartbeat._beat()
        assert DRAIN in duties.seen[-1]

    def test_a_pilot_that_was_marked_as_dead_keeps_its_orders_and_finds_a_pause(self, client, heart):
        heartbeat, pilot, duties = heart()
        order(client, pilot, DRAIN)
        heartbeat._save()
        client.edit(pilot, lambda content: {**content, "state": DEAD})
        assert pause_pool(client, by="ann").given == []
        heartbeat._save()
        assert set(client.get(pilot)["orders"]) == set(duties.seen[-1]) == {DRAIN, PAUSE}
        client.edit(pilot, lambda content: {**content, "state": DEAD})
        assert resume_pool(client).given == []
        heartbeat._save()
        assert set(client.get(pilot)["orders"]) == {DRAIN}

    def test_a_pilot_whose_document_was_deleted_keeps_its_orders(self, client, heart):
        heartbeat, pilot, _ = heart()
        order(client, pilot, DRAIN)
        heartbeat._save()
        client.delete(client.get(pilot))
        heartbeat._save()
        assert set(client.get(pilot)["orders"]) == {DRAIN}

    @pytest.mark.parametrize("step", ["before", "after"])
    def test_a_pause_that_comes_while_a_pilot_starts(self, client, heart, monkeypatch, step):
        heartbeat, pilot, _ = heart(save=False)
        save = heartbeat._client.save

        def pausing(document):
            if step == "before" and find_pause(client) is None:
                pause_pool(client)
            saved = save(document)
            if step == "after" and find_pause(client) is None:
                pause_pool(client)
            return saved

        monkeypatch.setattr(heartbeat._client, "save", pausing)
        heartbeat.save_first()
        heartbeat._save()
        assert set(client.get(pilot)["orders"]) == {PAUSE}

    def test_a_pool_that_is_resumed_while_a_pilot_starts(self, client, heart, monkeypatch):
        """The pilot has read the pause, and its document has no pause yet for `resume_pool` to find."""
        pause_pool(client)
        heartbeat, pilot, duties = heart(save=False)
        read = heartbeat._client.get

        def resuming(id):
            found = read(id)
            if id == POOL_ID and find_pause(client) is not None:
                resume_pool(client)
            return found

        monkeypatch.setattr(heartbeat._client, "get", resuming)
        heartbeat.save_first()
        assert client.get(pilot)["orders"] == {}
        assert [set(orders) for orders in duties.seen] == [{PAUSE}, set()]


ODD = [
    "x",
    {"cancel": 1, "watch": [], "drain": 2, "pause": "x", "dance": {}},
    {"cancel": {"token_0": "x", "": {}, "token_1": {"claim": {"a": 1}, "by": [], "message": {}}}},
    {"watch": {"token_0": None}, "drain": {"by": 5, "message": ["\n"]}, "pause": {"time": "x", "by": {}}},
]


@pytest.mark.timing
@pytest.mark.parametrize("orders", ODD, ids=str)
def test_odd_orders_do_a_pilot_no_harm(client, push, at_work, go, orders):
    push(1)
    at_work(lambda token: sleep_until(go.is_set))
    pilot = wait_for(lambda: the_pilot(client)["slots_busy"] and the_pilot(client))
    client.edit(pilot["_id"], lambda content: {**content, "orders": orders})
    beat = client.get(pilot["_id"])["beat"]
    wait_for(lambda: client.get(pilot["_id"])["beat"] > beat + 1, 10)
    assert set(client.get(pilot["_id"])["orders"]) <= {PAUSE, DRAIN}
    go.set()
    wait_for(lambda: count_states(client)["done"] == 1)


def test_pilots_of_a_large_pool_save_less_often(client, heart):
    heartbeat, pilot, _ = heart()
    assert heartbeat._pause() <= 0.01
    heartbeat._watch.pilots = 1000
    assert 90 <= heartbeat._pause() <= 100
    heartbeat._watch.pilots = 1_000_000
    assert 180 <= heartbeat._pause() <= 200  # three times in the lease
    heartbeat._save()
    assert client.get(pilot)["heartbeat"] == 200


def test_a_pilot_whose_output_is_watched_tries_again_soon_after_an_outage(client, heart, monkeypatch):
    heartbeat, _, _ = heart()
    heartbeat._interval = 60.0
    monkeypatch.setattr(heartbeat, "_beat", lambda: False)
    heartbeat._next_beat = 0.0
    assert 5 < heartbeat.step() <= 10
    monkeypatch.setattr(Recording, "longest_pause", 2.0)
    heartbeat._next_beat = 0.0
    assert heartbeat.step() <= 2


class TestWatch:
    @pytest.mark.timing
    @pytest.mark.parametrize("slots", [1, 2])
    def test_the_output_of_a_program_is_followed_while_it_runs(self, client, push, at_work, tmp_path, slots):
        push(1)

        def work(token):
            script = "echo one; echo oops >&2; until [ -e go ]; do sleep 0.05; done; printf 'zw\\303\\266lf\\n'"
            result = run_command(["sh", "-c", script], stdout="out", stderr="err", cwd=tmp_path)
            token["exit_code"] = result.exit_code
            token.put_attachment("logs_token_0.out", (tmp_path / "out").read_bytes())

        at_work(work, slots=slots)
        the_pilot(client)
        wait_for(lambda: count_states(client)["locked"])
        text = follow(client, "token_0", sleep=lambda seconds: time.sleep(0.05))
        assert next(text) == "one\n"
        wait_for(lambda: watched(client, "token_0").stderr.size)
        shown = watched(client, "token_0")
        assert (shown.stdout.tail, shown.stderr.tail, shown.stderr.size) == (b"one\n", b"oops\n", 5)
        (tmp_path / "go").touch()
        assert "".join(text) == "zwölf\n"
        assert watched(client, "token_0") is None

    @pytest.mark.timing
    @pytest.mark.parametrize(
        ("log", "rest"),
        [
            (b"an earlier program\none\ntwo\n", "two\n"),
            (b"beg\n[...]\none\ntwo\n", "two\n"),
            (b"two\nthree\n", "[...]\ntwo\nthree\n"),
            (b"", ""),
            (b"one\n", ""),
        ],
    )
    def test_the_end_comes_from_a_log_that_is_not_just_the_output(self, client, push, at_work, go, tmp_path, log, rest):
        """It is cut if it is very large, or it may hold the output of several programs."""
        push(1)

        def work(token):
            script = "echo one; until [ -e go ]; do sleep 0.05; done"
            run_command(["sh", "-c", script], stdout="out", cwd=tmp_path)
            token.put_attachment("logs_token_0.out", log)

        at_work(work)
        wait_for(lambda: count_states(client)["locked"])
        text = follow(client, "token_0", sleep=lambda seconds: time.sleep(0.05))
        assert next(text) == "one\n"
        (tmp_path / "go").touch()
        assert "".join(text) == rest

    def test_a_token_that_is_not_at_work_is_not_watched(self, client, push):
        push(1)
        assert watch(client, "token_0") is None
        assert watch(client, "absent") is None
        client.save(Task(client.get("token_0")).lock(f"{PREFIX}gone"))
        assert watch(client, "token_0") is None

    @pytest.mark.timing
    def test_it_stops_by_itself(self, client, push, at_work, monkeypatch, go):
        push(1)
        monkeypatch.setattr("picas.pilot.duties.WATCH_TIME", 0.5)
        at_work(lambda token: sleep_until(go.is_set))
        wait_for(lambda: count_states(client)["locked"] and the_pilot(client))
        watch(client, "token_0")
        wait_for(lambda: "watched" in the_pilot(client))
        wait_for(lambda: "watched" not in the_pilot(client))
        assert the_pilot(client)["orders"] == {}
        go.set()


@pytest.mark.timing
def test_many_actors_obey_their_own_orders(client, push, at_work, go):
    push(6)
    for _ in range(3):
        at_work(lambda token: sleep_until(go.is_set), slots=2)
    wait_for(lambda: sum(pilot["slots_busy"] for pilot in running_pilots(client)) == 6)
    first, *others = running_pilots(client)
    cancelled = first["holds"][0]
    drained = drain_pilots(client, [others[0]["_id"]])
    cancellations = wait_until_cancelled(client, cancel_tokens(client, [cancelled]))
    assert [each.outcome for each in cancellations] == ["cancelled"]
    assert count_states(client) == {"todo": 0, "locked": 5, "done": 0, "error": 1}
    go.set()
    assert wait_until_obeyed(client, drained.given, until_ended=True) == [others[0]["_id"]]
    wait_for(lambda: count_states(client) == {"todo": 0, "locked": 0, "done": 5, "error": 1})
