"""What is due while the thread of the run is in the user's code."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import Callable

from ..picaslogger import get_logger

log = get_logger(__name__)

LONGEST_PAUSE = 3600.0
"""The longest time that the thread sleeps, in seconds: a lock can't wait for any number of them."""


class Relief:
    """Does what is due in a thread of its own, but only while the thread of the run is in the user's code.

    There is a thread only while something may become due.

    :param due: returns when there is something to do, on the clock of `time.monotonic`; infinity if there is nothing.
        While there is something, this never gets earlier.
    :param act: does it
    """

    def __init__(self, due: Callable[[], float], act: Callable[[], None]) -> None:
        self._due = due
        self._act = act
        # Who holds it may use the loop: the thread of the run, except while it is in the user's code.
        self._guard = threading.Lock()
        self._guard.acquire()
        self._has_ended = threading.Event()  # no signal handler uses it, since it has a lock
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        """Note that the thread of the run begins with the user's code."""
        if self._thread is None and self._due() < math.inf:
            thread = threading.Thread(target=self._run, name="picas-relief", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads: what is due has to wait for the user's code
                thread.start()
                self._thread = thread
        self._guard.release()

    def leave(self) -> None:
        """Note that the thread of the run is back. Waits for the end of what is being done."""
        self._guard.acquire()

    def close(self) -> None:
        """End the thread."""
        self._has_ended.set()
        self._guard.release()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        pause = 0.0
        while not self._has_ended.wait(pause):
            with self._guard:
                if self._has_ended.is_set():
                    return
                if self._due() <= time.monotonic():
                    try:
                        self._act()
                    except Exception:  # the thread of the run does it later
                        log.exception("An error while results were saved")
                due = self._due()
                if due == math.inf:
                    self._thread = None
                    return
            pause = min(max(due - time.monotonic(), 0.01), LONGEST_PAUSE)
