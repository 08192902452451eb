"""What people do with all tokens of a view: delete them, or put them back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

from .. import modifiers
from ..clients import CouchDB
from ..documents import Document
from ..tokens.states import STATES, is_in_state
from ..views import DESIGN_DOC

PAGE = 1000
"""Tokens that are read and written at once."""

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Change:
    """How many tokens of a view were changed."""

    changed: int = 0
    kept: int = 0
    """Tokens that somebody else changed meanwhile, and that were therefore left alone."""


def delete_tokens(client: CouchDB, view: str, design_doc: str = DESIGN_DOC) -> Change:
    """Delete all tokens of a view, but for those that change meanwhile.

    :raises couchdb.ResourceNotFound: if there is no such view
    """
    return _for_each_page(client, view, design_doc, client.delete_documents)


def reset_tokens(client: CouchDB, view: str, design_doc: str = DESIGN_DOC, hours: float = 0) -> Change:
    """Put all tokens of a view back to todo, but for those that change meanwhile. Logs and history stay.

    That counts neither as a failure nor as an attempt. A pilot that still works on such a token loses it. A token that
    was to wait for its next try may be taken at once, also if it was in `todo` already.

    :param hours: only tokens that were locked longer ago than this, by the clocks of this machine and of the pilot's
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    before = time.time() - hours * SECONDS_PER_HOUR

    def reset(documents: list[Document]) -> list[bool]:
        for document in documents:
            if modifiers.claim_of(document):
                modifiers.end_attempt(document, "stopped")
            modifiers.reset(document)
            if "lost_count" in document:
                del document["lost_count"]  # a person has seen to it
        return client.save_documents(documents)

    return _for_each_page(client, view, design_doc, reset, lambda document: _locked_at(document) <= before)


def count_tokens(client: CouchDB, view: str, design_doc: str = DESIGN_DOC) -> int:
    """Return how many rows a view has.

    :raises couchdb.ResourceNotFound: if there is no such view
    """
    result = client.view(view, design_doc=design_doc, limit=0)
    return int(result.total_rows)


def _locked_at(document: Document) -> float:
    """Return when a token was locked, in seconds since the epoch; 0 if nobody knows, as after an error."""
    lock = document.get("lock")
    return lock if isinstance(lock, (int, float)) else 0


def _for_each_page(
    client: CouchDB,
    view: str,
    design_doc: str,
    change: Callable[[list[Document]], list[bool]],
    applies_to: Callable[[Document], bool] = lambda document: True,
) -> Change:
    changed = kept = 0
    for page in _pages(client, view, design_doc):
        # Read with the row, but later than the row: the token may be in another state by now.
        current = [document for document in page if view not in STATES or is_in_state(document, view)]
        wanted = [document for document in current if applies_to(document)]
        succeeded = sum(change(wanted))
        changed += succeeded
        kept += len(page) - len(current) + len(wanted) - succeeded
    return Change(changed, kept)


def _pages(client: CouchDB, view: str, design_doc: str) -> Iterator[list[Document]]:
    """Yield the documents of a view page by page, also if they are changed or deleted in between.

    A page begins at the last key of the one before. That key's rows that were seen already are skipped here, since not
    every server can begin at a row.
    """
    start: dict[str, Any] = {}
    seen: set[str] = set()
    while True:
        limit = PAGE + len(seen)
        rows = client.view(view, design_doc=design_doc, limit=limit, include_docs=True, **start).rows
        new = {row.id: row.doc for row in rows if row.id not in seen and row.doc is not None}
        yield [Document(dict(doc)) for doc in new.values()]
        if len(rows) < limit:
            return
        last = rows[-1].key
        at_last = {row.id for row in rows if row.key == last}
        seen = seen | at_last if start.get("startkey") == last else at_last
        start = {"startkey": last}
