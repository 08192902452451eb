"""Orders: what people tell pilots to do.

An order is written into the pilot's own document (see `mailbox`). The next heartbeat of the pilot meets the conflict,
reads the document, and obeys. So an order costs no request while nobody gives any, and is obeyed within one heartbeat.

A pause of the whole pool is in a document of its own, which pilots read when they start.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Callable

from couchdb.http import ResourceConflict

from .. import modifiers
from ..clients import CouchDB
from ..documents import Document
from ..exceptions import NoSuchDocument, UsageError
from ..jobid import job_id_of
from ..tokens.states import state_of
from ..util import list_in, one_line, seconds
from .conditions import CANCELLED
from .identity import PREFIX
from .mailbox import (
    CANCEL,
    DRAIN,
    OLDER,
    PAUSE,
    POLL,
    Given,
    NotRunning,
    Orders,
    entries_in,
    give,
    give_all,
    is_running,
    knows_orders,
    orders_in,
    pilots,
    wait_until_obeyed,
)
from .watching import Output, Watched, follow, watch, watched

__all__ = [
    "POOL_ID",
    "Cancellation",
    "Given",
    "Issued",
    "Output",
    "Pause",
    "Watched",
    "cancel_tokens",
    "drain_pilots",
    "find_pause",
    "follow",
    "pause_pool",
    "resume_pool",
    "wait_until_cancelled",
    "wait_until_obeyed",
    "watch",
    "watched",
]

POOL_ID = "picas_pool"
"""The id of the document that holds what goes for the whole pool."""
MAX_MESSAGE = 120
"""How many characters of a message are kept."""
MAX_REASON = 200
"""How many characters the reason of a cancelled attempt has at most."""
PAGE = 500
"""The most tokens to read with one request."""
MAX_NAMED = 3
"""How many pilots an error names."""


@dataclass(frozen=True)
class Pause:
    """Who has paused the pool, when and why."""

    by: str
    time: int
    """Seconds since the epoch, by the clock of the person's machine."""
    message: str = ""

    def __str__(self) -> str:
        """Return a text for people: "paused by ann: maintenance"."""
        return f"paused by {one_line(self.by)}" + (f": {one_line(self.message)}" if self.message else "")


@dataclass
class Issued:
    """Orders that were given to pilots."""

    given: list[Given] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why others were not given, a line for each."""


@dataclass(frozen=True)
class Cancellation:
    """What has become of a wish to cancel a token."""

    token: str
    detail: str
    """A line for people."""
    outcome: str = ""
    """How its attempt has ended, "" while that is unknown or if there is none: "cancelled", "done"…"""
    order: Given | None = None
    """The order to the pilot that works on the token."""
    claim: str = ""
    """The id of that pilot's claim."""


def find_pause(client: CouchDB) -> Pause | None:
    """Return the pause of the pool, None if it is not paused."""
    try:
        paused = client.get(POOL_ID).get("paused")
    except NoSuchDocument:
        return None
    return as_pause(paused)


def as_pause(value: object) -> Pause | None:
    """Return a pause as documents hold it; None if the value is none."""
    if not isinstance(value, dict):
        return None
    since = value.get("time")
    return Pause(str(value.get("by") or ""), since if isinstance(since, int) else 0, str(value.get("message") or ""))


def pause_pool(client: CouchDB, message: str = "", by: str | None = None) -> Issued:
    """Let no pilot lock another token until `resume_pool`, also pilots that start meanwhile.

    Tokens at work go on. A paused pilot ends as it would otherwise: at its walltime, on a signal, when it is drained.

    :param message: why, for people
    :param by: who says so, by default the pool's user, or the login name
    :raises couchdb.http.HTTPError: if the database refuses the change
    """
    note = _note(client, message, by)
    client.edit(POOL_ID, lambda content: {**content, "type": "pool", "paused": note})
    # Only now: a pilot that starts after this list reads the document of the pool.
    running = [pilot for pilot in pilots(client) if is_running(pilot)]
    return Issued(give_all(client, running, lambda orders: {**orders, PAUSE: note}), _of_older_releases(running))


def resume_pool(client: CouchDB) -> Issued:
    """End the pause of the pool.

    :raises couchdb.http.HTTPError: if the database refuses the change
    """
    was_paused = find_pause(client) is not None
    if was_paused:
        client.edit(POOL_ID, lambda content: {name: value for name, value in content.items() if name != "paused"})
    # Those that are marked as dead may return.
    paused = [pilot for pilot in pilots(client) if PAUSE in orders_in(pilot)]
    given = give_all(client, paused, lambda orders: {kind: order for kind, order in orders.items() if kind != PAUSE})
    return Issued(given, [] if was_paused or given else ["the pool is not paused"])


