"""Revisions of documents: what is in their names, and what is sent to delete one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Revision(NamedTuple):
    """The name of a revision, such as "3-917fa2381192822767f010b95b45325b"."""

    generation: int
    """The number of edits that led to this revision, 1 for a new document."""
    digest: str

    @classmethod
    def parse(cls, rev: str) -> Revision:
        """Return the parts of a revision's name."""
        generation, _, digest = rev.partition("-")
        return cls(int(generation), digest)

    def __str__(self) -> str:
        return f"{self.generation}-{self.digest}"


def deletion_of(content: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Return what is sent to delete a document.

    :param content: the document, with `_id` and `_rev`
    :param fields: fields that the deleted revision keeps
    """
    return {"_id": content["_id"], "_rev": content["_rev"], "_deleted": True, **fields}
