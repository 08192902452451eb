"""The fuse: ends a run in which one token after the other fails, since then not the tokens are to blame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..exceptions import TooManyFailures
from ..tokens.reasons import group_of
from ..util import list_in

MAX_FAILURES = 20
"""Tokens that may fail in a row before the first one that succeeds."""

_FAILURES = ("failed", "time-out")


class Fuse:
    """Counts the tokens that fail in a row.

    :param limit: how many may fail in a row, 0 for any number; None for `MAX_FAILURES` before the first success, and
        any number after that
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = MAX_FAILURES if limit is None else limit
        self._is_default = limit is None
        self._failures: list[tuple[str, str]] = []  # group and reason of those since the last success

    def note(self, outcome: str, token: Mapping[str, Any]) -> TooManyFailures | None:
        """Note how an attempt at a token has ended, and return an error if too many have failed in a row."""
        if outcome == "done":
            self._failures.clear()
            if self._is_default:
                self._limit = 0
        elif outcome in _FAILURES and self._limit:
            reason = _reason_of(token)
            self._failures.append((group_of(reason), reason))
            if len(self._failures) >= self._limit:
                return TooManyFailures(self._describe())
        return None

    def _describe(self) -> str:
        """Return one line about what the failures have in common."""
        (group, count), total = Counter(group for group, _ in self._failures).most_common(1)[0], len(self._failures)
        reasons = [reason for each, reason in self._failures if each == group]
        if count == 1 < total:
            last = self._failures[-1][1]
            return f"the last {total} tokens have all failed, each with something else, the last with: {last}"
        share = "each" if count == total else f"{count} times"
        return f"the last {total} tokens have all failed, {share} with: {reasons[0]}"


def _reason_of(token: Mapping[str, Any]) -> str:
    """Return why the last attempt at a token has failed; the user's code may have changed the list since."""
    attempts = list_in(token, "attempts")
    return str(attempts[-1].get("reason")) if attempts and isinstance(attempts[-1], dict) else "an unknown reason"
