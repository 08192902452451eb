"""What is stored in the database: documents in general, and tokens, jobs and users."""

from __future__ import annotations

import base64
import mimetypes
import socket
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from . import modifiers
from .tokens import state_of
from .util import merge_dicts, read_capped, seconds

if TYPE_CHECKING:
    from typing import Protocol

    class HasDatabase(Protocol):
        """The part of a client that a document needs."""

        def read_attachment(self, doc_id: str, name: str) -> bytes:
            """Return an attachment's content."""


LOG_LIMIT = 10_000_000
"""Bytes of a log that are attached at most, by default."""
_MAX_ID = 60  # characters of an id that `repr` shows


class Document(MutableMapping[str, Any]):
    """A CouchDB document, used like a dict.

    :param data: the content. A dict with a `_rev` is used directly, any other is copied.
    :param base: defaults, merged only into content without a `_rev`, that is, content not read from the database
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

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a field, or a default if it is missing. Faster than what `Mapping` has."""
        return self.doc.get(key, default)

    # Documents are compared by identity, so that they can be members of a set although they are mutable.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        # The content stays out: it may be large, and it may hold a password.
        id = repr(self.doc["_id"]) if "_id" in self.doc else "without _id"
        if len(id) > _MAX_ID:
            id = id[: _MAX_ID - 1] + "…"
        state = state_of(self.doc)
        return f"<{type(self).__name__} {id}{'' if state is None else ' ' + state}>"

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

        :raises AttributeError: if it has none, that is, if it was never saved
        """
        if "_rev" not in self.doc:
            raise AttributeError("the document has no _rev: it was never saved")
        return str(self.doc["_rev"])

    @property
    def value(self) -> dict[str, Any]:
        """The document's content, as a dict that is not a copy."""
        return self.doc

    def put_attachment(self, name: str, data: str | bytes, mimetype: str | None = None) -> None:
        """Attach data. It is uploaded when the document is saved.

        Until then the data stays in memory. For large files use `CouchDB.put_attachment_file`.

        :param name: the attachment's name
        :param data: bytes, or text that is stored as UTF-8 (with backslash escapes for what UTF-8 can't represent)
        :param mimetype: guessed from the name by default; text/plain if the name says nothing
        """
        content = data if isinstance(data, bytes) else data.encode("utf-8", "backslashreplace")
        self.doc.setdefault("_attachments", {})[name] = {
            "content_type": mimetype or guess_mimetype(name),
            "data": base64.b64encode(content).decode("ascii"),
        }

    def put_log(self, name: str, path: str | Path, limit: int = LOG_LIMIT) -> None:
        """Attach a text file; of a file larger than `limit`, its head and tail with a line between them.

        :param name: the attachment's name
        :param path: the file
        :param limit: how many bytes of the file to attach at most
        :raises OSError: if the file can't be read, or is no regular file
        """
        self.put_attachment(name, read_capped(path, limit), "text/plain")

    def get_attachment(self, name: str, retrieve_from_database: HasDatabase | None = None) -> dict[str, Any]:
        """Return an attachment: its metadata from CouchDB, and its content as bytes in `data`.

        :param name: the attachment's name
        :param retrieve_from_database: a client that fetches the content if the document holds only the metadata;
            without a client, `data` is missing in that case
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
        """Remove an attachment, if there is one. Saving the document removes it from the database."""
        self.doc.get("_attachments", {}).pop(name, None)


def guess_mimetype(name: str) -> str:
    """Guess the MIME type of a file from its name; text/plain if the name says nothing."""
    return mimetypes.guess_type(name)[0] or "text/plain"


class Task(Document):
    """A token: one piece of work.

    :param task: the content. Content without a `_rev` gets the defaults of a free token; an `_id` is made if it has
        none.
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
        """Lock the token, see `modifiers.lock`."""
        return modifiers.lock(self, pilot)

    def done(self) -> Task:
        """Mark the token as done, see `modifiers.close`."""
        return modifiers.close(self)

    def scrub(self) -> Task:
        """Put the token back after a failure and count the failure, see `modifiers.scrub`."""
        return modifiers.scrub(self)

    def error(self, msg: object = None, exception: BaseException | None = None) -> Task:
        """Mark the token as failed, see `modifiers.set_error`."""
        return modifiers.set_error(self, msg, exception)

    @property
    def input(self) -> Any:
        """The input of the work."""
        return self.doc["input"]

    @input.setter
    def input(self, value: Any) -> None:
        self.doc["input"] = value

    @property
    def output(self) -> Any:
        """The output of the work."""
        return self.doc["output"]

    @output.setter
    def output(self, output: Any) -> None:
        self.doc["output"] = output

    @property
    def uploads(self) -> Any:
        """Where results were uploaded."""
        return self.doc["uploads"]

    @uploads.setter
    def uploads(self, uploads: Any) -> None:
        self.doc["uploads"] = uploads

    def has_error(self) -> bool:
        """Return whether the token was marked as failed."""
        return bool(self.doc.get("lock") == modifiers.ERROR_MARK)

    def get_errors(self) -> list[Any]:
        """Return the errors recorded in the token, oldest first."""
        errors: list[Any] = self.doc.get("error", [])
        return errors

    def is_done(self) -> bool:
        """Return whether the token was closed, successfully or not."""
        return bool(self.doc.get("done", 0) != 0)


class Job(Document):
    """A job with the times at which it was queued, started, finished and archived, in seconds since the epoch.

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

        :param method: the system that queued it
        :param host: the host on which it will run
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
        """Turn this document into an archived copy with its own id. The copy is not saved yet."""
        now = seconds()
        if self.doc["done"] <= 0:
            self.doc["done"] = now
        self.doc["archive"] = now
        self.id = f"archived-{self.id}-{now}"
        self.doc.pop("_rev", None)
        return self

    def is_done(self) -> bool:
        """Return whether the job has finished."""
        return bool(self.doc["done"] != 0)


class User(Document):
    """A CouchDB user. Save it in the database `_users`, where CouchDB replaces the password by a salted hash.

    :param username: the name to log in with
    :param password: the password. It is in the document as plain text, so do not save the document anywhere else.
    :param roles: the roles, which the permissions of databases refer to
    :param data: additional fields
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
