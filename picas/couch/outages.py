"""Waiting while the database is away."""

from __future__ import annotations

import logging
import random
import time
from typing import Callable, TypeVar

from couchdb.http import HTTPError, Unauthorized

from ..exceptions import PicasError
from ..util import wait_until
from .connections import explain
from .writes import is_passing

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_OUTAGE = 3600.0
"""Seconds that the database may be away by default."""
FIRST_PAUSE = 1.0
"""Seconds to wait after the first failure. The pauses double."""
LONGEST_PAUSE = 60.0
"""The longest pause between two tries, in seconds."""


def wait_out(action: Callable[[], T], max_outage: float, is_stopped: Callable[[], bool]) -> T:
    """Return what an action returns, repeating the action while the database is away.

    :param action: a function that needs the database and is safe to repeat
    :param max_outage: the longest outage to wait for, in seconds
    :param is_stopped: ends the waiting when it returns true
    :raises Exception: the action's last error, if the outage lasts too long; at once, if the error is not an outage
    """
    began: float | None = None
    pause = FIRST_PAUSE
    while True:
        try:
            result = action()
        except (PicasError, HTTPError) as error:
            if not is_outage(error):
                raise
            now = time.monotonic()
            began = now if began is None else began
            left = began + max_outage - now
            if left <= 0 or is_stopped():
                raise
            log.warning("The database is away (%s): trying again for another %.0f s", explain(error), left)
            wait_until(is_stopped, min(pause * random.uniform(0.75, 1.25), left))
            pause = min(pause * 2, LONGEST_PAUSE)
        else:
            if began is not None:
                log.warning("The database is back after %.0f s", time.monotonic() - began)
            return result


def is_outage(error: BaseException) -> bool:
    """Return whether an error may go away by itself. A wrong password counts too: it may be about to be changed."""
    return is_passing(error) or isinstance(error, Unauthorized)
