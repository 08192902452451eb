"""What a pilot tells of itself."""

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
from ..tokens.resources import Resources
from ..util import seconds
from ..version import VERSION

PREFIX = "picas_pilot_"
"""What the ids of all pilots begin with; CouchDB lists such documents by their ids, without a view."""


def _new_id() -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())
    return f"{PREFIX}{host}_{os.getpid()}_{uuid4().hex[:8]}"


@dataclass
class Pilot:
    """One run of an actor: its id stands in the claims of the tokens that it takes."""

    id: str = field(default_factory=_new_id)
    host: str = field(default_factory=socket.gethostname)
    start: int = field(default_factory=seconds)
    """Seconds since the epoch."""
    slots: int = 1
    """How many tokens it works on at a time."""
    has: Resources = field(default_factory=Resources)
    """What it has for them."""
    deadline: float = math.inf
    """The time until which it may work on tokens, on the clock of `time.monotonic`."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many attempts ended in which way."""

    def count(self, outcome: str) -> None:
        """Note that an attempt has ended."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def describe(self) -> dict[str, Any]:
        """Return who this pilot is and what it has done, as plain values."""
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
        jobid.add_job_id(description)
        return {**description, "outcomes": dict(self.outcomes)}
