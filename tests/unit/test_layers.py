"""What several batch systems, one on top of the other, say together of one job. See also tests/unit/test_jobid.py."""

from __future__ import annotations

import math
import os
import time

import pytest

from picas.batch import machine as machine_module
from picas.batch.gpus import VARIABLES
from picas.batch.layers import granted_cores, granted_gpus, granted_memory, job_end, kill_wait

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
    @pytest.mark.parametrize("variable", VARIABLES)
    def test_the_variable_that_programs_read_comes_first(self, variable, value, names):
        gpus = granted_gpus({**SLURM, variable: value, "SLURM_GPUS_ON_NODE": "7"})
        assert (gpus.count, gpus.variables) == (len(names), {variable: names})

    def test_slurm_may_set_only_the_number(self):
        gpus = granted_gpus({**SLURM, "SLURM_GPUS_ON_NODE": "2"})
        assert (gpus.count, gpus.environment([0, 1])) == (2, {"CUDA_VISIBLE_DEVICES": "0,1"})

    def test_each_has_a_name_in_all_variables_that_name_as_many(self):
        all_of_slurm = dict.fromkeys(VARIABLES, "2,5")
        assert granted_gpus(all_of_slurm).environment([1]) == dict.fromkeys(VARIABLES, "5")
        others = {"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "2,5", "ZE_AFFINITY_MASK": "0.1"}
        assert granted_gpus(others).environment([0]) == {"ROCR_VISIBLE_DEVICES": "2"}

    @pytest.mark.parametrize("environment", [SLURM, {**SLURM, "SLURM_GPUS_ON_NODE": "some"}], ids=str)
    def test_a_job_that_was_granted_none_has_none(self, environment):
        assert granted_gpus(environment).count == 0


@pytest.mark.timing
class TestTheEnd:
    def test_the_earliest_counts(self, feature):
        now = int(time.time())
        site = feature("JOBFEATURES", shutdowntime_job=now + 40)
        assert (
            job_end({**SLURM, "SLURM_JOB_END_TIME": str(now + 100), **site}).source == "$JOBFEATURES/shutdowntime_job"
        )
        assert (
            job_end({"SLURM_JOB_ID": "8", "SLURM_JOB_END_TIME": str(now + 10), **site}).source == "SLURM_JOB_END_TIME"
        )

    def test_outside_a_job_the_variables_of_batch_systems_are_ignored(self):
        assert job_end({"SLURM_JOB_END_TIME": "1", "PBS_WALLTIME": "1"}).seconds == math.inf

    @pytest.mark.parametrize("value", ["", "soon", "-5", "0x10", "1e3"])
    def test_an_invalid_value_is_ignored(self, feature, value):
        features = feature("JOBFEATURES", wall_limit_secs=value, jobstart_secs=value, shutdowntime_job=value)
        features |= feature("MACHINEFEATURES", shutdowntime=value)
        assert job_end({**PBS, "PBS_WALLTIME": value, **features}).seconds == math.inf


class TestAStepOfSeveralTasks:
    """srun starts them side by side: each is a pilot, with its share of the node."""

    STEP = {**SLURM, "SLURM_GTIDS": "4,5,6,7", "SLURM_STEP_ID": "0"}

    def shares(self, granted, of):
        return [of({**self.STEP, **granted, "SLURM_LOCALID": str(number)}) for number in range(4)]

    def test_shares_the_processors(self):
        assert self.shares({"SLURM_CPUS_ON_NODE": "16"}, granted_cores) == [4, 4, 4, 4]
        assert self.shares({"SLURM_CPUS_ON_NODE": "6"}, granted_cores) == [2, 1, 2, 1]
        assert self.shares({"SLURM_CPUS_ON_NODE": "2"}, granted_cores) == [1, 1, 1, 1]

    def test_has_no_more_than_its_share_if_it_inherits_the_number_that_its_batch_script_asked_for(self):
        assert self.shares({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "8"}, granted_cores) == [2] * 4
        assert self.shares({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "1"}, granted_cores) == [1] * 4

    @pytest.mark.parametrize(
        "granted",
        [
            {"SLURM_MEM_PER_NODE": "400"},
            {"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4"},
            {"SLURM_MEM_PER_GPU": "200", "SLURM_GPUS_ON_NODE": "2"},
        ],
        ids=str,
    )
    def test_shares_the_memory(self, granted):
        assert self.shares(granted, granted_memory) == [100] * 4

    def test_shares_the_memory_of_a_machine_that_it_has_for_itself(self):
        assert self.shares({}, granted_memory) == [8 * 1024] * 4

    @pytest.mark.parametrize(
        ("visible", "names"),
        [
            ("2", ["2", "", "", ""]),
            ("0,1", ["0", "", "1", ""]),
            ("0,1,2,3,4,5,6,7", ["0,1", "2,3", "4,5", "6,7"]),
        ],
    )
    def test_shares_the_gpus(self, visible, names):
        granted = {"CUDA_VISIBLE_DEVICES": visible, "SLURM_GPUS_ON_NODE": str(len(visible.split(",")))}
        gpus = self.shares(granted, granted_gpus)
        assert [each.environment(range(each.count))["CUDA_VISIBLE_DEVICES"] for each in gpus] == names

    def test_shares_gpus_of_which_slurm_says_only_the_number(self):
        gpus = self.shares({"SLURM_GPUS_ON_NODE": "2"}, granted_gpus)
        assert [each.environment(range(each.count))["CUDA_VISIBLE_DEVICES"] for each in gpus] == ["0", "", "1", ""]

    def test_leaves_gpus_alone_that_slurm_has_bound_to_the_task(self):
        gpus = self.shares({"CUDA_VISIBLE_DEVICES": "3", "SLURM_GPUS_ON_NODE": "4"}, granted_gpus)
        assert [each.environment([0]) for each in gpus] == [{"CUDA_VISIBLE_DEVICES": "3"}] * 4

    def test_of_one_task_that_has_some_of_the_processors_gets_as_much_of_the_memory(self):
        """`srun --exact` starts several steps side by side. All inherit what the job asked for."""
        step = {**SLURM, "SLURM_GTIDS": "0", "SLURM_LOCALID": "0", "SLURM_MEM_PER_NODE": "400"}
        assert granted_memory({**step, "SLURM_CPUS_ON_NODE": "1", "SLURM_JOB_CPUS_PER_NODE": "4(x2)"}) == 100
        assert granted_memory({**step, "SLURM_CPUS_ON_NODE": "1", "SLURM_JOB_CPUS_PER_NODE": "4,2"}) == 400

    @pytest.mark.parametrize(("tasks", "number"), [("0", "0"), ("", "0"), ("0,1", ""), ("0,1", "2"), ("0,1", "x")])
    def test_is_none_if_the_variables_do_not_say_so(self, tasks, number):
        step = {**SLURM, "SLURM_GTIDS": tasks, "SLURM_LOCALID": number, "SLURM_CPUS_ON_NODE": "4"}
        assert (granted_cores(step), granted_memory(step)) == (4, 32 * 1024)


class TestTheTimeBetweenSIGTERMAndSIGKILL:
    def test_is_unknown_outside_a_job(self):
        assert kill_wait({}).seconds == math.inf

    def test_is_the_default_of_systems_that_do_not_say(self):
        assert kill_wait(PBS) == kill_wait({"LSB_JOBID": "7"}) == (10, False)
