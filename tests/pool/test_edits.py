"""Deleting and resetting all tokens of a view."""

import time

import pytest
from couchdb.http import ResourceNotFound
from support.tokens import make_token

from picas import CouchDB
from picas.pool import Change, count_tokens, delete_tokens, edits, reset_tokens
from picas.views import count_states

HOUR = 3600


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(edits, "PAGE", 4)


def lock_before(monkeypatch, method, token_id):
    """Let another pilot lock a token just before `method` of the client writes."""
    original = getattr(CouchDB, method)

    def after_a_lock(self, documents):
        monkeypatch.setattr(CouchDB, method, original)
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
    """With include_docs a row has the newest document, which may no longer belong to the view."""
    push(2)
    view = client.view

    def stale(name, **parameters):
        result = view(name, **parameters)
        for row in result.rows:
            if row.id == "token_1":
                row["doc"]["lock"] = 5
        return result

    monkeypatch.setattr(client, "view", stale)
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
