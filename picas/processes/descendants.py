"""Find the descendants of processes, whatever they do to escape, and send them signals.

On Linux they are found in /proc. On other systems only process groups are known. This module imports nothing from the
package, so that the supervisor can load it without the package.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # a supervisor is smaller and starts faster without these
    from collections.abc import Iterable, Iterator
    from typing import Callable

HAS_PROC = sys.platform.startswith("linux") and os.path.realpath("/proc/self") == f"/proc/{os.getpid()}"
"""Whether processes can be looked up. They can on Linux, unless /proc is missing or that of another container."""

_HAS_LISTS = os.access("/proc/thread-self/children", os.R_OK)  # not every kernel has them
_PR_SET_CHILD_SUBREAPER = 36  # from <linux/prctl.h>

_LONGEST_PAUSE = 0.2  # seconds at most between two scans of all processes; a large machine has thousands
_ROUNDS = 50  # searches below a process in one call of `kill`
_MISSES = 5  # searches in a row that must find nothing before a family counts as gone
_TICKS = os.sysconf("SC_CLK_TCK")  # clock ticks per second


class Process:
    """A process at the moment when it was read.

    :param pid: its id, which is reused
    :param start: its start time, in clock ticks since boot; the pair of pid and start time is not reused
    :param is_alive: whether it runs; a zombie does not
    """

    __slots__ = ("group", "is_alive", "key", "parent", "pid", "session", "start")

    def __init__(self, pid: int, start: int, is_alive: bool, parent: int, group: int, session: int) -> None:
        self.pid = pid
        self.start = start
        self.is_alive = is_alive
        self.parent = parent
        self.group = group
        self.session = session
        self.key = (pid, start)


class Root:
    """The root of a process tree.

    :param pid: its id
    :param start: its start time, see `Process`; 0 if that is unknown
    :param leads_group: whether it leads a process group
    """

    __slots__ = ("key", "leads_group", "pid")

    def __init__(self, pid: int, start: int, leads_group: bool) -> None:
        self.pid = pid
        self.key = (pid, start)
        self.leads_group = leads_group


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


def group_exists(group: int) -> bool:
    """Return whether a process group has members."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # none that can be ended; on macOS this means zombies
        return False
    return True


def children_of(pid: int) -> list[int]:
    """Return the children of a process, including adopted ones and zombies, the oldest first."""
    children: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  # faster than `Path`; there may be thousands
    except OSError:  # it has ended
        return children
    for thread in threads:
        children += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return children


def become_subreaper() -> bool:
    """Make this process adopt its descendants when their parents end. Return False if the system can't do that."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def send(process: Process, signum: int) -> None:
    """Send a signal to a process, but not to another process that has reused its id."""
    try:
        handle = os.pidfd_open(process.pid)  # refers to the process even if its id is reused
    except (AttributeError, OSError):  # an older system, no free descriptor, or the process is gone
        if start_of(process.pid) == process.start:
            _quietly(os.kill, process.pid, signum)
        return
    try:
        if start_of(process.pid) == process.start:
            _quietly(signal.pidfd_send_signal, handle, signum)
    finally:
        os.close(handle)


class ProcessTree:
    """Processes that are ended together. Subclasses find them."""

    def __init__(self) -> None:
        self._terminated: set[tuple[int, int]] = set()  # members that were sent SIGTERM, by pid and start
        self._terminated_at: float | None = None  # clock ticks since boot

    def members(self) -> list[Process]:
        """Return the members that are alive; none on a system where they can't be looked up."""
        raise NotImplementedError("members is not implemented")

    def groups(self, members: Iterable[Process]) -> list[int]:
        """Return the process groups that belong to the tree and have members."""
        raise NotImplementedError("groups is not implemented")

    def terminate(self) -> None:
        """Send SIGTERM to the members, once each.

        Processes started after the first call are spared: a member may need them to clean up.
        """
        members = self.members()
        groups = self.groups(members)
        if self._terminated_at is None:
            self._terminated_at = _ticks()
            # This also reaches processes that are just being forked. A stopped process reacts to SIGCONT and SIGKILL.
            _send_to_groups(groups, signal.SIGTERM, signal.SIGCONT)
        for process in members:
            if process.key not in self._terminated and process.start < self._terminated_at:
                self._terminated.add(process.key)
                if process.group not in groups:
                    send(process, signal.SIGTERM)
                    send(process, signal.SIGCONT)

    def kill(self) -> bool:
        """Send SIGKILL to the members, and return whether there are any."""
        members = self.members()
        _send_to_groups(self.groups(members), signal.SIGKILL)
        for process in members:
            send(process, signal.SIGKILL)
        return bool(members)


