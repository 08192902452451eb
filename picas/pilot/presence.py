"""Which pilots are alive, for a person who wants to reset the tokens that they hold.

Clocks of two machines are not compared, so no time in a pilot's document says anything. What can be known at once is
what the other pilots have found: a document that they have marked as dead, or one that is gone. If no other pilot is
running, nobody has looked. Then it takes a lease to find out: a pilot is silent if its document has not changed for its
lease, on the clock of the one who watches.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Callable

from ..clients import CouchDB
from ..util import number_or_none
from .identity import DEAD
from .leases import LEASE

POLL = 5.0
"""Seconds between two looks at most."""


def dead_pilots(client: CouchDB, pilots: Iterable[str]) -> set[str]:
    """Return those of some pilots that are marked as dead or have no document. The others may be alive.

    :param pilots: their ids
    """
    return {id for id, document in _documents(client, pilots).items() if _is_dead(document)}


def watch_time(client: CouchDB, pilots: Iterable[str]) -> float:
    """Return how many seconds `silent_pilots` takes at most: the longest lease."""
    return max(map(_lease_of, _documents(client, pilots).values()), default=0.0)


def silent_pilots(client: CouchDB, pilots: Iterable[str], sleep: Callable[[float], object] = time.sleep) -> set[str]:
    """Watch some pilots, and return those that are dead or silent. This ends early if all others show that they live.

    :param pilots: their ids
    :param sleep: called with the seconds until the next look
    """
    documents = _documents(client, pilots)
    since = time.monotonic()
    revs = {id: document.get("_rev") for id, document in documents.items()}
    found: set[str] = set()
    while documents:
        now = time.monotonic() - since
        dead = {id for id, document in documents.items() if _is_dead(document)}
        same = {id for id, document in documents.items() if document.get("_rev") == revs[id]} - dead
        silent = {id for id in same if now >= _lease_of(documents[id])}
        found |= dead | silent
        left = same - silent
        if not left:
            break
        sleep(min(POLL, *(_lease_of(documents[id]) - now for id in left)))
        documents = _documents(client, left)
    return found


def _documents(client: CouchDB, pilots: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the documents of pilots by their ids; an empty one where there is none."""
    ids = sorted(set(pilots))
    rows = client.all_docs(keys=ids, include_docs=True) if ids else []
    return {id: dict(row.get("doc") or {}) for id, row in zip(ids, rows)}


def _is_dead(document: dict[str, Any]) -> bool:
    return not document or document.get("state") == DEAD


def _lease_of(document: dict[str, Any]) -> float:
    lease = number_or_none(document.get("lease"))
    return LEASE if lease is None else lease
