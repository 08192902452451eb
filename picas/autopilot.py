"""Start pilots as tokens come: look at the pool, at the pilots that live and at the queue, and submit what is missing.

Tokens are sorted into classes by views with conditions of their own (`createViews.py SingleCore 'doc.cores == 1'`).
The jobs of a class are known to the batch system by their name.
"""

from __future__ import annotations

import configparser
import logging
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
from .pilot.fleet import running_pilots
from .pool.edits import count_tokens
from .pool.results import reason_of
from .schedulers import Jobs, Scheduler, SchedulerError
from .util import one_line
from .views import DESIGN_DOC, FREE_VIEW, count_states

log = logging.getLogger(__name__)

JOB_PREFIX = "picas-"
"""What the names of all jobs begin with; the class follows."""
FIRST_WAIT = 60.0
LONGEST_WAIT = 3600.0
"""Seconds until a class is tried again whose jobs could not be submitted, or ended without having taken a token: the
first, doubled each time, and the last."""


@dataclass(frozen=True)
class JobClass:
    """Tokens of one kind, and the jobs that are started for them."""

    name: str
    script: str
    """The batch script."""
    design_doc: str = DESIGN_DOC
    view: str = FREE_VIEW
    """The view of the tokens that wait."""
    slots: int = 1
    """How many tokens a pilot works on at a time."""
    tokens: int = 1
    """For how many tokens in each of its slots a pilot is worth starting."""
    max_pilots: int = 10
    """How many jobs of this class there may be at the same time, those that wait included."""
    options: tuple[str, ...] = ()
    """Options of the command that submits."""
    arguments: tuple[str, ...] = ()
    """Arguments of the script."""

    @property
    def job_name(self) -> str:
        """The name of its jobs."""
        return JOB_PREFIX + self.name


