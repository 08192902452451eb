"""Reads the CPU time of server processes from /proc (Linux)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time in seconds that processes, their threads and their children have used so far.

    CouchDB computes views in child processes. A child that has ended is counted by the parent that waited for it.
    """
    times, children = _read_processes()
    waiting = list(pids)
    seen: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            waiting += children[pid]
    return sum(times.get(pid, 0) for pid in seen) / os.sysconf("SC_CLK_TCK")


def _read_processes() -> tuple[dict[int, int], dict[int, list[int]]]:
    """Return the clock ticks of each process, including its ended children, and the children of each process."""
    times: dict[int, int] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended
        fields = text.rpartition(")")[2].split()  # the name before may contain anything
        pid = int(folder.name)
        times[pid] = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        children[int(fields[1])].append(pid)
    return times, children