class Descendants(ProcessTree):
    """All that is below a process that adopts orphans.

    :param pid: the process
    :param group: the process group that a child of it leads, 0 for none
    """

    def __init__(self, pid: int, group: int) -> None:
        super().__init__()
        self._pid = pid
        self._group = group

    def members(self) -> list[Process]:
        """See `ProcessTree.members`."""
        if not HAS_PROC:
            return []
        below = {} if _HAS_LISTS else _children_by_parent()
        found: list[Process] = []
        parents = [self._pid]
        for parent in parents:
            pids = children_of(parent) if _HAS_LISTS else below.get(parent, [])
            # The newest child, which may be gone soon, is listed last.
            for pid in reversed(pids):
                process = read(pid)
                if process is None and parent == self._pid:  # it is hidden; its id is not reused before it is reaped
                    process = Process(pid, 0, True, parent, -1, -1)
                if process is not None:
                    parents.append(pid)
                    if process.is_alive:
                        found.append(process)
        return found

    def kill(self) -> bool:
        """See `ProcessTree.kill`."""
        # A member that keeps forking and ending is easily missed by one search, but not by many in a row.
        found = False
        for _ in range(_ROUNDS):
            if not super().kill():
                break
            found = True
        return found

    def groups(self, members: Iterable[Process]) -> list[int]:
        """See `ProcessTree.groups`."""
        if not self._group:
            return []
        if not HAS_PROC:
            return [self._group] if group_exists(self._group) else []
        # The id of a group is not reused while it has members.
        return [self._group] if any(process.group == self._group for process in members) else []


class Family(ProcessTree):
    """Child processes, and their descendants whose parents are alive or which are in a child's group or session.

    :param roots: the children; those that lead a group have not been waited for yet
    """

    def __init__(self, roots: Iterable[Root]) -> None:
        super().__init__()
        self._roots = list(roots)
        self._known: list[Process] = []  # the members at the last search that are alive
        self._next_search = 0.0

    def is_alive(self) -> bool:
        """Return whether any member is alive. A True may be out of date until the next search."""
        if not HAS_PROC:
            # A root that is gone is removed for good: its id may be reused.
            self._roots = [root for root in self._roots if _exists(root)]
            return bool(self._roots)
        if not self._roots:
            return False
        self._known = [process for process in self._known if _is_alive(process)]
        if self._known or time.monotonic() < self._next_search:
            return True
        # One empty search proves little: a member may fork and end after it is listed and before it is read.
        if not any(self._search() for _ in range(_MISSES)):
            self._roots = []  # from now on their ids may be reused
        return bool(self._roots)

    def members(self) -> list[Process]:
        """See `ProcessTree.members`."""
        if HAS_PROC and time.monotonic() >= self._next_search:
            self._search()
        return list(self._known)

    def _search(self) -> bool:
        """Search all processes for members, and return whether there are any."""
        began = time.monotonic()
        found: list[Process] = []
        rest: dict[int, list[Process]] = {}  # by the parent
        for process in _all():
            if process.is_alive:
                if self._belongs(process):
                    found.append(process)
                else:
                    rest.setdefault(process.parent, []).append(process)
        for process in found:
            found += rest.pop(process.pid, [])
        ended = time.monotonic()
        self._known = found
        self._next_search = ended + min(_LONGEST_PAUSE, 2 * (ended - began))
        return bool(found)

    def groups(self, members: Iterable[Process]) -> list[int]:
        """See `ProcessTree.groups`."""
        in_use = {process.group for process in members}
        return [root.pid for root in self._roots if root.leads_group and (root.pid in in_use or not HAS_PROC)]

    def terminate(self) -> None:
        """See `ProcessTree.terminate`."""
        super().terminate()
        self._send_without_proc(signal.SIGTERM)

    def kill(self) -> bool:
        """See `ProcessTree.kill`."""
        has_members = super().kill()
        self._send_without_proc(signal.SIGKILL)
        return has_members

    def _belongs(self, process: Process) -> bool:
        """Return whether a process is a root, or in its process group or session."""
        if process.pid == os.getpid():
            return False
        return any(
            process.key == root.key or (root.leads_group and root.pid in (process.group, process.session))
            for root in self._roots
        )

    def _send_without_proc(self, signum: int) -> None:
        for root in self._roots:
            if not HAS_PROC and not root.leads_group:
                _quietly(os.kill, root.pid, signum)


def _send_to_groups(groups: Iterable[int], *signals: int) -> None:
    for group in groups:
        for signum in signals:
            _quietly(os.killpg, group, signum)


def _quietly(send: Callable[[int, int], None], target: int, signum: int) -> None:
    """Send a signal to what may have ended, or belong to another user."""
    try:  # noqa: SIM105  # a supervisor starts faster without contextlib
        send(target, signum)
    except (ProcessLookupError, PermissionError):
        pass


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


def _children_by_parent() -> dict[int, list[int]]:
    """Return the children of each process, the oldest first."""
    children: dict[int, list[int]] = {}
    for process in _all():
        children.setdefault(process.parent, []).insert(0, process.pid)
    return children


def _is_alive(process: Process) -> bool:
    now = read(process.pid)
    return now is not None and now.is_alive and now.start == process.start


def _exists(root: Root) -> bool:
    """Return whether a root, or a process in its group, exists. For systems without /proc."""
    if root.leads_group:
        return group_exists(root.pid)
    try:
        os.kill(root.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _ticks() -> float:
    """Return the current time in clock ticks since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS if HAS_PROC else 0.0
