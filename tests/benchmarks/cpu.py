"""Processor time of server processes, from /proc (Linux)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that some processes, their threads and their children have used so far, in seconds.

    CouchDB computes views in child processes. One that has ended counts through the parent that waited for it.
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
    """Return for each process its clock ticks, with those of ended children, and the processes that it has started."""
    times: dict[int, int] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended
        fields = text.rpartition(")")[2].split()  # the name before may hold anything
        pid = int(folder.name)
        times[pid] = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        children[int(fields[1])].append(pid)
    return times, children
