"""Which free tokens a pilot reaches for: windows of a view, read with their documents.

A pilot that is alone reads its windows from the view's beginning and gets the tokens in order. One that meets others
goes to a random token of the queue (see `views.QUEUE`) and takes those that follow it in the order, until it runs into
the stretch of another pilot; then it goes to another random token. So pilots seldom reach for the same token, and the
server finds what a pilot saves and locks together side by side in its files: measured, that makes 16 pilots faster by a
fifth.

A free token that waits for its next try (see `retries`), or for more room in the pilot, is passed over and remembered
until its time comes (see `aside`).
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from couchdb.http import ResourceNotFound

from ..clients import CouchDB
from ..documents import Document
from ..modifiers import is_free
from ..tokens.resources import Room, needs_of
from ..tokens.retries import FIELD, not_before
from ..util import is_number
from ..views import DESIGN_DOC, FREE_VIEW, QUEUE, RANDOM_PLACES, ROWS_PER_TOKEN, has_queue, key_in_queue
from .waiting import Larger, Postponed, read_unchanged

WINDOW = 50
"""Tokens that are read at once as candidates at first, if no more are wanted."""
MAX_WINDOW = 200
MAX_CROWD_WINDOW = 100
"""Tokens that are read at once at the most, if no more are wanted: by a lone pilot, and of a queue in a crowd."""
LEAST_WINDOW = 4
"""Tokens that are read at once at the least."""
QUICK = 0.1
"""Seconds that a read may take if the next window is to be larger: large tokens stay few."""
LEAST_LAGGING = 16
"""Rows that are read of a queue that may lag at the least, and where the pilot has not read before."""
FREE_SHARE = 1 / 3
"""If a smaller share of the rows of a queue is free, it lags so much that it is to be brought up to date."""
MAX_WIDENING = 3
"""How often a window of a view without a queue is doubled at the most while pilots go on meeting."""
SCARCE = 300
"""With fewer tokens than these in a queue pilots of a crowd are in each other's way."""
PAGE = 300
"""Rows that are read at once while none of them is free."""
GONE_IN_A_ROW = 3
"""After so many failures in a row the candidates are read again, which costs as much as some failures.
In a crowd that goes through the queue they are after the first."""
WINDOWS_PER_WANTED = 4
"""How many candidates are read at least for each token that is wanted at once."""
WINDOW_AGE = 10.0
"""Seconds after which candidates that were read count as stale."""
CROWD_MEMORY = 30.0
"""Seconds after the last meeting during which a pilot counts others in."""
REST_PER_READING = 10
"""Where tokens wait for their next try, the view's beginning is left alone so many times as long as reading takes.
"""


@dataclass(frozen=True)
class Rows:
    """What was read of a view."""

    last: Any
    """The key of the last row, None if there is none."""
    count: int
    free: int
    """How many tokens are free, those that wait included."""
    ready: list[Document]
    """The free tokens that may be taken now."""


Fits = Callable[[Mapping[str, Any]], bool]
"""Tells whether a token is for this pilot."""


def fits_always(token: Mapping[str, Any]) -> bool:
    """Take any token."""
    return True


