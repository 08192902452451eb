"""The field of a pilot's document in which people leave their orders.

An order is a change of the document. The next heartbeat of the pilot meets the conflict, reads the document, and saves
it with the orders that stand. The revision check keeps every order: a pilot can't save its document over an order that
it has not read, nor can two people overwrite each other's.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ..clients import CouchDB
from ..exceptions import PicasError
from ..util import number_or_none, one_line, seconds
from .identity import DEAD, RUNNING, TYPE, pilot_rows

FIELD = "orders"
"""The field of a pilot's document: a dict by the kind of order."""
CANCEL = "cancel"
"""Tokens whose work is to end: for each id the claim, and who says so. Dropped once the work is being ended."""
WATCH = "watch"
"""Tokens whose output is to be shown: for each id the claim. Dropped at once."""
DRAIN = "drain"
"""Who lets the pilot end once its tokens have ended. Stays."""
PAUSE = "pause"
"""Who has paused the pool, as in the document of the pool. Stays until the pool is resumed."""

OLDER = "runs an older release, which knows no orders"
"""Why a pilot can't be given orders, for people."""
PAGE = 1000
"""The most pilots whose documents are read with one request."""
MAX_MESSAGE = 120
"""How many characters of a message are kept."""
POLL = 2.0
"""The longest pause between two looks at the pilots, in seconds."""

Orders = dict[str, Any]


class NotRunning(PicasError):
    """A pilot can't be given orders: it has ended, is marked as dead, or runs an older release."""


class HasLeft(NotRunning):
    """A pilot has ended, and its document is gone."""


@dataclass(frozen=True)
class Given:
    """An order that is in a pilot's document."""

    pilot: str
    beat: Any
    """The number of the pilot's last heartbeat before the order."""
    within: float | None = None
    """Seconds within which the pilot reads it, if it is alive: the time between two of its heartbeats."""


def note_of(client: CouchDB, message: str, by: str | None) -> dict[str, Any]:
    """Return who gives an order, when and why, as documents hold it.

    :param message: why
    :param by: who, by default the pool's user, or the login name
    """
    name = by or client.username
    if not name:
        with contextlib.suppress(Exception):  # KeyError or OSError, by the version of Python: a user without a name
            name = getpass.getuser()
    return {"by": name or "somebody", "time": seconds(), "message": one_line(message)[:MAX_MESSAGE]}


def orders_in(document: Mapping[str, Any]) -> Orders:
    """Return a copy of the orders in a pilot's document."""
    orders = document.get(FIELD)
    return dict(orders) if isinstance(orders, dict) else {}


def entries_in(orders: Orders, kind: str) -> dict[str, Any]:
    """Return a copy of the entries of a kind of order that has one for each token."""
    entries = orders.get(kind)
    return dict(entries) if isinstance(entries, dict) else {}


def pilots(client: CouchDB) -> list[dict[str, Any]]:
    """Return the documents of all pilots that run, and of those that are marked as dead."""
    documents = [row.get("doc") for row in pilot_rows(client, include_docs=True)]
    return [dict(document) for document in documents if document is not None and document.get("type") == TYPE]


def is_running(pilot: Mapping[str, Any]) -> bool:
    """Return whether a pilot runs, by its document."""
    return pilot.get("state") == RUNNING


def knows_orders(pilot: Mapping[str, Any]) -> bool:
    """Return whether a pilot's release knows orders, by its document; one that does not would drop them."""
    return FIELD in pilot


def give(client: CouchDB, pilot: str, change: Callable[[Orders], Orders], *, even_dead: bool = False) -> Given:
    """Write an order into a pilot's document.

    :param client: the pool
    :param pilot: the pilot's id
    :param change: gets the orders in the document, and returns the new ones; it may be called several times
    :param even_dead: whether a pilot that is marked as dead gets the order too
    :raises NotRunning: if the pilot has ended, is marked as dead, or runs an older release
    :raises couchdb.http.HTTPError: if the database refuses the change
    """
    given = Given(pilot, None)

    def edit(content: dict[str, Any]) -> dict[str, Any]:
        nonlocal given
        if content.get("type") != TYPE:
            raise HasLeft(f"{pilot} has left the pool")
        if not is_running(content) and not even_dead:
            raise NotRunning(f"{pilot} is marked as dead")
        if not knows_orders(content):
            raise NotRunning(f"{pilot} {OLDER}")
        given = _given(content)
        return {**content, FIELD: change(orders_in(content))}

    client.edit(pilot, edit)
    return given


def give_all(client: CouchDB, documents: Sequence[dict[str, Any]], change: Callable[[Orders], Orders]) -> list[Given]:
    """Write an order into the documents of many pilots, with few requests.

    Those that have ended, or that know no orders, are left out.

    :param documents: the documents, just read
    :param change: see `give`
    """
    given = []
    documents = list(filter(knows_orders, documents))
    changed = [{**document, FIELD: change(orders_in(document))} for document in documents]
    revs = client.write_documents(changed).revs
    for document, rev in zip(documents, revs):
        if rev is not None:
            given.append(_given(document))
            continue
        try:  # a heartbeat was faster, or the server refuses the change and says so here
            given.append(give(client, document["_id"], change, even_dead=not is_running(document)))
        except NotRunning:
            continue
    return given


def wait_until_obeyed(
    client: CouchDB,
    given: Iterable[Given],
    timeout: float = math.inf,
    *,
    until_ended: bool = False,
    sleep: Callable[[float], object] = time.sleep,
) -> list[str]:
    """Wait until pilots have read their orders, and return the ids of those that have.

    The wait ends early if the others are marked as dead, or have had no heartbeat for their lease.

    :param given: the orders
    :param timeout: seconds to wait at most
    :param until_ended: whether to wait until the pilots have ended
    :param sleep: called with the seconds until the next look
    """
    give_up = time.monotonic() + timeout
    obeyed: list[str] = []
    left = {each.pilot: each for each in given}
    pause = 0.05
    beats = Beats()
    while left:
        for id, document in documents_of(client, list(left)).items():
            if document is None or (not until_ended and document.get("beat") != left[id].beat):
                obeyed.append(id)
                del left[id]
            elif document.get("state") == DEAD or beats.has_stopped(document):
                del left[id]
        remaining = give_up - time.monotonic()
        if not left or remaining <= 0:
            break
        sleep(min(pause, remaining))
        pause = min(2 * pause, POLL)
    return obeyed


def _given(document: Mapping[str, Any]) -> Given:
    return Given(document["_id"], document.get("beat"), number_or_none(document.get("heartbeat")))


class Beats:
    """Notices pilots that have no heartbeat for as long as their lease, on the clock of this machine."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, float]] = {}  # the number of the last by pilot, and when it was first seen

    def has_stopped(self, document: Mapping[str, Any]) -> bool:
        """Return whether a pilot has none, by its document as it is now."""
        id, beat, now = document["_id"], document.get("beat"), time.monotonic()
        if id not in self._last or self._last[id][0] != beat:
            self._last[id] = beat, now
        lease = number_or_none(document.get("lease"))
        return lease is not None and now - self._last[id][1] > lease


def documents_of(client: CouchDB, ids: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Return the documents of pilots by their ids, None for those that have left the pool."""
    found: dict[str, dict[str, Any] | None] = {}
    for first in range(0, len(ids), PAGE):
        page = ids[first : first + PAGE]
        rows = client.all_docs(keys=page, include_docs=True)
        found.update((id, row.get("doc")) for id, row in zip(page, rows))
    return found
