"""A pilot's document in the database: its id, its fields, and how all pilots are listed."""

from __future__ import annotations

import math
import os
import re
import socket
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from .. import jobid
from ..batch import length_of_job
from ..clients import CouchDB
from ..tokens.resources import Resources
from ..util import seconds
from ..version import VERSION
from .usage import Usage

PREFIX = "picas_pilot_"
"""The beginning of the ids of all pilots, so that CouchDB lists their documents without a view."""
ENDED_PREFIX = "picas_ended_"
"""The beginning of the ids under which pilots that have ended are kept for people; no pilot lists these. Behind it
follow the time of the end (ten digits) and the pilot's id, so that the ids are in the order of these times."""
PAGE = 5000
"""The most pilots that are listed with one request."""
TYPE = "pilot"
"""The type of a pilot's document."""
RUNNING = "running"
DEAD = "dead"
ENDED = "ended"
"""The states of a pilot's document."""


def pilot_rows(client: CouchDB, include_docs: bool = False) -> list[Any]:
    """Return the row of each pilot's document, however many there are.

    :param include_docs: whether the rows have the documents
    """
    found: list[Any] = []
    start = PREFIX
    while True:
        rows = client.all_docs(startkey=start, endkey=PREFIX + "\ufff0", limit=PAGE, include_docs=include_docs)
        found += rows[1:] if found else rows  # a page begins with the last row of the one before
        if len(rows) < PAGE:
            return found
        start = rows[-1].id


def _new_id() -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())
    return f"{PREFIX}{host}_{os.getpid()}_{uuid4().hex[:8]}"


@dataclass
class Pilot:
    """One run of an actor. Its id is in the claims of the tokens that it locks."""

    id: str = field(default_factory=_new_id)
    host: str = field(default_factory=socket.gethostname)
    start: int = field(default_factory=seconds)
    """Seconds since the epoch."""
    slots: int = 1
    """The number of tokens that it works on at a time."""
    has: Resources = field(default_factory=Resources)
    """The resources that it has for its tokens."""
    deadline: float = math.inf
    """The time at which it stops working on tokens, on the clock of `time.monotonic`."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """The number of attempts by outcome."""

    processed: int = 0
    """The number of tokens that it has processed."""
    replaced: int = 0
    """The number of tokens whose result held a value that could not be stored as it was."""
    usage: Usage = field(init=False)
    """How long its slots were at work."""
    walltime: float = field(init=False)
    """The seconds of its job when it started, infinity if unknown; a later change of the limit is this job's alone."""

    def __post_init__(self) -> None:
        self.usage = Usage(self.slots)
        self.walltime = length_of_job(self.deadline - time.monotonic())

    def count(self, outcome: str, is_processed: bool = True) -> None:
        """Count an attempt that has ended.

        :param is_processed: whether it counts as a token that was processed
        """
        self.processed += is_processed
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def summary(self) -> str:
        """Return one line about what it has done."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        text = f"Processed {self.processed} tokens" + (f": {counts}" if counts else "")
        if not self.replaced:
            return text
        whose = "the result of 1 token" if self.replaced == 1 else f"the results of {self.replaced} tokens"
        return f"{text}; {whose} could not be stored as they were"

    def describe(self) -> dict[str, Any]:
        """Return the pilot's data and the outcomes so far, as values that JSON can hold."""
        description: dict[str, Any] = {
            "id": self.id,
            "host": self.host,
            "pid": os.getpid(),
            "version": VERSION,
            "start": self.start,
            "slots": self.slots,
            "cores": self.has.cores,
            "gpus": self.has.gpus,
            "tags": sorted(self.has.tags),
        }
        if self.has.memory < math.inf:
            description["memory"] = math.floor(self.has.memory)
        if self.deadline < math.inf:
            description["time_left"] = max(0, math.floor(self.deadline - time.monotonic()))
        if self.walltime < math.inf:
            description["walltime"] = max(0, round(self.walltime))
        jobid.add_job_id(description)
        return {**description, "outcomes": dict(self.outcomes), **self.usage.describe()}
