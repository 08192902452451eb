"""The supervisor: ends what a pilot has started if the pilot dies without having done so, by `kill -9` say.

`executers` starts it as a script of its own with the first child of a pilot. It reads on its standard input which
children run, one message a line, until that ends:

    pilot TEXT FIRST LAST START     the mark of all children and when the pilot was started, see `descendants`
    + PID START GRACE               a child was started; it has so many seconds between SIGTERM and SIGKILL
    - PID                           it has ended, and what it has left behind is not to be ended with it
    bye                             the pilot ends by itself: nothing is to be ended
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NamedTuple

if __name__ == "__main__":  # started as a script: the rest of the package would make it start slowly, and be large
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # nor is pathlib needed
    from descendants import Family, Mark, Root  # type: ignore[import-not-found,unused-ignore]
else:
    from .descendants import Family, Mark, Root

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL for what was left behind by children that have ended."""
KILL_WAIT = 10.0
"""Seconds that killed processes may take to be gone."""

_PAUSE = 0.05  # seconds between two looks at what is being ended
_KILL_PAUSE = 0.005  # the same for what is being killed and may go on in ever new processes


class Watch(NamedTuple):
    """What the pilot has told of its children."""

    children: dict[int, tuple[Root, float]]
    """Those that run, by their pids, each with its grace period in seconds."""
    marks: list[Mark]
    """What is on all that it has ever started."""
    since: list[int]
    """When it was started itself."""


def listen(descriptor: int) -> Watch | None:
    """Follow what a pilot tells until it says no more, and return what is left to be ended; None if it said goodbye.

    :param descriptor: where its messages come in
    """
    watch = Watch({}, [], [])
    buffer = b""
    while True:
        try:
            received = os.read(descriptor, 4096)
        except ConnectionError:
            received = b""
        if not received:
            return watch
        *lines, buffer = (buffer + received).split(b"\n")
        for line in lines:
            if line == b"bye":
                return None
            _heed(line, watch)


def end_family(watch: Watch) -> bool:
    """End what a dead pilot has left: SIGTERM, and SIGKILL after the grace period; return whether all is gone."""
    roots = [root for root, _ in watch.children.values()]
    grace = max((grace for _, grace in watch.children.values()), default=GRACE)
    family = Family(roots, watch.marks, since=min(watch.since, default=None))
    give_up = time.monotonic() + grace
    while family.is_alive():
        if time.monotonic() < give_up:
            family.terminate()
            time.sleep(_PAUSE)
        elif time.monotonic() < give_up + KILL_WAIT:
            family.kill()
            time.sleep(_KILL_PAUSE)
        else:
            return False
    return True


def main() -> None:
    """Keep watch for the pilot at the other end of the standard input."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    watch = listen(0)
    if watch is not None:
        end_family(watch)


def _heed(line: bytes, watch: Watch) -> None:
    """Take note of one message; one that is torn, as a full pipe may leave it, says nothing."""
    kind, *words = line.decode(errors="replace").split(" ")
    try:
        if kind == "+":
            pid, start = int(words[0]), int(words[1])
            watch.children[pid] = (Root(pid, start, leads=True), float(words[2]))
        elif kind == "-":
            watch.children.pop(int(words[0]), None)
        elif kind == "pilot":
            watch.marks.append(Mark(words[0], range(int(words[1]), int(words[2]))))
            watch.since.append(int(words[3]))
    except (IndexError, ValueError):
        pass


if __name__ == "__main__":
    main()
