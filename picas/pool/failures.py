"""The tokens in error, grouped by what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..clients import CouchDB
from ..util import list_in
from ..views import MAX_REASON, REASONS, REPORT

MAX_GROUPS = 100
"""The most groups of which an example is read: each takes a request."""

MAX_SCANNED = 1_000
"""The most tokens that are read to group them without the views of Report."""


@dataclass(frozen=True)
class Example:
    """One of the tokens of a group."""

    token: str
    """Its id."""
    reason: str | None
    """Why its last attempt failed, on one line; None if an older release has left no reason."""


@dataclass(frozen=True)
class FailureGroup:
    """Tokens in error whose last attempts have failed in the same way."""

    count: int
    group: str
    """The short id of the way in which they failed, '' for those of which an older release has not noted any."""
    example: Example


@dataclass(frozen=True)
class Failures:
    """The tokens in error by group, the largest group first."""

    groups: tuple[FailureGroup, ...] = ()
    other_groups: int = 0
    """The number of groups that are not listed."""
    other_tokens: int = 0
    """The number of tokens in these."""


def find_failures(
    client: CouchDB, limit: int = MAX_GROUPS, examples: MutableMapping[str, Example] | None = None
) -> Failures:
    """Return the tokens in error by group. A group whose tokens all leave it meanwhile is left out.

    :param client: the pool
    :param limit: how many groups to list, the largest first
    :param examples: the examples that are known from an earlier call, by group; new ones are added
    :raises couchdb.ResourceNotFound: if there is no design document Report
    """
    known: MutableMapping[str, Example] = {} if examples is None else examples
    rows = client.view(REASONS, design_doc=REPORT, group=True).rows
    counts = _largest_first({str(row.key): int(row.value) for row in rows})
    groups = []
    for group, count in counts[:limit]:
        example = known.get(group) or _find_example(client, group)
        if example is not None:
            known[group] = example
            groups.append(FailureGroup(count, group, example))
    others = counts[limit:]
    return Failures(tuple(groups), len(others), sum(count for _, count in others))


def scan_failures(client: CouchDB, limit: int = MAX_SCANNED) -> Failures:
    """Return some of the tokens in error by group, without the views of Report: the tokens themselves are read.

    :param client: the pool
    :param limit: how many tokens to read; the counts are of these
    :raises couchdb.ResourceNotFound: if the views of Monitor were not created
    """
    counts: dict[str, int] = {}
    examples: dict[str, Example] = {}
    for token in client.get_from_view("error", limit=limit):
        group, reason = _failure_of(token)
        counts[group] = counts.get(group, 0) + 1
        examples.setdefault(group, Example(token.id, reason))
    return Failures(tuple(FailureGroup(count, group, examples[group]) for group, count in _largest_first(counts)))


def _largest_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _failure_of(token: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the group and the reason of a token's last failure, as the view of the reasons does."""
    attempt, error = ((list_in(token, name) or [None])[-1] for name in ("attempts", "error"))
    texts = [
        value if isinstance(value, str) and value else None
        for value in (
            attempt.get("group") if isinstance(attempt, dict) else None,
            attempt.get("reason") if isinstance(attempt, dict) else None,
            error.get("message") if isinstance(error, dict) else None,
        )
    ]
    reason = texts[1] or texts[2]
    return texts[0] or "", reason and reason[:MAX_REASON]


def _find_example(client: CouchDB, group: str) -> Example | None:
    rows = client.view(REASONS, design_doc=REPORT, key=group, reduce=False, limit=1).rows
    return Example(rows[0].id, rows[0].value) if rows else None
