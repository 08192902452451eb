"""Waiting while the database is away."""

from __future__ import annotations

import logging
import math
import random
import time
from typing import Callable, TypeVar

from couchdb.http import HTTPError, Unauthorized

from ..exceptions import ForeignAnswer, PicasError, UntrustedServer
from ..picaslogger import get_logger
from ..util import wait_until
from .answers import is_locked_out, is_shut_out
from .connections import explain, is_hopeless
from .writes import is_passing

log = get_logger(__name__)

T = TypeVar("T")

MAX_OUTAGE = 3600.0
"""Seconds that the database may be away by default."""
FIRST_PAUSE = 1.0
"""Seconds to wait after the first failure. The pauses double."""
LONGEST_PAUSE = 60.0
"""The longest pause between two tries, in seconds."""
SILENCE = 30.0
"""Seconds between two lines about an outage at least, once the pauses have become as long as they may be."""


def is_outage(error: BaseException) -> bool:
    """Return whether an error may go away by itself, for a pilot that the server has let in before.

    Its settings were good, so a refusal of the user counts too: a password, or permissions, may be about to be changed.
    """
    return is_passing(error) or isinstance(error, Unauthorized) or is_locked_out(error) or is_shut_out(error)


def is_outage_at_start(error: BaseException) -> bool:
    """Return whether an error may go away by itself though the settings are right; without that, they may be wrong."""
    if isinstance(error, (ForeignAnswer, UntrustedServer)):
        return False
    return is_locked_out(error) or is_passing(error)


def is_name_unknown(error: BaseException) -> bool:
    """Return whether a server can't be reached because there is none with this name, or because that is forbidden."""
    return isinstance(error.__cause__, OSError) and is_hopeless(error.__cause__)


def wait_out(
    action: Callable[[], T],
    max_outage: float,
    is_stopped: Callable[[], bool],
    may_pass: Callable[[BaseException], bool] = is_outage,
    longest_pause: float | None = None,
) -> T:
    """Return what an action returns, repeating the action while the database is away.

    :param action: a function that needs the database and is safe to repeat
    :param max_outage: the longest outage to wait for, in seconds
    :param is_stopped: ends the waiting when it returns true
    :param may_pass: returns whether an error is an outage
    :param longest_pause: the longest pause between two tries, in seconds; by default `LONGEST_PAUSE`
    :raises Exception: the action's last error, if the outage lasts too long; at once, if the error is not an outage
    """
    began: float | None = None
    pause, told = FIRST_PAUSE, -math.inf  # when a line has said that it is away
    longest = LONGEST_PAUSE if longest_pause is None else longest_pause
    while True:
        try:
            result = action()
        except (PicasError, HTTPError) as error:
            if not may_pass(error):
                raise
            now = time.monotonic()
            began = now if began is None else began
            left = began + max_outage - now
            if left <= 0 or is_stopped():
                raise
            is_told = pause >= longest and now - told < SILENCE
            told = told if is_told else now
            level = logging.DEBUG if is_told else logging.WARNING
            log.log(level, "The database is away (%s): trying again for another %.0f s", explain(error), left)
            wait_until(is_stopped, min(pause * random.uniform(0.75, 1.25), left))
            pause = min(pause * 2, longest)
        else:
            if began is not None:
                log.warning("The database is back after %.0f s", time.monotonic() - began)
            return result
