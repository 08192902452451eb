"""What a pool has done and what it cost, read once: every document, one page after the other, in bounded memory.

What counts is what tokens and pilots have written down. What they have not is left out of sums, and counted, so that a
reader can be told how much is missing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Callable

from ...clients import CouchDB
from ...documents import Document
from ...modifiers import MAX_ATTEMPTS, claim_of
from ...pool.facts import EARLIEST, TOKEN, PastAttempt, attachments_of, attempts_of
from ...pool.pages import all_documents
from ...pool.program_logs import log_name
from ...tokens.resources import Resources, needs_of
from ...tokens.states import STATES, state_of
from ...util import list_in, number_or_none, safe_text
from .bins import Timeline, width_for
from .crew import Crew, Grid, read_crew, slots_held
from .tails import read_tails
from .tallies import (
    FAILED,
    LOST,
    OTHER,
    SHORT,
    SHORT_OF,
    GroupTally,
    MemoryTally,
    OutcomeTally,
    Slowest,
    count_name,
    group_of,
    tally_of,
)

NO_STATE = "no state"
TOLERANCE = 3600.0
"""Seconds by which the clock of a pilot may be ahead of this machine's before its times count as wrong."""
OUTLIERS = 0.01
"""If leaving out so large a part of the starts makes the window ten times as short, these are left out: somebody's
clock was wrong."""
SHORTENED = 10
MOST_CORES = 1_000_000
"""More cores than a token can hold, or slots than a pilot can have: a larger number is somebody's mistake."""
MOST_MEMORY = 1e9
"""Megabytes, likewise."""
MAX_LOG = 1_000_000
"""Bytes of the longest log from which an example is taken."""
ENDS = (*SHORT, OTHER)
STARTS = "starts"
AT_WORK, SLOTS = "at work", "slots"
"""The levels of slots: those that work on tokens, and those that the pilots have."""
SETTLED = ("locked", "done", "error")
"""The states in which the number of tokens over time is known."""


@dataclass(frozen=True)
class Window:
    """The time that a report is about, in seconds since the epoch."""

    start: float
    end: float
    width: int
    """Seconds of a bin."""


@dataclass
class Gaps:
    """How much is missing, and why."""

    earlier: int = 0
    """Attempts that have ended before the window."""
    untimed: int = 0
    """Attempts without a sound start and end."""
    later: int = 0
    """Attempts with times in the future: somebody's clock is wrong."""
    undated: int = 0
    """Tokens of which it is unknown since when they are in their state."""
    full: int = 0
    """Tokens that may have had more attempts than they keep."""
    old: int = 0
    """Tokens that were processed, but have no attempts: by a client of an older release."""
    unknown_pilots: int = 0
    """Attempts by pilots that are no longer known."""
    outliers: int = 0
    """Attempts that began before what is shown over time: somebody's clock was wrong, or they were long ago."""
    idle_unknown: int = 0
    """Pilots whose idle time is unknown, or was not only within the window."""
    documents: int = 0
    """Documents that are no tokens."""


