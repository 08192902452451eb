"""What an answer means: whether CouchDB gave it, and what its errors say.

Between a pilot and CouchDB there may be a proxy, a firewall or a login page, and any of them answers in a bad hour,
with any status. Only an answer in CouchDB's form says something about a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import couchdb.http
from couchdb import json as couchdb_json
from couchdb.http import HTTPError

from ..exceptions import ForeignAnswer, LostAnswer, Unreachable

_ERRORS = {
    401: couchdb.http.Unauthorized,
    403: couchdb.http.Forbidden,
    404: couchdb.http.ResourceNotFound,
    409: couchdb.http.ResourceConflict,
    412: couchdb.http.PreconditionFailed,
}
_PLAIN = frozenset({401, 413, 414, 431})
"""Statuses that mean the same whoever answers: the user was refused, or the request is too large."""
_REFUSED = (couchdb.http.Unauthorized, couchdb.http.Forbidden)
_LOGIN_FAILED = ("Name or password is incorrect", "Authentication required", "You are not authorized to access this ")
"""How CouchDB's reasons for status 401 begin if it does not know the user."""
_NOT_TO_PASS = frozenset({501, 505})
_MAX_SHOWN = 1000


def is_passing_status(status: int) -> bool:
    """Return whether the same request may succeed later: the server is busy, broken or full."""
    return status in (408, 425, 429) or (status >= 500 and status not in _NOT_TO_PASS)


def error_of(status: int, text: bytes, has_body: bool = True) -> HTTPError | None:
    """Return the exception of `couchdb` for a status of 400 or more, with the server's error and reason.

    :param has_body: whether an answer to this request has a body
    :returns: None if something other than CouchDB has answered, so that the status says nothing
    """
    try:
        content = couchdb_json.decode(text.decode("utf-8"))
        error: Any = content["error"], content["reason"]
        is_from_couchdb = isinstance(error[0], str)
    except (ValueError, TypeError, LookupError, RecursionError):
        error = text.decode("utf-8", "replace")[:_MAX_SHOWN]
        is_from_couchdb = not has_body
    if not is_from_couchdb and status not in _PLAIN and not is_passing_status(status):
        return None
    if status in _ERRORS:
        return _ERRORS[status](error)
    return couchdb.http.ServerError((status, error))


def foreign(server: str, status: int, detail: str, is_write: bool) -> Unreachable | LostAnswer:
    """Return the exception for an answer that CouchDB has not given.

    :param detail: what the answer is, for people
    :param is_write: whether the request writes. It may have been applied all the same.
    """
    text = f"what answers at {server} is not CouchDB (status {status}, {detail or 'no content'})"
    return LostAnswer(text) if is_write else ForeignAnswer(text)


def content_of(method: str, url: str, content_type: str, data: Any) -> Any:
    """Return the content of an answer to a request for JSON.

    :param data: the body, which is read only if it is JSON
    :raises ValueError: if CouchDB has not given this answer
    """
    if "json" not in content_type:
        raise ValueError("not JSON")
    content = couchdb_json.decode(data.read().decode("utf-8"))
    if not _has_form(method, urlsplit(url).path.split("/"), content):
        raise ValueError("not an answer of CouchDB to this request")
    return content


def _has_form(method: str, path: list[str], content: Any) -> bool:
    """Return whether a JSON value has what CouchDB's answer to a request has in any case."""
    if path[-1] == "_bulk_docs":
        return isinstance(content, list)
    if path[-1] == "_all_docs" or "_view" in path:
        return isinstance(content, dict) and ("rows" in content or "results" in content)
    if path[-1] in ("_changes", "_bulk_get"):
        return isinstance(content, dict) and "results" in content
    if any(part.startswith("_") for part in path if part not in ("_design", "_local")):
        return True  # only documents and databases have a form that is always the same
    if method in ("PUT", "DELETE"):
        return isinstance(content, dict) and "ok" in content
    if method == "GET" and path[-1] and isinstance(content, dict):
        return not content.keys().isdisjoint(("_id", "db_name", "couchdb"))
    return isinstance(content, (dict, list))


def sole_branch(branches: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the content of a document from its branches, as `_bulk_get` lists them.

    :returns: the only branch that is not deleted; {} if there is no such document; None if there are several, of which
        readers see one, or if the server says that it could not read one
    """
    found = [branch["ok"] for branch in branches if "ok" in branch]
    errors = [branch["error"].get("error") for branch in branches if "error" in branch]
    alive = [content for content in found if not content.get("_deleted")]
    if len(alive) > 1 or set(errors) - {"not_found"}:
        return None
    return alive[0] if alive else {}


def is_absent(error: HTTPError) -> bool:
    """Return whether CouchDB says that there is no such document; the database itself may be missing too."""
    return bool(error.args) and error.args[0] in (("not_found", "missing"), ("not_found", "deleted"))


def is_missing_stub(error: BaseException) -> bool:
    """Return whether CouchDB lacks an attachment that a document names: a node of a cluster may lag behind."""
    return isinstance(error, couchdb.http.PreconditionFailed) and _part(error, 0) == "missing_stub"


def is_locked_out(error: BaseException) -> bool:
    """Return whether CouchDB refuses a user for a while, after somebody has tried wrong passwords at this address."""
    return isinstance(error, couchdb.http.Forbidden) and "temporarily locked" in _part(error, 1)


def is_shut_out(error: BaseException) -> bool:
    """Return whether CouchDB refuses a user the whole database."""
    return isinstance(error, couchdb.http.Forbidden) and "not allowed to access this db" in _part(error, 1)


def is_unknown_user(error: BaseException) -> bool:
    """Return whether the server does not accept the user and the password.

    CouchDB also answers with status 401 if a user that it knows may not do something.
    """
    reason = _part(error, 1)
    return isinstance(error, couchdb.http.Unauthorized) and (not reason or reason.startswith(_LOGIN_FAILED))


def needs_server_admin(error: BaseException) -> bool:
    """Return whether only an administrator of the server may do what was asked."""
    return isinstance(error, _REFUSED) and _part(error, 1) == "You are not a server admin."


def needs_database_admin(error: BaseException) -> bool:
    """Return whether only an administrator of the database, or of the server, may do what was asked."""
    return isinstance(error, _REFUSED) and _part(error, 1) == "You are not a db or server admin."


def _part(error: BaseException, number: int) -> str:
    """Return the error (0) or the reason (1) in an exception of `couchdb`, '' if it has none."""
    detail = error.args[0] if error.args else None
    return str(detail[number]) if isinstance(detail, tuple) and len(detail) == 2 else ""
