"""What is set once for all runs of an actor."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..batch import WALLTIME_VARIABLE, hides_gpus, resources
from ..config import duration
from ..couch.outages import MAX_OUTAGE
from ..exceptions import SettingsError
from ..pool import spool
from ..tokens.job_ends import MAX_JOB_ENDS
from ..tokens.resources import Resources
from ..util import check_limit, one_line
from .heartbeat import lifetimes
from .leases import MAX_LOST
from .pace import CLAIM_AHEAD

STOP_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that stop a pilot by default."""
GRACE_VARIABLE = "PICAS_GRACE"
SOFTWARE_VARIABLE = "PICAS_SOFTWARE"
MAX_SOFTWARE = 100
"""How many characters the name of the software has at most: each attempt holds it."""


@dataclass(frozen=True)
class Options:
    """The options of `Actor.__init__`, with their defaults filled in; the times are in seconds."""

    resources: Resources
    auto_close: bool
    stop_exit_code: int
    stop_signals: tuple[int, ...]
    grace: float | None
    """Seconds between SIGTERM and SIGKILL for programs; None for what the batch system leaves time for."""
    max_outage: float
    heartbeat: float
    lease: float
    claim_ahead: float
    max_lost: int
    max_job_ends: int
    spool_folder: Path | None
    walltime: float
    hides_gpus: bool
    """Whether the programs of tokens that need no GPU see none."""
    software: str
    """What the attempts name as their software, see `Actor`."""

    @classmethod
    def complete(
        cls,
        *,
        auto_close: bool = True,
        stop_exit_code: int = 0,
        stop_signals: Iterable[int] = STOP_SIGNALS,
        grace: float | None = None,
        max_outage: float | None = None,
        heartbeat: float | None = None,
        lease: float | None = None,
        claim_ahead: float | None = None,
        max_lost: int = MAX_LOST,
        max_job_ends: int = MAX_JOB_ENDS,
        spool_folder: str | Path | None = None,
        walltime: float | None = None,
        cores: int | None = None,
        memory: float | str | None = None,
        gpus: int | None = None,
        tags: str | Iterable[str] | None = None,
        software: str | None = None,
    ) -> Options:
        """Return the options, those that are None from the environment or the batch system, see `Actor`.

        :raises SettingsError: if one of the times or resources is invalid, the spool folder is a file, or the name of
            the software is too long
        :raises ValueError: if one of the other numbers is invalid
        """
        check_limit(max_lost, "max_lost")
        check_limit(max_job_ends, "max_job_ends", least=1)
        if isinstance(stop_exit_code, bool) or not isinstance(stop_exit_code, int) or not 0 <= stop_exit_code <= 255:
            raise ValueError(f"stop_exit_code must be a number from 0 to 255, not {stop_exit_code!r}")
        interval, period = lifetimes(heartbeat, lease)
        return cls(
            resources=resources(cores, memory, gpus, tags),
            auto_close=auto_close,
            stop_exit_code=stop_exit_code,
            stop_signals=tuple(stop_signals),
            grace=None
            if grace is None and not os.environ.get(GRACE_VARIABLE)
            else duration(grace, GRACE_VARIABLE, 0.0),
            max_outage=duration(max_outage, "PICAS_MAX_OUTAGE", MAX_OUTAGE),
            heartbeat=interval,
            lease=period,
            claim_ahead=duration(claim_ahead, "PICAS_CLAIM_AHEAD", CLAIM_AHEAD),
            max_lost=max_lost,
            max_job_ends=max_job_ends,
            spool_folder=spool.fixed_folder(spool_folder),
            walltime=duration(walltime, WALLTIME_VARIABLE, math.inf),
            hides_gpus=hides_gpus(),
            software=_named_software(software),
        )


def _named_software(name: str | None) -> str:
    """Return what the attempts name as their software.

    :param name: None for what the environment says
    :raises SettingsError: if it is too long
    """
    line = one_line(os.environ.get(SOFTWARE_VARIABLE, "") if name is None else name)
    if len(line) > MAX_SOFTWARE:
        raise SettingsError(
            f"the name of the software ({SOFTWARE_VARIABLE}) may have {MAX_SOFTWARE} characters, not {len(line)}"
        )
    return line