@dataclass
class Survey:
    """What is known of a pool. All times are seconds since the epoch."""

    server: str
    pool: str
    since: float | None
    """The beginning of the window that was asked for."""
    read_at: float
    """When the reading began."""
    crew: Crew
    grid: Grid
    timeline: Timeline
    read_for: float = 0.0
    """How many seconds it took."""
    window: Window | None = None
    """None if nothing has happened."""
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*STATES, NO_STATE), 0))
    """The number of tokens in each state now."""
    undated: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SETTLED, 0))
    """How many of them are in a state since an unknown time."""
    outcomes: dict[str, OutcomeTally] = field(default_factory=dict)
    """The attempts that have ended within the window, by outcome."""
    groups: dict[str, GroupTally] = field(default_factory=dict)
    """Those of them that have failed, by the group of the reason."""
    slowest: Slowest = field(default_factory=Slowest)
    memory: MemoryTally = field(default_factory=MemoryTally)
    software: Counter[str] = field(default_factory=Counter)
    """How many attempts ran which software, as far as they say."""
    retries: int = 0
    """How many attempts followed one that had failed or was lost."""
    gaps: Gaps = field(default_factory=Gaps)

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return sum(self.states.values())

    @property
    def attempts(self) -> int:
        """How many attempts have ended within the window."""
        return sum(tally.attempts for tally in self.outcomes.values())

    @property
    def core_seconds(self) -> dict[str, float]:
        """The seconds of cores by what attempts came to (`tallies.SHORT`, and OTHER), as far as they are known."""
        found = dict.fromkeys(ENDS, 0.0)
        for outcome, tally in self.outcomes.items():
            found[SHORT_OF.get(outcome, OTHER)] += tally.core_seconds
        return found

    @property
    def idle_seconds(self) -> float:
        """The seconds that slots of pilots were idle, as far as they are known to be within the window."""
        return sum(pilot.idle_seconds or 0.0 for pilot in self.crew.pilots if self.knows_idle(pilot))

    def knows_idle(self, pilot: Any) -> bool:
        """Return whether the idle time of a pilot is known, and was all within the window."""
        start = pilot.times.start
        return pilot.idle_seconds is not None and (self.since is None or (start is not None and start >= self.since))


def read_survey(
    client: CouchDB,
    since: float | None = None,
    *,
    logs: int = 20,
    notify: Callable[[int], Any] = lambda handled: None,
) -> Survey:
    """Read a pool.

    :param client: the pool
    :param since: only what has happened in so many seconds before now; None for all
    :param logs: of how many groups of failures, the largest first, the tail of a log is read
    :param notify: called with the number of documents that were read so far
    """
    timer, now = time.monotonic(), time.time()
    begin = None if since is None else now - since
    crew = read_crew(client, now)
    starts = [(life.start, 1.0) for life in crew.lives.values()]
    timeline = Timeline((STARTS, *ENDS), (*SETTLED, AT_WORK, SLOTS), begin)
    if begin is None:  # long after the work, the lanes would be short
        last = max((life.end for life in crew.lives.values()), default=now)
        grid = Grid(crew, min(now, _start_of(starts)[0]), last)
    else:
        grid = Grid(crew, begin, now)
    survey = Survey(client.url, client.database_name, begin, now, crew, grid, timeline)
    for life in crew.lives.values():
        timeline.change(SLOTS, life.start, life.pilot.slots or 0)
        if life.end < now:
            timeline.change(SLOTS, life.end, -(life.pilot.slots or 0))
    reading = _Reading(survey)
    handled = 0
    for documents in all_documents(client):
        for document in documents:
            if document.get("type") == TOKEN:
                reading.add(document)
            else:
                survey.gaps.documents += 1
        handled += len(documents)
        notify(handled)
    survey.gaps.idle_unknown = sum(
        not survey.knows_idle(pilot)
        for pilot in crew.pilots
        if begin is None or pilot.id not in crew.lives or crew.lives[pilot.id].end >= begin
    )
    survey.window = _window(survey)
    largest = sorted(survey.groups.values(), key=lambda group: -group.attempts)
    read_tails(client, [group for group in largest if group.logged and not group.is_rest][:logs])
    survey.read_for = time.monotonic() - timer
    return survey


