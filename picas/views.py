"""The views that PiCaS uses: the states of tokens, what pilots read, and what only people read."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from couchdb.http import Forbidden, Unauthorized

from .clients import CouchDB
from .exceptions import NoSuchDocument
from .tokens.job_ends import FIELD as JOB_ENDS
from .tokens.needs import NEED_FIELDS
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
NEEDS_FIELDS = (*NEED_FIELDS, JOB_ENDS)
MAX_REASON = 200
"""Characters of a reason in the view of the reasons, where the message of an older release may be longer."""
NO_STATE = "no state"
"""The key in the overview of tokens in none of the states: `lock` or `done` is missing, for example."""
TASKS = "type task"
"""The key in the overview of documents that would be in `todo` if their type were "token", as `Task()` makes them."""
CONFLICTS = "conflicts"
"""The view of the tokens with conflicting revisions, which replication between servers can leave."""

REPORT = "Report"
"""The design document with what only people read. Nothing indexes it until one of them asks, and no pilot does."""
REASONS = "reasons"
"""The view of the tokens in error. The key is the group of the last attempt ("" if an older release has left none), the
value the reason (None if it is unknown). It is reduced to their number."""
ENDED = "ended"
"""The view of the attempts that have ended, by [minute since the epoch, outcome]. The values are lists of numbers, of
which the sums are returned: how many attempts, their seconds, the seconds on processors (0 if unknown), and how many of
the attempts have brought their token to its end, done or in error."""
RECENT = "recent"
"""The view of the same attempts by the time of their end, in seconds since the epoch, with [outcome, reason]."""

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


def create_report(client: CouchDB) -> bool:
    """Create the views for people in the design document `REPORT`, and return whether that changed anything.

    A user who may not change design documents changes nothing: all works without these views, and what lacks is named.

    :param client: the pool
    """
    views = report_definitions()

    def add(document: dict[str, Any]) -> dict[str, Any]:
        own = {"language": "javascript", "autoupdate": False}
        return {**document, **own, "views": {**document.get("views", {}), **views}}

    try:
        return client.edit(f"_design/{REPORT}", add)
    except (Forbidden, Unauthorized):
        return False


def count_states(client: CouchDB, design_doc: str = DESIGN_DOC) -> dict[str, int]:
    """Return the number of tokens in each state.

    :raises couchdb.ResourceNotFound: if the views were not created
    """
    counts = count_all(client, design_doc)
    return {key: count for key, count in counts.items() if key not in (NO_STATE, TASKS)}


def count_all(client: CouchDB, design_doc: str = DESIGN_DOC) -> dict[str, int]:
    """Return the number of tokens in each state, and of documents of the kinds `NO_STATE` and `TASKS` if there are any.

    :raises couchdb.ResourceNotFound: if the views were not created
    """
    rows = client.view(OVERVIEW, design_doc=design_doc, group=True).rows
    return {**dict.fromkeys(STATES, 0), **{row.key: row.value for row in rows}}


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


def report_definitions() -> dict[str, Any]:
    """Return what `create_report` writes: each view by its name, as CouchDB has it in a design document.

    Their functions have to survive any document: a number that is a text, an attempt that is None.
    """
    done, error = javascript_condition("done"), javascript_condition("error")
    text = "var text = function (value) { return typeof value == 'string' ? value : null; };"
    number = "var number = function (it) { return typeof it == 'number' && it >= 0 && it < 1e12 ? it : 0; };"
    reasons = (
        f"if (doc.type == 'token' && {error}) {{ {text} "
        "var last = function (list) { return (Array.isArray(list) && list[list.length - 1]) || {}; }, "
        "attempt = last(doc.attempts), "
        "reason = text(attempt.reason) || text(last(doc.error).message); "
        f"emit(text(attempt.group) || '', reason && reason.slice(0, {MAX_REASON})); }}"
    )
    attempts = (
        "if (doc.type == 'token' && Array.isArray(doc.attempts)) {{ {functions} "
        "doc.attempts.forEach(function (attempt, i) {{ var end = attempt && number(attempt.end); "
        "if (end) {{ {emit} }} }}); }}"
    )
    is_last = f"(i == doc.attempts.length - 1 && (({done}) || ({error}))) ? 1 : 0"
    ended = (
        "emit([Math.floor(end / 60), text(attempt.outcome) || ''], "
        f"[1, number(attempt.seconds), number(attempt.cpu_seconds), {is_last}]);"
    )
    recent = "emit(end, [text(attempt.outcome), text(attempt.reason)]);"
    functions = f"{text} {number}"
    return {
        REASONS: {"map": _function(reasons), "reduce": "_count"},
        ENDED: {"map": _function(attempts.format(functions=functions, emit=ended)), "reduce": "_sum"},
        RECENT: {"map": _function(attempts.format(functions=functions, emit=recent))},
    }


def _function(body: str) -> str:
    return f"function(doc) {{ {body} }}"
