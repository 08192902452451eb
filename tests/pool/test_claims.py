"""Locks and releases in one request: their cost, and that each token has one owner despite any fault."""

import contextlib
import json
import random
import threading
import time
from collections import Counter
from functools import partial

import pytest
from couchdb.http import HTTPError, ResourceConflict
from support.faults import CUT, HANG, RESET, FaultProxy, Reply
from support.tokens import make_token
from support.workers import Worker, wait_for

from picas import Document, Task, TaskViewIterator
from picas.exceptions import PicasError
from picas.modifiers import reset, scrub
from picas.pool import candidates, claims
from picas.pool.candidates import Candidates
from picas.pool.claims import MAX_BACKOFF, Claimer
from picas.pool.results import ClaimedToken
from picas.tokens.retries import LONGEST_WAIT
from picas.tokens.states import state_of
from picas.views import count_states

BROKEN = Reply(500, b'{"error":"broken","reason":"odd"}')
BUSY = Reply(503, b'{"error":"busy","reason":"later"}')
LATE = "apply the request some time after the client has given up"
PILOT = "pilot_7"
AHEAD = {"is_on": False}
BULK = ("POST", "_bulk_docs")


pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture
def spool(tmp_path):
    """Return a function that returns the results that were kept aside."""
    return lambda: [json.loads(path.read_text()) for path in sorted((tmp_path / "spool").rglob("*.json"))]


@pytest.fixture
def proxy(location):
    with FaultProxy(location.url) as proxy:
        yield proxy


@pytest.fixture
def far(proxy, through):
    return through(proxy)


def sent(proxy):
    """Record the documents of each bulk request, but for that with which a pilot ends."""
    bulks = [json.loads(request.body)["docs"] for request in proxy.requests if "_bulk_docs" in request.path]
    return [documents for documents in bulks if not any(each["_id"].startswith("picas_") for each in documents)]


@pytest.fixture
def intrude():
    """Return a context manager that calls an action just before each bulk request of a client."""

    @contextlib.contextmanager
    def intrude(client, action):
        write = client.write_documents

        def written(docs):
            action(docs[0].id)
            return write(docs)

        client.write_documents = written
        try:
            yield
        finally:
            del client.write_documents

    return intrude


def numbered(*numbers):
    return [f"token_{number}" for number in numbers]


@pytest.fixture(autouse=True, params=["at once", "ahead"])
def mode(request, monkeypatch):
    """Lock all tokens but the first ahead, as a pilot does whose tokens are short."""
    monkeypatch.setattr(candidates, "SHARE", 1)  # also in a small pool
    monkeypatch.setattr(candidates, "CROWD_SHARE", 1)
    monkeypatch.setattr(candidates, "LEFT_IN_CROWD", 0)
    monkeypatch.setitem(AHEAD, "is_on", request.param == "ahead")


def claim(claimer, client, wanted=1, releases=()):
    """Exchange once, and return the tokens that were locked."""
    at_once = min(wanted, 1) if AHEAD["is_on"] else wanted
    return claimer.exchange(client, PILOT, releases, at_once, wanted - at_once).locked


def finished(token):
    """Return a token that this pilot holds and has processed."""
    held = ClaimedToken(token)
    token["exit_code"] = 0
    token.done()
    return held


def other_pilot(client, token_id):
    return client.save(Task(client.get(token_id)).lock("another pilot"))


def run_in_threads(*actions):
    """Call actions at the same time, and raise the error of any that fails."""
    errors = []

    def run(action):
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "a pilot does not end"
    for error in errors:
        raise error


