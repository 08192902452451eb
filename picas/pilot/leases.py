"""Leases: finding dead pilots, and putting back their tokens.

Each pilot saves a document of its own again and again (see `heartbeat`). The other pilots read the revisions of all
these documents now and then. If a revision has not changed for the lease, on the clock of the pilot that reads it, its
pilot counts as dead. The pilot that finds this

1. marks the document as dead. If the pilot was only cut off, it sees the mark when it returns, and checks its tokens;
2. puts back the tokens whose claims name the dead pilot. All pilots that see the mark do the same, since the one that
   made it may have died. A token that was put back already is left alone.

On a cluster both count only if a majority of the copies took the write (see `quorum`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from couchdb.http import ResourceNotFound

from .. import modifiers
from ..clients import CouchDB
from ..documents import Document
from ..exceptions import NoSuchDocument
from ..picaslogger import get_logger
from ..pool import Reader, Stray, drop_beside_others, withdraw
from ..tokens.states import is_in_state
from ..util import is_number, list_in, seconds
from ..views import CLAIMS, DESIGN_DOC
from .cancelling import cancel_put_back
from .identity import DEAD, TYPE, pilot_rows
from .mailbox import CANCEL, entries_in, orders_in

log = get_logger(__name__)

LEASE = 600.0
"""Seconds without a heartbeat after which a pilot counts as dead."""
MAX_LOST = 3
"""How often a token may lose its pilot. After that it counts as failed: it may be what kills the pilots."""
KEPT = 7 * 86400
"""Seconds that the document of a dead pilot is kept for people to see, by the clock of the pilot that deletes it."""
SECONDS_PER_PILOT = 0.6
"""The shortest time between two looks, in seconds for each pilot: 1,000 pilots look 1.7 times a second together."""
PAGE = 200
"""The most tokens to put back with one request."""


@dataclass
class _Sighting:
    """A revision of a pilot's document, as this pilot has seen it."""

    rev: str
    since: float
    """When it was first seen, on the clock of `time.monotonic`."""
    lease: float
    """Seconds without a change after which the pilot counts as dead."""
    is_settled: bool = False
    """Whether there is nothing more to find out about it."""


