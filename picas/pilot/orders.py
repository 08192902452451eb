"""Orders: what people tell pilots to do.

An order is written into the pilot's own document. The next heartbeat of the pilot meets the conflict, reads the
document, and obeys. So an order costs no request while nobody gives any.

A pause of the whole pool is in a document of its own, which pilots read when they start.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..clients import CouchDB
from ..exceptions import NoSuchDocument

POOL_ID = "picas_pool"
"""The id of the document that holds what goes for the whole pool."""


@dataclass(frozen=True)
class Pause:
    """Who has paused the pool, when and why."""

    by: str
    time: int
    """Seconds since the epoch, by the clock of the person's machine."""
    message: str = ""


def find_pause(client: CouchDB) -> Pause | None:
    """Return the pause of the pool, None if it is not paused."""
    try:
        paused = client.get(POOL_ID).get("paused")
    except NoSuchDocument:
        return None
    if not isinstance(paused, dict):
        return None
    time = paused.get("time")
    return Pause(str(paused.get("by") or ""), time if isinstance(time, int) else 0, str(paused.get("message") or ""))
