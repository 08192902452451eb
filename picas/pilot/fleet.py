"""The pilots that are running, and the free tokens that none of them can take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..clients import CouchDB
from ..tokens.resources import Resources, needs_of, walltime_of
from ..util import is_number
from ..views import DESIGN_DOC, NEEDS, NEEDS_FIELDS
from .identity import RUNNING, TYPE, pilot_rows

MAX_KINDS = 10_000
"""The most different needs to look at. A pool in which each token has its own may have more."""


@dataclass(frozen=True)
class Kind:
    """Free tokens with the same needs."""

    count: int
    needs: Resources
    walltime: float | None
    """Seconds that the work on each may take, None if the tokens do not say."""

    def __str__(self) -> str:
        """Return a text for people: "3 need 4 cores, 1 GPU"."""
        time = "" if self.walltime is None else f", {self.walltime:.0f} s of walltime"
        return f"{self.count} need{'s' if self.count == 1 else ''} {self.needs}{time}"


def running_pilots(client: CouchDB) -> Iterator[dict[str, Any]]:
    """Yield the documents of the pilots that are not marked as dead."""
    for row in pilot_rows(client, include_docs=True):
        document = row.get("doc")
        if document is not None and document.get("type") == TYPE and document.get("state") == RUNNING:
            yield dict(document)


def without_pilot(client: CouchDB, design_doc: str = DESIGN_DOC) -> list[Kind]:
    """Return the free tokens with needs that no running pilot meets, the most frequent needs first.

    A pilot counts with all its resources, whether they are in use or not, and with the time that it had left at its
    last heartbeat. Pilots of other programs and of older releases are unknown.

    :raises couchdb.ResourceNotFound: if there is no such view, as in a database of an older release
    """
    rows = client.view(NEEDS, design_doc=design_doc, group=True, limit=MAX_KINDS).rows
    kinds = [_kind(dict(zip(NEEDS_FIELDS, row.key)), row.value) for row in rows]
    pilots = [(resources_of(pilot), time_left_of(pilot)) for pilot in running_pilots(client)]
    left = [
        kind
        for kind in kinds
        if not any(has.cover(kind.needs) and (kind.walltime or 0) <= time_left for has, time_left in pilots)
    ]
    return sorted(left, key=lambda kind: kind.count, reverse=True)


def _kind(token: Mapping[str, Any], count: int) -> Kind:
    return Kind(count, needs_of(token), walltime_of(token))


def resources_of(pilot: Mapping[str, Any]) -> Resources:
    """Return all resources of a pilot, whether they are in use or not, from its document."""
    has = needs_of(pilot)  # the fields are the same
    return has if has.memory else replace(has, memory=math.inf)


def time_left_of(pilot: Mapping[str, Any]) -> float:
    """Return the seconds that a pilot had left at its last heartbeat, infinity if its job has no end."""
    left = pilot.get("time_left")
    return left if is_number(left) else math.inf
