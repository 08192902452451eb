"""When a token that has failed is tried again: how long it waits, and what a pilot remembers of those that wait."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from typing import Any

FIELD = "not_before"
"""The field of a free token with the time before which no pilot takes it: seconds since the epoch, with fractions.

A person may write it too, to put a token off. Locking and putting back remove it."""
LONGEST_DELAY = 3600.0
"""Seconds that a failed token waits at the most, without the jitter."""
JITTER = 0.25
"""Up to which part of its delay a token waits longer, so that those that failed together do not come back together."""
LONGEST_WAIT = LONGEST_DELAY * (1 + JITTER)
"""Seconds that a pilot without other work waits for a token at the most. One that is put off for longer was so by a
person, or by a pilot with a wrong clock: nobody stays for it."""
MAX_REMEMBERED = 10_000
"""How many tokens that wait a pilot remembers of one view."""


def next_try(first_delay: float, failures: int) -> float:
    """Return the time before which a token is not to be tried again, in seconds since the epoch.

    :param first_delay: seconds to wait after the first failure; twice as long after each further one
    :param failures: how often the token has failed, at least 1
    """
    # A float can't be doubled for ever, and a person can write any count. Forty times lead from nothing to the longest.
    delay = min(first_delay * 2.0 ** min(max(failures - 1, 0), 40), LONGEST_DELAY)
    return round(time.time() + delay * random.uniform(1, 1 + JITTER), 3)


def not_before(token: Mapping[str, Any]) -> float:
    """Return the time before which a token is not to be taken, in seconds since the epoch; 0 if there is none.

    What is no number, or not a finite one, counts as none.
    """
    value = token.get(FIELD)
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    try:
        when = float(value)
    except OverflowError:  # a whole number can be longer than any float
        return 0.0
    return when if math.isfinite(when) else 0.0


class Postponed:
    """The tokens of a view that are not to be taken yet, as far as a pilot has seen them.

    It takes them from here when their time has come, rather than read the view again and again for the one of many
    that may be taken now.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, str]] = {}  # when, and in which revision, by id

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def add(self, token: Mapping[str, Any], when: float) -> None:
        """Remember a token.

        :param token: its content
        :param when: the time before which it is not to be taken, in seconds since the epoch
        """
        if len(self._tokens) < MAX_REMEMBERED:  # more are found when the view is read again
            self._tokens[token["_id"]] = (when, token["_rev"])

    def clear(self) -> None:
        """Forget all tokens."""
        self._tokens.clear()

    def due(self) -> dict[str, str]:
        """Return the revisions by id of the tokens whose time has come, those that came first first."""
        now = time.time()
        ready = sorted((when, id, rev) for id, (when, rev) in self._tokens.items() if when <= now)
        return {id: rev for _, id, rev in ready}

    def forget(self, id: str) -> None:
        """Forget a token; one that is not remembered is fine."""
        self._tokens.pop(id, None)

    def seconds_left(self) -> float:
        """Return after how many seconds the first of them may be taken, 0 if one may be now; infinity without any."""
        if not self._tokens:
            return math.inf
        return max(0.0, min(when for when, _ in self._tokens.values()) - time.time())
