"""Results that the server refuses for good, and the parts that are to blame: what is too large, in most cases."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from couchdb.http import Forbidden, HTTPError, PreconditionFailed, ServerError, Unauthorized

from ..clients import CouchDB
from ..couch import is_missing_stub, is_outage
from ..exceptions import PicasError
from ..tokens.job_ends import FIELD as JOB_ENDS
from ..tokens.retries import FIELD as NOT_BEFORE

_STATE = frozenset(
    {"type", "lock", "done", "exit_code", "hostname", "claim", "attempts", "error", "scrub_count", "lost_count"}
) | {NOT_BEFORE, JOB_ENDS}
"""The fields without which a token would not have its true state; they are small."""
_TOO_LARGE = 413
_ERROR_OF_JAVASCRIPT = re.compile(r"[A-Z]\w*Error")
"""CouchDB says this, with status 500, if a validation function itself fails at a document."""
ALONE = 4
"""How many parts are left out one by one; after that, half as many at a time as were left out already."""


@dataclass(frozen=True)
class Part:
    """A field of a token, a value in one, or an attachment."""

    path: tuple[Any, ...]
    size: int
    """Bytes."""

    def __str__(self) -> str:
        names = self.path[1:] if self.path[0] == "_attachments" else self.path
        return f"{'.'.join(map(str, names))} ({_in_units(self.size)})"

    def leave_out(self, content: dict[Any, Any], claimed: Mapping[str, Any]) -> None:
        """Take it out of a token. A field or an attachment that there was when the token was locked gets that back."""
        *folders, name = self.path
        before = (claimed.get("_attachments") or {}) if folders == ["_attachments"] else {} if folders else claimed
        for folder in folders:
            content[folder] = dict(content[folder])  # others may share it
            content = content[folder]
        if name in before:
            content[name] = before[name]
        else:
            del content[name]


def is_refusal(client: CouchDB, error: BaseException) -> bool:
    """Return whether the server refuses a document for good, so that it is useless to send it again as it is.

    :param client: asks whether the server still lets the user in, if that was refused
    """
    if isinstance(error, Unauthorized):  # a validation function can give this answer for a single document
        return _is_let_in(client)
    if is_outage(error):
        return bool(_ERROR_OF_JAVASCRIPT.fullmatch(_words(error)[0]))
    is_request_bad = isinstance(error, ServerError) and 400 <= error.args[0][0] < 500
    return is_request_bad or isinstance(error, (Forbidden, PreconditionFailed))


class Refusals:
    """Distinguishes refusals of a document from outages, while it is sent again and again.

    If the server refuses the user, and lets them in when it is asked about that, the document is sent once more: the
    server may have begun to let the user in just between the two.

    :param client: the pool
    """

    def __init__(self, client: CouchDB) -> None:
        self._client = client
        self._is_doubtful = False  # whether the last answer was such a one
        self._final: BaseException | None = None

    def may_pass(self, error: BaseException) -> bool:
        """Return whether an error is an outage, which a pilot waits out, and no refusal of the document."""
        if not is_outage(error):
            return False
        was_doubtful, self._is_doubtful = self._is_doubtful, False
        if not is_refusal(self._client, error):
            return True
        if isinstance(error, Unauthorized) and not was_doubtful:
            self._is_doubtful = True
            return True
        self._final = error
        return False

    def is_final(self, error: BaseException) -> bool:
        """Return whether the server refuses the document for good.

        :param error: the last error for which `may_pass` was asked
        """
        return error is self._final or (not is_outage(error) and is_refusal(self._client, error))


def leave_out_more(
    content: dict[str, Any], claimed: Mapping[str, Any], refusal: BaseException, left_out: list[str]
) -> bool:
    """Take the parts out of a token for which the server most likely refuses it, and return whether there are any.

    :param content: the token
    :param claimed: its content when it was locked, which the server has accepted
    :param refusal: what the server has said
    :param left_out: what was left out already; gets the names and sizes of these parts
    """
    known = len(left_out)
    for _ in range(1 if known < ALONE else known // 2):
        part = _part_to_blame(content, claimed, refusal)
        if part is None:
            break
        part.leave_out(content, claimed)
        left_out.append(str(part))
    return len(left_out) > known


def _part_to_blame(content: Mapping[str, Any], claimed: Mapping[str, Any], refusal: BaseException) -> Part | None:
    """Return the part that is most likely to blame; None if the whole of the token may be."""
    error, reason = _words(refusal)
    attachments = _new_attachments(content, claimed)
    if is_missing_stub(refusal):
        return next((part for part in attachments if reason.endswith(f" for {part.path[-1]}")), None)
    if not (isinstance(refusal, ServerError) and refusal.args[0][0] == _TOO_LARGE):
        return None
    parts = [part for part in attachments if not content["_attachments"][part.path[-1]].get("stub")]
    if error == "attachment_too_large":
        parts = [part for part in parts if part.path[-1] == reason] or parts
    elif error == "document_too_large":  # which does not count attachments
        parts = _new_fields(content, claimed)
    else:
        parts += _new_fields(content, claimed)
    return max(parts, key=lambda part: part.size, default=None)


def _new_attachments(content: Mapping[str, Any], claimed: Mapping[str, Any]) -> list[Part]:
    """Return the attachments that were added or replaced since the token was locked."""
    entries, before = content.get("_attachments") or {}, claimed.get("_attachments") or {}
    return [
        Part(("_attachments", name), _bytes_in(entry)) for name, entry in entries.items() if entry != before.get(name)
    ]


def _bytes_in(attachment: Mapping[str, Any]) -> int:
    if "data" in attachment:
        return len(attachment["data"]) * 3 // 4  # it is base64
    length = attachment.get("length")
    return length if isinstance(length, int) else 0


def _new_fields(content: Mapping[str, Any], claimed: Mapping[str, Any]) -> list[Part]:
    """Return the fields that were added or changed since the token was locked, but not those of the token's state."""
    return [
        _largest((name,), value)
        for name, value in content.items()
        if not (name in _STATE or str(name).startswith("_") or str(name).endswith("_job_id"))
        and value != claimed.get(name)
    ]


def _largest(path: tuple[Any, ...], value: Any) -> Part:
    """Return what a value is large by: the value itself, or what makes up more than half of the object that it is."""
    size = _size(value)
    if isinstance(value, dict) and value:
        below = max(
            (Part((*path, name), _size(content)) for name, content in value.items()), key=lambda part: part.size
        )
        if below.size > size / 2:
            return _largest(below.path, value[below.path[-1]])
    return Part(path, size)


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8"))


def _in_units(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


def _words(error: BaseException) -> tuple[str, str]:
    """Return the error and the reason in the server's answer, '' for what it does not have."""
    detail: Any = error.args[0] if isinstance(error, HTTPError) and error.args else None
    if isinstance(error, ServerError):
        detail = detail[1]
    return (str(detail[0]), str(detail[1])) if isinstance(detail, tuple) and len(detail) == 2 else ("", "")


def _is_let_in(client: CouchDB) -> bool:
    try:
        CouchDB.doc_count(client)
    except (PicasError, HTTPError, AttributeError):  # a script's own stand-in for the client may lack what this needs
        return False
    return True
