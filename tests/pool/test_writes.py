"""The outcome of a write is known even if its response is lost: a proxy in front of a real server drops some."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from couchdb.http import HTTPError, ResourceConflict, ResourceNotFound, ServerError
from support.faults import CUT, HANG, RESET, Answer, FaultProxy, Reply
from support.places import Location
from support.tokens import make_token

from picas import CouchDB, Task, modifiers
from picas.couch.writes import doc_path, is_passing, is_unknown_outcome, merge
from picas.exceptions import LostAnswer, Unreachable

BUSY = Reply(503, b'{"error":"busy","reason":"later"}')
BROKEN = Reply(500, b'{"error":"broken","reason":"odd"}')
HALF = Reply(201, b'{"ok":true,"id":"token_0","rev":"1-', cut_after=10)
LOSSES = [CUT, RESET, HALF, BUSY, BROKEN]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picas.couch.writes.REPEAT_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def proxy(location: Location) -> Iterator[FaultProxy]:
    with FaultProxy(location.url) as proxy:
        yield proxy


@pytest.fixture
def shaky(client: CouchDB, proxy: FaultProxy, location: Location) -> CouchDB:
    """A client of the same database that connects through the proxy."""
    shaky = CouchDB(proxy.url, client.db.name, location.username, location.password, read_timeout=5)
    shaky.server.resource.session.retry_pauses = (0.0, 0.0)
    proxy.requests.clear()
    return shaky


def saved(client: CouchDB, **fields: Any) -> Task:
    return client.save(Task(make_token(**fields)))  # type: ignore[no-any-return]


# --- one document


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("is_new", [True, False])
def test_a_save_that_was_applied_counts_once(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, loss: Answer, is_new: bool
) -> None:
    token = Task(make_token()) if is_new else saved(client)
    token["input"] = "\u00e9 \u20ac"
    token["half"] = 0.1 + 0.2
    proxy.fail("PUT", "token_0", loss, after=True)
    shaky.save(token)
    assert proxy.count("PUT") == 1
    assert token.rev == client.get("token_0").rev
    assert token.rev.startswith("1-" if is_new else "2-")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("is_new", [True, False])
def test_a_save_that_was_not_applied_is_repeated(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, loss: Answer, is_new: bool
) -> None:
    token = Task(make_token()) if is_new else saved(client)
    token["input"] = "x"
    proxy.fail("PUT", "token_0", loss, times=2)
    shaky.save(token)
    assert proxy.count("PUT") == 3
    assert client.get("token_0")["input"] == "x"
    assert token.rev == client.get("token_0").rev


def test_a_late_response_counts_as_lost(client: CouchDB, shaky: CouchDB, proxy: FaultProxy) -> None:
    connection = shaky.server.resource.session.connection_pool.get(proxy.url)
    connection.sock.settimeout(0.1)  # as read_timeout does
    shaky.server.resource.session.connection_pool.release(proxy.url, connection)
    proxy.fail("PUT", "token_0", HANG, after=True)
    token = shaky.save(Task(make_token()))
    assert token.rev == client.get("token_0").rev


@pytest.mark.parametrize("loss", LOSSES)
def test_a_competing_writer_before_the_lost_write_is_a_conflict(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, loss: Answer
) -> None:
    token = saved(client)
    theirs = client.get("token_0")
    modifiers.lock(theirs, "theirs")
    modifiers.lock(token, "ours")
    proxy.fail("PUT", "token_0", loss, meanwhile=lambda: client.save(theirs))
    with pytest.raises(ResourceConflict):
        shaky.save(token)
    assert client.get("token_0")["claim"]["pilot"] == "theirs"
    assert token.rev.startswith("1-")


def test_a_competing_writer_after_the_lost_write_does_not_hide_it(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    token = saved(client)
    modifiers.lock(token, "ours")
    proxy.fail(
        "PUT", "token_0", CUT, after=True, meanwhile=lambda: client.save({**client.get("token_0").value, "note": "x"})
    )
    shaky.save(token)
    assert proxy.count("PUT") == 1
    assert token.rev.startswith("2-")
    newest = client.get("token_0")
    assert (newest["note"], newest["claim"]) == ("x", token["claim"])
    with pytest.raises(ResourceConflict):
        client.save(token)


def test_the_claim_distinguishes_the_same_change_by_two_writers(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modifiers, "seconds", lambda: 1692692693)
    token = saved(client)
    theirs = modifiers.lock(client.get("token_0"), "pilot")
    modifiers.lock(token, "pilot")
    proxy.fail("PUT", "token_0", CUT, meanwhile=lambda: client.save(theirs))
    with pytest.raises(ResourceConflict):
        shaky.save(token)


def test_a_write_that_arrives_late_is_recognised_when_it_is_repeated(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    token = saved(client)
    token["input"] = "x"
    proxy.fail("PUT", "token_0", CUT)
    late = copy.deepcopy(token.value)
    seen = []

    def apply_late() -> None:  # between the look-up, which finds nothing, and the repetition
        seen.append(client.save(late))

    # The real server answers the repetition with a conflict, since it has stored the first write by then.
    proxy.fail("GET", "token_0?revs=true", Reply(200, stored_json(client)), meanwhile=apply_late)
    shaky.save(token)
    assert len(seen) == 1
    assert token.rev == seen[0]["_rev"] == client.get("token_0").rev


def test_the_same_content_on_another_branch_is_not_our_write(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    token = saved(client)
    token["input"] = "x"
    other, parent = "f" * 32, "e" * 32
    replicated = {**token.value, "_rev": f"2-{other}", "_revisions": {"start": 2, "ids": [other, parent]}}
    client.db.resource.post_json("_bulk_docs", body={"docs": [replicated], "new_edits": False})
    assert client.get("token_0").rev == f"2-{other}"
    proxy.fail("PUT", "token_0", CUT)
    shaky.save(token)
    assert proxy.count("PUT") == 2
    assert token.rev != f"2-{other}"


def stored_json(client: CouchDB) -> bytes:
    _, _, body = client.db.resource.get("token_0", revs="true")
    return bytes(body.read())


def test_a_document_that_was_deleted_before_can_be_saved_again(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    client.delete(saved(client))
    token = Task(make_token())
    token.put_attachment("a.txt", "x")
    proxy.fail("PUT", "token_0", CUT, after=True)
    shaky.save(token)
    assert proxy.count("PUT") == 1
    assert token.rev == client.get("token_0").rev
    assert token.rev.startswith("3-")


@pytest.mark.parametrize("doc_id", ["a/b c", "_design/mine", "\u00e9"])
def test_odd_ids_are_looked_up_too(client: CouchDB, shaky: CouchDB, proxy: FaultProxy, doc_id: str) -> None:
    proxy.fail("PUT", "", CUT, after=True)
    assert shaky.save({"_id": doc_id, "x": 1})["_rev"] == client.get(doc_id).rev
    assert proxy.count("PUT") == 1


def test_a_save_gives_up_after_a_few_tries(client: CouchDB, shaky: CouchDB, proxy: FaultProxy) -> None:
    for loss, error in ((CUT, LostAnswer), (BUSY, ServerError)):
        proxy.requests.clear()
        proxy.fail("PUT", "token_0", loss, times=4)
        with pytest.raises(error) as caught:
            shaky.save(make_token())
        assert is_unknown_outcome(caught.value)
        assert proxy.count("PUT") == 4
    assert client.doc_count() == 1


@pytest.mark.parametrize("loss", [CUT, BUSY])
def test_an_unknown_outcome_is_not_reported_as_unsent(shaky: CouchDB, proxy: FaultProxy, loss: Answer) -> None:
    proxy.fail("PUT", "token_0", CUT, after=True)
    proxy.fail("GET", "token_0", loss, times=99)
    with pytest.raises(LostAnswer, match="it is unknown whether a write was applied"):
        shaky.save(make_token())


@pytest.mark.parametrize(
    "refusal", [Reply(status, b'{"error":"refused","reason":"no"}') for status in (400, 401, 403, 404, 413)]
)
def test_a_rejected_write_is_not_repeated(shaky: CouchDB, proxy: FaultProxy, refusal: Reply) -> None:
    proxy.fail("PUT", "token_0", refusal)
    with pytest.raises(HTTPError):
        shaky.save(make_token())
    assert [request.method for request in proxy.requests] == ["PUT"]


def test_the_error_of_a_lost_response_has_no_password(shaky: CouchDB, proxy: FaultProxy, location: Location) -> None:
    proxy.fail("PUT", "token_0", CUT, times=99)
    with pytest.raises(LostAnswer) as caught:
        shaky.save(make_token())
    assert str(caught.value).startswith(f"no answer from {proxy.url} to PUT (")
    assert location.password not in repr(caught.value)


# --- deleting


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("is_applied", [True, False])
def test_a_delete_with_a_lost_response(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, loss: Answer, is_applied: bool
) -> None:
    token = saved(client)
    proxy.fail("DELETE", "token_0", loss, after=is_applied)
    shaky.delete(token)
    assert proxy.count("DELETE") == (1 if is_applied else 2)
    assert client.doc_count() == 1


def test_a_document_that_another_writer_changed_is_not_deleted(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    token = saved(client)
    theirs = {**token.value, "note": "x"}
    proxy.fail("DELETE", "token_0", CUT, meanwhile=lambda: client.save(theirs))
    with pytest.raises(ResourceConflict):
        shaky.delete(token)
    assert client.get("token_0")["note"] == "x"


def test_a_deletion_counts_even_if_the_document_was_created_again(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    token = saved(client)
    proxy.fail("DELETE", "token_0", CUT, after=True, meanwhile=lambda: client.save(make_token(note="new")))
    shaky.delete(token)
    assert proxy.count("DELETE") == 1
    assert client.get("token_0")["note"] == "new"


# --- many documents


def tokens(count: int) -> list[Task]:
    return [Task(make_token(number)) for number in range(count)]


@pytest.mark.parametrize("loss", LOSSES)
def test_many_saves_that_were_applied_count_once(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, loss: Answer
) -> None:
    proxy.fail("POST", "_bulk_docs", loss, after=True)
    documents = tokens(5)
    assert shaky.save_documents(documents) == [True] * 5
    assert proxy.count("POST", "_bulk_docs") == 1
    assert [document.rev for document in documents] == [client.get(document.id).rev for document in documents]


@pytest.mark.parametrize("loss", LOSSES)
def test_many_saves_that_were_not_applied_are_repeated(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, loss: Answer
) -> None:
    proxy.fail("POST", "_bulk_docs", loss)
    documents = tokens(5)
    assert shaky.save_documents(documents) == [True] * 5
    assert proxy.count("POST", "_bulk_docs") == 2
    assert all(client.get(document.id).rev == document.rev for document in documents)


def test_of_many_saves_only_those_that_are_missing_are_repeated(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    documents = tokens(5)
    landed = [copy.deepcopy(documents[number].value) for number in (0, 3)]
    client.save(make_token(4, input="theirs"))
    proxy.fail("POST", "_bulk_docs", CUT, meanwhile=lambda: client.save_documents(landed))
    assert shaky.save_documents(documents) == [True, True, True, True, False]
    bulks = [request.body for request in proxy.requests if request.path.endswith("_bulk_docs")]
    assert [body.count(b'"_id"') for body in bulks] == [5, 3]
    assert [client.get(document.id).rev for document in documents[:4]] == [document.rev for document in documents[:4]]
    assert client.get("token_4")["input"] == "theirs"


def test_of_many_saves_one_that_arrives_late_is_recognised_when_it_is_repeated(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    documents = tokens(2)
    late = [copy.deepcopy(document.value) for document in documents]
    proxy.fail("POST", "_bulk_docs", CUT)
    proxy.fail("GET", "token_0?revs=true", Reply(404, b"{}"))
    proxy.fail("GET", "token_1?revs=true", Reply(404, b"{}"), meanwhile=lambda: client.save_documents(late))
    assert shaky.save_documents(documents) == [True, True]
    assert proxy.count("POST", "_bulk_docs") == 2
    assert [document.rev for document in documents] == [content["_rev"] for content in late]


def test_many_saves_give_up_after_a_few_tries(client: CouchDB, shaky: CouchDB, proxy: FaultProxy) -> None:
    proxy.fail("POST", "_bulk_docs", CUT, times=4)
    with pytest.raises(LostAnswer):
        shaky.save_documents(tokens(2))
    assert proxy.count("POST", "_bulk_docs") == 4
    assert client.doc_count() == 1


def test_an_unknown_outcome_of_many_saves_is_not_reported_as_unsent(shaky: CouchDB, proxy: FaultProxy) -> None:
    proxy.fail("POST", "_bulk_docs", CUT)
    proxy.fail("GET", "token_", CUT, times=99)
    with pytest.raises(LostAnswer, match="it is unknown"):
        shaky.save_documents(tokens(2))


def test_a_cluster_reports_which_of_many_saves_have_a_majority(shaky: CouchDB, proxy: FaultProxy) -> None:
    rows = b'[{"ok":true,"id":"token_0","rev":"1-a"},{"accepted":true,"ok":true,"id":"token_1","rev":"1-b"}]'
    proxy.fail("POST", "_bulk_docs", Reply(202, rows))
    written = shaky.write_documents(tokens(2))
    assert (written.revs, written.has_quorum) == (["1-a", "1-b"], [True, False])


def test_many_saves_with_a_lost_response_do_not_count_as_stored_by_a_majority(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    proxy.fail("POST", "_bulk_docs", CUT, after=True)
    written = shaky.write_documents(tokens(2))
    assert written.revs == [client.get("token_0").rev, client.get("token_1").rev]
    assert written.has_quorum == [False, False]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("is_applied", [True, False])
def test_many_deletions_with_a_lost_response(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, loss: Answer, is_applied: bool
) -> None:
    documents = tokens(4)
    client.save_documents(documents)
    client.save(client.get("token_2"))
    proxy.fail("POST", "_bulk_docs", loss, after=is_applied)
    assert shaky.delete_documents(documents) == [True, True, False, True]
    assert [row.id for row in client.db.view("_all_docs")] == ["_design/Monitor", "token_2"]


# --- attachments


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("is_applied", [True, False])
def test_a_save_with_attachments_and_a_lost_response(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, loss: Answer, is_applied: bool
) -> None:
    token = saved(client)
    token.put_attachment("old.txt", "old")
    client.save(token)
    token.put_attachment("new.txt", "new")
    proxy.fail("PUT", "token_0", loss, after=is_applied)
    shaky.save(token)
    assert proxy.count("PUT") == (1 if is_applied else 2)
    stored = client.get("token_0")
    assert stored.rev == token.rev
    assert stored.get_attachment("new.txt", client)["data"] == b"new"
    assert stored.get_attachment("old.txt", client)["data"] == b"old"


def test_a_save_by_another_writer_without_our_new_attachment_is_not_our_write(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy
) -> None:
    token = saved(client)
    token.put_attachment("log.txt", "theirs")
    client.save(token)
    theirs = client.get("token_0")
    token.put_attachment("log.txt", "ours")  # the only difference between the documents
    proxy.fail("PUT", "token_0", CUT, meanwhile=lambda: client.save(theirs))
    with pytest.raises(ResourceConflict):
        shaky.save(token)
    assert client.get("token_0").get_attachment("log.txt", client)["data"] == b"theirs"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "result.bin"
    path.write_bytes(bytes(range(256)) * 100)
    return path


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("is_applied", [True, False])
@pytest.mark.parametrize("name", ["result.bin", "a text.txt"])
def test_an_upload_with_a_lost_response(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, file: Path, loss: Answer, is_applied: bool, name: str
) -> None:
    token = saved(client)
    proxy.fail("PUT", "token_0/", loss, after=is_applied)
    shaky.put_attachment_file(token, file, name)
    assert proxy.count("PUT") == (1 if is_applied else 2)
    stored = client.get("token_0")
    assert (stored.rev, stored.rev[:2]) == (token.rev, "2-")
    assert stored.get_attachment(name, client)["data"] == file.read_bytes()


def test_an_upload_after_a_competing_write(client: CouchDB, shaky: CouchDB, proxy: FaultProxy, file: Path) -> None:
    token = saved(client)

    def edit_and_upload() -> None:
        client.put_attachment_file(client.save(client.get("token_0")), file)

    for theirs in (lambda: client.save(client.get("token_0")), lambda: upload_other(client, file), edit_and_upload):
        token["_rev"] = client.get("token_0").rev
        proxy.fail("PUT", "token_0/", CUT, meanwhile=theirs)
        with pytest.raises(ResourceConflict):
            shaky.put_attachment_file(token, file)


def upload_other(client: CouchDB, file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes()[::-1])  # of the same size
    client.put_attachment_file(client.get("token_0"), other, file.name)


def test_an_upload_to_a_document_that_is_deleted_meanwhile(
    client: CouchDB, shaky: CouchDB, proxy: FaultProxy, file: Path
) -> None:
    token = saved(client)
    gone = dict(token.value)
    proxy.fail("PUT", "token_0/", CUT, meanwhile=lambda: client.delete(gone))
    with pytest.raises((ResourceConflict, ResourceNotFound)):
        shaky.put_attachment_file(token, file)
    assert client.doc_count() == 1


# --- merging


def test_a_merge_applies_our_changes_to_their_document() -> None:
    base = {"_id": "a", "_rev": "1-x", "same": 1, "ours": 1, "theirs": 1, "both": 1, "we_drop": 1, "they_drop": 1}
    ours = {"_id": "a", "_rev": "1-x", "same": 1, "ours": 2, "theirs": 1, "both": 2, "they_drop": 1, "new": 2}
    theirs = {"_id": "a", "_rev": "2-y", "same": 1, "ours": 1, "theirs": 3, "both": 3, "we_drop": 1, "their_new": 3}
    before = copy.deepcopy((base, ours, theirs))
    assert merge(base, ours, theirs) == {
        "_id": "a",
        "_rev": "2-y",
        "same": 1,
        "ours": 2,
        "theirs": 3,
        "both": 2,
        "new": 2,
        "their_new": 3,
    }
    assert (base, ours, theirs) == before


STUB = {"stub": True, "content_type": "text/plain"}
DATA = {"data": "eA==", "content_type": "text/plain"}


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "expected"),
    [
        ({}, {"a": DATA}, {}, {"a": DATA}),
        ({}, {"a": DATA}, {"b": STUB}, {"a": DATA, "b": STUB}),
        ({"a": STUB}, {"a": STUB}, {"a": {**STUB, "revpos": 2}}, {"a": {**STUB, "revpos": 2}}),
        ({"a": STUB}, {}, {"a": STUB, "b": STUB}, {"b": STUB}),
        ({"a": STUB}, {}, {"a": STUB}, None),
        ({"a": STUB}, {"a": STUB}, {}, None),
        ({"a": STUB}, {"a": DATA}, {"a": STUB}, {"a": DATA}),
        ({}, {"a": {**DATA, **STUB}}, {}, {"a": DATA}),  # saved by us, and removed since
        ({"a": {**DATA, **STUB}}, {"a": {**DATA, **STUB}}, {"a": {**STUB, "revpos": 9}}, {"a": {**STUB, "revpos": 9}}),
        ({}, {}, {}, None),
    ],
)
def test_a_merge_keeps_the_attachments_of_both(base: Any, ours: Any, theirs: Any, expected: Any) -> None:
    merged = merge(*({"_attachments": version} for version in (base, ours, theirs)))
    assert merged.get("_attachments") == expected


def test_a_merged_token_can_be_saved(client: CouchDB) -> None:
    token = saved(client)
    token.put_attachment("early.txt", "early")
    client.save(token)
    base = copy.deepcopy(token.value)
    theirs = client.get("token_0")
    theirs["note"] = "theirs"
    theirs.put_attachment("theirs.txt", "theirs")
    client.save(theirs)
    token["exit_code"] = 0
    token.put_attachment("ours.txt", "ours")
    client.save(merge(base, token.value, client.get("token_0").value))
    stored = client.get("token_0")
    assert (stored["note"], stored["exit_code"]) == ("theirs", 0)
    names = ("early", "theirs", "ours")
    assert [stored.get_attachment(f"{name}.txt", client)["data"].decode() for name in names] == list(names)


# --- kinds of errors


@pytest.mark.parametrize(
    ("error", "unknown", "passing"),
    [
        (LostAnswer("x"), True, True),
        (Unreachable("x"), False, True),
        (ServerError((503, "x")), True, True),
        (ServerError((500, "x")), True, True),
        (ServerError((413, "x")), False, False),
        (ResourceConflict("x"), False, False),
        (ValueError("x"), False, False),
    ],
)
def test_which_errors_are_temporary(error: BaseException, unknown: bool, passing: bool) -> None:
    assert (is_unknown_outcome(error), is_passing(error)) == (unknown, passing)


@pytest.mark.parametrize(
    ("doc_id", "path"),
    [("a/b", ["a/b"]), ("_design/a/b", ["_design", "a/b"]), ("_local/x", ["_local", "x"]), ("a_", ["a_"])],
)
def test_the_path_of_a_document(doc_id: str, path: list[str]) -> None:
    assert doc_path(doc_id) == path
