"""Attachments as streams: from disk to the server and back, without holding them in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import requests

from .exceptions import LostAnswer, Unreachable
from .transport import raise_error, server_of

COPY_BYTES = 1 << 20
"""Bytes of an attachment that are in memory at a time."""


def upload(session: requests.Session, url: str, path: Path, rev: str, mimetype: str) -> str:
    """Send a file and return the document's new revision.

    :param session: the session to send it through
    :param url: the attachment's address
    :param path: the file
    :param rev: the document's revision
    :param mimetype: the file's type
    :raises LostAnswer: if the connection broke, so that nobody knows whether the file has arrived
    :raises couchdb.http.HTTPError: if the server refuses it
    :raises OSError: if the file can't be read
    """
    with path.open("rb") as file:
        try:
            answer = session.put(url, data=file, params={"rev": rev}, headers={"Content-Type": mimetype})
        except requests.exceptions.ConnectTimeout as error:
            raise Unreachable(f"can't reach {server_of(url)} (time-out)") from error
        except requests.RequestException as error:
            raise LostAnswer(f"no answer from {server_of(url)} to the upload of {path}") from error
    if answer.status_code >= 400:
        raise_error(answer.status_code, answer.content)
    return str(answer.json()["rev"])


def download(session: requests.Session, url: str) -> Iterator[bytes]:
    """Yield an attachment's content piece by piece.

    :raises couchdb.http.ResourceNotFound: if there is no such attachment
    :raises Unreachable: if the connection breaks
    """
    try:
        with session.get(url, stream=True) as answer:
            if answer.status_code >= 400:
                raise_error(answer.status_code, answer.content)
            yield from answer.iter_content(COPY_BYTES)
    except requests.RequestException as error:
        raise Unreachable(f"the download from {server_of(url)} broke off") from error


def download_to(session: requests.Session, url: str, path: Path) -> None:
    """Write an attachment to a file, which is there only once all has arrived. For errors see `download`."""
    partial = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            for block in download(session, url):
                file.write(block)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_same(session: requests.Session, url: str, path: Path) -> bool:
    """Tell whether an attachment's content is that of a file.

    The content is compared, since CouchDB keeps the digest of the compressed form of a text.
    """
    stored = hashlib.sha256()
    for block in download(session, url):
        stored.update(block)
    local = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(COPY_BYTES), b""):
            local.update(block)
    return stored.digest() == local.digest()
