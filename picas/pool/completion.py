"""Waiting until all tokens of a pool have come to their end."""

from __future__ import annotations

import math
import time
from typing import Callable

from ..clients import CouchDB
from ..couch.outages import MAX_OUTAGE, wait_out
from ..util import After
from ..views import DESIGN_DOC, count_states

FIRST_PAUSE = 2.0
"""Seconds until the second look at the counts. The pauses grow."""
LONGEST_PAUSE = 10.0
"""The longest pause between two looks, in seconds."""


def tokens_left(counts: dict[str, int]) -> int:
    """Return how many tokens are todo or locked.

    :param counts: the number of tokens in each state
    """
    return counts["todo"] + counts["locked"]


def wait_until_ended(
    client: CouchDB,
    design_doc: str = DESIGN_DOC,
    timeout: float = math.inf,
    max_outage: float = MAX_OUTAGE,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, int]:
    """Wait until no token is todo or locked, and return the number of tokens in each state.

    :param client: the pool
    :param design_doc: the design document whose tokens are meant
    :param timeout: seconds after which it returns in any case; the counts say whether tokens are left
    :param max_outage: the longest outage of the database to wait for, in seconds
    :param sleep: called with the seconds until the next look
    :raises couchdb.ResourceNotFound: if there is no such design document
    :raises PicasError, couchdb.http.HTTPError: if the database is away for too long, or when the time is up
    """
    is_late, pause = After(timeout), FIRST_PAUSE
    end = time.monotonic() + timeout
    while True:
        counts = wait_out(lambda: count_states(client, design_doc), max_outage, is_late)
        if is_late() or not tokens_left(counts):
            return counts
        sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(pause * 1.5, LONGEST_PAUSE)
