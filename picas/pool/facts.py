"""What a token holds, for people: whatever else somebody has written into its fields is left out, not guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..clients import CouchDB
from ..documents import Document
from ..exceptions import NoSuchDocument, PicasError
from ..jobid import JOB_ID_FIELDS, job_id_of
from ..modifiers import MAX_ATTEMPTS, claim_of
from ..tokens.job_ends import FIELD as JOB_ENDS
from ..tokens.job_ends import time_had, time_needed
from ..tokens.needs import NEED_FIELDS, fault_in
from ..tokens.resources import Resources, needs_of, walltime_of
from ..tokens.retries import FIELD as NOT_BEFORE
from ..tokens.retries import not_before
from ..tokens.states import state_of
from ..tokens.storable import MAX_DEPTH
from ..util import list_in, number_or_none, one_line, safe_text

EARLIEST = 1_000_000_000
LATEST = 253_402_300_799
"""What is outside is no time but a mark, in seconds since the epoch: from 2001 to 9999."""
TOKEN = "token"
"""The type of tokens."""
NEIGHBOURS = 2
"""How many ids on each side of a missing one an error names."""
_EXACT = 2**53
"""Below this, a float is exactly the same as each whole number."""
DEEPER = "…"
"""What stands for what is nested more than `MAX_DEPTH` levels deep."""

_KNOWN = frozenset(
    {"type", "lock", "done", "hostname", "scrub_count", "lost_count", "exit_code", "input", "output", "uploads"}
    | {"error", "claim", "attempts", "priority", NOT_BEFORE, JOB_ENDS, *NEED_FIELDS, *JOB_ID_FIELDS}
)
_OTHERS = re.compile(
    "_design/|picas_(?:pilot|ended|autopilot)_|picas_pool$|token_counter$"
)  # documents that are no tokens


class TooDeep(PicasError):
    """A document is nested too deeply for Python to read it."""


@dataclass(frozen=True)
class PastAttempt:
    """An attempt at a token that has ended. What its entry does not say is None."""

    number: int
    """Its place among those that the token keeps, beginning with 1."""
    start: float | None
    """Seconds since the epoch, as `end`."""
    end: float | None
    seconds: float | None
    cpu_seconds: float | None
    max_memory_mb: float | None
    cores: int | None
    host: str | None
    job_id: str | None
    pilot: str | None
    outcome: str | None
    exit_code: int | str | None
    reason: str | None
    group: str | None
    software: str | None


@dataclass(frozen=True)
class Attachment:
    """An attachment of a document."""

    name: str
    size: int | None
    """Bytes."""
    content_type: str | None
    revpos: int
    """The generation of the document in which it was attached, 0 if that is unknown."""


@dataclass(frozen=True)
class TokenError:
    """An entry in the list of a token's errors."""

    time: float | None
    """Seconds since the epoch."""
    message: str | None
    traceback: str | None


@dataclass(frozen=True)
class Lock:
    """Who has a token now."""

    since: float | None
    """Seconds since the epoch, by the clock of the pilot's machine."""
    pilot: str | None
    host: str | None
    job_id: str | None


@dataclass(frozen=True)
class Facts:
    """What a token holds."""

    id: str
    rev: str
    type: str | None
    state: str | None
    """None if it is in no state, or no token."""
    since: float | None
    """When it came into this state, in seconds since the epoch; None for a free token."""
    needs: Resources
    walltime: float | None
    """Seconds."""
    time_had: float | None
    """The most seconds after which the end of a job has stopped the work, see `job_ends.time_had`."""
    fault: str | None
    """What is wrong with its needs, see `needs.fault_in`."""
    priority: float | None
    not_before: float | None
    """Seconds since the epoch."""
    lock: Lock | None
    exit_code: int | str | None
    scrub_count: int | None
    lost_count: int | None
    input: Any
    output: Any
    uploads: Any
    fields: dict[str, Any]
    """The user's own fields."""
    attachments: tuple[Attachment, ...]
    errors: tuple[TokenError, ...]
    """The last one first."""
    attempts: tuple[PastAttempt, ...]
    """The last one last."""

    @property
    def time_needed(self) -> float:
        """The seconds that a pilot must have left to take it."""
        return max(self.walltime or 0.0, time_needed(self.time_had))

    @property
    def may_have_more_attempts(self) -> bool:
        """Whether older attempts may have been dropped."""
        return len(self.attempts) >= MAX_ATTEMPTS


def find_token(client: CouchDB, id: str) -> Document:
    """Return the document with an id that a person has given.

    :raises NoSuchDocument: if there is none; the text names its neighbours
    :raises TooDeep: if it is nested too deeply
    :raises PicasError: if no document can have this id
    """
    try:
        return client.get(id)
    except NoSuchDocument:
        near = _neighbours(client, id)
        known = f": the nearest ids are {', '.join(map(one_line, near))}" if near else ", and no other is near"
        raise NoSuchDocument(f"there is no token {one_line(id)}{known}") from None
    except RecursionError:
        raise TooDeep(f"{one_line(id)} is nested too deeply: neither this command nor a pilot can read it") from None
    except ValueError:
        raise PicasError(f"{one_line(id)!r} can't be the id of a document") from None


def _neighbours(client: CouchDB, id: str) -> list[str]:
    """Return the ids of the nearest documents on both sides that may be tokens, in their order."""
    before = client.all_docs(startkey=id, descending=True, limit=NEIGHBOURS)
    behind = client.all_docs(startkey=id, limit=NEIGHBOURS)
    return [row.id for row in (*reversed(before), *behind) if not _OTHERS.match(row.id)]


