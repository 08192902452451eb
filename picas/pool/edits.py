"""What people do with all tokens of a view: delete, reset or count them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Callable

from .. import modifiers
from ..clients import CouchDB
from ..documents import Document
from ..tokens import reasons
from ..tokens.states import STATES, is_in_state
from ..util import is_number, list_in
from ..views import DESIGN_DOC
from .reading import Reader

PAGE = 1000
"""The number of tokens to read and write at once."""

SECONDS_PER_HOUR = 3600
EARLIEST = 1_000_000_000
"""Seconds since the epoch, in 2001. A smaller number in `lock` or `done` is a mark, like 99 after an error."""


@dataclass(frozen=True)
class Change:
    """How many tokens of a view were changed."""

    changed: int = 0
    kept: int = 0
    """The number of tokens that were left alone because somebody else changed them meanwhile."""


def delete_tokens(client: CouchDB, view: str, design_doc: str = DESIGN_DOC) -> Change:
    """Delete all tokens of a view, except those that change meanwhile.

    :raises couchdb.ResourceNotFound: if there is no such view
    """
    return _for_each_page(client, view, design_doc, client.delete_documents)


def reset_tokens(
    client: CouchDB,
    view: str,
    design_doc: str = DESIGN_DOC,
    hours: float = 0,
    pilots: Container[str] | None = None,
) -> Change:
    """Put all tokens of a view back to todo, except those that change meanwhile. Logs and history stay.

    This counts neither as a failure nor as an attempt. A pilot that still works on such a token loses it. A token that
    waits for its next try may be taken at once; that goes for tokens in `todo` too.

    :param hours: reset only tokens that were locked longer ago than this, or whose last attempt ended longer ago if
        they are not locked, by the clocks of this machine and the pilot's. A token whose time is unknown is reset.
    :param pilots: reset only locked tokens that pilots with these ids hold
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    is_old = _older_than(hours)

    def is_wanted(token: Document) -> bool:
        return is_old(token) and (pilots is None or (is_in_state(token, "locked") and _holder(token) in pilots))

    def reset(tokens: list[Document]) -> list[bool]:
        for token in tokens:
            if modifiers.claim_of(token):
                modifiers.end_attempt(token, "stopped", reasons.RESET)
            modifiers.reset(token)
            if "lost_count" in token:
                del token["lost_count"]  # a person has dealt with the cause
        return client.save_documents(tokens)

    return _for_each_page(client, view, design_doc, reset, is_wanted)


def count_holders(client: CouchDB, view: str, design_doc: str = DESIGN_DOC, hours: float = 0) -> Counter[str]:
    """Return how many of the tokens that `reset_tokens` would reset are locked, by the ids of their pilots.

    The id of a pilot of an older release, and of a person, is ''.

    :param hours: see `reset_tokens`
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    is_old = _older_than(hours)
    return Counter(
        _holder(token)
        for page in _pages(client, view, design_doc)
        for token in page
        if is_in_state(token, "locked") and is_old(token)
    )


def count_tokens(client: CouchDB, view: str, design_doc: str = DESIGN_DOC) -> int:
    """Return how many rows a view has.

    :raises couchdb.ResourceNotFound: if there is no such view
    """
    result = client.view(view, design_doc=design_doc, limit=0)
    return int(result.total_rows)


def _older_than(hours: float) -> Callable[[Document], bool]:
    """Return a function that says whether a token's lock or last attempt is older."""
    before = time.time() - hours * SECONDS_PER_HOUR
    return lambda token: _time_of(token) <= before


def _time_of(token: Document) -> float:
    """Return when a token was locked or, if it is not, when its last attempt ended, in seconds since the epoch.

    Clients of older releases have left no attempt. Their times are in `error`, `done` and `lock`. Of a token that
    pilots of several releases had, the latest time counts. It is 0 if there is none.
    """
    if is_in_state(token, "locked"):
        return max(_times(token.get("lock")), default=0)
    attempts, errors = list_in(token, "attempts")[-1:], list_in(token, "error")[-1:]
    ends = [attempt.get("end") for attempt in attempts if isinstance(attempt, dict)]
    ends += [error.get("time") for error in errors if isinstance(error, dict)]
    return max(_times(*ends, token.get("done"), token.get("lock")), default=0)


def _times(*values: object) -> list[float]:
    """Return those of some values that are times."""
    return [value for value in values if is_number(value) and value >= EARLIEST]


def _holder(token: Document) -> str:
    return str(modifiers.claim_of(token).get("pilot") or "")


def _for_each_page(
    client: CouchDB,
    view: str,
    design_doc: str,
    change: Callable[[list[Document]], list[bool]],
    is_wanted: Callable[[Document], bool] = lambda token: True,
) -> Change:
    """Change the tokens of a view that are wanted."""
    changed = kept = 0
    for page in _pages(client, view, design_doc):
        # The server reads the token later than the row: it may be in another state by now.
        current = [token for token in page if view not in STATES or is_in_state(token, view)]
        wanted = [token for token in current if is_wanted(token)]
        succeeded = sum(change(wanted))
        changed += succeeded
        kept += len(page) - len(current) + len(wanted) - succeeded
    return Change(changed, kept)


def _pages(client: CouchDB, view: str, design_doc: str) -> Iterator[list[Document]]:
    """Yield the tokens of a view page by page. They may be changed or deleted in between.

    A page begins at the last key of the page before. Rows with this key that were seen already are skipped here, since
    not every server can begin at a row.
    """
    reader = Reader()
    start: dict[str, Any] = {}
    seen: set[str] = set()
    while True:
        limit = PAGE + len(seen)
        result, tokens = reader.rows(client, view, design_doc=design_doc, limit=limit, **start)
        rows = result.rows
        yield list({token.id: token for token in tokens if token.id not in seen}.values())
        if len(rows) < limit:
            return
        last = rows[-1].key
        at_last = {row.id for row in rows if row.key == last}
        seen = seen | at_last if start.get("startkey") == last else at_last
        start = {"startkey": last}
