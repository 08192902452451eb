"""Why a token does not run: what stands in its way, and how many tokens are before it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from couchdb.http import ResourceNotFound

from ..clients import CouchDB
from ..exceptions import NoSuchDocument
from ..pool.facts import TOKEN, Facts, TooDeep, describe_token, find_token
from ..tokens.retries import FIELD as NOT_BEFORE
from ..tokens.storable import MAX_DEPTH, is_too_deep
from ..util import duration_text, number_or_none, one_line
from ..views import CONFLICTS, DESIGN_DOC, FREE_VIEW, QUEUE, TASKS, key_in_queue
from .fleet import running_pilots
from .identity import RUNNING
from .orders import find_pause
from .shortfalls import Groups, silence_of

MAX_COUNTED = 1000
"""How many tokens before another one are counted one by one, on a server that does not know the number."""
FREE = "free"
"""The field of a pilot's document with the number of its free slots."""


@dataclass(frozen=True)
class Reason:
    """One reason why a token does not run."""

    kind: str
    """A word for programs, such as "paused"."""
    text: str
    """The same on one line, for people."""
    pilots: int | None = None
    """How many running pilots it is about, None if it is not about these."""
    lacks: tuple[str, ...] = ()
    """What these pilots lack, see `Shortfall`."""


@dataclass(frozen=True)
class Explanation:
    """Why a token does not run."""

    id: str
    state: str | None
    reasons: tuple[Reason, ...]
    """At least one."""
    before: int | None = None
    """How many free tokens are before it in the order of the queue, None if that is not known."""
    waiting: int | None = None
    """How many tokens are free, itself included; None if it is not among them."""
    pilots: int | None = None
    """How many pilots are running, those that are silent excepted; None if they do not matter, because of its state."""


def why_not(client: CouchDB, token_id: str, design_doc: str = DESIGN_DOC) -> Explanation:
    """Return why a token does not run.

    It takes about ten small requests, however many tokens there are, and reads the documents of the running pilots.

    :param client: the pool
    :param token_id: the token
    :param design_doc: the design document with the views that pilots use
    :raises NoSuchDocument: if there is no such token
    """
    try:
        token = find_token(client, token_id)
    except TooDeep:
        return Explanation(token_id, None, (_too_deep(),))
    facts = describe_token(token)
    conflicts = list(_conflicts(client, facts.id, design_doc))
    if facts.state != FREE_VIEW:
        return Explanation(facts.id, facts.state, (*_not_free(client, facts), *conflicts))
    return _Free(client, facts, is_too_deep(token.value), design_doc).explain(conflicts)


def _too_deep() -> Reason:
    return Reason("too deep", f"it is nested more than {MAX_DEPTH} levels deep: pilots leave it alone")


def _conflicts(client: CouchDB, id: str, design_doc: str) -> Iterator[Reason]:
    try:
        if client.view(CONFLICTS, design_doc=design_doc, key=id, limit=1).rows:
            yield Reason("conflict", "it has conflicting revisions: pilots and people see only one of them")
    except ResourceNotFound:
        return  # no views, or those of an older release


# --- a token that is not free


def _not_free(client: CouchDB, facts: Facts) -> Iterator[Reason]:
    """Yield why a token that no pilot can take is in that state."""
    since = f" for {duration_text(max(0, time.time() - facts.since))}" if facts.since is not None else ""
    if facts.type == "task":
        yield Reason(TASKS, f'its type is "{facts.type}" instead of "{TOKEN}": no pilot sees it')
    elif facts.type != TOKEN:
        yield Reason("no token", f"it is no token: its type is {one_line(facts.type or 'missing')}")
    elif facts.state is None:
        yield Reason("no state", "it is in no state, because lock or done is missing or invalid: no pilot takes it")
    elif facts.state == "locked":
        yield from _locked(client, facts, since)
    elif facts.state == "done":
        yield Reason("done", f"it has been done{since}")
    else:
        yield Reason("error", f"it has been in error{since}, and is not tried again by itself: {_failure_of(facts)}")


def _failure_of(facts: Facts) -> str:
    """Return why a token has failed, as far as it says so."""
    last = facts.attempts[-1] if facts.attempts else None
    if last is not None and last.reason is not None:
        return one_line(last.reason)
    if facts.errors and facts.errors[0].message is not None:
        return one_line(facts.errors[0].message)
    return f"exit code {'unknown' if facts.exit_code is None else one_line(facts.exit_code)}"


def _locked(client: CouchDB, facts: Facts, since: str) -> Iterator[Reason]:
    lock = facts.lock
    if lock is None or lock.pilot is None:
        host = one_line(lock.host) if lock is not None and lock.host is not None else "an unknown host"
        text = (
            f"it has been locked{since} by a client of an older release on {host}: nobody can know whether that lives"
        )
        yield Reason("locked", text)
        return
    pilot = one_line(lock.pilot)
    yield Reason("locked", f"it has been locked{since} by {pilot}")
    try:
        document = client.get(lock.pilot)
    except NoSuchDocument:
        yield Reason("pilot gone", f"{pilot} has left the pool: picas retry {one_line(facts.id)} puts the token back")
        return
    if document.get("state") != RUNNING:
        yield Reason("pilot dead", f"{pilot} is dead: the next pilot that looks puts the token back")
        return
    silent = silence_of(document)
    if silent is not None:
        then = "the other pilots put the token back after its lease"
        yield Reason("pilot silent", f"{pilot} has been silent for {duration_text(silent)}: {then}")