class TestExchange:
    @pytest.fixture
    def claimer(self):
        return Claimer(Candidates("todo", {}))

    def test_releases_and_locks_in_one_request(self, proxy, far, client, push, claimer):
        push(4)
        held = [finished(token) for token in claim(claimer, far, 2)]
        proxy.requests.clear()
        locked = claim(claimer, far, 2, held)
        assert [request.method for request in proxy.requests] == ["POST"]
        assert proxy.count(*BULK) == 1
        assert [release.is_saved for release in held] == [True, True]
        assert [token.id for token in locked] == numbered(2, 3)
        assert count_states(client) == {"todo": 0, "locked": 2, "done": 2, "error": 0}
        stored = client.get("token_3")
        assert (stored["claim"]["pilot"], stored.rev) == (PILOT, locked[1].rev)

    def test_only_releases_if_no_token_is_wanted(self, proxy, far, client, push, claimer):
        push(2)
        held = finished(claim(claimer, far)[0])
        exchange = claimer.exchange(far, PILOT, [held], 0)
        assert (exchange.locked, exchange.is_over, held.is_saved) == ([], False, True)
        assert count_states(client)["todo"] == 1

    def test_returns_fewer_tokens_if_fewer_are_free(self, client, push, claimer):
        push(2)
        assert len(claim(claimer, client, 5)) == 2

    def test_is_finished_once_the_views_were_empty_twice(self, client, claimer):
        first = claimer.exchange(client, PILOT, [], 1)
        assert (first.locked, first.is_over, first.is_ready()) == ([], False, False)
        wait_for(first.is_ready)
        assert claimer.exchange(client, PILOT, [], 1).is_over

    @pytest.mark.parametrize("retry_delay", [0, 0.3])
    def test_is_not_finished_while_its_own_releases_are_to_be_retried(self, client, push, claimer, retry_delay):
        """The views are read first; then one request puts tokens back and locks others."""
        push(1)
        held = ClaimedToken(claim(claimer, client)[0])
        wait_for(claimer.exchange(client, PILOT, [], 1).is_ready)  # another slot gets nothing
        scrub(held.token, retry_delay)
        exchange = claimer.exchange(client, PILOT, [held], 1)
        assert (exchange.locked, exchange.is_over, held.is_saved) == ([], False, True)
        again = []
        wait_for(lambda: (exchange.is_ready() and again.extend(claim(claimer, client))) or again)
        assert [token.id for token in again] == numbered(0)

    def test_is_not_finished_while_a_release_is_not_yet_saved(self, client, push, claimer):
        push(1)
        held = finished(claim(claimer, client)[0])
        client.edit("token_0", lambda content: {**content, "by": "a person"})
        wait_for(claimer.exchange(client, PILOT, [], 1).is_ready)
        exchange = claimer.exchange(client, PILOT, [held], 1)
        assert (exchange.is_over, held.is_saved) == (False, False)

    def test_is_finished_at_once_if_empty_views_are_not_read_again(self, client):
        assert Claimer(Candidates("todo", {}), recheck_empty=False).exchange(client, PILOT, [], 1).is_over

    def test_reads_again_after_conflicts_even_if_the_views_were_empty_before(self, client, push, claimer, intrude):
        rival = client.copy()
        claimer.exchange(client, PILOT, [], 1)  # empty
        push(1)
        with intrude(client, lambda name: other_pilot(rival, name)):
            conflict = claimer.exchange(client, PILOT, [], 1)
        assert (conflict.locked, conflict.is_over) == ([], False)
        emptiness = claimer.exchange(client, PILOT, [], 1)
        assert (emptiness.locked, emptiness.is_over) == ([], False)
        wait_for(emptiness.is_ready)
        assert claimer.exchange(client, PILOT, [], 1).is_over

    def test_is_not_finished_while_a_token_is_postponed(self, client, claimer, monkeypatch):
        waits = []
        monkeypatch.setattr(claims, "After", lambda seconds: waits.append(seconds) or (lambda: True))
        client.save(make_token(0, not_before=time.time() + 5))
        for _ in range(3):
            exchange = claimer.exchange(client, PILOT, [], 1)
            assert (exchange.locked, exchange.is_over) == ([], False)
            assert 3 < exchange.next_at - time.monotonic() <= 5.5
        assert all(3 < wait <= 5.5 for wait in waits)

    def test_polls_for_other_tokens_while_one_is_postponed_for_long(self, client, claimer, monkeypatch):
        waits = []
        monkeypatch.setattr(claims, "After", lambda seconds: waits.append(seconds) or (lambda: True))
        client.save(make_token(0, not_before=time.time() + 1800))
        assert not claimer.exchange(client, PILOT, [], 1).is_over
        assert waits == [claims.LOOK]

    def test_is_finished_if_a_token_is_postponed_for_longer_than_any_retry(self, client, claimer):
        client.save(make_token(0, not_before=time.time() + 2 * LONGEST_WAIT))
        first = claimer.exchange(client, PILOT, [], 1)
        assert not first.is_over
        wait_for(first.is_ready)
        assert claimer.exchange(client, PILOT, [], 1).is_over

    def test_reads_empty_views_once_more_after_such_a_wait_too(self, client, claimer, monkeypatch):
        monkeypatch.setattr("picas.pool.windows.WINDOW_AGE", 0.0)
        monkeypatch.setattr("picas.pool.windows.REST_PER_READING", 0)
        claimer.exchange(client, PILOT, [], 1)  # empty
        client.save(make_token(0, not_before=time.time() + 600))
        assert claimer.exchange(client, PILOT, [], 1).next_at > time.monotonic()
        other_pilot(client, "token_0")
        assert [claimer.exchange(client, PILOT, [], 1).is_over for _ in range(2)] == [False, True]

    def test_ends_at_once_for_an_endless_iterator_with_the_time_when_the_token_is_due(self, client):
        client.save(make_token(0, not_before=time.time() + 600))
        exchange = Claimer(Candidates("todo", {}), recheck_empty=False).exchange(client, PILOT, [], 1)
        assert exchange.is_over
        assert 500 < exchange.next_at - time.monotonic() < 602

    def test_does_not_read_a_later_view_while_an_earlier_one_has_tokens(self, client, claimer):
        client.save_documents([make_token(number, urgent=number % 2) for number in range(4)])
        client.add_view("urgent", "function(doc) { if (doc.urgent && doc.lock == 0) { emit(doc._id, null); } }")
        claimer = Claimer(Candidates("urgent", {}), Candidates("todo", {}))
        assert [claim(claimer, client)[0].id for _ in range(4)] == numbered(1, 3, 0, 2)

    def test_handles_each_token_of_a_request_on_its_own(self, client, push, claimer, proxy, far):
        push(4)
        held = [finished(token) for token in claim(claimer, far, 2)]
        client.edit("token_1", lambda content: {**content, "note": "a person's"})
        other_pilot(client, "token_2")
        locked = claim(claimer, far, 2, held)
        assert [release.is_saved for release in held] == [True, False]
        assert [token.id for token in locked] == numbered(3)
        assert client.get("token_2")["claim"]["pilot"] == "another pilot"
        assert state_of(client.get("token_1")) == "locked"

    def test_never_raises_while_there_are_releases(self, client, push, claimer, proxy, far):
        """Then they are saved one by one, with all retries."""
        push(2)
        held = finished(claim(claimer, far)[0])
        for answer in (CUT, BROKEN, Reply(400, b'{"error":"bad_request","reason":"odd"}')):
            proxy.fail(*BULK, answer, times=3)
            proxy.fail("GET", "token_", CUT, times=3)
            assert claim(claimer, far, 1, [held]) == []
            assert not held.is_saved
            proxy._faults.clear()
        assert held.save(far)

    def test_raises_the_server_s_error_if_there_are_no_releases(self, client, push, claimer, proxy, far):
        push(1)
        proxy.fail(*BULK, Reply(403, b'{"error":"forbidden","reason":"no"}'))
        with pytest.raises(HTTPError, match="forbidden"):
            claim(claimer, far)
        assert [token.id for token in claim(claimer, far)] == numbered(0)

    def test_accepts_values_that_json_cannot_represent(self, client, push, claimer):
        push(2)
        held = finished(claim(claimer, client)[0])
        held.token["odd"] = b"x"
        assert [token.id for token in claim(claimer, client, 1, [held])] == numbered(1)
        assert held.is_saved
        assert client.get("token_0")["odd"] == "b'x'"


