"""Which tokens a pilot may take: those whose needs it meets, and that can end in time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from ..batch import MARGIN
from ..picaslogger import get_logger
from ..tokens import job_ends
from ..tokens.resources import Resources, needs_of, walltime_of
from .conditions import StopConditions

log = get_logger(__name__)

RECENT = 10
"""The next token is expected to take as long as the longest of this many before it."""
NEAR_SHARE = 0.1
"""A stop counts as the end of the job's time if it comes in this last share of the time that the run had: users ask for
a warning early, and Slurm may send it a minute earlier than that (sbatch(1), --signal). If such a stop has another
cause, it shows all the same that the token takes longer."""
NEAR = (MARGIN, 900.0)
"""The least and the most seconds of this share."""
EARLY_SHARE = 0.25
"""But no stop in this first share of that time counts, in a job that is shorter than a warning."""
MOST = 0.5
"""A token has had most of a job if it was at work for this share of that time."""
LATER = 10.0
"""Seconds by which a deadline must become later to count: each answer of a batch system is a little different."""


class Matcher:
    """Decides which tokens fit a pilot.

    The time that a token may take is its own field `walltime` (seconds) or `max_token_time`, whichever is less; if
    neither is known, it is that of the longest of the last tokens of this run. A token that was longer than its jobs
    (see `job_ends`) fits only if more time is left in this job.

    :param has: the pilot's resources
    :param deadline: the time until which tokens may be at work in this job, on the clock of `time.monotonic`
    :param source: where the deadline comes from, for people
    :param conditions: the limits of the run
    """

    def __init__(self, has: Resources, deadline: float, source: str, conditions: StopConditions) -> None:
        self._has = has
        self._deadline = deadline
        self._source = source
        self._conditions = conditions
        self.extensions = 0
        """How often the deadline has become later: tokens that did not fit may fit then."""
        self._has_refused = False  # whether a token could not have ended in time
        # Replaced, never changed: the threads of slots write it while the thread of the run reads it.
        self._recent: tuple[float, ...] = ()
        self._shortest = math.inf  # the least walltime in any token so far
        self._has_warned = False  # that a token needs more than the pilot has

    @property
    def last_start(self) -> float:
        """The time after which no token is started, on the clock of `time.monotonic`."""
        total = self._conditions.end - min(self._conditions.max_token_time or 0, self._shortest)
        return min(total, self._deadline - min(self._usual, self._shortest))

    @property
    def is_late(self) -> bool:
        """Whether a token that is started now could not end in time."""
        return time.monotonic() > self.last_start

    def move(self, deadline: float, source: str) -> None:
        """Decide by another deadline from now on: the batch system has changed the end of the job."""
        self.extensions += deadline > self._deadline + LATER
        self._deadline, self._source = deadline, source

    def fits(self, token: Mapping[str, Any]) -> bool:
        """Return whether the pilot meets a token's needs, and the token can end in time if it is started now."""
        needs = needs_of(token)
        if self._has.cover(needs):
            return self._fits_in_time(token)
        if not self._has_warned:
            log.warning("%s needs more than this pilot has (%s): %s", token.get("_id"), self._has, needs)
            self._has_warned = True
        return False

    def is_end_of_job(self, when: float) -> bool:
        """Return whether a stop at this time, on the clock of `time.monotonic`, is one by the end of the job."""
        least, most = NEAR
        near = min(max(least, NEAR_SHARE * self._time), most, (1 - EARLY_SHARE) * self._time)
        return self._deadline - when <= near

    def is_most_of_job(self, seconds: float) -> bool:
        """Return whether a token that was at work for these seconds has had most of the job's time."""
        return seconds >= MOST * self._time

    def note(self, seconds: float) -> None:
        """Note how long the work on a token took."""
        self._recent = (*self._recent, seconds)[-RECENT:]

    def explain_end(self) -> None:
        """Log why the run ends, if it is for want of time."""
        if not (self._has_refused or self.is_late):
            return
        if self._deadline < self._conditions.end:
            left = max(0.0, self._deadline - time.monotonic())
            usual = f", and one takes up to {self._usual:.0f} s" if self._usual else ""
            log.warning("No further token: %.0f s are left for work in this job (%s)%s", left, self._source, usual)
        else:
            total = self._conditions.max_total_time
            log.info("No further token: none could end within the %s s of this run", total)

    def _fits_in_time(self, token: Mapping[str, Any]) -> bool:
        now = time.monotonic()
        own, limit, end = walltime_of(token), self._conditions.max_token_time, self._conditions.end
        if own is None:
            fits = now <= end - (limit or 0) and now <= self._deadline - self._usual
        else:
            self._shortest = min(self._shortest, own)
            needed = own if limit is None else min(own, limit)
            fits = now + needed <= min(end, self._deadline)
        if job_ends.FIELD in token:
            fits = (
                fits and now + min(job_ends.time_needed(job_ends.time_had(token)), limit or math.inf) <= self._deadline
            )
        self._has_refused |= not fits
        return fits

    @property
    def _time(self) -> float:
        """Seconds that this run has for work in its job."""
        return self._deadline - self._conditions.started

    @property
    def _usual(self) -> float:
        """Seconds that a token may take that has no walltime of its own."""
        limit = self._conditions.max_token_time
        return max(self._recent, default=0.0) if limit is None else limit
