"""The client against a real server, in the order of its public description."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterator
from typing import Any, Callable
from uuid import uuid4

import couchdb
import numpy
import pytest
from couchdb.http import Forbidden, HTTPError, ResourceConflict, ResourceNotFound, ServerError, Unauthorized
from support.faults import FaultProxy
from support.places import Location
from support.tokens import make_token
from support.workers import Gate

from picas import CouchDB, Document, Job, Task, User, clients
from picas.couch.answers import sole_branch
from picas.couch.outages import wait_out
from picas.exceptions import Unreachable

ODD_IDS = [
    "a/b",
    "a b",
    "a?b#c",
    "a%2Fb",
    "a+b",
    "\u00e9\u20ac\U0001f600",
    ".",
    "..",
    "a/../b",
    '"quoted"',
    "_design/x",
    "_design/x/y",
]
NO_IDS = ["", "_x", "_all_docs", "_security", "_design", "_design/", "_local/", "_designs/x", "/x"[:0]]


# --- connecting


def test_the_database_is_a_database_of_couchdb_python(client: CouchDB) -> None:
    assert isinstance(client.db, couchdb.Database)
    assert client.db.info()["db_name"] == client.db.name == client.database_name
    assert list(client.db) == ["_design/Monitor"]


@pytest.mark.parametrize("q", [1, 2, 5])
def test_the_shard_of_a_document_is_that_of_the_server(
    client: CouchDB, location: Location, is_couchdb: bool, q: int
) -> None:
    if not is_couchdb:
        assert (client.shards, client.shard_of("token_1")) == (1, 0)
        pytest.skip("the embedded server does not divide a database")
    name = f"{client.db.name}_{q}"
    client.server.resource.put_json(name, q=q)
    try:
        divided = CouchDB(location.url, name, location.username, location.password)
        _, _, shards = divided.db.resource.get_json("_shards")
        ranges = sorted(shards["shards"])
        for number in range(30):
            token = f"token_{number}_ü"
            _, _, found = divided.db.resource.get_json(["_shards", token])
            assert ranges[divided.shard_of(token)] == found["range"]
    finally:
        del client.server[name]


def test_a_missing_database_is_noticed_at_once(location: Location) -> None:
    with pytest.raises(couchdb.ResourceNotFound):
        CouchDB(location.url, "picas_test_absent", location.username, location.password)


@pytest.mark.parametrize("name", ["", "_all_dbs"])
def test_a_name_that_points_elsewhere_is_not_a_database(location: Location, name: str) -> None:
    with pytest.raises(couchdb.ResourceNotFound):
        CouchDB(location.url, name, location.username, location.password)


def test_a_database_is_created_on_request_and_kept_if_it_exists(location: Location) -> None:
    name = f"picas_test_{uuid4().hex}"
    client = CouchDB(location.url, name, location.username, location.password, create=True)
    client.save({"_id": "a"})
    again = CouchDB(location.url, name, location.username, location.password, create=True)
    assert again.doc_count() == 1
    del client.server[name]


def test_a_database_with_an_invalid_name_is_not_created(location: Location) -> None:
    with pytest.raises(ServerError, match="illegal_database_name"):
        CouchDB(location.url, "NO", location.username, location.password, create=True)


def test_a_wrong_password_is_noticed_at_once_and_not_shown(client: CouchDB, location: Location) -> None:
    wrong = "hunter" + "2"  # in two parts, since a traceback quotes this line
    with pytest.raises(couchdb.Unauthorized) as caught:
        CouchDB(location.url, client.db.name, f"user_{uuid4().hex}", wrong)  # the admin's name would be locked out
    assert wrong not in "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    with pytest.raises(couchdb.Unauthorized):
        CouchDB(location.url, client.db.name)


def test_credentials_in_the_address_are_used_and_not_shown(client: CouchDB, location: Location) -> None:
    netloc = location.url.partition("://")[2]
    for url in (f"http://{location.username}:{location.password}@{netloc}", f"http://{location.username}@{netloc}/"):
        other = CouchDB(url, client.db.name, password=location.password)
        assert other.doc_count() == 1
        assert other.url == location.url
    for shown in (repr(other), repr(other.db), repr(other.server), other.url):
        assert location.password not in shown


def test_credentials_in_arguments_override_those_in_the_address(client: CouchDB, location: Location) -> None:
    netloc = location.url.partition("://")[2]
    other = CouchDB(f"http://me:hunter2@{netloc}", client.db.name, location.username, location.password)
    assert other.doc_count() == 1


def test_a_copy_has_its_own_connections_and_the_same_settings(client: CouchDB, location: Location) -> None:
    original = CouchDB(
        location.url,
        client.db.name,
        location.username,
        location.password,
        False,
        connect_timeout=3.5,
        read_timeout=7.5,
    )
    copy = original.copy()
    assert copy is not original
    assert copy.db is not original.db
    assert (copy.url, copy.db.name) == (original.url, original.db.name)
    sessions = [other.server.resource.session for other in (original, copy)]
    assert sessions[0] is not sessions[1]
    assert sessions[0].connection_pool is not sessions[1].connection_pool
    assert sessions[1].verify is False
    assert sessions[1].timeouts == sessions[0].timeouts
    assert (sessions[1].timeouts.connect, sessions[1].timeouts.read) == (3.5, 7.5)
    copy.save({"_id": "a"})
    assert original.get("a").rev == copy.get("a").rev


def test_a_copy_without_retries_sends_each_request_once(through: Callable[..., CouchDB], location: Location) -> None:
    with FaultProxy(location.url) as proxy:
        original = through(proxy)
        copy = original.copy(retries=False)
        proxy.fail("GET", "absent", "close the connection without an answer", times=9)
        before = proxy.count("GET", "absent")
        with pytest.raises(Unreachable):
            copy.get("absent")
        assert proxy.count("GET", "absent") == before + 1
        assert original.server.resource.session.retry_pauses


def test_a_copy_of_a_client_without_a_user(location: Location) -> None:
    with FaultProxy(location.url) as proxy:
        from support.faults import Reply

        proxy.answer = lambda request: Reply(200, b'{"db_name": "x"}')
        copy = CouchDB(proxy.url, "x").copy()
        copy.db.info()
        assert all(request.authorization is None for request in proxy.requests)


def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picas.couch.transport.time.sleep", lambda seconds: None)
    with pytest.raises(Unreachable, match=r"^can't reach http://127\.0\.0\.1:1 \(Connection refused\)$"):
        CouchDB("http://me:hunter2@127.0.0.1:1", "x")


# --- reading


def test_get_returns_a_document(client: CouchDB) -> None:
    client.save({"_id": "a", "x": 1})
    document = client.get("a")
    assert isinstance(document, Document)
    assert (document.id, document["x"]) == ("a", 1)
    assert client["a"]["x"] == 1


def test_get_of_a_missing_document(client: CouchDB) -> None:
    with pytest.raises(ValueError, match="nothing is not the id of a document"):
        client.get("nothing")
    with pytest.raises(couchdb.ResourceNotFound):
        client["nothing"]


@pytest.mark.parametrize("doc_id", NO_IDS)
def test_an_invalid_document_id_is_not_found(client: CouchDB, doc_id: str) -> None:
    before = client.db.info()["doc_count"]
    for action in (
        client.get,
        lambda id: client.save({"_id": id}),
        lambda id: client.delete({"_id": id, "_rev": "1-x"}),
    ):
        with pytest.raises(ValueError, match="can't be the id of a document"):
            action(doc_id)
    assert client.db.info()["doc_count"] == before


@pytest.mark.parametrize("doc_id", [None, 5])
def test_an_id_that_is_not_text(client: CouchDB, doc_id: Any) -> None:
    with pytest.raises(ValueError, match="can't be the id of a document"):
        client.get(doc_id)


@pytest.mark.parametrize("doc_id", ODD_IDS)
def test_odd_ids_are_stored_and_read_unchanged(client: CouchDB, doc_id: str) -> None:
    client.save({"_id": doc_id, "x": "\u00e9\u20ac\U0001f600\n\t\0"})
    document = client.get(doc_id)
    assert (document.id, document["x"]) == (doc_id, "\u00e9\u20ac\U0001f600\n\t\0")
    client.save(document)
    assert document.rev.startswith("2-")
    client.delete(document)
    with pytest.raises(ValueError, match="is not the id of a document"):
        client.get(doc_id)


def test_a_local_document(client: CouchDB) -> None:
    client.save({"_id": "_local/x", "x": 1})
    assert client.get("_local/x")["x"] == 1


def test_all_documents_are_listed_in_the_order_of_their_ids(client: CouchDB) -> None:
    client.save_documents([{"_id": name, "x": 1} for name in ("c", "a", "b")])
    rows = client.all_docs(startkey="a", endkey="b")
    assert [(row.id, row.value["rev"], row.doc) for row in rows] == [(id, client[id]["_rev"], None) for id in "ab"]
    assert [row.id for row in client.all_docs(startkey="a", limit=1)] == ["a"]
    assert [row.doc["x"] for row in client.all_docs(startkey="a", include_docs=True)] == [1, 1, 1]


def test_some_documents_are_listed_in_any_order(client: CouchDB) -> None:
    client.save_documents([{"_id": name} for name in ("a", "b", "c")])
    client.delete(client.get("b"))
    last, deleted, absent, first = client.all_docs(keys=iter(["c", "b", "nothing", "a"]), include_docs=True)
    assert (last.id, first.id) == ("c", "a")
    assert (deleted.value["deleted"], deleted.doc) == (True, None)
    assert absent["error"] == "not_found"
    assert client.all_docs(keys=[]) == []


def test_documents_by_their_ids(client: CouchDB) -> None:
    client.save_documents([{"_id": name, "x": name} for name in ("a", "b", "c")])
    client.delete(client.get("b"))
    documents = client.get_documents(["c", "b", "nothing", "a"])
    assert all(isinstance(document, Document) for document in documents)
    assert [(document.id, document["x"]) for document in documents] == [("c", "c"), ("a", "a")]
    assert client.get_documents([]) == []


def test_documents_with_several_branches_are_read_as_others_see_them(client: CouchDB) -> None:
    for name in ("a", "b"):
        client.save({"_id": name})
        parent = client.get(name).rev
        for digest in ("e" * 32, "f" * 32):
            client.store_revision({"_id": name, "_rev": f"2-{digest}", "x": digest[0]}, parent)
    client.delete(client.get("b"))
    assert [document.value for document in client.get_documents(["a", "b"])] == [
        client.get("a").value,
        client.get("b").value,
    ]


@pytest.mark.parametrize(
    ("branches", "content"),
    [
        ([], {}),
        ([{}], {}),
        ([{"error": {"error": "not_found"}}], {}),
        ([{"error": {"error": "internal_server_error"}}], None),
        ([{"ok": {"x": 1}}, {"ok": {"_deleted": True}}], {"x": 1}),
        ([{"ok": {"x": 1}}, {"ok": {"x": 2}}], None),
    ],
)
def test_the_branch_that_readers_see(branches: Any, content: Any) -> None:
    assert sole_branch(branches) == content


def test_an_attachment_is_read_by_its_name(client: CouchDB) -> None:
    document = Document({"_id": "a/b"})
    document.put_attachment("c d", b"\x00\xff")
    client.save(document)
    assert client.read_attachment("a/b", "c d") == b"\x00\xff"
    for doc_id, name in (("a/b", "nothing"), ("nothing", "c d")):
        with pytest.raises(KeyError):
            client.read_attachment(doc_id, name)


def test_the_branches_of_a_document(client: CouchDB) -> None:
    first = client.save({"_id": "a"})["_rev"]
    second = client.save({"_id": "a", "_rev": first, "x": 1})["_rev"]
    for digest, fields in (("e" * 32, {"x": 2}), ("f" * 32, {"_deleted": True})):
        client.store_revision({"_id": "a", "_rev": f"2-{digest}", **fields}, first)
    branches = {branch["_rev"]: branch for branch in client.read_branches("a")}
    assert set(branches) == {second, f"2-{'e' * 32}", f"2-{'f' * 32}"}
    assert branches[f"2-{'e' * 32}"]["x"] == 2
    assert branches[f"2-{'f' * 32}"]["_deleted"] is True
    assert client.read_branches("nothing") == []


def test_the_probe_for_a_majority_leaves_nothing_behind(client: CouchDB) -> None:
    count = client.doc_count()
    assert client.has_majority()
    assert client.doc_count() == count


def test_a_view_has_rows(client: CouchDB, push: Callable[..., list[Task]]) -> None:
    push(3)
    rows = client.view("todo").rows
    assert [(row.id, row.key, row.value) for row in rows] == [(f"token_{n}",) * 3 for n in range(3)]
    assert [row.id for row in client.view("todo", design_doc="Monitor", limit=1, skip=1).rows] == ["token_1"]
    assert [row.id for row in client.view("todo", startkey="token_1", descending=True).rows] == ["token_1", "token_0"]
    assert [row.id for row in client.view("todo", keys=["token_2", "token_0"]).rows] == ["token_2", "token_0"]


def test_a_missing_view(client: CouchDB) -> None:
    for ask in (
        lambda: client.view("nothing").rows,
        lambda: client.view("todo", design_doc="Nothing").rows,
        lambda: client.get_from_view("nothing"),
    ):
        with pytest.raises(couchdb.ResourceNotFound):
            ask()
    assert client.is_view_nonempty("nothing") is False


def test_documents_of_a_view(client: CouchDB, push: Callable[..., list[Task]]) -> None:
    push(3, input="x")
    documents = client.get_from_view("todo", limit=2, design_doc="Monitor")
    assert all(isinstance(document, Document) for document in documents)
    assert [(document.id, document["input"]) for document in documents] == [("token_0", "x"), ("token_1", "x")]


def test_deleted_documents_that_a_view_refers_to_are_left_out(client: CouchDB) -> None:
    client.add_view("others", "function(doc) { if (doc.other) { emit(doc._id, {_id: doc.other}); } }")
    client.save({"_id": "a", "other": "b"})
    client.save({"_id": "c", "other": "d"})
    client.save({"_id": "d"})
    assert [document.id for document in client.get_from_view("others")] == ["d"]


def test_a_single_document_is_drawn_from_the_first_rows(client: CouchDB, push: Callable[..., list[Task]]) -> None:
    push(4)
    assert isinstance(client.get_single_from_view("todo"), Document)
    assert {client.get_single_from_view("todo").id for _ in range(5)} == {"token_0"}
    assert {client.get_single_from_view("todo", window_size=3).id for _ in range(40)} == {
        "token_0",
        "token_1",
        "token_2",
    }
    assert client.get_single_from_view("todo", 2, startkey="token_3").id == "token_3"


def test_no_document_is_drawn_from_an_empty_view(client: CouchDB) -> None:
    with pytest.raises(IndexError):
        client.get_single_from_view("todo", window_size=5)


def test_whether_a_view_has_rows(client: CouchDB, push: Callable[..., list[Task]]) -> None:
    assert client.is_view_nonempty("todo") is False
    push(1)
    assert client.is_view_nonempty("todo") is True
    assert client.is_view_nonempty("todo", startkey="u") is False
    assert client.is_view_nonempty("locked", design_doc="Monitor") is False


def test_documents_are_counted(client: CouchDB, push: Callable[..., list[Task]]) -> None:
    assert client.doc_count() == 1  # the design document
    push(3)
    assert client.doc_count() == 4


# --- writing one document


@pytest.mark.parametrize("kind", [dict, Document, Task])
def test_save_returns_the_document_with_its_new_revision(client: CouchDB, kind: Any) -> None:
    document = kind({"_id": "a"})
    assert client.save(document) is document
    assert document["_rev"].startswith("1-")
    document["x"] = 1
    client.save(document)
    assert document["_rev"].startswith("2-")
    assert client.get("a").value.items() >= {"_id": "a", "x": 1, "_rev": document["_rev"]}.items()


def test_a_document_without_an_id_gets_one(client: CouchDB) -> None:
    saved = [client.save({"x": number}) for number in range(2)]
    assert saved[0]["_id"] != saved[1]["_id"]
    assert client.get(saved[1]["_id"])["x"] == 1


@pytest.mark.parametrize("kind", [Job, User])
def test_jobs_and_users_are_documents(client: CouchDB, kind: Any) -> None:
    document = Job({"_id": "j"}) if kind is Job else User("me", "pw")
    assert client.get(client.save(document).id)["type"] == kind.__name__.lower()


def test_an_older_revision_is_a_conflict(client: CouchDB) -> None:
    first = client.save({"_id": "a", "x": 1})
    stale = dict(first)
    client.save(first)
    for document in (stale, {"_id": "a"}):
        before = dict(document)
        with pytest.raises(ResourceConflict):
            client.save(document)
        assert document == before
    assert client.get("a").rev == first["_rev"]


def test_a_document_that_was_deleted_meanwhile_is_a_conflict(client: CouchDB) -> None:
    document = client.save({"_id": "a"})
    client.delete(client.get("a"))
    with pytest.raises(ResourceConflict):
        client.save(document)


def test_a_deleted_id_can_be_used_again(client: CouchDB) -> None:
    client.delete(client.save({"_id": "a", "x": 1}))
    assert client.save({"_id": "a", "x": 2})["_rev"].startswith("3-")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x", "\ud800"])
def test_values_that_json_cannot_represent_are_not_sent(client: CouchDB, value: Any) -> None:
    for save in (client.save, lambda document: client.save_documents([{"_id": "b"}, document])):
        with pytest.raises((ValueError, TypeError)):
            save({"_id": "a", "x": value})
    assert client.doc_count() == 1


def test_only_documents_and_dicts_are_saved(client: CouchDB) -> None:
    with pytest.raises(TypeError, match="Document or a dict, not list"):
        client.save([1])  # type: ignore[arg-type]


def test_a_field_that_couchdb_rejects(client: CouchDB) -> None:
    with pytest.raises(HTTPError, match="doc_validation"):
        client.save({"_id": "a", "_strange": 1})


def test_delete(client: CouchDB, is_couchdb: bool) -> None:
    document = client.save(Task({"_id": "a"}))
    stale = dict(document.value)
    client.save(document)
    with pytest.raises(ResourceConflict):
        client.delete(stale)
    client.delete(document)
    with pytest.raises(ResourceNotFound if is_couchdb else ResourceConflict):
        client.delete(document)
    assert client.doc_count() == 1


# --- writing many documents


def test_many_documents_are_saved_with_one_request(client: CouchDB, location: Location) -> None:
    with FaultProxy(location.url) as proxy:
        through = CouchDB(proxy.url, client.db.name, location.username, location.password)
        documents: list[Any] = [Task(make_token(n)) for n in range(500)] + [{"x": n} for n in range(500)]
        assert through.save_documents(documents) == [True] * 1000
        assert proxy.count("POST", "_bulk_docs") == 1
        assert through.delete_documents(documents) == [True] * 1000
        assert proxy.count("POST", "_bulk_docs") == 2
        assert proxy.count("PUT") == proxy.count("DELETE") == 0
    assert all(document["_rev"].startswith("1-") and document["_id"] for document in documents)
    assert client.doc_count() == 1


def test_very_many_documents_are_sent_in_chunks(
    client: CouchDB, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picas.couch.writes.BULK_DOCS", 10)
    with FaultProxy(location.url) as proxy:
        through = CouchDB(proxy.url, client.db.name, location.username, location.password)
        tokens = [Task(make_token(number)) for number in range(25)]
        assert through.save_documents(tokens) == [True] * 25
        assert proxy.count("POST", "_bulk_docs") == 3
    assert [row.id for row in client.view("todo").rows] == sorted(token.id for token in tokens)
    assert all(client.get(token.id).rev == token.rev for token in tokens[9:11])


def test_large_documents_are_sent_in_smaller_chunks(
    client: CouchDB, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picas.couch.writes.BULK_BYTES", 1000)
    with FaultProxy(location.url) as proxy:
        through = CouchDB(proxy.url, client.db.name, location.username, location.password)
        documents = [{"_id": f"a{n}", "x": "\u20ac" * size} for n, size in enumerate((100, 150, 100, 900, 10))]
        assert through.save_documents(documents) == [True] * 5
        bulks = [request for request in proxy.requests if request.path.endswith("_bulk_docs")]
    assert [request.body.count(b'"_id"') for request in bulks] == [2, 1, 1, 1]


def test_saving_many_returns_which_were_saved(client: CouchDB) -> None:
    client.save({"_id": "b", "x": "theirs"})
    documents: list[dict[str, Any]] = [{"_id": "a"}, {"_id": "b", "x": "ours"}, {"_id": "c"}, {"_id": "a", "x": 2}]
    assert client.save_documents(documents) == [True, False, True, False]
    assert "_rev" not in documents[1]
    assert "_rev" not in documents[3]
    assert client.get("b")["x"] == "theirs"
    assert "x" not in client.get("a")


def test_writing_many_returns_the_new_revisions_too(client: CouchDB) -> None:
    client.save({"_id": "b"})
    documents: list[dict[str, Any]] = [{"_id": "a"}, {"_id": "b"}, {}]
    written = client.write_documents(documents)
    assert written.revs == [client.get("a").rev, None, client.get(documents[2]["_id"]).rev]
    assert [document.get("_rev") for document in documents] == written.revs
    assert written.has_quorum == [True, False, True]


def test_a_single_server_keeps_one_copy(client: CouchDB) -> None:
    assert (client.copies, client.copy().copies) == (1, 1)


def test_deleting_many_returns_which_were_deleted(client: CouchDB) -> None:
    documents = [client.save({"_id": name}) for name in "abc"]
    client.save(client.get("b"))
    client.delete(client.get("c"))
    never_saved = [{"_id": "d"}, {"_rev": "1-x"}, {"_id": "", "_rev": "1-x"}, {"_id": "e", "_rev": "odd"}]
    assert client.delete_documents([*documents[:2], *never_saved[:2]]) == [True, False, False, False]
    assert [row.id for row in client.db.view("_all_docs")] == ["_design/Monitor", "b"]


def test_nothing_to_save_and_nothing_to_delete(client: CouchDB) -> None:
    assert client.save_documents([]) == []
    assert client.delete_documents([]) == []
    assert client.delete_from_view("todo") == []


def test_all_documents_of_a_view_are_deleted(client: CouchDB, push: Callable[..., list[Task]]) -> None:
    push(3)
    client.save(make_token(9, done=1))
    assert client.delete_from_view("todo", design_doc="Monitor") == [True, True, True]
    assert [row.id for row in client.db.view("_all_docs")] == ["_design/Monitor", "token_9"]


def test_deleted_tokens_leave_no_attachments_behind(client: CouchDB) -> None:
    token = Task(make_token())
    token.put_attachment("a", "x")
    client.save(token)
    assert client.delete_documents([token]) == [True]
    assert client.save(Task(make_token()))["_rev"].startswith("3-")
    assert "_attachments" not in client.get("token_0")


# --- views and permissions


def test_a_view_is_added_to_the_others(client: CouchDB) -> None:
    client.add_view("big", "function(doc) { if (doc.cores > 8) { emit(doc._id, doc.cores); } }")
    client.add_view("sum", "function(doc) { emit(null, doc.cores); }", reduce_fun="_sum", design_doc="Mine")
    client.save_documents([make_token(number, cores=number) for number in (8, 9)])
    assert [(row.id, row.value) for row in client.view("big").rows] == [("token_9", 9)]
    assert client.view("sum", design_doc="Mine").rows[0].value == 17
    assert len(client.view("todo").rows) == 2


def test_a_view_is_replaced(client: CouchDB) -> None:
    client.add_view("v", "function(doc) { emit(1, 1); }", design_doc="Mine")
    client.add_view("v", "function(doc) { emit(2, 2); }", design_doc="Mine")
    client.save({"_id": "a"})
    assert [row.key for row in client.view("v", design_doc="Mine").rows] == [2]
    rev = client.get("_design/Mine").rev
    client.add_view("v", "function(doc) { emit(2, 2); }", design_doc="Mine")
    assert client.get("_design/Mine").rev == rev


def test_more_arguments_of_a_view_reach_couchdb(client: CouchDB) -> None:
    client.add_view("v", "function(doc) { emit(1, 1); }", design_doc="Mine", options={"include_design": False})
    assert client.get("_design/Mine")["views"]["v"]["options"] == {"include_design": False}
    client.add_view("w", "function(doc) { emit(1, 1); }", "javascript", design_doc="Mine")
    assert set(client.get("_design/Mine")["views"]) == {"v", "w"}


def test_views_added_at_the_same_time_are_all_stored(client: CouchDB) -> None:
    others = [client.copy() for _ in range(6)]
    begin = threading.Barrier(len(others))

    def add(number: int) -> None:
        begin.wait()
        others[number].add_view(f"v{number}", "function(doc) { emit(1, 1); }", design_doc="Mine")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(len(others))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(client.get("_design/Mine")["views"]) == {f"v{number}" for number in range(len(others))}


def test_views_of_two_languages_cannot_share_a_design_document(client: CouchDB) -> None:
    with pytest.raises(ValueError, match="_design/Monitor are in javascript, not in erlang"):
        client.add_view("v", "fun({Doc}) -> ok end.", "erlang")


def test_an_edit_is_repeated_after_a_conflict(client: CouchDB) -> None:
    tries: list[int] = []

    def count(content: dict[str, Any]) -> dict[str, Any]:
        tries.append(content.get("count", 0))
        if len(tries) == 2:
            client.save({**content, "theirs": True})
        return {**content, "count": content.get("count", 0) + 1}

    assert client.edit("a", count) is True
    assert client.edit("a", count) is True
    assert tries == [0, 1, 1]
    assert client.get("a").value.items() >= {"count": 2, "theirs": True}.items()
    assert client.edit("a", lambda content: content) is False


def test_an_edit_that_never_succeeds_gives_up(client: CouchDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "EDIT_CONFLICTS", 5)

    def outrun(content: dict[str, Any]) -> dict[str, Any]:
        client.save(dict(content))
        return {**content, "x": 1}

    with pytest.raises(ResourceConflict):
        client.edit("a", outrun)


def security(client: CouchDB) -> Any:
    return client.db.resource.get_json("_security")[2]


def test_permissions_are_set_one_by_one(client: CouchDB) -> None:
    client.set_users(admins=["boss"], members=["ann", "bob"], admin_roles=["bosses"], member_roles=["staff"])
    expected = {
        "admins": {"names": ["boss"], "roles": ["bosses"]},
        "members": {"names": ["ann", "bob"], "roles": ["staff"]},
    }
    assert security(client) == expected
    client.set_users(members=["ann"])
    expected["members"]["names"] = ["ann"]
    assert security(client) == expected
    client.set_users()
    assert security(client) == expected
    client.set_users(admin_roles=[])
    expected["admins"]["roles"] = []
    assert security(client) == expected


@pytest.fixture
def member(client: CouchDB, location: Location, is_couchdb: bool) -> Iterator[CouchDB]:
    """A client of a user who is a member of the database but not an admin."""
    if not is_couchdb:
        pytest.skip("the embedded server has one user only")
    name = f"picas_test_{uuid4().hex}"
    users = CouchDB(location.url, "_users", location.username, location.password, create=True)
    user = users.save(User(name, "pw"))
    client.set_users(members=[name], member_roles=[])
    yield CouchDB(location.url, client.db.name, name, "pw")
    users.delete(user)


def test_a_member_may_write_tokens_but_not_permissions(client: CouchDB, member: CouchDB) -> None:
    member.save(make_token())
    assert client.get("token_0")["type"] == "token"
    with pytest.raises(HTTPError):  # CouchDB 3.5 reports "no_majority" instead of "forbidden"
        member.set_users(members=["everybody"])
    assert "everybody" not in str(security(client))
    with pytest.raises((Forbidden, Unauthorized)):
        member.add_view("v", "function(doc) { emit(1, 1); }")
    assert "v" not in client.get("_design/Monitor")["views"]


# --- threads and processes


def test_threads_can_share_a_client(client: CouchDB) -> None:
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(20):
                document = client.save({"_id": f"{thread}/{number}", "who": thread})
                assert client.get(document["_id"])["who"] == thread
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert client.doc_count() == 161


def _read_in_child(client: CouchDB, name: str, count: int) -> None:
    for _ in range(count):
        assert client.get(name).id == name


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_client_survives_a_fork(client: CouchDB) -> None:
    for name in ("a", "b", "c"):
        client.save({"_id": name})
    _read_in_child(client, "a", 1)  # now there is an idle connection that the children inherit
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_read_in_child, args=(client, name, 30)) for name in ("b", "c")]
    for child in children:
        child.start()
    _read_in_child(client, "a", 30)
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert os.getpid() == client.server.resource.session.connection_pool._pid


def test_an_outage_of_a_real_server_is_waited_out(client: CouchDB, far: CouchDB, gate: Gate) -> None:
    gate.close()
    calls = []

    def count() -> int:
        calls.append(1)
        if len(calls) == 3:
            gate.open()
        return far.doc_count()

    assert wait_out(count, 30, lambda: False) == client.doc_count()
    assert len(calls) == 3


# --- values that JSON does not know


NUMPY = {"n": numpy.int64(3), "all": numpy.arange(2), "when": {numpy.datetime64("2024-02-29")}}
AS_JSON = {"n": 3, "all": [0, 1], "when": ["2024-02-29"]}


@pytest.mark.parametrize("way", ["save", "save_documents", "edit"])
def test_values_of_numpy_are_saved_as_json(client: CouchDB, way: str) -> None:
    document = Document({"_id": "a", "output": NUMPY})
    if way == "save":
        assert client.save(document) is document
    elif way == "save_documents":
        assert client.save_documents([{"_id": "b"}, document]) == [True, True]
    else:
        assert client.edit("a", lambda content: {**content, "output": NUMPY})
        assert not client.edit("a", lambda content: {**content, "output": NUMPY})
    assert client.get("a")["output"] == AS_JSON
    assert document["output"] is NUMPY
    if way != "edit":
        assert client.get("a").rev == document.rev


@pytest.mark.parametrize("value", [b"x", math.nan, "\ud800", "deep"])
@pytest.mark.parametrize("way", ["save", "save_documents"])
def test_a_value_that_json_can_not_hold_is_named_and_nothing_is_sent(client: CouchDB, way: str, value: Any) -> None:
    if value == "deep":
        for _ in range(100_000):
            value = [value]
    document = {"_id": "a", "output": {"x": [numpy.int64(1), value]}}
    save = client.save if way == "save" else lambda document: client.save_documents([{"_id": "b"}, document])
    with pytest.raises((ValueError, TypeError), match=r"^a: JSON can't hold output\.x\[1\]"):
        save(document)
    assert client.get_documents(["a", "b"]) == []


def test_an_invalid_id_is_still_what_is_wrong(client: CouchDB) -> None:
    with pytest.raises(ValueError, match="can't be the id of a document"):
        client.save({"_id": "_x"})
