"""Processes, as /proc shows them."""

from __future__ import annotations

import os
from pathlib import Path


def read_proc(pid: int, name: str) -> bytes:
    """Return the content of a file in a process's folder in /proc; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def is_zombie(pid: int) -> bool:
    """Return whether a process has ended and was not waited for."""
    return read_proc(pid, "stat").rpartition(b") ")[2][:1] in (b"Z", b"X")


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return int(read_proc(pid, "stat").rpartition(b") ")[2].split()[1])


def children_of(pid: int) -> list[int]:
    """Return the children of a process that has one thread, the oldest first."""
    return [int(child) for child in read_proc(pid, f"task/{pid}/children").split()]


def pids_with(text: bytes) -> list[int]:
    """Return the living processes that have a text in their environment, except this one."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and text in read_proc(pid, "environ") and not is_zombie(pid)]


def is_supervisor(pid: int) -> bool:
    """Return whether a process is a supervisor, or the fork server of supervisors."""
    return read_proc(pid, "cmdline").rstrip(b"\0").endswith(b"/forkserver.py")
