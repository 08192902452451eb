"""Reading many documents, of which some may be nested too deeply: those are left alone, and do not hinder the others.

Python can't read JSON that is nested more deeply than its limit on recursion, and then reads nothing of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..picaslogger import get_logger
from ..tokens.storable import MAX_DEPTH, is_too_deep
from ..util import in_background

log = get_logger(__name__)

LEAST_HALF = 100
"""Fewer documents than twice this are read with one request."""


class Reader:
    """Reads documents, and remembers which of them are nested too deeply."""

    def __init__(self) -> None:
        self._left: dict[str, str] = {}  # revisions by id

    def rows(self, client: CouchDB, view: str, **params: Any) -> tuple[Any, list[Document]]:
        """Return the result of a view, and the documents of its rows that can be read and were not deleted.

        :param client: the pool
        :param view: the name of the view
        :param params: CouchDB's query parameters without `include_docs`, and `design_doc`
        :raises couchdb.ResourceNotFound: if there is no such view
        """
        try:
            result = client.view(view, include_docs=True, **params)
            documents = [row.doc for row in result.rows]
        except RecursionError:
            return self.page(client, view, **params)
        return result, [Document(dict(document)) for document in documents if document is not None]

    def page(self, client: CouchDB, view: str, **params: Any) -> tuple[Any, list[Document]]:
        """Do what `rows` does with three requests instead of one, which is four times as fast for a thousand rows."""
        result = client.view(view, **params)
        ids = [_id_of(row) for row in result.rows]
        half = len(ids) // 2
        if half < LEAST_HALF:
            return result, self.documents(client, ids)
        first = in_background(lambda: self.documents(client, ids[:half]))  # this occupies the server better than one
        second = self.documents(client, ids[half:])
        return result, first.result() + second

    def documents(self, client: CouchDB, ids: Iterable[str]) -> list[Document]:
        """Return the documents with these ids, in their order. Those that are missing or can't be read are left out."""
        wanted = list(ids)
        known = [id for id in wanted if id in self._left]
        if known:  # they may have been changed since
            left = {id for id, rev in _revisions(client, known).items() if rev == self._left[id]}
            wanted = [id for id in wanted if id not in left]
        return self._read(client, wanted)

    def leaves(self, token: Document) -> bool:
        """Return whether a token that could be read is left alone: a pilot could not save it everywhere."""
        if not is_too_deep(token.value):
            return False
        self._note(token.id, token.rev)
        return True

    def _read(self, client: CouchDB, ids: Sequence[str]) -> list[Document]:
        if not ids:
            return []
        try:
            return client.get_documents(ids)
        except RecursionError:
            if len(ids) == 1:
                for id, rev in _revisions(client, ids).items():
                    self._note(id, rev)
                return []
        half = len(ids) // 2
        return self._read(client, ids[:half]) + self._read(client, ids[half:])

    def _note(self, id: str, rev: str) -> None:
        if self._left.get(id) != rev:
            self._left[id] = rev
            log.error("Document %s is left alone: it is nested more than %s levels deep", id, MAX_DEPTH)


def read_documents(client: CouchDB, ids: Iterable[str]) -> list[Document]:
    """Return the documents with these ids, in their order. Those that are missing or can't be read are left out."""
    return Reader().documents(client, ids)


def _revisions(client: CouchDB, ids: Iterable[str]) -> dict[str, str]:
    """Return the revisions of documents, by their ids."""
    return {row.id: row.value["rev"] for row in client.all_docs(keys=ids) if "error" not in row}


def _id_of(row: Any) -> str:
    """Return the id of a row's document: a user's own view may link to another one."""
    linked = row.value.get("_id") if isinstance(row.value, dict) else None
    return linked if isinstance(linked, str) else str(row.id)
