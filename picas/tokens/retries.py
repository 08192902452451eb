"""When a failed token is tried again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from typing import Any

from ..util import number_or_none

FIELD = "not_before"
"""The field of a free token with the time before which no pilot takes it: seconds since the epoch, with fractions.

A person may set it too, to postpone a token. Locking a token or putting it back removes the field."""
LONGEST_DELAY = 3600.0
"""Seconds that a failed token waits at most, without the jitter."""
JITTER = 0.25
"""The largest part of its delay that a token waits in addition, so that tokens that failed together do not all return
at the same time."""
LONGEST_WAIT = LONGEST_DELAY * (1 + JITTER)
"""Seconds that an idle pilot waits for a token at most. A longer delay was set by a person, or by a pilot with a wrong
clock: pilots do not wait for it."""

_MAX_DOUBLINGS = 40  # enough to go from any delay to the longest; a scrub count that a person wrote may be anything


def next_try(first_delay: float, failures: int) -> float:
    """Return the time before which a failed token is not tried again, in seconds since the epoch.

    :param first_delay: seconds to wait after the first failure; the delay doubles with each further failure
    :param failures: how often the token has failed, at least 1
    """
    doublings = min(max(failures - 1, 0), _MAX_DOUBLINGS)
    delay = min(first_delay * 2.0**doublings, LONGEST_DELAY)
    return round(time.time() + delay * random.uniform(1, 1 + JITTER), 3)


def not_before(token: Mapping[str, Any]) -> float:
    """Return the time before which a token must not be taken, in seconds since the epoch; 0 if there is none.

    Anything but a finite number counts as none.
    """
    when = number_or_none(token.get(FIELD))
    return when if when is not None and math.isfinite(when) else 0.0
