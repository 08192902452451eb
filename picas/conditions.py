"""When a run ends, other than for want of tokens."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Callable


@dataclass
class StopConditions:
    """What ends a run; the times are in seconds. See `RunActor.run` for what each means."""

    max_token_time: float | None = None
    max_total_time: float | None = None
    max_tasks: int | None = None
    max_scrub: int = 0
    stop_function: Callable[..., Any] | None = None
    stop_function_args: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    processed: int = 0

    @property
    def last_start(self) -> float:
        """The time after which no token is started, on the clock of `time.monotonic`."""
        if self.max_total_time is None:
            return math.inf
        return self.started + self.max_total_time - (self.max_token_time or 0)

    def are_met(self) -> bool:
        """Tell whether the run is to end now that a token was processed."""
        if self.stop_function is not None and self.stop_function(**self.stop_function_args):
            return True
        return bool(self.max_tasks) and self.processed >= (self.max_tasks or 0)
