"""Retries of failed tokens: after a delay, if one is set, during which no pilot takes the token."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from typing import Any, Callable

import pytest
from support.faults import FaultProxy
from support.tokens import make_token
from support.workers import Gate, Worker, signal_after, wait_for

from picas import CouchDB, EndlessViewIterator, PrioritizedViewIterator, RunActor, Task, TaskViewIterator, modifiers
from picas.exceptions import PilotStopped
from picas.pool import claims, reset_tokens
from picas.pool.recovery import recover
from picas.tokens import retries
from picas.tokens.states import state_of
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")

DELAY = 0.3
"""Delay of a retry in these tests, in seconds."""
SOON = 10.0
"""Limit, in seconds, for what takes a fraction of a second on an idle machine."""

Push = Callable[..., list[Task]]


@pytest.fixture(params=[1, 3], ids=["one slot", "three slots"])
def slots(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


class Failing(Worker):
    """Fails each token a number of times, and records when it started each attempt.

    :param failures: how many attempts at each token fail
    """

    def __init__(self, db: CouchDB, failures: float = math.inf, **options: Any) -> None:
        super().__init__(db, self._fail, **options)
        self.failures = failures
        self.begun: dict[str, list[float]] = {}
        self._noting = threading.Lock()

    def _fail(self, task: Any) -> None:
        with self._noting:
            self.begun.setdefault(task.id, []).append(time.time())
        task["exit_code"] = 3 if len(self.begun[task.id]) <= self.failures else 0

    def pauses(self, token: str) -> list[float]:
        """Return the seconds between the attempts at a token."""
        return [later - earlier for earlier, later in zip(self.begun[token], self.begun[token][1:])]


def writes_tokens(request: Any) -> bool:
    """Return whether a request writes one or several tokens."""
    if "_bulk_docs" in request.path:
        return b"picas_ended_" not in request.body  # that is the end of the pilot
    return request.method == "PUT" and "/token_" in request.path


def wait_later(client: CouchDB, token: str, seconds: float) -> None:
    """Postpone a token."""
    client.edit(token, lambda content: {**content, "not_before": time.time() + seconds})


@pytest.mark.parametrize("odd", [-1, float("nan"), float("inf"), "5", None])
def test_an_invalid_delay_is_refused_before_any_token_is_taken(client: CouchDB, push: Push, odd: Any) -> None:
    push(1)
    with pytest.raises(ValueError, match="retry_delay"):
        Worker(client).run(max_scrub=1, retry_delay=odd)
    assert count_states(client)["todo"] == 1


class TestARetry:
    def test_is_delayed_and_the_next_one_longer(self, client: CouchDB, push: Push, slots: int) -> None:
        push(3)
        worker = Failing(client, failures=2)
        worker.run(max_scrub=2, retry_delay=DELAY, slots=slots)
        for token in worker.begun:
            first, second = worker.pauses(token)
            assert first >= DELAY
            assert second >= 2 * DELAY
            stored = client.get(token)
            assert (state_of(stored), stored["scrub_count"], "not_before" in stored) == ("done", 2, False)
            assert [attempt["outcome"] for attempt in stored["attempts"]] == ["failed", "failed", "done"]
        assert len(worker.begun) == 3

    def test_that_fails_and_is_the_last_leaves_the_token_in_error(
        self, client: CouchDB, push: Push, slots: int
    ) -> None:
        push(2)
        worker = Failing(client)
        worker.run(max_scrub=1, retry_delay=DELAY, slots=slots)
        assert sorted(worker.processed) == ["token_0", "token_0", "token_1", "token_1"]
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 0, "error": 2}
        assert "not_before" not in client.get("token_0")

    def test_lets_the_pilot_work_on_other_tokens_meanwhile(self, client: CouchDB, push: Push) -> None:
        push(3)
        worker = Failing(client, failures=1)
        worker.run(max_scrub=1, retry_delay=DELAY)
        assert worker.processed[:3] == ["token_0", "token_1", "token_2"]
        assert sorted(worker.processed[3:]) == ["token_0", "token_1", "token_2"]

    def test_is_postponed_by_the_request_that_puts_the_token_back(
        self, client: CouchDB, location: Any, through: Callable[..., CouchDB], push: Push, slots: int
    ) -> None:
        push(1)
        with FaultProxy(location.url) as proxy:
            before = time.time()
            Failing(through(proxy)).run(max_scrub=1, retry_delay=DELAY, slots=slots)
            bodies = [json.loads(request.body) for request in proxy.requests if writes_tokens(request)]
        written = [doc for body in bodies for doc in body.get("docs", [body])]
        locked, back, again, failed = written
        assert (back["lock"], back["done"], back["scrub_count"], len(back["attempts"])) == (0, 0, 1, 1)
        assert before + DELAY <= back["not_before"] <= time.time() + 2 * DELAY
        assert all("not_before" not in doc for doc in (locked, again, failed))

    @pytest.mark.parametrize("is_seen", [False, True], ids=["saved with others", "saved alone"])
    def test_of_a_token_that_is_saved_alone_is_delayed_too(
        self, client: CouchDB, push: Push, slots: int, is_seen: bool
    ) -> None:
        push(1)

        class Cleaning(Failing):
            def cleanup_run(self) -> None:
                pass

        worker = (Cleaning if is_seen else Failing)(client, failures=1)
        worker.run(max_scrub=1, retry_delay=DELAY, slots=slots)
        assert worker.pauses("token_0")[0] >= DELAY
        assert state_of(client.get("token_0")) == "done"

    def test_is_not_started_early_by_other_pilots(self, client: CouchDB, push: Push, slots: int) -> None:
        push(1)
        Failing(client).run(max_scrub=1, retry_delay=DELAY, max_tasks=1)
        until = client.get("token_0")["not_before"]
        other = Failing(client.copy(), failures=0)
        other.run(slots=slots)
        assert other.begun["token_0"][0] >= until

    def test_is_not_lost_if_the_pilot_is_stopped_after_the_failure(
        self, client: CouchDB, push: Push, slots: int
    ) -> None:
        push(1)
        has_failed = threading.Event()

        def fail(task: Any) -> None:
            task["exit_code"] = 3
            has_failed.set()
            while True:
                time.sleep(0.01)

        with pytest.raises(PilotStopped), signal_after(0, signal.SIGTERM, has_failed.is_set):
            Worker(client, fail).run(max_scrub=1, retry_delay=600, slots=slots)
        self.assert_has_another_try(client)

    @pytest.mark.parametrize("is_seen", [False, True], ids=["saved with others", "saved alone"])
    def test_is_not_lost_if_the_database_is_away_after_the_failure(
        self, client: CouchDB, far: CouchDB, gate: Gate, push: Push, slots: int, is_seen: bool
    ) -> None:
        """The next pilot recovers the failure, and with it the retry."""
        push(1)
        seen = []

        def fail(task: Any) -> None:
            task["exit_code"] = 3
            gate.close()

        class Cleaning(Worker):
            def cleanup_run(self) -> None:
                seen.append((state_of(self.current_task), self.current_task["exit_code"]))

        worker = (Cleaning if is_seen else Worker)(far, fail, max_outage=0)
        with contextlib.suppress(OSError):  # the check for the end of the pool fails too
            worker.run(max_scrub=1, retry_delay=600, slots=slots, max_tasks=1)
        assert state_of(client.get("token_0")) == "locked"
        assert recover(client).saved == ["token_0"]
        self.assert_has_another_try(client)
        assert seen == ([("error", 3)] if is_seen else [])

    def test_keeps_an_edit_that_was_merged_before_the_database_went_away(
        self, client: CouchDB, far: CouchDB, gate: Gate, push: Push, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push(1)
        get = far.get

        def get_and_go(id: str) -> Any:
            found = get(id)
            gate.close()
            return found

        def fail(task: Any) -> None:
            edited = client.get(task.id)
            edited["note"] = "by hand"
            client.save(edited)
            task["exit_code"] = 3
            monkeypatch.setattr(far, "get", get_and_go)

        class Cleaning(Worker):
            def cleanup_run(self) -> None:
                pass

        with contextlib.suppress(OSError):
            Cleaning(far, fail, max_outage=0).run(max_scrub=1, retry_delay=600, max_tasks=1)
        assert recover(client).saved == ["token_0"]
        self.assert_has_another_try(client)
        assert client.get("token_0")["note"] == "by hand"

    @staticmethod
    def assert_has_another_try(client: CouchDB) -> None:
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"], token["not_before"] > time.time()) == ("todo", 1, True)
        assert [attempt["outcome"] for attempt in token["attempts"]] == ["failed"]

    def test_of_the_last_token_costs_no_extra_request(
        self, client: CouchDB, through: Callable[..., CouchDB], location: Any, slots: int, push: Push
    ) -> None:
        push(1)
        with FaultProxy(location.url) as proxy:
            Failing(through(proxy)).run(max_scrub=1, max_tasks=1, slots=slots)
            writes = sum(map(writes_tokens, proxy.requests))
        assert state_of(client.get("token_0")) == "todo"
        assert writes == 2

    def test_without_a_delay_is_immediate_and_writes_no_time(self, client: CouchDB, push: Push, slots: int) -> None:
        push(1)
        Failing(client).run(max_scrub=1, max_tasks=1, slots=slots)
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"], "not_before" in token) == ("todo", 1, False)

    def test_is_taken_by_one_of_many_pilots(self, client: CouchDB, push: Push) -> None:
        push(10)
        workers = [Failing(client.copy(), failures=0) for _ in range(5)]
        Failing(client).run(max_scrub=1, retry_delay=5 * DELAY, max_tasks=10)
        until = {token.id: token["not_before"] for token in client.get_from_view("todo")}
        threads = [threading.Thread(target=worker.run) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(name for worker in workers for name in worker.processed) == sorted(until)
        begun = {token: times[0] for worker in workers for token, times in worker.begun.items()}
        assert all(begun[token] >= when for token, when in until.items())


@pytest.mark.timing
class TestTokensThatWait:
    def test_are_not_the_end_of_the_view(self, client: CouchDB, push: Push, slots: int) -> None:
        push(2)
        wait_later(client, "token_0", 1)
        until = client.get("token_0")["not_before"]
        worker = Failing(client, failures=0)
        worker.run(slots=slots)
        assert sorted(worker.processed) == ["token_0", "token_1"]
        assert worker.begun["token_0"][0] >= until

    def test_are_not_the_end_of_an_iteration_without_an_actor(self, client: CouchDB, push: Push) -> None:
        push(2)
        wait_later(client, "token_0", 1)
        assert [token.id for token in TaskViewIterator(client, "todo")] == ["token_1", "token_0"]

    def test_do_not_hold_up_the_view_of_lower_priority(self, client: CouchDB, slots: int) -> None:
        client.save_documents([make_token(number, urgent=number % 2) for number in range(4)])
        for name, urgent in (("high", 1), ("low", 0)):
            condition = f"doc.lock == 0 && doc.urgent == {urgent}"
            client.add_view(name, f"function(doc) {{ if ({condition}) {{ emit(doc._id, null); }} }}")
        wait_later(client, "token_1", 2)
        worker = Failing(client, failures=0)
        worker.iterator = PrioritizedViewIterator(client, "high", "low")
        worker.run(slots=slots)
        assert set(worker.processed[:3]) == {"token_0", "token_2", "token_3"}
        assert worker.processed[3:] == ["token_1"]

    def test_do_not_hide_new_tokens(
        self, client: CouchDB, push: Push, slots: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claims, "LOOK", 0.1)
        monkeypatch.setattr("picas.pool.windows.WINDOW_AGE", 0.05)
        push(1)
        wait_later(client, "token_0", 3600)
        worker = Failing(client, failures=0)
        timer = threading.Timer(0.3, lambda: client.copy().save(make_token(7)))
        timer.start()
        began = time.monotonic()
        worker.run(slots=slots, max_tasks=1)
        timer.join()
        assert worker.processed == ["token_7"]
        assert time.monotonic() - began < SOON

    def test_are_not_waited_for_longer_than_the_longest_retry_delay(
        self, client: CouchDB, push: Push, slots: int
    ) -> None:
        """A person has postponed them, and a pilot does not wait for days."""
        push(2)
        wait_later(client, "token_0", 2 * retries.LONGEST_WAIT)
        worker = Failing(client, failures=0)
        worker.run(slots=slots)
        assert worker.processed == ["token_1"]
        assert state_of(client.get("token_0")) == "todo"

    def test_with_an_invalid_time_do_not_wait(self, client: CouchDB) -> None:
        odd = [None, "9999999999", -5, True, [9], {"of": 9}]
        client.save_documents([make_token(number, not_before=when) for number, when in enumerate(odd)])
        worker = Failing(client, failures=0)
        worker.run()
        assert len(worker.processed) == len(odd)

    def test_are_waited_for_if_process_task_itself_postponed_them(self, client: CouchDB, push: Push) -> None:
        push(1)

        def put_off(task: Any) -> None:
            if task["scrub_count"] == 0:
                modifiers.scrub(task)
                task["not_before"] = time.time() + DELAY

        worker = Worker(client, put_off)
        began = time.monotonic()
        worker.run()
        assert worker.processed == ["token_0", "token_0"]
        assert time.monotonic() - began >= DELAY

    def test_are_waited_for_by_an_endless_iterator_too(self, client: CouchDB, push: Push, slots: int) -> None:
        push(1)
        worker = Failing(client, failures=1)
        worker.iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=60)
        began = time.monotonic()
        worker.run(slots=slots, max_scrub=1, retry_delay=DELAY, max_tasks=2)
        assert worker.pauses("token_0")[0] >= DELAY
        assert time.monotonic() - began < SOON


@pytest.mark.timing
class TestAnEndlessIteratorWithAPostponedToken:
    """The iterator is used without an actor."""

    def test_takes_it_when_it_is_due(self, client: CouchDB, push: Push) -> None:
        push(1)
        wait_later(client, "token_0", 1.5)
        until = client.get("token_0")["not_before"]
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=60)
        assert next(iterator).id == "token_0"
        assert until <= time.time() < until + SOON
        iterator.stop()

    def test_takes_a_new_token_without_delay(self, client: CouchDB, push: Push) -> None:
        push(1)
        wait_later(client, "token_0", 600)
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=60)
        timer = threading.Timer(0.5, lambda: client.copy().save(make_token(7)))
        timer.start()
        began = time.monotonic()
        assert next(iterator).id == "token_7"
        assert time.monotonic() - began < 5
        timer.join()
        iterator.stop()

    def test_calls_its_callback_meanwhile_and_keeps_its_deadline(self, client: CouchDB, push: Push) -> None:
        push(1)
        wait_later(client, "token_0", 600)
        calls: list[int] = []
        inner = TaskViewIterator(client, "todo")
        assert list(EndlessViewIterator(inner, 0.05, lambda: calls.append(1) or len(calls) > 3)) == []
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"))
        iterator.deadline = time.monotonic() + 0.3
        assert list(iterator) == []


@pytest.mark.timing
class TestTheEndOfARun:
    """A run ends while all remaining tokens are postponed."""

    @pytest.fixture(params=["its own", "endless"])
    def waiting(self, request: pytest.FixtureRequest, client: CouchDB, push: Push) -> Failing:
        push(1)
        wait_later(client, "token_0", 600)
        worker = Failing(client)
        if request.param == "endless":
            worker.iterator = EndlessViewIterator(TaskViewIterator(client, "todo"))
        return worker

    def test_comes_at_max_total_time(self, client: CouchDB, waiting: Failing, slots: int) -> None:
        began = time.monotonic()
        waiting.run(slots=slots, max_total_time=0.5)
        assert time.monotonic() - began < SOON
        assert waiting.processed == []
        assert state_of(client.get("token_0")) == "todo"

    def test_comes_at_once_if_there_is_no_time_left_for_them(self, client: CouchDB, push: Push, slots: int) -> None:
        push(3)
        wait_later(client, "token_0", 600)
        worker = Failing(client, failures=0)
        began = time.monotonic()
        worker.run(slots=slots, max_token_time=60, max_total_time=120)
        assert time.monotonic() - began < SOON
        assert sorted(worker.processed) == ["token_1", "token_2"]

    def test_comes_with_a_signal(self, client: CouchDB, waiting: Failing, slots: int) -> None:
        is_waiting = threading.Event()
        waiting.prepare_env = lambda *args, **options: is_waiting.set()  # type: ignore[method-assign]
        began = time.monotonic()
        with pytest.raises(PilotStopped), signal_after(0.3, signal.SIGTERM, is_waiting.is_set):
            waiting.run(slots=slots)
        assert time.monotonic() - began < SOON
        assert state_of(client.get("token_0")) == "todo"

    def test_comes_when_the_iterator_is_stopped(self, waiting: Failing, slots: int) -> None:
        timer = threading.Timer(0.3, waiting.iterator.stop)
        timer.start()
        began = time.monotonic()
        waiting.run(slots=slots)
        timer.join()
        assert time.monotonic() - began < SOON

    def test_is_not_the_end_of_the_iterator(self, client: CouchDB, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another run can use the iterator again."""
        monkeypatch.setattr("picas.pool.windows.WINDOW_AGE", 0.0)
        monkeypatch.setattr("picas.pool.claims.LOOK", 0.1)
        push(1)
        wait_later(client, "token_0", 600)
        worker = Failing(client, failures=0)
        worker.run(max_total_time=0.2)
        wait_later(client, "token_0", -1)
        worker.run()
        assert worker.processed == ["token_0"]


