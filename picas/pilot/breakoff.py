"""Break off a run: end what runs in its slots, and put its tokens back, those that are finished excepted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from functools import partial
from subprocess import Popen
from typing import Any

from ..exceptions import PilotStopped
from ..picaslogger import get_logger
from ..pool.results import Stage
from ..processes import KILL_WAIT, RETRY, SETTLE
from ..util import wait_until
from .attempt import Attempt
from .context import Context
from .loop import Loop
from .rescue import quietly
from .work import Work

log = get_logger(__name__)

OBEDIENCE = 1.0
"""Seconds that children have to end before the code that may be waiting for them is interrupted."""


class BreakOff:
    """Ends the loop of a run.

    :param context: the run
    :param loop: its loop
    """

    def __init__(self, context: Context, loop: Loop) -> None:
        self._context = context
        self._loop = loop
        self._interrupted: set[Attempt] = set()  # whose code is being interrupted
        self._ending = threading.Thread(target=self._end_children, name="picas-stop", daemon=True)
        self._children: list[Popen[Any]] = []

    def run(self) -> None:
        """End the children and the code of all slots, and save the tokens. Each step is taken whatever happens."""
        loop = self._loop
        self._context.is_breaking_off = True
        quietly(loop.give_back, "Taking back the tokens that wait for a slot")
        quietly(self._end_code, "Ending the code of the tokens at work")
        for attempt in loop.held():
            quietly(partial(self._wind_up, attempt), f"Putting back token {attempt.id}")
        if not quietly(loop.save, "Saving the tokens together"):
            for attempt in loop.unsaved:
                quietly(Work(self._context, attempt).save, f"Saving token {attempt.id}")

    def _end_code(self) -> None:
        """End the children and the code of all slots."""
        context, loop = self._context, self._loop
        running = loop.slots.running
        self._children = context.children_of(running)
        quietly(lambda: context.announce_stop(self._children), "Logging the stop")
        if not quietly(self._ending.start, "Starting a thread"):
            self._end_children()
        if self._children:
            wait_until(self._have_children_ended, OBEDIENCE)
            loop.collect(RETRY)
        self._interrupt(running)
        wait_until(self._have_children_ended, context.grace + KILL_WAIT)
        # A batch system that has sent its signal kills the pilot soon; code in a slot may be in a long system call.
        give_up = time.monotonic() + SETTLE
        while running and time.monotonic() < give_up:
            loop.collect(RETRY)
            # A child may have been about to start, and code may go on to start the next.
            context.end_children(context.children_of(running))
            self._interrupt(running)
        if running:
            log.warning("%s tokens are put back though their code has not ended", len(running))

    def _wind_up(self, attempt: Attempt) -> None:
        """Bring a token into its final state, and note that it has yet to be saved."""
        loop = self._loop
        # If it is concluded, its clean-up was interrupted, or counting it failed; or its slot is about to save it.
        is_unsaved = attempt.stage is Stage.CONCLUDED and attempt not in loop.slots.running
        if attempt in loop.unsaved:
            return
        if is_unsaved or (not attempt.is_concluded and Work(self._context, attempt).wind_up()):
            loop.unsaved.append(attempt)

    def _have_children_ended(self) -> bool:
        return not self._ending.is_alive()

    def _end_children(self) -> None:
        quietly(lambda: self._context.end_children(self._children), "Ending the children")

    def _interrupt(self, attempts: Iterable[Attempt]) -> None:
        """Interrupt the code in slots, again and again until it is left."""
        for attempt in attempts:
            if attempt.limit is not None and attempt not in self._interrupted:
                self._interrupted.add(attempt)
                threading.Thread(target=self._interrupt_code, args=(attempt,), name="picas-stop", daemon=True).start()

    def _interrupt_code(self, attempt: Attempt) -> None:
        """Interrupt the code of a token; code that waits for a child returns when that has ended, and is left alone."""
        seconds = self._context.grace + KILL_WAIT + SETTLE
        if attempt.limit is not None:
            attempt.limit.break_off(PilotStopped, seconds, Work(self._context, attempt).has_children)
