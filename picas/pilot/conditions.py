"""When a run ends, other than for want of tokens, and whether it retries a token that failed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Callable

from .. import modifiers
from ..documents import Document
from ..picaslogger import get_logger
from ..tokens.states import is_in_state, parse_int
from ..util import check_limit, list_in, number_or_none, refuse_unknown
from .rescue import call

log = get_logger(__name__)

CANCELLED = "cancelled"
"""The outcome of an attempt that a person has cancelled: it is not retried."""


def check_stop_function(
    function: Callable[..., Any] | None, arguments: Mapping[str, Any], others: Iterable[str]
) -> None:
    """Check the arguments of `stop_function` before the first token.

    :param function: the function, None if there is none to take them
    :param arguments: its arguments
    :param others: the other arguments of `run`, which may be meant as well
    :raises TypeError: if it does not take them
    """
    if function is None:
        refuse_unknown(arguments, (), "run", others)
        return
    try:
        taken = signature(function)
    except (TypeError, ValueError):  # not every function has one
        return
    try:
        taken.bind(**arguments)
    except TypeError as error:
        raise TypeError(f"stop_function does not take the arguments of run(): {error}") from None


@dataclass
class StopConditions:
    """What ends a run; the times are in seconds. See `RunActor.run`.

    :raises ValueError: if one of the limits is invalid
    """

    max_token_time: float | None = None
    max_total_time: float | None = None
    max_tasks: int | None = None
    stop_function: Callable[..., Any] | None = None
    stop_function_args: Mapping[str, Any] = field(default_factory=dict)
    max_failures: int | None = None
    """See `fuse.Fuse`."""
    wait_for_locked: bool = False
    """Whether the run waits for tokens of pilots without a sign of life, see `holders`."""
    started: float = field(default_factory=time.monotonic)
    processed: int = 0
    """Tokens that this run has processed."""

    def __post_init__(self) -> None:
        for name in ("max_token_time", "max_total_time", "max_tasks", "max_failures"):
            check_limit(getattr(self, name), name)

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

    :raises ValueError: if one of the numbers is invalid
    """

    max_scrub: int = 0
    """How often a token may be put back after a failure."""
    delay: float = 0.0
    """Seconds before its first retry, see `modifiers.scrub`."""

    def __post_init__(self) -> None:
        check_limit(self.max_scrub, "max_scrub")
        seconds = number_or_none(self.delay)
        if seconds is None or not 0 <= seconds < math.inf:
            raise ValueError(f"retry_delay must be a number of seconds, not {self.delay!r}")

    def allows(self, token: Document) -> bool:
        """Return whether a token has failed and may be tried again."""
        last = list_in(token, "attempts")[-1:]
        if last and isinstance(last[0], dict) and last[0].get("outcome") == CANCELLED:
            return False
        count = parse_int(token.get("scrub_count", 0))
        return is_in_state(token, "error") and self.max_scrub > (0 if math.isnan(count) else count)

    def apply(self, token: Document) -> Document:
        """Put a token back if it has failed and may be tried again, and return it."""
        if self.allows(token):
            modifiers.scrub(token, self.delay)
            count = f"{token['scrub_count']} of {self.max_scrub:g}"
            log.info("Token %s is put back for another try (%s)", token.get("_id", "?"), count)
        return token

    def retried(self, token: Document) -> Document:
        """Return a copy of a token, put back if it has failed and may be tried again."""
        copy = Document(dict(token))
        return modifiers.scrub(copy, self.delay) if self.allows(copy) else copy
