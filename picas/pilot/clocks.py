"""How long something has lasted, for processes on several machines whose clocks differ.

Each host notes in a shared document when it first saw the thing, by its own clock, and compares only its own note with
its own clock.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from time import time
from typing import Any

from ..util import is_number

MAX_HOSTS = 50
"""Once this many hosts have seen the thing, it counts as old: in containers each look may have a host name of its
own."""


def note_time(notes: Mapping[str, Any]) -> dict[str, float]:
    """Return the notes of all hosts on when they first saw something, with one of this host."""
    host, now = socket.gethostname(), time()
    known = {name: float(since) for name, since in notes.items() if is_number(since)}
    since = known.get(host, now)
    return {**known, host: min(since, now)}  # the clock may have been set back


def time_left(notes: Mapping[str, float], seconds: float) -> float:
    """Return how many seconds remain until something has lasted for a time, by the clock of this host.

    :param notes: what `note_time` returns
    :param seconds: the time
    """
    since = notes.get(socket.gethostname())
    if len(notes) >= MAX_HOSTS:
        return 0.0
    return seconds if since is None else max(0.0, seconds - max(0.0, time() - since))