class TestAhead:
    def test_an_answer_without_a_token_is_no_end(self, client, push):
        """Only a free slot asks whether there are tokens."""
        claimer = Claimer(Candidates("todo", {}))
        for _ in range(4):
            exchange = claimer.exchange(client, PILOT, [], 0, 5)
            assert (exchange.locked, exchange.is_over) == ([], False)
        push(3)
        assert len(claim(claimer, client)) == 1

    def test_a_second_view_waits_until_a_free_slot_finds_the_first_empty(self, client, push):
        push(40)
        client.add_view("none", "function(doc) { if (doc.type == 'none') emit(doc._id); }")
        claimer = Claimer(Candidates("none", {}), Candidates("todo", {}))
        assert claimer.exchange(client, PILOT, [], 0, 5).locked == []
        assert len(claimer.exchange(client, PILOT, [], 1, 5).locked) == 6
        assert claimer.exchange(client, PILOT, [], 0, 5).locked == []


class TestCost:
    def test_a_lone_pilot_makes_barely_more_than_one_request_for_each_token(self, proxy, far, client, push):
        push(120)
        worker = Worker(far, claim_ahead=60)  # a loaded machine gives none back
        proxy.requests.clear()
        worker.run()
        assert worker.processed == numbered(*range(120))
        assert count_states(client)["done"] == 120
        assert len(proxy.requests) <= 1.15 * 120

    def test_a_failed_token_with_retries_left_is_put_back_by_its_release(self, proxy, far, client, push):
        push(1)
        worker = Worker(far, lambda task: task.update({"exit_code": 3}))
        worker.run(max_scrub=1)
        assert worker.processed == numbered(0, 0)
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"], len(token["attempts"])) == ("error", 1, 2)
        assert proxy.count("PUT", "token_") == 0
        written = [(doc["lock"] > 0, doc["done"] > 0, doc["scrub_count"]) for docs in sent(proxy) for doc in docs]
        assert written == [(True, False, 0), (False, False, 1), (True, False, 1), (True, True, 1)]

    def test_no_token_is_locked_only_to_be_put_back(self, proxy, far, client, push):
        push(5)
        worker = Worker(far)
        worker.run(max_tasks=2)
        assert worker.processed == numbered(0, 1)
        assert [[doc["_id"] for doc in docs] for docs in sent(proxy)] == [numbered(0), numbered(0, 1)]
        assert proxy.count("PUT", "token_") == 1
        assert {client.get(name).rev[:2] for name in numbered(2, 3, 4)} == {"1-"}

    @pytest.mark.timing
    def test_no_token_is_locked_that_could_not_end_in_time(self, proxy, far, client, push):
        push(3)
        worker = Worker(far, lambda task: time.sleep(0.3))
        worker.run(max_token_time=60, max_total_time=60.2)
        assert worker.processed == numbered(0)
        assert {client.get(name).rev[:2] for name in numbered(1, 2)} == {"1-"}
        assert state_of(client.get("token_0")) == "done"

    @pytest.mark.parametrize("reason", ["cleanup_run", "stop_function"])
    def test_a_release_is_sent_alone_if_a_hook_must_see_it_saved(self, proxy, far, client, push, reason):
        push(3)
        seen = []

        def look(*args):
            seen.append(dict(count_states(client)))

        if reason == "cleanup_run":

            class Cleaning(Worker):
                cleanup_run = look

            Cleaning(far).run()
        else:
            Worker(far).run(stop_function=look)
        assert seen == [{"todo": 2 - done, "locked": 0, "done": done + 1, "error": 0} for done in range(3)]
        assert [len(docs) for docs in sent(proxy)] == [1, 1, 1]
        assert proxy.count("PUT", "token_") == 3

    def test_a_custom_claim_token_of_an_iterator_is_called(self, far, client, push):
        push(3)

        class Mine(TaskViewIterator):
            claims = 0

            def claim_task(self):
                self.claims += 1
                return super().claim_task()

        mine = Mine(far, "todo")
        worker = Worker(far, iterator=mine)
        worker.run()
        assert mine.claims == 4
        assert count_states(client)["done"] == 3


