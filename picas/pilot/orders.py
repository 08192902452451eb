"""Orders: what people tell pilots to do.

An order is written into the pilot's own document (see `mailbox`). The next heartbeat of the pilot meets the conflict,
reads the document, and obeys. So an order costs no request while nobody gives any, and is obeyed within one heartbeat.

A pause of the whole pool is in a document of its own, which pilots read when they start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from ..clients import CouchDB
from ..exceptions import NoSuchDocument, UsageError
from ..jobid import job_id_of
from ..util import duration_text, one_line
from .cancelling import Cancellation, cancel_tokens, wait_until_cancelled
from .following import follow, follow_outputs
from .identity import PREFIX
from .mailbox import (
    DRAIN,
    OLDER,
    PAUSE,
    Given,
    Orders,
    give_all,
    is_running,
    knows_orders,
    note_of,
    orders_in,
    pilots,
    wait_until_obeyed,
)
from .printed import Printed
from .watching import Output, Watched, watch, watched

__all__ = [
    "POOL_ID",
    "Cancellation",
    "Given",
    "Issued",
    "Output",
    "Pause",
    "Printed",
    "Watched",
    "cancel_tokens",
    "drain_pilots",
    "find_pause",
    "follow",
    "follow_outputs",
    "pause_pool",
    "resume_pool",
    "wait_until_cancelled",
    "wait_until_obeyed",
    "watch",
    "watched",
]

POOL_ID = "picas_pool"
"""The id of the document that holds what goes for the whole pool."""
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
        return f"paused by {self.by_whom}"

    @property
    def by_whom(self) -> str:
        """A text for people: "ann: maintenance"."""
        return one_line(self.by) + (f": {one_line(self.message)}" if self.message else "")


@dataclass
class Issued:
    """Orders that were given to pilots."""

    given: list[Given] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why others were not given, a line for each."""


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
    note = note_of(client, message, by)
    client.edit(POOL_ID, lambda content: {**_without_notes(content), "type": "pool", "paused": note})
    return _spread_pause(client)


def resume_pool(client: CouchDB, message: str = "", by: str | None = None) -> Issued:
    """End the pause of the pool.

    :param message: why, for people; who resumes the pool after that reads it
    :param by: see `pause_pool`
    :raises couchdb.http.HTTPError: if the database refuses the change
    """
    was_paused = find_pause(client) is not None
    if was_paused:
        note = note_of(client, message, by)
        client.edit(POOL_ID, lambda content: {**_without_notes(content), "resumed": note})
    issued = _spread_pause(client)
    return issued if was_paused or issued.given else Issued(problems=[_not_paused(client)])


def _without_notes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the pool's document without who has paused or resumed the pool."""
    return {name: value for name, value in content.items() if name not in ("paused", "resumed")}


def _not_paused(client: CouchDB) -> str:
    """Return a line that says that the pool is not paused, and who has resumed it last."""
    try:
        last = as_pause(client.get(POOL_ID).get("resumed"))
    except NoSuchDocument:
        last = None
    if last is None:
        return "the pool is not paused"
    ago = duration_text(max(0, time.time() - last.time))
    return f"the pool is not paused: it was resumed {ago} ago by {last.by_whom}"


def _spread_pause(client: CouchDB) -> Issued:
    """Bring the state of the pool, paused or not, to the pilots. One that starts meanwhile reads it by itself.

    The pool is read again afterwards: if somebody else has paused or resumed it meanwhile, one may have overwritten the
    orders of the other.
    """
    given: dict[str, Given] = {}
    pause = find_pause(client)
    while True:
        # A pilot that is marked as dead may return: it is not to be paused for ever.
        chosen = [pilot for pilot in pilots(client) if is_running(pilot) or PAUSE in orders_in(pilot)]
        differing = [pilot for pilot in chosen if as_pause(orders_in(pilot).get(PAUSE)) != pause]
        running = {pilot["_id"] for pilot in differing if is_running(pilot)}
        orders = give_all(client, differing, partial(_with_pause, pause=pause))
        given.update((order.pilot, order) for order in orders if order.pilot in running)
        before, pause = pause, find_pause(client)
        if pause == before:
            return Issued(list(given.values()), [] if pause is None else _of_older_releases(filter(is_running, chosen)))


def _with_pause(orders: Orders, pause: Pause | None) -> Orders:
    others = {kind: order for kind, order in orders.items() if kind != PAUSE}
    return others if pause is None else {**others, PAUSE: asdict(pause)}


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
    note = note_of(client, message, by)
    everybody = pilots(client)
    found, problems = _choose(everybody, names)
    problems += _of_older_releases(found)
    return Issued(give_all(client, found, lambda orders: {**orders, DRAIN: note}), problems)


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
