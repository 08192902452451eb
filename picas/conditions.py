"""When a run ends, other than for want of tokens, and how it tries failed tokens again."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Callable


@dataclass
class StopConditions:
    """What ends a run, and how it retries; the times are in seconds. See `RunActor.run` for what each means.

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

    def __post_init__(self) -> None:
        if not isinstance(self.retry_delay, (int, float)) or not 0 <= self.retry_delay < math.inf:
            raise ValueError(f"retry_delay must be a number of seconds, not {self.retry_delay!r}")

    @property
    def last_start(self) -> float:
        """The time after which no token is started, on the clock of `time.monotonic`."""
        if self.max_total_time is None:
            return math.inf
        return self.started + self.max_total_time - (self.max_token_time or 0)

    @property
    def is_late(self) -> bool:
        """Whether a token that is started now could not end in time."""
        return time.monotonic() > self.last_start

    @property
    def tokens_left(self) -> float:
        """How many tokens more may be processed."""
        return self.max_tasks - self.processed if self.max_tasks else math.inf

    def are_met(self) -> bool:
        """Tell whether the run is to end now that a token was processed."""
        if self.stop_function is not None and self.stop_function(**self.stop_function_args):
            return True
        return self.tokens_left <= 0
