"""The control groups for the memory of this process (cgroups(7)), and what the kernel has killed in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")
SAME_EVENT = 1.0
"""Seconds: programs that are killed so soon after each other may have been killed for the same want of memory."""


def memory_groups(groups: Path = GROUPS, root: Path = ROOT) -> Iterator[tuple[list[Path], bool]]:
    """Yield the folders of a control group and of all that contain it, nearest first; and whether it is of version 2.

    A process can have a group of each version. Folders that a container sees only from outside do not exist in it.

    :param groups: the file that names the groups of the process
    :param root: where the groups of all controllers are mounted
    """
    try:
        lines = groups.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        is_unified = controllers == ""
        if not is_unified and "memory" not in controllers.split(","):
            continue
        top = root if is_unified else root / "memory"
        folder = top / place.lstrip("/")
        yield [each for each in (folder, *folder.parents) if each == top or top in each.parents], is_unified


class OutOfMemoryKills:
    """Notices when the kernel kills a process of this control group because there is no memory left.

    :param groups: see `memory_groups`
    :param root: see `memory_groups`
    """

    def __init__(self, groups: Path = GROUPS, root: Path = ROOT) -> None:
        self._files: list[Path] = []
        for folders, is_unified in memory_groups(groups, root):
            files = [folder / ("memory.events" if is_unified else "memory.oom_control") for folder in folders]
            self._files += [file for file in files if file.exists()][:1]
        self._count = self._read()
        self._risen_at = -SAME_EVENT

    def has_risen(self) -> bool:
        """Return whether the count of such kills has risen since the last call, or just before that."""
        count, now = self._read(), time.monotonic()
        if count > self._count:
            self._risen_at = now
        self._count = count
        return now - self._risen_at < SAME_EVENT

    def _read(self) -> int:
        return sum(map(_kills, self._files))


def _kills(file: Path) -> int:
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
