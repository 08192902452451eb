"""The pilots of a pool as their documents show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..clients import CouchDB
from ..jobid import job_id_of
from ..tokens.resources import Resources, needs_of
from ..util import is_number, number_or_none
from .identity import DEAD, ENDED, ENDED_PREFIX, RUNNING, TYPE, pilot_rows

BEATS_UNTIL_SILENT = 3
"""For people, a pilot is silent once its document is older than so many of its heartbeats."""
MAX_ENDED = 1_000
"""How many of the pilots that have ended are read by default."""

_FAILURES = ("failed", "time-out", "cancelled")
_LARGEST = 1e11  # seconds; a later time is no date of Python, and a larger number is no count either


@dataclass(frozen=True)
class PilotTimes:
    """When a pilot did what, by its own clock. What it does not say is None."""

    start: float | None = None
    """When it started, in seconds since the epoch."""
    saved: float | None = None
    """When its document was last saved, in seconds since the epoch."""
    heartbeat: float | None = None
    """Seconds between two saves."""
    left: float | None = None
    """Seconds until it stops working on tokens, as of `saved`."""
    end: float | None = None
    """When it ended, in seconds since the epoch."""


@dataclass(frozen=True)
class PilotSummary:
    """What a pilot's document says, for people. What it does not say is None."""

    id: str
    state: str
    """`identity.RUNNING`, `DEAD` or `ENDED`."""
    host: str | None = None
    job_id: str | None = None
    """The id of its batch job, None outside of jobs."""
    version: str | None = None
    """The release of picas that it runs."""
    slots: int | None = None
    slots_busy: int | None = None
    done: int = 0
    """How many attempts on tokens have succeeded."""
    failed: int = 0
    """How many attempts have failed, timed out, or were cancelled."""
    busy_seconds: float | None = None
    """Seconds that its slots have spent on tokens, together."""
    idle_seconds: float | None = None
    """Seconds that its slots have spent without a token, together."""
    times: PilotTimes = PilotTimes()

    @property
    def is_running(self) -> bool:
        """Whether it runs as far as is known; it may be silent."""
        return self.state == RUNNING

    def silent_since(self, now: float) -> float | None:
        """Return the time of its last sign of life if it runs but has missed some heartbeats, else None.

        The clocks of two machines are compared here, so this is for people to see only.

        :param now: the time, in seconds since the epoch
        """
        saved, heartbeat = self.times.saved, self.times.heartbeat
        if not self.is_running or saved is None or not heartbeat:
            return None
        return saved if now - saved > BEATS_UNTIL_SILENT * heartbeat else None


@dataclass(frozen=True)
class FleetCount:
    """How many pilots run, and how many of their slots are busy."""

    running: int = 0
    silent: int = 0
    """The number of pilots that are silent; they are not among those that run."""
    slots: int = 0
    slots_busy: int = 0
    since: float | None = None
    """When the oldest of the running pilots has started, in seconds since the epoch; None if that is unknown."""


def running_pilots(client: CouchDB) -> Iterator[dict[str, Any]]:
    """Yield the documents of the pilots that are not marked as dead."""
    for document in _pilot_documents(client):
        if document.get("state") == RUNNING:
            yield document


def list_pilots(client: CouchDB) -> list[PilotSummary]:
    """Return the pilots that run, and those that were found dead, in the order of their ids."""
    return [summarize(document) for document in _pilot_documents(client) if document.get("state") in (RUNNING, DEAD)]


def ended_pilots(client: CouchDB, limit: int = MAX_ENDED) -> list[PilotSummary]:
    """Return the pilots that have ended cleanly within the last days, the newest end first.

    :param client: the pool
    :param limit: how many to return at most
    """
    rows = client.all_docs(
        startkey=ENDED_PREFIX + "\ufff0", endkey=ENDED_PREFIX, descending=True, limit=limit, include_docs=True
    )
    documents = [dict(row["doc"]) for row in rows if row.get("doc")]
    return [summarize(document) for document in documents if document.get("state") == ENDED]


def summarize(document: Mapping[str, Any]) -> PilotSummary:
    """Return what the document of a pilot says."""
    outcomes = document.get("outcomes")
    counts = outcomes if isinstance(outcomes, dict) else {}
    slots, busy = _count_in(document, "slots"), _count_in(document, "slots_busy")
    free = _count_in(document, "free")  # older releases write only this
    if busy is None and slots is not None and free is not None:
        busy = max(0, slots - free)
    runs, ended = (document.get("state") == state for state in (RUNNING, ENDED))
    return PilotSummary(
        id=str(document.get("pilot") if ended else document.get("_id")),
        state=str(document.get("state")),
        host=_text_in(document, "host"),
        job_id=job_id_of(document) or None,
        version=_text_in(document, "version"),
        slots=slots,
        slots_busy=busy if runs else None,
        done=_count_in(counts, "done") or 0,
        failed=sum(_count_in(counts, outcome) or 0 for outcome in _FAILURES),
        busy_seconds=_number_in(document, "busy_seconds"),
        idle_seconds=_number_in(document, "idle_seconds"),
        times=PilotTimes(
            start=_number_in(document, "start"),
            saved=_number_in(document, "saved"),
            heartbeat=_number_in(document, "heartbeat"),
            left=_number_in(document, "time_left") if runs else None,
            end=_number_in(document, "end"),
        ),
    )


def count_fleet(pilots: Iterable[PilotSummary], now: float) -> FleetCount:
    """Count pilots and their slots. Those that were found dead, or have ended, do not count.

    :param pilots: what is known of each
    :param now: the time, in seconds since the epoch
    """
    running = [pilot for pilot in pilots if pilot.is_running]
    heard = [pilot for pilot in running if pilot.silent_since(now) is None]
    known = [pilot for pilot in heard if pilot.slots is not None and pilot.slots_busy is not None]
    return FleetCount(
        running=len(heard),
        silent=len(running) - len(heard),
        slots=sum(pilot.slots or 0 for pilot in known),
        slots_busy=sum(pilot.slots_busy or 0 for pilot in known),
        since=min((pilot.times.start for pilot in heard if pilot.times.start is not None), default=None),
    )


def _pilot_documents(client: CouchDB) -> Iterator[dict[str, Any]]:
    for row in pilot_rows(client, include_docs=True):
        document = row.get("doc")
        if document is not None and document.get("type") == TYPE:
            yield dict(document)


def resources_of(pilot: Mapping[str, Any]) -> Resources:
    """Return all resources of a pilot, whether they are in use or not, from its document."""
    has = needs_of(pilot)  # the fields are the same
    return has if has.memory else replace(has, memory=math.inf)


def time_left_of(pilot: Mapping[str, Any]) -> float:
    """Return the seconds that a pilot had left at its last heartbeat, infinity if its job has no end."""
    left = pilot.get("time_left")
    return left if is_number(left) else math.inf


def _number_in(fields: Mapping[str, Any], name: str) -> float | None:
    number = number_or_none(fields.get(name))
    return number if number is not None and 0 <= number < _LARGEST else None


def _count_in(fields: Mapping[str, Any], name: str) -> int | None:
    number = _number_in(fields, name)
    return None if number is None else int(number)


def _text_in(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None
