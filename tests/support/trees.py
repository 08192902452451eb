"""A command with descendants, some of which ignore SIGTERM."""

from __future__ import annotations

from pathlib import Path

TREE = """
trap '' TERM
sleep 60 & echo $! > grandchild
sh -c 'trap "" TERM; echo $$ > stubborn; while true; do sleep 1; done' &
while [ ! -s stubborn ]; do sleep 0.01; done
echo $$ > child
wait; wait; wait
"""
"""A shell script that ignores SIGTERM, with one child that ends on SIGTERM and one that ignores it."""


def pids(folder: Path) -> dict[str, int]:
    """Return the process ids that the script has written to files."""
    return {name: int((folder / name).read_text()) for name in ("child", "grandchild", "stubborn")}
