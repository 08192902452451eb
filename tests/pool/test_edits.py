"""What people do with many tokens: delete, reset, retry and change them."""

import os
import signal
import threading
import time
from concurrent import futures

import pytest
from couchdb.http import ResourceNotFound
from support.tokens import ended_token, make_token
from support.workers import PilotProcess, wait_for

from picas import CouchDB, Task, modifiers
from picas.exceptions import UsageError
from picas.pool import (
    Change,
    Source,
    TokenQuery,
    count_holders,
    count_tokens,
    delete_tokens,
    make_filter,
    pages,
    reset_tokens,
    retry_tokens,
    set_fields,
)
from picas.views import count_states

HOUR = 3600


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 4)


def lock_before(monkeypatch, method, token_id):
    """Let another pilot lock a token just before `method` of the client writes."""
    original = getattr(CouchDB, method)

    def after_a_lock(self, documents):
        if token_id in [document.id for document in documents]:
            other = self.get(token_id)
            other["lock"] = 1
            self.save(other)
        return original(self, documents)

    monkeypatch.setattr(CouchDB, method, after_a_lock)


def test_deletes_all_tokens_of_a_view_over_several_pages(client, push):
    push(10)
    client.save(make_token(99, lock=1))
    assert delete_tokens(client, "todo") == Change(10, 0)
    assert count_states(client) == {"todo": 0, "locked": 1, "done": 0, "error": 0}


def test_an_empty_view_deletes_nothing(client):
    assert delete_tokens(client, "todo") == Change(0, 0)


def test_a_token_that_a_pilot_locks_meanwhile_is_kept_and_counted(client, push, monkeypatch):
    push(10)
    lock_before(monkeypatch, "delete_documents", "token_2")
    assert delete_tokens(client, "todo") == Change(9, 1)
    assert client.get("token_2")["lock"] == 1


def test_a_token_whose_row_is_older_than_its_document_is_kept(client, push, monkeypatch):
    """The document is read after its row, and may no longer belong to the view by then."""
    push(2)
    read = client.get_documents

    def read_later(ids):
        tokens = read(ids)
        for token in tokens:
            token["lock"] = 5 if token.id == "token_1" else 0
        return tokens

    monkeypatch.setattr(client, "get_documents", read_later)
    assert delete_tokens(client, "todo") == Change(1, 1)
    assert client.get("token_1")["lock"] == 0


def test_any_view_can_be_deleted_even_if_all_its_keys_are_equal(client, push):
    client.add_view("by_type", "function(doc) { if (doc.type == 'token') emit(doc.type, null); }", design_doc="Own")
    push(11)
    assert delete_tokens(client, "by_type", "Own") == Change(11, 0)


def test_a_missing_view_raises(client):
    with pytest.raises(ResourceNotFound):
        delete_tokens(client, "nope")


def test_reset_puts_locked_tokens_back_with_logs_and_history(client, push):
    for token in push(6):
        token.put_attachment("logs.out", "text")
        token["attempts"] = [{"outcome": "failed"}]
        client.save(token.lock("pilot_x"))
    assert reset_tokens(client, "locked") == Change(6, 0)
    token = client.get("token_0")
    assert (token["lock"], token["done"], token["exit_code"], token["scrub_count"]) == (0, 0, "", 0)
    assert "claim" not in token
    assert token.get_attachment("logs.out", client)["data"] == b"text"
    assert [attempt["outcome"] for attempt in token["attempts"]] == ["failed", "stopped"]
    assert token["attempts"][1]["reason"] == "reset by a person"
    assert "group" not in token["attempts"][1]


def test_reset_brings_errors_back_without_counting_them(client, push):
    (token,) = push(1)
    client.save(token.error("bad"))
    assert reset_tokens(client, "error") == Change(1, 0)
    token = client.get("token_0")
    assert (token["lock"], token["exit_code"], token["scrub_count"]) == (0, "", 0)
    assert token["error"][0]["message"] == "bad"


def test_reset_can_be_limited_to_tokens_that_were_locked_long_ago(client):
    now = int(time.time())
    client.save_documents([make_token(0, lock=now - 3 * HOUR), make_token(1, lock=now - HOUR)])
    assert reset_tokens(client, "locked", hours=2) == Change(1, 0)
    assert client.get("token_0")["lock"] == 0
    assert client.get("token_1")["lock"] == now - HOUR


