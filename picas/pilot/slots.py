"""Where tokens are processed: side by side in threads, or one at a time in the thread of the run."""

from __future__ import annotations

import contextlib
import threading
import time
from queue import SimpleQueue
from typing import Callable, Generic, TypeVar

from ..util import never, wait_until

T = TypeVar("T")

LINGER = 0.005
"""Seconds to wait for further tokens after one has ended: what ends together is saved together."""
NAP = 0.2
"""The longest pause between two checks of what is waited for, in seconds."""


class Slots(Generic[T]):
    """Places in which tokens are processed, one in each at a time."""

    def __init__(self) -> None:
        self.running: set[T] = set()
        """The tokens in the slots; only the owner of this object changes it."""

    def start(self, token: T) -> None:
        """Put a token into an empty slot."""
        raise NotImplementedError("start is not implemented")

    def has_ended(self) -> bool:
        """Return whether a token has ended that was not collected."""
        raise NotImplementedError("has_ended is not implemented")

    def collect(self, seconds: float, is_enough: Callable[[], bool] = never) -> list[T]:
        """Return the tokens that have ended, after a wait for the first.

        :param seconds: how long to wait at most
        :param is_enough: true ends the wait
        """
        raise NotImplementedError("collect is not implemented")

    def close(self) -> None:
        """Let the slots end once they have nothing to do."""


class MainSlot(Slots[T]):
    """One slot, whose token is processed in the thread that collects it.

    :param work: processes a token; must not raise
    """

    def __init__(self, work: Callable[[T], None]) -> None:
        super().__init__()
        self._work = work
        self._waiting: list[T] = []

    def start(self, token: T) -> None:
        """See `Slots.start`."""
        self.running.add(token)
        self._waiting.append(token)

    def has_ended(self) -> bool:
        """See `Slots.has_ended`."""
        return False  # what has ended is collected at once

    def collect(self, seconds: float, is_enough: Callable[[], bool] = never) -> list[T]:
        """See `Slots.collect`."""
        if not self._waiting:
            wait_until(is_enough, seconds)
            return []
        token = self._waiting.pop()
        self._work(token)
        self.running.discard(token)
        return [token]


class ThreadSlots(Slots[T]):
    """Slots that are threads.

    The threads live as long as this object is open: a child that a thread has started gets its parent-death signal when
    the thread ends.

    :param count: how many
    :param work: processes a token in its thread; must not raise
    """

    def __init__(self, count: int, work: Callable[[T], None]) -> None:
        super().__init__()
        self._work = work
        # These queues can be used while a signal handler meets them in the middle of an operation.
        self._waiting: SimpleQueue[T | None] = SimpleQueue()
        self._ended: SimpleQueue[T] = SimpleQueue()
        self._bell = threading.Lock()  # released whenever a token has ended
        self._threads = [threading.Thread(target=self._run, name=f"picas-slot-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def start(self, token: T) -> None:
        """See `Slots.start`."""
        self.running.add(token)
        self._waiting.put(token)

    def has_ended(self) -> bool:
        """See `Slots.has_ended`."""
        return not self._ended.empty()

    def collect(self, seconds: float, is_enough: Callable[[], bool] = never) -> list[T]:
        """See `Slots.collect`."""
        give_up = time.monotonic() + seconds
        collected: list[T] = []
        nap = 0.005
        self._collect(collected, 0)  # also if is_enough() holds, as it may for hours
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
            # Without the queue's own time-out: if a signal handler outlasts that, the queue waits for ever.
            left = give_up - time.monotonic()
            if left <= 0 or not self._bell.acquire(timeout=left):
                return False
        token = self._ended.get_nowait()
        self.running.discard(token)
        collected.append(token)
        return True

    def close(self) -> None:
        """See `Slots.close`."""
        for _ in self._threads:
            self._waiting.put(None)

    def _run(self) -> None:
        while True:
            token = self._waiting.get()
            if token is None:
                return
            self._work(token)
            self._ended.put(token)
            with contextlib.suppress(RuntimeError):  # it has been released already
                self._bell.release()
