"""What is stored: documents, tasks, jobs and users, without a server."""

from __future__ import annotations

import math
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from picas import Document, Job, Task, User
from picas.documents import LOG_LIMIT, make_storable
from picas.generators import TokenGenerator
from picas.picaslogger import picaslogger

# --- Document


def test_a_document_is_used_like_a_dict() -> None:
    document = Document({"_id": "a", "x": 1})
    document["y"] = 2
    del document["x"]
    assert len(document) == 2
    assert list(document) == ["_id", "y"]
    assert "y" in document
    assert "x" not in document
    assert document["y"] == document.get("y") == 2
    with pytest.raises(KeyError):
        document["x"]
    document.update({"x": 5, "y": 6})
    assert document.doc == document.value == {"_id": "a", "x": 5, "y": 6}


def test_a_document_of_nothing_is_empty() -> None:
    assert Document().value == {}
    assert len(Document({})) == 0


def test_id_and_revision() -> None:
    document = Document({"_id": "a", "_rev": "1-x"})
    assert (document.id, document.rev) == ("a", "1-x")
    document.id = "b"
    assert document["_id"] == "b"


@pytest.mark.parametrize("name", ["id", "rev"])
def test_what_was_never_saved_has_no_id_and_no_revision(name: str) -> None:
    with pytest.raises(AttributeError, match=f"_{name}"):
        getattr(Document(), name)


def test_defaults_go_only_into_what_is_not_from_the_database() -> None:
    base = {"lock": 0, "list": []}
    assert Document({"lock": 5}, base).value == {"lock": 5, "list": []}
    assert Document({"_rev": "1-x"}, base).value == {"_rev": "1-x"}
    Document({}, base)["list"].append(1)
    assert base["list"] == []


def test_two_documents_are_the_same_only_if_they_are_one() -> None:
    document = Document({"_id": "a"})
    assert document == document  # noqa: PLR0124
    assert document != Document({"_id": "a"})
    assert len({document, Document({"_id": "a"})}) == 2


def test_a_document_made_of_a_document_shares_what_is_stored() -> None:
    stored = Document({"_id": "a", "_rev": "1-x"})
    assert Task(stored).value is stored.value


def test_a_document_shows_its_id_and_not_its_content() -> None:
    assert repr(Task({"_id": "a", "password": "hunter2"})) == "<Task a>"
    assert "hunter2" not in repr(User("me", "hunter2"))
    assert repr(Document()) == "<Document without id>"


# --- attachments in a document


@pytest.mark.parametrize(
    ("name", "mimetype", "expected"),
    [
        ("a.txt", None, "text/plain"),
        ("a.png", None, "image/png"),
        ("logs_0.out", None, "text/plain"),
        ("a", "a/b", "a/b"),
    ],
)
def test_an_attachments_type(name: str, mimetype: str | None, expected: str) -> None:
    document = Document()
    document.put_attachment(name, b"x", mimetype)
    assert document.get_attachment(name)["content_type"] == expected


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (b"\x00\xff", b"\x00\xff"),
        ("snow \u2603", b"snow \xe2\x98\x83"),
        ("", b""),
        ("half \udcff", b"half \\udcff"),  # as Python decodes bytes that are no UTF-8 in a file's name
    ],
)
def test_attached_data_comes_back_as_bytes(data: str | bytes, stored: bytes) -> None:
    document = Document()
    document.put_attachment("a", data)
    assert document.get_attachment("a")["data"] == stored


def test_an_attachment_that_is_not_there() -> None:
    for document in (Document(), Document({"_attachments": {}})):
        with pytest.raises(KeyError):
            document.get_attachment("a")
        document.remove_attachment("a")


def test_a_removed_attachment_is_gone() -> None:
    document = Document()
    document.put_attachment("a", "x")
    document.put_attachment("b", "y")
    document.remove_attachment("a")
    assert list(document["_attachments"]) == ["b"]


def test_a_log_is_capped_and_says_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"begin" + b"." * 1000 + b"end!!")
    document = Document()
    document.put_log("logs_0.out", path, limit=10)
    attachment = document.get_attachment("logs_0.out")
    assert attachment["data"] == b"begin\n[... picas cut 1000 of 1010 bytes here ...]\nend!!"
    assert attachment["content_type"] == "text/plain"


