"""Batch systems: what each tells a job that runs in it, and how jobs are submitted to it."""

from .grants import gpu_environment, gpu_names, granted_cores, resources
from .walltimes import VARIABLE as WALLTIME_VARIABLE
from .walltimes import deadline, job_end

__all__ = [
    "WALLTIME_VARIABLE",
    "deadline",
    "gpu_environment",
    "gpu_names",
    "granted_cores",
    "job_end",
    "resources",
]
