"""Attachments: what is sent of them with a document, and files that are streamed from disk to the server and back."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import couchdb
from couchdb.http import ResourceNotFound, ServerError

from ..exceptions import LostAnswer, Unreachable
from ..util import open_regular
from .answers import is_absent, raise_error
from .connections import server_of
from .revisions import Revision
from .transport import RETRY_PAUSES, pause
from .writes import Write, doc_path, is_passing

if TYPE_CHECKING:
    import requests

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
    :param session: the session to send the file through
    :param url: the attachment's URL
    :param content: the document, with `_id` and `_rev`
    :param name: the attachment's name
    :param path: the file
    :param mimetype: the file's type
    """

    def __init__(
        self,
        db: couchdb.Database,
        session: requests.Session,
        url: str,
        content: Mapping[str, Any],
        name: str,
        path: Path,
        mimetype: str,
    ) -> None:
        self._db = db
        self._session = session
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
        import requests  # noqa: PLC0415  # as the session was: see `CouchDB.requests`

        from .streams import is_unsent  # noqa: PLC0415

        server = server_of(self._url)
        headers, params = {"Content-Type": self._mimetype}, {"rev": self._rev}
        with open_regular(self._path) as file:
            try:
                answer = self._session.put(self._url, data=file, params=params, headers=headers, allow_redirects=False)
            except requests.RequestException as error:
                if is_unsent(error):
                    raise Unreachable(f"can't reach {server}") from error
                raise LostAnswer(f"no answer from {server} to the upload of {self._path}") from error
        if answer.status_code >= 300:
            raise_error(server, answer.status_code, answer.content, is_write=True)
        try:
            return str(answer.json()["rev"])
        except (ValueError, TypeError, KeyError) as error:
            raise LostAnswer(f"half an answer from {server} to the upload of {self._path}") from error

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
        return rev if is_same(self._session, self._url, rev, self._path) else None


def download(session: requests.Session, url: str, rev: str | None = None) -> Iterator[bytes]:
    """Yield an attachment's content piece by piece.

    :param session: the session to fetch it through
    :param url: the attachment's URL
    :param rev: the document's revision, by default the newest
    :raises couchdb.http.ResourceNotFound: if there is no such attachment
    :raises Unreachable: if the connection breaks
    """
    import requests  # noqa: PLC0415

    try:
        # Not compressed: one megabyte of a compressed log may be a gigabyte, and old versions of urllib3 unpack it at
        # once.
        headers = {"Accept-Encoding": "identity"}
        with session.get(url, params={"rev": rev} if rev else None, headers=headers, stream=True) as answer:
            if answer.status_code >= 400:
                raise_error(server_of(url), answer.status_code, answer.content)
            yield from answer.iter_content(COPY_BYTES)
            expected = int(answer.headers.get("Content-Length", 0))
            is_complete = answer.raw.tell() >= expected  # old versions of urllib3 do not check that
    except requests.RequestException as error:
        raise Unreachable(f"the download from {server_of(url)} broke off") from error
    if not is_complete:
        raise Unreachable(f"the download from {server_of(url)} broke off")


def download_to(session: requests.Session, url: str, path: Path) -> None:
    """Write an attachment to a file, which appears only once it is complete. Try again if the connection breaks.

    For errors see `download`.
    """
    pauses = iter(RETRY_PAUSES)
    partial = path.with_name(f".{path.name[:MAX_NAME]}.{uuid4().hex}.part")
    try:
        while True:
            try:
                with partial.open("wb") as file:
                    for block in download(session, url):
                        file.write(block)
                break
            except (Unreachable, ServerError) as error:
                if not is_passing(error) or not pause(pauses):
                    raise
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_same(session: requests.Session, url: str, rev: str, path: Path) -> bool:
    """Return whether an attachment in a revision of its document has the content of a file.

    The content itself is compared, since CouchDB keeps the digest of the compressed form of a text.
    """
    stored = hashlib.sha256()
    for block in download(session, url, rev):
        stored.update(block)
    local = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(COPY_BYTES):
            local.update(block)
    return stored.digest() == local.digest()