class TestAReleaseWithAConflict:
    def test_keeps_the_edits_of_a_person(self, proxy, far, client, push):
        push(3)

        def work(task):
            if task.id == "token_1":
                client.edit("token_1", lambda content: {**content, "note": "a person's"})
            task["output"] = "ours"

        worker = Worker(far, work)
        worker.run()
        token = client.get("token_1")
        assert (token["note"], token["output"], state_of(token)) == ("a person's", "ours", "done")
        assert worker.processed == numbered(0, 1, 2)
        assert count_states(client)["done"] == 3

    def test_is_kept_aside_if_another_pilot_has_the_token_now(self, far, client, push, spool):
        push(3, output="")

        def work(task):
            task["output"] = "ours"
            if task.id == "token_1":
                other_pilot(client, client.save(reset(client.get("token_1"))).id)

        worker = Worker(far, work)
        worker.run()
        token = client.get("token_1")
        assert (token["claim"]["pilot"], token["input"], token["output"]) == ("another pilot", "", "")
        (kept,) = spool()
        assert (kept["token"]["_id"], kept["token"]["output"]) == ("token_1", "ours")
        assert worker.processed == numbered(0, 1, 2)

    def test_is_kept_aside_if_the_token_was_deleted(self, far, client, push, spool):
        push(2)
        worker = Worker(far, lambda task: task.id == "token_0" and client.delete(client.get("token_0")))
        worker.run()
        assert [kept["token"]["_id"] for kept in spool()] == numbered(0)
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 1, "error": 0}


