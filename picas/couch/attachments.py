"""Attachments: what is sent of them with a document, and files that are streamed from disk to the server and back."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import couchdb
from couchdb.http import ResourceNotFound

from ..exceptions import LostAnswer, Unreachable
from ..util import open_regular
from .answers import is_absent
from .revisions import Revision
from .transport import pause
from .writes import Write, doc_path

COPY_BYTES = 1 << 20
"""Bytes of an attachment that are in memory at a time."""
MAX_NAME = 200
"""Characters of a file's name that go into the name of its unfinished copy, since file names have a limit."""


def without_saved_data(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is sent of a document: attachments that the database has already are only named."""
    entries = content.get("_attachments")
    if not entries:
        return dict(content)
    sent = {name: _without_data(entry) if entry.get("stub") else entry for name, entry in entries.items()}
    return {**content, "_attachments": sent}


def _without_data(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what names an attachment that the database has: CouchDB goes by its name, the embedded server by digest.

    The digest is computed here and not after each save, since most tokens are saved once with their logs, and dropped.
    """
    if "data" in entry and "digest" not in entry:
        digest = hashlib.md5(base64.b64decode(entry["data"]), usedforsecurity=False).digest()
        entry["digest"] = "md5-" + base64.b64encode(digest).decode("ascii")
    return {key: value for key, value in entry.items() if key != "data"}


def mark_saved(content: Mapping[str, Any]) -> None:
    """Note in a document that the database has its attachments, so that the next save does not send them again."""
    for entry in (content.get("_attachments") or {}).values():
        entry["stub"] = True


def url_of(database_url: str, doc_id: str, name: str) -> str:
    """Return the URL of an attachment.

    :raises ValueError: if it can have none
    """
    if name in (".", "..") or doc_id in (".", ".."):
        raise ValueError("a document or an attachment that is named . or .. has no address")
    document = "/".join(quote(part, safe="") for part in doc_path(doc_id))
    return f"{database_url}/{document}/{quote(name, safe='')}"


class Upload(Write):
    """The upload of a file as an attachment of a saved document.

    :param db: the database
    :param url: the attachment's URL
    :param content: the document, with `_id` and `_rev`
    :param name: the attachment's name
    :param path: the file
    :param mimetype: the file's type
    """

    def __init__(
        self, db: couchdb.Database, url: str, content: Mapping[str, Any], name: str, path: Path, mimetype: str
    ) -> None:
        self._db = db
        self._url = url
        self._id, self._rev = str(content["_id"]), str(content["_rev"])
        self._name = name
        self._path = path
        self._mimetype = mimetype

    def send(self) -> str:
        """Send the file and return the document's new revision.

        :raises Unreachable: if there was no connection
        :raises LostAnswer: if the connection broke, so that it is unknown whether the file has arrived
        :raises couchdb.http.HTTPError: if the server refuses the file
        :raises OSError: if the file can't be read, or is no regular file
        """
        resource = self._db.resource
        url = f"{self._url}?{urlencode({'rev': self._rev})}"
        with open_regular(self._path) as file:
            headers = {"Content-Type": self._mimetype, "Content-Length": str(os.fstat(file.fileno()).st_size)}
            try:
                _, _, answer = resource.session.request_json("PUT", url, file, headers, resource.credentials)
                return str(answer["rev"])
            except LostAnswer as error:
                raise LostAnswer(f"the upload of {self._path}: {error}") from error
            except LookupError as error:
                raise LostAnswer(f"the upload of {self._path}: the answer names no revision") from error

    def find_landed(self) -> str | None:
        """Return the revision that follows ours, if it has the file."""
        try:
            _, _, stored = self._db.resource.get_json(doc_path(self._id), revs="true")
        except ResourceNotFound as error:
            if not is_absent(error):
                raise
            return None
        follows = stored["_revisions"]["ids"][1:2] == [Revision.parse(self._rev).digest]
        entry = stored.get("_attachments", {}).get(self._name)
        if not follows or entry is None or entry["length"] != self._path.stat().st_size:
            return None
        rev = str(stored["_rev"])
        return rev if is_same(self._db, self._url, rev, self._path) else None


def download(db: couchdb.Database, url: str, rev: str | None = None) -> Iterator[bytes]:
    """Yield an attachment's content piece by piece.

    :param db: the database
    :param url: the attachment's URL
    :param rev: the document's revision, by default the newest
    :raises couchdb.http.ResourceNotFound: if there is no such attachment
    :raises Unreachable: if the connection breaks
    """
    with contextlib.closing(_open(db, url, rev)) as body:
        yield from _blocks(body)


def _open(db: couchdb.Database, url: str, rev: str | None = None) -> Any:
    """Return the body of an attachment, whose `read` raises `Unreachable` if the connection breaks."""
    query = f"?{urlencode({'rev': rev})}" if rev else ""
    resource = db.resource
    return resource.session.request("GET", url + query, credentials=resource.credentials)[2]


def _blocks(body: Any) -> Iterator[bytes]:
    while block := body.read(COPY_BYTES):
        yield block


def download_to(db: couchdb.Database, url: str, path: Path) -> None:
    """Write an attachment to a file, which appears only once it is complete. Try again if the connection breaks.

    For errors see `download`.
    """
    pauses = iter(db.resource.session.retry_pauses)
    partial = path.with_name(f".{path.name[:MAX_NAME]}.{uuid4().hex}.part")
    try:
        while True:
            body = _open(db, url)  # the session itself repeats a request without an answer
            try:
                with contextlib.closing(body), partial.open("wb") as file:
                    for block in _blocks(body):
                        file.write(block)
                break
            except Unreachable:
                if not pause(pauses):
                    raise
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_same(db: couchdb.Database, url: str, rev: str, path: Path) -> bool:
    """Return whether an attachment in a revision of its document has the content of a file.

    The content itself is compared, since CouchDB keeps the digest of the compressed form of a text.
    """
    stored = hashlib.sha256()
    for block in download(db, url, rev):
        stored.update(block)
    local = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(COPY_BYTES):
            local.update(block)
    return stored.digest() == local.digest()
