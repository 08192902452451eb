"""When a run ends, other than for want of tokens, which tokens are for it, and how it tries failed tokens again."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from ..tokens.resources import Resources, needs_of, walltime_of

log = logging.getLogger(__name__)

RECENT = 10
"""How many of the last tokens tell how long the next may take."""


@dataclass
class StopConditions:
    """What ends a run, which tokens it takes, and how it retries; the times are in seconds. See `RunActor.run`.

    How long a token may take is told by its own field `walltime` (seconds) and by `max_token_time`, whichever is less;
    if neither is known, the longest of the last tokens of this run tells.

    :raises ValueError: if `retry_delay` is no time
    """

    max_token_time: float | None = None
    max_total_time: float | None = None
    max_tasks: int | None = None
    max_scrub: int = 0
    retry_delay: float = 0.0
    stop_function: Callable[..., Any] | None = None
    stop_function_args: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    processed: int = 0
    deadline: float = math.inf
    """The time until which tokens may be at work, on the clock of `time.monotonic`; see `batch.deadline`."""
    deadline_source: str = ""
    """What tells that."""
    has: Resources | None = None
    """What the pilot has; None if nobody is to ask."""
    has_refused: bool = False
    """Whether there was a token that could not end in time."""
    _recent: tuple[float, ...] = ()  # replaced, never changed: threads of slots write it while that of the run reads it
    _shortest: float = math.inf  # the shortest time that a token itself has told
    _has_told: bool = False  # whether the log says that a token needs more than the pilot has

    def __post_init__(self) -> None:
        if not isinstance(self.retry_delay, (int, float)) or not 0 <= self.retry_delay < math.inf:
            raise ValueError(f"retry_delay must be a number of seconds, not {self.retry_delay!r}")

    @property
    def last_start(self) -> float:
        """The time after which no token is started, on the clock of `time.monotonic`."""
        total = self._end_of_run - min(self.max_token_time or 0, self._shortest)
        return min(total, self.deadline - min(self._usual, self._shortest))

    @property
    def is_late(self) -> bool:
        """Whether a token that is started now could not end in time."""
        return time.monotonic() > self.last_start

    def fits(self, token: Mapping[str, Any]) -> bool:
        """Tell whether the pilot has what a token needs, and whether one that is started now can end in time."""
        if self.has is not None:
            needs = needs_of(token)
            if not self.has.cover(needs):
                if not self._has_told:
                    log.warning("%s needs more than this pilot has (%s): %s", token.get("_id"), self.has, needs)
                    self._has_told = True
                return False
        return self._fits_in_time(token)

    def _fits_in_time(self, token: Mapping[str, Any]) -> bool:
        now = time.monotonic()
        own = walltime_of(token)
        if own is None:
            fits = now <= self._end_of_run - (self.max_token_time or 0) and now <= self.deadline - self._usual
        else:
            self._shortest = min(self._shortest, own)
            needed = own if self.max_token_time is None else min(own, self.max_token_time)
            fits = now + needed <= min(self._end_of_run, self.deadline)
        self.has_refused |= not fits
        return fits

    def note(self, seconds: float) -> None:
        """Take note of how long the work on a token took."""
        self._recent = (*self._recent, seconds)[-RECENT:]

    def tell_refusal(self) -> None:
        """Say in the log if no further token is taken for want of time."""
        if not (self.has_refused or self.is_late):
            return
        if self.deadline < self._end_of_run:
            left = max(0.0, self.deadline - time.monotonic())
            usual = f", and one takes up to {self._usual:.0f} s" if self._usual else ""
            source = self.deadline_source
            log.warning("No further token: %.0f s are left for work in this job (%s)%s", left, source, usual)
        else:
            log.info("No further token: none could end within the %s s of this run", self.max_total_time)

    @property
    def _end_of_run(self) -> float:
        return math.inf if self.max_total_time is None else self.started + self.max_total_time

    @property
    def _usual(self) -> float:
        """How long a token may take that does not tell itself."""
        return max(self._recent, default=0.0) if self.max_token_time is None else self.max_token_time

    @property
    def tokens_left(self) -> float:
        """How many tokens more may be processed."""
        return self.max_tasks - self.processed if self.max_tasks else math.inf

    def are_met(self) -> bool:
        """Tell whether the run is to end now that a token was processed."""
        if self.stop_function is not None and self.stop_function(**self.stop_function_args):
            return True
        return self.tokens_left <= 0