class TestLostResponses:
    @pytest.mark.parametrize("answer", [CUT, RESET, BROKEN, BUSY], ids=str)
    def test_a_lock_is_recognised_by_its_claim(self, proxy, far, client, push, answer):
        push(2)
        claimer = Claimer(Candidates("todo", {}))
        proxy.fail(*BULK, answer, after=True)
        (token,) = claim(claimer, far)
        stored = client.get("token_0")
        assert (token.id, token.rev, token["claim"]) == ("token_0", stored.rev, stored["claim"])
        assert proxy.count(*BULK) == 1

    def test_the_lock_of_another_pilot_is_not_mistaken_for_one_s_own(self, proxy, far, client, push):
        push(2)
        claimer = Claimer(Candidates("todo", {}))
        proxy.fail(*BULK, CUT, meanwhile=lambda: other_pilot(client, "token_0"))
        assert claim(claimer, far) == []
        assert [token.id for token in claim(claimer, far)] == numbered(1)
        assert client.get("token_0")["claim"]["pilot"] == "another pilot"

    @pytest.fixture
    def unsure(self, proxy, far, push):
        """Return a claimer whose locks got no response and could not be looked up either."""

        def unsure(count):
            push(5)
            claimer = Claimer(Candidates("todo", {}))
            proxy.fail(*BULK, CUT, after=True)
            proxy.fail("GET", "token_", CUT, times=99)
            with pytest.raises(PicasError):
                claim(claimer, far, count)
            return claimer

        return unsure

    def test_a_lock_that_could_not_be_looked_up_is_checked_before_the_next_claim(self, proxy, far, client, unsure):
        claimer = unsure(1)
        assert state_of(client.get("token_0")) == "locked"
        with pytest.raises(PicasError):
            claim(claimer, far)
        proxy._faults.clear()
        assert [claim(claimer, far)[0].id for _ in range(2)] == numbered(0, 1)

    def test_a_lock_that_was_not_stored_is_forgotten(self, proxy, far, client, push):
        push(2)
        claimer = Claimer(Candidates("todo", {}))
        proxy.fail(*BULK, CUT, times=9)
        with pytest.raises(PicasError):
            claim(claimer, far)
        proxy._faults.clear()
        other_pilot(client, "token_0")
        assert claimer.settle(far) == []
        assert [token.id for token in claim(claimer, far)] == numbered(1)

    def test_a_lock_on_a_token_that_was_deleted_or_released_is_forgotten(self, proxy, far, client, unsure):
        claimer = unsure(2)
        client.delete(client.get("token_0"))
        client.save(reset(client.get("token_1")))
        proxy._faults.clear()
        assert claimer.settle(far) == []

    def test_several_locks_are_settled_together(self, proxy, far, client, unsure):
        claimer = unsure(3)
        proxy._faults.clear()
        assert sorted(token.id for token in claim(claimer, far, 3)) == numbered(0, 1, 2)
        assert count_states(client)["locked"] == 3

    def test_all_locks_are_settled_even_if_only_some_can_be_looked_up_at_first(self, proxy, far, client, unsure):
        claimer = unsure(3)
        proxy._faults.clear()
        proxy.fail("GET", "token_1", CUT, times=3)
        with pytest.raises(PicasError):
            claimer.settle(far)
        assert sorted(token.id for token in claimer.settle(far)) == numbered(0, 1, 2)

    def test_no_lock_is_forgotten_if_others_are_released_before_it_is_settled(self, proxy, far, client, push):
        """Tokens that run side by side end at different times."""
        push(5)
        claimer = Claimer(Candidates("todo", {}))
        first, second = (finished(token) for token in claim(claimer, far, 2))
        proxy.fail(*BULK, CUT, after=True)
        proxy.fail("GET", "token_", CUT, times=99)
        assert claim(claimer, far, 1, [first]) == []
        assert claim(claimer, far, 1, [second]) == []  # the database is still away
        proxy._faults.clear()
        assert second.save(far)
        assert [token.id for token in claim(claimer, far)] == numbered(2)

    def test_no_lock_is_forgotten_if_others_are_released_at_the_end_of_the_run(self, proxy, far, client, push):
        push(5)
        claimer = Claimer(Candidates("todo", {}))
        first, second = (finished(token) for token in claim(claimer, far, 2))
        proxy.fail(*BULK, CUT, after=True)
        proxy.fail("GET", "token_", CUT, times=99)
        assert claim(claimer, far, 1, [first]) == []
        proxy._faults.clear()
        claim(claimer, far, 0, [second])
        assert [token.id for token in claimer.settle(far)] == numbered(2)

    def test_settled_tokens_are_returned_even_if_the_views_cannot_be_read(self, proxy, far, unsure, monkeypatch):
        claimer = unsure(1)
        proxy._faults.clear()
        monkeypatch.setattr("picas.pool.windows.WINDOW_AGE", 0.0)
        proxy.fail("GET", "_view/", CUT, times=3)
        assert [token.id for token in claim(claimer, far, 2)] == numbered(0)

    def test_no_more_tokens_are_returned_than_requested(self, proxy, far, unsure):
        claimer = unsure(3)
        proxy._faults.clear()
        found = [claim(claimer, far, 1) for _ in range(5)]
        assert sorted(token.id for (token,) in found) == numbered(*range(5))

    def test_a_run_leaves_no_token_locked(self, proxy, far, client, push):
        push(2)
        worker = Worker(far, max_outage=0.0)
        proxy.fail(*BULK, CUT, after=True)
        proxy.fail("GET", "token_", CUT, times=3)
        with pytest.raises(PicasError):
            worker.run()
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 0, "error": 0}