class _Reading:
    """Adds tokens to a survey, one after the other."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._now = survey.read_at
        self._since = -math.inf if survey.since is None else survey.since

    def add(self, token: Document) -> None:
        """Add a token."""
        survey, gaps = self._survey, self._survey.gaps
        state, attempts, needs = state_of(token), attempts_of(token), needs_of(token)
        if needs.cores > MOST_CORES:
            needs = replace(needs, cores=1)
        survey.states[state or NO_STATE] += 1
        gaps.full += len(attempts) >= MAX_ATTEMPTS
        for place, attempt in enumerate(attempts):
            is_last = place == len(attempts) - 1
            self._add_attempt(token, attempt, needs, _has_failed(attempts[:place]), is_last and state == "error")
        if not attempts and state in ("done", "error"):
            gaps.old += 1
            self._add_old(token)
        if state == "locked":
            self._add_running(token, needs, _has_failed(attempts))
        elif state in ("done", "error"):
            self._settle(state, self._end_of(token, attempts))

    def _add_attempt(
        self, token: Document, attempt: PastAttempt, needs: Resources, follows: bool, is_why: bool
    ) -> None:
        survey, gaps = self._survey, self._survey.gaps
        attempt = _plausible(attempt, self._now)
        outcome = safe_text(attempt.outcome or "")
        short = SHORT_OF.get(outcome, OTHER)
        start, end = attempt.start, attempt.end
        is_later = max(start or 0.0, end or 0.0) > self._now + TOLERANCE
        if end is not None and end < self._since and not is_later:
            gaps.earlier += 1
            return
        if end is None and survey.since is not None:
            gaps.untimed += 1  # nobody knows whether it belongs to the window
            return
        seconds, cores = attempt.seconds, attempt.cores
        until = end
        if short == LOST and cores is None:  # others have written it down: they say when they noticed
            until = self._last_sign(attempt)
            seconds = None if until is None or start is None else until - start
            cores = needs.cores
        tally_of(survey.outcomes, outcome).add(seconds, cores, attempt.cpu_seconds)
        survey.retries += follows
        survey.memory.add(needs.memory, attempt.max_memory_mb)
        if attempt.software is not None:
            count_name(survey.software, attempt.software)
        if short != LOST:
            survey.slowest.add(token.id, attempt)
        if short == FAILED or (is_why and attempt.group is not None):
            self._add_failure(token, replace(attempt, end=None) if is_later else attempt, is_why)
        if start is None or end is None or end < start:
            gaps.untimed += 1
        elif is_later:
            gaps.later += 1
        else:
            end = min(end, self._now)
            survey.timeline.count(STARTS, start)
            survey.timeline.count(short, end)
            survey.timeline.change("locked", start, 1)
            survey.timeline.change("locked", end, -1)
            self._work(attempt.pilot, start, end if until is None else until, cores, follows)
            if short == FAILED:
                survey.grid.mark(survey.grid.failures, attempt.pilot, end)

    def _add_failure(self, token: Document, attempt: PastAttempt, is_why: bool) -> None:
        group = group_of(self._survey.groups, attempt.group or "")
        group.add(token.id, attempt, is_why)
        if is_why and not group.logged:
            names = {log_name(token.id), log_name(token.id, is_err=True)}
            sizes = [each.size or 0 for each in attachments_of(token) if each.name in names]
            if sizes and 0 < sum(sizes) <= MAX_LOG:
                group.logged = token.id

    def _last_sign(self, attempt: PastAttempt) -> float | None:
        """Return when the pilot of a lost attempt was last known to be alive, by its own clock."""
        life = self._survey.crew.lives.get(attempt.pilot or "")
        if life is None or attempt.start is None or life.end < attempt.start:
            return None
        return life.end if attempt.end is None else max(attempt.start, min(life.end, attempt.end))

    def _add_running(self, token: Document, needs: Resources, follows: bool) -> None:
        """Add the work on a token that is locked now."""
        claim = claim_of(token)
        start = _time(claim.get("start")) or _time(token.get("lock"))
        self._settle("locked", start)
        if start is None or start > self._now + TOLERANCE:
            return
        pilot = claim.get("pilot")
        life = self._survey.crew.lives.get(pilot) if isinstance(pilot, str) else None
        until = math.inf if life is None or life.end >= self._now else life.end
        start = min(start, self._now)
        self._survey.timeline.count(STARTS, start)
        self._work(pilot if isinstance(pilot, str) else None, start, until, needs.cores, follows)

    def _work(self, pilot: str | None, start: float, end: float, cores: int | None, follows: bool) -> None:
        """Note the work on a token in the slots of a pilot, from its start to its end, infinity if it goes on."""
        survey = self._survey
        life = survey.crew.lives.get(pilot or "")
        survey.gaps.unknown_pilots += life is None
        slots = slots_held(cores, None if life is None else life.pilot.slots)
        if end >= start:
            survey.timeline.change(AT_WORK, start, slots)
            if end < math.inf:
                survey.timeline.change(AT_WORK, end, -slots)
            survey.grid.work(pilot, start, min(end, self._now), slots)
        if follows:
            survey.grid.mark(survey.grid.retries, pilot, start)

    def _add_old(self, token: Document) -> None:
        """Add the work on a token by a client that has left no attempt, as far as its marks say something."""
        start, end = _time(token.get("lock")), _time(token.get("done"))
        if start is not None and end is not None and start <= end <= self._now + TOLERANCE:
            timeline = self._survey.timeline
            timeline.count(STARTS, start)
            timeline.change("locked", start, 1)
            timeline.change("locked", min(end, self._now), -1)

    def _settle(self, state: str, when: float | None) -> None:
        """Note that a token is in its state of now since a time, None if it is unknown."""
        if when is None or when > self._now + TOLERANCE:
            self._survey.gaps.undated += 1
            self._survey.undated[state] += 1
            self._survey.timeline.base[state] += 1
        else:
            self._survey.timeline.change(state, min(when, self._now), 1)

    def _end_of(self, token: Mapping[str, Any], attempts: tuple[PastAttempt, ...]) -> float | None:
        """Return when a token came into the state done or error."""
        if attempts and attempts[-1].end is not None:
            return attempts[-1].end
        error = next(iter(list_in(token, "error")[-1:]), None)
        return _time(token.get("done")) or (_time(error.get("time")) if isinstance(error, dict) else None)


def _plausible(attempt: PastAttempt, now: float) -> PastAttempt:
    """Return an attempt without amounts that can't be true: a single one would drown the sums of all the others."""
    longest = now - EARLIEST
    limits = {
        "seconds": longest,
        "cpu_seconds": longest * MOST_CORES,
        "max_memory_mb": MOST_MEMORY,
        "cores": MOST_CORES,
    }
    wrong = [name for name, most in limits.items() if (getattr(attempt, name) or 0) > most]
    return replace(attempt, **dict.fromkeys(wrong)) if wrong else attempt  # type: ignore[arg-type]