class Candidates:
    """Free tokens of one view, read in windows and given out in small numbers.

    :param view: the name of the view
    :param view_params: CouchDB's query parameters, and `design_doc`
    """

    def __init__(self, view: str, view_params: Mapping[str, Any]) -> None:
        self.view = view
        self.view_params = dict(view_params)
        self._design_doc = self.view_params.get("design_doc", DESIGN_DOC)
        self._fits: Fits = fits_always
        self._has_refused = False  # whether there was a token that does not fit
        self._room: Room | None = None
        self._waiting: deque[Document] = deque()
        self._read_at = -math.inf
        self._is_all = False  # whether the last window held all that the view had
        self._met_at = -math.inf
        self._widenings = 0
        self._window = WINDOW
        self._least = LEAST_LAGGING
        self._has_queue: bool | None = None  # not known yet
        self._fresh_at = -math.inf  # when the view's beginning was read
        self._cursor: Any = None  # the key up to which it was read since
        self._place: Any = None  # the key of the queue from which a pilot in a crowd reads on; None for somewhere else
        self._has_failed_again = False  # more than once in a row
        self._is_behind = False  # whether the queue was seen to lag much
        self._shard = 0  # that of the last token of the window
        self._size = 0  # of the queue, in tokens, when it was last read
        self._postponed = Postponed()
        self._larger = Larger()
        self._has_only_postponed = False  # or larger ones: whether the view had no others when its beginning was read
        self._rest = 0.0  # seconds after which the beginning is read again, if that is more than usual
        self._passed = 0  # rows at the beginning of a view without a queue that need not be read again so soon

    def choose(self, fits: Fits, room: Room | None = None) -> None:
        """Take only tokens from now on that fit. What does not fit never will, until this is called with another.

        :param room: what the pilot has left for tokens now; None if it works on one at a time
        """
        if (fits != self._fits and self._has_refused) or (room is None and self._larger):
            self._postponed.clear()
            self._larger.clear()
            self._has_refused = self._has_only_postponed = False
            self._fresh_at = -math.inf
        self._fits, self._room = fits, room

    def take(self, database: CouchDB, count: int = 1) -> list[Document]:
        """Return up to so many tokens that were free when they were read; none if the view has none.

        :raises couchdb.ResourceNotFound: if there is no such view
        """
        room = self._room
        taken: list[Document] = []
        if room is not None and self._larger:
            taken = self._larger.take(database, room, count)
            if self._larger.block(database):
                return taken
        if self._waiting and _is_old(self._read_at):
            self._waiting.clear()
            self._window = LEAST_LAGGING if self._is_crowded() else WINDOW
        self._take_waiting(taken, count)
        if not taken and not (self._is_resting() and self._postponed.seconds_left() > 0):
            self._read(database, count)
            self._take_waiting(taken, count)
        if room is not None:
            self._larger.note_others(room, len(taken))
        return taken

    def _take_waiting(self, taken: list[Document], count: int) -> None:
        """Add candidates that were read to those that are taken, up to so many of these."""
        room = self._room
        if room is not None:
            for document in taken:
                room = room.without(needs_of(document.value))
        while self._waiting and len(taken) < count:
            document = self._waiting.popleft()
            if not self._fits(document.value):  # any more: there is less time than when it was read
                continue
            if room is not None:
                needs = needs_of(document.value)
                if not room.fits(needs):
                    self._larger.add(document.value)
                    continue
                room = room.without(needs)
            taken.append(document)

    @property
    def has_larger(self) -> bool:
        """Whether there are tokens that wait for more room."""
        return bool(self._larger)

    def look_anew(self) -> None:
        """Read the view when tokens are asked for the next time, though only tokens that wait were there just now."""
        self._has_only_postponed = False

    @property
    def ready_at(self) -> float:
        """When the first token that waits for its next try may be taken, on the clock of `time.monotonic`.

        Infinity if none does.
        """
        return time.monotonic() + self._postponed.seconds_left()

    @property
    def are_scarce(self) -> bool:
        """Whether the view had no more tokens than were read at once, or too few for the pilots that want them."""
        return self._is_all or (self._has_queue is True and self._is_crowded() and self._size < SCARCE)

    def met_others(self, in_a_row: int = 1) -> None:
        """Note that another pilot took a candidate before us.

        :param in_a_row: how often that has happened in a row; after some times the other candidates are likely gone too
        """
        # In a crowd whoever took that one is ahead of us in the queue, and goes on as we would.
        is_behind_another = self._has_queue and self._is_crowded()
        self._has_failed_again = in_a_row > 1
        self._place = None
        self._met_at = time.monotonic()
        self._widenings = min(self._widenings + 1, MAX_WIDENING)
        if is_behind_another or in_a_row >= GONE_IN_A_ROW:
            self._waiting.clear()

    def _read(self, database: CouchDB, count: int) -> None:
        if self._has_queue is None:
            self._has_queue = self._find_queue(database)
        is_crowded = self._is_crowded()
        begin = time.monotonic()
        self._least = max(LEAST_LAGGING, WINDOWS_PER_WANTED * count)
        limit = max(self._window_size(is_crowded), WINDOWS_PER_WANTED * count)
        try:
            free, self._is_all = self._read_window(database, limit, is_crowded)
        except ResourceNotFound:
            if not self._has_queue:
                raise
            self._has_queue, self._size = False, 0  # somebody has created the views anew with an older release
            free, self._is_all = self._read_window(database, limit, is_crowded)
        if is_crowded and (not self._has_queue or self._has_failed_again):
            # Of a queue too: what only looks free, on a node that lags, is not to be first for ever.
            random.shuffle(free)
        if is_crowded and self._has_queue:
            self._sort_by_shard(database, free)
        free.sort(key=_priority, reverse=True)  # stable: equals stay in the view's order
        self._waiting.extend(free)
        self._read_at = time.monotonic()
        is_slow = self._read_at - begin > QUICK
        self._window = min(self._window, WINDOW) if is_slow else min(2 * self._window, MAX_WINDOW)

    def _is_crowded(self) -> bool:
        return time.monotonic() - self._met_at < CROWD_MEMORY

    def _sort_by_shard(self, database: CouchDB, free: list[Document]) -> None:
        """Put tokens next to each other that the server keeps in one file.

        There one commit, instead of two, saves a token and locks the next. Measured, that makes 16 pilots faster by a
        tenth.
        """
        free.sort(key=lambda token: (database.shard_of(token.id) - self._shard) % database.shards)
        if free:
            self._shard = database.shard_of(free[-1].id)

    def _read_window(self, database: CouchDB, limit: int, is_crowded: bool) -> tuple[list[Document], bool]:
        """Return tokens to take, at least one if there is any, and whether these are known to be all."""
        is_resting = self._is_resting()
        if self._size > 0 and not self._is_behind and not is_resting:
            ready = self._read_lagging(database, limit, is_crowded)
            if ready:
                return ready, False
        ready = self._read_due(database, limit, is_crowded)
        if ready or is_resting:
            return ready, False
        return self._read_fresh(database, limit, is_crowded)

    def _is_resting(self) -> bool:
        """Tell whether only tokens that wait are looked for, since a moment ago there were no others."""
        return self._has_only_postponed and self._has_passed_over() and not self._is_beginning_old()

    def _has_passed_over(self) -> bool:
        """Tell whether tokens were put aside."""
        return bool(self._postponed) or bool(self._larger)

    def _is_beginning_old(self) -> bool:
        """Tell whether the view's beginning is to be read again."""
        return time.monotonic() - self._fresh_at > max(WINDOW_AGE, self._rest)

    def _read_due(self, database: CouchDB, limit: int, is_crowded: bool) -> list[Document]:
        """Return tokens that have waited and may be taken by now; what has changed meanwhile is left to the view."""
        due = self._postponed.due()
        ids = list(due)
        if is_crowded:
            random.shuffle(ids)  # all pilots know the same tokens
        del ids[limit:]
        unchanged = read_unchanged(database, {id: due[id] for id in ids})
        for id in ids:
            self._postponed.forget(id)
        return [document for document in unchanged if self._fits(document.value)]

    def _window_size(self, is_crowded: bool) -> int:
        """Return how many tokens to read.

        A read costs as much as ten tokens in it, so that a window grows as long as windows are used up before they are
        old. In a crowd what is left of it is dropped when the pilot runs into another. One of p pilots has n / p of n
        tokens ahead of it on the average; the root of n is small against that until the last p^2 tokens.

        Without a queue all read the same rows. There a wider window, in random order, keeps pilots apart.
        """
        if not is_crowded:
            self._widenings = 0
            return self._window
        if self._has_queue:
            return max(LEAST_WINDOW, min(self._window, MAX_CROWD_WINDOW, math.isqrt(self._size)))
        limit = WINDOW << self._widenings
        self._widenings = max(0, self._widenings - 1)
        return limit

    def _read_lagging(self, database: CouchDB, limit: int, is_crowded: bool) -> list[Document]:
        """Return tokens to take of the queue as it is indexed by now; that costs a third of bringing it up to date.

        A lone pilot reads on from where it has come to, but for one that has not looked at the beginning for a while.
        """
        if is_crowded:
            asked = self._least if self._place is None else max(limit, self._least)
            params: dict[str, Any] = {"startkey": self._next_place(database), "endkey": [], "limit": asked}
            rows = self._read_rows(database, params, is_fresh=False)
            self._go_on(rows.last, rows.count == asked and 2 * rows.free > rows.count)
            self._is_behind = rows.free < FREE_SHARE * rows.count
            return rows.ready
        if self._cursor is None or self._is_beginning_old():
            return []
        while True:
            params = {"startkey": self._cursor, "endkey": [], "limit": limit}
            rows = self._read_rows(database, params, is_fresh=False)
            self._cursor = self._cursor if rows.last is None else rows.last
            if rows.ready or rows.free == 0 or rows.count < limit:
                return rows.ready
            limit = max(limit, PAGE)  # all that are free wait for their next try

    def _find_queue(self, database: CouchDB) -> bool:
        """Tell whether the view is `todo` as it is, with a queue beside it."""
        if self.view != FREE_VIEW or not set(self.view_params) <= {"design_doc"}:
            return False
        return has_queue(database, self._design_doc)

    def _read_fresh(self, database: CouchDB, limit: int, is_crowded: bool) -> tuple[list[Document], bool]:
        """Return tokens of the view to take, at least one if there is any, and whether these are all."""
        begin = time.monotonic()
        passed = self._passed if self._has_passed_over() and not self._is_beginning_old() else 0
        if not passed:
            self._postponed.clear()  # whatever still waits is seen again before the view counts as read
            self._larger.clear(but_first=True)
            self._fresh_at = begin
        self._cursor, self._is_behind = None, False
        ready, is_all = self._read_parts(database, limit, is_crowded, passed)
        if passed and not ready:
            self._passed = 0
            return self._read_fresh(database, limit, is_crowded)
        self._has_only_postponed = is_all and not ready
        if not passed:
            self._rest = REST_PER_READING * (time.monotonic() - begin) if self._has_passed_over() else 0.0
        return ready, is_all

    def _read_parts(self, database: CouchDB, limit: int, is_crowded: bool, passed: int) -> tuple[list[Document], bool]:
        """Do that for the view behind so many rows."""
        ready: list[Document] = []
        self._passed = 0
        for part in self._parts(database, is_crowded):
            begin = int(part.get("skip", 0))
            where = {**part, "skip": begin + passed}
            while True:
                asked = int(part.get("limit", limit - len(ready)))
                rows = self._read_rows(database, {**where, "limit": asked})
                ready += rows.ready
                if self._has_queue and is_crowded:
                    self._go_on(rows.last, rows.count == asked)
                elif self._has_queue:
                    self._cursor = rows.last
                if "limit" in part:
                    return ready, False
                if rows.count < asked:
                    break
                if ready:
                    self._passed = 0 if self._has_queue else where["skip"] - begin
                    return ready, False
                # A full window of none: the view lags, it is one of the user's own that selects more than free ones, or
                # all wait for their next try.
                limit = max(limit, PAGE)
                if self._has_queue:
                    where["startkey"] = _behind(rows.last)
                else:
                    where["skip"] += rows.count
        return ready, not passed

    def _next_place(self, database: CouchDB) -> Any:
        """Return the key of the queue from which a pilot in a crowd reads, in the order of the tokens."""
        if self._place is not None:
            return self._place
        params = {"startkey": [random.randrange(RANDOM_PLACES)], "limit": 1, "update": False}
        rows = database.view(QUEUE, design_doc=self._design_doc, **params).rows
        return key_in_queue(rows[0].id) if rows else None  # before all others

    def _go_on(self, last: Any, is_good: bool) -> None:
        """Read on behind a key next if that is good: others have not been there, and it is not the end."""
        self._place = _behind(last) if is_good else None

    def _parts(self, database: CouchDB, is_crowded: bool) -> Iterator[dict[str, Any]]:
        """Yield the query parameters of the parts of the view, in the order in which they are to be read."""
        if not self._has_queue:
            own = ("design_doc", "include_docs")
            yield {name: value for name, value in self.view_params.items() if name not in own}
        elif not is_crowded:
            yield {"endkey": []}
        else:
            start = self._next_place(database)
            yield {"startkey": start, "endkey": []}
            yield {"endkey": start, "inclusive_end": False}

    def _read_rows(self, database: CouchDB, params: dict[str, Any], is_fresh: bool = True) -> Rows:
        """Read some rows with their documents.

        A view may be behind, and one of the user's own may select anything: what counts is the document.

        :param is_fresh: whether the server is to bring the view up to date first
        """
        view = QUEUE if self._has_queue else self.view
        if not is_fresh:
            params["update"] = False
        result = database.view(view, design_doc=self._design_doc, **params, include_docs=True)
        rows = result.rows
        documents = [Document(dict(row.doc)) for row in rows if row.doc is not None]
        free = [document for document in documents if is_free(document)]
        if self.view == FREE_VIEW and is_fresh and len(free) < len(documents):
            self._met_at = time.monotonic()  # somebody was faster than the view
        if self._has_queue:
            self._size = result.total_rows // ROWS_PER_TOKEN
        ready = [document for document in free if self._is_ready(document.value)]
        return Rows(rows[-1].key if rows else None, len(rows), len(free), ready)

    def _is_ready(self, token: dict[str, Any]) -> bool:
        """Tell whether a free token may be taken now; remember one that may not: one for other pilots waits for ever.

        This compares the clock of whoever wrote the time with our own, but decides nothing about a lock: a clock that
        is wrong makes the token come earlier or later, no more.
        """
        when = not_before(token) if FIELD in token else -math.inf
        if not self._fits(token):
            when, self._has_refused = math.inf, True
        elif when <= time.time():
            if self._room is None or self._room.fits(needs_of(token)):
                return True
            self._larger.add(token)
            return False
        self._postponed.add(token, when)
        return False


def _behind(key: Any) -> Any:
    """Return the first key of the queue behind another; nothing is next to a text: that row is read again."""
    return key + 1 if isinstance(key, int) else key


def _is_old(read_at: float) -> bool:
    return time.monotonic() - read_at > WINDOW_AGE


def _priority(document: Document) -> float:
    """Return a token's priority, 0 if it has none that is a number."""
    priority = document.get("priority", 0)
    if not is_number(priority) or (isinstance(priority, float) and math.isnan(priority)):
        return 0
    return priority
