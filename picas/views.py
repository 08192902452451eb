"""The states of a token as CouchDB views: how they are created, and how many tokens are in each."""

from __future__ import annotations

import json
from typing import Any

from .clients import CouchDB
from .states import STATES, javascript_condition

DESIGN_DOC = "Monitor"
OVERVIEW = "overview_total"


def create_views(client: CouchDB, design_doc: str = DESIGN_DOC, condition: str | None = None) -> bool:
    """Create the views of the states in one design document, and return whether that changed anything.

    The document is written only if something is new, since each change makes CouchDB index all tokens again. Other
    views in it stay. A condition of an earlier call is replaced.

    :param client: the pool
    :param design_doc: the name of the design document
    :param condition: a JavaScript expression on `doc` that tokens must meet as well, e.g. "doc.cores == 1"
    :raises couchdb.http.ServerError: if the server can't compile the condition
    :raises couchdb.Unauthorized, couchdb.http.Forbidden: if this user may not change design documents
    """
    views = _definitions(condition)

    def add(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "language": "javascript", "views": {**document.get("views", {}), **views}}

    return client.edit(f"_design/{design_doc}", add)


def count_states(client: CouchDB, design_doc: str = DESIGN_DOC) -> dict[str, int]:
    """Return the number of tokens in each state.

    :raises couchdb.ResourceNotFound: if the views were not created
    """
    rows = client.view(OVERVIEW, design_doc=design_doc, group=True).rows
    return {**dict.fromkeys(STATES, 0), **{row.key: row.value for row in rows}}


def _definitions(condition: str | None) -> dict[str, Any]:
    token = 'doc.type == "token"' + (f" && ({condition})" if condition else "")
    views: dict[str, Any] = {
        state: {"map": _function(f"if ({token} && {javascript_condition(state)}) {{ emit(doc._id, doc._id); }}")}
        for state in STATES
    }
    cases = " else ".join(f"if ({javascript_condition(state)}) {{ emit({json.dumps(state)}, 1); }}" for state in STATES)
    views[OVERVIEW] = {"map": _function(f"if ({token}) {{ {cases} }}"), "reduce": "_sum"}
    return views


def _function(body: str) -> str:
    return f"function(doc) {{ {body} }}"