def read_table(path: Path) -> list[JobClass]:
    """Return the classes that a file describes: an INI file with a section for each, see `JobClass` for the keys.

    A script is looked for beside the file.

    :raises SettingsError: if something in it makes no sense; the text says where
    :raises OSError: if it can't be read
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no table of classes: {one_line(error)}") from None
    if not parser.sections():
        raise SettingsError(f"{path} has no class in it: a class begins with its name in brackets")
    return [_read_class(path, parser[name]) for name in parser.sections()]


def _read_class(path: Path, section: configparser.SectionProxy) -> JobClass:
    known = {item.name for item in fields(JobClass)} - {"name"}
    values: dict[str, Any] = {}
    for key, text in section.items():
        where = f"{path}, [{section.name}], {key}"
        if key not in known:
            raise SettingsError(f"{where}: there is no such key; known are {', '.join(sorted(known))}")
        if key in ("slots", "tokens", "max_pilots"):
            if not text.isdecimal() or int(text) < (key != "max_pilots"):
                raise SettingsError(f"{where}: {text!r} is not a number of them")
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
    """What there is of a class."""

    waiting: int
    """Tokens that wait."""
    taken: int
    """Tokens that do not wait: those at work, done, or failed."""
    jobs: Jobs
    free: int
    """Slots of pilots that have no token, those of pilots that are about to begin included."""

    def missing(self, kind: JobClass) -> int:
        """Return how many pilots are to be started.

        Those that are queued, or have a free slot, will take some of the tokens that wait.
        """
        covered = (len(self.jobs.pending) * kind.slots + self.free) * kind.tokens
        wanted = math.ceil(max(0, self.waiting - covered) / (kind.slots * kind.tokens))
        return max(0, min(wanted, kind.max_pilots - len(self.jobs)))


@dataclass
class _Patience:
    """What became of the last jobs of a class."""

    wait: float = 0.0
    """Seconds that nothing is submitted after the last failure."""
    until: float = -math.inf
    submitted: str = ""
    """The jobs that were submitted the last time."""
    waiting: int = 0
    """The tokens that waited then."""
    taken: int = 0
    """The tokens that did not wait then."""

    def note(self, submitted: str, found: Finding) -> None:
        """Take note of what was submitted, and of what there was."""
        self.submitted, self.waiting, self.taken = submitted, found.waiting, found.taken

    def fail(self) -> None:
        """Let the next try wait, longer each time."""
        self.wait = min(max(2 * self.wait, FIRST_WAIT), LONGEST_WAIT)
        self.until = monotonic() + self.wait
        self.submitted = ""

    def judge(self, found: Finding) -> bool:
        """Look what came of the jobs, and tell whether they have ended without having taken a token."""
        if not self.submitted:
            return False
        if found.waiting < self.waiting or found.taken > self.taken:  # new tokens may have come meanwhile
            self.wait, self.submitted = 0.0, ""
        elif not any(id.partition("_")[0] == self.submitted for id in found.jobs.pending | found.jobs.running):
            self.fail()
            return True
        return False


@dataclass
class Autopilot:
    """Starts pilots for the tokens that wait."""

    client: CouchDB
    classes: list[JobClass]
    scheduler: Scheduler
    is_dry: bool = False
    """Whether it only says what it would do."""
    tell: Callable[[str], None] = print
    """Gets a line for each class and look."""
    _patience: dict[str, _Patience] = field(default_factory=dict)

    def look(self) -> bool:
        """Look once at all classes and submit what is missing; return whether all went well.

        :raises PicasError, couchdb.http.HTTPError: if the database refuses, or is away
        """
        free_slots = dict(self._free_slots())
        results = [self._look_at(kind, free_slots) for kind in self.classes]
        return all(results)

    def stay(self, interval: float, sleep: Callable[[float], object] = sleep) -> None:
        """Look again and again, whatever fails meanwhile.

        :param interval: seconds between two looks
        """
        while True:
            try:
                self.look()
            except (PicasError, HTTPError, OSError) as error:
                reason = reason_of(error) if isinstance(error, HTTPError) else explain(error)
                log.warning("The pool can't be looked at now: %s", reason)
            sleep(interval)

    def _look_at(self, kind: JobClass, free_slots: dict[str, int]) -> bool:
        patience = self._patience.setdefault(kind.name, _Patience())
        try:
            jobs = self.scheduler.jobs(kind.job_name)
            free = sum(free_slots.get(job, kind.slots) for job in jobs.running)  # those without a pilot begin just now
            found = Finding(*self._count(kind), jobs=jobs, free=free)
            if patience.judge(found):
                log.warning("%s: the last jobs have ended and no token was taken: look at their output", kind.name)
            return self._act(kind, found, patience)
        except SettingsError as error:
            self.tell(f"{kind.name}: {error}")
            return False
        except SchedulerError as error:
            patience.fail()
            self.tell(f"{kind.name}: {error}; it is tried again after {patience.wait:.0f} s at the earliest")
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
            self.tell(f"{line}{'these are as many jobs as there may be' if is_full else 'that is enough'}")
        elif self.is_dry:
            self.tell(f"{line}{_pilots(missing)} would be submitted")
        else:
            options = (kind.job_name, missing, kind.script, kind.arguments, kind.options)
            patience.note(self.scheduler.submit(*options), found)
            self.tell(f"{line}submitted {_pilots(missing)} as job {patience.submitted}")
        return True

    def _count(self, kind: JobClass) -> tuple[int, int]:
        """Return how many tokens of a class wait, and how many do not."""
        try:
            counts = count_states(self.client, kind.design_doc)
            waiting = count_tokens(self.client, kind.view, kind.design_doc)
        except ResourceNotFound:
            raise SettingsError(
                f"there is no view {kind.design_doc}/{kind.view}, or no overview beside it: create the views with "
                f"python createViews.py {kind.design_doc}"
            ) from None
        return waiting, sum(count for state, count in counts.items() if state != FREE_VIEW)

    def _free_slots(self) -> Iterable[tuple[str, int]]:
        """Yield the job of each pilot that has one, and how many of its slots are free."""
        for pilot in running_pilots(self.client):
            job, free = job_id_of(pilot), pilot.get("free")
            if job and isinstance(free, int):
                yield job, max(0, free)


def _pilots(count: int) -> str:
    return "1 pilot" if count == 1 else f"{count} pilots"
