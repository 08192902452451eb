"""What only clusters have: copies of a document that can differ for a while, branches, and majorities.

The documentation of CouchDB calls a branch a conflict, or a leaf revision. On a single node a document has one branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import couchdb
from couchdb.http import ResourceNotFound

from .answers import is_absent
from .revisions import Revision
from .writes import doc_path


def read_branches(db: couchdb.Database, doc_id: str, copies: int) -> list[dict[str, Any]]:
    """Return all branches of a document, deleted ones included; none if there is no such document.

    :param copies: how many copies to ask
    """
    headers = {"Accept": "application/json"}
    try:
        _, _, answer = db.resource.get_json(doc_path(doc_id), open_revs="all", r=copies, headers=headers)
    except ResourceNotFound as error:
        if not is_absent(error):
            raise
        return []
    return [branch["ok"] for branch in answer if "ok" in branch]


def store_revision(db: couchdb.Database, content: Mapping[str, Any], parent_rev: str) -> None:
    """Store a document's revision as replication does: no copy refuses it, whatever other branches it has.

    :param content: the document, with the revision's own name as `_rev`
    :param parent_rev: the revision that it follows
    """
    generation, digest = Revision.parse(content["_rev"])
    revisions = {"start": generation, "ids": [digest, Revision.parse(parent_rev).digest]}
    db.resource.post_json("_bulk_docs", body={"new_edits": False, "docs": [{**content, "_revisions": revisions}]})


def has_majority(db: couchdb.Database) -> bool:
    """Return whether a majority of the copies can be reached, by writing a document that is not replicated."""
    path = ["_local", f"picas_probe_{uuid4().hex}"]
    status, _, answer = db.resource.put_json(path, body={})
    db.resource.delete_json(path, rev=answer["rev"])
    return bool(status != 202)
