"""The list of batch systems, and what they say together about the job that runs this process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from .base import CUDA_VISIBLE_DEVICES, BatchSystem, End, GPUs
from .dirac import DIRAC
from .features import MachineJobFeatures
from .glite import CREAM, GliteWMS
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

GPU_VARIABLES = (CUDA_VISIBLE_DEVICES, "ROCR_VISIBLE_DEVICES")
"""The environment variables that limit a program to some GPUs, of NVIDIA and of AMD. Batch systems set them."""


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


def granted_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processors this process was granted, at least 1: the highest layer that says so counts."""
    for system in SYSTEMS:
        cores = system.cores(environment)
        if cores is not None:
            return cores
    return 1


def granted_memory(environment: Mapping[str, str] = os.environ) -> float:
    """Return how many megabytes this process may use, infinity if unknown: the lowest limit of all layers counts."""
    return min(system.memory(environment) for system in SYSTEMS)


def granted_gpus(environment: Mapping[str, str] = os.environ) -> GPUs:
    """Return the GPUs that this process may use: those that a variable names, else those of the highest layer."""
    for variable in GPU_VARIABLES:
        if variable in environment:
            names = [name.strip() for name in environment[variable].split(",")]
            # "NoDevFiles" and "-1" stand for none.
            return GPUs(variable, [name for name in names if re.fullmatch(r"[0-9]+|GPU-\S+|MIG-\S+", name)])
    for system in SYSTEMS:
        gpus = system.gpus(environment)
        if gpus is not None:
            return gpus
    return GPUs(CUDA_VISIBLE_DEVICES, [])