class FaultyAt(FaultProxy):
    """A proxy that breaks its n-th request, of any kind, and optionally some that follow."""

    def __init__(self, url):
        super().__init__(url)
        self.spoiled = range(0)
        self.seen = 0

    def spoil(self, number, answer, after, times=1):
        self.spoiled, self.answer_of_fault, self.after, self.seen = range(number, number + times), answer, after, 0

    def _pass_on(self, request):
        self.seen += 1
        if self.seen - 1 not in self.spoiled:
            return super()._pass_on(request)
        if self.answer_of_fault == LATE:
            time.sleep(0.6)
            self._forward(request)
            return CUT
        if self.after:
            self._forward(request)
        return self.answer_of_fault


FAULTS = {
    "reset before": (RESET, False),
    "cut before": (CUT, False),
    "cut after": (CUT, True),
    "hang before": (HANG, False),
    "hang after": (HANG, True),
    "late": (LATE, False),
    "500 before": (BROKEN, False),
    "503 after": (BUSY, True),
}


@pytest.fixture
def hasty(monkeypatch):
    """Shorten the waits after conflicts, which these tests do not check."""
    monkeypatch.setattr("picas.pool.claims.SCARCE_BACKOFF", 0.02)
    monkeypatch.setattr("picas.pool.claims.MAX_BACKOFF", 0.1)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_any_single_request_changes_nothing(location, client, through, fault, spool):
    """Two pilots share a small pool; the k-th request of the first one fails, for each k up to its last request."""
    answer, after = FAULTS[fault]
    is_slow = answer in (HANG, LATE)
    steps = 3 if is_slow else 1
    options = {"read_timeout": 0.4} if is_slow else {}
    with FaultyAt(location.url) as faulty, FaultProxy(location.url) as sound:
        clients = [through(faulty, **options), through(sound)]
        number = 0
        while True:
            names = [f"run{number}_{token}" for token in range(6)]
            client.save_documents([make_token(_id=name, input=[number]) for name in names])
            faulty.spoil(number, answer, after)
            workers = [Worker(pool, lambda task: time.sleep(0.002)) for pool in clients]
            run_in_threads(*(worker.run for worker in workers))
            processed = [name for worker in workers for name in worker.processed]
            states = {name: state_of(client.get(name)) for name in names}
            assert Counter(processed) == dict.fromkeys(names, 1), f"request {number}"
            assert set(states.values()) == {"done"}, f"request {number}: {states}"
            assert spool() == []
            if faulty.seen <= number:
                break
            number += steps
    assert number > 5


