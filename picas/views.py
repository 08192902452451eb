"""The views that PiCaS uses: the states of tokens, and what pilots read."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from .clients import CouchDB
from .exceptions import NoSuchDocument
from .tokens.resources import FIELDS
from .tokens.states import STATES, javascript_condition

DESIGN_DOC = "Monitor"
OVERVIEW = "overview_total"
FREE_VIEW = "todo"
QUEUE = "queue"
"""The view that pilots read free tokens from. Each token of `todo` has two rows: one in the order of the tokens, and
one at a random place, which makes it possible to choose a token with the same chance for all."""
ROWS_PER_TOKEN = 2
"""The number of rows that a token has in the queue."""
RANDOM_PLACES = 2**32
"""The random places in the queue are whole numbers below this."""
CLAIMS = "claims"
"""The view of the locked tokens; its keys are the pilots that hold them."""
NEEDS = "needs"
"""The view that counts the free tokens by what they need: its keys are lists of the values of `NEEDS_FIELDS`. Tokens
without any of these fields are not in it."""
NEEDS_FIELDS = (*FIELDS, "walltime")
NO_STATE = "no state"
"""The key in the overview of tokens in none of the states: `lock` or `done` is missing, for example."""
TASKS = "type task"
"""The key in the overview of documents that would be in `todo` if their type were "token", as `Task()` makes them."""
CONFLICTS = "conflicts"
"""The view of the tokens with conflicting revisions, which replication between servers can leave."""

_EMIT = "emit(doc._id, doc._id);"
_QUEUE_EMITS = (
    "var number = /^token_([0-9]+)$/.exec(doc._id), place = 0, i; "
    "emit(number ? Number(number[1]) : doc._id, null); "
    # Four zeros follow the id, so that its last character changes the highest digits too: otherwise neighbours would
    # stay neighbours. With this factor all products are below 2^53, where JavaScript is exact.
    "for (i = 0; i < doc._id.length + 4; i++) "
    "{ place = ((place ^ (doc._id.charCodeAt(i) || 0)) >>> 0) * 65599 % 4294967296; } "
    "emit([place], null);"
)


def create_views(client: CouchDB, design_doc: str = DESIGN_DOC, condition: str | None = None) -> bool:
    """Create the views in a design document, and return whether that changed anything.

    The document is written only if something is new, since each change makes CouchDB index all tokens again. Its other
    views stay. The condition of an earlier call is replaced.

    :param client: the pool
    :param design_doc: the name of the design document
    :param condition: a JavaScript expression on `doc` that tokens must meet too, for example "doc.cores == 1"
    :raises couchdb.http.ServerError: if the server can't compile the condition
    :raises couchdb.Unauthorized, couchdb.http.Forbidden: if this user may not change design documents
    """
    views = view_definitions(condition)

    def add(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "language": "javascript", "views": {**document.get("views", {}), **views}}

    return client.edit(f"_design/{design_doc}", add)


def count_states(client: CouchDB, design_doc: str = DESIGN_DOC) -> dict[str, int]:
    """Return the number of tokens in each state.

    :raises couchdb.ResourceNotFound: if the views were not created
    """
    rows = client.view(OVERVIEW, design_doc=design_doc, group=True).rows
    counts = {row.key: row.value for row in rows if row.key not in (NO_STATE, TASKS)}
    return {**dict.fromkeys(STATES, 0), **counts}


def unseen(client: CouchDB, kind: str, design_doc: str = DESIGN_DOC, limit: int = 10) -> tuple[int, list[str]]:
    """Return how many documents of a kind no pilot sees, though they may have been meant as tokens, and the first ids.

    The views of an older release know of none.

    :param kind: NO_STATE or TASKS
    :raises couchdb.ResourceNotFound: if the views were not created
    """
    totals = client.view(OVERVIEW, design_doc=design_doc, key=kind).rows
    if not totals:
        return 0, []
    rows = client.view(OVERVIEW, design_doc=design_doc, key=kind, reduce=False, limit=limit).rows
    return int(totals[0].value), [row.id for row in rows]


def tokens_in_conflict(client: CouchDB, design_doc: str = DESIGN_DOC, limit: int = 10) -> tuple[int, list[str]]:
    """Return how many tokens have conflicting revisions, and the ids of the first of them.

    Pilots and people see only one of the revisions of such a token: CouchDB chooses it, the same on all servers.

    :raises couchdb.ResourceNotFound: if the views were not created, or by an older release
    """
    result = client.view(CONFLICTS, design_doc=design_doc, limit=limit)
    ids = [row.id for row in result.rows]
    return int(result.total_rows), ids


def has_queue(client: CouchDB, design_doc: str = DESIGN_DOC) -> bool:
    """Return whether a design document has a queue with the same tokens as its view `todo`.

    It has none if an older release has created the views, or if somebody has changed `todo` since.
    """
    try:
        views = client.get(f"_design/{design_doc}")["views"]
        todo, queue = views[FREE_VIEW]["map"], views[QUEUE]["map"]
    except (NoSuchDocument, KeyError, TypeError):
        return False
    return _EMIT in todo and bool(queue == _queue_map(todo))


def key_in_queue(id: str) -> int | str | None:
    """Return the key of a token in the order of the queue, None if it is a number that JavaScript can't represent."""
    number = re.fullmatch("token_([0-9]+)", id)
    if number is None:
        return id
    return int(number.group(1)) if len(number.group(1)) <= sys.float_info.dig else None


def _queue_map(todo_map: str) -> str:
    """Return the map function of the queue for a map function of `todo`."""
    return todo_map.replace(_EMIT, _QUEUE_EMITS)


def view_definitions(condition: str | None = None) -> dict[str, Any]:
    """Return what `create_views` writes: each view by its name, as CouchDB has it in a design document.

    :param condition: see `create_views`
    """
    also = f" && ({condition})" if condition else ""
    token = f'doc.type == "token"{also}'
    views: dict[str, Any] = {
        state: {"map": _function(f"if ({token} && {javascript_condition(state)}) {{ {_EMIT} }}")} for state in STATES
    }
    views[QUEUE] = {"map": _queue_map(views[FREE_VIEW]["map"])}
    views[CLAIMS] = {
        "map": _function(
            f"if ({token} && {javascript_condition('locked')} && doc.claim && doc.claim.pilot) "
            "{ emit(doc.claim.pilot, null); }"
        )
    }
    needs = ", ".join(f"doc.{field}" for field in NEEDS_FIELDS)
    says = " || ".join(f"doc.{field}" for field in NEEDS_FIELDS)
    views[NEEDS] = {
        "map": _function(f"if ({token} && {javascript_condition(FREE_VIEW)} && ({says})) {{ emit([{needs}], null); }}"),
        "reduce": "_count",
    }
    views[CONFLICTS] = {"map": _function(f"if ({token} && doc._conflicts) {{ emit(doc._id, null); }}")}
    cases = " else ".join(f"if ({javascript_condition(state)}) {{ emit({json.dumps(state)}, 1); }}" for state in STATES)
    cases += f" else {{ emit({json.dumps(NO_STATE)}, 1); }}"
    task = f'doc.type == "task"{also} && {javascript_condition(FREE_VIEW)}'
    tasks = f"if ({task}) {{ emit({json.dumps(TASKS)}, 1); }}"
    views[OVERVIEW] = {"map": _function(f"if ({token}) {{ {cases} }} else {tasks}"), "reduce": "_sum"}
    return views


def _function(body: str) -> str:
    return f"function(doc) {{ {body} }}"
