"""Tokens that were at work when the time of their job was over, and how much time they need then.

A token that is longer than its job would otherwise be put back and taken again for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

from ..util import number_or_none
from .resources import LONGEST

FIELD = "job_ends"
"""The field of a token with the number of such attempts since a person has dealt with it (`count`), and the most
seconds that it had in one of them (`seconds`)."""
MAX_JOB_ENDS = 5
"""After so many of these attempts the token counts as failed."""
ENOUGH = 2
"""After so many of these attempts the token is taken only by a pilot with more time: one may have begun late."""
MORE = 0.1
"""By which share the time that is left must exceed the longest of these attempts: a job of the same length may have a
little more time left than the one before, and would be in vain."""


def note(token: MutableMapping[str, Any], seconds: float) -> int:
    """Note an attempt that the end of the job's time has stopped, and return how many there were.

    :param seconds: how long the token was at work
    """
    count, longest = _read(token)
    token[FIELD] = {"count": count + 1, "seconds": math.ceil(max(longest, seconds))}
    return count + 1


def time_had(token: Mapping[str, Any]) -> float | None:
    """Return the most seconds that a token had in vain; None while that does not limit who takes it."""
    if FIELD not in token:
        return None  # kept fast: pilots ask this of each token that they read
    count, longest = _read(token)
    return longest if count >= ENOUGH else None


def time_needed(had: float | None) -> float:
    """Return the seconds that a pilot must have left to take a token, 0 for any.

    :param had: what `time_had` has returned for it
    """
    return 0.0 if had is None else had + MORE * had


def _read(token: Mapping[str, Any]) -> tuple[int, float]:
    """Return the count and the seconds; 0 for what is missing or, as anybody may write a token, no such number."""
    entry = token.get(FIELD)
    known = entry if isinstance(entry, dict) else {}
    count, seconds = (number_or_none(known.get(name)) or 0.0 for name in ("count", "seconds"))
    is_valid = 0 < count < math.inf and 0 <= seconds < LONGEST
    return (int(count), seconds) if is_valid else (0, 0.0)
