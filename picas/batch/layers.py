"""The list of batch systems, and what they say together about the job that runs this process."""

from __future__ import annotations

import os
from collections.abc import Mapping

from .base import WHOLE, BatchSystem, End, KillWait, Share
from .dirac import DIRAC
from .features import MachineJobFeatures
from .glite import CREAM, GliteWMS
from .gpus import GPUs, visible_gpus
from .htcondor import HTCondor
from .lsf import LSF
from .machine import Machine
from .pbs import PBS
from .sge import SGE
from .slurm import Slurm

SYSTEMS: tuple[BatchSystem, ...] = (
    DIRAC(),
    GliteWMS(),
    CREAM(),
    PBS(),
    Slurm(),
    HTCondor(),
    LSF(),
    SGE(),
    MachineJobFeatures(),
    Machine(),
)
"""All batch systems, the highest layer first: DIRAC starts its jobs through the batch system of a site. A new system
needs a line here."""

_WITH_JOB_ID = tuple(system for system in SYSTEMS if system.job_id_field)

JOB_ID_FIELDS = tuple(system.job_id_field for system in _WITH_JOB_ID)
"""The fields of a token that hold a job id."""


def find_job_id(environment: Mapping[str, str]) -> tuple[str, str | None] | None:
    """Return the token's field and the job id of the highest layer, None outside a job.

    The job id itself is None in a job whose id is unusable.
    """
    for system in _WITH_JOB_ID:
        job_id = system.job_id(environment)
        if job_id is not None:
            return system.job_id_field, job_id or None
    return None


def job_end(environment: Mapping[str, str] = os.environ) -> End:
    """Return when the job of this process must end: the earliest end counts, as each layer ends the jobs it started."""
    return min(system.end(environment) for system in SYSTEMS)


def kill_wait(environment: Mapping[str, str] = os.environ) -> KillWait:
    """Return how soon after SIGTERM this process is killed if its job is cancelled: the earliest of all layers."""
    return min(system.kill_wait(environment) for system in SYSTEMS)


def job_share(environment: Mapping[str, str] = os.environ) -> Share:
    """Return the share of this process in what its job was granted on this node."""
    shares = (system.share(environment) for system in SYSTEMS)
    return next((share for share in shares if share.count > 1), WHOLE)


def granted_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processors this process was granted, at least 1: the highest layer that says so counts."""
    for system in SYSTEMS:
        cores = system.cores(environment)
        if cores is not None:
            return cores
    return 1


def granted_memory(environment: Mapping[str, str] = os.environ) -> float:
    """Return how many megabytes this process may use, infinity if unknown: its share of the lowest limit of all layers.

    The limits are those of all the processes that share the node; a machine knows nothing of the others.
    """
    return min(system.memory(environment) for system in SYSTEMS) / job_share(environment).count


def granted_gpus(environment: Mapping[str, str] = os.environ) -> GPUs:
    """Return the GPUs that this process may use: those that variables name, else those of the highest layer.

    Of these it gets its share, unless it sees fewer than its job has on the node: then they have been shared already.
    """
    visible = visible_gpus(environment)
    counts = (system.gpus(environment) for system in SYSTEMS)
    count = next((count for count in counts if count is not None), 0)
    if visible is not None and visible.count < count:
        return visible
    return (GPUs.numbered(count) if visible is None else visible).part(job_share(environment))
