"""Rows of a view with their tokens: of the queue beside `todo`, or of any other view."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..modifiers import is_free
from ..views import DESIGN_DOC, FREE_VIEW, QUEUE, RANDOM_PLACES, ROWS_PER_TOKEN, has_queue, key_in_queue
from .reading import Reader
from .selection import Selection


class Update(Enum):
    """When the server brings a view up to date that is read: the values of CouchDB's parameter `update`."""

    BEFORE = True
    """Before the answer, which therefore takes as long as that."""
    AFTER = "lazy"
    """After the answer, which may lag."""
    NOT = False


@dataclass(frozen=True)
class Rows:
    """What was read of a view."""

    last: Any
    """The key of the last row, None if there are no rows."""
    count: int
    """The number of rows."""
    free: int
    """The number of free tokens among them, those that were set aside included."""
    ready: list[Document]
    """The free tokens that can be taken now."""
    shows_others: bool
    """Whether another pilot has taken one of the tokens just now."""


class TokenView:
    """The view that tokens are read from. Where it has a queue, that is read in its place (see `views.QUEUE`).

    :param view: the name of the view
    :param view_params: CouchDB's query parameters, and `design_doc`
    :param selection: what can be taken
    """

    def __init__(self, view: str, view_params: Mapping[str, Any], selection: Selection) -> None:
        self.has_queue = False
        """Whether the view is `todo` as it is, with a queue beside it; known once a window was read."""
        self.size = 0
        """The number of tokens in the queue when it was last read."""
        self._view = view
        self._design_doc = view_params.get("design_doc", DESIGN_DOC)
        self._params = {
            name: value for name, value in view_params.items() if name not in ("design_doc", "include_docs")
        }
        self._is_plain = view == FREE_VIEW and set(view_params) <= {"design_doc"}
        self._may_have_queue = self._is_plain
        self._selection = selection
        self._reader = Reader()

    def look_for_queue(self, client: CouchDB) -> None:
        """Find out whether the view has a queue, the first time."""
        if self._may_have_queue:
            self.has_queue, self._may_have_queue = has_queue(client, self._design_doc), False

    def forget_queue(self) -> None:
        """Go on without the queue, which is missing, and look for it the next time.

        Somebody may have created the views again, also with an older release.
        """
        self.has_queue, self.size = False, 0
        self._may_have_queue = self._is_plain

    def __str__(self) -> str:
        """Return the view's name for people: "Monitor/todo"."""
        return f"{self._design_doc}/{self._view}"

    def read(self, client: CouchDB, params: Mapping[str, Any], update: Update = Update.BEFORE) -> Rows:
        """Read some rows with their tokens.

        A view may lag, and a user's own view may select anything: what counts is the document.

        :param client: the pool
        :param params: CouchDB's query parameters
        :param update: when the server brings the view up to date
        """
        if update is not Update.BEFORE:
            params = {**params, "update": update.value}
        view = QUEUE if self.has_queue else self._view
        result, tokens = self._reader.rows(client, view, design_doc=self._design_doc, **params)
        rows = result.rows
        free = [token for token in tokens if is_free(token)]
        if self.has_queue:
            self.size = result.total_rows // ROWS_PER_TOKEN
        return Rows(
            last=rows[-1].key if rows else None,
            count=len(rows),
            free=len(free),
            ready=[token for token in free if not self._reader.leaves(token) and self._selection.accepts(token.value)],
            shows_others=self._view == FREE_VIEW and update is Update.BEFORE and len(free) < len(tokens),
        )

    def random_key(self, client: CouchDB) -> Any:
        """Return the key of a random token, in the order of the queue, or one before all others."""
        params = {"startkey": [random.randrange(RANDOM_PLACES)], "limit": 1, "update": Update.NOT.value}
        rows = client.view(QUEUE, design_doc=self._design_doc, **params).rows
        return key_in_queue(rows[0].id) if rows else None

    def parts(self, start: Any = None) -> Iterator[dict[str, Any]]:
        """Yield the query parameters of the parts of the view, in the order in which they are to be read.

        :param start: the key of the queue to begin at, None to begin at its beginning
        """
        if not self.has_queue:
            yield dict(self._params)
        elif start is None:
            yield {"endkey": []}
        else:
            yield {"startkey": start, "endkey": []}
            yield {"endkey": start, "inclusive_end": False}


def key_behind(key: Any) -> Any:
    """Return the first key of the queue behind a key. A text has no next key: its row is read again."""
    return key + 1 if isinstance(key, int) else key
