"""Find the descendants of child processes, whatever they do to escape, and end them.

On Linux they are found in /proc. On other systems only a child and its process group are known. This module imports
nothing from the package, so that the supervisor can load it without the package.
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
"""The environment variable that marks a child and its descendants."""

HAS_PROC = sys.platform.startswith("linux") and os.access("/proc/self/stat", os.R_OK)
"""Whether processes can be looked up. They can on Linux, unless /proc is not mounted."""

_PR_SET_CHILD_SUBREAPER = 36  # from <linux/prctl.h>

_LONGEST_PAUSE = 0.2  # seconds at most between two scans of all processes; a large machine has thousands
_ROUNDS = 50  # scans below the subreaper in one call of `kill`, before it scans all processes again
_MISSES = 5  # scans in a row that must find nothing before the tree counts as gone
_TICKS = os.sysconf("SC_CLK_TCK")  # clock ticks per second
_UNLIMITED = 1 << 62  # microseconds, about 146,000 years


class Process(NamedTuple):
    """A process at the moment when it was read."""

    pid: int
    start: int
    """Its start time, in clock ticks since boot. A pid is reused; the pair of pid and start time is not."""
    is_alive: bool
    """Whether it runs. A zombie does not."""
    parent: int
    group: int
    session: int


class Mark(NamedTuple):
    """What a child and all its descendants inherit, so that they can be recognised.

    The text is in the environment, which a program can clear. So a resource limit marks them too: RLIMIT_RTTIME, the
    processor time that a real-time process may use without a pause. It is normally unlimited, and here its soft limit
    becomes a value so large that no process reaches it. Programs do not reset it, reading it needs no permission, and
    it can be read from zombies, too.
    """

    text: str
    limits: range

    def is_on(self, pid: int) -> bool:
        """Return whether a process has this mark."""
        return _limit_of(pid) in self.limits or self.text.encode() in _read(f"/proc/{pid}/environ")


class Marks:
    """The marks that a process gives to its children, one each."""

    def __init__(self) -> None:
        text = os.urandom(8).hex()
        first = _UNLIMITED + (int.from_bytes(os.urandom(4), "big") << 24)
        self.all = Mark(text + "-", range(first, first + (1 << 24)) if _is_limit_free() else range(0))
        """A mark that matches all of them."""
        self._numbers = itertools.count()

    def next(self) -> Mark:
        """Return the mark for the next child."""
        number = next(self._numbers)
        limits = self.all.limits
        at = number % len(limits) if limits else 0
        return Mark(f"{self.all.text}{number};", limits[at : at + 1])


def marked(environment: dict[str, str], mark: Mark) -> dict[str, str]:
    """Add a mark to an environment. Marks that it already has stay: this pilot may be the child of another pilot."""
    return {**environment, VARIABLE: os.environ.get(VARIABLE, "") + mark.text}


class Root(NamedTuple):
    """The root of a process tree: a child that is ended with all its descendants."""

    pid: int
    start: int
    """Its start time, see `Process`; 0 if that is unknown."""
    leads_group: bool
    """Whether it was started as the leader of a process group."""


def read(pid: int) -> Process | None:
    """Return the process with this id, None if it does not exist or can't be read."""
    # "pid (name) state parent group …"; the name may contain any characters.
    fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    if len(fields) < 20:
        return None
    state, parent, group, session = fields[:4]
    # A process whose main thread has ended while other threads run looks like a zombie, too.
    is_alive = state not in (b"Z", b"X") or int(fields[17]) > 1
    return Process(pid, int(fields[19]), is_alive, int(parent), int(group), int(session))


def start_of(pid: int) -> int:
    """Return the start time of a process, see `Process`; 0 if it is unknown."""
    process = read(pid)
    return 0 if process is None else process.start


def age_of(pid: int) -> float:
    """Return how many seconds ago a process was started, 0 if that is unknown."""
    process = read(pid)
    return 0.0 if process is None else max(0.0, _ticks() - process.start) / _TICKS


