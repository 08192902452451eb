"""What a pilot may use, and for how long: what the user says, else what the layers of batch systems say."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..exceptions import SettingsError
from ..tokens.resources import Resources, megabytes
from .base import End
from .gpus import HIDDEN, VARIABLES, GPUs, visible_gpus
from .layers import granted_cores, granted_gpus, granted_memory, job_end, kill_wait

WALLTIME_VARIABLE = "PICAS_WALLTIME"
"""The environment variable with the seconds that a pilot has, for batch systems that do not say."""

MARGIN = 120.0
"""Seconds before the end of a job in which no token is at work any more: time to save results, and for a batch system
that sends its warning early. Slurm may send it a minute earlier than it was asked to (sbatch(1), --signal)."""
MARGIN_SHARE = 0.1
"""The margin is at most this share of the time from the start of a run to the end of its job."""

GRACE = 15.0
"""The most seconds between SIGTERM and SIGKILL for the programs of a pilot, unless the user says otherwise."""
SAVING = 10.0
"""Of the seconds after which the batch system kills a pilot that it has sent SIGTERM, so many are kept to put tokens
back, also if the user says otherwise..."""
SAVING_SHARE = 0.5
"""... but at most this share of them."""

HIDE_GPUS_VARIABLE = "PICAS_HIDE_GPUS"


def deadline(walltime: float = math.inf, started: float | None = None) -> tuple[float, str]:
    """Return the time until which a pilot may have tokens at work, and where that time was found.

    It is a margin before the end of the pilot's job, see `MARGIN`. The end may change: ask again now and then.

    :param walltime: seconds from the start of the run to the end of the job; infinity to ask the batch system
    :param started: when the run has started, on the clock of `time.monotonic`; now by default
    :returns: on that clock, infinity if the end is unknown
    """
    now = time.monotonic()
    started = now if started is None else started
    seconds, source = job_end() if walltime == math.inf else End(started + walltime - now, "as set by the user")
    if seconds == math.inf:
        return math.inf, ""
    end = now + seconds
    return end - min(MARGIN, MARGIN_SHARE * max(end - started, 0.0)), source


def length_of_job(seconds: float) -> float:
    """Return how long a job is, in seconds, whose pilot may have tokens at work for so many seconds, see `deadline`."""
    return min(seconds + MARGIN, seconds / (1 - MARGIN_SHARE))


class Grace(NamedTuple):
    """Seconds between SIGTERM and SIGKILL for the programs of a pilot."""

    usual: float = GRACE
    """Those that they have unless the user says otherwise."""
    limit: float = math.inf
    """The most that they can have, once the batch system has sent the pilot SIGTERM, if tokens are to be put back."""
    is_certain: bool = False
    """Whether the batch system has said so; if not, a site may leave more time, and the user knows better."""


def granted_grace() -> Grace:
    """Return how much time the batch system leaves for the end of a pilot's programs. This may ask it."""
    seconds, is_certain = kill_wait()
    limit = seconds - min(SAVING, SAVING_SHARE * seconds)
    return Grace(min(GRACE, limit), limit, is_certain)


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
        gpus=granted_gpus().count if gpus is None else gpus,
        tags=_tags(given),
    )


class GPUEnvironment:
    """The environment variables that limit the program of a token to its GPUs.

    :param count: the number of the pilot's GPUs. They are those that it was granted if these are enough, else 0, 1, ...
    :param hides: whether a program whose token needs none sees none
    """

    def __init__(self, count: int, hides: bool = True) -> None:
        granted = granted_gpus()
        self._gpus = granted if count <= granted.count else GPUs.numbered(count, granted.variables)
        # A pilot without GPUs may still see those of others.
        variables = [variable for variable in VARIABLES if variable in os.environ or variable in self._gpus.variables]
        seen = visible_gpus(os.environ)
        is_needed = count or granted.count or (seen is not None and seen.count)
        self.of_none = dict.fromkeys(variables, HIDDEN) if hides and is_needed else {}
        """The variables for a program whose token needs no GPU."""

    def of(self, numbers: Sequence[int]) -> dict[str, str]:
        """Return the variables for a program whose token has the GPUs with these numbers."""
        return self._gpus.environment(numbers) if numbers else self.of_none


def hides_gpus() -> bool:
    """Return whether tokens that need no GPU see none, as $PICAS_HIDE_GPUS says (1, the default, or 0).

    :raises SettingsError: if it says something else
    """
    value = os.environ.get(HIDE_GPUS_VARIABLE, "").strip() or "1"
    if value not in ("0", "1"):
        raise SettingsError(f"{HIDE_GPUS_VARIABLE} must be 0 or 1, not {value!r}")
    return value == "1"


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
