"""Iterators: which token comes next, and that each token has one owner."""

import random
import threading
import time

import pytest
from couchdb.http import ResourceConflict, ResourceNotFound
from support.faults import CUT, FaultProxy
from support.tokens import make_token

from picas import CouchDB, EndlessViewIterator, PrioritizedViewIterator, Task, TaskViewIterator, ViewIterator
from picas.exceptions import PicasError
from picas.pool import claims, windows
from picas.views import create_views

EVERYTHING = "function(doc) { if (doc.type == 'token') { emit(doc._id, doc._id); } }"
MINE = "function(doc) { if (doc.lock == 0) { emit(doc._id, null); } }"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(claims, "EMPTY_PAUSE", 0.05)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that claims would wait; here they do not wait."""
    waits = []
    monkeypatch.setattr(claims, "After", lambda seconds: waits.append(seconds) or (lambda: True))
    return waits


@pytest.fixture
def queries(client, monkeypatch):
    """The parameters of the client's reads of views."""
    queries = []
    view = client.view
    monkeypatch.setattr(client, "view", lambda *args, **params: queries.append(params) or view(*args, **params))
    return queries


def other_pilot(client, token_id):
    """Let another pilot lock a token."""
    return client.save(Task(client.get(token_id)).lock("another pilot"))


class Intruder:
    """Calls an action just before each of the first `times` locks of a client is sent."""

    def __init__(self, monkeypatch, client, action, times=1):
        self.left = times
        self.locks = 0
        original = client.write_documents

        def write(docs):
            (doc,) = docs  # an iterator without an actor locks one token at a time
            self.locks += 1
            if self.left > 0:
                self.left -= 1
                action(doc)
            return original(docs)

        monkeypatch.setattr(client, "write_documents", write)


class TestTaskViewIterator:
    def test_returns_every_token_of_the_view_once_and_locked(self, client, push):
        push(5)
        tokens = list(TaskViewIterator(client, "todo"))
        assert [token.id for token in tokens] == [f"token_{number}" for number in range(5)]
        stored = client.get("token_3")
        assert stored["lock"] > 0
        assert stored.rev == tokens[3].rev
        assert isinstance(tokens[3], Task)

    def test_keeps_its_arguments_as_attributes(self, client):
        iterator = TaskViewIterator(client, "todo", design_doc="Monitor", limit=3)
        assert (iterator.database, iterator.view, iterator.view_params) == (
            client,
            "todo",
            {"design_doc": "Monitor", "limit": 3},
        )

    def test_a_view_of_another_design_document(self, client):
        create_views(client, "Big", "doc.cores == 4")
        client.save_documents([make_token(0), make_token(1, cores=4)])
        assert [token.id for token in TaskViewIterator(client, "todo", design_doc="Big")] == ["token_1"]

    def test_view_params_select_rows(self, client, push):
        push(5)
        iterator = TaskViewIterator(client, "todo", startkey="token_3", descending=True)
        assert [token.id for token in iterator] == ["token_3", "token_2", "token_1", "token_0"]

    def test_the_view_can_be_changed_meanwhile(self, client, push):
        push(2)
        client.save(make_token(7, lock=0, urgent=1))
        client.add_view("urgent", "function(doc) { if (doc.urgent && doc.lock == 0) { emit(doc._id, null); } }")
        iterator = TaskViewIterator(client, "todo")
        next(iterator)
        iterator.view = "urgent"
        assert next(iterator).id == "token_7"

    def test_a_missing_view_raises(self, client):
        with pytest.raises(ResourceNotFound):
            next(TaskViewIterator(client, "nope"))

    def test_a_claim_names_its_pilot(self, client, push):
        push(1)
        iterator = TaskViewIterator(client, "todo")
        iterator.pilot = "pilot_7"
        assert next(iterator)["claim"]["pilot"] == "pilot_7"

    def test_tokens_are_read_in_windows(self, client, push, queries):
        push(windows.WINDOW + 5)
        assert len(list(TaskViewIterator(client, "todo"))) == windows.WINDOW + 5
        # After the first window the index is read as it is; the end is checked twice with an updated index.
        assert [params.get("update", True) for params in queries] == [True, False, False, True, True]

    def test_tokens_of_a_custom_view_are_read_in_windows_too(self, client, push, queries):
        push(windows.WINDOW + 5)
        client.add_view("mine", MINE)
        assert len(list(TaskViewIterator(client, "mine"))) == windows.WINDOW + 5
        assert len(queries) == 4

    def test_a_lone_pilot_reads_on_and_returns_to_the_start_after_a_while(self, client, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 4)
        client.save_documents([make_token(number) for number in range(1, 20)])
        iterator = TaskViewIterator(client, "todo")
        assert next(iterator).id == "token_1"
        client.save(make_token(0))
        assert [next(iterator).id for _ in range(6)] == [f"token_{number}" for number in range(2, 8)]
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        assert next(iterator).id == "token_0"

    def test_candidates_that_were_read_long_ago_are_read_again(self, client, monkeypatch):
        client.save_documents([make_token(number) for number in (1, 2, 3)])
        iterator = TaskViewIterator(client, "todo")
        next(iterator)
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        client.save(make_token(0))
        assert next(iterator).id == "token_0"

    def test_a_token_that_was_deleted_after_it_was_read_is_skipped(self, client, push):
        tokens = push(3)
        iterator = TaskViewIterator(client, "todo")
        next(iterator)
        client.delete(tokens[1])
        assert [token.id for token in iterator] == ["token_2"]


