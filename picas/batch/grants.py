"""What a pilot may use, and for how long: what the user says, else what the layers of batch systems say."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..exceptions import SettingsError
from ..tokens.resources import Resources, megabytes
from .base import End
from .layers import granted_cores, granted_gpus, granted_memory, job_end

WALLTIME_VARIABLE = "PICAS_WALLTIME"
"""The environment variable with the seconds that a pilot has, for batch systems that do not say."""

MARGIN = 120.0
"""Seconds before the end of a job in which no token is at work any more: time to save results, and for a batch system
that sends its warning early. Slurm may send it a minute earlier than it was asked to (sbatch(1), --signal)."""
MARGIN_SHARE = 0.1
"""The margin is at most this share of the time that is left when a pilot starts."""


def deadline(walltime: float = math.inf) -> tuple[float, str]:
    """Return the time until which a pilot that starts now may have tokens at work, and where that time was found.

    It is a margin before the end of the pilot's job, see `MARGIN`.

    :param walltime: seconds from now to the end of the job; infinity to ask the batch system
    :returns: on the clock of `time.monotonic`, infinity if the end is unknown
    """
    end = job_end() if walltime == math.inf else End(walltime, "as set by the user")
    if end.seconds == math.inf:
        return math.inf, ""
    margin = min(MARGIN, MARGIN_SHARE * max(end.seconds, 0.0))
    return time.monotonic() + end.seconds - margin, end.source


def resources(
    cores: int | None = None,
    memory: float | str | None = None,
    gpus: int | None = None,
    tags: str | Iterable[str] | None = None,
) -> Resources:
    """Return the resources of this pilot.

    An argument that is None is taken from the environment ($PICAS_CORES, $PICAS_MEMORY, $PICAS_GPUS, $PICAS_TAGS), else
    from the batch system or the machine. A pilot has only the tags that the user gives it.

    :param memory: megabytes of 2^20 bytes, or a text like "4G"
    :param tags: one text may hold several, separated by commas
    :raises SettingsError: if a value is invalid
    """
    given = {"cores": cores, "memory": memory, "gpus": gpus, "tags": tags}
    cores = _whole_number("cores", given, least=1)
    gpus = _whole_number("gpus", given, least=0)
    return Resources(
        cores=granted_cores() if cores is None else cores,
        memory=_memory(given),
        gpus=len(granted_gpus().names) if gpus is None else gpus,
        tags=_tags(given),
    )


def gpu_names(count: int) -> list[str]:
    """Return the names of `count` GPUs: of those that this process was granted if they are enough, else 0, 1, ..."""
    names = granted_gpus().names
    return names[:count] if len(names) >= count else [str(number) for number in range(count)]


def gpu_environment(names: Sequence[str]) -> dict[str, str]:
    """Return the environment variable that limits a program to these GPUs, none if there are no names."""
    return {granted_gpus().variable: ",".join(names)} if names else {}


def _given(name: str, given: Mapping[str, Any]) -> tuple[str, Any]:
    """Return where the user has set a resource, and its value; None if it is not set."""
    if given[name] is not None:
        return f"the argument {name}", given[name]
    variable = f"PICAS_{name.upper()}"
    return variable, os.environ.get(variable) or None


def _whole_number(name: str, given: Mapping[str, Any], least: int) -> int | None:
    where, value = _given(name, given)
    if value is None:
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
        raise SettingsError(f"{where} must be a whole number, at least {least}, not {value!r}")
    return int(text)


def _memory(given: Mapping[str, Any]) -> float:
    where, value = _given("memory", given)
    if value is None:
        return granted_memory()
    memory = megabytes(value)
    if memory is None:
        raise SettingsError(f'{where} must be a number of megabytes, or like "4G", not {value!r}')
    return memory


def _tags(given: Mapping[str, Any]) -> frozenset[str]:
    where, value = _given("tags", given)
    tags = (value or "").split(",") if isinstance(value, str) or value is None else list(value)
    if not all(isinstance(tag, str) for tag in tags):
        raise SettingsError(f"{where} must be texts, not {value!r}")
    return frozenset(tag.strip() for tag in tags if tag.strip())