class Watch:
    """Looks at the other pilots of a pool.

    :param client: the pool
    :param pilot: the id of the pilot that looks, '' for none
    :param lease: seconds without a heartbeat after which a pilot counts as dead. A pilot has more if its document says
        so.
    :param max_lost: how often a token may lose its pilot; after that it counts as failed
    :param design_doc: the design document with the view of the claims
    :param also: called with the client after each look
    """

    def __init__(
        self,
        client: CouchDB,
        pilot: str = "",
        lease: float = LEASE,
        max_lost: int = MAX_LOST,
        design_doc: str = DESIGN_DOC,
        also: Callable[[CouchDB], object] | None = None,
    ) -> None:
        self.client = client
        self.lease = lease
        self.interval = lease / 4
        """Seconds between two looks."""
        self.pilots = 0
        """The number of pilots that the last look has found."""
        self.put_back: list[str] = []
        """The ids of the tokens that were put back since the last look."""
        self._pilot = pilot
        self._max_lost = max_lost
        self._design_doc = design_doc
        self._also = also
        self._seen: dict[str, _Sighting] = {}
        self._dead: dict[str, float] = {}  # dead pilots, and the times until which to look for their tokens
        self._cancels: dict[str, dict[str, Any]] = {}  # the orders to cancel tokens that they have not obeyed
        self._reader = Reader()
        self._strays: list[Stray] = []  # writes of ours that no majority has taken

    def look(self) -> float:
        """Look at all pilots once, put back the tokens of dead pilots, and return the seconds until the next look.

        :raises PicasError, couchdb.http.HTTPError: if the database is away; call this again then
        """
        self.put_back = []
        while self._strays:
            withdraw(self.client, self._strays[-1])
            self._strays.pop()
        self.pilots = self._note_revisions()
        for id in [id for id, sighting in self._seen.items() if self._is_silent(sighting)]:
            self._examine(id)
        self._dead = {id: until for id, until in self._dead.items() if until > time.monotonic()}
        if self._dead:
            self._put_back(list(self._dead))
        self._cancels = {id: orders for id, orders in self._cancels.items() if orders and id in self._dead}
        for id, orders in self._cancels.items():
            self._cancels[id] = cancel_put_back(self.client, orders)
        self.interval = min(self.lease, max(self.lease / 4, self.pilots * SECONDS_PER_PILOT))
        if self._also is not None:
            self._also(self.client)
        return self.interval

    def silence(self, pilot: str) -> float:
        """Return for how many seconds, at least, a pilot has had no heartbeat; 0 if that is unknown."""
        sighting = self._seen.get(pilot)
        return 0.0 if sighting is None else time.monotonic() - sighting.since

    def _note_revisions(self) -> int:
        """Note which documents have changed, and return the number of pilots."""
        now = time.monotonic()
        rows = pilot_rows(self.client)
        seen = {row.id: row.value["rev"] for row in rows if row.id != self._pilot}
        for id, rev in seen.items():
            known = self._seen.get(id)
            if known is None or known.rev != rev:
                self._seen[id] = _Sighting(rev, now, self.lease)
                self._dead.pop(id, None)  # the pilot has returned
        self._seen = {id: sighting for id, sighting in self._seen.items() if id in seen}
        return len(rows)

    def _is_silent(self, sighting: _Sighting) -> bool:
        return not sighting.is_settled and time.monotonic() - sighting.since >= sighting.lease

    def _examine(self, id: str) -> None:
        """Find out why a pilot's document has not changed for the lease."""
        sighting = self._seen[id]
        try:
            document = self.client.get(id)
        except NoSuchDocument:
            return  # the pilot has just ended
        if document.rev != sighting.rev:
            return  # the next look will note the change
        if document.get("type") != TYPE:
            sighting.is_settled = True
        elif document.get("state") == DEAD:
            sighting.is_settled = True
            self._bury(document)
        else:
            lease = _own_lease(document)
            if lease > sighting.lease:
                sighting.lease = lease
            elif self._mark(document):
                log.warning("Pilot %s has had no heartbeat for %.0f s: its tokens are put back", id, sighting.lease)
                self._note_dead(document)

    def _bury(self, document: Document) -> None:
        """Look for the tokens of a pilot that others have marked as dead, and delete its document if it is old."""
        self._note_dead(document)
        self._seen[document.id].lease = _own_lease(document)  # the other pilot has waited for that, at least
        end = document.get("end")
        if is_number(end) and end + KEPT < seconds():
            self.client.delete_documents([document])

    def _note_dead(self, document: Document) -> None:
        self._dead[document.id] = time.monotonic() + self.lease
        self._cancels[document.id] = entries_in(orders_in(document), CANCEL)

    def _mark(self, document: Document) -> bool:
        """Mark a pilot as dead and return whether that worked. If not, it is alive, or another pilot has marked it."""
        base = dict(document.value)
        document.update({"state": DEAD, "end": seconds()})
        if not self._write([document], [base])[0]:
            return False
        lease = self._seen[document.id].lease
        self._seen[document.id] = _Sighting(document.rev, time.monotonic(), lease, is_settled=True)
        ids = [str(id) for id in list_in(document, "holds")]
        if ids:  # for a pool that has no view of the claims
            self._put_back_tokens(self._reader.documents(self.client, ids), [document.id])
        return True

    def _put_back(self, pilots: Sequence[str]) -> None:
        """Put back the tokens that these pilots hold."""
        try:
            _, tokens = self._reader.rows(self.client, CLAIMS, design_doc=self._design_doc, keys=list(pilots))
        except ResourceNotFound:
            log.info("There is no view %s/%s: create it with picas views", self._design_doc, CLAIMS)
            return
        self._put_back_tokens(tokens, pilots)

    def _put_back_tokens(self, tokens: Iterable[Document], pilots: Sequence[str]) -> None:
        lost = [
            token
            for token in tokens
            if is_in_state(token, "locked") and modifiers.claim_of(token).get("pilot") in pilots
        ]
        if self.client.copies > 1:  # a pilot may have died before it could withdraw a lock without a majority
            lost = [token for token in lost if not drop_beside_others(self.client, token)]
        for first in range(0, len(lost), PAGE):
            page = lost[first : first + PAGE]
            bases = [dict(token.value) for token in page]
            for token in page:
                pilot = self._seen.get(str(modifiers.claim_of(token).get("pilot")))
                modifiers.lose(token, self._max_lost, 0.0 if pilot is None else pilot.lease)
            is_written = self._write(page, bases)
            done = [token for token, worked in zip(page, is_written) if worked]
            for token in done:
                log.warning("Token %s has lost its pilot (%s times so far)", token.id, token["lost_count"])
            self.put_back += [token.id for token in done]

    def _write(self, documents: Sequence[Document], bases: Sequence[dict[str, Any]]) -> list[bool]:
        """Save documents and return for each whether that worked: nobody else has changed it, and a majority has it."""
        written = self.client.write_documents(documents)
        is_written = []
        for document, base, rev, has_quorum in zip(documents, bases, written.revs, written.has_quorum):
            counts = has_quorum or self.client.copies == 1
            if rev is not None and not counts:
                self._strays.append(Stray(dict(document.value), base))
            is_written.append(rev is not None and counts)
        return is_written


def _own_lease(document: Document) -> float:
    """Return the lease in a pilot's document, 0 if it has none that is a number."""
    lease = document.get("lease")
    return lease if is_number(lease) else 0.0  # not converted: a whole number can be larger than any float