@pytest.mark.timing
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("slots", [1, 3])
def test_a_short_outage_at_any_time_changes_nothing(location, client, through, slots, after, spool):
    """For a while, writes and all requests that could look up their outcome get no response."""
    with FaultyAt(location.url) as faulty:
        pool = through(faulty)
        for number in range(0, 12, 2):
            names = [f"run{number}_{token}" for token in range(6)]
            client.save_documents([make_token(_id=name) for name in names])
            faulty.spoil(number, CUT, after, times=9)
            worker = Worker(pool, lambda task: time.sleep(0.005 * int(task.id[-1])))
            run_in_threads(partial(worker.run, slots=slots))
            assert Counter(worker.processed) == dict.fromkeys(names, 1), f"request {number}"
            states = {name: state_of(client.get(name)) for name in names}
            assert set(states.values()) == {"done"}, f"request {number}: {states}"
            assert spool() == []


def test_people_may_edit_delete_and_reset_tokens_while_pilots_work(client, push, spool):
    names = numbered(*range(40))
    push(40)
    dice = random.Random(7)
    resets, notes, deleted = Counter(), {}, set()

    def people():
        own = client.copy()
        count = 0
        while len(deleted) < 8 or sum(resets.values()) < 12 or len(notes) < 10:
            count += 1
            name = dice.choice([name for name in names if name not in deleted])
            action = dice.choice(["edit", "edit", "reset", "delete"])
            document = own.get(name)
            with contextlib.suppress(ResourceConflict):  # a pilot was faster
                if action == "edit":
                    own.save(Document({**document.value, "note": count}))
                    notes[name] = count
                elif action == "reset" and sum(resets.values()) < 12:
                    own.save(reset(document))
                    resets[name] += 1
                elif action == "delete" and len(deleted) < 8:
                    own.delete(document)
                    deleted.add(name)
            time.sleep(0.003)

    workers = [Worker(client.copy(), lambda task: time.sleep(0.02)) for _ in range(3)]
    run_in_threads(people, *(worker.run for worker in workers))
    last = Worker(client)  # for tokens that were reset after the others ended
    last.run()

    left = [name for name in names if name not in deleted]
    assert {name: state_of(client.get(name)) for name in left} == dict.fromkeys(left, "done")
    processed = Counter(name for worker in [*workers, last] for name in worker.processed)
    for name in names:
        assert processed[name] <= 1 + resets[name]
        assert name in deleted or processed[name] >= 1
    assert {kept["token"]["_id"] for kept in spool()} <= deleted | set(resets)
    assert {name: client.get(name)["note"] for name in notes if name in left} == {
        name: note for name, note in notes.items() if name in left
    }


class TestManyPilots:
    def test_sixteen_process_each_of_two_hundred_tokens_once(self, client, push):
        push(200)
        workers = [Worker(client.copy()) for _ in range(16)]
        run_in_threads(*(worker.run for worker in workers))
        assert sorted(name for worker in workers for name in worker.processed) == sorted(numbered(*range(200)))
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 200, "error": 0}
        assert all(len(client.get(name)["attempts"]) == 1 for name in numbered(*range(0, 200, 20)))

    def test_more_pilots_than_tokens_all_end_on_their_own(self, client, push):
        push(100)
        workers = [Worker(client.copy()) for _ in range(64)]
        run_in_threads(*(worker.run for worker in workers))
        assert sorted(name for worker in workers for name in worker.processed) == sorted(numbered(*range(100)))
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 100, "error": 0}

    def test_successive_conflicts_never_raise_and_the_pauses_grow(self, client, push, intrude, monkeypatch):
        push(60)
        waits = []
        monkeypatch.setattr("picas.pool.claims.random.uniform", lambda low, high: high)
        monkeypatch.setattr("picas.pool.claims.After", lambda seconds: waits.append(seconds) or (lambda: True))
        rival = client.copy()
        claimer = Claimer(Candidates("todo", {}))

        with intrude(client, lambda name: other_pilot(rival, name)):
            for _ in range(15):
                exchange = claimer.exchange(client, PILOT, [], 1)
                assert (exchange.locked, exchange.is_over) == ([], False)
        assert waits == sorted(waits)
        assert waits[0] < waits[-1] == MAX_BACKOFF
        assert claim(claimer, client)
        with intrude(client, lambda name: other_pilot(rival, name)):
            claimer.exchange(client, PILOT, [], 1)
        assert waits[-1] == waits[0]  # a success resets the pauses
