"""Batch systems: what each tells a job, and how jobs are submitted to it.

Each system has its own file with a subclass of `base.BatchSystem`; `machine` stands for no batch system. `layers` lists
the systems and combines their answers. `grants` puts the user's settings before them. To add a system, add a file, a
line in `layers.SYSTEMS`, and a recorded environment in tests/batch/test_systems.py.
"""

from .base import BatchSystem, Granted, JobKind, Jobs, LimitReached, Scheduler, SchedulerError, Submitted
from .grants import WALLTIME_VARIABLE, deadline, gpu_environment, gpu_names, resources
from .layers import JOB_ID_FIELDS, find_job_id, granted_cores, job_end
from .slurm import Slurm

__all__ = [
    "JOB_ID_FIELDS",
    "WALLTIME_VARIABLE",
    "BatchSystem",
    "Granted",
    "JobKind",
    "Jobs",
    "LimitReached",
    "Scheduler",
    "SchedulerError",
    "Slurm",
    "Submitted",
    "deadline",
    "find_job_id",
    "gpu_environment",
    "gpu_names",
    "granted_cores",
    "job_end",
    "resources",
]
