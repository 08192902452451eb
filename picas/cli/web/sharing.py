"""Answers that several pages share: who asks the same within a moment gets the same answer, read once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Callable, TypeVar, cast

T = TypeVar("T")

MAX_KEPT = 100
"""How many answers are kept."""


@dataclass
class _Entry:
    future: Future[Any]
    good_until: float | None = None
    """By the monotonic clock; None while it is being read."""


class SharedAnswers:
    """Keeps answers for a while. Threads that ask the same at the same time wait for one of them.

    :param check: called before something is read; it raises if nothing may be
    """

    def __init__(self, check: Callable[[], object]) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(self, key: Hashable, seconds: float, read: Callable[[], T]) -> T:
        """Return the answer to a question. An error is raised for all who wait for it, and not kept.

        :param key: the question
        :param seconds: how long the answer is good
        :param read: finds the answer
        """
        with self._lock:
            entry = self._entries.get(key)
            is_good = entry is not None and (entry.good_until is None or time.monotonic() < entry.good_until)
            if entry is None or not is_good:
                entry = self._entries[key] = _Entry(Future())
                is_ours = True
                self._entries.move_to_end(key)
                while len(self._entries) > MAX_KEPT:
                    self._entries.popitem(last=False)
            else:
                is_ours = False
        if is_ours:
            self._read(key, entry, seconds, read)
        return cast(T, entry.future.result())

    def _read(self, key: Hashable, entry: _Entry, seconds: float, read: Callable[[], Any]) -> None:
        try:
            self._check()
            entry.future.set_result(read())
            entry.good_until = time.monotonic() + seconds
        except BaseException as error:
            entry.future.set_exception(error)
            with self._lock:
                if self._entries.get(key) is entry:
                    del self._entries[key]
