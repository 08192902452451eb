"""Start pilots when tokens arrive: look at the pool, the running pilots and the queue, and submit what is missing.

Tokens are sorted into classes by views with conditions of their own (`picas views SingleCore 'doc.cores == 1'`).
The batch system finds the jobs of a class by their name.
"""

from __future__ import annotations

import configparser
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceNotFound

from .clients import CouchDB
from .couch.connections import explain
from .exceptions import PicasError, SettingsError
from .jobid import job_id_of
from .picaslogger import get_logger
from .pilot import find_pause, running_pilots
from .pool.edits import count_tokens
from .pool.results import reason_of
from .schedulers import Jobs, Scheduler, SchedulerError
from .util import one_line
from .views import DESIGN_DOC, FREE_VIEW, count_states

log = get_logger(__name__)

JOB_PREFIX = "picas-"
"""The beginning of every job name; the name of the class follows."""
FIRST_WAIT = 60.0
LONGEST_WAIT = 3600.0
"""Seconds until the next try after a failure: jobs of a class could not be submitted, or ended without taking a token.
Each further failure doubles the wait, from the first to the longest."""


@dataclass(frozen=True)
class JobClass:
    """One kind of tokens, and the jobs that are started for them."""

    name: str
    script: str
    """The batch script."""
    design_doc: str = DESIGN_DOC
    view: str = FREE_VIEW
    """The view of the waiting tokens."""
    slots: int = 1
    """The number of tokens that a pilot processes at a time."""
    tokens: int = 1
    """The number of tokens for each slot that makes a pilot worth starting."""
    max_pilots: int = 10
    """The largest number of jobs of this class at the same time, including queued jobs."""
    options: tuple[str, ...] = ()
    """Options of the command that submits jobs."""
    arguments: tuple[str, ...] = ()
    """Arguments of the batch script."""

    @property
    def job_name(self) -> str:
        """The name of the jobs of this class."""
        return JOB_PREFIX + self.name