def drain_pilots(
    client: CouchDB, names: Iterable[str] | None = None, message: str = "", by: str | None = None
) -> Issued:
    """Let pilots lock no further token, and end once their tokens have ended.

    :param names: the ids of the pilots, the beginnings of these, or the ids of their batch jobs; None for all that run
    :param message: why, for people
    :param by: see `pause_pool`
    :raises UsageError: if the beginning of an id is that of several pilots
    :raises couchdb.http.HTTPError: if the database refuses the change
    """
    note = _note(client, message, by)
    everybody = pilots(client)
    found, problems = _choose(everybody, names)
    problems += _of_older_releases(found)
    return Issued(give_all(client, found, lambda orders: {**orders, DRAIN: note}), problems)


def cancel_tokens(client: CouchDB, ids: Iterable[str], message: str = "", by: str | None = None) -> list[Cancellation]:
    """Cancel tokens: the work on them is ended, and they are in error, and not tried again.

    A free token is put into error at once. For one that is locked, its pilot gets an order.

    :param ids: the ids of the tokens
    :param message: why, for people; it is part of the reason in the token
    :param by: see `pause_pool`
    :returns: what has become of each, in the order of the ids
    :raises couchdb.http.HTTPError: if the database refuses a change
    """
    note = _note(client, message, by)
    wanted = list(dict.fromkeys(ids))
    found: dict[str, Cancellation] = {}
    for first in range(0, len(wanted), PAGE):
        page = wanted[first : first + PAGE]
        tokens = {token.id: token for token in client.get_documents(page)}
        locked: dict[str, dict[str, str]] = {}  # claims by token, by pilot
        for id in page:
            token, is_cancelled = _cancel_free(client, tokens.get(id), note)
            pilot, claim = _holder(token)
            if is_cancelled:
                found[id] = Cancellation(id, f"token {id} is cancelled", outcome=CANCELLED)
            elif pilot:
                locked.setdefault(pilot, {})[id] = claim
            else:
                found[id] = _refuse(id, token)
        for pilot, claims in locked.items():
            found.update(_order_cancel(client, pilot, claims, note))
    return [found[id] for id in wanted]


def wait_until_cancelled(
    client: CouchDB,
    cancellations: Iterable[Cancellation],
    timeout: float = math.inf,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Cancellation]:
    """Wait until pilots have ended the work on tokens, and return what has become of each, in the same order.

    :param cancellations: what `cancel_tokens` has returned
    :param timeout: seconds to wait at most; the outcome of a token whose work goes on after that stays ""
    :param sleep: called with the seconds until the next look
    """
    found = {each.token: each for each in cancellations}
    give_up = time.monotonic() + timeout
    pause = 0.05
    while True:
        left = [id for id, each in found.items() if each.order is not None and not each.outcome]
        for first in range(0, len(left), PAGE):
            page = left[first : first + PAGE]
            tokens = {token.id: token for token in client.get_documents(page)}
            found.update((id, _look_at(found[id], tokens.get(id))) for id in page)
        remaining = give_up - time.monotonic()
        if remaining <= 0 or all(found[id].outcome for id in left):
            return list(found.values())
        sleep(min(pause, remaining))
        pause = min(2 * pause, POLL)


def _look_at(cancellation: Cancellation, token: Document | None) -> Cancellation:
    """Return what has become of a token whose pilot has got an order."""
    if _holder(token)[1] == cancellation.claim:
        return cancellation
    attempts = [] if token is None else [entry for entry in list_in(token, "attempts") if isinstance(entry, dict)]
    ended = [str(entry.get("outcome")) for entry in attempts if entry.get("claim") == cancellation.claim]
    outcome = ended[-1] if ended else "deleted" if token is None else "taken away"
    words = "is cancelled" if outcome == CANCELLED else f"was not cancelled: {outcome}"
    return replace(cancellation, outcome=outcome, detail=f"token {cancellation.token} {words}")


def reason_of_cancel(order: Mapping[str, Any]) -> str:
    """Return the reason of an attempt that was cancelled by an order: "cancelled by ann: wrong input"."""
    message = one_line(order.get("message") or "")
    return f"cancelled by {one_line(order.get('by') or 'somebody')}{f': {message}' if message else ''}"[:MAX_REASON]


