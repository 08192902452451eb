"""Cancel tokens: end the work on them, and put them into error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Callable

from couchdb.http import ResourceConflict

from .. import modifiers
from ..clients import CouchDB
from ..documents import Document
from ..exceptions import NoSuchDocument
from ..tokens import reasons
from ..tokens.states import state_of
from ..util import list_in, one_line
from .conditions import CANCELLED
from .mailbox import CANCEL, POLL, Beats, Given, NotRunning, Orders, documents_of, entries_in, give, note_of

MAX_REASON = 200
"""How many characters the reason of a cancelled attempt has at most."""
PAGE = 500
"""The most tokens to read with one request."""
_PUT_BACK = frozenset({"stopped", "lost", "failed", "time-out"})
"""The outcomes of attempts after which a pilot may have put the token back."""


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
    note: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Who says so, when and why."""


def cancel_tokens(client: CouchDB, ids: Iterable[str], message: str = "", by: str | None = None) -> list[Cancellation]:
    """Cancel tokens: the work on them is ended, and they are in error, and not tried again.

    A free token is put into error at once. For one that is locked, its pilot gets an order.

    :param ids: the ids of the tokens
    :param message: why, for people; it is part of the reason in the token
    :param by: see `pause_pool`
    :returns: what has become of each, in the order of the ids
    :raises couchdb.http.HTTPError: if the database refuses a change
    """
    return _cancel(client, ids, note_of(client, message, by))


def cancel_put_back(client: CouchDB, entries: Mapping[str, Any], *, is_holder: bool = False) -> dict[str, Any]:
    """Cancel tokens that their pilot has put back, or lost, before it could obey the order.

    A token whose attempt has ended otherwise is left alone, and so is one that a person has put back.

    :param entries: the orders by the tokens' ids, as in the pilot's document
    :param is_holder: whether this is the pilot itself, so that a token without this attempt was put back before its
        work began
    :returns: the orders for tokens that the pilot still holds
    :raises couchdb.http.HTTPError: if the database is away, or refuses a change
    """
    orders = {id: order for id, order in entries.items() if isinstance(order, dict)}
    ids = list(orders)
    held = {}
    for first in range(0, len(ids), PAGE):
        for token in client.get_documents(ids[first : first + PAGE]):
            order = orders[token.id]
            if _holder(token)[1] == order.get("claim"):
                held[token.id] = order
            elif _was_put_back(token, order.get("claim"), is_holder):
                _cancel(client, [token.id], {name: order.get(name) or "" for name in ("by", "time", "message")})
    return held


def _was_put_back(token: Document, claim: object, is_holder: bool = False) -> bool:
    """Return whether a token is free, or locked anew, after its pilot has ended an attempt with this claim.

    :param is_holder: see `cancel_put_back`
    """
    if state_of(token) not in ("todo", "locked"):
        return False
    attempts = _attempts_of(token)
    if is_holder and not any(entry.get("claim") == claim for entry in attempts):
        return True
    last = attempts[-1] if attempts else {}
    return last.get("claim") == claim and last.get("outcome") in _PUT_BACK and last.get("reason") != reasons.RESET


def _attempts_of(token: Document | None) -> list[dict[str, Any]]:
    return [] if token is None else [entry for entry in list_in(token, "attempts") if isinstance(entry, dict)]


