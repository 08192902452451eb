"""How long the slots of a pilot are at work, and how long they are idle."""

from __future__ import annotations

import threading
import time
from typing import Any


class Usage:
    """Adds up the time that slots are at work. A paused pilot is idle.

    A token that needs several cores takes as many slots, but never more than there are.

    :param slots: the number of slots
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._since = time.monotonic()
        self._guard = threading.Lock()  # no signal handler uses it
        self._at_work: dict[object, tuple[float, int]] = {}  # since when, and in how many slots
        self._busy = 0.0

    def begin(self, work: object, cores: int) -> None:
        """Note that a token takes its slots.

        :param work: stands for the token
        :param cores: how many cores it needs
        """
        with self._guard:
            self._at_work[work] = (time.monotonic(), min(cores, self._slots))

    def end(self, work: object) -> None:
        """Note that a token has left its slots."""
        with self._guard:
            since, slots = self._at_work.pop(work)
            self._busy += slots * (time.monotonic() - since)

    def describe(self) -> dict[str, Any]:
        """Return the slots at work now, and the seconds that slots were at work and idle so far, all added up."""
        with self._guard:
            now = time.monotonic()
            slots = sum(slots for _, slots in self._at_work.values())
            busy = self._busy + sum(slots * (now - since) for since, slots in self._at_work.values())
        idle = max(0.0, self._slots * (now - self._since) - busy)
        return {
            "slots_busy": min(slots, self._slots),
            "busy_seconds": round(busy, 1),
            "idle_seconds": round(idle, 1),
        }