class TestOneOwner:
    def test_a_token_that_another_pilot_locked_after_it_was_read_is_skipped(self, client, push):
        push(3)
        iterator = TaskViewIterator(client, "todo")
        next(iterator)
        theirs = other_pilot(client, "token_1")
        assert [token.id for token in iterator] == ["token_2"]
        assert client.get("token_1").value == theirs.value

    def test_a_token_that_another_pilot_locks_at_the_same_moment_is_skipped(self, client, push, monkeypatch):
        push(2)
        rival = client.copy()
        Intruder(monkeypatch, client, lambda doc: other_pilot(rival, doc.id))
        assert [token.id for token in TaskViewIterator(client, "todo")] == ["token_1"]
        assert client.get("token_0")["claim"]["pilot"] == "another pilot"

    def test_a_row_whose_document_is_not_free_is_not_claimed(self, client, push):
        push(4)
        other_pilot(client, "token_1")
        client.add_view("all", EVERYTHING)
        ids = {token.id for token in TaskViewIterator(client, "all")}
        assert ids == {"token_0", "token_2", "token_3"}
        assert client.get("token_1")["claim"]["pilot"] == "another pilot"

    def test_free_tokens_after_many_rows_that_are_not_free_are_found(self, client, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 4)
        monkeypatch.setattr(windows, "PAGE", 8)
        client.save_documents([make_token(number, lock=1 if number < 30 else 0) for number in range(10, 32)])
        client.add_view("all", EVERYTHING)
        assert {token.id for token in TaskViewIterator(client, "all")} == {"token_30", "token_31"}

    def test_the_user_s_limit_is_respected(self, client, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 2)
        client.save_documents([make_token(number, lock=1 if number < 12 else 0) for number in range(10, 14)])
        client.add_view("all", EVERYTHING)
        assert list(TaskViewIterator(client, "all", limit=2)) == []

    def test_an_outdated_view_returns_no_token_twice(self, client, push, monkeypatch):
        """An outdated index has rows of tokens that are done."""
        push(2)
        view = client.view
        stale = view("queue", endkey=[], include_docs=True)
        assert len(stale.rows) == 2  # rows are read only here
        tokens = TaskViewIterator(client, "todo")
        monkeypatch.setattr(client, "view", lambda *args, **params: stale)
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        intruder = Intruder(monkeypatch, client, lambda doc: None, 0)
        claimed = []
        for token in tokens:
            claimed.append(token.id)
            if len(claimed) == 2:
                monkeypatch.setattr(client, "view", view)
        assert claimed == ["token_0", "token_1"]
        assert intruder.locks > 2


