"""The states of a token, written once: Python's tests and the JavaScript of the views are both made from them."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OPERATORS = {"==": operator.eq, "!=": operator.ne, ">": operator.gt}


@dataclass(frozen=True)
class Comparison:
    """A field of a token compared with a number, as JavaScript compares them."""

    field: str
    operator: str
    number: int
    as_integer: bool = False

    def javascript(self) -> str:
        """Return the comparison as a JavaScript expression on `doc`."""
        value = f"parseInt(doc.{self.field}, 10)" if self.as_integer else f"doc.{self.field}"
        return f"{value} {self.operator} {self.number}"

    def holds(self, token: Mapping[str, Any]) -> bool:
        """Tell whether the comparison is true of a token."""
        value = token.get(self.field, None)
        number = parse_int(value) if self.as_integer else _to_number(value)
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
        Comparison("exit_code", "!=", 0, as_integer=True),  # '' is no number, and so an error
    ),
}


def state_of(token: Mapping[str, Any]) -> str | None:
    """Return the name of a token's state, None if it is in none of them."""
    return next((name for name in STATES if is_in_state(token, name)), None)


def is_in_state(token: Mapping[str, Any], state: str) -> bool:
    """Tell whether a token is in the state of that name."""
    return all(comparison.holds(token) for comparison in STATES[state])


def javascript_condition(state: str) -> str:
    """Return a state as a JavaScript expression on `doc`."""
    return " && ".join(comparison.javascript() for comparison in STATES[state])


def has_failed(token: Mapping[str, Any]) -> bool:
    """Tell whether a token's exit code is anything but 0."""
    return parse_int(token.get("exit_code", None)) != 0


def parse_int(value: object) -> float:
    """Return what JavaScript's `parseInt(value, 10)` makes of a value from JSON: a whole number, or NaN."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, (int, float)):
        return math.trunc(value) if math.isfinite(value) else math.nan
    match = re.match(r"\s*([+-]?\d+)", value) if isinstance(value, str) else None
    return int(match.group(1)) if match else math.nan


def _to_number(value: object) -> float:
    """Return the number that JavaScript compares a value from JSON as, NaN if it equals none.

    A list or an object counts as none here: no token has one in such a field, and such a token is never locked.
    """
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, str):
        return math.nan
    try:
        return float(value.strip() or 0)
    except ValueError:
        return math.nan
