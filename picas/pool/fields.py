"""What a token says: its own fields, and what follows from its state and its last attempt.

People name both in filters, columns and sort orders. A name of `COMPUTED` means what follows from the token, any other
name a field of its own. A name that begins with a dot always means a field of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ..exceptions import UsageError
from ..modifiers import claim_of
from ..tokens.states import is_in_state, state_of
from ..util import is_number, list_in

MISSING: Any = object()
"""What a field is that a token does not have."""
EARLIEST = 1_000_000_000
"""Seconds since the epoch, in 2001. A smaller number in `lock` or `done` is a mark, like 99 after an error."""
LATEST = 250_000_000_000
"""Seconds since the epoch, in 9892. A larger number is no time that a calendar can show."""
TIMES = frozenset({"since", "start", "end"})
"""The names of `COMPUTED` that are times, in seconds since the epoch."""

_PART = re.compile(r"[^\s=!<>~.]+")
_INDEX = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class Field:
    """Something that a token says, by its name, e.g. "reason", "input.alpha" or "attempts.-1.outcome"."""

    name: str
    """The name as it was given."""

    def of(self, token: Mapping[str, Any]) -> Any:
        """Return the value for a token, MISSING if it has none."""
        compute = COMPUTED.get(self.name)
        if compute is not None:
            return compute(token)
        name = self.name[1:] if self.name.startswith(".") else self.name
        return token[name] if name in token else _walk(token, name.split("."))

    @property
    def is_time(self) -> bool:
        """Whether the value is a time, in seconds since the epoch."""
        return self.name in TIMES


def parse_field(text: str) -> Field:
    """Return the field with a name; the parts of a path are divided by dots, and a number is the index in a list.

    :raises UsageError: if no field can have this name
    """
    name = text.strip()
    parts = name[1:].split(".") if name.startswith(".") else name.split(".")
    if not all(_PART.fullmatch(part) for part in parts):
        raise UsageError(f"{text!r} is not a field like exit_code, input.name or attempts.-1.host")
    return Field(name)


def text_of(value: Any) -> str:
    """Return a value as text: a text as it is, nothing for what is missing or null, and anything else as JSON."""
    if value is MISSING or value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def time_of(token: Mapping[str, Any]) -> float:
    """Return when a token was locked or, if it is not, when its last attempt ended, in seconds since the epoch.

    Clients of older releases have left no attempt. Their times are in `error`, `done` and `lock`. Of a token that
    pilots of several releases had, the latest time counts. It is 0 if there is none.
    """
    if is_in_state(token, "locked"):
        return max(_times(token.get("lock")), default=0)
    ends = [last_attempt(token).get("end")]
    ends += [error.get("time") for error in list_in(token, "error")[-1:] if isinstance(error, dict)]
    return max(_times(*ends, token.get("done"), token.get("lock")), default=0)


def last_attempt(token: Mapping[str, Any]) -> dict[str, Any]:
    """Return the last attempt of a token that has ended, an empty dict if there is none."""
    attempt = next(iter(list_in(token, "attempts")[-1:]), None)
    return attempt if isinstance(attempt, dict) else {}


def _times(*values: object) -> list[float]:
    """Return those of some values that are times."""
    return [value for value in values if is_number(value) and value >= EARLIEST]


def _walk(value: Any, path: list[str]) -> Any:
    """Return what a path of names and indices leads to, MISSING if it leads nowhere."""
    for part in path:
        if isinstance(value, list) and _INDEX.fullmatch(part):
            value = value[int(part)] if -len(value) <= int(part) < len(value) else MISSING
        else:
            value = value[part] if isinstance(value, Mapping) and part in value else MISSING
    return value


def _state(token: Mapping[str, Any]) -> Any:
    state = state_of(token)
    return MISSING if state is None else state


def _since(token: Mapping[str, Any]) -> Any:
    return _shown(time_of(token))


def _start(token: Mapping[str, Any]) -> Any:
    return _shown((claim_of(token).get("start") or token.get("lock")) if _runs(token) else _ended(token, "start"))


def _end(token: Mapping[str, Any]) -> Any:
    return _shown(_ended(token, "end"))


def _seconds(token: Mapping[str, Any]) -> Any:
    """Return how long the last attempt took. Older releases have noted only its start and its end."""
    known = _number(_ended(token, "seconds"))
    if known is not MISSING:
        return known
    start, end = _start(token), _end(token)
    return MISSING if MISSING in (start, end) else end - start


def _host(token: Mapping[str, Any]) -> Any:
    host = None if _runs(token) else last_attempt(token).get("host")
    return _text(host or token.get("hostname"))


def _pilot(token: Mapping[str, Any]) -> Any:
    return _text((claim_of(token) if _runs(token) else last_attempt(token)).get("pilot"))


def _reason(token: Mapping[str, Any]) -> Any:
    """Return why the last attempt ended. Attempts of older releases do not say so, but the list `error` may."""
    reason = last_attempt(token).get("reason")
    if isinstance(reason, str):
        return reason
    error = next(iter(list_in(token, "error")[-1:]), None)
    message = error.get("message") if isinstance(error, dict) and not is_in_state(token, "done") else None
    return message if isinstance(message, str) else MISSING


def _runs(token: Mapping[str, Any]) -> bool:
    return is_in_state(token, "locked")


def _shown(value: object) -> Any:
    """Return a time that a calendar can show, MISSING if the value is none."""
    return value if is_number(value) and EARLIEST <= value <= LATEST else MISSING


def _text(value: object) -> Any:
    return value if isinstance(value, str) and value else MISSING


def _number(value: object) -> Any:
    return value if is_number(value) else MISSING


def _ended(token: Mapping[str, Any], name: str) -> Any:
    """Return what the last attempt says, unless another one is going on."""
    return MISSING if _runs(token) else last_attempt(token).get(name, MISSING)


COMPUTED: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "id": lambda token: token.get("_id", MISSING),
    "state": _state,
    "since": _since,
    "start": _start,
    "end": _end,
    "seconds": _seconds,
    "cpu_seconds": lambda token: _number(_ended(token, "cpu_seconds")),
    "max_memory_mb": lambda token: _number(_ended(token, "max_memory_mb")),
    "host": _host,
    "pilot": _pilot,
    "attempts": lambda token: len(list_in(token, "attempts")),
    "reason": _reason,
    "group": lambda token: _text(last_attempt(token).get("group")),
}
"""What follows from a token, by its name. `since` is the time of `time_of`; the attempt is the one that is going on, or
else the last; `attempts` is the number of those that are kept."""