class TestATokenThatIsResetByHand:
    def test_is_free_at_once(self, client: CouchDB, push: Push) -> None:
        push(1)
        Failing(client).run(max_scrub=1, retry_delay=600, max_tasks=1)
        assert client.get("token_0")["not_before"] > time.time() + 599
        assert reset_tokens(client, "todo").changed == 1
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"], "not_before" in token) == ("todo", 1, False)

    def test_is_not_delayed_if_its_pilot_was_stopped(self, client: CouchDB, push: Push) -> None:
        push(1)
        Failing(client).run(max_scrub=1, retry_delay=DELAY, max_tasks=1)

        class Sleeping(RunActor):
            is_at_work = threading.Event()

            def process_task(self, task: Any) -> None:
                self.is_at_work.set()
                time.sleep(60)

        with pytest.raises(PilotStopped), signal_after(0, signal.SIGTERM, Sleeping.is_at_work.is_set):
            Sleeping(client).run(max_scrub=1, retry_delay=600)
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"], "not_before" in token) == ("todo", 1, False)
        assert [attempt["outcome"] for attempt in token["attempts"]] == ["failed", "stopped"]


def test_the_example_has_an_option_for_the_delay(environment: dict[str, str], client: CouchDB, tmp_path: Any) -> None:
    import subprocess
    import sys

    from support.places import EXAMPLES

    client.save(make_token(0, input="false"))
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / "local-example.py"), "--max-scrub", "1", "--retry-delay", "0.3"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.stdout.endswith("Processed 2 tokens: 2 failed\n"), result.stderr
    first, second = client.get("token_0")["attempts"]
    assert second["start"] >= first["end"]
    wait_for(lambda: state_of(client.get("token_0")) == "error")
