"""What the system tells of processes, and how those are found and ended that descend from a child.

Linux tells in /proc. Elsewhere a child and its process group are all that is known. This module imports nothing of the
package, so that the supervisor can use it without.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Callable, NamedTuple

VARIABLE = "PICAS_CHILD"
"""The environment variable that marks a child and what it starts."""

HAS_PROC = sys.platform.startswith("linux") and os.access("/proc/self/stat", os.R_OK)
"""Whether the system tells of its processes: Linux does, unless somebody has left out /proc."""

_PR_SET_CHILD_SUBREAPER = 36  # from <linux/prctl.h>

_LONGEST_PAUSE = 0.2  # seconds between two looks at all processes, of which a large machine has thousands
_ROUNDS = 50  # how often processes that fork are killed until everything is looked at again
_MISSES = 5  # looks that find none until that is believed
_TICKS = os.sysconf("SC_CLK_TCK")  # a second
_UNLIMITED = 1 << 62  # microseconds, which is some 146,000 years


class Process(NamedTuple):
    """A process, as it was when it was looked at."""

    pid: int
    start: int
    """When it was started, in clock ticks since the system's start: a pid is used again, both together are not."""
    is_alive: bool
    """Whether it runs; a zombie does not."""
    parent: int
    group: int
    session: int


class Mark(NamedTuple):
    """What a child hands down to all that descends from it.

    The text is in the environment, which a program can clear. So the soft limit of processor time without a pause for
    programs with real-time priority, of which there is none to begin with, becomes one that is never reached. Nobody
    clears that, it needs no right to be read, and it can be read of a zombie too.
    """

    text: str
    limits: range

    def is_on(self, pid: int) -> bool:
        """Tell whether a process has this mark."""
        return _limit_of(pid) in self.limits or self.text.encode() in _read(f"/proc/{pid}/environ")


class Marks:
    """The marks that a process gives to its children, one to each."""

    def __init__(self) -> None:
        text = os.urandom(8).hex()
        first = _UNLIMITED + (int.from_bytes(os.urandom(4), "big") << 24)
        self.all = Mark(text + "-", range(first, first + (1 << 24)) if _is_limit_free() else range(0))
        """What all of them have in common."""
        self._numbers = itertools.count()

    def next(self) -> Mark:
        """Return a mark for a child."""
        number = next(self._numbers)
        limits = self.all.limits
        at = number % len(limits) if limits else 0
        return Mark(f"{self.all.text}{number};", limits[at : at + 1])


def marked(environment: dict[str, str], mark: Mark) -> dict[str, str]:
    """Return an environment with a mark added to those that it has: a pilot may itself be a child of a pilot."""
    return {**environment, VARIABLE: os.environ.get(VARIABLE, "") + mark.text}


class Root(NamedTuple):
    """A child that is to be ended with all that descends from it."""

    pid: int
    start: int
    """See `Process`; 0 where it is not known."""
    leads: bool
    """Whether it was started as the leader of a process group."""


def read(pid: int) -> Process | None:
    """Return what there is to tell of a process, None if there is none of this id or the system does not tell."""
    # "pid (name) state parent group …", where the name may hold anything.
    fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    if len(fields) < 20:
        return None
    state, parent, group, session = fields[:4]
    # A process looks like a zombie, too, whose main thread has ended while others run.
    is_alive = state not in (b"Z", b"X") or int(fields[17]) > 1
    return Process(pid, int(fields[19]), is_alive, int(parent), int(group), int(session))


def start_of(pid: int) -> int:
    """Return when a process was started, see `Process`; 0 if that is not known."""
    process = read(pid)
    return 0 if process is None else process.start


def age_of(pid: int) -> float:
    """Return how many seconds ago a process was started, 0 if that is not known."""
    process = read(pid)
    return 0.0 if process is None else max(0.0, _ticks() - process.start) / _TICKS