def describe_token(token: Mapping[str, Any]) -> Facts:
    """Return what a token holds. Any document can be described: what is odd in it is None."""
    state = state_of(token) if token.get("type") == TOKEN else None
    attempts = attempts_of(token)
    return Facts(
        id=str(token.get("_id", "")),
        rev=str(token.get("_rev", "")),
        type=_text(token.get("type")),
        state=state,
        since=_since(token, state, attempts),
        needs=needs_of(token),
        walltime=walltime_of(token),
        time_had=time_had(token),
        fault=fault_in(token),
        priority=_finite(token.get("priority")),
        not_before=_time(not_before(token)),
        lock=_lock_of(token) if state == "locked" else None,
        exit_code=_exit_code(token.get("exit_code")),
        scrub_count=_whole(token.get("scrub_count")),
        lost_count=_whole(token.get("lost_count")),
        input=_sound(token.get("input")),
        output=_sound(token.get("output")),
        uploads=_sound(token.get("uploads")),
        fields={
            name: _sound(value) for name, value in token.items() if name not in _KNOWN and not name.startswith("_")
        },
        attachments=attachments_of(token),
        errors=_errors_of(token),
        attempts=attempts,
    )


def attempts_of(token: Mapping[str, Any]) -> tuple[PastAttempt, ...]:
    """Return the attempts that a token keeps, the last one last."""
    entries = list_in(token, "attempts")
    return tuple(_attempt(number, entry) for number, entry in enumerate(entries, 1) if isinstance(entry, dict))


def attachments_of(token: Mapping[str, Any]) -> tuple[Attachment, ...]:
    """Return the attachments of a document, in the order of their names."""
    entries = token.get("_attachments")
    known = entries if isinstance(entries, dict) else {}
    return tuple(
        Attachment(
            name, _whole(entry.get("length")), _text(entry.get("content_type")), _whole(entry.get("revpos")) or 0
        )
        for name, entry in sorted(known.items())
        if isinstance(entry, dict)
    )


def _attempt(number: int, entry: Mapping[str, Any]) -> PastAttempt:
    start, end, taken = _time(entry.get("start")), _time(entry.get("end")), _amount(entry.get("seconds"))
    if taken is None and start is not None and end is not None:
        taken = max(0.0, end - start)  # an older pilot; both are whole seconds of its clock
    return PastAttempt(
        number=number,
        start=start,
        end=end,
        seconds=taken,
        cpu_seconds=_amount(entry.get("cpu_seconds")),
        max_memory_mb=_amount(entry.get("max_memory_mb")),
        cores=_whole(_amount(entry.get("cores"))),
        host=_text(entry.get("host")),
        job_id=_text(entry.get("job_id")),
        pilot=_text(entry.get("pilot")),
        outcome=_text(entry.get("outcome")),
        exit_code=_exit_code(entry.get("exit_code")),
        reason=_text(entry.get("reason")),
        group=_text(entry.get("group")),
        software=_text(entry.get("software")),
    )


def _errors_of(token: Mapping[str, Any]) -> tuple[TokenError, ...]:
    found = []
    for entry in reversed(list_in(token, "error")):
        known = entry if isinstance(entry, dict) else {"message": entry}
        message, traceback = _text(known.get("message")), _text(known.get("exception"))
        found.append(TokenError(_time(known.get("time")), message, traceback))
    return tuple(found)


def _lock_of(token: Mapping[str, Any]) -> Lock:
    pilot, host = _text(claim_of(token).get("pilot")), _text(token.get("hostname"))
    return Lock(_time(token.get("lock")), pilot, host, job_id_of(token) or None)


def _since(token: Mapping[str, Any], state: str | None, attempts: tuple[PastAttempt, ...]) -> float | None:
    """Return when a token came into its state."""
    if state == "locked":
        return _time(token.get("lock"))
    if state in ("done", "error"):
        return _time(token.get("done")) or (attempts[-1].end if attempts else None)
    return None


# --- values


def _finite(value: object) -> float | None:
    if type(value) is int and -_EXACT < value < _EXACT:  # nearly all are one of these, and reports read millions
        return float(value)
    if type(value) is float and math.isfinite(value):
        return value
    number = number_or_none(value)
    return number if number is not None and math.isfinite(number) else None


def _amount(value: object) -> float | None:
    """Return what was measured, None if nothing can be that large: sums and products of amounts must be finite."""
    number = _finite(value)
    return number if number is not None and -_EXACT < number < _EXACT else None


def _whole(value: object) -> int | None:
    number = _finite(value)
    return int(number) if number is not None and number.is_integer() else None


def _time(value: object) -> float | None:
    number = _finite(value)
    return number if number is not None and EARLIEST <= number <= LATEST else None


def _exit_code(value: object) -> int | str | None:
    whole = _whole(value)
    return _text(value) if whole is None else whole


def _text(value: object) -> str | None:
    """Return a text for a value of any type, None if it says nothing."""
    if isinstance(value, str) and value.isascii():  # as in _finite
        return value or None
    return None if value is None or value == "" else safe_text(value)


def _sound(value: Any, levels: int = MAX_DEPTH) -> Any:
    """Return a value of JSON that can be printed as such: without infinities, and not nested too deeply.

    Python reads 1e999 as infinity, and can't write that as JSON.

    :param levels: how deep lists and objects in it may be nested
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, dict)) and not levels:
        return DEEPER
    if isinstance(value, list):
        return [_sound(member, levels - 1) for member in value]
    if isinstance(value, dict):
        return {name: _sound(member, levels - 1) for name, member in value.items()}
    return value
