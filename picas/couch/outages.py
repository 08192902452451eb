"""Wait while the database is away."""

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
"""Seconds that the database may be away."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between two tries at the most."""


def wait_out(action: Callable[[], T], max_outage: float, is_stopped: Callable[[], bool]) -> T:
    """Return what the action returns, calling it again and again while the database is away.

    :param action: what needs the database; it must be safe to repeat
    :param max_outage: seconds after which the outage counts as lasting
    :param is_stopped: true ends the waiting too
    :raises Exception: the action's last error, if the outage lasts, or at once if it is no outage
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
    """Tell whether an error may go away by itself; a password that is being changed counts among those."""
    return is_passing(error) or isinstance(error, Unauthorized)
