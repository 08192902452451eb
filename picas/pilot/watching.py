"""What the program of a token prints, while it runs: its pilot keeps the end of it in its own document for a while."""

from __future__ import annotations

import base64
import codecs
import mmap
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable

from couchdb.http import ResourceNotFound

from .. import modifiers
from ..clients import CouchDB
from ..documents import Document
from ..exceptions import NoSuchDocument
from ..pool.program_logs import BLOCK, Log, log_name, open_log
from ..tokens.states import is_in_state
from ..util import is_number, list_in
from .mailbox import WATCH, Given, NotRunning, Orders, entries_in, give

WATCHED = "watched"
"""The field of a pilot's document with the output of tokens that people watch: a dict by their ids."""
WATCH_TIME = 120.0
"""Seconds for which a pilot shows the output of a token."""
WATCH_PAUSE = 2.0
"""Seconds between two saves of a pilot's document while it does that."""
TAIL = 4096
"""Bytes that are kept of each output, from its end."""
MAX_WATCHED = 8
"""The most tokens that a pilot shows at a time; the oldest are dropped first."""


@dataclass(frozen=True)
class Output:
    """The end of an output of a program."""

    size: int
    """How many bytes the program has written so far."""
    tail: bytes
    """The last of them."""


@dataclass(frozen=True)
class Watched:
    """The outputs of the program of a token, None for one that does not go to a file."""

    stdout: Output | None = None
    stderr: Output | None = None


def watch(client: CouchDB, token_id: str) -> Given | None:
    """Let the pilot that works on a token show the output of its program for two minutes, see `watched`.

    :returns: the order; None if no pilot works on the token
    :raises couchdb.http.HTTPError: if the database refuses that
    """
    claim = _claim(client, token_id)
    if not claim:
        return None

    def change(orders: Orders) -> Orders:
        # With the time, so that each order is a change that the pilot meets.
        entry = {"claim": claim.get("id"), "time": time.time()}
        return {**orders, WATCH: {**entries_in(orders, WATCH), token_id: entry}}

    try:
        return give(client, str(claim.get("pilot")), change)
    except NotRunning:
        return None


def watched(client: CouchDB, token_id: str) -> Watched | None:
    """Return what the pilot of a token shows of its output, None if it shows nothing (yet)."""
    return _watched(client, token_id, _claim(client, token_id))


def follow(
    client: CouchDB, token_id: str, *, is_err: bool = False, sleep: Callable[[float], object] = time.sleep
) -> Iterator[str]:
    """Yield what the program of a token prints from now on, until the token is no longer at work.

    The first text is the end of what was printed before. Where more is printed at once than the pilot shows, a line
    says how much is missing. The end of the output comes from the log in the token, if it has one with the usual name.
    The texts come with the pilot's heartbeats, every two seconds once it has read the order.

    :param token_id: the id of the token
    :param is_err: whether to follow the standard error rather than the standard output
    :param sleep: called with the seconds until the next look
    """
    claim = _claim(client, token_id)
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    last, ends_at = Output(0, b""), 0.0
    current = claim
    while current and current.get("id") == claim.get("id"):
        if time.monotonic() >= ends_at - WATCH_TIME / 4:
            if watch(client, token_id) is None:
                break
            ends_at = time.monotonic() + WATCH_TIME
        sleep(WATCH_PAUSE / 2)
        found = _watched(client, token_id, current)
        output = found and (found.stderr if is_err else found.stdout)
        if output:
            seen = 0 if output.size < last.size else last.size  # the next program of the token has begun
            yield from filter(None, [decode(_news(output, seen))])
            last = output
        current = _claim(client, token_id)
    for block in _rest(client, token_id, claim, is_err, last) if claim else ():
        yield from filter(None, [decode(block)])
    yield from filter(None, [decode(b"", True)])


def _news(output: Output, seen: int) -> bytes:
    """Return what is new in an output, of which so many bytes were seen before."""
    new = output.size - seen
    if new <= len(output.tail):
        return output.tail[len(output.tail) - new :]
    missing = new - len(output.tail)
    return (f"[... {missing} bytes ...]\n".encode() if seen else b"") + output.tail


def describe_output(output: Output | None) -> dict[str, Any] | None:
    """Return an output as it is in a pilot's document."""
    return None if output is None else {"size": output.size, "tail": base64.b64encode(output.tail).decode("ascii")}


def _read_output(entry: Any) -> Output | None:
    if not isinstance(entry, dict) or not is_number(entry.get("size")):
        return None
    try:
        return Output(int(entry["size"]), base64.b64decode(str(entry.get("tail", ""))))
    except ValueError:
        return None


def _claim(client: CouchDB, token_id: str) -> dict[str, Any]:
    """Return the claim of a token that is at work, an empty dict if it is not."""
    try:
        token = client.get(token_id)
    except NoSuchDocument:
        return {}
    return modifiers.claim_of(token) if is_in_state(token, "locked") else {}


def _watched(client: CouchDB, token_id: str, claim: Mapping[str, Any]) -> Watched | None:
    if not claim.get("pilot"):
        return None
    try:
        shown = client.get(str(claim["pilot"])).get(WATCHED)
    except NoSuchDocument:
        return None
    entry = shown.get(token_id) if isinstance(shown, dict) else None
    if not isinstance(entry, dict) or entry.get("claim") != claim.get("id"):
        return None
    return Watched(_read_output(entry.get("stdout")), _read_output(entry.get("stderr")))


def _rest(client: CouchDB, token_id: str, claim: Mapping[str, Any], is_err: bool, seen: Output) -> Iterator[bytes]:
    """Yield the end of the log in a token that has ended, in blocks; nothing if the attempt has left no log.

    :param claim: that of the attempt
    :param seen: what was seen of the output
    """
    try:
        token: Document = client.get(token_id)
        last = list_in(token, "attempts")[-1:]
        if not last or not isinstance(last[0], dict) or last[0].get("claim") != claim.get("id"):
            return
        with open_log(client, Log(token_id, log_name(token_id, is_err=is_err), None, True)) as file:
            position = _position_after(seen, file)
            if position is None:
                yield b"[...]\n"
                position = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(position)
            yield from iter(lambda: file.read(BLOCK), b"")
    except (NoSuchDocument, ResourceNotFound):
        return


def _position_after(seen: Output, file: BinaryIO) -> int | None:
    """Return where a log goes on after an output that was seen; None if the log does not have the end of that.

    A log may be shorter than the output, if that was very large, or begin with those of other programs.
    """
    start = seen.size - len(seen.tail)
    file.seek(start)
    if file.read(len(seen.tail)) == seen.tail:
        return seen.size
    if file.seek(0, os.SEEK_END) == 0:
        return 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = content.rfind(seen.tail)
    return None if found < 0 else found + len(seen.tail)
