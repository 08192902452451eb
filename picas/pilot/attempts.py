"""One attempt at a token: what a pilot knows of the work that is done on it."""

from __future__ import annotations

from typing import Any

from .. import modifiers
from ..documents import Document
from ..pool.results import ClaimedToken
from ..processes.interrupts import TimeLimit
from ..tokens.resources import needs_of
from .conditions import StopConditions
from .outcomes import may_retry


class Attempt(ClaimedToken):
    """A token that this pilot holds, and the work on it.

    :param token: the token, just locked
    :param values: what the user's code has set on the actor while it works on this token
    """

    def __init__(self, token: Document, values: dict[str, Any]) -> None:
        super().__init__(token)
        self.values = values
        self.needs = needs_of(token)
        """What it needs of the pilot; the user's code may write what it likes into the token."""
        self.gpus: list[str] = []
        """The names of the GPUs that it was given."""
        self.thread: int | None = None
        """The thread of its slot, by its identifier."""
        self.limit: TimeLimit | None = None
        """What can interrupt the user's code."""
        self.is_processed = False
        """Whether the user's code has ended by itself."""
        self.is_interrupted = False
        """Whether the user's code was told to stop."""
        self.is_broken_off = False
        """Whether the user's code is being interrupted."""
        self.is_lost = False
        """Whether the token is not this pilot's any more."""
        self.is_concluded = False
        """Whether the token is in its final state."""
        self.interruption: BaseException | None = None
        """What ended the work in a slot, if not the user's code by itself."""

    def retry(self, conditions: StopConditions) -> None:
        """Put the token back if it has failed and has another try left."""
        retry(self.token, conditions)


def retry(token: Document, conditions: StopConditions) -> Document:
    """Put a token back if it has failed and has another try left, and return it."""
    if may_retry(token, conditions.max_scrub):
        modifiers.scrub(token, conditions.retry_delay)
    return token