def leads_group(pid: int) -> bool:
    """Tell whether a process leads a process group."""
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def children_of(pid: int) -> Iterator[int]:
    """Give the children of a process, adopted ones and zombies among them."""
    with contextlib.suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  # there may be thousands: no `Path` for each
            yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def send(process: Process, signum: int) -> None:
    """Send a signal to a process, unless it has ended and another one has its id now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            handle = os.pidfd_open(process.pid)  # holds on to the process, whatever becomes of its id
        except (AttributeError, OSError):  # an older system
            if start_of(process.pid) == process.start:
                os.kill(process.pid, signum)
            return
        try:
            if start_of(process.pid) == process.start:
                signal.pidfd_send_signal(handle, signum)
        finally:
            os.close(handle)


class Family:
    """Children, and all that descends from them, whatever group or session it has moved to.

    Found by: the group and the session of a child; the parents; the marks.

    :param roots: the children
    :param marks: the marks that only these have
    :param ancestor: a process to which all come whose parents have ended, None if there is none
    :param since: when the oldest of them may have been started, see `Process`; that of the oldest child by default
    """

    def __init__(
        self, roots: Iterable[Root], marks: Iterable[Mark] = (), ancestor: int | None = None, since: int | None = None
    ) -> None:
        self._roots = list(roots)
        self._marks = list(marks)
        self._ancestor = ancestor
        self._since = min((root.start for root in self._roots), default=0) if since is None else since
        self._leaders: dict[int, Process | None] = {}
        self._known: dict[tuple[int, int], Process] = {}  # the members that were alive when last looked at
        self._strangers: set[tuple[int, int]] = set()
        self._told: set[tuple[int, int]] = set()  # those that SIGTERM was sent to
        self._told_at: float | None = None
        self._is_killed = False
        self._next_look = 0.0

    def is_alive(self) -> bool:
        """Tell whether any member is alive; if that is to be found out only later, it may be."""
        if not HAS_PROC:
            # Once gone it stays so: its id may become another's.
            self._roots = [root for root in self._roots if _exists(root)]
            return bool(self._roots)
        self._known = {key: process for key, process in self._known.items() if _is_alive(process)}
        if not self._known and time.monotonic() < self._next_look:
            return True
        if not self._known:
            self._look()
        # None in sight says little: one may have forked and ended between the list of all and the look at itself.
        for _ in range(_MISSES):
            if not self._known:
                self._look_below() if self._ancestor is not None else self._look()
        return bool(self._known)

    def terminate(self) -> None:
        """Send SIGTERM to the members, once to each.

        A process is spared that was started after the first call: it may be what a child needs to clean up.
        """
        if self._told_at is None:
            self._told_at = _ticks()
            self._send_to_groups(signal.SIGTERM)
            # A stopped process acts on no signal but this one and SIGKILL.
            self._send_to_groups(signal.SIGCONT)
        for key, process in self._known.items():
            if key not in self._told and (process.start < self._told_at or self._is_in_group(process)):
                self._told.add(key)
                if not self._is_in_group(process):
                    send(process, signal.SIGTERM)
                    send(process, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the members, and from now on those that are found as well."""
        self._is_killed = True
        self._send_to_groups(signal.SIGKILL)
        for process in list(self._known.values()):
            send(process, signal.SIGKILL)
        # What goes on in ever new processes is easily missed, but not by so many looks.
        misses = 0
        for _ in range(_ROUNDS):
            misses = 0 if self._look_below() else misses + 1
            if misses == _MISSES:
                break
        if self._known and time.monotonic() >= self._next_look:
            self._look()

    def _look(self) -> None:
        """Look at all processes for members that are alive."""
        began = time.monotonic()
        self._look_at_leaders()
        others: dict[int, list[Process]] = {}  # by their parents
        for process in _all():
            if process.is_alive and process.start >= self._since:
                if self._belongs(process):
                    self._note(process)
                else:
                    others.setdefault(process.parent, []).append(process)
        families = list(self._known.values())
        for process in families:
            for child in others.pop(process.pid, []):
                self._note(child)
                families.append(child)
        ended = time.monotonic()
        self._next_look = ended + min(_LONGEST_PAUSE, 2 * (ended - began))

    def _look_below(self) -> bool:
        """Look below the ancestor, where all members should be, and return whether there are any. That is fast."""
        self._look_at_leaders()
        parents = [] if self._ancestor is None else [self._ancestor]
        found = False
        for parent in parents:
            # The newest, which may be gone soon, stands last.
            for process in filter(None, map(read, reversed(list(children_of(parent))))):
                if not process.is_alive or process.start < self._since:
                    continue
                if parent != self._ancestor or self._belongs(process):
                    self._note(process)
                    parents.append(process.pid)
                    found = True
        return found

    def _note(self, process: Process) -> None:
        self._known[process[:2]] = process
        if self._is_killed:
            send(process, signal.SIGKILL)  # now, before it forks and ends

    def _look_at_leaders(self) -> None:
        self._leaders = {root.pid: read(root.pid) for root in self._roots}

    def _belongs(self, process: Process) -> bool:
        """Tell whether a process is a member; if not, a member may still be its parent."""
        key = process[:2]
        if key in self._known:
            return True
        if process.pid == os.getpid():
            return False
        if any(self._is_of(process, root) for root in self._roots):
            return True
        if key not in self._strangers:
            if any(mark.is_on(process.pid) for mark in self._marks):
                return True
            # While it starts a program its environment is empty.
            if all(mark.limits for mark in self._marks) or _read(f"/proc/{process.pid}/environ"):
                self._strangers.add(key)
        return False

    def _is_of(self, process: Process, root: Root) -> bool:
        """Tell whether a process is a child itself, or in its group or session."""
        if process[:2] == root[:2]:
            return True
        if not root.leads or root.pid not in (process.group, process.session):
            return False
        leader = self._leaders.get(root.pid)
        if leader is not None:
            return leader.start == root.start  # else its id is used again
        # The id may have been used again and be free once more: who is not below the ancestor is somebody else's.
        return self._ancestor is not None and self._is_below_ancestor(process)

    def _is_below_ancestor(self, process: Process | None) -> bool:
        while process is not None and process.pid != self._ancestor:
            process = read(process.parent)
        return process is not None

    def _is_in_group(self, process: Process) -> bool:
        return any(root.leads and root.pid == process.group for root in self._roots)

    def _send_to_groups(self, signum: int) -> None:
        """Send a signal to the children's process groups, which reaches those too that are just being forked."""
        # A member in it proves that it is the child's: as long as a group has members its id is not used again.
        groups = {process.group for process in map(read, self._pids()) if process and process[:2] in self._known}
        for root in self._roots:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if root.leads and (root.pid in groups or not HAS_PROC):
                    os.killpg(root.pid, signum)
                elif not HAS_PROC:
                    os.kill(root.pid, signum)

    def _pids(self) -> list[int]:
        return [process.pid for process in self._known.values()]


