"""What people change in the live view: the same, and in the same words, as the verbs do.

First a `Proposal` is made, whose question is put to the person. If the answer is yes, it is carried out, and returns
the lines about what came of it. Both send requests, so neither is called where it would hold up the keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from couchdb.http import ResourceNotFound

from ... import console
from ...clients import CouchDB
from ...exceptions import PicasError
from ...pilot import describe_loss, orders
from ...pool import Change, Source, TokenQuery, holders_of, make_filter, retry_tokens
from ...util import one_line
from ..orders import PAUSED, RESUMED, describe_issued, within
from ..output import number_of

MAX_ID = 60
"""The most characters of an id in a question."""
PATIENCE = 60.0
"""The least seconds to wait for a pilot that cancels a token before that is left as unknown."""

Tell = Callable[[str], Any]


@dataclass(frozen=True)
class Proposal:
    """A change that a person has asked for."""

    question: str
    carry_out: Callable[[str, Tell], str]
    """Makes the change. It gets the person's message, and a function for lines about how far it is; it returns a line
    about what came of it."""
    has_message: bool = False
    """Whether the change is noted with a message."""


def retry_group(client: CouchDB, group: str) -> Proposal:
    """Propose to put the failures of a group back to todo, as `picas retry --reason GROUP` does.

    :raises PicasError: if there is nothing to do
    """
    if not group:
        raise PicasError("these failures have no group: picas retry error retries all tokens in error")
    return _retry(client, TokenQuery(client, [Source("error")], make_filter(reason=group)), f" of group {group}")


def retry_token(client: CouchDB, id: str) -> Proposal:
    """Propose to put a token back to todo, as `picas retry TOKEN` does.

    :raises PicasError: if there is no such token
    """
    query = TokenQuery(client, ids=[id])
    holders = holders_of(query)
    if not query.matched:
        raise PicasError(f"There is no token {one_line(id)}")
    return _retry(client, query, f": {_short(id)}", describe_loss(client, holders))


def _retry(client: CouchDB, query: TokenQuery, which: str, loss: str | None = None) -> Proposal:
    count = query.count()
    if not count:
        raise PicasError("No token matches")

    def carry_out(message: str, tell: Tell) -> str:
        def progress(handled: int) -> None:
            tell(f"{handled} of {number_of(count, 'token')} so far")

        return _describe_change("Retried", retry_tokens(client, query, progress=progress))

    question = f"Retry {number_of(count, 'token')}{which}?"
    return Proposal(question if loss is None else f"{loss}. {question}", carry_out)


def _short(id: str) -> str:
    shown = one_line(id)
    return shown if len(shown) <= MAX_ID else f"{shown[: MAX_ID - 1]}…"


def _describe_change(done: str, change: Change) -> str:
    kept = f". Left alone {number_of(change.kept, 'token')} that changed meanwhile" if change.kept else ""
    return f"{done} {number_of(change.changed, 'token')}{kept}"


def cancel_token(client: CouchDB, id: str) -> Proposal:
    """Propose to end the work on a token and put it into error, as `picas cancel TOKEN` does."""

    def carry_out(message: str, tell: Tell) -> str:
        (found,) = orders.cancel_tokens(client, [id], message)
        if found.order is None:
            return found.detail
        tell(f"{found.detail}{within([found.order])}")
        (ended,) = orders.wait_until_cancelled(client, [found], max(PATIENCE, 3 * (found.order.within or 0)))
        return ended.detail if ended.outcome else f"{found.detail}, and has not done so yet"

    return Proposal(f"Cancel token {_short(id)}? It is in error then, and not tried again.", carry_out, True)


def drain_pilot(client: CouchDB, id: str) -> Proposal:
    """Propose to let a pilot end once its tokens have ended, as `picas drain PILOT` does."""

    def carry_out(message: str, tell: Tell) -> str:
        return _describe_issued(orders.drain_pilots(client, [id], message), until_ended=True)

    return Proposal(
        f"Drain {_short(id)}? It locks no further token, and ends once its tokens have ended.", carry_out, True
    )


def pause_or_resume(client: CouchDB) -> Proposal:
    """Propose to pause the pool or, if it is paused, to resume it, as `picas pause` and `picas resume` do."""

    def pause(message: str, tell: Tell) -> str:
        return _describe_issued(orders.pause_pool(client, message), PAUSED)

    def resume(message: str, tell: Tell) -> str:
        return _describe_issued(orders.resume_pool(client, message), RESUMED)

    now = orders.find_pause(client)
    if now is None:
        return Proposal("Pause the pool? No pilot locks another token until it is resumed.", pause, True)
    return Proposal(f"Resume the pool? It is {now}.", resume, True)


def _describe_issued(issued: orders.Issued, done: str = "", *, until_ended: bool = False) -> str:
    """Return a line about orders that were given, and about those that were not."""
    is_refused = bool(issued.problems) and not issued.given and done != PAUSED
    lines = [done] if done and not is_refused else []
    lines += [describe_issued(issued, until_ended=until_ended)] if issued.given else []
    return "; ".join([*lines, *issued.problems])


def describe_failure(error: BaseException) -> str:
    """Return a line for people about an error of a request."""
    if isinstance(error, ResourceNotFound):
        return "the server has not found that: create the views with picas views"
    return console.describe(error)