def leads_group(pid: int) -> bool:
    """Return whether a process leads a process group."""
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def children_of(pid: int) -> Iterator[int]:
    """Yield the children of a process, including adopted ones and zombies."""
    with contextlib.suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  # faster than `Path`; there may be thousands
            yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def send(process: Process, signum: int) -> None:
    """Send a signal to a process, but not to another process that has reused its id."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            handle = os.pidfd_open(process.pid)  # refers to the process even if its id is reused
        except (AttributeError, OSError):  # an older system, or no free descriptor
            if start_of(process.pid) == process.start:
                os.kill(process.pid, signum)
            return
        try:
            if start_of(process.pid) == process.start:
                signal.pidfd_send_signal(handle, signum)
        finally:
            os.close(handle)


class ProcessTree:
    """Children and all their descendants, whatever process group or session these have moved to.

    A process belongs to the tree if it is in the process group or session of a child, if its parent belongs to the
    tree, or if it has one of the marks.

    :param roots: the children
    :param marks: the marks that only processes of this tree have
    :param subreaper: the process that adopts all orphans of the tree, None if there is none
    :param since: the earliest start time that a process of the tree can have, see `Process`; by default that of the
        oldest child
    """

    def __init__(
        self, roots: Iterable[Root], marks: Iterable[Mark] = (), subreaper: int | None = None, since: int | None = None
    ) -> None:
        self._roots = list(roots)
        self._marks = list(marks)
        self._subreaper = subreaper
        self._since = min((root.start for root in self._roots), default=0) if since is None else since
        self._leaders: dict[int, Process | None] = {}
        self._known: dict[tuple[int, int], Process] = {}  # the members alive at the last check, by pid and start
        self._others: set[tuple[int, int]] = set()  # processes without a mark, by pid and start
        self._terminated: set[tuple[int, int]] = set()  # members that were sent SIGTERM
        self._terminated_at: float | None = None  # clock ticks since boot
        self._is_killed = False
        self._next_scan = 0.0

    def is_alive(self) -> bool:
        """Return whether any member is alive. A True may be out of date until the next scan of all processes."""
        if not HAS_PROC:
            # A root that is gone is removed for good: its id may be reused.
            self._roots = [root for root in self._roots if _exists(root)]
            return bool(self._roots)
        self._known = {key: process for key, process in self._known.items() if _is_alive(process)}
        if not self._known and time.monotonic() < self._next_scan:
            return True
        if not self._known:
            self._scan()
        # One empty scan proves little: a member may fork and end after the scan lists it and before it is read.
        for _ in range(_MISSES):
            if not self._known:
                self._scan_below_subreaper() if self._subreaper is not None else self._scan()
        return bool(self._known)

    def terminate(self) -> None:
        """Send SIGTERM to the members, once each.

        Processes started after the first call are spared: a child may need them to clean up.
        """
        if self._terminated_at is None:
            self._terminated_at = _ticks()
            self._send_to_groups(signal.SIGTERM)
            # A stopped process only reacts to this signal and to SIGKILL.
            self._send_to_groups(signal.SIGCONT)
        for key, process in self._known.items():
            if key not in self._terminated and (process.start < self._terminated_at or self._is_in_group(process)):
                self._terminated.add(key)
                if not self._is_in_group(process):
                    send(process, signal.SIGTERM)
                    send(process, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the members. From now on, members that are found later are killed immediately."""
        self._is_killed = True
        self._send_to_groups(signal.SIGKILL)
        for process in list(self._known.values()):
            send(process, signal.SIGKILL)
        # A member that keeps forking and ending is easily missed by one scan, but not by several in a row.
        misses = 0
        for _ in range(_ROUNDS):
            misses = 0 if self._scan_below_subreaper() else misses + 1
            if misses == _MISSES:
                break
        if self._known and time.monotonic() >= self._next_scan:
            self._scan()

    def _scan(self) -> None:
        """Search all processes for members that are alive."""
        began = time.monotonic()
        self._read_leaders()
        rest: dict[int, list[Process]] = {}  # by the parent
        for process in _all():
            if process.is_alive and process.start >= self._since:
                if self._belongs(process):
                    self._note(process)
                else:
                    rest.setdefault(process.parent, []).append(process)
        members = list(self._known.values())
        for process in members:
            for child in rest.pop(process.pid, []):
                self._note(child)
                members.append(child)
        ended = time.monotonic()
        self._next_scan = ended + min(_LONGEST_PAUSE, 2 * (ended - began))

    def _scan_below_subreaper(self) -> bool:
        """Search the descendants of the subreaper and return whether there are members.

        This is fast, and normally all members are there.
        """
        self._read_leaders()
        parents = [] if self._subreaper is None else [self._subreaper]
        found = False
        for parent in parents:
            # The newest child, which may be gone soon, is listed last.
            for process in filter(None, map(read, reversed(list(children_of(parent))))):
                if not process.is_alive or process.start < self._since:
                    continue
                if parent != self._subreaper or self._belongs(process):
                    self._note(process)
                    parents.append(process.pid)
                    found = True
        return found

    def _note(self, process: Process) -> None:
        self._known[process[:2]] = process
        if self._is_killed:
            send(process, signal.SIGKILL)  # immediately, before it forks and ends

    def _read_leaders(self) -> None:
        self._leaders = {root.pid: read(root.pid) for root in self._roots}

    def _belongs(self, process: Process) -> bool:
        """Return whether a process is a member by itself. If not, it is one if its parent is."""
        key = process[:2]
        if key in self._known:
            return True
        if process.pid == os.getpid():
            return False
        if any(self._is_root_or_shares_group(process, root) for root in self._roots):
            return True
        if key not in self._others:
            if any(mark.is_on(process.pid) for mark in self._marks):
                return True
            # The environment is empty while a process starts a program.
            if all(mark.limits for mark in self._marks) or _read(f"/proc/{process.pid}/environ"):
                self._others.add(key)
        return False

    def _is_root_or_shares_group(self, process: Process, root: Root) -> bool:
        """Return whether a process is the root itself, or in its process group or session."""
        if process[:2] == root[:2]:
            return True
        if not root.leads_group or root.pid not in (process.group, process.session):
            return False
        leader = self._leaders.get(root.pid)
        if leader is not None:
            return leader.start == root.start  # otherwise its id was reused
        # The leader has ended. Its id may have been reused by another leader that has ended, too: only a process
        # below the subreaper is certainly a member.
        return self._subreaper is not None and self._is_below_subreaper(process)

    def _is_below_subreaper(self, process: Process | None) -> bool:
        while process is not None and process.pid != self._subreaper:
            process = read(process.parent)
        return process is not None

    def _is_in_group(self, process: Process) -> bool:
        return any(root.leads_group and root.pid == process.group for root in self._roots)

    def _send_to_groups(self, signum: int) -> None:
        """Send a signal to the process groups of the roots. This also reaches processes that are just being forked."""
        # A group with a known member belongs to the root: the id of a group is not reused while it has members.
        pids = [process.pid for process in self._known.values()]
        groups = {process.group for process in map(read, pids) if process and process[:2] in self._known}
        for root in self._roots:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if root.leads_group and (root.pid in groups or not HAS_PROC):
                    os.killpg(root.pid, signum)
                elif not HAS_PROC:
                    os.kill(root.pid, signum)


