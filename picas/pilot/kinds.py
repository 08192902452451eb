"""The kinds of free tokens by what they need: those that no running pilot can take, and those that are invalid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..clients import CouchDB
from ..pool.edits import count_tokens
from ..tokens.job_ends import time_had, time_needed
from ..tokens.needs import fault_in
from ..tokens.resources import ONE_CORE, Resources, needs_of, walltime_of
from ..views import DESIGN_DOC, NEEDS, NEEDS_FIELDS
from .fleet import resources_of, running_pilots, time_left_of
from .mailbox import DRAIN, orders_in
from .shortfalls import silence_of

MAX_KINDS = 10_000
"""The most different needs to look at. In a pool with more, `TIMES` are ignored, and then the largest needs."""
TIMES = 2
"""How many of the last `NEEDS_FIELDS` are about time. Of all needs, these differ most from token to token."""


@dataclass(frozen=True)
class Kind:
    """Free tokens with the same needs."""

    count: int
    needs: Resources
    walltime: float | None
    """Seconds that the work on each may take, None if the tokens do not say."""
    time_had: float | None = None
    """The most seconds after which the end of a job has stopped one of them, see `job_ends.time_had`."""

    @property
    def time_needed(self) -> float:
        """The seconds that a pilot must have left."""
        return max(self.walltime or 0.0, time_needed(self.time_had))

    @property
    def is_modest(self) -> bool:
        """Whether they need no more than other tokens, so that any pilot can take them."""
        return self.needs == ONE_CORE and not self.time_needed

    def __str__(self) -> str:
        """Return a text for people: "3 need 4 cores, 1 GPU"."""
        time = "" if self.walltime is None else f", {self.walltime:.0f} s of walltime"
        more = "" if self.time_had is None else f", more time than the {self.time_had:.0f} s of earlier attempts"
        return f"{self.count} need{'s' if self.count == 1 else ''} {self.needs}{time}{more}"


@dataclass(frozen=True)
class InvalidNeeds:
    """Free tokens that say in an invalid way what they need, which counts as if they did not say it."""

    count: int
    fault: str
    """What is wrong with one of them, see `needs.fault_in`."""
    token: str | None
    """The id of this one; None if it is free no longer."""


@dataclass(frozen=True)
class NeedsSurvey:
    """What the free tokens of a pool need."""

    without_pilot: Sequence[Kind] = ()
    """Those with needs that no running pilot meets, the most frequent needs first."""
    invalid: InvalidNeeds | None = None
    is_complete: bool = True
    """Whether all of them were looked at, see `MAX_KINDS`."""


NO_NEEDS = NeedsSurvey()
"""What is known without the view of the needs."""


def survey_needs(client: CouchDB, design_doc: str = DESIGN_DOC) -> NeedsSurvey:
    """Return what the free tokens need that no running pilot has, and which needs are invalid.

    A pilot counts with all its resources, whether they are in use or not, and with the time that it had left at its
    last heartbeat. One that is silent, or is being drained, takes no token. Pilots of other programs and of older
    releases are unknown.

    :raises couchdb.ResourceNotFound: if there is no such view, as in a database of an older release
    """
    rows = _count_needs(client, design_doc)
    pilots = _helpful_pilots(client) if rows else set()
    left = _merge(
        kind
        for kind in map(_kind_of, rows)
        if not kind.is_modest
        and not any(has.cover(kind.needs) and kind.time_needed <= time_left for has, time_left in pilots)
    )
    left.sort(key=lambda kind: kind.count, reverse=True)
    return NeedsSurvey(left, _find_invalid(client, design_doc, rows), len(rows) < MAX_KINDS)


def free_kinds(client: CouchDB, design_doc: str) -> tuple[list[Kind], int]:
    """Return the free tokens that say what they need, by these needs, and how many there are in all.

    :raises couchdb.ResourceNotFound: if there is no such view
    """
    rows = _count_needs(client, design_doc)
    is_all = len(rows) < MAX_KINDS
    count = sum(row.value for row in rows) if is_all else count_tokens(client, NEEDS, design_doc)
    return list(map(_kind_of, rows)), count


def _count_needs(client: CouchDB, design_doc: str) -> list[Any]:
    """Return the rows of the view of the needs, without the times if these differ in too many tokens."""
    for level in range(len(NEEDS_FIELDS), len(NEEDS_FIELDS) - TIMES - 1, -1):
        rows: list[Any] = client.view(NEEDS, design_doc=design_doc, group_level=level, limit=MAX_KINDS + 1).rows
        if len(rows) <= MAX_KINDS:
            break
    return rows[:MAX_KINDS]


def _kind_of(row: Any) -> Kind:
    token = dict(zip(NEEDS_FIELDS, row.key))
    return Kind(row.value, needs_of(token), walltime_of(token), time_had(token))


def _helpful_pilots(client: CouchDB) -> set[tuple[Resources, float]]:
    """Return the resources and the seconds left of the pilots that may take another token: many have the same."""
    return {
        (resources_of(pilot), time_left_of(pilot))
        for pilot in running_pilots(client)
        if DRAIN not in orders_in(pilot) and silence_of(pilot) is None
    }


def _merge(kinds: Iterable[Kind]) -> list[Kind]:
    """Return kinds of which no two differ only in the time that they have had, or in how they write the same."""
    merged: dict[Any, Kind] = {}
    for kind in kinds:
        key = kind.needs, kind.walltime, kind.time_had is not None
        same = merged.get(key, kind)
        count = kind.count if same is kind else same.count + kind.count
        merged[key] = replace(max(same, kind, key=lambda each: each.time_needed), count=count)
    return list(merged.values())


def _find_invalid(client: CouchDB, design_doc: str, rows: Iterable[Any]) -> InvalidNeeds | None:
    """Return what is invalid in the rows of the view of the needs.

    It takes one small request if anything is.
    """
    faults = [(fault, row) for row in rows if (fault := fault_in(dict(zip(NEEDS_FIELDS, row.key)))) is not None]
    if not faults:
        return None
    fault, first = faults[0]
    found = client.view(NEEDS, design_doc=design_doc, startkey=first.key, reduce=False, limit=1).rows
    example = next((row.id for row in found if row.key[: len(first.key)] == first.key), None)
    return InvalidNeeds(sum(row.value for _, row in faults), fault, example)
