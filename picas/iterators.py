"""Which token comes next: from one view, from two by priority, or for ever."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Callable

from .clients import VIEW_PARAMS, CouchDB
from .documents import Task
from .pool import Candidates, ClaimedToken, Claimer, Exchange, Fits, Waiter, fits_always
from .tokens.resources import Room
from .util import check_limit, refuse_unknown, wait_until
from .views import DESIGN_DOC

QUERY = frozenset({*VIEW_PARAMS, "design_doc"})
"""What an iterator passes on to the request for its view."""


def _always() -> bool:
    return True


class ViewIterator:
    """The base of all iterators over tokens. A subclass implements `claim_task`."""

    pilot = ""
    """The id of the pilot for which tokens are locked."""
    fits: Fits = staticmethod(fits_always)
    """Says whether a token fits this pilot; other tokens are passed over."""
    room: Room | None = None
    """What the pilot has left for tokens now; None if it processes one at a time."""
    database: CouchDB
    _is_stopped = False  # here too: an iterator of a script's own may not call __init__

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

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{self._describe()}{', stopped' if self.is_stopped() else ''}>"

    def _describe(self) -> str:
        """Return where the tokens come from, for people."""
        return ""

    def reset(self) -> None:
        """Start again after the end or a stop."""
        self._is_stopped = False

    def stop(self) -> None:
        """End the iteration: no further token is claimed."""
        self._is_stopped = True

    def is_stopped(self) -> bool:
        """Return whether the iteration has ended."""
        return self._is_stopped

    def claim_task(self) -> Task:
        """Lock the next token and return it.

        :raises IndexError: if there is none
        """
        raise NotImplementedError("claim_task is not implemented")

    def reconnect(self, database: CouchDB) -> None:
        """Continue with another client."""
        self.database = database

    def poll(self) -> Exchange:
        """Lock the next token if there is one now. Unlike `next` this need not wait, nor end the iteration."""
        if self.is_stopped():
            return Exchange(is_over=True)
        try:
            has_own_next = type(self).__next__ is not ViewIterator.__next__
            return Exchange([next(self) if has_own_next else self.claim_task()])
        except (IndexError, StopIteration):
            return Exchange(is_over=True)

    def rest(self) -> None:
        """Stop waiting for tokens until the next one is asked for."""

    def can_exchange(self, database: CouchDB) -> bool:
        """Return whether `exchange` saves in this pool and locks the tokens that `next` would return.

        An iterator that has a `claim_task` of its own can't.
        """
        return False

    def exchange(self, releases: Sequence[ClaimedToken], wanted: int, ahead: int = 0) -> Exchange:
        """Save processed tokens and lock others, see `Claimer.exchange`; does not wait for tokens."""
        raise NotImplementedError("exchange is not implemented")

    def look_anew(self) -> None:
        """Read the view again next time, though only tokens that can't be taken were there just now."""

    def settle(self) -> list[Task]:
        """Return the tokens that were locked by requests whose answers were lost.

        :raises PicasError, couchdb.http.HTTPError: if the database is still away; ask again later then
        """
        return []

    def _wait(self, is_ready: Callable[[], bool], sleep: Callable[[float], object] = time.sleep) -> None:
        """Wait until it is time to ask for tokens again, or until the iteration is stopped."""
        wait_until(lambda: is_ready() or self.is_stopped(), math.inf, sleep)