def _has_failed(attempts: Sequence[PastAttempt]) -> bool:
    """Return whether the last of some attempts has failed or was lost, so that another one is a retry."""
    return bool(attempts) and SHORT_OF.get(attempts[-1].outcome or "", OTHER) in (FAILED, LOST)


def _time(value: object) -> float | None:
    number = number_or_none(value)
    return number if number is not None and EARLIEST <= number < math.inf else None


def _start_of(starts: list[tuple[float, float]]) -> tuple[float, int]:
    """Return when something began to happen, and how many events before that are left out: see OUTLIERS.

    :param starts: times, in seconds since the epoch, in their order, each with a number of events
    """
    if not starts:
        return math.inf, 0
    total = sum(number for _, number in starts)
    most = max(OUTLIERS * total, 1.0 if total >= SHORTENED else 0.0)
    last, left_out = starts[-1][0], 0.0
    best = (starts[0][0], 0)
    for (_, number), (following, _) in zip(starts, starts[1:]):
        left_out += number
        if left_out > most:
            break
        if (last - following) * SHORTENED < last - best[0]:
            best = (following, int(left_out))
    return best


def _window(survey: Survey) -> Window | None:
    """Return the window of a survey."""
    timeline, now = survey.timeline, survey.read_at
    start, survey.gaps.outliers = _start_of(timeline.busy_times(STARTS))
    if survey.since is not None:
        start, survey.gaps.outliers = survey.since, 0
    elif start == math.inf:
        return None
    goes_on = survey.states["locked"] or any(life.end >= now for life in survey.crew.lives.values())
    ends = [when for name in ENDS for when, _ in timeline.busy_times(name)[-1:]]
    last = max(ends, default=now) + timeline.width
    end = now if goes_on or survey.since is not None else min(now, max(last, start + 1))
    width = max(width_for(end - start), timeline.width)
    return Window(start, end, width)
