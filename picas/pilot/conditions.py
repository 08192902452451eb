"""When a run ends, other than for want of tokens, and whether it retries a token that failed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from .. import modifiers
from ..documents import Document
from ..tokens.states import is_in_state, parse_int
from ..util import number_or_none
from .rescue import call


@dataclass
class StopConditions:
    """What ends a run; the times are in seconds. See `RunActor.run`."""

    max_token_time: float | None = None
    max_total_time: float | None = None
    max_tasks: int | None = None
    stop_function: Callable[..., Any] | None = None
    stop_function_args: Mapping[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    processed: int = 0
    """Tokens that this run has processed."""

    @property
    def end(self) -> float:
        """The time after which no token may be at work, on the clock of `time.monotonic`."""
        return math.inf if self.max_total_time is None else self.started + self.max_total_time

    @property
    def tokens_left(self) -> float:
        """How many more tokens may be processed; infinity for no limit. At first it is at least one."""
        return max(self.max_tasks, 1) - self.processed if self.max_tasks else math.inf

    def are_met(self) -> bool:
        """Return whether the run ends, now that a token has been processed."""
        if self.stop_function is not None and call(self.stop_function, **self.stop_function_args):
            return True
        return self.tokens_left <= 0


@dataclass(frozen=True)
class RetryPolicy:
    """Whether a token that failed is put back into the pool, and when it may be taken again.

    :raises ValueError: if `delay` is not a number of seconds
    """

    max_scrub: int = 0
    """How often a token may be put back after a failure."""
    delay: float = 0.0
    """Seconds before its first retry, see `modifiers.scrub`."""

    def __post_init__(self) -> None:
        seconds = number_or_none(self.delay)
        if seconds is None or not 0 <= seconds < math.inf:
            raise ValueError(f"retry_delay must be a number of seconds, not {self.delay!r}")

    def allows(self, token: Document) -> bool:
        """Return whether a token has failed and may be tried again."""
        count = parse_int(token.get("scrub_count", 0))
        return is_in_state(token, "error") and self.max_scrub > (0 if math.isnan(count) else count)

    def apply(self, token: Document) -> Document:
        """Put a token back if it has failed and may be tried again, and return it."""
        if self.allows(token):
            modifiers.scrub(token, self.delay)
        return token

    def retried(self, token: Document) -> Document:
        """Return a copy of a token, put back if it has failed and may be tried again."""
        return self.apply(Document(dict(token)))
