"""Start pilots when tokens arrive: look at the pool, the running pilots and the queue, and submit what is missing.

Tokens are matched to the classes of a table by what they need and what the jobs of a class have, and by views with
conditions of their own (`picas views SingleCore 'doc.cores == 1'`). The batch system finds the jobs of a class by their
name. What was submitted, and what came of it, is in a document of the pool for each class, user and cluster, so that
the autopilot may run once a minute by cron, on several machines, and for several users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Callable
from uuid import uuid4

from couchdb.http import HTTPError, ResourceNotFound

from .batch import Granted
from .clients import CouchDB
from .couch.connections import explain
from .exceptions import PicasError
from .picaslogger import get_logger
from .pilot import find_pause
from .pilot.demand import Demand, Reach
from .pilot.job_classes import JOB_PREFIX, JobClass, read_table
from .pilot.job_records import FIRST_WAIT, LONGEST_WAIT, Group, News, Record
from .pilot.job_traces import Traces, find_traces, group_of
from .pilot.turns import Turns
from .pool.results import reason_of
from .schedulers import Jobs, JobTemplate, LimitReached, Scheduler, SchedulerError
from .tokens.reasons import shortened
from .util import seconds

__all__ = ["FIRST_WAIT", "JOB_PREFIX", "LONGEST_WAIT", "Autopilot", "Finding", "JobClass", "read_table"]

log = get_logger(__name__)

MAX_KINDS = 3
"""How many kinds of tokens are named that no job can take."""


@dataclass(frozen=True)
class Finding:
    """The tokens and jobs of a class at one time."""

    waiting: int
    """The number of waiting tokens that jobs of the class can take."""
    jobs: Jobs
    free: int
    """The number of slots without a token in running jobs, including jobs whose pilot has not started yet."""

    def covered(self, kind: JobClass) -> int:
        """Return how many tokens queued pilots and free slots will take."""
        return ((len(self.jobs.pending) - len(self.jobs.blocked)) * kind.slots + self.free) * kind.tokens

    def missing(self, kind: JobClass) -> int:
        """Return how many pilots to start."""
        wanted = math.ceil(max(0, self.waiting - self.covered(kind)) / (kind.slots * kind.tokens))
        return max(0, min(wanted, kind.max_pilots - len(self.jobs)))

    def __str__(self) -> str:
        """Return it in words."""
        reasons = ", ".join(sorted(set(self.jobs.blocked.values())))
        blocked = f" ({len(self.jobs.blocked)} can't start: {reasons})" if reasons else ""
        return (
            f"{self.waiting} tokens wait, {len(self.jobs.pending)} jobs are queued{blocked} and "
            f"{len(self.jobs.running)} run, with {self.free} free slots"
        )


@dataclass
class _Case:
    """A class at one look."""

    kind: JobClass
    record: Record
    template: JobTemplate
    demand: Demand | None
    """The waiting tokens of its view, None without that view."""
    reach: Reach
    queue: Jobs | SchedulerError = field(default_factory=lambda: Jobs(frozenset(), frozenset()))

    rivals: list[Reach] = field(default_factory=list)
    """What the jobs of other classes can take from the same view."""

    @property
    def waiting(self) -> int:
        return self.demand.waiting(self.reach, self.rivals) if self.demand else 0


@dataclass
class Autopilot:
    """Starts pilots for waiting tokens."""

    client: CouchDB
    classes: list[JobClass]
    scheduler: Scheduler
    is_dry: bool = False
    """Whether to report only, and submit nothing."""
    tell: Callable[[str], None] = print
    """Called with one line of text for each class, at each look."""
    _id: str = field(default_factory=lambda: uuid4().hex)

    def look(self) -> bool:
        """Look at all classes once and submit what is missing; nothing while the pool is paused.

        :returns: whether all classes went well
        :raises PicasError, couchdb.http.HTTPError: if the database refuses a request or can't be reached
        """
        pause = find_pause(self.client)
        if pause is not None:
            self.tell(f"the pool is {pause}; nothing is submitted")
            return True
        try:
            turns = Turns(self.client, self.scheduler.place(), self._id)
        except SchedulerError as error:
            self.tell(f"{error}; nothing is submitted")
            return False
        turns.read(kind.name for kind in self.classes)
        try:
            is_well = self._look(turns)
        except BaseException:
            if not self.is_dry:
                turns.give_back()
            raise
        if not self.is_dry:
            turns.save()
        return is_well

    def stay(self, interval: float, sleep: Callable[[float], object] = sleep) -> None:
        """Look repeatedly, and go on after failures.

        :param interval: seconds between two looks
        :param sleep: waits that long
        """
        while True:
            try:
                self.look()
            except (PicasError, HTTPError, OSError) as error:
                reason = reason_of(error) if isinstance(error, HTTPError) else explain(error)
                log.warning("The pool can't be read now: %s", reason)
            sleep(interval)

    def _look(self, turns: Turns) -> bool:
        cases = self._cases(turns)
        if not self.is_dry:
            _take_turns(cases, turns)
        for case, queue in zip(cases, self.scheduler.queue([case.template for case in cases])):
            case.queue = queue
        traces = self._traces(cases)
        lines = {case.kind.name: self._visit(case, traces, turns) for case in sorted(cases, key=_size)}
        for case in cases:
            self.tell(f"{case.kind.name}: {lines[case.kind.name][0]}")
        for line in _out_of_reach(cases):
            self.tell(line)
        return all(is_well for _, is_well in lines.values())

    def _cases(self, turns: Turns) -> list[_Case]:
        """Return the classes with what the pool and the table say of them."""
        demands: dict[tuple[str, str], Demand | None] = {}
        cases = []
        for kind in self.classes:
            record = turns.records[kind.name]
            name = record.job_name(self.client.database_name)
            template = JobTemplate(name, kind.script, kind.arguments, kind.options)
            key = (kind.design_doc, kind.view)
            if key not in demands:
                demands[key] = self._demand(*key)
            had = record.had if record.recipe == kind.recipe else Granted()
            reach = Reach(kind.granted(self.scheduler.granted(template), had))
            cases.append(_Case(kind, record, template, demands[key], reach))
        for case in cases:
            case.rivals = [other.reach for other in cases if other is not case and other.demand is case.demand]
        return cases

    def _demand(self, design_doc: str, view: str) -> Demand | None:
        try:
            return Demand.read(self.client, design_doc, view)
        except ResourceNotFound:
            return None

    def _traces(self, cases: Sequence[_Case]) -> Traces:
        """Return what the pilots of all jobs have left in the pool; read after the queue, so that none is missed."""
        queues = [case.queue for case in cases if isinstance(case.queue, Jobs)]
        running = frozenset().union(*(queue.running for queue in queues))
        queued = running.union(*(queue.pending for queue in queues))
        groups = [group for case in cases for group in case.record.groups]
        ended = {group.id for group in groups if _left_queue(group, queued)}
        if not running and not ended:
            return Traces()
        return find_traces(self.client, running, ended, {case.kind.design_doc for case in cases if case.demand})

    def _visit(self, case: _Case, traces: Traces, turns: Turns) -> tuple[str, bool]:
        """Submit what a class lacks, and return what to say of it, and whether all went well."""
        kind, queue = case.kind, case.queue
        if case.demand is None:
            view = f"{kind.design_doc}/{kind.view}"
            return f"there is no view {view} of waiting tokens: create it with picas views {kind.design_doc}", False
        if isinstance(queue, SchedulerError):
            return f"{queue}; nothing is submitted", False
        free = sum(traces.free.get(job, kind.slots) for job in queue.running)  # without a pilot: it is about to start
        found = Finding(case.waiting, queue, free)
        if kind.name in turns.busy:
            return f"{found}: another autopilot is at work ({turns.busy[kind.name]})", True
        self._review(case, found, traces)
        action, is_well, count = self._act(case, found, turns)
        case.demand.give(found.covered(kind) + count * kind.slots * kind.tokens, case.reach, case.rivals)
        return f"{found}: {action}", is_well

    def _review(self, case: _Case, found: Finding, traces: Traces) -> None:
        """Find out what has become of the jobs of a class."""
        record = case.record
        queued = found.jobs.pending | found.jobs.running
        record.adopt(queued)
        record.learn(traces.had, case.kind.recipe)
        news = record.review(queued, traces)
        if found.waiting and news.is_bad:  # otherwise they were too late for any token
            record.fail(self._describe(case, news))
        elif news.helped:
            record.succeed()

    def _describe(self, case: _Case, news: News) -> str:
        """Return which jobs took no token, and where their output is."""
        count = news.failed + news.idle
        total = count + news.helped
        text = f"{count} of the last {total} jobs took no token" if total > 1 else "the last job took no token"
        output = self.scheduler.output_file(case.template, news.example, news.folder)
        return f"{text}, see {output}" if output else f"{text}, see the output of job {news.example}"

    def _act(self, case: _Case, found: Finding, turns: Turns) -> tuple[str, bool, int]:
        """Submit jobs; return what was done and why, whether that went well, and the number of jobs."""
        kind, record = case.kind, case.record
        missing = found.missing(kind)
        untried = record.untried(found.jobs) if record.wait and not record.was_refused else None
        if missing and untried is not None:
            return f"job {untried} has to take a token first: {record.failure}", True, 0
        if not missing:
            is_full = found.waiting > found.covered(kind) and len(found.jobs) >= kind.max_pilots
            text = "that is the largest number of jobs allowed" if is_full else "that is enough"
            return (f"{text}; {record.failure}" if record.failure else text), True, 0
        if found.jobs.closed:
            return f"nothing is submitted, as it would not start either: {found.jobs.closed}", True, 0
        left = record.time_left
        if left > 0:
            return f"nothing is submitted for another {left:.0f} s: {record.failure}", True, 0
        if record.wait and not record.was_refused:
            missing = 1  # that is enough to find out whether the cause has gone
        if self.is_dry:
            return f"{_pilots(missing)} would be submitted", True, 0
        if turns.is_long():
            return "nothing is submitted, since this look has taken too long", True, 0
        return self._submit(case, missing)

    def _submit(self, case: _Case, missing: int) -> tuple[str, bool, int]:
        record = case.record
        try:
            groups, refusal = self.scheduler.submit_jobs(case.template, missing)
        except SchedulerError as error:
            # Without room in the queue nothing is lost by another try, and jobs may end at any time.
            record.refuse(str(error), FIRST_WAIT if isinstance(error, LimitReached) else LONGEST_WAIT)
            return f"{error}; the next try is in {record.wait:.0f} s at the earliest", False, 0
        for id, count in groups:
            record.groups.append(Group(group_of(id), count, seconds(), str(Path.cwd()), case.kind.recipe))
        count = sum(count for _, count in groups)
        ids = ", ".join(id for id, _ in groups)
        text = f"submitted {_pilots(count)} as {'job' if len(groups) == 1 else 'jobs'} {ids}"
        if record.was_refused:
            record.succeed()
        if record.wait:
            text += ", to try again after a failure"
        if refusal:
            text += f" ({'not' if count < missing else 'not together as'} {missing}: {refusal})"
        return text, True, count


def _take_turns(cases: Sequence[_Case], turns: Turns) -> None:
    """Take the turns of all classes for which tokens wait; of the classes with the same view, all or none.

    Otherwise each of two autopilots might submit jobs of another class for the same tokens. All autopilots begin with
    the same class.
    """
    busy: list[tuple[Demand | None, str]] = []
    for case in sorted((case for case in cases if case.waiting), key=lambda case: case.kind.name):
        name = case.kind.name
        other = next((who for demand, who in busy if demand is case.demand), None)
        if other is not None:
            turns.busy[name] = other
        elif not turns.take(name):
            busy.append((case.demand, turns.busy[name]))


def _left_queue(group: Group, queued: frozenset[str]) -> bool:
    """Return whether some jobs of a group have left the queue without a known fate."""
    here = sum(group_of(job) == group.id and job not in group.helped for job in queued)
    return here + len(group.helped) + len(group.idle) + group.failed < group.count


def _size(case: _Case) -> tuple[float, ...]:
    return case.reach.size


def _out_of_reach(cases: Sequence[_Case]) -> list[str]:
    """Return a line for each view with tokens that no job of any class, also of another view, can take."""
    views = {f"{case.kind.design_doc}/{case.kind.view}": case.demand for case in cases}
    reaches = [case.reach for case in cases]
    lines = []
    for view, demand in views.items():
        left = demand.out_of_reach(reaches) if demand else []
        if left:
            texts = [*map(shortened, left[:MAX_KINDS]), *(["others need more"] if len(left) > MAX_KINDS else [])]
            lines.append(f"{view}: no job of these classes can take all tokens: {'; '.join(texts)}")
    return lines


def _pilots(count: int) -> str:
    return "1 pilot" if count == 1 else f"{count} pilots"