# --- a free token


class _Free:
    """Finds what stands in the way of a free token.

    :param is_too_deep: whether it is nested too deeply for pilots
    """

    def __init__(self, client: CouchDB, facts: Facts, is_too_deep: bool, design_doc: str) -> None:
        self._client = client
        self._facts = facts
        self._is_too_deep = is_too_deep
        self._design_doc = design_doc

    def explain(self, remarks: list[Reason]) -> Explanation:
        """Return the explanation.

        :param remarks: reasons that were found already, and that keep no pilot from taking the token
        """
        pilots = list(running_pilots(self._client))
        waiting, before, reasons = self._place()
        reasons = [*reasons, *self._own(), *self._pause()]
        is_ready = not reasons
        groups = Groups(pilots, self._facts.needs, self._facts.time_needed)
        if not pilots:
            reasons.append(Reason("no pilot", "no pilot is running", 0))
        if is_ready or not groups.fitting:
            reasons += [Reason("lacks", each.text, each.pilots, each.lacks) for each in groups.shortfalls()]
        if is_ready and groups.fitting:
            reasons.append(self._turn(groups.fitting, before, waiting))
        reasons += [*self._remarks(), *remarks]
        running = sum(silence_of(pilot) is None for pilot in pilots)
        return Explanation(self._facts.id, self._facts.state, tuple(reasons), before, waiting, running)

    def _own(self) -> Iterator[Reason]:
        """Yield what the token itself says."""
        if self._is_too_deep:
            yield _too_deep()
        wait = (self._facts.not_before or 0) - time.time()
        if wait > 0:
            yield Reason("waits", f"it waits for another {duration_text(wait)}, because of its field {NOT_BEFORE}")

    def _remarks(self) -> Iterator[Reason]:
        """Yield what is odd in the token, but keeps not all pilots from taking it."""
        had, needed = self._facts.time_had, self._facts.time_needed
        if had is not None:
            text = f"its work was stopped by the end of jobs, after up to {had:.0f} s"
            yield Reason("longer than jobs", f"{text}: only a pilot with {needed:.0f} s left takes it")
        if self._facts.fault is not None:
            yield Reason("invalid need", f"one of its needs is invalid, and pilots ignore it: {self._facts.fault}")

    def _pause(self) -> Iterator[Reason]:
        pause = find_pause(self._client)
        if pause is not None:
            message = f": {one_line(pause.message)}" if pause.message else ""
            yield Reason("paused", f"the pool is paused by {one_line(pause.by) or 'somebody'}{message}")

    def _place(self) -> tuple[int | None, int | None, list[Reason]]:
        """Return how many tokens are free, how many of them come before this one, and why it is not among them."""
        id, design_doc = self._facts.id, self._design_doc
        try:
            result = self._client.view(FREE_VIEW, design_doc=design_doc, key=id, limit=1)
            is_among, total = bool(result.rows), int(result.total_rows)
        except ResourceNotFound:
            text = f"there is no view {design_doc}/{FREE_VIEW}, from which pilots take tokens: picas views creates it"
            return None, None, [Reason("no views", text)]
        if is_among:
            return total, self._count_before(), []
        if self._client.get(id).rev != self._facts.rev:
            return None, None, [Reason("changing", "it has changed a moment ago: ask again")]
        text = f"it is not in the view {design_doc}/{FREE_VIEW}: pilots take it only if they use another view"
        return None, None, [Reason("not in view", text)]

    def _count_before(self) -> int | None:
        """Return how many tokens come before this one in the order of the queue, None if that is not known."""
        key = key_in_queue(self._facts.id)
        try:
            alike = self._client.view(QUEUE, design_doc=self._design_doc, key=key)
            ids = [row.id for row in alike.rows]
        except ResourceNotFound:  # the views of an older release
            return None
        if key is None or self._facts.id not in ids:
            return None
        place = ids.index(self._facts.id)
        if alike.offset:
            return int(alike.offset) + place
        rows = self._client.view(
            QUEUE, design_doc=self._design_doc, endkey=key, inclusive_end=False, limit=MAX_COUNTED + 1
        ).rows
        return len(rows) + place if len(rows) <= MAX_COUNTED else None  # the embedded server has no offset

    def _turn(self, fitting: Sequence[Mapping[str, Any]], before: int | None, waiting: int | None) -> Reason:
        """Return the reason that others come first."""
        if before is None:
            place = "" if waiting is None else f": {waiting} tokens wait in all"
        else:
            place = (
                f": about {before} of the {waiting} tokens that wait come before it" if before else ": it is the first"
            )
        free = sum(int(count) for count in (number_or_none(pilot.get(FREE)) for pilot in fitting) if count)
        slots = "no slot is free" if not free else "1 slot is free" if free == 1 else f"{free} slots are free"
        who = "1 running pilot can take it" if len(fitting) == 1 else f"{len(fitting)} running pilots can take it"
        order = f"; with its priority of {self._facts.priority:g}, it may be earlier" if self._facts.priority else ""
        return Reason("turn", f"its turn will come{place}{order}; {who}, and {slots}", len(fitting))
