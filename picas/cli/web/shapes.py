"""What programs and the page itself get of the pool as JSON: objects in the schemas of the command where it has one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...pilot.fleet import PilotSummary
from ...pool.history import Bin, End
from ...views import DESIGN_DOC
from .. import pilots, status
from ..output import json_time
from .poller import Snapshot

MAX_GROUPS = 8
"""How many groups of failures are sent to each page again and again."""
MAX_PILOTS = 8
"""How many pilots are sent to each page again and again."""


def as_schema(verb: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of JSON in the schema of a verb."""
    return {"schema": f"picas.{verb}/1", **fields}


def status_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return what `picas status --json` prints."""
    return as_schema("status", status.to_json(snapshot.overview, DESIGN_DOC))


def errors_json(snapshot: Snapshot) -> list[dict[str, Any]] | None:
    """Return what `picas errors --json` prints, None if it is unknown."""
    if snapshot.failures is None:
        return None
    return [as_schema("errors", status.failure_json(group)) for group in snapshot.failures.groups]


def pilots_json(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return what `picas pilots --json` prints; pilots that were found dead are among them, as with `--all`."""
    now = time.time()
    return [as_schema("pilots", pilots.to_json(pilot, now)) for pilot in snapshot.overview.pilots]


def looks_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return when the pool was read, and what is in the way."""
    return {
        "read": json_time(snapshot.time),
        "age_seconds": round(max(0.0, time.time() - snapshot.time), 1),
        "away_since": json_time(snapshot.away_since),
        "problem": snapshot.problem,
        "indexing": snapshot.indexing,
    }


def history_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return the ends of attempts in the last hour, and the newest of them."""
    return as_schema("history", {"minutes": _minutes(snapshot.history), "newest": _newest(snapshot.newest)})


def details_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return what a page shows of the pool besides its status."""
    now = time.time()
    failures = snapshot.failures
    shown = errors_json(snapshot)
    rest = sum(group.count for group in failures.groups[MAX_GROUPS:]) + failures.other_tokens if failures else 0
    chosen = sorted(snapshot.overview.pilots, key=lambda pilot: _attention(pilot, now))[:MAX_PILOTS]
    return {
        "errors": shown and shown[:MAX_GROUPS],
        "in_other_errors": rest,
        "pilots": [as_schema("pilots", pilots.to_json(pilot, now)) for pilot in chosen],
        "pilots_known": len(snapshot.overview.pilots),
        "minutes": _minutes(snapshot.history),
        "newest": _newest(snapshot.newest),
    }


def _attention(pilot: PilotSummary, now: float) -> tuple[int, float, str]:
    """Return by what the pilots that are shown are chosen: those that are silent, then those with the most failures."""
    is_silent = pilot.silent_since(now) is not None
    return (0 if is_silent else 1 if pilot.is_running else 2), -float(pilot.failed), pilot.id


def _minutes(history: Sequence[Bin] | None) -> list[dict[str, Any]] | None:
    if history is None:
        return None
    return [
        {
            "start": json_time(minute.start),
            "tokens": minute.total.tokens,
            "by_outcome": {outcome: ends.attempts for outcome, ends in minute.by_outcome.items()},
        }
        for minute in history
    ]


def _newest(newest: Sequence[End] | None) -> list[dict[str, Any]] | None:
    if newest is None:
        return None
    return [
        {"time": json_time(end.time), "token": end.token, "outcome": end.outcome, "reason": end.reason}
        for end in newest
    ]
