"""What people take out of the pool: the logs of tokens, as files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from couchdb.http import ResourceNotFound

from ..clients import CouchDB
from ..documents import Document
from .fields import time_of

MAX_NAME = 200
"""Bytes of a file's name; most file systems take 255."""
AT_ONCE = 4
"""The number of tokens whose attachments are fetched at once."""
CHUNK = 100
"""The number of tokens after which all have to be saved before more are read."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]|^\.")


def save_logs_of(client: CouchDB, tokens: Iterable[Document], folder: Path) -> Iterator[tuple[Document, int]]:
    """Save the attachments of tokens, several tokens at a time; yield each token with the number of files written.

    For the files and the errors see `save_logs`.
    """
    left = iter(tokens)
    with ThreadPoolExecutor(AT_ONCE) as workers:
        while chunk := list(islice(left, CHUNK)):
            yield from zip(chunk, workers.map(lambda token: save_logs(client, token, folder), chunk))


def save_logs(client: CouchDB, token: Document, folder: Path) -> int:
    """Write the attachments of a token to files, and return how many were written.

    The files are `folder`/<id>/<name>, see `safe_name`. Their time is that of the end of the token's last attempt. A
    file that has the attachment's size and this time is not fetched again, so a call can be repeated.

    :param folder: is created if it does not exist
    :raises OSError: if a file can't be written
    """
    entries = token.get("_attachments")
    if not isinstance(entries, Mapping) or not entries:
        return 0
    mine = folder / safe_name(token.id)
    mine.mkdir(parents=True, exist_ok=True)
    when = int(time_of(token))
    written = 0
    for name, entry in entries.items():
        path = mine / safe_name(name)
        if _is_there(path, entry.get("length"), when):
            continue
        try:
            client.get_attachment_file(token, name, path)
        except (ResourceNotFound, ValueError):  # it was removed since, or it has a name that no request can have
            continue
        os.utime(path, (when, when))
        written += 1
    return written


def safe_name(name: str) -> str:
    """Return the name of a file or a folder for an id or for the name of an attachment; each has its own.

    Letters, digits, "_", "-" and "." stay, but for a dot at the beginning; other characters become the codes of their
    bytes, as in a URL: "a/b" becomes "a%2Fb". A name that is too long is cut, and its digest stands behind a tilde.
    """
    encoded = _UNSAFE.sub(lambda found: _as_codes(found.group()), name)
    if len(encoded) <= MAX_NAME:
        return encoded
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{encoded[: MAX_NAME - len(digest) - 1]}~{digest}"


def _as_codes(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _is_there(path: Path, length: object, when: int) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return found.st_size == length and int(found.st_mtime) == when
