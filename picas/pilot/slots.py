"""Where tokens are processed: side by side in threads, or one at a time in the thread of the run.

More tokens than there are slots can be started: those wait until a slot takes them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import Callable, Generic, TypeVar

from ..processes import start_thread
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
        """The tokens that were started, until they are collected; only the owner of this object changes it."""
        self.reserve = 0
        """While more tokens than this wait, those that have ended need not be collected at once."""

    def start(self, token: T) -> None:
        """Put a token into a slot, or let it wait for one."""
        raise NotImplementedError("start is not implemented")

    def waiting(self) -> int:
        """Return how many tokens wait for a slot."""
        raise NotImplementedError("waiting is not implemented")

    def take_back(self, count: int) -> list[T]:
        """Return tokens that wait for a slot, which get none any more.

        :param count: the most tokens to return
        """
        raise NotImplementedError("take_back is not implemented")

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
        self._waiting: deque[T] = deque()

    def start(self, token: T) -> None:
        """See `Slots.start`."""
        self.running.add(token)
        self._waiting.append(token)

    def waiting(self) -> int:
        """See `Slots.waiting`."""
        return len(self._waiting)

    def take_back(self, count: int) -> list[T]:
        """See `Slots.take_back`. Another thread may call this while a token is processed."""
        taken: list[T] = []
        with contextlib.suppress(IndexError):
            while len(taken) < count:
                taken.append(self._waiting.pop())
        self.running.difference_update(taken)
        return taken

    def has_ended(self) -> bool:
        """See `Slots.has_ended`."""
        return False  # what has ended is collected at once

    def collect(self, seconds: float, is_enough: Callable[[], bool] = never) -> list[T]:
        """See `Slots.collect`."""
        try:
            token = self._waiting.popleft()
        except IndexError:
            wait_until(is_enough, seconds)
            return []
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
        try:
            for thread in self._threads:
                start_thread(thread)
        except BaseException:
            self.close()
            raise

    def start(self, token: T) -> None:
        """See `Slots.start`."""
        self.running.add(token)
        self._waiting.put(token)

    def waiting(self) -> int:
        """See `Slots.waiting`."""
        return self._waiting.qsize()

    def take_back(self, count: int) -> list[T]:
        """See `Slots.take_back`."""
        taken: list[T] = []
        with contextlib.suppress(Empty):
            while len(taken) < count:
                token = self._waiting.get_nowait()
                if token is not None:
                    taken.append(token)
        self.running.difference_update(taken)
        return taken

    def has_ended(self) -> bool:
        """See `Slots.has_ended`."""
        return not self._ended.empty()

    def collect(self, seconds: float, is_enough: Callable[[], bool] = never) -> list[T]:
        """See `Slots.collect`."""
        give_up = time.monotonic() + seconds
        nap = 0.005
        while not self._is_due() and not is_enough():
            left = give_up - time.monotonic()
            if left <= 0:
                break
            # Without the queue's own time-out: if a signal handler outlasts that, the queue waits for ever.
            self._bell.acquire(timeout=min(nap, left))
            nap = min(nap * 1.5, NAP)
        collected = self._take_ended()  # also if is_enough() holds, as it may for hours
        linger = time.monotonic() + LINGER
        while collected and self.running and self._waiting.empty():
            left = linger - time.monotonic()
            if left <= 0 or not self._bell.acquire(timeout=left):
                break
            collected += self._take_ended()
        return collected

    def _is_due(self) -> bool:
        return not self._ended.empty() and self._waiting.qsize() <= self.reserve

    def _take_ended(self) -> list[T]:
        ended: list[T] = []
        with contextlib.suppress(Empty):
            while True:
                ended.append(self._ended.get_nowait())
        self.running.difference_update(ended)
        return ended

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
            if self._waiting.qsize() > self.reserve:
                continue
            with contextlib.suppress(RuntimeError):  # it has been released already
                self._bell.release()
