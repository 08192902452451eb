"""What the autopilot needs of a batch system. For another one than Slurm, subclass `Scheduler` with its methods `jobs`
and `submit`."""

from __future__ import annotations

from .batch import Granted, Jobs, JobTemplate, LimitReached, Scheduler, SchedulerError, Slurm, Submitted

__all__ = ["Granted", "JobTemplate", "Jobs", "LimitReached", "Scheduler", "SchedulerError", "Slurm", "Submitted"]
