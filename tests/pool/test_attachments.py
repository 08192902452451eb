"""Attachments: small ones inside the document, and large ones as streams."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from couchdb.http import ResourceConflict, ResourceNotFound, ServerError, Unauthorized
from support.faults import CUT, RESET, Answer, Double, FaultProxy, Reply
from support.places import ROOT, Location
from support.tokens import make_token

from picas import CouchDB, Task
from picas.couch import attachments
from picas.embedded import Server
from picas.exceptions import LostAnswer, Unreachable

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picas.couch.writes.REPEAT_PAUSES", (0.0, 0.0))


@pytest.fixture
def token(client: CouchDB) -> Task:
    return client.save(Task(make_token()))  # type: ignore[no-any-return]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "result.bin"
    path.write_bytes(bytes(range(256)) * 10)
    return path


@pytest.fixture
def proxy(location: Location) -> Iterator[FaultProxy]:
    with FaultProxy(location.url) as proxy:
        yield proxy


@pytest.fixture
def through(client: CouchDB, proxy: FaultProxy, location: Location) -> CouchDB:
    through = CouchDB(proxy.url, client.db.name, location.username, location.password)
    through.server.resource.session.retry_pauses = (0.0, 0.0)
    proxy.requests.clear()
    return through


@pytest.fixture
def with_umlauts(location: Location, client: CouchDB, is_couchdb: bool) -> Iterator[CouchDB]:
    """A client whose password is not ASCII, and not even Latin-1."""
    name, password = f"käse_{uuid4().hex}", "käse€"
    if not is_couchdb:
        with Server(username=name, password=password) as server:
            yield CouchDB(server.url, "picas", name, password, create=True)
        return
    users = client.server["_users"]
    user = {"_id": f"org.couchdb.user:{name}", "name": name, "password": password, "type": "user", "roles": []}
    users.save(user)
    try:
        client.set_users(members=[name])
        yield CouchDB(location.url, client.db.name, name, password)
    finally:
        del users[user["_id"]]


def test_a_password_in_utf_8(with_umlauts: CouchDB, file: Path, tmp_path: Path) -> None:
    document = with_umlauts.save(Task({"_id": "a"}))
    with_umlauts.put_attachment_file(document, file, "x")
    with_umlauts.get_attachment_file("a", "x", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


# --- in the document


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("logs_token_0.out", "snow \u2603\n"),
        ("empty.txt", ""),
        ("binary.bin", bytes(range(256))),
        ("folder/file.txt", "x"),
        ("a b?c#d%2F.txt", "x"),
        ("\u00e9.json", '{"a": 1}'),
        ("text.json", "no json at all"),
    ],
)
def test_an_attachment_is_read_back_unchanged(client: CouchDB, token: Task, name: str, data: str | bytes) -> None:
    token.put_attachment(name, data)
    client.save(token)
    content = data if isinstance(data, bytes) else data.encode()
    assert token.get_attachment(name)["data"] == content
    stored = client.get(token.id)
    assert "data" not in stored.get_attachment(name)
    fetched = stored.get_attachment(name, client)
    assert fetched["data"] == stored.get_attachment(name, retrieve_from_database=client)["data"] == content
    assert fetched["length"] == len(content)


def test_a_missing_attachment_raises_key_error(client: CouchDB, token: Task) -> None:
    token.put_attachment("a.txt", "x")
    client.save(token)
    stale = client.get(token.id)
    token.remove_attachment("a.txt")
    client.save(token)
    with pytest.raises(KeyError):
        stale.get_attachment("a.txt", client)
    with pytest.raises(KeyError):
        client.get(token.id).get_attachment("a.txt", client)


def test_saved_attachments_are_not_sent_again(token: Task, through: CouchDB, proxy: FaultProxy) -> None:
    token.put_attachment("a.txt", "x" * 50_000)
    through.save(token)
    token["note"] = "x"
    through.save(token)
    assert through.save_documents([token]) == [True]
    token.put_attachment("b.txt", "y" * 1000)
    through.save(token)
    sizes = [len(request.body) for request in proxy.requests if request.method in ("PUT", "POST")]
    assert sizes[0] > 50_000
    assert max(sizes[1:]) < 3000
    stored = through.get(token.id)
    assert stored["note"] == "x"
    assert stored.get_attachment("a.txt", through)["data"] == b"x" * 50_000
    assert stored.get_attachment("b.txt", through)["data"] == b"y" * 1000


def test_an_attachment_that_was_replaced_is_sent_again(client: CouchDB, token: Task) -> None:
    for data in ("one", "two"):
        token.put_attachment("a.txt", data)
        client.save(token)
        assert client.get(token.id).get_attachment("a.txt", client)["data"] == data.encode()


def test_attachments_of_many_documents(client: CouchDB) -> None:
    tokens = [Task(make_token(number)) for number in range(3)]
    for number, token in enumerate(tokens):
        token.put_attachment("a.txt", str(number))
    for _ in range(2):
        assert client.save_documents(tokens) == [True] * 3
    assert [client.get(token.id).get_attachment("a.txt", client)["data"] for token in tokens] == [b"0", b"1", b"2"]


def test_a_document_that_was_read_keeps_its_attachments_when_saved(client: CouchDB, token: Task) -> None:
    token.put_attachment("a.txt", "x")
    client.save(token)
    read = client.get(token.id)
    read["note"] = "x"
    client.save(read)
    assert client.get(token.id).get_attachment("a.txt", client)["data"] == b"x"


def test_the_head_and_tail_of_a_long_log_are_stored(client: CouchDB, token: Task, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first line\n" + b"." * 100_000 + b"\nlast line")
    token.put_log("logs_token_0.out", log, limit=1000)
    client.save(token)
    data = client.get(token.id).get_attachment("logs_token_0.out", client)["data"]
    assert data.startswith(b"first line\n")
    assert data.endswith(b"\nlast line")
    assert b"picas cut 99021 of 100021 bytes here" in data
    assert len(data) < 1100


def test_a_truncated_response_is_requested_again(
    client: CouchDB, token: Task, through: CouchDB, proxy: FaultProxy
) -> None:
    token.put_attachment("a.txt", "whole")
    client.save(token)
    half = Reply(200, b"whole", {"Content-Type": "text/plain"}, cut_after=2)
    proxy.fail("GET", "a.txt", half)
    assert client.get(token.id).get_attachment("a.txt", through)["data"] == b"whole"
    proxy.fail("GET", "a.txt", half, times=99)
    with pytest.raises(Unreachable):
        client.get(token.id).get_attachment("a.txt", through)


def test_a_truncated_large_response_is_not_taken_as_complete(
    client: CouchDB, token: Task, through: CouchDB, proxy: FaultProxy
) -> None:
    token.put_attachment("a.bin", b"x")
    client.save(token)
    proxy.fail("GET", "a.bin", Reply(200, b"x" * 3_000_000, {"Content-Type": "text/plain"}, cut_after=2_000_000))
    with pytest.raises(Unreachable, match="broke off"):
        client.get(token.id).get_attachment("a.bin", through)


# --- streamed


@pytest.mark.parametrize("name", [None, "other.txt", "folder/x.bin", "a b?c#d%2F", "\u00e9"])
def test_a_file_is_uploaded_and_downloaded(
    client: CouchDB, token: Task, file: Path, tmp_path: Path, name: str | None
) -> None:
    assert client.put_attachment_file(token, file, name) is token
    name = name or "result.bin"
    assert token.rev == client.get(token.id).rev
    assert token["_attachments"][name]["length"] == 2560
    target = tmp_path / "target"
    assert client.get_attachment_file(token, name, target) == target
    assert target.read_bytes() == file.read_bytes()
    assert client.get_attachment_file(token.id, name, str(target)) == target
    assert client.get(token.id).get_attachment(name, client)["data"] == file.read_bytes()


@pytest.mark.parametrize("doc_id", ["a/b", "a b?c", "_design/mine"])
def test_a_file_of_a_document_with_an_odd_id(client: CouchDB, file: Path, tmp_path: Path, doc_id: str) -> None:
    document = client.save({"_id": doc_id})
    client.put_attachment_file(document, str(file))
    assert client.get_attachment_file(document, "result.bin", tmp_path / "x").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_leads_to_another_folder_is_rejected(
    client: CouchDB, token: Task, file: Path, tmp_path: Path, name: str
) -> None:
    odd = client.save({"_id": name})
    for action in (
        lambda: client.put_attachment_file(token, file, name),
        lambda: client.put_attachment_file(odd, file),
        lambda: client.get_attachment_file(token, name, tmp_path / "x"),
    ):
        with pytest.raises(ValueError, match="has no address"):
            action()
    assert client.doc_count() == 3


def test_the_content_type_of_a_file(client: CouchDB, token: Task, tmp_path: Path) -> None:
    for name, mimetype, expected in (
        ("a.png", None, "image/png"),
        ("b.out", None, "text/plain"),
        ("c.png", "x/y", "x/y"),
    ):
        path = tmp_path / name
        path.write_bytes(b"x")
        client.put_attachment_file(token, path, mimetype=mimetype)
        assert client.get(token.id)["_attachments"][name]["content_type"] == expected


def test_a_named_pipe_is_refused_as_a_file_to_attach(client: CouchDB, token: Task, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        client.put_attachment_file(token, tmp_path / "pipe")


def test_an_empty_file(client: CouchDB, token: Task, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    client.put_attachment_file(token, empty)
    assert client.get_attachment_file(token, "empty", tmp_path / "target").read_bytes() == b""


def test_text_that_the_server_compresses(client: CouchDB, token: Task, tmp_path: Path) -> None:
    text = tmp_path / "log.txt"
    text.write_text("the same line again\n" * 50_000)
    client.put_attachment_file(token, text)
    assert client.get_attachment_file(token, "log.txt", tmp_path / "target").read_bytes() == text.read_bytes()


def test_a_document_may_have_streamed_and_other_attachments(client: CouchDB, token: Task, file: Path) -> None:
    token.put_attachment("a.txt", "x")
    client.save(token)
    client.put_attachment_file(token, file)
    token["note"] = "unsaved until now"
    client.save(token)
    stored = client.get(token.id)
    assert stored["note"] == "unsaved until now"
    assert stored.get_attachment("a.txt", client)["data"] == b"x"
    assert stored.get_attachment("result.bin", client)["data"] == file.read_bytes()


def test_an_upload_to_an_older_revision_is_a_conflict(client: CouchDB, token: Task, file: Path) -> None:
    client.save(client.get(token.id))
    rev = token.rev
    with pytest.raises(ResourceConflict):
        client.put_attachment_file(token, file)
    assert token.rev == rev
    assert "_attachments" not in token


def test_missing_files(client: CouchDB, token: Task, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.put_attachment_file(token, tmp_path / "absent")
    with pytest.raises(ResourceNotFound):
        client.get_attachment_file(token, "absent", tmp_path / "target")
    with pytest.raises(ResourceNotFound):
        client.get_attachment_file("nothing", "absent", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_a_download_keeps_the_old_file_until_it_is_complete(
    client: CouchDB, token: Task, through: CouchDB, proxy: FaultProxy, file: Path, tmp_path: Path
) -> None:
    client.put_attachment_file(token, file)
    target = tmp_path / "folder" / ("n" * 255)
    target.parent.mkdir()
    target.write_bytes(b"old")
    half = Reply(200, b"x" * 3_000_000, {"Content-Type": "text/plain"}, cut_after=2_000_000)
    proxy.fail("GET", "result.bin", half, times=3)
    with pytest.raises(Unreachable, match="broke off"):
        through.get_attachment_file(token, "result.bin", target)
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]
    through.get_attachment_file(token, "result.bin", target)
    assert target.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "loss",
    [
        CUT,
        RESET,
        Reply(503, b"{}"),
        Reply(200, b"x" * 5000, cut_after=4000),
        Reply(200, b"x" * 3_000_000, cut_after=2_500_000),
    ],
)
def test_a_download_is_retried(
    client: CouchDB, token: Task, through: CouchDB, proxy: FaultProxy, file: Path, tmp_path: Path, loss: Answer
) -> None:
    client.put_attachment_file(token, file)
    proxy.fail("GET", "result.bin", loss, times=2)
    assert through.get_attachment_file(token, "result.bin", tmp_path / "t").read_bytes() == file.read_bytes()
    assert proxy.count("GET", "result.bin") == 3


def test_a_rejected_download_is_not_retried(token: Task, through: CouchDB, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.fail("GET", "a.bin", Reply(401, b'{"error":"unauthorized","reason":"no"}'))
    with pytest.raises(Unauthorized):
        through.get_attachment_file(token, "a.bin", tmp_path / "t")
    assert proxy.count("GET", "a.bin") == 1


def test_an_upload_that_the_server_rejects_is_not_repeated(
    token: Task, through: CouchDB, proxy: FaultProxy, file: Path
) -> None:
    proxy.fail("PUT", "result.bin", Reply(413, b'{"error":"attachment_too_large","reason":"x"}'))
    with pytest.raises(ServerError, match="attachment_too_large"):
        through.put_attachment_file(token, file)
    assert proxy.count("PUT") == 1


def test_an_upload_follows_no_redirect(token: Task, through: CouchDB, proxy: FaultProxy, file: Path) -> None:
    with Double(lambda request: Reply(201)) as elsewhere:
        proxy.fail("PUT", "result.bin", Reply(307, b"", {"Location": f"{elsewhere.url}/x"}))
        through.put_attachment_file(token, file)  # it is looked up, and repeated
        assert elsewhere.requests == []
    assert proxy.count("PUT") == 2


def test_the_error_of_a_lost_upload_has_no_password(
    token: Task, through: CouchDB, proxy: FaultProxy, file: Path, location: Location
) -> None:
    proxy.fail("PUT", "result.bin", CUT, times=99)
    with pytest.raises(LostAnswer) as caught:
        through.put_attachment_file(token, file)
    told = f"{caught.value} {caught.value.__cause__}"
    assert proxy.url in told
    assert location.password not in told


def test_an_upload_without_a_connection_was_not_sent(file: Path, through: CouchDB) -> None:
    with pytest.raises(Unreachable, match=r"^can't reach http://127\.0\.0\.1:1 "):
        attachments.Upload(
            through.db, "http://127.0.0.1:1/db/a/b", {"_id": "a", "_rev": "1-x"}, "b", file, "a/b"
        ).send()


def test_a_file_is_recognised_by_its_content(client: CouchDB, token: Task, file: Path) -> None:
    client.put_attachment_file(token, file)
    url = client._attachment_url(token.id, file.name)
    assert attachments.is_same(client.db, url, token.rev, file)
    file.write_bytes(file.read_bytes()[::-1])
    assert not attachments.is_same(client.db, url, token.rev, file)


# --- not held in memory

STREAM = """
import hashlib, json, resource, sys
from pathlib import Path
from picas import CouchDB

