"""What several batch systems, one on top of the other, say together of one job. See also tests/unit/test_jobid.py."""

from __future__ import annotations

import math
import os
import time

import pytest

from picas.batch import machine as machine_module
from picas.batch.layers import GPU_VARIABLES, granted_cores, granted_gpus, granted_memory, job_end

SLURM = {"SLURM_JOB_ID": "7"}
PBS = {"PBS_JOBID": "7.server"}

pytestmark = pytest.mark.usefixtures("machine")


class TestCores:
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
    def test_each_batch_system_has_its_own_variable(self, environment, cores):
        assert granted_cores(environment) == cores

    def test_what_a_task_asked_for_precedes_what_the_job_has_on_the_node(self):
        assert granted_cores({**SLURM, "SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "16"}) == 4

    def test_the_highest_layer_counts(self, feature):
        """DIRAC may start several of its jobs in one of Slurm's."""
        site = feature("JOBFEATURES", allocated_cpu=32)
        assert granted_cores({"DIRAC_JOB_PROCESSORS": "2", **SLURM, "SLURM_CPUS_PER_TASK": "16", **site}) == 2
        assert granted_cores({**SLURM, "SLURM_CPUS_PER_TASK": "16", **site}) == 16
        assert granted_cores(site) == 32

    def test_slurm_that_plays_pbs_counts_as_slurm(self):
        assert granted_cores({**PBS, "NCPUS": "12", **SLURM, "SLURM_CPUS_ON_NODE": "4"}) == 4

    @pytest.mark.parametrize(
        "environment",
        [
            {},
            {"SLURM_CPUS_PER_TASK": "4"},  # an interactive shell may set it: this is not a job
            {"NCPUS": "12"},
            {"PBS_NUM_PPN": "6"},
            {"SLURM_JOB_ID": "", "SLURM_CPUS_PER_TASK": "4"},
        ],
        ids=str,
    )
    def test_outside_a_job_all_count_that_this_process_may_use(self, environment):
        assert granted_cores(environment) == 5

    @pytest.mark.parametrize("value", ["", "0", "-2", "4(x2)", "1.5", "many", "²", "0x4", "9" * 400])
    def test_an_invalid_value_is_ignored(self, value):
        assert granted_cores({**SLURM, "SLURM_CPUS_PER_TASK": value}) == 5
        assert granted_cores({**SLURM, "SLURM_CPUS_PER_TASK": value, "SLURM_CPUS_ON_NODE": "3"}) == 3

    def test_there_is_always_one(self, monkeypatch):
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert granted_cores({}) == 1

    def test_by_default_the_environment_is_that_of_this_process(self, monkeypatch):
        monkeypatch.setenv("DIRAC_JOB_PROCESSORS", "3")
        assert granted_cores() == 3


class TestMemory:
    def test_of_a_machine_all_counts(self):
        assert granted_memory({}) == 32 * 1024

    @pytest.mark.parametrize(
        ("environment", "memory"),
        [
            ({"SLURM_MEM_PER_NODE": "2000"}, 2000),
            ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "4"}, 2000),
            ({"SLURM_MEM_PER_GPU": "3000", "SLURM_GPUS_ON_NODE": "2"}, 6000),
            ({"SLURM_MEM_PER_NODE": "0"}, 32 * 1024),  # all of the node
            ({"SLURM_MEM_PER_CPU": "500"}, 32 * 1024),  # for an unknown number
            ({"SLURM_MEM_PER_NODE": "64G"}, 32 * 1024),
            ({"SLURM_MEM_PER_NODE": "64000000"}, 32 * 1024),  # more than there is
        ],
        ids=str,
    )
    def test_slurm_has_it_in_megabytes(self, environment, memory):
        assert granted_memory({**SLURM, **environment}) == memory

    def test_outside_a_job_the_variables_of_slurm_are_ignored(self):
        assert granted_memory({"SLURM_MEM_PER_NODE": "2000"}) == 32 * 1024

    def test_a_grid_site_has_it_in_bytes(self, feature):
        assert granted_memory(feature("JOBFEATURES", max_rss_bytes=2000 << 20)) == 2000

    def test_the_lowest_limit_of_all_layers_counts(self, feature, monkeypatch):
        environment = {**SLURM, "SLURM_MEM_PER_NODE": "4000", **feature("JOBFEATURES", max_rss_bytes=3000 << 20)}
        assert granted_memory(environment) == 3000
        monkeypatch.setattr(machine_module, "control_group_limits", lambda: iter([8000.0, 2000.0]))
        assert granted_memory(environment) == 2000

    def test_is_infinite_where_nothing_is_known(self, monkeypatch):
        def sysconf(name):
            raise ValueError("unrecognized configuration name")

        monkeypatch.setattr(os, "sysconf", sysconf)
        assert granted_memory({}) == math.inf


class TestGPUs:
    @pytest.mark.parametrize(
        ("value", "names"),
        [
            ("0,1", ["0", "1"]),
            ("3", ["3"]),
            ("GPU-8932f937, MIG-1234", ["GPU-8932f937", "MIG-1234"]),
            ("", []),
            ("NoDevFiles", []),
            ("-1", []),
        ],
    )
    @pytest.mark.parametrize("variable", GPU_VARIABLES)
    def test_the_variable_that_programs_read_comes_first(self, variable, value, names):
        assert granted_gpus({**SLURM, variable: value, "SLURM_GPUS_ON_NODE": "7"}) == (variable, names)

    def test_slurm_may_set_only_the_number(self):
        assert granted_gpus({**SLURM, "SLURM_GPUS_ON_NODE": "2"}) == ("CUDA_VISIBLE_DEVICES", ["0", "1"])

    @pytest.mark.parametrize("environment", [SLURM, {**SLURM, "SLURM_GPUS_ON_NODE": "some"}], ids=str)
    def test_a_job_that_was_granted_none_has_none(self, environment):
        assert granted_gpus(environment).names == []


@pytest.mark.timing
class TestTheEnd:
    def test_the_earliest_counts(self, feature):
        now = int(time.time())
        site = feature("JOBFEATURES", shutdowntime_job=now + 40)
        assert (
            job_end({**SLURM, "SLURM_JOB_END_TIME": str(now + 100), **site}).source == "$JOBFEATURES/shutdowntime_job"
        )
        assert job_end({**SLURM, "SLURM_JOB_END_TIME": str(now + 10), **site}).source == "SLURM_JOB_END_TIME"

    def test_outside_a_job_the_variables_of_batch_systems_are_ignored(self):
        assert job_end({"SLURM_JOB_END_TIME": "1", "PBS_WALLTIME": "1"}).seconds == math.inf

    @pytest.mark.parametrize("value", ["", "soon", "-5", "0x10", "1e3"])
    def test_an_invalid_value_is_ignored(self, feature, value):
        features = feature("JOBFEATURES", wall_limit_secs=value, jobstart_secs=value, shutdowntime_job=value)
        features |= feature("MACHINEFEATURES", shutdowntime=value)
        assert job_end({**PBS, "PBS_WALLTIME": value, **features}).seconds == math.inf