def _note(client: CouchDB, message: str, by: str | None) -> dict[str, Any]:
    """Return who gives an order, when and why, as documents hold it."""
    name = by or client.username
    if not name:
        with contextlib.suppress(Exception):  # KeyError or OSError, by the version of Python: a user without a name
            name = getpass.getuser()
    return {"by": name or "somebody", "time": seconds(), "message": one_line(message)[:MAX_MESSAGE]}


def _choose(everybody: Sequence[dict[str, Any]], names: Iterable[str] | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the documents of the pilots with some names, and a line for each name that is none's."""
    running = {pilot["_id"]: pilot for pilot in everybody if is_running(pilot)}
    if names is None:
        return list(running.values()), [] if running else ["no pilot is running"]
    chosen: dict[str, dict[str, Any]] = {}
    problems = []
    for name in names:
        matches = _matches(running, name)
        if not matches:
            is_dead = bool(_matches({pilot["_id"]: pilot for pilot in everybody}, name))
            problems.append(f"pilot {name} is marked as dead" if is_dead else f"no pilot {name} is running")
        chosen.update((id, running[id]) for id in matches)
    return list(chosen.values()), problems


def _of_older_releases(found: Iterable[dict[str, Any]]) -> list[str]:
    """Return a line for each pilot that knows no orders."""
    return [f"pilot {pilot['_id']} {OLDER}" for pilot in found if not knows_orders(pilot)]


def _matches(known: Mapping[str, dict[str, Any]], name: str) -> list[str]:
    """Return the ids of the pilots with a name: one by its id or the beginning of that, all of a batch job.

    :raises UsageError: if the name is the beginning of several ids
    """
    if name in known or not name:
        return [name] if name else []
    of_job = [id for id, pilot in known.items() if str(job_id_of(pilot)) == name]
    if of_job:
        return of_job
    begun = [id for id in known if id.startswith((name, PREFIX + name))]
    if len(begun) > 1:
        shown = ", ".join(begun[:MAX_NAMED]) + (", …" if len(begun) > MAX_NAMED else "")
        raise UsageError(f"{name} is the beginning of {len(begun)} pilots: {shown}")
    return begun


def _cancel_free(client: CouchDB, token: Document | None, note: Mapping[str, Any]) -> tuple[Document | None, bool]:
    """Put a token into error if it is free. Return it as it is then, None if there is none, and whether it was free."""
    while token is not None and token.get("type") == "token" and state_of(token) == "todo":
        # As if a person had locked it: then the attempt has a claim, a host and a time.
        modifiers.set_error(modifiers.lock(token), reason_of_cancel(note))
        modifiers.end_attempt(token, CANCELLED)
        try:
            client.save(token)
        except ResourceConflict:  # a pilot may have locked it
            try:
                token = client.get(token.id)
            except NoSuchDocument:
                return None, False
        else:
            return token, True
    return token, False


def _holder(token: Document | None) -> tuple[str, str]:
    """Return the pilot that has locked a token, and the id of its claim; '' if no pilot has."""
    if token is None or token.get("type") != "token" or state_of(token) != "locked":
        return "", ""
    claim = modifiers.claim_of(token)
    return str(claim.get("pilot") or ""), str(claim.get("id") or "")


def _refuse(id: str, token: Document | None) -> Cancellation:
    """Return why a token that no pilot is at work on can't be cancelled."""
    if token is None:
        return Cancellation(id, f"there is no token {id}")
    if token.get("type") != "token":
        return Cancellation(id, f"{id} is not a token")
    state = state_of(token)
    if state == "locked":
        return Cancellation(id, f"token {id} is locked by no known pilot")
    words = {"done": "is done already", "error": "is in error already"}
    return Cancellation(id, f"token {id} {words.get(str(state), 'is in no state')}")


def _order_cancel(
    client: CouchDB, pilot: str, claims: Mapping[str, str], note: Mapping[str, Any]
) -> dict[str, Cancellation]:
    """Order a pilot to end the work on tokens, and return what has become of each."""

    def change(orders: Orders) -> Orders:
        new = {id: {**note, "claim": claim} for id, claim in claims.items()}
        return {**orders, CANCEL: {**entries_in(orders, CANCEL), **new}}

    try:
        order = give(client, pilot, change)
    except NotRunning as problem:
        return {id: Cancellation(id, f"token {id} can't be cancelled: {problem}") for id in claims}
    return {
        id: Cancellation(id, f"pilot {pilot} cancels token {id}", order=order, claim=claim)
        for id, claim in claims.items()
    }
