"""The pilots that run, and the tokens that none of them can take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..clients import CouchDB
from ..tokens.resources import Resources, needs_of, walltime_of
from ..views import DESIGN_DOC, NEEDS, NEEDS_FIELDS
from .identity import RUNNING, TYPE, pilot_rows

MAX_KINDS = 10_000
"""How many different needs are looked at; a pool in which each token has its own may have more."""


@dataclass(frozen=True)
class Kind:
    """Free tokens that need the same."""

    count: int
    needs: Resources
    walltime: float | None
    """Seconds that the work on one may take, None if it does not say."""

    def __str__(self) -> str:
        """Return it as people read it: "3 need 4 cores, 1 GPU"."""
        time = "" if self.walltime is None else f", {self.walltime:.0f} s of walltime"
        return f"{self.count} need{'s' if self.count == 1 else ''} {self.needs}{time}"


def running_pilots(client: CouchDB) -> Iterator[dict[str, Any]]:
    """Yield the documents of the pilots that are not known to be dead."""
    rows = pilot_rows(client, include_docs=True)
    for row in rows:
        document = row.get("doc")
        if document is not None and document.get("type") == TYPE and document.get("state") == RUNNING:
            yield dict(document)


def without_pilot(client: CouchDB, design_doc: str = DESIGN_DOC) -> list[Kind]:
    """Return the free tokens that say what they need, and that no pilot which runs can take, the most first.

    A pilot counts with what it has, whether it is at work or not, and with the time that it had left when it was last
    heard of. Pilots of other programs and of older releases do not tell.

    :raises couchdb.ResourceNotFound: if there is no such view, as in a database of an older release
    """
    rows = client.view(NEEDS, design_doc=design_doc, group=True, limit=MAX_KINDS).rows
    kinds = [_kind(dict(zip(NEEDS_FIELDS, row.key)), row.value) for row in rows]
    pilots = [(_resources_of(pilot), _time_left(pilot)) for pilot in running_pilots(client)]
    left = [
        kind
        for kind in kinds
        if not any(has.cover(kind.needs) and (kind.walltime or 0) <= time_left for has, time_left in pilots)
    ]
    return sorted(left, key=lambda kind: kind.count, reverse=True)


def _kind(token: Mapping[str, Any], count: int) -> Kind:
    return Kind(count, needs_of(token), walltime_of(token))


def _resources_of(pilot: Mapping[str, Any]) -> Resources:
    has = needs_of(pilot)  # the fields are the same
    return has if has.memory else replace(has, memory=math.inf)


def _time_left(pilot: Mapping[str, Any]) -> float:
    left = pilot.get("time_left")
    return float(left) if isinstance(left, (int, float)) else math.inf
