"""How long the pilot's job goes on: asked again while it runs, since people and administrators change time limits."""

from __future__ import annotations

import math
import os
import random
import threading
import time

from ..batch import Grace, deadline, find_job_id, granted_grace, pause_before_asking
from ..picaslogger import get_logger
from .context import Context

log = get_logger(__name__)

WORTH_A_LINE = 60.0
"""A change of the end by fewer seconds is not logged: squeue counts whole seconds, and answers late at times."""
JITTER = (1.0, 1.25)
"""The pauses are prolonged by a factor in this range: the pilots of an array start together."""


class Term:
    """Keeps up with what the batch system says of this job, in a thread of its own: the answers may take long.

    :param context: the run
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._has_ended = threading.Event()

    def begin(self) -> None:
        """Start the thread, unless this process is in no job."""
        if find_job_id(os.environ) is not None:
            threading.Thread(target=self._run, name="picas-term", daemon=True).start()

    def end(self) -> None:
        """Let the thread end. It may still wait for an answer."""
        self._has_ended.set()

    def look(self) -> float:
        """Move the deadline of the run to where it is now, and return the seconds until the next look."""
        pilot = self._context.pilot
        until, source = deadline(started=self._context.conditions.started)
        if abs(until - pilot.deadline) > WORTH_A_LINE:
            left = max(0.0, until - time.monotonic())
            text = "it has none any more" if left == math.inf else f"{left:.0f} s are left for work ({source})"
            log.warning("The time limit of this job has changed: %s", text)
        pilot.deadline = until
        self._context.matcher.move(until, source)
        return self._pause()

    def _run(self) -> None:
        context = self._context
        context.batch_grace = granted_grace()
        _warn_of_long_grace(context.options.grace, context.batch_grace)
        if context.options.walltime < math.inf:
            return
        pause = self._pause()
        while not self._has_ended.wait(pause):
            pause = self.look()

    def _pause(self) -> float:
        left = self._context.pilot.deadline - time.monotonic()
        return pause_before_asking(left) * random.uniform(*JITTER)


def _warn_of_long_grace(wanted: float | None, grace: Grace) -> None:
    """Log that the grace period of the user is too long, if it is.

    :param wanted: None if the user has set none
    """
    if wanted is None or wanted <= grace.limit:
        return
    if grace.is_certain:
        text = "Programs have %g s to end when this job is cancelled, not %g s (PICAS_GRACE): it is killed soon after"
    else:
        text = "Tokens may stay locked when this job is cancelled: often only %g s are left, not %g s (PICAS_GRACE)"
    log.warning(text, grace.limit, wanted)
