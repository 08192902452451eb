"""Following what the program of a token prints while it runs, for people: see `watching` for the pilot's part.

A look costs one small request for the revisions of the token and of its pilot's document; what has changed is read. The
looks keep step with the pilot's heartbeats: it saves its document every two seconds while somebody watches.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO, Callable, TypeVar

from couchdb.http import HTTPError, ResourceNotFound

from .. import modifiers
from ..clients import CouchDB
from ..couch.outages import wait_out
from ..documents import Document
from ..exceptions import NoSuchDocument, PicasError
from ..pool.facts import attempts_of
from ..pool.program_logs import Log, NoLog, find_log, open_log
from ..tokens.retries import not_before
from ..tokens.states import is_in_state, state_of
from ..util import duration_text, list_in, one_line
from .mailbox import HasLeft, NotRunning
from .printed import Printed, Stream
from .watching import WATCH_PAUSE, WATCH_TIME, Watched, order_watch, watched_in

LOOK = 0.25
"""Seconds between two looks when the next heartbeat is due."""
REST = 0.75 * WATCH_PAUSE
"""Seconds after a heartbeat in which the next one is not due yet."""
SLOW_LOOK = 1.0
"""Seconds between two looks before the pilot shows the output, and when its heartbeats stay away."""
WAITING_LOOK = 2.0
"""Seconds between two looks at a token that nobody works on."""
RENEWAL = 0.75 * WATCH_TIME
"""Seconds after which the order is given again."""
LATE = 15.0
"""Seconds by which a heartbeat is late before that is worth a line."""
WORTH_A_LINE = 5.0
"""How many seconds people wait for the first output without being told for how long."""
LONGEST_PAUSE = 5.0
"""The longest pause between two tries while the database is away, in seconds."""

Result = TypeVar("Result")


def _nothing(line: str) -> None:
    """Do nothing with a line for people."""


def follow(
    client: CouchDB,
    token_id: str,
    *,
    is_err: bool = False,
    sleep: Callable[[float], object] = time.sleep,
    tell: Callable[[str], object] = _nothing,
    max_outage: float = 0.0,
) -> Iterator[str]:
    """Yield what the program of a token prints to one of its outputs, until the token is done, or in error.

    :param is_err: whether to follow the standard error rather than the standard output

    For the other parameters, and for what is raised, see `follow_outputs`.
    """
    for printed in _Follower(client, token_id, (is_err,), sleep, tell, max_outage).run():
        yield printed.text


def follow_outputs(
    client: CouchDB,
    token_id: str,
    *,
    sleep: Callable[[float], object] = time.sleep,
    tell: Callable[[str], object] = _nothing,
    max_outage: float = 0.0,
) -> Iterator[Printed]:
    """Yield what the program of a token prints to both of its outputs, until the token is done, or in error.

    The first text is the end of what was printed before. It comes within one heartbeat of the pilot, the others two
    seconds after they were printed. Where more is printed at once than the pilot shows, a line says how much is
    missing. The end of the output comes from the log in the token, if it has one with the usual name.

    A token that is free is waited for, also one that has failed and is tried again. Of a token that has ended before,
    its log is yielded.

    :param client: the pool; if several threads follow tokens, each needs a client of its own, see `CouchDB.copy`
    :param token_id: the id of the token
    :param sleep: called with the seconds until the next look. If it returns something true, nothing more is yielded:
        with `sleep=event.wait` another thread ends this at once with `event.set()`
    :param tell: called with lines for people about what is waited for, and how attempts have ended; what they hold of
        the token is escaped
    :param max_outage: seconds to wait for a database that is away
    :raises NoSuchDocument: if there is no such token, or if it was deleted
    :raises NotRunning: if the pilot that has locked it has left the pool: nobody will end the token
    :raises PicasError, couchdb.http.HTTPError: if the database is away for too long, or refuses something
    """
    yield from _Follower(client, token_id, (False, True), sleep, tell, max_outage).run()


class _Stopped(Exception):
    """Nobody wants to follow the token any longer."""


class _Follower:
    """Follows a token through its attempts. For the parameters see `follow_outputs`.

    :param kinds: which outputs: False for the standard output, True for the standard error
    """

    def __init__(
        self,
        client: CouchDB,
        token_id: str,
        kinds: tuple[bool, ...],
        sleep: Callable[[float], object],
        tell: Callable[[str], object],
        max_outage: float,
    ) -> None:
        self._client = client
        self._id = token_id
        self._kinds = kinds
        self._sleep = sleep
        self._tell = tell
        self._max_outage = max_outage
        self._name = one_line(token_id)
        self._followed: object = None  # the id of the claim that was followed last
        self._waits: object = None  # what people were told of a free token
        self._is_known = False

    def run(self) -> Iterator[Printed]:
        """Yield what is printed."""
        try:
            yield from self._run()
        except _Stopped:
            return

    def _run(self) -> Iterator[Printed]:
        while True:
            token = self._read()
            state = state_of(token)
            if state == "locked":
                yield from self._follow_attempt(token)
            elif state == "todo":
                self._say_what_it_waits_for(token)
                self._wait_for_change(token)
            else:
                last = _last_claim(token)
                if self._followed is None or last not in (None, self._followed):  # it was too fast to be seen at work
                    yield from self._rest(token, self._streams())
                if state == "error":
                    self._tell(f"{self._name} is in error{_reason_of(token)}")
                return

    def _say_what_it_waits_for(self, token: Document) -> None:
        """Tell people, once, what a free token waits for."""
        waits = self._followed, not_before(token)
        if waits == self._waits:
            return  # some other field was changed
        self._waits = waits
        left = not_before(token) - time.time()
        until = f"its next try, in {duration_text(left)}" if left > 0 else "a pilot"
        self._tell(f"{self._name} waits for {until} (picas why {self._name} says more)")

    # --- an attempt

    def _follow_attempt(self, token: Document) -> Iterator[Printed]:
        """Yield what is printed in an attempt, until another one begins or the token has ended."""
        claim, streams = modifiers.claim_of(token), self._streams()
        self._followed = claim.get("id")
        if not claim.get("pilot"):
            self._tell(f"{self._name} is locked by a client of an older release, which shows no output: waiting")
            self._wait_for_change(token)
            return
        pilot = _PilotsDocument(self._name, claim, self._tell)
        current = token
        while self._is_at_work(current):
            if pilot.is_order_due():
                current = self._order(pilot, claim, current)
            self._nap(pilot.pause())
            token_rev, pilot_rev = self._revs(self._id, pilot.id)
            if pilot_rev != pilot.rev:
                shown = pilot.take(self._read_pilot(pilot.id), self._id)
                if shown is not None:
                    for stream in streams:
                        yield from stream.add(shown)
            pilot.complain_if_late()
            if token_rev != current.rev:
                current = self._read()
        if _last_claim(current) == self._followed:
            yield from self._rest(current, streams)
        if state_of(current) in ("todo", "locked"):
            how = _reason_of(current) if _last_claim(current) == self._followed else ""
            self._tell(f"the attempt at {self._name} has ended{how}")

    def _order(self, pilot: _PilotsDocument, claim: Mapping[str, Any], token: Document) -> Document:
        """Let the pilot show the output, and return the token as it was last seen.

        :raises HasLeft: if the pilot has left the pool with the token locked
        """
        try:
            given = self._ask(lambda: order_watch(self._client, self._id, claim))
            pilot.note_order(given.beat, given.within)
        except NotRunning as error:
            token = self._read()  # it may have ended with the token
            is_left = self._is_at_work(token)
            if is_left and isinstance(error, HasLeft):
                raise HasLeft(
                    f"{one_line(pilot.id)}, which has locked {self._name}, has left the pool: picas retry {self._name} "
                    "puts it back"
                ) from None
            if is_left:
                pilot.note_refusal(f"{one_line(error)}: waiting for {self._name}")
        return token

    def _is_at_work(self, token: Document) -> bool:
        """Return whether the attempt that is followed goes on."""
        return is_in_state(token, "locked") and modifiers.claim_of(token).get("id") == self._followed

    def _streams(self) -> list[Stream]:
        return [Stream(is_err) for is_err in self._kinds]

    def _rest(self, token: Document, streams: list[Stream]) -> Iterator[Printed]:
        """Yield the ends of the logs of the last attempt; nothing if it has left none."""
        for stream in streams:
            with contextlib.suppress(NoLog, NoSuchDocument, ResourceNotFound), contextlib.ExitStack() as stack:
                log = find_log(token, is_err=stream.is_err)
                if log.attempt == (attempts_of(token) or (None,))[-1]:
                    yield from stream.add_rest(self._ask(partial(self._open, log, stack)))
            yield from stream.end()

    # --- requests, and the pauses between them

    def _open(self, log: Log, stack: contextlib.ExitStack) -> BinaryIO:
        return stack.enter_context(open_log(self._client, log))

    def _read(self) -> Document:
        """Return the token.

        :raises NoSuchDocument: if there is none; the text says whether it was there before
        """
        try:
            token = self._ask(lambda: self._client.get(self._id))
        except NoSuchDocument:
            how = "was deleted" if self._is_known else "is not the id of a token"
            raise NoSuchDocument(f"{self._name} {how}") from None
        self._is_known = True
        return token

    def _read_pilot(self, id: str) -> Mapping[str, Any]:
        """Return a pilot's document, {} if it has left the pool."""
        try:
            return self._ask(lambda: self._client.get(id)).value
        except NoSuchDocument:
            return {}

    def _revs(self, *ids: str) -> list[str | None]:
        """Return the revisions of documents, None for those that are missing."""
        rows = self._ask(lambda: self._client.all_docs(keys=ids))
        values = [row.get("value") or {} for row in rows]
        return [None if value.get("deleted") else value.get("rev") for value in values]

    def _wait_for_change(self, token: Document) -> None:
        while self._revs(self._id) == [token.rev]:
            self._nap(WAITING_LOOK)

    def _ask(self, request: Callable[[], Result]) -> Result:
        """Return the result of requests, repeating them while the database is away."""
        try:
            return wait_out(request, self._max_outage, self._is_stopped, longest_pause=LONGEST_PAUSE)
        except (PicasError, HTTPError):
            if self._is_stopped():
                raise _Stopped from None
            raise

    def _is_stopped(self) -> bool:
        return bool(self._sleep(0))

    def _nap(self, seconds: float) -> None:
        if self._sleep(seconds):
            raise _Stopped