class TestContention:
    def test_constant_conflicts_never_raise(self, client, push, monkeypatch, waits):
        push(60)
        rival = client.copy()
        Intruder(monkeypatch, client, lambda doc: other_pilot(rival, doc.id), 50)
        tokens = list(TaskViewIterator(client, "todo"))
        assert len(tokens) == 10
        assert max(waits) <= claims.MAX_BACKOFF
        assert len(set(waits)) > 40  # jitter

    def test_after_a_conflict_the_queue_is_read_from_random_places(self, client, monkeypatch, waits):
        client.save_documents([make_token(number) for number in range(200)])
        rival = client.copy()
        monkeypatch.setattr(windows, "WINDOW", 5)
        random.seed(7)
        Intruder(monkeypatch, client, lambda doc: other_pilot(rival, doc.id))
        iterator = TaskViewIterator(client, "todo")
        assert [next(iterator).id for _ in range(4)] == [f"token_{number}" for number in range(1, 5)]
        taken = [int(next(iterator).id[6:]) for _ in range(15)]
        assert max(taken) > 20
        assert len(set(taken)) == 15

    def test_in_order_again_after_a_while_without_conflicts(self, client, monkeypatch, waits):
        client.save_documents([make_token(number) for number in range(20)])
        rival = client.copy()
        monkeypatch.setattr(windows, "WINDOW", 5)
        Intruder(monkeypatch, client, lambda doc: other_pilot(rival, doc.id))
        iterator = TaskViewIterator(client, "todo")
        for _ in range(4):
            next(iterator)
        monkeypatch.setattr(windows, "CROWD_MEMORY", 0.0)
        assert [next(iterator).id for _ in range(15)] == [f"token_{number}" for number in range(5, 20)]

    def test_without_a_queue_wider_windows_are_read_in_random_order(self, client, monkeypatch, waits):
        client.save_documents([make_token(number) for number in range(10, 40)])
        client.add_view("mine", MINE)
        rival = client.copy()
        monkeypatch.setattr(windows, "WINDOW", 5)
        random.seed(7)
        Intruder(monkeypatch, client, lambda doc: other_pilot(rival, doc.id))
        iterator = TaskViewIterator(client, "mine")
        assert [next(iterator).id for _ in range(4)] == [f"token_{number}" for number in range(11, 15)]
        second_window = [int(next(iterator).id[6:]) for _ in range(10)]
        assert set(second_window) == set(range(15, 25))
        assert second_window != sorted(second_window)

    def test_after_successive_conflicts_the_candidates_are_read_again(self, client, push, monkeypatch, waits):
        push(10)
        rival = client.copy()
        monkeypatch.setattr(windows, "WINDOW", 6)

        def take_all_but_the_last(doc):
            for number in range(9):
                other_pilot(rival, f"token_{number}")

        intruder = Intruder(monkeypatch, client, take_all_but_the_last)
        assert [token.id for token in TaskViewIterator(client, "todo")] == ["token_9"]
        assert intruder.locks == 3  # the second conflict shows that another pilot takes them all

    @pytest.mark.parametrize(("tokens", "longest"), [(10, "SCARCE_BACKOFF"), (310, "FIRST_BACKOFF")])
    def test_waits_longer_if_few_tokens_are_left(self, client, push, monkeypatch, waits, tokens, longest):
        """Pilots that did not meet others take the last tokens meanwhile."""
        push(tokens)
        rival = client.copy()
        monkeypatch.setattr(random, "uniform", lambda least, most: most)
        Intruder(monkeypatch, client, lambda doc: other_pilot(rival, doc.id))
        next(TaskViewIterator(client, "todo"))
        assert waits == [getattr(claims, longest)]

    @pytest.mark.timing
    def test_a_view_that_is_empty_right_after_conflicts_is_read_again(self, client, push, monkeypatch):
        push(1)
        rival = client.copy()

        Intruder(monkeypatch, client, lambda doc: other_pilot(rival, doc.id))
        monkeypatch.setattr(claims, "EMPTY_PAUSE", 0.3)
        iterator = TaskViewIterator(client, "todo")
        timer = threading.Timer(0.1, lambda: rival.save(Task(rival.get("token_0")).scrub()))
        timer.start()
        assert next(iterator).id == "token_0"
        timer.join()

    def test_even_if_it_was_read_again_before_the_conflicts(self, client, monkeypatch):
        rival = client.copy()
        iterator = TaskViewIterator(client, "todo")
        steps = [
            lambda: rival.save(make_token(0)),  # empty at first
            lambda: None,  # after the conflict
            lambda: rival.save(Task(rival.get("token_0")).scrub()),  # empty again
        ]

        def take_a_step(seconds):
            steps.pop(0)()
            return lambda: True

        monkeypatch.setattr(claims, "After", take_a_step)
        Intruder(monkeypatch, client, lambda doc: other_pilot(rival, doc.id))
        assert next(iterator).id == "token_0"
        assert steps == []

    def test_a_stop_ends_a_claim_that_has_only_conflicts(self, client, push, monkeypatch):
        push(40)
        rival = client.copy()
        iterator = TaskViewIterator(client, "todo")

        def take_and_stop(doc):
            other_pilot(rival, doc.id)
            iterator.stop()

        intruder = Intruder(monkeypatch, client, take_and_stop, 40)
        assert list(iterator) == []
        assert intruder.locks == 1


