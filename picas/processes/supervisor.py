"""The supervisor: a process that ends what a pilot has started if the pilot is killed, for example by `kill -9`.

A pilot starts it as a separate script together with its first child. It reads from its standard input which children
run, one message per line, until the input ends:

    pilot TEXT FIRST LAST START     the mark of all children, and the pilot's start time, see `descendants`
    + PID START GRACE               a child was started; GRACE is the number of seconds between SIGTERM and SIGKILL
    - PID                           a child has ended; what it left in the background does not belong to it any more
    bye                             the pilot ends normally: the supervisor must not end anything
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NamedTuple

if __name__ == "__main__":  # started as a script: loading the package would make it slow to start and large
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # pathlib is slow to import
    from descendants import Mark, ProcessTree, Root  # type: ignore[import-not-found,unused-ignore]
else:
    from .descendants import Mark, ProcessTree, Root

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL for processes whose child has ended."""
KILL_WAIT = 10.0
"""Seconds that killed processes may take to disappear."""

_PAUSE = 0.05  # seconds between two checks after SIGTERM
_KILL_PAUSE = 0.005  # seconds between two checks after SIGKILL, when processes may keep forking


class Watched(NamedTuple):
    """What the supervisor knows about its pilot."""

    children: dict[int, tuple[Root, float]]
    """The children that run, by pid, each with its grace period in seconds."""
    marks: list[Mark]
    """The mark of all children; empty until the pilot has sent it."""
    since: list[int]
    """The pilot's start time; empty until the pilot has sent it."""


def listen(descriptor: int) -> Watched | None:
    """Read the pilot's messages until they end, and return what is left to end; None if the pilot ended normally.

    :param descriptor: the file descriptor with the messages
    """
    watched = Watched({}, [], [])
    buffer = b""
    while True:
        try:
            received = os.read(descriptor, 4096)
        except ConnectionError:
            received = b""
        if not received:
            return watched
        *lines, buffer = (buffer + received).split(b"\n")
        for line in lines:
            if line == b"bye":
                return None
            _apply(line, watched)


def end_tree(watched: Watched) -> bool:
    """End what a dead pilot has left: SIGTERM, and SIGKILL after the grace period. Return whether all is gone."""
    roots = [root for root, _ in watched.children.values()]
    grace = max((grace for _, grace in watched.children.values()), default=GRACE)
    tree = ProcessTree(roots, watched.marks, since=min(watched.since, default=None))
    give_up = time.monotonic() + grace
    while tree.is_alive():
        if time.monotonic() < give_up:
            tree.terminate()
            time.sleep(_PAUSE)
        elif time.monotonic() < give_up + KILL_WAIT:
            tree.kill()
            time.sleep(_KILL_PAUSE)
        else:
            return False
    return True


def main() -> None:
    """Supervise the pilot at the other end of the standard input."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    watched = listen(0)
    if watched is not None:
        end_tree(watched)


def _apply(line: bytes, watched: Watched) -> None:
    """Apply one message. An incomplete one, which a full socket may cause, is ignored."""
    kind, *words = line.decode(errors="replace").split(" ")
    try:
        if kind == "+":
            pid, start = int(words[0]), int(words[1])
            watched.children[pid] = (Root(pid, start, leads_group=True), float(words[2]))
        elif kind == "-":
            watched.children.pop(int(words[0]), None)
        elif kind == "pilot":
            watched.marks.append(Mark(words[0], range(int(words[1]), int(words[2]))))
            watched.since.append(int(words[3]))
    except (IndexError, ValueError):
        pass


if __name__ == "__main__":
    main()
