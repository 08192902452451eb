"""What the autopilot remembers of a class, in a document of the pool: the jobs it has submitted, and their fate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from ..batch import Granted, Jobs
from ..util import is_number, list_in, number_or_none
from .clocks import note_time, time_left
from .job_classes import JOB_PREFIX
from .job_traces import Traces, group_of

PREFIX = "picas_autopilot_"
"""The beginning of the ids of these documents; the name of the class follows, and the queue."""
TYPE = "autopilot"
MAX_NAME = 60
"""How many characters of the names of a class and of a pool are in the names of jobs, and so in those of files."""
FIRST_WAIT = 60.0
LONGEST_WAIT = 3600.0
"""Seconds until the next try after a failure: jobs of a class could not be submitted, or ended without taking a token.
Each further failure doubles the wait, from the first to the longest."""


@dataclass
class Group:
    """Jobs that were submitted together."""

    id: str
    """The id that the batch system gave to all of them."""
    count: int
    """How many they are."""
    time: int = 0
    """When they were submitted, in seconds since the epoch; for people."""
    folder: str = ""
    """The working directory in which they were submitted."""
    recipe: str = ""
    """The `JobClass.recipe` of that time."""
    helped: set[str] = field(default_factory=set)
    """The ids of the jobs that have taken a token."""
    idle: set[str] = field(default_factory=set)
    """The ids of the jobs whose pilots have ended, and have found no token to take."""
    failed: int = 0
    """How many have ended without a trace of a pilot that took a token."""


@dataclass
class News:
    """What has become of the jobs of a class since the last look."""

    helped: int = 0
    idle: int = 0
    failed: int = 0
    example: str = ""
    """The id of a job that took no token."""
    folder: str = ""
    """The folder in which that was submitted."""

    @property
    def is_bad(self) -> bool:
        """Whether most jobs have failed, or no pilot has found a token that it could take."""
        return self.failed > self.helped or (self.idle > 0 and not self.helped)


@dataclass
class Record:
    """The document of a class.

    :param class_name: the name of the class
    :param place: the queue with its jobs, see `Scheduler.place`: only there they can be judged
    """

    class_name: str
    place: str = ""
    mark: str = field(default_factory=lambda: uuid4().hex[:6])
    """What distinguishes the jobs of this pool from those of another one, in their names."""
    groups: list[Group] = field(default_factory=list)
    had: Granted = field(default_factory=Granted)
    """What the last pilot of the class had that was seen."""
    recipe: str = ""
    """The recipe of its job: for another one, `had` says nothing."""
    wait: float = 0.0
    """Seconds without submissions after the last failure, 0 if the last jobs were good."""
    since: dict[str, float] = field(default_factory=dict)
    """When each host has first seen that failure, see `clocks`."""
    failure: str = ""
    """What has failed last, for people."""
    was_refused: bool = False
    """Whether that was a submission, and not a job."""

    @property
    def id(self) -> str:
        """The id of the document."""
        return f"{PREFIX}{self.class_name}@{self.place}" if self.place else PREFIX + self.class_name

    def job_name(self, pool: str) -> str:
        """Return the name of the jobs of this class in this pool.

        :param pool: the name of the pool, for people
        """
        name = f"{JOB_PREFIX}{self.class_name[:MAX_NAME]}-{pool[:MAX_NAME]}-{self.mark}"
        return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)

    @classmethod
    def read(cls, class_name: str, content: Mapping[str, Any], place: str = "") -> Record:
        """Return what a document says; what is invalid in it is ignored."""
        record = cls(class_name, place)
        mark, had, since = content.get("mark"), content.get("had"), content.get("since")
        if isinstance(mark, str) and mark:
            record.mark = mark
        groups = [_read_group(entry) for entry in list_in(content, "jobs")]
        record.groups = [group for group in groups if group is not None]
        record.had = _read_granted(had) if isinstance(had, dict) else Granted()
        record.recipe = str(content.get("recipe") or "")
        record.wait = min(max(number_or_none(content.get("wait")) or 0.0, 0.0), LONGEST_WAIT)
        if record.wait:
            record.since = note_time(since if isinstance(since, dict) else {})
            record.failure = str(content.get("failure") or "")
            record.was_refused = content.get("was_refused") is True
        return record

    def fields(self) -> dict[str, Any]:
        """Return the fields of the document."""
        known = {name: value for name, value in vars(self.had).items() if value is not None}
        return {
            "type": TYPE,
            "class": self.class_name,
            "mark": self.mark,
            "jobs": [
                {**vars(group), "helped": sorted(group.helped), "idle": sorted(group.idle)} for group in self.groups
            ],
            "had": {**known, "tags": sorted(known["tags"])} if "tags" in known else known,
            "recipe": self.recipe,
            "wait": self.wait,
            "since": self.since,
            "failure": self.failure,
            "was_refused": self.was_refused,
        }

    @property
    def time_left(self) -> float:
        """Seconds until jobs may be submitted again."""
        return time_left(self.since, self.wait) if self.wait else 0.0

    def fail(self, failure: str, longest: float = LONGEST_WAIT) -> None:
        """Note that jobs have failed, and delay the next try, longer after each failure.

        :param failure: what has failed, for people
        :param longest: the longest wait, in seconds
        """
        self.wait = min(max(2 * self.wait, FIRST_WAIT), longest)
        self.since, self.failure, self.was_refused = note_time({}), failure, False

    def refuse(self, failure: str, longest: float = LONGEST_WAIT) -> None:
        """Note that jobs could not be submitted; see `fail`."""
        self.fail(failure, longest)
        self.was_refused = True

    def succeed(self) -> None:
        """Forget the failures."""
        self.wait, self.since, self.failure, self.was_refused = 0.0, {}, "", False

    def adopt(self, jobs: Iterable[str]) -> None:
        """Remember jobs in the queue that are unknown, because their submission could not be noted, or by a person."""
        found: dict[str, int] = {}
        for job in jobs:
            found[group_of(job)] = found.get(group_of(job), 0) + 1
        known = {group.id for group in self.groups}
        self.groups += [Group(id, count) for id, count in found.items() if id not in known]

    def learn(self, had: Mapping[str, Granted], recipe: str) -> None:
        """Remember what a pilot had whose job was submitted with a recipe.

        :param had: what the pilots of some jobs had, by the ids of the jobs
        """
        groups = {group.id for group in self.groups if group.recipe == recipe}
        for job, granted in had.items():
            if group_of(job) in groups:
                self.had, self.recipe = granted, recipe

    def untried(self, jobs: Jobs) -> str | None:
        """Return a job in the queue that may start, but has not taken a token; None if there is none."""
        helped = frozenset().union(*(group.helped for group in self.groups))
        return min((jobs.pending - jobs.blocked.keys() | jobs.running) - helped, default=None)

    def review(self, queued: frozenset[str], traces: Traces) -> News:
        """Find out what has become of the jobs, and forget those that have left the queue.

        :param queued: the ids of the jobs in the queue
        :param traces: what the pilots of the jobs have left in the pool
        """
        news = News()
        for group in self.groups:
            helped = traces.helped_in(group.id) - group.helped
            group.helped |= helped
            idle = traces.idle_in(group.id) - group.helped - group.idle
            group.idle |= idle
            here = {job for job in queued if group_of(job) == group.id}
            settled = here | group.helped | group.idle
            failed = max(0, group.count - len(settled) - group.failed)
            group.failed += failed
            news.helped, news.idle, news.failed = news.helped + len(helped), news.idle + len(idle), news.failed + failed
            if failed or idle:
                numbered = (f"{group.id}_{number}" for number in range(1, group.count + 1))
                news.example = next((job for job in numbered if job not in settled), min(idle, default=group.id))
                news.folder = group.folder
        self.groups = [group for group in self.groups if any(group_of(job) == group.id for job in queued)]
        return news


def _read_group(entry: object) -> Group | None:
    if not isinstance(entry, dict) or not is_number(entry.get("count")):
        return None
    numbers = {name: int(number_or_none(entry.get(name)) or 0) for name in ("count", "time", "failed")}
    sets = {name: {str(job) for job in list_in(entry, name)} for name in ("helped", "idle")}
    texts = {name: str(entry.get(name) or "") for name in ("folder", "recipe")}
    fields: dict[str, Any] = {**numbers, **texts, **sets}
    return Group(str(entry.get("id")), **fields)


def _read_granted(had: Mapping[str, Any]) -> Granted:
    cores, memory, gpus, walltime = (number_or_none(had.get(name)) for name in ("cores", "memory", "gpus", "walltime"))
    return Granted(
        cores=None if cores is None else int(cores),
        memory=memory,
        gpus=None if gpus is None else int(gpus),
        tags=frozenset(str(tag) for tag in list_in(had, "tags")) if "tags" in had else None,
        walltime=walltime,
    )