def become_subreaper() -> bool:
    """Make this process adopt its descendants when their parents end. Return False if the system can't do that."""
    if not HAS_PROC:
        return False
    import ctypes  # noqa: PLC0415  # the supervisor does not need it and starts faster without

    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def reap_adopted(mark: Mark, sessions: Collection[int], is_own: Callable[[int], bool]) -> None:
    """Reap the zombies that this process has adopted because their parents ended.

    Processes that this process started itself are left to the code that waits for them. Those started by other code
    are in a session of this process or lead a session, and have no mark. Those with a mark are known to `is_own`.

    :param mark: the mark that matches all children
    :param sessions: the sessions that this process has been in
    :param is_own: returns whether the process with this id, a zombie with a mark, was started by this process
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
    """Set the resource limit of a mark, if it has one. A child calls this before it runs its program."""
    if mark.limits:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; the environment is a mark, too
            resource.setrlimit(resource.RLIMIT_RTTIME, (mark.limits[0], resource.RLIM_INFINITY))


def _is_limit_free() -> bool:
    """Return whether the limit can be used as a mark: neither the user nor a pilot above this one has set it."""
    if not HAS_PROC:
        return False
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    return resource.getrlimit(resource.RLIMIT_RTTIME) == none and _limit_of(os.getpid()) is not None


def _limit_of(pid: int) -> int | None:
    """Return the limit that may mark a process, -1 if it is unlimited, None if it can't be read."""
    columns = _read(f"/proc/{pid}/limits").partition(b"Max realtime timeout")[2].split(None, 1)
    if not columns:
        return None
    return int(columns[0]) if columns[0].isdigit() else -1


def _read(path: str) -> bytes:
    """Return the content of a file in /proc; empty if the process is gone or belongs to another user."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # faster than `Path`; there may be thousands
            return file.read()
    except OSError:
        return b""


def _all() -> Iterator[Process]:
    """Yield all processes, the newest first, because they may be gone soon."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    newest = int((_read("/proc/loadavg").split() or [b"0"])[-1])  # ids count up, and start again at the bottom
    for pid in sorted(pids, key=lambda pid: (pid > newest, -pid)):
        process = read(pid)
        if process is not None:
            yield process


def _is_alive(process: Process) -> bool:
    now = read(process.pid)
    return now is not None and now.is_alive and now.start == process.start


def _exists(root: Root) -> bool:
    """Return whether a root, or a process in its group, exists. For systems without /proc."""
    try:
        (os.killpg if root.leads_group else os.kill)(root.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _ticks() -> float:
    """Return the current time in clock ticks since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS if HAS_PROC else 0.0