def finished(number, hours, mark=None, **fields):
    """Return a token whose last attempt ended some hours ago, as this release leaves it."""
    end = int(time.time() - hours * HOUR)
    attempts = [
        {"end": end - 100 * HOUR, "outcome": "failed"},
        {"start": end - 9 * HOUR, "end": end, "outcome": "failed"},
    ]
    lock, done = (end - 9 * HOUR, end) if mark is None else (mark, mark)
    return make_token(number, lock=lock, done=done, exit_code=1, attempts=attempts, **fields)


def old(number, lock, done, error=None, **fields):
    """Return a token in error as an older release leaves it; the times are hours ago, or marks."""
    times = [value if value in (0, 1, 99, None) else int(time.time() - value * HOUR) for value in (lock, done)]
    if error is not None:
        fields["error"] = [{"time": int(time.time() - hours * HOUR)} for hours in error]
    return make_token(number, lock=times[0], done=times[1], exit_code=99, **fields)


class TestTheTimeThatCounts:
    """`hours` means the lock of a locked token, and the end of the last attempt of any other."""

    @pytest.mark.parametrize(
        ("recent", "long_ago"),
        [
            (finished(0, 1), finished(1, 3)),
            (finished(0, 1, mark=99), finished(1, 3, mark=99)),
            (old(0, 99, 99, error=[50, 1]), old(1, 99, 99, error=[50, 3])),
            (old(0, 5, 1.5), old(1, 5, 3)),
            (old(0, 1.5, 99), old(1, 3, 99)),
            (old(0, 5, 1.5, error=[9]), old(1, 9, 3, error=[9])),
            ({**finished(0, 50), **old(0, 5, 1.5)}, {**finished(1, 50), **old(1, 5, 3)}),
            ({**finished(0, 1, mark=99), "error": []}, {**finished(1, 3, mark=99), "error": ["odd"]}),
        ],
        ids=["exit code", "exception", "older: error", "older: done", "older: lock", "noted", "both", "no errors"],
    )
    def test_of_a_token_in_error(self, client, recent, long_ago):
        client.save_documents([recent, long_ago])
        assert reset_tokens(client, "error", hours=2) == Change(1, 0)
        assert [client.get(f"token_{number}")["lock"] == 0 for number in (0, 1)] == [False, True]
        assert reset_tokens(client, "error", hours=0.5) == Change(1, 0)

    def test_of_a_token_that_failed_by_an_exception_just_now(self, client, push):
        (token,) = push(1)
        modifiers.end_attempt(modifiers.set_error(token.lock("pilot")), "failed")
        client.save(token)
        assert reset_tokens(client, "error", hours=24) == Change(0, 0)

    def test_of_a_locked_token_that_failed_before(self, client):
        client.save({**finished(0, 9), "lock": int(time.time() - HOUR), "done": 0})
        assert reset_tokens(client, "locked", hours=4) == Change(0, 0)
        assert reset_tokens(client, "locked", hours=0.5) == Change(1, 0)

    def test_of_a_done_token(self, client):
        client.save_documents([{**finished(number, hours), "exit_code": 0} for number, hours in enumerate((1, 3))])
        assert reset_tokens(client, "done", hours=2) == Change(1, 0)

    def test_a_view_of_the_users_own(self, client):
        client.add_view("all", "function(doc) { if (doc.type == 'token') emit(doc._id, null); }", design_doc="Own")
        lock = int(time.time() - HOUR)
        client.save_documents(
            [finished(0, 1), finished(1, 3), make_token(2, lock=lock), make_token(3, lock=lock - 3 * HOUR)]
        )
        assert reset_tokens(client, "all", "Own", hours=2) == Change(2, 0)
        assert [client.get(f"token_{number}")["lock"] == 0 for number in range(4)] == [False, True, False, True]

    @pytest.mark.parametrize("view", ["error", "locked"])
    def test_a_token_without_any_time_is_reset(self, client, view):
        client.save(make_token(0, lock=1, done=99 if view == "error" else 0))
        assert reset_tokens(client, view, hours=24) == Change(1, 0)