def test_a_log_has_ten_megabytes_by_default(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(LOG_LIMIT + 1)
    document = Document()
    document.put_log("big", path)
    assert LOG_LIMIT == 10_000_000
    assert LOG_LIMIT < len(document.get_attachment("big")["data"]) < LOG_LIMIT + 100


def test_a_log_that_is_missing(tmp_path: Path) -> None:
    document = Document()
    with pytest.raises(FileNotFoundError):
        document.put_log("a", tmp_path / "a")
    assert document.value == {}


# --- Task


def test_a_new_task_is_a_free_token() -> None:
    task = Task()
    assert re.fullmatch(r"task_[0-9a-f]{32}", task.id)
    assert {name: task[name] for name in task if name != "_id"} == {
        "type": "task",
        "lock": 0,
        "done": 0,
        "hostname": "",
        "scrub_count": 0,
        "input": {},
        "exit_code": "",
        "output": {},
        "uploads": {},
        "error": [],
    }
    assert Task().id != task.id


def test_tasks_share_no_defaults() -> None:
    Task().input["x"] = 1
    Task()["error"].append("x")
    assert (Task().input, Task()["error"]) == ({}, [])


def test_a_token_from_the_database_gets_no_defaults() -> None:
    stored = {"_id": "a", "_rev": "1-x", "type": "token"}
    assert Task(stored).value is stored
    assert stored == {"_id": "a", "_rev": "1-x", "type": "token"}


@pytest.mark.parametrize("name", ["input", "output", "uploads"])
def test_the_properties_of_a_task_are_its_fields(name: str) -> None:
    task = Task()
    setattr(task, name, {"x": 1})
    assert getattr(task, name) == task[name] == {"x": 1}


def test_a_tasks_way() -> None:
    task = Task()
    assert not task.is_done()
    assert task.lock() is task
    assert not task.is_done()
    assert task.done() is task
    assert task.is_done()
    assert not task.has_error()
    assert task.error("x") is task
    assert task.has_error()
    assert task.is_done()
    assert task.scrub() is task
    assert not task.is_done()
    assert not task.has_error()
    assert len(task.get_errors()) == 1


def test_a_bare_token_can_be_asked_too() -> None:
    task = Task({"_rev": "1-x"})
    assert (task.is_done(), task.has_error(), task.get_errors()) == (False, False, [])


# --- Job


def test_a_job_needs_an_id() -> None:
    with pytest.raises(ValueError, match="_id"):
        Job({})


def test_a_new_job() -> None:
    job = Job({"_id": "j"})
    expected = {"type": "job", "hostname": "", "start": 0, "done": 0, "queue": 0, "method": "", "archive": 0}
    assert job.value == {"_id": "j", **expected}


def test_a_jobs_way() -> None:
    job = Job({"_id": "j"})
    before = int(time.time())
    assert job.queue("slurm", "node1") is job
    assert (job["method"], job["hostname"]) == ("slurm", "node1")
    assert job["queue"] >= before
    assert job.start() is job
    assert job["start"] >= before
    assert job["hostname"] == socket.gethostname()
    assert not job.is_done()
    assert job.finish() is job
    assert job.is_done()
    assert job["done"] >= before


def test_queueing_without_a_host_keeps_it() -> None:
    assert Job({"_id": "j", "hostname": "node1"}).queue("slurm")["hostname"] == "node1"


def test_a_job_that_starts_again_is_not_done() -> None:
    job = Job({"_id": "j"}).start().finish().start()
    assert (job["done"], job["archive"]) == (0, 0)


def test_an_archived_job_is_a_document_of_its_own() -> None:
    job = Job({"_id": "j", "_rev": "1-x", "done": 0})
    assert job.archive() is job
    assert job.id == f"archived-j-{job['archive']}"
    assert job["done"] == job["archive"] > 0
    assert "_rev" not in job
    assert Job({"_id": "j", "done": 5}).archive()["done"] == 5


# --- User


def test_a_user() -> None:
    assert User("me", "pw", ["readers"], {"mail": "me@example.org"}).value == {
        "_id": "org.couchdb.user:me",
        "name": "me",
        "type": "user",
        "password": "pw",
        "roles": ["readers"],
        "mail": "me@example.org",
    }
    assert User("me", "pw")["roles"] == []


# --- what JSON can't hold


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", float("nan"), math.inf, "\ud800", {"deep": [{(1,): 2}]}])
def test_a_value_that_json_can_not_hold_becomes_its_description(value: Any) -> None:
    document = Document({"_id": "a", "good": [1, "x", None], "bad": value})
    assert make_storable(document) == ["bad"]
    assert isinstance(document["bad"], str)
    document["bad"].encode("utf-8")
    assert document["good"] == [1, "x", None]
    assert make_storable(document) == []


def test_a_list_in_itself_and_a_huge_value_stay_small() -> None:
    endless: list[Any] = []
    endless.append(endless)
    document = Document({"endless": endless, "huge": {"x" * 1_000_000}})
    assert make_storable(document) == ["endless", "huge"]
    assert len(document["huge"]) == 10_000


# --- leaves


def test_an_empty_token() -> None:
    token = TokenGenerator.get_empty_token()
    assert token == {"type": "token", "lock": 0, "done": 0, "hostname": "", "scrub_count": 0}
    assert TokenGenerator.get_empty_token() is not token


def test_the_logger_of_user_scripts_is_quiet_until_somebody_sets_it_up() -> None:
    assert picaslogger.name == "PiCaS"
    assert picaslogger.handlers == []
