"""Which tokens a person means: conditions on fields, the reason of a failure, and times."""

from __future__ import annotations

import json
import operator
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..exceptions import UsageError
from ..util import is_number
from .fields import COMPUTED, MISSING, Field, parse_field, text_of, time_of

OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~")
"""What stands between a field and a value; "~" searches a text for a regular expression."""
PRESENCE = ("exists", "missing")
"""What stands behind a field without a value."""

_CONDITION = re.compile(r"\s*([^\s=!<>~]*)\s*([=!<>~]+)(.*)", re.DOTALL)
_PRESENCE = re.compile(rf"\s*(\S+)\s+({'|'.join(PRESENCE)})\s*")
_GROUP = re.compile(r"r[0-9a-f]{4}")
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """A condition on a field of a token: `input.alpha >= 0.5`, `exit_code = 1`, `output missing`."""

    field: Field
    operator: str
    """One of OPERATORS or PRESENCE."""
    value: Any = None
    """The value to compare with; for "~" a compiled regular expression."""
    text: str = ""
    """The value as it was written."""

    def holds(self, token: Mapping[str, Any]) -> bool:
        """Return whether a token meets the condition. One that does not have the field meets only "missing"."""
        value = self.field.of(token)
        if value is MISSING:
            return self.operator == "missing"
        if self.operator in PRESENCE:
            return self.operator == "exists"
        if self.operator == "~":
            return isinstance(value, str) and self.value.search(value) is not None
        if self.operator in _ORDERS:
            return _are_comparable(value, self.value) and bool(_ORDERS[self.operator](value, self.value))
        return self._is_equal(value) == (self.operator == "=")

    def _is_equal(self, value: Any) -> bool:
        """Return whether a value is equal; 5 is also the text "5", since a line that was pushed is a text."""
        if isinstance(value, str) and value == self.text:
            return True
        return isinstance(value, bool) == isinstance(self.value, bool) and bool(value == self.value)


def parse_condition(text: str) -> Condition:
    """Return the condition that a text like "input.alpha >= 0.5" stands for.

    A value is JSON, else a text. Numbers compare as numbers, texts by their characters; a number is neither smaller
    nor larger than a text.

    :raises UsageError: if the field, the operator or the regular expression is invalid
    """
    presence = _PRESENCE.fullmatch(text)
    if presence is not None:
        return Condition(parse_field(presence.group(1)), presence.group(2))
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a condition like 'exit_code = 1', 'input.name ~ ^fit' or 'output missing'")
    sign = "=" if match.group(2) == "==" else match.group(2)
    if sign not in OPERATORS:
        raise UsageError(
            f"{sign!r} in {text!r} is no operator: there are {' '.join(OPERATORS)} and {' '.join(PRESENCE)}"
        )
    field, value = parse_field(match.group(1)), match.group(3).strip()
    if sign == "~":
        return Condition(field, sign, _pattern(value), value)
    return Condition(field, sign, parse_value(value), value)


def parse_value(text: str) -> Any:
    """Return the value that a text stands for: that of its JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


@dataclass(frozen=True)
class Filter:
    """What a token has to meet, all of it. Make one with `make_filter`; an empty one accepts every token."""

    conditions: tuple[Condition, ...] = ()
    group: str | None = None
    """The group of the failure of the last attempt, see `tokens.reasons`; '' for those without one."""
    pattern: re.Pattern[str] | None = None
    """What the reason of the last attempt contains."""
    after: float | None = None
    """The earliest time, see `fields.time_of`, in seconds since the epoch. A token without a time is before it."""
    before: float | None = None
    """The latest time. A token without a time is not before it either."""

    def __bool__(self) -> bool:
        return self != Filter()

    def accepts(self, token: Mapping[str, Any]) -> bool:
        """Return whether a token meets everything."""
        if self.group is not None and text_of(COMPUTED["group"](token)) != self.group:
            return False
        if self.pattern is not None and not self.pattern.search(text_of(COMPUTED["reason"](token))):
            return False
        if self.after is not None and time_of(token) < self.after:
            return False
        if self.before is not None and not 0 < time_of(token) <= self.before:
            return False
        return all(condition.holds(token) for condition in self.conditions)


def make_filter(
    where: Iterable[str] = (),
    reason: str | None = None,
    match: str | None = None,
    since: float | None = None,
    older_than: float | None = None,
) -> Filter:
    """Return a filter.

    :param where: conditions, see `parse_condition`
    :param reason: the group of the failure, as `picas errors` lists it: "r3f9a"
    :param match: a regular expression that the reason of the last attempt contains
    :param since: only tokens that were locked, or whose last attempt ended, at most so many seconds ago. Times of
        pilots are compared with this machine's clock.
    :param older_than: only tokens for which that is more seconds ago
    :raises UsageError: if one of them is invalid
    """
    if reason is not None and not _GROUP.fullmatch(reason):
        raise UsageError(f"{reason!r} is not a group of failures like r3f9a: picas errors lists them")
    now = time.time()
    return Filter(
        tuple(map(parse_condition, where)),
        reason,
        None if match is None else _pattern(match),
        None if since is None else now - since,
        None if older_than is None else now - older_than,
    )


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a regular expression: {error}") from None


def _refuse(text: str) -> None:
    """Refuse NaN and Infinity, which Python accepts but a database does not."""
    raise ValueError(text)


def _are_comparable(value: Any, other: Any) -> bool:
    return (is_number(value) and is_number(other)) or (isinstance(value, str) and isinstance(other, str))