class TestHolders:
    def test_are_counted_by_pilot(self, client, push):
        for token, pilot in zip(push(7), ("a", "b", "a", "", "a", "b")):
            client.save(token.lock(pilot))
        client.save(make_token(8, lock=5))
        assert count_holders(client, "locked") == {"a": 3, "b": 2, "": 2}
        assert count_holders(client, "todo") == {}

    def test_only_of_tokens_that_were_locked_long_ago(self, client, push):
        now = int(time.time())
        for token, hours in zip(push(2), (1, 3)):
            client.save(Task({**token.lock("a").value, "lock": now - hours * HOUR}))
        assert count_holders(client, "locked", hours=2) == {"a": 1}

    def test_only_the_tokens_of_some_are_reset(self, client, push):
        for token, pilot in zip(push(6), ("a", "b", "a", "", "c")):
            client.save(token.lock(pilot))
        assert reset_tokens(client, "locked", pilots={"a", "c"}) == Change(3, 0)
        assert count_holders(client, "locked") == {"b": 1, "": 1}
        done = client.get("token_1")
        done["done"] = 5
        client.save(done)
        assert reset_tokens(client, "error", pilots={"b"}) == Change(0, 0)


class TestManyTokens:
    def test_progress_is_reported_while_a_view_is_handled(self, client, push):
        handled = []
        for token in push(10):
            client.save(token.lock())
        assert reset_tokens(client, "locked", hours=1, progress=handled.append) == Change(0, 0)
        assert handled[-1] == 10  # all were read, though none is old enough
        handled.clear()
        assert reset_tokens(client, "locked", progress=handled.append) == Change(10, 0)
        assert (len(handled), handled[-1], handled == sorted(handled)) == (3, 10, True)
        handled.clear()
        assert delete_tokens(client, "todo", progress=handled.append) == Change(10, 0)
        assert (len(handled), handled[-1], handled == sorted(handled)) == (3, 10, True)

    def test_ctrl_c_lets_the_request_end_and_the_same_call_does_the_rest(self, client, push, monkeypatch):
        push(20)
        delete, sent = client.delete_documents, []

        def interrupted(tokens):
            sent.append(len(tokens))
            if len(sent) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return delete(tokens)

        monkeypatch.setattr(client, "delete_documents", interrupted)
        with pytest.raises(KeyboardInterrupt) as interrupt:
            delete_tokens(client, "todo")
        left = count_tokens(client, "todo")
        assert left <= 12, "further requests may be under way too"
        assert (
            str(interrupt.value) == f"interrupted: {20 - left} tokens were changed; the same command changes the rest"
        )
        assert delete_tokens(client, "todo") == Change(left, 0)

    def test_a_second_ctrl_c_does_not_wait_for_the_server(self, client, push, monkeypatch):
        push(4)
        answered = threading.Event()

        def hanging(tokens):
            os.kill(os.getpid(), signal.SIGINT)
            answered.wait(60)
            return [True] * len(tokens)

        def interrupted(pending):
            raise KeyboardInterrupt

        monkeypatch.setattr(client, "delete_documents", hanging)
        monkeypatch.setattr(futures, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"^interrupted: at least 0 tokens were changed;"):
            delete_tokens(client, "todo")
        answered.set()


def test_a_token_that_is_finished_meanwhile_is_not_reset(client, push, monkeypatch):
    for token in push(3):
        client.save(token.lock())
    lock_before(monkeypatch, "save_documents", "token_1")
    assert reset_tokens(client, "locked") == Change(2, 1)
    assert client.get("token_1")["lock"] == 1


def test_counts_the_rows_of_a_view(client, push):
    push(7)
    assert count_tokens(client, "todo") == 7
    assert count_tokens(client, "done") == 0


def in_error(client):
    return TokenQuery(client, [Source("error")])


