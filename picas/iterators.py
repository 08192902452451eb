"""Which token comes next: from one view, from two by priority, or for ever."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from typing import Any, Callable

from couchdb.http import ResourceConflict

from .clients import CouchDB
from .documents import Document, Task
from .interrupts import wait_until
from .modifiers import is_free, is_same_lock

log = logging.getLogger(__name__)

WINDOW = 20
"""Tokens that are read at once as candidates."""
MAX_WINDOW = 320
"""Candidates that are read at once where many pilots meet."""
WINDOW_AGE = 10.0
"""Seconds after which candidates that were read count as stale."""
EMPTY_PAUSE = 0.3
"""Seconds until an empty view is asked once more before it counts as the end."""
MAX_BACKOFF = 5.0
"""Seconds that a claim waits at the most after conflicts."""


class ViewIterator:
    """The base of all iterators over tokens. A subclass implements `claim_task`."""

    pilot = ""
    """The id of the pilot that tokens are locked for."""
    recheck_empty = True
    """Whether an empty view is asked once more before that counts as the end."""
    database: CouchDB
    unsure: Task | None = None
    """A token whose lock was sent, and got no answer yet."""

    def __init__(self) -> None:
        self._is_stopped = False

    def __iter__(self) -> ViewIterator:
        return self

    def __next__(self) -> Task:
        if self.is_stopped():
            raise StopIteration
        try:
            return self.claim_task()
        except IndexError as error:
            self.stop()
            raise StopIteration from error

    def reset(self) -> None:
        """Start anew after the end or a stop."""
        self._is_stopped = False

    def stop(self) -> None:
        """End the iteration: no token is claimed any more."""
        self._is_stopped = True

    def is_stopped(self) -> bool:
        """Tell whether the iteration has ended."""
        return self._is_stopped

    def claim_task(self) -> Task:
        """Lock the next token and return it.

        :raises IndexError: if there is none
        """
        raise NotImplementedError("claim_task is not implemented")

    def reconnect(self, database: CouchDB) -> None:
        """Go on with another client."""
        self.database = database

    def wait(self, seconds: float) -> None:
        """Do nothing for some seconds, or until the iteration is ended."""
        wait_until(self.is_stopped, seconds)

    def settle(self) -> Task | None:
        """Return the token that was locked by a request whose answer was lost; None if there is no such token.

        :raises PicasError, couchdb.http.HTTPError: if the database is still away; ask again later then
        """
        unsure = self.unsure
        if unsure is None:
            return None
        try:
            stored = self.database.get(unsure.id)
        except ValueError:
            stored = None
        self.unsure = None
        return Task(stored) if stored is not None and is_same_lock(stored, unsure) else None


class Candidates:
    """Free tokens of one view, read in windows and offered one by one.

    A lone pilot gets them in the view's order. Once it has met others it gets them shuffled and from wider windows, so
    that the pilots seldom reach for the same token.

    :param view: the name of the view
    :param view_params: CouchDB's query parameters
    """

    def __init__(self, view: str, view_params: dict[str, Any]) -> None:
        self.view = view
        self.view_params = view_params
        self._waiting: deque[Document] = deque()
        self._read_at = 0.0
        self._window = WINDOW
        self._has_met_others = False

    def next(self, database: CouchDB) -> Document | None:
        """Return a token that was free when it was read, None if the view has none."""
        if time.monotonic() - self._read_at > WINDOW_AGE:
            self._waiting.clear()
        if not self._waiting:
            self._read(database)
        return self._waiting.popleft() if self._waiting else None

    def met_others(self, repeatedly: bool) -> None:
        """Note that another pilot took a candidate before us.

        :param repeatedly: whether it was not the first in a row, so that the other candidates are likely gone as well
        """
        self._has_met_others = True
        if repeatedly:
            self._waiting.clear()

    def _read(self, database: CouchDB) -> None:
        self._window = min(self._window * 2, MAX_WINDOW) if self._has_met_others else WINDOW
        rows, free = self._read_window(database, self._window, 0)
        limit = skip = self._window
        while rows == limit and not free and "limit" not in self.view_params:
            # A full window of none: the view lags, or it is one of the user's own that selects more than free tokens.
            limit = MAX_WINDOW
            rows, free = self._read_window(database, limit, skip)
            skip += limit
        if self._has_met_others:
            random.shuffle(free)
        self._has_met_others = False
        self._waiting.extend(free)
        self._read_at = time.monotonic()

    def _read_window(self, database: CouchDB, limit: int, skip: int) -> tuple[int, list[Document]]:
        """Read some rows of the view; return how many there are and the free tokens among them.

        A view may be behind, and one of the user's own may select anything: what counts is the document.
        """
        params = {"limit": limit, **self.view_params, "include_docs": True}
        if skip:
            params["skip"] = skip + int(params.get("skip", 0))
        rows = database.view(self.view, **params).rows
        documents = [Document(dict(row.doc)) for row in rows if row.doc is not None]
        if any(not is_free(document) for document in documents):
            self._has_met_others = True
        return len(rows), [document for document in documents if is_free(document)]


class TaskViewIterator(ViewIterator):
    """Claims the tokens of one view until it is empty.

    :param database: the pool
    :param view: the name of the view
    :param view_params: CouchDB's query parameters, and `design_doc`
    """

    def __init__(self, database: CouchDB, view: str, **view_params: Any) -> None:
        super().__init__()
        self.database = database
        self.view = view
        self.view_params = view_params
        self._candidates = Candidates(view, view_params)

    def claim_task(self) -> Task:
        """Lock the next token of the view and return it.

        Other pilots that want the same tokens never make this fail: it goes on with other tokens, after growing random
        pauses.

        :raises IndexError: if the view is empty
        """
        if (self._candidates.view, self._candidates.view_params) != (self.view, self.view_params):
            self._candidates = Candidates(self.view, self.view_params)
        return _claim(self, self._candidates)


class PrioritizedViewIterator(ViewIterator):
    """Claims tokens of one view, and those of a second view only while the first is empty.

    :param database: the pool
    :param high_priority_view: the view whose tokens come first
    :param low_priority_view: the view whose tokens come last
    :param view_params: CouchDB's query parameters, and `design_doc`
    """

    def __init__(self, database: CouchDB, high_priority_view: str, low_priority_view: str, **view_params: Any) -> None:
        super().__init__()
        self.database = database
        self.high_priority_view = high_priority_view
        self.low_priority_view = low_priority_view
        self.view_params = view_params
        self._high = Candidates(high_priority_view, view_params)
        self._low = Candidates(low_priority_view, view_params)

    def claim_task(self) -> Task:
        """Lock the next token and return it.

        :raises IndexError: if both views are empty
        """
        return _claim(self, self._high, self._low)


class EndlessViewIterator(ViewIterator):
    """Claims tokens of another iterator and waits for more when there are none.

    :param view_iterator: the iterator that claims
    :param sleep_sec: seconds to wait before it is asked again
    :param stop_callback: is called before each token and each wait; true ends the iteration
    :param stop_callback_args: arguments for `stop_callback`
    """

    deadline: float | None = None
    """When the iteration ends, on the clock of `time.monotonic`."""

    def __init__(
        self,
        view_iterator: ViewIterator,
        sleep_sec: float = 10,
        stop_callback: Callable[..., Any] | None = None,
        **stop_callback_args: Any,
    ) -> None:
        super().__init__()
        self.iterator = view_iterator
        self.iterator.recheck_empty = False  # it is asked again anyway
        self.sleep_sec = sleep_sec
        self.stop_callback = stop_callback
        self.stop_callback_args = stop_callback_args

    def is_cancelled(self) -> bool:
        """Tell whether the iteration is to end."""
        if self.is_stopped() or (self.deadline is not None and time.monotonic() >= self.deadline):
            return True
        return self.stop_callback is not None and bool(self.stop_callback(**self.stop_callback_args))

    def __next__(self) -> Task:
        while not self.is_cancelled():
            try:
                return self.claim_task()
            except StopIteration:
                self.iterator.reset()
                log.debug("No token: asking again in %s seconds", self.sleep_sec)
                self.wait(self._seconds_to_sleep())
        self.iterator.stop()
        self.stop()
        raise StopIteration

    def claim_task(self) -> Task:
        """Return the next token of the other iterator.

        :raises StopIteration: if it has none now
        """
        self.iterator.pilot = self.pilot
        return next(self.iterator)

    def stop(self) -> None:
        """End the iteration, also while it waits."""
        super().stop()
        self.iterator.stop()

    def reconnect(self, database: CouchDB) -> None:
        """Go on with another client."""
        self.iterator.reconnect(database)

    def settle(self) -> Task | None:
        """See `ViewIterator.settle`."""
        return self.iterator.settle()

    def _seconds_to_sleep(self) -> float:
        if self.deadline is None:
            return self.sleep_sec
        return min(self.sleep_sec, self.deadline - time.monotonic())


def _claim(iterator: ViewIterator, *views: Candidates) -> Task:
    """Lock a token of the first view that has one and return it.

    :raises IndexError: if all views are empty, or the iterator was stopped
    """
    settled = iterator.settle()
    if settled is not None:
        return settled
    rechecked = not iterator.recheck_empty
    backoff = 0.0
    while not iterator.is_stopped():
        candidates, document = _next_candidate(iterator.database, views)
        if document is None:
            # Right after conflicts the view may lag, and otherwise somebody may be filling the pool right now.
            if rechecked:
                break
            rechecked = True
            iterator.wait(EMPTY_PAUSE + random.uniform(0, backoff))
            continue
        task = _lock(iterator, document)
        if task is not None:
            return task
        candidates.met_others(repeatedly=backoff > 0)
        rechecked = not iterator.recheck_empty
        backoff = min(max(backoff * 2, 0.01), MAX_BACKOFF)
        iterator.wait(random.uniform(0, backoff))
    raise IndexError("there is no free token")


def _next_candidate(database: CouchDB, views: tuple[Candidates, ...]) -> tuple[Candidates, Document | None]:
    for candidates in views:
        document = candidates.next(database)
        if document is not None:
            return candidates, document
    return views[-1], None


def _lock(iterator: ViewIterator, document: Document) -> Task | None:
    """Lock one token; return None if another pilot was faster."""
    task = Task(document).lock(iterator.pilot)
    iterator.unsure = task
    try:
        iterator.database.save(task)
    except ResourceConflict:
        iterator.unsure = None
        return None
    iterator.unsure = None
    return task
