"""When a token that has failed is tried again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from typing import Any

from ..util import is_number

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
    if not is_number(value):
        return 0.0
    try:
        when = float(value)
    except OverflowError:  # a whole number can be longer than any float
        return 0.0
    return when if math.isfinite(when) else 0.0
