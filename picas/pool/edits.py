"""What people do with all tokens of a view: delete, reset or count them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable

from .. import modifiers
from ..clients import CouchDB
from ..documents import Document
from ..tokens.states import STATES, is_in_state
from ..util import is_number
from ..views import DESIGN_DOC
from .reading import Reader

PAGE = 1000
"""The number of tokens to read and write at once."""

SECONDS_PER_HOUR = 3600


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


def reset_tokens(client: CouchDB, view: str, design_doc: str = DESIGN_DOC, hours: float = 0) -> Change:
    """Put all tokens of a view back to todo, except those that change meanwhile. Logs and history stay.

    This counts neither as a failure nor as an attempt. A pilot that still works on such a token loses it. A token that
    waits for its next try may be taken at once; that goes for tokens in `todo` too.

    :param hours: reset only tokens that were locked longer ago than this, by the clocks of this machine and the pilot's
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    before = time.time() - hours * SECONDS_PER_HOUR

    def reset(tokens: list[Document]) -> list[bool]:
        for token in tokens:
            if modifiers.claim_of(token):
                modifiers.end_attempt(token, "stopped")
            modifiers.reset(token)
            if "lost_count" in token:
                del token["lost_count"]  # a person has dealt with the cause
        return client.save_documents(tokens)

    return _for_each_page(client, view, design_doc, reset, before)


def count_tokens(client: CouchDB, view: str, design_doc: str = DESIGN_DOC) -> int:
    """Return how many rows a view has.

    :raises couchdb.ResourceNotFound: if there is no such view
    """
    result = client.view(view, design_doc=design_doc, limit=0)
    return int(result.total_rows)


def _locked_at(token: Document) -> float:
    """Return when a token was locked, in seconds since the epoch; 0 if that is unknown, as after an error."""
    lock = token.get("lock")
    return lock if is_number(lock) else 0


def _for_each_page(
    client: CouchDB,
    view: str,
    design_doc: str,
    change: Callable[[list[Document]], list[bool]],
    before: float = math.inf,
) -> Change:
    """Change the tokens of a view that were locked before a time."""
    changed = kept = 0
    for page in _pages(client, view, design_doc):
        # The server reads the token later than the row: it may be in another state by now.
        current = [token for token in page if view not in STATES or is_in_state(token, view)]
        wanted = [token for token in current if _locked_at(token) <= before]
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
