"""The states of a token, defined once: both the checks in Python and the JavaScript of the views are made from them."""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..util import number_or_none
from .storable import in_json

_WHITESPACE = "[\\t\\n\\v\\f\\r \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff]*"
"""The whitespace that JavaScript skips around a number; Python's definition differs."""
_LEADING_INTEGER = re.compile(_WHITESPACE + r"([+-]?[0-9]+)")
_DECIMAL = re.compile(
    _WHITESPACE + r"([+-]?(?:Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|)" + _WHITESPACE
)
_PREFIXED = re.compile(_WHITESPACE + r"(0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+)" + _WHITESPACE)
_SMALLEST_PLAIN = 1e-6
_LARGEST_EXACT = 2**53
"""Below this, each integer is a number of JavaScript."""
_LARGEST_PLAIN = 1e21
"""JavaScript writes numbers between these two without an exponent."""

_OF_JSON = (bool, int, float, list, tuple, dict, type(None))
"""The types of JSON, besides text. Before a token is saved, user code may have put a number of NumPy into a field."""
_OPERATORS = {"==": operator.eq, "!=": operator.ne, ">": operator.gt}


@dataclass(frozen=True)
class Comparison:
    """A comparison between a field of a token and a number, with JavaScript's rules."""

    field: str
    operator: str
    number: int
    as_integer: bool = False

    def javascript(self) -> str:
        """Return the comparison as a JavaScript expression on `doc`."""
        value = f"parseInt(doc.{self.field}, 10)" if self.as_integer else f"doc.{self.field}"
        return f"{value} {self.operator} {self.number}"

    def holds(self, token: Mapping[str, Any]) -> bool:
        """Return whether the comparison is true for a token."""
        number: Any = token.get(self.field, None)
        if type(number) is not int:  # it nearly always is, and this is asked several times for each token
            number = parse_int(number) if self.as_integer else _to_number(number)
        return bool(_OPERATORS[self.operator](number, self.number))


STATES: dict[str, tuple[Comparison, ...]] = {
    "todo": (Comparison("lock", "==", 0), Comparison("done", "==", 0)),
    "locked": (Comparison("lock", ">", 0), Comparison("done", "==", 0)),
    "done": (
        Comparison("lock", ">", 0),
        Comparison("done", ">", 0),
        Comparison("exit_code", "==", 0, as_integer=True),
    ),
    "error": (
        Comparison("lock", ">", 0),
        Comparison("done", ">", 0),
        Comparison("exit_code", "!=", 0, as_integer=True),  # '' is not a number, so it counts as an error
    ),
}


def state_of(token: Mapping[str, Any]) -> str | None:
    """Return the name of a token's state, None if it is in no state."""
    return next((name for name in STATES if is_in_state(token, name)), None)


def is_in_state(token: Mapping[str, Any], state: str) -> bool:
    """Return whether a token is in the state with this name."""
    for comparison in STATES[state]:  # noqa: SIM110  # called several times for each token: a generator takes longer
        if not comparison.holds(token):
            return False
    return True


def javascript_condition(state: str) -> str:
    """Return the condition for a state as a JavaScript expression on `doc`."""
    return " && ".join(comparison.javascript() for comparison in STATES[state])


def has_failed(token: Mapping[str, Any]) -> bool:
    """Return whether a token's exit code is anything but 0."""
    return parse_int(token.get("exit_code", None)) != 0


def is_unset(value: object) -> bool:
    """Return whether an exit code says nothing; no code of the value itself runs, which may be anything."""
    return value is None or (isinstance(value, str) and len(value) == 0)


def parse_int(value: object) -> float:
    """Return what JavaScript's `parseInt(value, 10)` returns for a JSON value: a whole number, infinity or NaN."""
    if type(value) is int and -_LARGEST_EXACT < value < _LARGEST_EXACT:  # nearly all values; not for True and False
        return value
    number = number_or_none(value)
    if number is not None:
        if number == 0 or _SMALLEST_PLAIN <= abs(number) < _LARGEST_PLAIN:
            return math.trunc(number)
        value = repr(number)  # JavaScript parses the text: the result for "1e-07" is 1
    if not isinstance(value, str):
        return math.nan if isinstance(value, _OF_JSON) else parse_int(in_json(value))
    match = _LEADING_INTEGER.match(value)
    if match is None:
        return math.nan
    digits = match.group(1)
    return int(digits) if len(digits) <= sys.float_info.dig else float(digits)


def _to_number(value: object) -> float:
    """Return the number that JavaScript converts a JSON value to in a comparison, NaN if it equals no number.

    Lists and objects become NaN, unlike in JavaScript: no token has one in these fields, and with NaN it is never
    locked.
    """
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, str):
        return math.nan if isinstance(value, _OF_JSON) else _to_number(in_json(value))
    prefixed = _PREFIXED.fullmatch(value)
    if prefixed:
        return int(prefixed.group(1), 0)
    decimal = _DECIMAL.fullmatch(value)
    return float(decimal.group(1) or 0) if decimal else math.nan
