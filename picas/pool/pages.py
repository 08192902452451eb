"""Reading all tokens of a view, page by page, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..views import DESIGN_DOC
from .reading import Reader

PAGE = 1000
"""The most tokens to read and write at once."""


def pages(
    client: CouchDB, view: str, design_doc: str = DESIGN_DOC, first: int | None = None, **params: Any
) -> Iterator[list[Document]]:
    """Yield the tokens of a view page by page, as they are when the page is read.

    They may be changed or deleted in between. The rows are those that the view had at the beginning: the server does
    not index the changes for each further page.

    A page begins at the last row of the page before, where the server can begin at a row, and else at its key. The
    rows that were seen already are skipped here.

    :param first: the size of the first page; each further page has twice the size of the one before, up to PAGE
    :param params: CouchDB's query parameters: `startkey`, `endkey`
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    params["reduce"] = False  # a user's own view may have a reduce function, whose rows belong to no token
    reader = Reader()
    size = PAGE if first is None else min(first, PAGE)
    begins_at_rows = True
    seen: set[str] = set()
    while True:
        limit = size + (min(1, len(seen)) if begins_at_rows else len(seen))
        result, tokens = reader.page(client, view, design_doc=design_doc, limit=limit, **params)
        rows = result.rows
        if seen and rows and rows[0].id in seen and rows[0].id != params["startkey_docid"]:
            begins_at_rows = False
        yield list({token.id: token for token in tokens if token.id not in seen}.values())
        if len(rows) < limit:
            return
        last = rows[-1]
        at_last = {row.id for row in rows if row.key == last.key}
        seen = seen | at_last if seen and params["startkey"] == last.key else at_last
        params.update(startkey=last.key, startkey_docid=last.id, update=False, stable=True)
        size = min(2 * size, PAGE)