def read_table(path: Path) -> list[JobClass]:
    """Return the classes in an INI file that has a section for each class; `JobClass` lists the keys.

    The path of a script is relative to the folder of the file.

    :raises SettingsError: if the file is invalid; the text names the section and the key
    :raises OSError: if the file can't be read
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a table of classes: {one_line(error)}") from None
    if not parser.sections():
        raise SettingsError(f"{path} has no class: a class begins with its name in brackets")
    return [_read_class(path, parser[name]) for name in parser.sections()]


def _read_class(path: Path, section: configparser.SectionProxy) -> JobClass:
    known = {item.name for item in fields(JobClass)} - {"name"}
    values: dict[str, Any] = {}
    for key, text in section.items():
        where = f"{path}, [{section.name}], {key}"
        if key not in known:
            raise SettingsError(f"{where}: unknown key; the keys are {', '.join(sorted(known))}")
        if key in ("slots", "tokens", "max_pilots"):
            if not text.isdecimal() or int(text) < (key != "max_pilots"):
                raise SettingsError(f"{where}: {text!r} is not a valid number")
            values[key] = int(text)
        elif key in ("options", "arguments"):
            try:
                values[key] = tuple(shlex.split(text))
            except ValueError as error:
                raise SettingsError(f"{where}: {error}") from None
        else:
            values[key] = text
    if not values.get("script"):
        raise SettingsError(f"{path}, [{section.name}]: the key script is missing")
    script = path.parent / values["script"]
    if not script.is_file():
        raise SettingsError(f"{path}, [{section.name}], script: there is no file {script}")
    return JobClass(section.name, **{**values, "script": str(script.resolve())})


@dataclass(frozen=True)
class Finding:
    """The tokens and jobs of a class at one time."""

    waiting: int
    """The number of waiting tokens."""
    taken: int
    """The number of tokens that do not wait: locked, done or failed."""
    jobs: Jobs
    free: int
    """The number of slots without a token in running jobs, including jobs whose pilot has not started yet."""

    def missing(self, kind: JobClass) -> int:
        """Return how many pilots to start.

        Queued pilots and free slots will take some of the waiting tokens.
        """
        covered = (len(self.jobs.pending) * kind.slots + self.free) * kind.tokens
        wanted = math.ceil(max(0, self.waiting - covered) / (kind.slots * kind.tokens))
        return max(0, min(wanted, kind.max_pilots - len(self.jobs)))


@dataclass
class _Patience:
    """How long to wait before the next jobs of a class, given what became of the last ones."""

    wait: float = 0.0
    """Seconds without submissions after the last failure."""
    until: float = -math.inf
    """The end of that time, on the clock of `time.monotonic`."""
    submitted: str = ""
    """The id of the jobs that were submitted last."""
    waiting: int = 0
    """The number of waiting tokens at that time."""
    taken: int = 0
    """The number of other tokens at that time."""

    def note(self, submitted: str, found: Finding) -> None:
        """Remember which jobs were submitted, and what was found before that."""
        self.submitted, self.waiting, self.taken = submitted, found.waiting, found.taken

    def fail(self) -> None:
        """Delay the next try, longer after each failure."""
        self.wait = min(max(2 * self.wait, FIRST_WAIT), LONGEST_WAIT)
        self.until = monotonic() + self.wait
        self.submitted = ""

    def judge(self, found: Finding) -> bool:
        """Return whether the last jobs ended without taking a token; if so, count that as a failure."""
        if not self.submitted:
            return False
        if found.waiting < self.waiting or found.taken > self.taken:  # new tokens may hide those that were taken
            self.wait, self.submitted = 0.0, ""
        elif not any(id.partition("_")[0] == self.submitted for id in found.jobs.pending | found.jobs.running):
            self.fail()
            return True
        return False


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
    _patience: dict[str, _Patience] = field(default_factory=dict)

    def look(self) -> bool:
        """Look at all classes once and submit what is missing; nothing while the pool is paused.

        :returns: whether all classes went well
        :raises PicasError, couchdb.http.HTTPError: if the database refuses a request or can't be reached
        """
        pause = find_pause(self.client)
        if pause is not None:
            self.tell(f"the pool is {pause}; nothing is submitted")
            return True
        free_slots = dict(self._free_slots())
        results = [self._look_at(kind, free_slots) for kind in self.classes]
        return all(results)

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

    def _look_at(self, kind: JobClass, free_slots: dict[str, int]) -> bool:
        patience = self._patience.setdefault(kind.name, _Patience())
        try:
            jobs = self.scheduler.jobs(kind.job_name)
            free = sum(
                free_slots.get(job, kind.slots) for job in jobs.running
            )  # a job without a pilot is about to start one
            found = Finding(*self._count(kind), jobs=jobs, free=free)
            if patience.judge(found):
                log.warning("%s: the last jobs ended without taking a token: look at their output", kind.name)
            return self._act(kind, found, patience)
        except SettingsError as error:
            self.tell(f"{kind.name}: {error}")
            return False
        except SchedulerError as error:
            patience.fail()
            self.tell(f"{kind.name}: {error}; the next try is in {patience.wait:.0f} s at the earliest")
            return False

    def _act(self, kind: JobClass, found: Finding, patience: _Patience) -> bool:
        missing = found.missing(kind)
        line = (
            f"{kind.name}: {found.waiting} tokens wait, {len(found.jobs.pending)} jobs are queued and "
            f"{len(found.jobs.running)} run, with {found.free} free slots: "
        )
        left = patience.until - monotonic()
        if missing and left > 0:
            self.tell(f"{line}nothing is submitted for another {left:.0f} s, after a failure")
        elif not missing:
            is_full = found.waiting > 0 and len(found.jobs) >= kind.max_pilots
            self.tell(f"{line}{'that is the largest number of jobs allowed' if is_full else 'that is enough'}")
        elif self.is_dry:
            self.tell(f"{line}{_pilots(missing)} would be submitted")
        else:
            submitted = self.scheduler.submit(kind.job_name, missing, kind.script, kind.arguments, kind.options)
            patience.note(submitted, found)
            self.tell(f"{line}submitted {_pilots(missing)} as job {submitted}")
        return True

    def _count(self, kind: JobClass) -> tuple[int, int]:
        """Return how many tokens of a class wait, and how many have left that state."""
        try:
            counts = count_states(self.client, kind.design_doc)
            waiting = count_tokens(self.client, kind.view, kind.design_doc)
        except ResourceNotFound:
            raise SettingsError(
                f"there is no view {kind.design_doc}/{kind.view}, or no overview beside it: create the views with "
                f"picas views {kind.design_doc}"
            ) from None
        return waiting, sum(count for state, count in counts.items() if state != FREE_VIEW)

    def _free_slots(self) -> Iterable[tuple[str, int]]:
        """Yield the job id and the number of free slots of each running pilot that has a job id."""
        for pilot in running_pilots(self.client):
            job, free = job_id_of(pilot), pilot.get("free")
            if job and isinstance(free, int):
                yield job, max(0, free)


def _pilots(count: int) -> str:
    return "1 pilot" if count == 1 else f"{count} pilots"
