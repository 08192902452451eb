"""What is stored in the database: documents, and the kinds of them that picas knows."""

from __future__ import annotations

import base64
import json
import mimetypes
import socket
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from . import modifiers
from .util import merge_dicts, read_capped, seconds

if TYPE_CHECKING:
    from typing import Protocol

    class HasDatabase(Protocol):
        """A client, as far as a document needs one."""

        def read_attachment(self, doc_id: str, name: str) -> bytes:
            """Return an attachment's content."""


LOG_LIMIT = 10_000_000
"""Bytes of a log that are attached by default."""
MAX_REPR = 10_000
"""Characters that are kept of a value that JSON can't hold."""


class Document(MutableMapping[str, Any]):
    """A CouchDB document, used like a dict.

    :param data: the content; a dict is used as it is, not copied, if it has a revision
    :param base: defaults for content that is not from the database, that is, has no `_rev`
    """

    def __init__(self, data: dict[str, Any] | Document | None = None, base: dict[str, Any] | None = None) -> None:
        content = data.value if isinstance(data, Document) else {} if data is None else data
        self.doc: dict[str, Any] = content if "_rev" in content else merge_dicts(base or {}, content)

    def __len__(self) -> int:
        return len(self.doc)

    def __getitem__(self, key: str) -> Any:
        return self.doc[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.doc[key] = value

    def __delitem__(self, key: str) -> None:
        del self.doc[key]

    def __contains__(self, key: object) -> bool:
        return key in self.doc

    def __iter__(self) -> Iterator[str]:
        return iter(self.doc)

    # Two documents are the same only if they are one object, so that they can be members of a set.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.doc.get('_id', 'without id')}>"

    @property
    def id(self) -> str:
        """The document's `_id`.

        :raises AttributeError: if it has none
        """
        if "_id" not in self.doc:
            raise AttributeError("the document has no _id")
        return str(self.doc["_id"])

    @id.setter
    def id(self, new_id: str) -> None:
        self.doc["_id"] = new_id

    @property
    def rev(self) -> str:
        """The document's revision.

        :raises AttributeError: if it has none, that is, is not from the database
        """
        if "_rev" not in self.doc:
            raise AttributeError("the document has no _rev: it was never saved")
        return str(self.doc["_rev"])

    @property
    def value(self) -> dict[str, Any]:
        """The document's content as a dict; not a copy."""
        return self.doc

    def put_attachment(self, name: str, data: str | bytes, mimetype: str | None = None) -> None:
        """Attach data, which travels with the document when that is saved.

        The data stays in memory until then. For large files see `CouchDB.put_attachment_file`.

        :param name: the attachment's name
        :param data: bytes, or text, which is stored as UTF-8 (what UTF-8 can't hold, as backslash escapes)
        :param mimetype: guessed from the name if left out, and text/plain if that tells nothing
        """
        content = data if isinstance(data, bytes) else data.encode("utf-8", "backslashreplace")
        self.doc.setdefault("_attachments", {})[name] = {
            "content_type": mimetype or guess_mimetype(name),
            "data": base64.b64encode(content).decode("ascii"),
        }

    def put_log(self, name: str, path: str | Path, limit: int = LOG_LIMIT) -> None:
        """Attach a text file; of a longer one the head and the tail, with a line between that says what was cut.

        :param name: the attachment's name
        :param path: the file
        :param limit: the most bytes of the file that are attached
        :raises OSError: if the file can't be read
        """
        self.put_attachment(name, read_capped(path, limit), "text/plain")

    def get_attachment(self, name: str, retrieve_from_database: HasDatabase | None = None) -> dict[str, Any]:
        """Return an attachment: what CouchDB tells of it, and its content in `data` as bytes.

        :param name: the attachment's name
        :param retrieve_from_database: a client to fetch the content with if the document holds only its description;
            without one, `data` is missing in that case
        :raises KeyError: if there is no such attachment
        """
        stored = self.doc.get("_attachments", {})[name]
        attachment = {key: value for key, value in stored.items() if key != "data"}
        if "data" in stored:
            attachment["data"] = base64.b64decode(stored["data"])
        elif retrieve_from_database is not None:
            attachment["data"] = retrieve_from_database.read_attachment(self.id, name)
        return attachment

    def remove_attachment(self, name: str) -> None:
        """Remove an attachment; it is gone from the database when the document is saved. None of that name is fine."""
        self.doc.get("_attachments", {}).pop(name, None)


def make_storable(doc: Document) -> list[str]:
    """Replace what JSON can't hold in a document by a description of it, and return the names of those fields."""
    if _is_storable(doc.doc):  # all at once: nearly always
        return []
    replaced = []
    for name, value in list(doc.items()):
        if not _is_storable(value):
            doc[name] = repr(value).encode("utf-8", "backslashreplace").decode("utf-8")[:MAX_REPR]
            replaced.append(name)
    return replaced


def _is_storable(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def guess_mimetype(name: str) -> str:
    """Return the MIME type that a file's name tells, text/plain if it tells none."""
    return mimetypes.guess_type(name)[0] or "text/plain"


class Task(Document):
    """A token: one piece of work.

    :param task: the content. Without a revision it gets the defaults of a free token, and an `_id` if it has none.
    """

    _BASE: dict[str, Any] = {
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

    def __init__(self, task: dict[str, Any] | Document | None = None) -> None:
        super().__init__(task, self._BASE)
        if "_id" not in self.doc:
            self.doc["_id"] = "task_" + uuid4().hex

    def lock(self, pilot: str = "") -> Task:
        """Take the token, see `modifiers.lock`."""
        return modifiers.lock(self, pilot)

    def done(self) -> Task:
        """Mark the token as done, see `modifiers.close`."""
        return modifiers.close(self)

    def scrub(self) -> Task:
        """Put the token back after a failure and count that, see `modifiers.scrub`."""
        return modifiers.scrub(self)

    def error(self, msg: object = None, exception: BaseException | None = None) -> Task:
        """Mark the token as failed, see `modifiers.set_error`."""
        return modifiers.set_error(self, msg, exception)

    @property
    def input(self) -> Any:
        """What the work is."""
        return self.doc["input"]

    @input.setter
    def input(self, value: Any) -> None:
        self.doc["input"] = value

    @property
    def output(self) -> Any:
        """What came out of it."""
        return self.doc["output"]

    @output.setter
    def output(self, output: Any) -> None:
        self.doc["output"] = output

    @property
    def uploads(self) -> Any:
        """Where results were uploaded to."""
        return self.doc["uploads"]

    @uploads.setter
    def uploads(self, uploads: Any) -> None:
        self.doc["uploads"] = uploads

    def has_error(self) -> bool:
        """Tell whether the token was marked as failed."""
        return bool(self.doc.get("lock") == modifiers.ERROR_MARK)

    def get_errors(self) -> list[Any]:
        """Return the errors that were noted on the token, the oldest first."""
        errors: list[Any] = self.doc.get("error", [])
        return errors

    def is_done(self) -> bool:
        """Tell whether the token was closed, well or not."""
        return bool(self.doc.get("done", 0) != 0)


class Job(Document):
    """A longer-lived job: when it was queued, started, finished and archived, in seconds since the epoch.

    :param job: the content
    :raises ValueError: if it has no `_id`
    """

    _BASE: dict[str, Any] = {
        "type": "job",
        "hostname": "",
        "start": 0,
        "done": 0,
        "queue": 0,
        "method": "",
        "archive": 0,
    }

    def __init__(self, job: dict[str, Any] | Document) -> None:
        super().__init__(job, self._BASE)
        if "_id" not in self.doc:
            raise ValueError("a job needs an _id")

    def queue(self, method: str, host: str | None = None) -> Job:
        """Mark the job as queued now.

        :param method: through what it was queued
        :param host: where it is to run
        """
        self.doc["method"] = method
        if host is not None:
            self.doc["hostname"] = host
        self.doc["queue"] = seconds()
        return self

    def start(self) -> Job:
        """Mark the job as started now, on this host."""
        self.doc.update(start=seconds(), done=0, archive=0, hostname=socket.gethostname())
        return self

    def finish(self) -> Job:
        """Mark the job as finished now."""
        self.doc["done"] = seconds()
        return self

    def archive(self) -> Job:
        """Turn this into an archived copy with an id of its own, still to be saved."""
        now = seconds()
        if self.doc["done"] <= 0:
            self.doc["done"] = now
        self.doc["archive"] = now
        self.id = f"archived-{self.id}-{now}"
        self.doc.pop("_rev", None)
        return self

    def is_done(self) -> bool:
        """Tell whether the job has finished."""
        return bool(self.doc["done"] != 0)


class User(Document):
    """A CouchDB user, to be saved in the database `_users`, where CouchDB replaces the password by a salted hash.

    :param username: the name to log in with
    :param password: the password; it stands in the document until CouchDB has it, so save it nowhere else
    :param roles: the roles that a database's permissions speak of
    :param data: more fields
    """

    def __init__(
        self,
        username: str,
        password: str,
        roles: list[str] | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        base = {
            "_id": "org.couchdb.user:" + username,
            "name": username,
            "type": "user",
            "password": password,
            "roles": list(roles or []),
        }
        super().__init__(data, base)
