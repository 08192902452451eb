"""Batch systems: what a job knows from each, and how jobs are submitted to it.

Each system has its own file with a subclass of `base.BatchSystem`, and Slurm, of which most is known, some files more
beside it; `machine` stands for no batch system. `layers` lists the systems and combines their answers. `grants` puts
the user's settings before them. To add a system, add a file, a line in `layers.SYSTEMS`, and a recorded environment in
tests/batch/test_systems.py.
"""

from .base import BatchSystem, Granted, Jobs, JobTemplate, LimitReached, Scheduler, SchedulerError, Submitted
from .grants import (
    MARGIN,
    WALLTIME_VARIABLE,
    GPUEnvironment,
    Grace,
    deadline,
    granted_grace,
    hides_gpus,
    length_of_job,
    resources,
)
from .layers import JOB_ID_FIELDS, find_job_id, granted_cores, job_end, kill_wait
from .slurm import Slurm
from .slurm_controller import pause_before_asking

__all__ = [
    "JOB_ID_FIELDS",
    "MARGIN",
    "WALLTIME_VARIABLE",
    "BatchSystem",
    "GPUEnvironment",
    "Grace",
    "Granted",
    "JobTemplate",
    "Jobs",
    "LimitReached",
    "Scheduler",
    "SchedulerError",
    "Slurm",
    "Submitted",
    "deadline",
    "find_job_id",
    "granted_cores",
    "granted_grace",
    "hides_gpus",
    "job_end",
    "kill_wait",
    "length_of_job",
    "pause_before_asking",
    "resources",
]
