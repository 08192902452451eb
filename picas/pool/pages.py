"""Reading all tokens of a view, or all documents, page by page, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..util import in_background
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


def all_documents(client: CouchDB) -> Iterator[list[Document]]:
    """Yield all documents of a pool page by page, in the order of their ids, without a view; a page is read ahead.

    Those that are nested too deeply to be read are left out.
    """
    reader = Reader()
    last: str | None = None
    ahead = in_background(lambda: _page_of_all(client, reader, None))
    while True:
        ids, documents = ahead.result()
        is_end = len(ids) < PAGE
        if not is_end:
            start = ids[-1]
            ahead = in_background(lambda start=start: _page_of_all(client, reader, start))  # type: ignore[misc]
        yield [document for document in documents if document.id != last]
        if is_end:
            return
        last = ids[-1]


def _page_of_all(client: CouchDB, reader: Reader, start: str | None) -> tuple[list[str], list[Document]]:
    """Return the ids of a page that begins with one of them, and the documents that can be read."""
    params: dict[str, Any] = {"limit": PAGE, **({} if start is None else {"startkey": start})}
    try:
        rows = client.all_docs(include_docs=True, **params)
    except RecursionError:
        ids = [row.id for row in client.all_docs(**params)]
        return ids, reader.documents(client, ids)
    return [row.id for row in rows], [Document(dict(row.doc)) for row in rows if row.get("doc") is not None]