class TestEmptyView:
    def test_is_read_once_more_before_the_end(self, client, monkeypatch):
        waits = []

        def fill_meanwhile(seconds):
            waits.append(seconds)
            client.save(make_token(0))
            return lambda: True

        monkeypatch.setattr(claims, "After", fill_meanwhile)
        assert next(TaskViewIterator(client, "todo")).id == "token_0"
        assert waits == [claims.EMPTY_PAUSE]

    def test_is_the_end_after_the_second_read(self, client, waits):
        iterator = TaskViewIterator(client, "todo")
        assert list(iterator) == []
        assert waits == [claims.EMPTY_PAUSE]
        assert iterator.is_stopped()

    def test_can_be_read_again_after_a_reset(self, client, push):
        iterator = TaskViewIterator(client, "todo")
        assert list(iterator) == []
        push(1)
        assert list(iterator) == []
        iterator.reset()
        assert [token.id for token in iterator] == ["token_0"]

    def test_a_direct_claim_raises_index_error(self, client):
        with pytest.raises(IndexError):
            TaskViewIterator(client, "todo").claim_task()


class TestLostAnswers:
    """The server applies the lock, but its response never arrives."""

    @pytest.fixture
    def proxy(self, location):
        with FaultProxy(location.url) as proxy:
            yield proxy

    @pytest.fixture
    def fragile(self, proxy, location, client, monkeypatch):
        monkeypatch.setattr("picas.couch.writes.REPEAT_PAUSES", (0.0,))
        monkeypatch.setattr("picas.couch.transport.RETRY_PAUSES", (0.0,))
        fragile = CouchDB(proxy.url, client.db.name, location.username, location.password)
        fragile.server.resource.session.retry_pauses = (0.0,)
        return fragile

    def test_a_lock_whose_response_is_lost_is_looked_up(self, proxy, fragile, push):
        push(2)
        proxy.fail("POST", "_bulk_docs", CUT, after=True)
        assert [token.id for token in TaskViewIterator(fragile, "todo")] == ["token_0", "token_1"]

    def test_a_lock_that_cannot_be_looked_up_is_looked_up_before_the_next_claim(self, proxy, fragile, client, push):
        push(2)
        iterator = TaskViewIterator(fragile, "todo")
        proxy.fail("POST", "_bulk_docs", CUT, after=True)
        proxy.fail("GET", "token_0", CUT, times=50)
        with pytest.raises(PicasError):
            next(iterator)
        assert client.get("token_0")["lock"] > 0
        proxy._faults.clear()
        assert [token.id for token in iterator] == ["token_0", "token_1"]

    def test_a_lock_that_was_not_applied_is_forgotten(self, proxy, fragile, client, push):
        push(2)
        iterator = TaskViewIterator(fragile, "todo")
        proxy.fail("POST", "_bulk_docs", CUT, times=50)
        with pytest.raises(PicasError):
            next(iterator)
        other_pilot(client, "token_0")
        proxy._faults.clear()
        assert [token.id for token in iterator] == ["token_1"]

    def test_a_lock_on_a_deleted_token_is_forgotten(self, proxy, fragile, client, push):
        push(2)
        iterator = TaskViewIterator(fragile, "todo")
        proxy.fail("POST", "_bulk_docs", CUT, times=50)
        with pytest.raises(PicasError):
            next(iterator)
        client.delete(client.get("token_0"))
        proxy._faults.clear()
        assert [token.id for token in iterator] == ["token_1"]


class TestPrioritizedViewIterator:
    @pytest.fixture
    def iterator(self, client):
        create_views(client, "Views")
        for name, urgency in (("high", 1), ("low", 0)):
            client.add_view(
                name, f"function(doc) {{ if (doc.lock == 0 && doc.urgent == {urgency}) {{ emit(doc._id, null); }} }}"
            )
        return PrioritizedViewIterator(client, "high", "low")

    def test_returns_tokens_of_the_second_view_only_while_the_first_is_empty(self, client, iterator):
        client.save_documents([make_token(number, urgent=number % 2) for number in range(4)])
        assert [next(iterator).id for _ in range(3)] == ["token_1", "token_3", "token_0"]
        client.save(make_token(9, urgent=1))
        assert [token.id for token in iterator] == ["token_9", "token_2"]

    def test_ends_when_both_views_are_empty(self, iterator):
        with pytest.raises(IndexError):
            iterator.claim_task()
        assert list(iterator) == []

    def test_view_params_apply_to_both_views(self, client):
        create_views(client, "Big", "doc.cores == 4")
        client.save(make_token(0, cores=4))
        assert len(list(PrioritizedViewIterator(client, "todo", "todo", design_doc="Big"))) == 1


