"""What a pilot tells of itself."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from . import jobid
from .util import seconds
from .version import VERSION

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
        }
        jobid.add_job_id(description)
        return {**description, "outcomes": dict(self.outcomes)}
