"""Taking turns: of all autopilots that look at a class, on any machine, one at a time may submit jobs for it.

The turn is in the document of the class. The revision check lets one autopilot win, which gives the turn back after its
look. If it is killed before that, another one takes the turn over after a lease: each host notes in the document when
it first saw that turn, by its own clock, so that autopilots that cron starts for a moment can do this too.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from couchdb.http import HTTPError, ResourceConflict

from ..clients import CouchDB
from ..exceptions import PicasError
from ..picaslogger import get_logger
from ..pool import Stray, withdraw
from .clocks import note_time, time_left
from .job_records import Record

log = get_logger(__name__)

LEASE = 300.0
"""Seconds after which another autopilot takes over a turn that was not given back."""
LONGEST_TURN = 120.0
"""Seconds after which the holder of a turn submits nothing more: another one may take it over. A command that was begun
before ends in time."""

_TURN = "turn"
_DOUBTS = "doubts"


@dataclass
class Turns:
    """The turns that this autopilot has in one look.

    :param place: the queue that it looks at, see `Scheduler.place`
    :param id: the id of the autopilot
    """

    client: CouchDB
    place: str
    id: str
    records: dict[str, Record] = field(default_factory=dict)
    """What is remembered of each class, by its name."""
    busy: dict[str, str] = field(default_factory=dict)
    """Who has the turn of a class instead, for people."""
    _contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    _held: set[str] = field(default_factory=set)
    _since: float = field(default_factory=monotonic)

    def read(self, names: Iterable[str]) -> None:
        """Read the documents of some classes."""
        for name in names:
            self.records[name] = Record(name, self.place)
        ids = {record.id: record.class_name for record in self.records.values()}
        for row in self.client.all_docs(keys=list(ids), include_docs=True) if ids else ():
            content = dict(row.get("doc") or {})
            if content:
                name = ids[content["_id"]]
                self._contents[name] = content
                self.records[name] = Record.read(name, content, self.place)

    def take(self, name: str) -> bool:
        """Take the turn of a class, and return whether that worked; if not, `busy` says who has it.

        :raises PicasError, couchdb.http.HTTPError: if the server accepts no change of the document
        """
        content = self._contents.get(name) or self._create(name)
        turn = content.get(_TURN)
        if isinstance(turn, dict) and turn.get("id") != self.id:  # its own is left if the server went away
            doubts = content.get(_DOUBTS)
            noted = note_time(doubts if isinstance(doubts, dict) else {})
            if time_left(noted, LEASE):
                self.busy[name] = _holder(turn)
                if noted != doubts:
                    self._note_doubts(name, turn, noted)
                return False
            log.warning("%s: the autopilot on %s has not given back its turn: taking over", name, turn.get("host"))
        own = {"id": self.id, "host": socket.gethostname(), "pid": os.getpid()}
        wanted = {**content, _TURN: own, _DOUBTS: {}}
        written = self.client.write_documents([wanted])
        if written.revs[0] is None:
            self.busy[name] = self._winner(self.records[name].id, content)
            return False
        if self.client.copies > 1 and not written.has_quorum[0]:  # another one may have won on the other nodes
            self.busy[name] = "no majority of the cluster has noted the turn"
            with contextlib.suppress(PicasError, HTTPError):
                withdraw(self.client, Stray(wanted, content))
            return False
        if not self._held:
            self._since = monotonic()
        self._held.add(name)
        return True

    def is_long(self) -> bool:
        """Return whether the turns have lasted so long that nothing may be submitted any more."""
        return monotonic() - self._since > LONGEST_TURN

    def save(self) -> None:
        """Save what is remembered of the classes, and give back the turns.

        A class whose turn somebody else has is left alone.
        """
        for name, record in self.records.items():
            if name in self._contents and name not in self.busy:
                self.client.edit(record.id, partial(self._changed, record))
        self._held.clear()

    def give_back(self) -> None:
        """Give back the turns after an error, as far as that is possible."""
        with contextlib.suppress(PicasError, HTTPError, OSError):
            self.save()

    def _changed(self, record: Record, stored: dict[str, Any]) -> dict[str, Any]:
        turn, is_held = stored.get(_TURN), record.class_name in self._held
        holder = turn.get("id") if isinstance(turn, dict) else None
        if holder != (self.id if is_held else None):
            if is_held:
                log.warning("%s: another autopilot has taken over the turn of this one", record.class_name)
            return stored
        return {**stored, **record.fields(), _TURN: None, _DOUBTS: {}}

    def _create(self, name: str) -> dict[str, Any]:
        record = self.records[name]
        content = {"_id": record.id, **record.fields(), _TURN: None, _DOUBTS: {}}
        with contextlib.suppress(ResourceConflict):  # somebody else was faster, and the turn will be refused too
            self.client.save(content)
        self._contents[name] = content
        return content

    def _winner(self, id: str, content: dict[str, Any]) -> str:
        """Return who has changed a document meanwhile.

        :raises PicasError: if nobody has: this user may not
        """
        stored = self.client.get(id)
        if stored.rev == content.get("_rev"):
            raise PicasError(f"the server accepts no change of {id} by this user")
        turn = stored.get(_TURN)
        return _holder(turn) if isinstance(turn, dict) else "it was faster"

    def _note_doubts(self, name: str, turn: dict[str, Any], noted: dict[str, float]) -> None:
        def note(stored: dict[str, Any]) -> dict[str, Any]:
            return {**stored, _DOUBTS: noted} if stored.get(_TURN) == turn else stored

        self.client.edit(self.records[name].id, note)


def _holder(turn: dict[str, Any]) -> str:
    return f"{turn.get('host')}, process {turn.get('pid')}"