class _ClaimingIterator(ViewIterator):
    """An iterator that claims through a `Claimer`."""

    def __init__(self, database: CouchDB) -> None:
        super().__init__()
        self.database = database
        self.recheck_empty = True
        self.next_at = -math.inf
        """See `Exchange.next_at`."""
        self._claimer: Claimer | None = None
        self._is_ready: Callable[[], bool] = _always  # to ask for tokens again

    def _views(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the views by priority, each with its query parameters."""
        raise NotImplementedError("_views is not implemented")

    def _describe(self) -> str:
        views = " then ".join(f"{params.get('design_doc', DESIGN_DOC)}/{view}" for view, params in self._views())
        return f" on {views} of {self.database!r}"

    def _current_claimer(self) -> Claimer:
        """Return the claimer for the views, which a script may have changed."""
        views = self._views()
        claimer = self._claimer
        if claimer is None:
            claimer = self._claimer = Claimer()
        if [(view.view, view.view_params) for view in claimer.views] != views:
            claimer.views = tuple(Candidates(*view) for view in views)
        for view in claimer.views:
            view.choose(self.fits, self.room)
        claimer.recheck_empty = self.recheck_empty
        return claimer

    def claim_task(self) -> Task:
        """Lock the next token and return it.

        Other pilots that want the same tokens never make this fail: it continues with other tokens, after pauses that
        grow at random.

        :raises IndexError: if there is none
        """
        while True:
            self._wait(self._is_ready)
            if self.is_stopped():
                break
            exchange = self.exchange([], 1)
            if exchange.locked:
                return exchange.locked[0]
            if exchange.is_over:
                break
        raise IndexError("there is no free token")

    def can_exchange(self, database: CouchDB) -> bool:
        """See `ViewIterator.can_exchange`."""
        if self.database is not database:
            return False
        is_original = getattr(self.claim_task, "__func__", None) is _ClaimingIterator.claim_task
        return is_original and type(self).__next__ is ViewIterator.__next__

    def exchange(self, releases: Sequence[ClaimedToken], wanted: int, ahead: int = 0) -> Exchange:
        """See `ViewIterator.exchange`."""
        exchange = self._current_claimer().exchange(self.database, self.pilot, releases, wanted, ahead)
        self._is_ready = _always if exchange.is_over else exchange.is_ready
        self.next_at = exchange.next_at
        return exchange

    def look_anew(self) -> None:
        """See `ViewIterator.look_anew`."""
        if self._claimer is not None:
            self._claimer.look_anew()

    def settle(self) -> list[Task]:
        """See `ViewIterator.settle`."""
        return [] if self._claimer is None else self._claimer.settle(self.database)


class TaskViewIterator(_ClaimingIterator):
    """Claims the tokens of one view until it is empty.

    :param database: the pool
    :param view: the name of the view
    :param view_params: CouchDB's query parameters, and `design_doc`
    :raises TypeError: if CouchDB has no such parameter
    """

    def __init__(self, database: CouchDB, view: str, **view_params: Any) -> None:
        refuse_unknown(view_params, QUERY, type(self).__name__, ("database", "view"))
        super().__init__(database)
        self.view = view
        self.view_params = view_params

    def _views(self) -> list[tuple[str, dict[str, Any]]]:
        return [(self.view, self.view_params)]


class PrioritizedViewIterator(_ClaimingIterator):
    """Claims the tokens of one view, and those of a second view only while the first is empty.

    :param database: the pool
    :param high_priority_view: the view whose tokens come first
    :param low_priority_view: the view whose tokens come last
    :param view_params: CouchDB's query parameters, and `design_doc`
    :raises TypeError: if CouchDB has no such parameter
    """

    def __init__(self, database: CouchDB, high_priority_view: str, low_priority_view: str, **view_params: Any) -> None:
        refuse_unknown(view_params, QUERY, type(self).__name__, ("high_priority_view", "low_priority_view"))
        super().__init__(database)
        self.high_priority_view = high_priority_view
        self.low_priority_view = low_priority_view
        self.view_params = view_params

    def _views(self) -> list[tuple[str, dict[str, Any]]]:
        return [(self.high_priority_view, self.view_params), (self.low_priority_view, self.view_params)]


class EndlessViewIterator(ViewIterator):
    """Claims the tokens of another iterator and waits for more when there are none.

    While there are none it listens to the database's feed of changes, and takes a new token within a second. Where the
    feed does not work it asks again after pauses that grow up to `sleep_sec`.

    :param view_iterator: the iterator that claims
    :param sleep_sec: seconds between two calls of `stop_callback` during a wait, and the longest pause before the other
        iterator is asked again where the feed does not work
    :param stop_callback: called before each token and each wait; true ends the iteration
    :param stop_callback_args: arguments for `stop_callback`
    :raises TypeError: if there are such arguments, but no `stop_callback`
    :raises ValueError: if `sleep_sec` is not a number of seconds
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
        if stop_callback is None:
            refuse_unknown(stop_callback_args, (), type(self).__name__, ("view_iterator", "sleep_sec", "stop_callback"))
        check_limit(sleep_sec, "sleep_sec")
        super().__init__()
        self.iterator = view_iterator
        if isinstance(view_iterator, _ClaimingIterator):
            view_iterator.recheck_empty = False  # it is asked again anyway
        self.sleep_sec = sleep_sec
        self.stop_callback = stop_callback
        self.stop_callback_args = stop_callback_args
        self._waiter = Waiter(sleep_sec)

    def _describe(self) -> str:
        return f" over {self.iterator!r}"

    def is_cancelled(self) -> bool:
        """Return whether the iteration ends."""
        if self.is_stopped() or (self.deadline is not None and time.monotonic() >= self.deadline):
            return True
        return self.stop_callback is not None and bool(self.stop_callback(**self.stop_callback_args))

    def __next__(self) -> Task:
        while not self.is_cancelled():
            try:
                token = self.claim_task()
            except StopIteration:
                self.iterator.reset()
                self._wait(self._begin_to_wait(), self._waiter.nap)
            else:
                self._waiter.end()
                return token
        self.stop()
        raise StopIteration

    def claim_task(self) -> Task:
        """Return the next token of the other iterator.

        :raises StopIteration: if it has none now
        """
        self._hand_down()
        return next(self.iterator)

    def can_exchange(self, database: CouchDB) -> bool:
        """See `ViewIterator.can_exchange`."""
        is_original = getattr(self.claim_task, "__func__", None) is EndlessViewIterator.claim_task
        is_original &= type(self).__next__ is EndlessViewIterator.__next__
        return is_original and isinstance(self.iterator, ViewIterator) and self.iterator.can_exchange(database)

    def exchange(self, releases: Sequence[ClaimedToken], wanted: int, ahead: int = 0) -> Exchange:
        """See `ViewIterator.exchange`."""
        is_over = wanted + ahead > 0 and self.is_cancelled()
        self._hand_down()
        exchange = self.iterator.exchange(releases, *((0, 0) if is_over else (wanted, ahead)))
        if is_over:
            self.stop()
            exchange.is_over = True
        elif exchange.locked:
            self._waiter.end()
        elif exchange.is_over:
            exchange = Exchange(is_ready=self._begin_to_wait(), has_larger=exchange.has_larger)
        return exchange

    def poll(self) -> Exchange:
        """See `ViewIterator.poll`."""
        if type(self).__next__ is not EndlessViewIterator.__next__:
            return super().poll()
        if self.is_cancelled():
            self.stop()
            return Exchange(is_over=True)
        try:
            token = self.claim_task()
        except StopIteration:
            self.iterator.reset()
            return Exchange(is_ready=self._begin_to_wait())
        self._waiter.end()
        return Exchange([token])

    def rest(self) -> None:
        """See `ViewIterator.rest`."""
        self._waiter.end()

    def stop(self) -> None:
        """End the iteration, also while it waits."""
        super().stop()
        self.iterator.stop()
        self._waiter.end()

    def reconnect(self, database: CouchDB) -> None:
        """Continue with another client."""
        self.iterator.reconnect(database)
        self._waiter.end()

    def look_anew(self) -> None:
        """See `ViewIterator.look_anew`."""
        self.iterator.look_anew()

    def settle(self) -> list[Task]:
        """See `ViewIterator.settle`."""
        return self.iterator.settle()

    def _hand_down(self) -> None:
        """Let the other iterator claim for the same pilot."""
        self.iterator.pilot, self.iterator.fits, self.iterator.room = self.pilot, self.fits, self.room

    def _begin_to_wait(self) -> Callable[[], bool]:
        """Return a function that says when to ask the other iterator, or `stop_callback`, again."""
        self._waiter.longest_pause = self.sleep_sec
        is_ready = self._waiter.begin(getattr(self.iterator, "database", None))
        end = math.inf if self.deadline is None else self.deadline
        if self.stop_callback is not None:
            end = min(end, time.monotonic() + self.sleep_sec)
        if isinstance(self.iterator, _ClaimingIterator):
            self.iterator.look_anew()
            end = min(end, self.iterator.next_at)  # the feed does not report that a token's time has come
        return lambda: is_ready() or time.monotonic() >= end


def design_doc_of(iterator: ViewIterator) -> str:
    """Return the design document of the view from which an iterator takes tokens first."""
    if isinstance(iterator, EndlessViewIterator):
        return design_doc_of(iterator.iterator)
    views = iterator._views() if isinstance(iterator, _ClaimingIterator) else []
    return str(views[0][1].get("design_doc", DESIGN_DOC)) if views else DESIGN_DOC
