"""The machine itself, for a process outside a batch system, and for what a batch system does not say."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..processes.control_groups import GROUPS, ROOT, memory_groups
from .base import BatchSystem

_MEGABYTE = 1 << 20


class Machine(BatchSystem):
    """What this process may use of its machine. The environment is ignored."""

    def cores(self, environment: Mapping[str, str]) -> int | None:
        """Return the number of processors that this process may use, or those of the machine."""
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count()

    def memory(self, environment: Mapping[str, str]) -> float:
        """Return the least of the limits of the control groups and the memory of the machine."""
        return min([*control_group_limits(), _physical_memory()])

    def gpus(self, environment: Mapping[str, str]) -> int | None:
        """Return how many of NVIDIA's GPUs the machine has."""
        return sum(bool(re.fullmatch("nvidia[0-9]+", path.name)) for path in Path("/dev").glob("nvidia*"))


def _physical_memory() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _MEGABYTE
    except (ValueError, OSError, AttributeError):  # macOS has no such names
        return math.inf


def control_group_limits(groups: Path = GROUPS, root: Path = ROOT) -> Iterator[float]:
    """Yield the limits, in megabytes, of this process's control groups and of all that contain them (cgroups(7))."""
    for folders, is_unified in memory_groups(groups, root):
        for folder in folders:
            try:
                file = folder / ("memory.max" if is_unified else "memory.limit_in_bytes")
                text = file.read_text(encoding="ascii").strip()
            except OSError:
                text = ""  # a container may see paths that exist only outside it
            if text.isdecimal():  # else it is "max"
                yield int(text) / _MEGABYTE
