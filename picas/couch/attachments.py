"""Attachments as streams: from disk to the server and back, without holding them in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import requests
import urllib3
from couchdb.http import ServerError

from ..exceptions import LostAnswer, Unreachable
from .connections import server_of
from .transport import PASSING_ERRORS, RETRY_PAUSES, pause, raise_error

COPY_BYTES = 1 << 20
"""Bytes of an attachment that are in memory at a time."""
MAX_NAME = 200
"""Characters of a file's name that the name of its unfinished copy begins with, since names have a limit."""


def upload(session: requests.Session, url: str, path: Path, rev: str, mimetype: str) -> str:
    """Send a file and return the document's new revision.

    :param session: the session to send it through
    :param url: the attachment's address
    :param path: the file
    :param rev: the document's revision
    :param mimetype: the file's type
    :raises Unreachable: if there was no connection
    :raises LostAnswer: if the connection broke, so that nobody knows whether the file has arrived
    :raises couchdb.http.HTTPError: if the server refuses it
    :raises OSError: if the file can't be read
    """
    with path.open("rb") as file:
        try:
            answer = session.put(
                url, data=file, params={"rev": rev}, headers={"Content-Type": mimetype}, allow_redirects=False
            )
        except requests.RequestException as error:
            if _is_unsent(error):
                raise Unreachable(f"can't reach {server_of(url)}") from error
            raise LostAnswer(f"no answer from {server_of(url)} to the upload of {path}") from error
    if answer.status_code >= 300:
        raise_error(answer.status_code, answer.content)
    try:
        return str(answer.json()["rev"])
    except (ValueError, TypeError, KeyError) as error:
        raise LostAnswer(f"half an answer from {server_of(url)} to the upload of {path}") from error


def _is_unsent(error: requests.RequestException) -> bool:
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, urllib3.exceptions.ConnectTimeoutError)  # also NewConnectionError


def download(session: requests.Session, url: str, rev: str | None = None) -> Iterator[bytes]:
    """Yield an attachment's content piece by piece.

    :param session: the session to fetch it through
    :param url: the attachment's address
    :param rev: the document's revision, by default the newest
    :raises couchdb.http.ResourceNotFound: if there is no such attachment
    :raises Unreachable: if the connection breaks
    """
    try:
        # Not compressed: a megabyte of a packed log may be a gigabyte, and older versions of urllib3 unpack it at once.
        headers = {"Accept-Encoding": "identity"}
        with session.get(url, params={"rev": rev} if rev else None, headers=headers, stream=True) as answer:
            if answer.status_code >= 400:
                raise_error(answer.status_code, answer.content)
            yield from answer.iter_content(COPY_BYTES)
            expected = int(answer.headers.get("Content-Length", 0))
            is_whole = answer.raw.tell() >= expected  # older versions of urllib3 do not look
    except requests.RequestException as error:
        raise Unreachable(f"the download from {server_of(url)} broke off") from error
    if not is_whole:
        raise Unreachable(f"the download from {server_of(url)} broke off")


def download_to(session: requests.Session, url: str, path: Path) -> None:
    """Write an attachment to a file, which is there only once all has arrived; try again if the connection breaks.

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
                passing = isinstance(error, Unreachable) or error.args[0][0] in PASSING_ERRORS
                if not passing or not pause(pauses):
                    raise
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_same(session: requests.Session, url: str, rev: str, path: Path) -> bool:
    """Tell whether an attachment's content in a revision of the document is that of a file.

    The content is compared, since CouchDB keeps the digest of the compressed form of a text.
    """
    stored = hashlib.sha256()
    for block in download(session, url, rev):
        stored.update(block)
    local = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(COPY_BYTES), b""):
            local.update(block)
    return stored.digest() == local.digest()
