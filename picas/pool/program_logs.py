"""The output of programs, which is attached to their tokens: `logs_<id>.out` and `logs_<id>.err`.

A token keeps the output of one attempt only: that of a later one replaces it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..clients import CouchDB
from ..documents import Document
from ..exceptions import PicasError
from ..tokens.states import is_in_state
from ..util import one_line
from .facts import PastAttempt, attachments_of, attempts_of

BLOCK = 1 << 16
"""Bytes of a log that are in memory at a time."""
MAX_NAMES = 20
"""How many attachments an error names."""
_WITHOUT_LOG = frozenset({"lost", "taken away"})
"""Outcomes of attempts that leave the attachments as they were."""


class NoLog(PicasError):
    """A token does not have the log that was asked for."""


@dataclass(frozen=True)
class Log:
    """The output of a program that is attached to a token."""

    token_id: str
    name: str
    """The name of the attachment."""
    attempt: PastAttempt | None
    """The attempt that it is of, None if the token does not say."""
    is_of_last: bool
    """Whether no later attempt has begun."""


def log_name(token_id: str, *, is_err: bool = False) -> str:
    """Return the name of the attachment with the standard output of a token's program, or its standard error."""
    return f"logs_{token_id}.{'err' if is_err else 'out'}"


def find_log(token: Document, *, is_err: bool = False, attempt: int | None = None) -> Log:
    """Return a token's log.

    :param token: the token as it is in the database
    :param is_err: whether standard error is wanted rather than standard output
    :param attempt: the number of an attempt; by default, whatever log the token has
    :raises NoLog: if it is not there; the text says what is
    """
    attempts, is_running = attempts_of(token), is_in_state(token, "locked")
    wanted = next((each for each in attempts if each.number == attempt), None)
    if attempt is not None and wanted is None:
        raise NoLog(_why_unknown(token.id, len(attempts), attempt, is_running))
    name = log_name(token.id, is_err=is_err)
    attachment = next((each for each in attachments_of(token) if each.name == name), None)
    if attachment is None:
        raise NoLog(_why_missing(token, name, is_running))
    is_latest = attachment.revpos >= _generation(token) - is_running  # locking it made one generation
    source = next((each for each in reversed(attempts) if _left_log(each, is_latest or each != attempts[-1])), None)
    if wanted is not None and wanted != source:
        raise NoLog(_why_not_kept(token.id, wanted, source))
    return Log(token.id, name, source, not is_running and (not attempts or source == attempts[-1]))


def _generation(token: Document) -> int:
    """Return how often a document was changed."""
    return int(token.rev.partition("-")[0])


def _left_log(attempt: PastAttempt, may_have: bool) -> bool:
    """Return whether the log in a token may be of an attempt.

    :param may_have: what to answer for one that was stopped: whether it has come so far as to attach a log is unknown
    """
    return may_have if attempt.outcome == "stopped" else attempt.outcome not in _WITHOUT_LOG


@contextmanager
def open_log(client: CouchDB, log: Log) -> Iterator[BinaryIO]:
    """Open a log of any size for reading: it is fetched to a temporary file.

    :raises couchdb.http.ResourceNotFound: if it was removed meanwhile
    :raises OSError: if the connection breaks, or the file can't be written
    """
    with tempfile.TemporaryDirectory(prefix="picas-") as folder:
        path = client.get_attachment_file(log.token_id, log.name, Path(folder) / "log")
        with path.open("rb") as file:
            yield file


def stream_log(client: CouchDB, log: Log) -> Iterator[bytes]:
    """Yield a log of any size, piece by piece.

    :raises couchdb.http.ResourceNotFound: if it was removed meanwhile
    :raises Unreachable: if the connection breaks
    """
    return client.stream_attachment(log.token_id, log.name)


def tail_of_log(client: CouchDB, log: Log, size: int) -> tuple[bytes, int]:
    """Return the end of a log, and how many bytes all of it has. Little more than the end is held in memory.

    CouchDB keeps texts compressed, so it can't send only their end: all is read.

    :param size: how many bytes to return at most
    :raises couchdb.http.ResourceNotFound: if it was removed meanwhile
    :raises Unreachable: if the connection breaks
    """
    tail, total = b"", 0
    for block in stream_log(client, log):
        total += len(block)
        tail = (tail + block)[-size:]
    return tail, total


def _why_unknown(id: str, ended: int, number: int, is_running: bool) -> str:
    if is_running and number == ended + 1:
        return f"attempt {number} of {one_line(id)} is running: its log is attached when it ends; --follow shows it now"
    have = "1 attempt of it has" if ended == 1 else f"{ended} attempts of it have"
    return f"there is no attempt {number} of {one_line(id)}: {have} ended"


def _why_not_kept(id: str, wanted: PastAttempt, source: PastAttempt | None) -> str:
    if source is None or wanted.number > source.number:
        return f"attempt {wanted.number} of {one_line(id)} has left no log: it was {one_line(wanted.outcome)}"
    return (
        f"the log of attempt {wanted.number} of {one_line(id)} is not kept: that of attempt {source.number} has "
        "replaced it"
    )


def _why_missing(token: Document, name: str, is_running: bool) -> str:
    names = [one_line(attachment.name) for attachment in attachments_of(token)]
    others = f" and {len(names) - MAX_NAMES} others" if len(names) > MAX_NAMES else ""
    there = f"its attachments are {', '.join(names[:MAX_NAMES])}{others}" if names else "it has no attachments"
    now = "; it is locked, and --follow shows its output" if is_running else ""
    return f"{one_line(token.id)} has no log {one_line(name)}: {there}{now}"
