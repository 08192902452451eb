"""The tails of logs, as examples of failures."""

from __future__ import annotations

from collections.abc import Iterable

from couchdb.http import ResourceNotFound

from ...clients import CouchDB
from ...exceptions import PicasError
from ...pool.facts import find_token
from ...pool.program_logs import Log, find_log, tail_of_log
from .tallies import GroupTally

MAX_BYTES = 4_096
"""How much of a log is read, from its end."""
MAX_LINES = 15
"""How many lines of it are shown."""


def read_tails(client: CouchDB, groups: Iterable[GroupTally]) -> None:
    """Read the tail of a log for each group that has a token with one: of standard error, else of standard output."""
    for group in groups:
        for is_err in (True, False):
            try:
                log = find_log(find_token(client, group.logged), is_err=is_err)
                text = _tail(client, log)
            except (PicasError, ResourceNotFound):
                continue  # the token was deleted or is processed again, or it has no such log
            if text.strip():
                group.tail, group.tail_name = text, log.name
                break


def _tail(client: CouchDB, log: Log) -> str:
    """Return the last lines of a log."""
    content, size = tail_of_log(client, log, MAX_BYTES)
    lines = content.decode("utf-8", "replace").splitlines()
    is_cut = size > MAX_BYTES and len(lines) > 1
    return "\n".join((lines[1:] if is_cut else lines)[-MAX_LINES:])