class _PilotsDocument:
    """What is known of the document of the pilot that works on a token.

    :param name: the token's id, for people
    :param claim: the token's claim
    :param tell: see `follow_outputs`
    """

    def __init__(self, name: str, claim: Mapping[str, Any], tell: Callable[[str], object]) -> None:
        self.id = str(claim["pilot"])
        self.rev: str | None = None
        """The last revision that was seen."""
        self._claim = claim.get("id")
        self._name = name
        self._tell = tell
        self._beat: object = None
        self._beat_of_order: object = None
        self._seen = self._looked = time.monotonic()  # when its last heartbeat was seen, and when it was looked for
        self._order_at = -math.inf
        self._within = 0.0  # seconds until the next heartbeat at most
        self._is_shown = self._has_complained = self._has_told_of_nothing = False

    def is_order_due(self) -> bool:
        """Return whether the order is to be given, or to be renewed."""
        return time.monotonic() >= self._order_at

    def note_order(self, beat: object, within: float | None) -> None:
        """Note that the order was given.

        :param beat: see `Given.beat`
        :param within: see `Given.within`
        """
        is_first = self._order_at == -math.inf and not self._is_shown
        self._order_at = time.monotonic() + RENEWAL
        self._beat_of_order = beat
        if not self._is_shown:
            self._within = within or 0.0
        if is_first and self._within > WORTH_A_LINE:
            self._tell(f"{self._name} is running: its output comes within {duration_text(self._within)}")

    def note_refusal(self, line: str) -> None:
        """Note that the pilot can't be given the order now.

        :param line: why, for people
        """
        self._order_at = time.monotonic() + RENEWAL
        if not self._has_complained:
            self._tell(line)
        self._has_complained = True

    def take(self, document: Mapping[str, Any], token_id: str) -> Watched | None:
        """Take the document as it is now, and return what it shows of the token."""
        self.rev = document.get("_rev")
        beat, shown = document.get("beat"), watched_in(document, token_id, self._claim)
        if beat != self._beat:
            self._beat, self._seen, self._has_complained = beat, time.monotonic(), False
            if shown is None and beat != self._beat_of_order:
                self._order_at = 0.0  # others have taken its place, or this process was suspended
        self._is_shown = shown is not None
        if shown is not None and shown.stdout is shown.stderr is None and not self._has_told_of_nothing:
            self._tell(f"no program of {self._name} is running now, or its output does not go to a file: waiting")
            self._has_told_of_nothing = True
        return shown

    def pause(self) -> float:
        """Return the seconds until the next look."""
        since = time.monotonic() - self._seen
        if not self._is_shown or since > 2 * WATCH_PAUSE:
            return SLOW_LOOK
        return max(LOOK, REST - since)

    def complain_if_late(self) -> None:
        """Tell people, once, if the pilot has no heartbeat."""
        now = time.monotonic()
        if now - self._looked > LONGEST_PAUSE:  # the database was away: the pilot could not be seen
            self._seen = min(now, self._seen + now - self._looked)
        self._looked, since = now, now - self._seen
        if not self._has_complained and since > (0 if self._is_shown else self._within) + LATE:
            pilot, ago = one_line(self.id), duration_text(since)
            self._tell(f"{pilot}, which has {self._name}, has shown no sign of life for {ago}: waiting")
            self._has_complained = True


def _last_claim(token: Mapping[str, Any]) -> object:
    """Return the id of the claim of the last attempt that has ended, None if the token does not say."""
    last = list_in(token, "attempts")[-1:]
    return last[0].get("claim") if last and isinstance(last[0], dict) else None


def _reason_of(token: Mapping[str, Any]) -> str:
    """Return why the last attempt at a token has ended, with a colon before it; "" if the token does not say."""
    last = attempts_of(token)[-1:]
    known = last[0].reason or last[0].outcome if last else None
    return f": {one_line(known)}" if known else ""
