"""What a grid site tells a job in files with a number each: the machine and job features (HSF-TN-2016-02)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

JOB = "JOBFEATURES"
MACHINE = "MACHINEFEATURES"
"""The environment variables that name the folders."""


def feature(environment: Mapping[str, str], folder: str, name: str) -> float | None:
    """Return a number above or equal to 0 that the site tells, None if it does not.

    :param folder: `JOB` or `MACHINE`
    """
    if not environment.get(folder):
        return None
    try:
        text = (Path(environment[folder]) / name).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return float(text) if text.strip().isdecimal() else None
