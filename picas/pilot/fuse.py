"""The fuse: ends a run in which one token after the other fails, since then not the tokens are to blame."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..exceptions import TooManyFailures
from ..modifiers import ERROR_MARK
from ..util import list_in, one_line

MAX_FAILURES = 20
"""Tokens that may fail in a row before the first one that succeeds."""
MAX_REASON = 200
"""Characters that are kept of a reason."""
EXIT_CODE = "exit code"
"""The first words of a reason that is not the message of an exception."""

_FAILURES = ("failed", "time-out")


class Fuse:
    """Counts the tokens that fail in a row.

    :param limit: how many may fail in a row, 0 for any number; None for `MAX_FAILURES` before the first success, and
        any number after that
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = MAX_FAILURES if limit is None else limit
        self._is_default = limit is None
        self._reasons: list[str] = []  # of the failures since the last success

    def note(self, outcome: str, token: Mapping[str, Any]) -> TooManyFailures | None:
        """Note how an attempt at a token has ended, and return an error if too many have failed in a row."""
        if outcome == "done":
            self._reasons.clear()
            if self._is_default:
                self._limit = 0
        elif outcome in _FAILURES and self._limit:
            self._reasons.append(_reason_of(token))
            if len(self._reasons) >= self._limit:
                return TooManyFailures(self._describe())
        return None

    def _describe(self) -> str:
        """Return one line about what the failures have in common."""
        kinds = Counter(map(_kind_of, self._reasons))
        (kind, count), total = kinds.most_common(1)[0], len(self._reasons)
        example = next(reason for reason in self._reasons if _kind_of(reason) == kind)
        if count == 1 < total:
            return (
                f"the last {total} tokens have all failed, each with something else, the last with: {self._reasons[-1]}"
            )
        share = "each" if count == total else f"{count} times"
        return f"the last {total} tokens have all failed, {share} with: {example}"


def _reason_of(token: Mapping[str, Any]) -> str:
    """Return why the last attempt at a token has failed, in one line: what an exception said, or the exit code."""
    attempts, errors = list_in(token, "attempts"), list_in(token, "error")
    exit_code = attempts[-1].get("exit_code") if attempts and isinstance(attempts[-1], dict) else None
    message = errors[-1].get("message") if errors and isinstance(errors[-1], dict) else None
    if exit_code == ERROR_MARK and message:
        return one_line(message)[:MAX_REASON]
    return f"{EXIT_CODE} {one_line(exit_code)}"


def _kind_of(reason: str) -> str:
    """Return what reasons of several tokens may have in common: an exit code, or a message without its numbers."""
    return reason if reason.startswith(EXIT_CODE) else re.sub("[0-9]+", "0", reason)
