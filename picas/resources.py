"""What a pilot may use, as the batch system or the machine tells."""

from __future__ import annotations

import os
from collections.abc import Mapping

CORE_VARIABLES = (
    ("DIRAC_JOB_PROCESSORS", "DIRAC_JOB_PROCESSORS"),
    ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"),  # only set if it was asked for
    ("SLURM_JOB_ID", "SLURM_CPUS_ON_NODE"),
    ("PBS_JOBID", "NCPUS"),  # PBS Pro and OpenPBS
    ("PBS_JOBID", "PBS_NUM_PPN"),  # Torque
)
"""How batch systems say how many processors of its node a job was granted: the variable that tells that this is such a
job, and the one with the number. Batch systems are layered (DIRAC starts jobs through Slurm): the highest comes first.
"""


def granted_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processors this process was granted; without a batch system those that it may use, at least 1."""
    for job, name in CORE_VARIABLES:
        value = environment.get(name, "").strip()
        if environment.get(job) and value.isdecimal() and int(value) > 0:
            return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
