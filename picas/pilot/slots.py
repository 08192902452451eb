"""Threads that process tokens side by side, whatever a token is to them."""

from __future__ import annotations

import contextlib
import threading
import time
from queue import SimpleQueue
from typing import Callable, Generic, TypeVar

T = TypeVar("T")

LINGER = 0.005
"""Seconds to wait for further tokens to end after one has: what ends together is saved together."""
NAP = 0.2
"""Seconds after which a wait looks at its condition again at the latest."""


class Slots(Generic[T]):
    """So many threads, each of which processes one token at a time.

    The threads live as long as this object is open: a child that a thread has started gets its parent-death signal when
    the thread ends.

    :param count: how many
    :param work: processes a token in its thread; must not raise
    """

    def __init__(self, count: int, work: Callable[[T], None]) -> None:
        self.count = count
        self.running: set[T] = set()
        """The tokens that are in the slots; touched by the owner of this object only."""
        self._work = work
        # These queues can be used while a signal handler meets them in the middle of an operation.
        self._waiting: SimpleQueue[T | None] = SimpleQueue()
        self._ended: SimpleQueue[T] = SimpleQueue()
        self._bell = threading.Lock()  # released whenever a token has ended
        self._threads = [threading.Thread(target=self._run, name=f"picas-slot-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def free(self) -> int:
        """How many slots are empty."""
        return self.count - len(self.running)

    def start(self, token: T) -> None:
        """Put a token into an empty slot."""
        self.running.add(token)
        self._waiting.put(token)

    def has_ended(self) -> bool:
        """Tell whether a token has ended that was not collected."""
        return not self._ended.empty()

    def collect(self, seconds: float, is_enough: Callable[[], bool] = lambda: False) -> list[T]:
        """Return the tokens that have ended, after a wait for the first.

        :param seconds: how long to wait at the most
        :param is_enough: true ends the wait
        """
        give_up = time.monotonic() + seconds
        collected: list[T] = []
        nap = 0.005
        self._collect(collected, 0)  # also if there is something else to do: it may be so for hours
        while not collected and not is_enough():
            left = give_up - time.monotonic()
            self._collect(collected, min(nap, max(left, 0)))
            if left <= 0:
                break
            nap = min(nap * 1.5, NAP)
        linger = time.monotonic() + LINGER
        while collected and self.running and self._collect(collected, linger - time.monotonic()):
            pass
        return collected

    def _collect(self, collected: list[T], seconds: float) -> bool:
        give_up = time.monotonic() + seconds
        while self._ended.empty():
            # Not with the time-out of the queue: if a signal handler outlasts that, the queue waits for ever.
            left = give_up - time.monotonic()
            if left <= 0 or not self._bell.acquire(timeout=left):
                return False
        token = self._ended.get_nowait()
        self.running.discard(token)
        collected.append(token)
        return True

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        for _ in self._threads:
            self._waiting.put(None)

    def _run(self) -> None:
        while True:
            token = self._waiting.get()
            if token is None:
                return
            self._work(token)
            self._ended.put(token)
            with contextlib.suppress(RuntimeError):  # it rings already
                self._bell.release()