def peak():  # in bytes; Linux counts in KB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

arguments = json.loads(sys.stdin.read())
client = CouchDB(**arguments["client"])
folder = Path(arguments["folder"])
document = client.save({"_id": "large"})
client.get_attachment_file(client.put_attachment_file(document, folder / "small"), "small", folder / "back")
before = peak()
client.put_attachment_file(document, folder / "large")
up = peak()
client.get_attachment_file(document, "large", folder / "back")
print(json.dumps({"up": up - before, "down": peak() - before}))
"""


def digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(MEGABYTE), b""):
            total.update(block)
    return total.hexdigest()


def test_a_large_file_is_not_held_in_memory(
    client: CouchDB, location: Location, tmp_path: Path, is_couchdb: bool
) -> None:
    size = (200 if is_couchdb else 30) * MEGABYTE  # the embedded server slows down with size
    (tmp_path / "small").write_bytes(b"x" * MEGABYTE)
    with (tmp_path / "large").open("wb") as large:
        large.write(b"begin")
        large.seek(size - 3)
        large.write(b"end")
    arguments = {
        "client": {
            "url": location.url,
            "db": client.db.name,
            "username": location.username,
            "password": location.password,
        },
        "folder": str(tmp_path),
    }
    ran = subprocess.run(
        [sys.executable, "-c", STREAM],
        input=json.dumps(arguments),
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    growth = json.loads(ran.stdout)
    assert growth["up"] < 10 * MEGABYTE
    assert growth["down"] < 20 * MEGABYTE
    assert (tmp_path / "back").stat().st_size == size
    assert digest(tmp_path / "back") == digest(tmp_path / "large")
