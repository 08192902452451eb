"""How many processors a pilot was granted."""

import os

import pytest

from picas import resources
from picas.resources import granted_cores

SLURM = {"SLURM_JOB_ID": "7"}
PBS = {"PBS_JOBID": "7.server"}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A process that may use 5 processors of a machine with 64."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({"DIRAC_JOB_PROCESSORS": "8"}, 8),
        ({**SLURM, "SLURM_CPUS_PER_TASK": "4"}, 4),
        ({**SLURM, "SLURM_CPUS_ON_NODE": "16"}, 16),
        ({**PBS, "NCPUS": "12"}, 12),
        ({**PBS, "PBS_NUM_PPN": "6"}, 6),
        ({**SLURM, "SLURM_CPUS_PER_TASK": " 4\n"}, 4),
    ],
    ids=str,
)
def test_each_batch_system_says_it_in_its_own_variable(environment, cores):
    assert granted_cores(environment) == cores


def test_what_was_asked_for_a_task_counts_more_than_what_the_node_has_given_the_job():
    assert granted_cores({**SLURM, "SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "16"}) == 4


def test_of_layered_batch_systems_the_highest_counts():
    """DIRAC starts its jobs through Slurm, several in one of Slurm's."""
    assert granted_cores({"DIRAC_JOB_PROCESSORS": "2", **SLURM, "SLURM_CPUS_PER_TASK": "16"}) == 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_CPUS_PER_TASK": "4"},  # of an interactive shell's settings: this is no job
        {"NCPUS": "12"},
        {"PBS_NUM_PPN": "6"},
        {"SLURM_JOB_ID": "", "SLURM_CPUS_PER_TASK": "4"},
    ],
    ids=str,
)
def test_outside_a_job_it_is_what_this_process_may_use(environment):
    assert granted_cores(environment) == 5


@pytest.mark.parametrize("value", ["", "0", "-2", "4(x2)", "1.5", "many", "²", "0x4"])
def test_a_value_that_makes_no_sense_is_passed_over(value):
    assert granted_cores({**SLURM, "SLURM_CPUS_PER_TASK": value}) == 5
    assert granted_cores({**SLURM, "SLURM_CPUS_PER_TASK": value, "SLURM_CPUS_ON_NODE": "3"}) == 3


def test_without_affinities_all_of_the_machine_counts(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert granted_cores({}) == 64


def test_there_is_always_one(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert granted_cores({}) == 1


def test_by_default_it_is_this_process_s_own_environment(monkeypatch):
    for job, name in resources.CORE_VARIABLES:
        monkeypatch.delenv(job, raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIRAC_JOB_PROCESSORS", "3")
    assert granted_cores() == 3
