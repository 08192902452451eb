"""A file whose tokens are pushed is read twice: to check and to count them all, and to send them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Callable

from ..clients import CouchDB
from ..exceptions import InputError, PushError
from .new_tokens import new_token
from .sizes import check_size, size_of
from .tables import EMPTY, Layout, numbered_tokens, read_tokens


@dataclass
class Survey:
    """What is known of a file before its tokens are sent."""

    count: int = 0
    """How many tokens it makes."""
    digest: str = ""
    """The SHA-256 of all that makes the tokens: the same for any file, in whatever layout, that makes the same ones."""
    has_ids: bool = False
    """Whether it has the ids of its tokens."""
    largest: dict[str, Any] = field(default_factory=dict)
    """The fields of the largest token."""
    largest_line: int = 0

    def check_largest(self, client: CouchDB, path: Path, own: Mapping[str, Any]) -> None:
        """Check that the server takes the largest token.

        :param own: the further fields of each token
        :raises InputError: if it does not
        """
        token = new_token({**self.largest, **own})
        check_size(client, token, size_of(token), f"line {self.largest_line} of {path}")


def survey_of(path: Path, layout: Layout) -> Survey:
    """Read a file and return what it makes.

    :raises InputError: if it can't be read, makes no tokens, has an id twice, or has ids only for some tokens
    """
    found = Survey()
    largest_size = 0
    digest = hashlib.sha256()
    ids: set[str] = set()
    for number, fields in numbered_tokens(path, layout):
        content = _content(fields)
        digest.update(content)
        if len(content) > largest_size:
            largest_size, found.largest, found.largest_line = len(content), fields, number
        id = fields.get("_id")
        if found.count and (id is not None) != found.has_ids:
            raise InputError(f"line {number} of {path}: either each token has an _id, or none has")
        if id in ids:
            raise InputError(f"line {number} of {path}: an earlier line has the id {id!r}, too")
        if id is not None:
            found.has_ids = True
            ids.add(id)
        found.count += 1
    if not found.count:
        raise InputError(f"{path} has no inputs: {EMPTY[layout.format]}")
    found.digest = digest.hexdigest()
    return found


def read_again(
    path: Path, layout: Layout, survey: Survey, most: int, most_bytes: int, pushed: Callable[[], int]
) -> Iterator[list[dict[str, Any]]]:
    """Yield the fields of a file's tokens in lists.

    :param survey: what the first reading has found
    :param most: how many tokens a list has at most
    :param most_bytes: how many bytes their content has at most, unless a single one has more
    :param pushed: returns how many tokens of the file were pushed so far
    :raises PushError: if the file has changed since
    """
    digest = hashlib.sha256()
    held = 0
    chunk: list[dict[str, Any]] = []
    for fields in islice(read_tokens(path, layout), survey.count):
        content = _content(fields)
        if chunk and (len(chunk) >= most or held + len(content) > most_bytes):
            yield chunk
            chunk, held = [], 0
        digest.update(content)
        chunk.append(fields)
        held += len(content)
    if chunk:
        yield chunk
    if digest.hexdigest() != survey.digest:
        raise PushError(f"{path} changed while it was read: {pushed()} tokens of it are in the pool")


def _content(fields: Mapping[str, Any]) -> bytes:
    """Return what a token adds to the digest of a file: its line, if that is all there is.

    Anything else begins with a zero byte, which no line has.
    """
    text = fields.get("input")
    if len(fields) == 1 and isinstance(text, str) and "\n" not in text and "\0" not in text:
        return text.encode() + b"\n"
    return b"\0" + json.dumps(fields, sort_keys=True).encode() + b"\n"
