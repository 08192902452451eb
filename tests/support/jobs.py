"""Fixtures for tests of batch systems: a machine of known size, without a job of its own."""

from __future__ import annotations

import os

import pytest

from picas.batch import machine as machine_module
from picas.batch import slurm_controller
from picas.batch.gpus import VARIABLES

MEGABYTE = 1 << 20

OF_BATCH_SYSTEMS = (
    "SLURM",
    "PBS",
    "DIRAC",
    "GLITE",
    "CREAM",
    "LSB",
    "SGE",
    "_CONDOR",
    "JOBFEATURES",
    "MACHINEFEATURES",
)
SETTINGS = (*VARIABLES, "JOBID", "JOB_ID", "NCPUS")
SETTINGS += tuple(f"PICAS_{name}" for name in ("CORES", "MEMORY", "GPUS", "TAGS", "WALLTIME", "HIDE_GPUS"))


@pytest.fixture
def no_job(monkeypatch):
    """Hide the job that runs the tests, and the answers of squeue to earlier tests."""
    for name in list(os.environ):
        if name.startswith(OF_BATCH_SYSTEMS) or name in SETTINGS:
            monkeypatch.delenv(name)
    monkeypatch.setattr(slurm_controller, "_answers", {})
    monkeypatch.setattr(slurm_controller, "_kill_waits", {})


@pytest.fixture
def machine(no_job, monkeypatch):
    """A machine with 64 cores and 32 GB, of which this process may use 5 cores; no control group limits it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    pages = 32 * 1024 * MEGABYTE // 4096
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": pages}.__getitem__)
    monkeypatch.setattr(machine_module, "control_group_limits", lambda: iter(()))


@pytest.fixture
def feature(tmp_path):
    """Return a function that writes files of the machine or job features and returns the variable of their folder."""

    def feature(variable, **values):
        folder = tmp_path / variable
        folder.mkdir()
        for name, value in values.items():
            (folder / name).write_text(f"{value}\n")
        return {variable: str(folder)}

    return feature