def _cancel(client: CouchDB, ids: Iterable[str], note: Mapping[str, Any]) -> list[Cancellation]:
    """Cancel tokens, see `cancel_tokens`.

    :param note: who says so, when and why
    """
    wanted = list(dict.fromkeys(ids))
    found: dict[str, Cancellation] = {}
    for first in range(0, len(wanted), PAGE):
        page = wanted[first : first + PAGE]
        tokens = {token.id: token for token in client.get_documents(page)}
        cancelled = _cancel_free(client, tokens, note)
        locked: dict[str, dict[str, str]] = {}  # claims by token, by pilot
        for id in page:
            token = tokens.get(id)
            pilot, claim = _holder(token)
            if id in cancelled:
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

    A token that its pilot has put back before it could obey is cancelled again. For a pilot without a heartbeat nobody
    waits longer than its lease.

    :param cancellations: what `cancel_tokens` has returned
    :param timeout: seconds to wait at most; the outcome of a token whose work goes on after that stays ""
    :param sleep: called with the seconds until the next look
    """
    found = {each.token: each for each in cancellations}
    give_up = time.monotonic() + timeout
    pause = 0.05
    beats, silent = Beats(), set[str]()
    while True:
        orders = {id: each.order for id, each in found.items() if each.order is not None and not each.outcome}
        documents = documents_of(client, list({order.pilot for order in orders.values()}))
        silent |= {id for id, document in documents.items() if document is not None and beats.has_stopped(document)}
        left = list(orders)
        for first in range(0, len(left), PAGE):
            page = left[first : first + PAGE]
            tokens = {token.id: token for token in client.get_documents(page)}
            found.update((id, _look_at(client, found[id], tokens.get(id))) for id in page)
        remaining = give_up - time.monotonic()
        if remaining <= 0 or all(found[id].outcome or orders[id].pilot in silent for id in left):
            return list(found.values())
        sleep(min(pause, remaining))
        pause = min(2 * pause, POLL)


def _look_at(client: CouchDB, cancellation: Cancellation, token: Document | None) -> Cancellation:
    """Return what has become of a token whose pilot has got an order."""
    if _holder(token)[1] == cancellation.claim:
        return cancellation
    if token is not None and _was_put_back(token, cancellation.claim):
        (again,) = _cancel(client, [token.id], cancellation.note)
        return again if again.order is not None or again.outcome else cancellation  # else it has just changed
    attempts = _attempts_of(token)
    ended = [str(entry.get("outcome")) for entry in attempts if entry.get("claim") == cancellation.claim]
    if attempts and attempts[-1].get("outcome") == CANCELLED:  # its pilot has put it back, and obeyed then
        ended = [CANCELLED]
    outcome = ended[-1] if ended else "deleted" if token is None else "taken away"
    words = "is cancelled" if outcome == CANCELLED else f"was not cancelled: {outcome}"
    return replace(cancellation, outcome=outcome, detail=f"token {cancellation.token} {words}")


def reason_of_cancel(order: Mapping[str, Any]) -> str:
    """Return the reason of an attempt that was cancelled by an order: "cancelled by ann: wrong input"."""
    message = one_line(order.get("message") or "")
    return f"cancelled by {one_line(order.get('by') or 'somebody')}{f': {message}' if message else ''}"[:MAX_REASON]


def _cancel_free(client: CouchDB, tokens: dict[str, Document], note: Mapping[str, Any]) -> set[str]:
    """Put the free ones among some tokens into error, and return their ids.

    :param tokens: by their ids, just read; one that was changed since is read again, one that is gone is removed
    :raises couchdb.http.HTTPError: if the database refuses a change
    """
    free = [_cancelled(token, note) for token in tokens.values() if _is_free(token)]
    if not free:
        return set()
    revs = client.write_documents(free).revs
    found = {token.id for token, rev in zip(free, revs) if rev is not None}
    for id in [token.id for token in free if token.id not in found]:  # a pilot may have locked it
        while id in tokens:
            try:
                tokens[id] = client.get(id)
                if _is_free(tokens[id]):
                    client.save(_cancelled(tokens[id], note))
                    found.add(id)
            except ResourceConflict:
                continue
            except NoSuchDocument:
                del tokens[id]
            break
    return found


def _cancelled(token: Document, note: Mapping[str, Any]) -> Document:
    """Put a free token into error and return it, as if a person had locked it: so the attempt has a host and a time."""
    reason = reason_of_cancel(note)
    return modifiers.end_attempt(modifiers.set_error(modifiers.lock(token), reason), CANCELLED, reason)


def _is_free(token: Document) -> bool:
    return token.get("type") == "token" and state_of(token) == "todo"


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
        id: Cancellation(id, f"pilot {pilot} cancels token {id}", order=order, claim=claim, note=note)
        for id, claim in claims.items()
    }
