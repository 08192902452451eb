"""What the program of a token prints, while it runs: its pilot keeps the end of it in its own document for a while."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import modifiers
from ..clients import CouchDB
from ..exceptions import NoSuchDocument
from ..tokens.states import is_in_state
from ..util import is_number
from .mailbox import WATCH, Given, NotRunning, Orders, entries_in, give

WATCHED = "watched"
"""The field of a pilot's document with the output of tokens that people watch: a dict by their ids."""
WATCH_TIME = 120.0
"""Seconds for which a pilot shows the output of a token."""
WATCH_PAUSE = 2.0
"""Seconds between two saves of a pilot's document while it does that."""
TAIL = 4096
"""Bytes that are kept of each output, from its end."""
MAX_SHOWN = 8 * TAIL
"""Bytes that a pilot shows of one output of all tokens together: with more than eight, there is less of each."""
MAX_WATCHED = 64
"""The most tokens that a pilot shows at a time; those whose orders are the oldest are dropped first."""


def tail_length(count: int) -> int:
    """Return how many bytes of each output a pilot shows.

    :param count: how many tokens people watch
    """
    return min(TAIL, MAX_SHOWN // max(1, count))


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
    program: int | None = None
    """A number that differs for each program of the attempt, None if a pilot of an older release does not say."""


def watch(client: CouchDB, token_id: str) -> Given | None:
    """Let the pilot that works on a token show the output of its program for two minutes, see `watched`.

    :returns: the order; None if no pilot works on the token
    :raises couchdb.http.HTTPError: if the database refuses that
    """
    claim = claim_now(client, token_id)
    try:
        return order_watch(client, token_id, claim) if claim else None
    except NotRunning:
        return None


def order_watch(client: CouchDB, token_id: str, claim: Mapping[str, Any]) -> Given:
    """Write the order of `watch` for a claim that is known.

    :raises NotRunning: if its pilot can't be given orders
    :raises couchdb.http.HTTPError: if the database refuses that
    """

    def change(orders: Orders) -> Orders:
        # With the time, so that each order is a change that the pilot meets.
        entry = {"claim": claim.get("id"), "time": time.time()}
        return {**orders, WATCH: {**entries_in(orders, WATCH), token_id: entry}}

    return give(client, str(claim.get("pilot")), change)


def watched(client: CouchDB, token_id: str) -> Watched | None:
    """Return what the pilot of a token shows of its output, None if it shows nothing (yet)."""
    claim = claim_now(client, token_id)
    if not claim.get("pilot"):
        return None
    try:
        return watched_in(client.get(str(claim["pilot"])), token_id, claim.get("id"))
    except NoSuchDocument:
        return None


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


def claim_now(client: CouchDB, token_id: str) -> dict[str, Any]:
    """Return the claim of a token that is at work, an empty dict if it is not."""
    try:
        token = client.get(token_id)
    except NoSuchDocument:
        return {}
    return modifiers.claim_of(token) if is_in_state(token, "locked") else {}


def watched_in(document: Mapping[str, Any], token_id: str, claim_id: object) -> Watched | None:
    """Return what a pilot's document shows of the output of a token, None if it shows nothing.

    :param claim_id: the id of the claim that is meant
    """
    shown = document.get(WATCHED)
    entry = shown.get(token_id) if isinstance(shown, dict) else None
    if not isinstance(entry, dict) or entry.get("claim") != claim_id:
        return None
    program = entry.get("program")
    return Watched(
        _read_output(entry.get("stdout")),
        _read_output(entry.get("stderr")),
        int(program) if is_number(program) else None,
    )
