"""What the autopilot needs of a batch system. For another one than Slurm, subclass `Scheduler` with its methods `jobs`
and `submit`."""

from __future__ import annotations

from .batch import Granted, JobKind, Jobs, LimitReached, Scheduler, SchedulerError, Slurm, Submitted

__all__ = ["Granted", "JobKind", "Jobs", "LimitReached", "Scheduler", "SchedulerError", "Slurm", "Submitted"]