class TestSelectedTokens:
    """What is changed are tokens that were selected, in the revision in which they were read."""

    @pytest.fixture(autouse=True)
    def errors(self, client):
        assert all(client.save_documents([ended_token(n, lost_count=3, cores=n) for n in range(10)]))

    def test_are_retried_with_new_fields(self, client):
        handled = []
        wanted = TokenQuery(client, [Source("error")], make_filter(["cores >= 4"]))
        assert retry_tokens(client, wanted, {"memory": "16G", "cores": 2}, handled.append) == Change(6, 0)
        assert handled == sorted(handled)
        assert handled[-1] == 6
        assert count_states(client) == {"todo": 6, "locked": 0, "done": 0, "error": 4}
        token = client.get("token_9")
        assert (token["memory"], token["cores"], token["exit_code"], "lost_count" in token) == ("16G", 2, "", False)
        assert len(token["attempts"]) == 1

    def test_are_deleted(self, client):
        assert delete_tokens(client, in_error(client)) == Change(10, 0)
        assert client.doc_count() == 1

    def test_get_fields_and_lose_fields(self, client):
        assert set_fields(client, in_error(client), {"memory": 5}, ["cores"]) == Change(10, 0)
        token = client.get("token_3")
        assert (token["memory"], "cores" in token, token["exit_code"]) == (5, False, 1)

    def test_get_needs_as_all_pilots_read_them_and_never_invalid_ones(self, client):
        for change in (retry_tokens, set_fields):
            with pytest.raises(UsageError, match=r'cores can.t be "four": write a number such as 4'):
                change(client, in_error(client), {"cores": "four"})
        assert set_fields(client, in_error(client), {"walltime": "2h", "tags": "a,b"}) == Change(10, 0)
        token = client.get("token_3")
        assert (token["walltime"], token["tags"]) == (7200, ["a", "b"])

    @pytest.mark.parametrize(
        "change", [retry_tokens, delete_tokens, lambda client, tokens: set_fields(client, tokens, {"a": 1})]
    )
    def test_are_left_alone_if_they_change_after_they_were_read(self, client, change):
        def then_changed():
            for token in in_error(client):
                if token.id == "token_3":
                    client.save({**token.value, "memory": "by another person"})
                yield token

        assert change(client, then_changed()) == Change(9, 1)
        token = client.get("token_3")
        assert (token["memory"], token["exit_code"]) == ("by another person", 1)
        assert change(client, in_error(client)).kept == 0

    @pytest.mark.parametrize("name", ["lock", "done", "attempts", "claim", "error", "type", "_rev", "", "a.b"])
    def test_never_get_a_field_that_picas_writes(self, client, name):
        for change in (retry_tokens, set_fields):
            with pytest.raises(UsageError, match="can't be set"):
                change(client, in_error(client), {name: 1})
        with pytest.raises(UsageError, match="can't be set"):
            set_fields(client, in_error(client), {}, [name])


WORK = """
class Work(RunActor):
    def process_task(self, task):
        note("work", task.id)
        task["runs"] = task.get("runs", 0) + 1
        task["exit_code"] = 0 if task.get("memory") else 1

database = connect()
iterator = TaskViewIterator(database, "todo")
Work(database, EndlessViewIterator(iterator, sleep_sec=0.1) if ENDLESS else iterator).run(max_failures=0)
"""


class TestRaces:
    """Pilots take the tokens while people retry and delete them."""

    COUNT = 40

    @pytest.fixture
    def pilots(self, environment, tmp_path):
        """Return a function that starts two pilots."""
        started = []

        def start(is_endless):
            body = WORK.replace("ENDLESS", str(is_endless))
            started.extend(PilotProcess(tmp_path / name, environment, body) for name in ("a", "b"))
            return started

        yield start
        for pilot in started:
            pilot.close()

    def test_each_token_that_is_retried_runs_once_more_and_none_is_lost(self, client, push, pilots):
        """Each token fails until a person gives it memory; nobody else puts it back."""
        push(self.COUNT)
        pilots(is_endless=True)
        retried = []

        def retry():
            retried.append(retry_tokens(client, in_error(client), {"memory": "16G"}).changed)
            return count_states(client)["done"] == self.COUNT

        wait_for(retry, 60)
        tokens = [client.get(f"token_{number}") for number in range(self.COUNT)]
        assert sum(retried) == self.COUNT
        assert [token["runs"] for token in tokens] == [2] * self.COUNT
        assert [[each["outcome"] for each in token["attempts"]] for token in tokens] == [
            ["failed", "done"]
        ] * self.COUNT

    def test_a_token_is_either_deleted_or_processed(self, client, push, pilots):
        push(self.COUNT, memory=1)
        working = pilots(is_endless=False)
        wait_for(lambda: count_states(client)["done"] >= 3)
        result = delete_tokens(client, TokenQuery(client, [Source("todo")]))
        for pilot in working:
            assert pilot.end() == 0
        counts = count_states(client)
        assert counts == {"todo": 0, "locked": 0, "done": self.COUNT - result.changed, "error": 0}
        ran = [line.split()[1] for pilot in working for line in pilot.journal]
        assert sorted(ran) == sorted({*ran})
        assert len(ran) == counts["done"]
