"""The answers of `/api/*.json`: what the command prints with `--json`, for the page and for programs.

A list is an object with `items`, each of which is what the command prints on one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceNotFound
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ... import console
from ...clients import CouchDB
from ...couch.outages import is_outage
from ...documents import Document
from ...exceptions import NoSuchDocument, PicasError, UsageError
from ...pilot.obstacles import why_not
from ...pool.facts import describe_token, find_token
from ...pool.fields import text_of
from ...pool.filters import make_filter
from ...pool.program_logs import NoLog
from ...pool.token_pages import MAX_SCANNED, parse_place, read_page
from ...tokens.states import STATES
from ...util import parse_duration
from .. import explaining, listing, showing
from . import shapes
from .poller import Poller
from .sharing import SharedAnswers

MAX_LIMIT = 200
"""How many tokens a page of the list has at most."""
LIMIT = 50
"""How many it has unless another number is asked for."""
SECONDS = 1.5
"""Seconds for which all pages share what was read of a token, or a page of a list."""
MAX_INPUT = 300
"""Characters of a token's input in a list that is to be brief."""
WHY_SECONDS = 10.0
"""Seconds for which they share why a token does not run, which takes some requests."""


class Api:
    """Answers requests for JSON; each runs in a thread of its own.

    :param client: the pool
    :param poller: looks at the pool
    :param shared: what all pages share
    """

    def __init__(self, client: CouchDB, poller: Poller, shared: SharedAnswers) -> None:
        self._client = client
        self._poller = poller
        self._shared = shared

    def answers(self) -> dict[str, Callable[[Request], Mapping[str, Any]]]:
        """Return the functions that answer, by the names in `/api/<name>.json`."""
        return {
            "status": lambda request: shapes.status_json(self._poller.current()),
            "history": lambda request: shapes.history_json(self._poller.current()),
            "errors": lambda request: _list(shapes.errors_json(self._poller.current())),
            "pilots": lambda request: _list(shapes.pilots_json(self._poller.current())),
            "tokens": self._tokens,
            "token": self._token,
            "why": self._why,
        }

    def _token(self, request: Request) -> Mapping[str, Any]:
        id = request.query_params.get("id", "")

        def read() -> Mapping[str, Any]:
            return shapes.as_schema("show", showing.to_json(describe_token(find_token(self._client, id))))

        return self._shared.get(("token", id), SECONDS, read)

    def _why(self, request: Request) -> Mapping[str, Any]:
        id = request.query_params.get("id", "")

        def read() -> Mapping[str, Any]:
            return shapes.as_schema("why", explaining.to_json(why_not(self._client, id)))

        return self._shared.get(("why", id), WHY_SECONDS, read)

    def _tokens(self, request: Request) -> Mapping[str, Any]:
        key = "tokens", str(request.query_params)
        return self._shared.get(key, SECONDS, lambda: self._read_tokens(request))

    def _read_tokens(self, request: Request) -> Mapping[str, Any]:
        query = request.query_params
        states = query.getlist("state")
        for state in states:
            if state not in STATES:
                raise UsageError(f"{state!r} is not a state: the states are {', '.join(STATES)}")
        after = query.get("after")
        filter = make_filter(
            query.getlist("where"),
            query.get("reason") or None,
            query.get("match") or None,
            _duration(query.get("since")),
            _duration(query.get("older_than")),
        )
        shown = _brief if query.get("brief", "") not in ("", "0") else _whole
        page = read_page(
            self._client,
            states or (["error"] if filter.group else list(STATES)),
            filter,
            prefix=query.get("prefix", ""),
            after=parse_place(after) if after else None,
            limit=_limit(query.get("limit")),
        )
        return {
            **_list([shapes.as_schema("ls", listing.to_json(token)) for token in map(shown, page.tokens)]),
            "next": None if page.next is None else str(page.next),
            "scanned": page.scanned,
            "is_partial": len(page.tokens) < _limit(query.get("limit")) and page.next is not None,
            "max_scanned": MAX_SCANNED,
        }


def _whole(token: Document) -> Document:
    return token


def _brief(token: Document) -> Document:
    """Return a token for a list: of a long input, only the beginning."""
    text = text_of(token.get("input"))
    return token if len(text) <= MAX_INPUT else Document({**token.value, "input": f"{text[:MAX_INPUT]}…"})


def respond(content: Mapping[str, Any], status: int = 200) -> Response:
    """Return an answer of JSON."""
    return JSONResponse(content, status)


def explain(error: Exception) -> Response:
    """Return the answer to a request that has failed, with one line that says why."""
    line = console.describe(error)
    if isinstance(error, UsageError):
        return respond({"error": line}, 400)
    if isinstance(error, (NoSuchDocument, NoLog, ResourceNotFound)):
        return respond({"error": line}, 404)
    is_passing = isinstance(error, (PicasError, HTTPError)) and is_outage(error)
    return respond({"error": line}, 503 if is_passing else 500)


def _list(items: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {"schema": "picas.list/1", "items": items}


def _limit(text: str | None) -> int:
    try:
        number = int(text or LIMIT)
    except ValueError:
        number = 0
    if not 0 < number <= MAX_LIMIT:
        raise UsageError(f"limit is not a number from 1 to {MAX_LIMIT}")
    return number


def _duration(text: str | None) -> float | None:
    try:
        return parse_duration(text) if text else None
    except ValueError as error:
        raise UsageError(str(error)) from None
