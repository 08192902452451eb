"""What a pilot was granted by a batch system, has of its machine, or was told to have."""

import math
import os

import pytest

from picas.batch import grants
from picas.batch.grants import GPU_VARIABLES, gpu_environment, gpu_names, granted_cores, granted_gpus, granted_memory
from picas.exceptions import SettingsError
from picas.tokens.resources import Resources

SLURM = {"SLURM_JOB_ID": "7"}
PBS = {"PBS_JOBID": "7.server"}
MEGABYTE = 1 << 20
REAL_CGROUP_LIMITS = grants._cgroup_limits


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A process that may use 5 processors and 32 GB of a machine with 64; no batch system, no control group, no GPU."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(
        os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 32 * 1024 * MEGABYTE // 4096}.__getitem__
    )
    monkeypatch.setattr(grants, "_cgroup_limits", lambda: iter(()))
    variables = [name for pair in grants.CORE_VARIABLES for name in pair]
    variables += [*GPU_VARIABLES, "PICAS_CORES", "PICAS_MEMORY", "PICAS_GPUS", "PICAS_TAGS", "JOBFEATURES"]
    for name in variables:
        monkeypatch.delenv(name, raising=False)


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
    for job, name in grants.CORE_VARIABLES:
        monkeypatch.delenv(job, raising=False)
        monkeypatch.delenv(name, raising=False)
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
            ({"SLURM_MEM_PER_CPU": "500"}, 32 * 1024),  # of nobody knows how many
            ({"SLURM_MEM_PER_NODE": "64G"}, 32 * 1024),
            ({"SLURM_MEM_PER_NODE": "64000000"}, 32 * 1024),  # more than there is
        ],
        ids=str,
    )
    def test_slurm_says_it_in_megabytes(self, environment, memory):
        assert granted_memory({**SLURM, **environment}) == memory

    def test_outside_a_job_slurm_s_variables_say_nothing(self):
        assert granted_memory({"SLURM_MEM_PER_NODE": "2000"}) == 32 * 1024

    def test_a_grid_site_says_it_in_bytes(self, tmp_path):
        (tmp_path / "max_rss_bytes").write_text(f"{2000 * MEGABYTE}\n")
        assert granted_memory({"JOBFEATURES": str(tmp_path)}) == 2000

    def test_a_machine_that_does_not_tell_leaves_it_open(self, monkeypatch):
        def sysconf(name):
            raise ValueError("unrecognized configuration name")

        monkeypatch.setattr(os, "sysconf", sysconf)
        assert granted_memory({}) == math.inf


class TestControlGroups:
    """As Linux shows them: what this process is in, and a folder for each with its limits."""

    @staticmethod
    def limits(tmp_path, lines, files):
        (tmp_path / "cgroup").write_text(lines)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return list(REAL_CGROUP_LIMITS(tmp_path / "cgroup", tmp_path / "fs"))

    def test_the_limit_of_the_job_and_of_what_it_is_in(self, tmp_path):
        files = {
            "memory.max": "max\n",
            "slurm/memory.max": f"{8000 * MEGABYTE}\n",
            "slurm/job_7/memory.max": f"{2000 * MEGABYTE}\n",
            "slurm/job_8/memory.max": f"{1 * MEGABYTE}\n",
        }
        assert self.limits(tmp_path, "0::/slurm/job_7\n", files) == [2000, 8000]

    def test_the_older_kind(self, tmp_path):
        files = {"memory/job_7/memory.limit_in_bytes": f"{2000 * MEGABYTE}\n"}
        lines = "3:cpu,cpuacct:/other\n2:memory:/job_7\n0::/\n"
        assert self.limits(tmp_path, lines, files) == [2000]

    def test_a_place_that_is_not_there_tells_nothing(self, tmp_path):
        assert self.limits(tmp_path, "0::/outside/this/container\n", {}) == []

    def test_a_system_without_them(self, tmp_path):
        assert list(REAL_CGROUP_LIMITS(tmp_path / "none", tmp_path)) == []

    def test_the_least_counts(self, monkeypatch):
        monkeypatch.setattr(grants, "_cgroup_limits", lambda: iter([8000.0, 2000.0]))
        assert granted_memory({}) == 2000


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
    def test_the_variable_that_programs_look_at_tells(self, variable, value, names):
        assert granted_gpus({**SLURM, variable: value, "SLURM_GPUS_ON_NODE": "7"}) == (variable, names)

    def test_slurm_may_tell_the_number_only(self):
        assert granted_gpus({**SLURM, "SLURM_GPUS_ON_NODE": "2"}) == ("CUDA_VISIBLE_DEVICES", ["0", "1"])

    @pytest.mark.parametrize("environment", [SLURM, {**SLURM, "SLURM_GPUS_ON_NODE": "some"}], ids=str)
    def test_a_job_that_was_granted_none_has_none(self, environment):
        assert granted_gpus(environment)[1] == []

    def test_names_of_as_many_as_the_user_says(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
        assert gpu_names(2) == ["4", "5"]
        assert gpu_names(4) == ["0", "1", "2", "3"]  # the user knows better

    def test_programs_are_told_in_the_variable_that_was_used(self, monkeypatch):
        assert gpu_environment(["1"]) == {"CUDA_VISIBLE_DEVICES": "1"}
        monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0,1")
        assert gpu_environment(["0", "1"]) == {"ROCR_VISIBLE_DEVICES": "0,1"}

    def test_a_token_that_needs_none_changes_nothing(self):
        assert gpu_environment([]) == {}


class TestWhatThePilotHas:
    def test_by_default_what_the_machine_has(self):
        assert grants.resources() == Resources(5, 32 * 1024, len(granted_gpus()[1]), frozenset())

    def test_the_environment_says_otherwise(self, monkeypatch):
        for name, value in {"CORES": "3", "MEMORY": "2G", "GPUS": "0", "TAGS": "avx2, fast,"}.items():
            monkeypatch.setenv(f"PICAS_{name}", value)
        assert grants.resources() == Resources(3, 2048, 0, frozenset({"avx2", "fast"}))

    def test_arguments_come_first(self, monkeypatch):
        for name, value in {"CORES": "3", "MEMORY": "2G", "GPUS": "1", "TAGS": "avx2"}.items():
            monkeypatch.setenv(f"PICAS_{name}", value)
        assert grants.resources(8, 500, 2, ["slow"]) == Resources(8, 500, 2, frozenset({"slow"}))
        assert grants.resources(8, "1G", 0, "a,b") == Resources(8, 1024, 0, frozenset({"a", "b"}))
        assert grants.resources(8, "1G", 0, []).tags == frozenset()

    @pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "4 cores", "9" * 400])
    def test_nonsense_is_one_line(self, monkeypatch, value):
        monkeypatch.setenv("PICAS_CORES", value)
        with pytest.raises(SettingsError) as raised:
            grants.resources()
        assert str(raised.value) == f"PICAS_CORES must be a whole number, at least 1, not {value!r}"

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ({"cores": True}, "the argument cores must be a whole number, at least 1, not True"),
            ({"gpus": -1}, "the argument gpus must be a whole number, at least 0, not -1"),
            ({"memory": "4 cows"}, "the argument memory must be a number of megabytes, or like \"4G\", not '4 cows'"),
            ({"memory": 0}, 'the argument memory must be a number of megabytes, or like "4G", not 0'),
            ({"tags": [1]}, "the argument tags must be texts, not [1]"),
        ],
        ids=str,
    )
    def test_so_are_arguments(self, argument, message):
        with pytest.raises(SettingsError) as raised:
            grants.resources(**argument)
        assert str(raised.value) == message
