"""Documents, tasks, jobs and users, without a server."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from picas import Document, Job, Task, User
from picas.documents import LOG_LIMIT
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


def test_a_document_without_data_is_empty() -> None:
    assert Document().value == {}
    assert len(Document({})) == 0


def test_id_and_revision() -> None:
    document = Document({"_id": "a", "_rev": "1-x"})
    assert (document.id, document.rev) == ("a", "1-x")
    document.id = "b"
    assert document["_id"] == "b"


@pytest.mark.parametrize("name", ["id", "rev"])
def test_an_unsaved_document_has_no_id_and_no_revision(name: str) -> None:
    with pytest.raises(AttributeError, match=f"_{name}"):
        getattr(Document(), name)


def test_defaults_are_added_only_to_content_without_a_revision() -> None:
    base = {"lock": 0, "list": []}
    assert Document({"lock": 5}, base).value == {"lock": 5, "list": []}
    assert Document({"_rev": "1-x"}, base).value == {"_rev": "1-x"}
    Document({}, base)["list"].append(1)
    assert base["list"] == []


def test_documents_are_compared_by_identity() -> None:
    document = Document({"_id": "a"})
    assert document == document  # noqa: PLR0124
    assert document != Document({"_id": "a"})
    assert len({document, Document({"_id": "a"})}) == 2


def test_a_document_made_from_a_document_shares_its_content() -> None:
    stored = Document({"_id": "a", "_rev": "1-x"})
    assert Task(stored).value is stored.value


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (Document(), "<Document without _id>"),
        (Document({"_id": "a", "type": "note"}), "<Document 'a'>"),
        (Document({**TokenGenerator.get_empty_token(), "_id": "a"}), "<Document 'a' todo>"),
        (Task({"_id": "a"}), "<Task 'a' todo>"),
        (Task({"_id": "a"}).lock(), "<Task 'a' locked>"),
        (Task({"_id": "a", "exit_code": 0}).lock().done(), "<Task 'a' done>"),
        (Task({"_id": "a"}).error(), "<Task 'a' error>"),
        (Task({"_id": "a", "lock": -1}), "<Task 'a'>"),
        (Job({"_id": "a"}), "<Job 'a'>"),
        (User("me", "hunter2"), "<User 'org.couchdb.user:me'>"),
    ],
    ids=str,
)
def test_repr_shows_the_class_the_id_and_the_state_of_a_token(document: Document, text: str) -> None:
    assert repr(document) == text


def test_repr_shows_no_secret_and_stays_short() -> None:
    assert "hunter2" not in repr(Task({"_id": "a", "password": "hunter2", "input": "hunter2"}))
    assert "hunter2" not in repr(User("me", "hunter2"))
    assert len(repr(Task({"_id": "x" * 1000, "input": "x" * 1000}))) < 80


@pytest.mark.parametrize("id", [None, 7, ["a\nb"], "\ud800\n"], ids=repr)
def test_repr_of_any_id_is_one_line_that_can_be_printed(id: Any) -> None:
    text = repr(Document({"_id": id}))
    assert "\n" not in text
    text.encode("utf-8")


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


def test_a_missing_attachment() -> None:
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


def test_a_long_log_is_cut_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"begin" + b"." * 1000 + b"end!!")
    document = Document()
    document.put_log("logs_0.out", path, limit=10)
    attachment = document.get_attachment("logs_0.out")
    assert attachment["data"] == b"begin\n[... picas cut 1000 of 1010 bytes here ...]\nend!!"
    assert attachment["content_type"] == "text/plain"


def test_the_default_limit_of_a_log_is_ten_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(LOG_LIMIT + 1)
    document = Document()
    document.put_log("big", path)
    assert LOG_LIMIT == 10_000_000
    assert LOG_LIMIT < len(document.get_attachment("big")["data"]) < LOG_LIMIT + 100


def test_a_missing_log(tmp_path: Path) -> None:
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


def test_the_life_of_a_task() -> None:
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


def test_the_questions_work_on_a_token_without_fields() -> None:
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


def test_the_life_of_a_job() -> None:
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


def test_queueing_without_a_host_keeps_the_host() -> None:
    assert Job({"_id": "j", "hostname": "node1"}).queue("slurm")["hostname"] == "node1"


def test_a_restarted_job_is_not_done() -> None:
    job = Job({"_id": "j"}).start().finish().start()
    assert (job["done"], job["archive"]) == (0, 0)


def test_an_archived_job_is_a_new_document() -> None:
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


# --- leaves


def test_an_empty_token() -> None:
    token = TokenGenerator.get_empty_token()
    assert token == {"type": "token", "lock": 0, "done": 0, "hostname": "", "scrub_count": 0}
    assert TokenGenerator.get_empty_token() is not token


def test_the_logger_of_user_scripts_has_no_handler() -> None:
    assert picaslogger.name == "PiCaS"
    assert picaslogger.handlers == []