class TestEndlessViewIterator:
    @pytest.mark.timing
    def test_waits_for_new_tokens(self, client):
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=60)
        timer = threading.Timer(0.2, lambda: client.copy().save(make_token(0)))
        timer.start()
        began = time.monotonic()
        assert next(iterator).id == "token_0"
        assert time.monotonic() - began < 10
        timer.join()

    def test_does_not_read_an_empty_view_twice_in_a_row(self, client, queries):
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=10)
        iterator._wait = lambda is_ready, sleep: iterator.stop()
        assert list(iterator) == []
        assert len(queries) == 1

    def test_the_callback_ends_it_and_gets_its_arguments(self, client, push):
        push(3)
        calls = []

        def is_enough(limit, unit):
            calls.append(unit)
            return len(calls) > limit

        inner = TaskViewIterator(client, "todo")
        iterator = EndlessViewIterator(inner, 0.01, is_enough, limit=2, unit="tokens")
        assert len(list(iterator)) == 2
        assert calls == ["tokens"] * 3
        assert iterator.is_stopped()
        assert inner.is_stopped()

    def test_the_callback_is_called_while_there_are_no_tokens(self, client):
        calls = []
        iterator = EndlessViewIterator(
            TaskViewIterator(client, "todo"), 0.01, stop_callback=lambda: calls.append(1) or len(calls) > 3
        )
        assert list(iterator) == []
        assert len(calls) == 4

    @pytest.mark.timing
    def test_a_stop_wakes_it(self, client):
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=60)
        timer = threading.Timer(0.2, iterator.stop)
        timer.start()
        began = time.monotonic()
        assert list(iterator) == []
        assert time.monotonic() - began < 5
        assert iterator.is_cancelled()

    @pytest.mark.timing
    def test_the_deadline_wakes_it(self, client):
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=60)
        iterator.deadline = time.monotonic() + 0.2
        began = time.monotonic()
        assert list(iterator) == []
        assert 0.2 <= time.monotonic() - began < 5

    def test_passes_on_the_pilot_and_a_new_client(self, client, push):
        push(1)
        inner = TaskViewIterator(client, "todo")
        iterator = EndlessViewIterator(inner)
        other = client.copy()
        iterator.reconnect(other)
        assert inner.database is other
        iterator.pilot = "pilot_7"
        assert next(iterator)["claim"]["pilot"] == "pilot_7"

    def test_can_wait_for_two_views(self, client):
        client.save(make_token(0))
        iterator = EndlessViewIterator(PrioritizedViewIterator(client, "todo", "todo"), 0.01)
        assert next(iterator).id == "token_0"


class TestViewIterator:
    def test_a_custom_subclass_returns_its_own_tokens(self):
        class Numbers(ViewIterator):
            left = 2

            def claim_task(self):
                if not self.left:
                    raise IndexError
                self.left -= 1
                return Task({"_id": f"n{self.left}"})

        numbers = Numbers()
        assert [task.id for task in numbers] == ["n1", "n0"]
        assert numbers.is_stopped()

    def test_stop_and_reset(self, client, push):
        push(2)
        iterator = TaskViewIterator(client, "todo")
        iterator.stop()
        assert list(iterator) == []
        iterator.reset()
        assert len(list(iterator)) == 2

    def test_claim_task_must_be_implemented(self):
        with pytest.raises(NotImplementedError):
            next(ViewIterator())

    def test_reconnect_uses_another_client(self, client):
        iterator = TaskViewIterator(client, "todo")
        other = client.copy()
        iterator.reconnect(other)
        assert iterator.database is other


def test_eight_concurrent_pilots_claim_sixty_tokens_once_each(client, push):
    push(60)
    start = threading.Barrier(8)
    claims = []

    def claim_all():
        own = client.copy()
        start.wait()
        for token in TaskViewIterator(own, "todo"):
            claims.append(token.id)
            own.save(token.done())

    pilots = [threading.Thread(target=claim_all) for _ in range(8)]
    for pilot in pilots:
        pilot.start()
    for pilot in pilots:
        pilot.join(60)
    assert sorted(claims) == sorted(f"token_{number}" for number in range(60))


def test_a_conflict_is_raised_by_the_server(client, push):
    """Guards the tests above: the intruding lock does make the server answer with a conflict."""
    tokens = push(1)
    other_pilot(client, "token_0")
    with pytest.raises(ResourceConflict):
        client.save(tokens[0])
