"""What the autopilot needs of a batch system. For another one than Slurm, subclass `Scheduler`: it has two methods."""

from __future__ import annotations

from .batch import Jobs, Scheduler, SchedulerError, Slurm

__all__ = ["Jobs", "Scheduler", "SchedulerError", "Slurm"]