def become_subreaper() -> bool:
    """Make processes below this one come to it when their parents end, and return whether the system can do that."""
    if not HAS_PROC:
        return False
    import ctypes  # noqa: PLC0415  # the supervisor, which has no use for it, starts the faster

    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def reap_adopted(mark: Mark, sessions: Collection[int], is_own: Callable[[int], bool]) -> None:
    """Reap zombies that have come to this process because their parents had ended.

    Those that this process started are left to whoever waits for them. They are in its session, or lead one of their
    own, and have no mark; a child that has one is known.

    :param mark: that of all the children
    :param sessions: the sessions that this process has been in
    :param is_own: tells of the pid of a zombie that has the mark whether it is such a child
    """
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
    except ChildProcessError:
        return
    me = os.getpid()
    for pid in list(children_of(me)):
        zombie = read(pid)
        if zombie is None or zombie.is_alive or zombie.parent != me:
            continue
        if zombie.session in (*sessions, pid) and (_limit_of(pid) not in mark.limits or is_own(pid)):
            continue
        if read(pid) == zombie:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def set_limit(mark: Mark) -> None:
    """Give this process the limit of a mark, if it has one. For a child, before it runs its program."""
    if mark.limits:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; the environment marks it all the same
            resource.setrlimit(resource.RLIMIT_RTTIME, (mark.limits[0], resource.RLIM_INFINITY))


def _is_limit_free() -> bool:
    """Tell whether the limit that marks is not in use, by somebody who means it or by a pilot above this one."""
    if not HAS_PROC:
        return False
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    return resource.getrlimit(resource.RLIMIT_RTTIME) == none and _limit_of(os.getpid()) is not None


def _limit_of(pid: int) -> int | None:
    """Return the limit that may mark a process; -1 for no limit, None if it is not told."""
    columns = _read(f"/proc/{pid}/limits").partition(b"Max realtime timeout")[2].split(None, 1)
    if not columns:
        return None
    return int(columns[0]) if columns[0].isdigit() else -1


def _read(path: str) -> bytes:
    """Return what a file in /proc holds, nothing if the process is gone or another user's."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # there may be thousands: no `Path` for each
            return file.read()
    except OSError:
        return b""


def _all() -> Iterator[Process]:
    """Give all processes, first the newest, which may be gone soon."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    newest = int((_read("/proc/loadavg").split() or [b"0"])[-1])  # ids are given upwards, and from below at the end
    for pid in sorted(pids, key=lambda pid: (pid > newest, -pid)):
        process = read(pid)
        if process is not None:
            yield process


def _is_alive(process: Process) -> bool:
    now = read(process.pid)
    return now is not None and now.is_alive and now.start == process.start


def _exists(root: Root) -> bool:
    """Tell whether there is a child or a member of its group, where the system tells no more than that."""
    try:
        (os.killpg if root.leads else os.kill)(root.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _ticks() -> float:
    """Return the time in clock ticks since the system's start."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS if HAS_PROC else 0.0
