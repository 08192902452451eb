"""Every batch system, against environments as they were recorded in its jobs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import picas.batch
from picas.batch import pbs
from picas.batch.base import WHOLE, ArrayTask, BatchSystem, Scheduler, Share
from picas.batch.dirac import DIRAC
from picas.batch.features import MachineJobFeatures
from picas.batch.glite import CREAM, GliteWMS
from picas.batch.htcondor import HTCondor
from picas.batch.layers import JOB_ID_FIELDS, SYSTEMS, find_job_id, granted_cores, granted_gpus, granted_memory, job_end
from picas.batch.lsf import LSF
from picas.batch.machine import Machine
from picas.batch.pbs import PBS
from picas.batch.sge import SGE
from picas.batch.slurm import Slurm

AGE = 600
"""Seconds since the jobs began."""


@dataclass(frozen=True)
class Job:
    """A job's environment, and what is known from it. In values and files, {folder} is the folder of the files, {start}
    is when the job began, and {end} is 50 minutes from now.
    """

    system: type[BatchSystem]
    environment: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    job_id: str | None = None
    array: tuple[str, str] | None = None
    restarts: int | None = None
    left: float = math.inf
    cores: int | None = None
    memory: float = math.inf
    gpus: int | None = None
    share: Share = WHOLE

    def write(self, folder: Path) -> dict[str, str]:
        """Write the job's files, and return its environment."""
        now = int(time.time())
        values = {"folder": folder, "start": now - AGE, "end": now + 3000}
        for name, text in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.format(**values))
            file.chmod(0o755)
        return {name: value.format(**values) for name, value in self.environment.items()}


RECORDED = {
    "DIRAC 8": Job(
        DIRAC,
        {
            "DIRACJOBID": "10043",
            "JOBID": "10043",
            "DIRACSITE": "LCG.SURF.nl",
            "DIRACPLAT": "Linux_x86_64_glibc-2.34",
            "DIRAC_PROCESSORS": "8",
            "DIRAC_JOB_PROCESSORS": "2",
            "DIRAC_WHOLENODE": "False",
            "X509_USER_PROXY": "{folder}/proxy",
        },
        job_id="10043",
        cores=2,
    ),
    "DIRAC 9": Job(
        DIRAC,
        {"JOBID": "10043", "DIRACSITE": "LCG.SURF.nl", "DIRAC_JOB_PROCESSORS": "1"},
        job_id="10043",
        cores=1,
    ),
    "gLite WMS": Job(
        GliteWMS,
        {
            "GLITE_WMS_JOBID": "https://wms.example.org:9000/Qx-4uZ2vWq0Yd1Vd0F9bJQ",
            "GLITE_WMS_RB_BROKERINFO": "{folder}/.BrokerInfo",
            "EDG_WL_JOBID": "https://wms.example.org:9000/Qx-4uZ2vWq0Yd1Vd0F9bJQ",
        },
        job_id="https://wms.example.org:9000/Qx-4uZ2vWq0Yd1Vd0F9bJQ",
    ),
    "gLite without a WMS": Job(GliteWMS, {"GLITE_WMS_JOBID": "cream_613342"}, job_id=""),
    "CREAM": Job(CREAM, {"CREAM_JOBID": "CREAM613342"}, job_id="CREAM613342"),
    "OpenPBS": Job(
        PBS,
        {
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBID": "1234.pbs",
            "PBS_JOBNAME": "picas",
            "PBS_QUEUE": "workq",
            "PBS_TASKNUM": "1",
            "NCPUS": "12",
            "OMP_NUM_THREADS": "12",
        },
        job_id="1234.pbs",
        cores=12,
    ),
    "OpenPBS, an array": Job(
        PBS,
        {"PBS_JOBID": "1234[7].pbs", "PBS_ARRAY_ID": "1234[].pbs", "PBS_ARRAY_INDEX": "7", "NCPUS": "4"},
        job_id="1234[7].pbs",
        array=("1234", "7"),
        cores=4,
    ),
    "OpenPBS, submitted with all variables by a task of an array": Job(
        PBS,
        {"PBS_JOBID": "1300.pbs", "PBS_ARRAY_ID": "1234[].pbs", "PBS_ARRAY_INDEX": "7", "NCPUS": "4"},
        job_id="1300.pbs",
        cores=4,
    ),
    "Torque": Job(
        PBS,
        {
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBID": "88.torque.example.org",
            "PBS_NUM_NODES": "1",
            "PBS_NUM_PPN": "6",
            "PBS_NP": "6",
            "PBS_WALLTIME": "3600",
        },
        job_id="88.torque.example.org",
        left=3000,
        cores=6,
    ),
    "Torque, an array": Job(
        PBS,
        {"PBS_JOBID": "88.torque.example.org", "PBS_ARRAYID": "3", "PBS_NUM_PPN": "1", "PBS_WALLTIME": "3600"},
        job_id="88[3].torque.example.org",
        array=("88", "3"),
        left=3000,
        cores=1,
    ),
    "Slurm 24.05": Job(
        Slurm,
        {
            "SLURM_JOB_ID": "4711",
            "SLURM_JOBID": "4711",
            "SLURM_JOB_NAME": "picas-all",
            "SLURM_CLUSTER_NAME": "snellius",
            "SLURM_JOB_NODELIST": "gcn12",
            "SLURM_JOB_START_TIME": "{start}",
            "SLURM_JOB_END_TIME": "{end}",
            "SLURM_NTASKS": "1",
            "SLURM_CPUS_PER_TASK": "18",
            "SLURM_CPUS_ON_NODE": "36",
            "SLURM_JOB_CPUS_PER_NODE": "36",
            "SLURM_MEM_PER_NODE": "122880",
            "SLURM_GPUS_ON_NODE": "2",
            "SLURM_JOB_GPUS": "1,3",
        },
        job_id="4711",
        restarts=0,
        left=3000,
        cores=18,
        memory=122880,
        gpus=2,
    ),
    "Slurm 22.05, an array that was requeued": Job(
        Slurm,
        {
            "SLURM_JOB_ID": "4713",
            "SLURM_ARRAY_JOB_ID": "4700",
            "SLURM_ARRAY_TASK_ID": "12",
            "SLURM_ARRAY_TASK_COUNT": "50",
            "SLURM_RESTART_COUNT": "2",
            "SLURM_CPUS_ON_NODE": "4",
            "SLURM_JOB_CPUS_PER_NODE": "4",
            "SLURM_MEM_PER_CPU": "2000",
            "PATH": "{folder}/bin:/bin",
        },
        {"bin/squeue": '#!/bin/sh\ncase "$*" in *--jobs=4713*) echo 50:00 4700_12 ;; *) exit 1 ;; esac\n'},
        job_id="4700_12",
        array=("4700", "12"),
        restarts=2,
        left=3000,
        cores=4,
        memory=8000,
        gpus=0,
    ),
    "Slurm 22.05, submitted by a task of an array": Job(
        Slurm,
        {
            "SLURM_JOB_ID": "4720",
            "SLURM_ARRAY_JOB_ID": "4700",
            "SLURM_ARRAY_TASK_ID": "12",
            "SLURM_ARRAY_TASK_COUNT": "50",
            "SLURM_CPUS_ON_NODE": "4",
            "PATH": "{folder}/bin:/bin",
        },
        {"bin/squeue": '#!/bin/sh\ncase "$*" in *--jobs=4720*) echo 50:00 4720 ;; *) exit 1 ;; esac\n'},
        job_id="4720",
        restarts=0,
        left=3000,
        cores=4,
        gpus=0,
    ),
    "Slurm 22.05, the second task on its node": Job(
        Slurm,
        {
            "SLURM_JOB_ID": "4721",
            "SLURM_JOB_END_TIME": "{end}",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
            "SLURM_GTIDS": "2,3",
            "SLURM_LOCALID": "1",
            "SLURM_CPUS_ON_NODE": "8",
            "SLURM_GPUS_ON_NODE": "1",
            "CUDA_VISIBLE_DEVICES": "2",
        },
        job_id="4721",
        restarts=0,
        left=3000,
        cores=4,
        gpus=1,
        share=Share(1, 2),
    ),
    "HTCondor": Job(
        HTCondor,
        {
            "_CONDOR_JOB_AD": "{folder}/.job.ad",
            "_CONDOR_MACHINE_AD": "{folder}/.machine.ad",
            "_CONDOR_SCRATCH_DIR": "{folder}",
            "_CONDOR_SLOT": "slot1_3",
            "OMP_NUM_THREADS": "4",
        },
        {
            ".job.ad": 'AllowedJobDuration = 3600\nClusterId = 81\nCmd = "/home/me/job.sh"\nCpusProvisioned = 4\n'
            "JobCurrentStartDate = {start}\nNumJobStarts = 0\nNumShadowStarts = 1\nProcId = 0\n"
            'Requirements = (TARGET.Arch == "X86_64")\nTotalSubmitProcs = 1\n'
        },
        job_id="81.0",
        restarts=0,
        left=3000,
    ),
    "HTCondor, several jobs that were started again": Job(
        HTCondor,
        {"_CONDOR_JOB_AD": "{folder}/.job.ad"},
        {".job.ad": "ClusterId = 81\nProcId = 4\nNumShadowStarts = 3\nTotalSubmitProcs = 10\n"},
        job_id="81.4",
        array=("81", "4"),
        restarts=2,
    ),
    "LSF": Job(
        LSF,
        {
            "LSB_JOBID": "60",
            "LSB_JOBINDEX": "0",
            "LSB_QUEUE": "normal",
            "LSB_HOSTS": "node1 node1",
            "LSB_DJOB_NUMPROC": "2",
        },
        job_id="60",
    ),
    "LSF, an array": Job(LSF, {"LSB_JOBID": "60", "LSB_JOBINDEX": "3"}, job_id="60[3]", array=("60", "3")),
    "Grid Engine": Job(
        SGE,
        {
            "JOB_ID": "70",
            "JOB_NAME": "picas",
            "NSLOTS": "1",
            "QUEUE": "all.q",
            "RESTARTED": "0",
            "SGE_ROOT": "/opt/sge",
            "SGE_TASK_ID": "undefined",
            "SGE_TASK_FIRST": "undefined",
        },
        job_id="70",
    ),
    "Grid Engine, an array": Job(
        SGE,
        {"JOB_ID": "70", "SGE_ROOT": "/opt/sge", "SGE_TASK_ID": "4", "SGE_TASK_FIRST": "1"},
        job_id="70.4",
        array=("70", "4"),
    ),
    "machine and job features": Job(
        MachineJobFeatures,
        {"JOBFEATURES": "{folder}/job", "MACHINEFEATURES": "{folder}/machine"},
        {
            "job/allocated_cpu": "8\n",
            "job/jobstart_secs": "{start}\n",
            "job/max_rss_bytes": "16777216000\n",
            "job/wall_limit_secs": "3600\n",
            "machine/shutdowntime": "0\n",
            "machine/total_cpu": "64\n",
        },
        left=3000,
        cores=8,
        memory=16000,
    ),
    "no batch system": Job(
        Machine,
        {"HOME": "/home/me", "PATH": "/bin", "SLURM_CPUS_PER_TASK": "4", "SLURM_JOB_END_TIME": "1", "NCPUS": "12"},
        cores=5,
        memory=32 * 1024,
        gpus=0,
    ),
}


@pytest.fixture(autouse=True)
def known_machine(machine, monkeypatch):
    """The machine has no GPU, and jobs are as old as they say."""
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(()))
    monkeypatch.setattr(pbs, "age_of", lambda pid: float(AGE))


@pytest.fixture(params=RECORDED.values(), ids=RECORDED)
def job(request):
    return request.param


@pytest.fixture
def environment(job, tmp_path):
    return job.write(tmp_path)


def system_of(job: Job) -> BatchSystem:
    return next(system for system in SYSTEMS if type(system) is job.system)


def is_end_in(seconds: float, expected: float) -> bool:
    return seconds == expected or expected - 5 < seconds <= expected


def test_all_files_are_in_the_list_and_have_a_recorded_environment():
    modules = [import_module(f"picas.batch.{module.name}") for module in iter_modules(picas.batch.__path__)]
    written = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, BatchSystem) and kind is not BatchSystem
    }
    assert {type(system) for system in SYSTEMS} == written
    assert {job.system for job in RECORDED.values()} == written


def test_each_stands_in_the_list_once_and_has_a_field_of_its_own():
    assert len({type(system) for system in SYSTEMS}) == len(SYSTEMS)
    assert len(set(JOB_ID_FIELDS)) == len(JOB_ID_FIELDS)


class TestASystemInItsOwnJob:
    def test_knows_the_job_id_and_the_array(self, job, environment):
        assert system_of(job).job_id(environment) == job.job_id
        assert system_of(job).array_task(environment) == (job.array and ArrayTask(*job.array))

    def test_knows_the_restarts(self, job, environment):
        assert system_of(job).restart_count(environment) == job.restarts

    def test_knows_the_end(self, job, environment):
        assert is_end_in(system_of(job).end(environment).seconds, job.left)

    def test_knows_the_resources(self, job, environment):
        system = system_of(job)
        assert system.share(environment) == job.share
        assert system.cores(environment) == job.cores
        assert system.memory(environment) == job.memory
        assert system.gpus(environment) == job.gpus

    def test_is_the_only_one_that_takes_the_job_for_its_own(self, job, environment):
        for system in SYSTEMS:
            if type(system) is not job.system:
                assert system.job_id(environment) is None
                assert system.array_task(environment) is None
                assert system.restart_count(environment) is None
                assert system.end(environment).seconds == math.inf
                assert type(system) is Machine or system.cores(environment) is None

    def test_is_what_the_layers_say(self, job, environment):
        field = system_of(job).job_id_field
        assert find_job_id(environment) == (None if job.job_id is None else (field, job.job_id or None))
        assert is_end_in(job_end(environment).seconds, job.left)
        assert granted_cores(environment) == (job.cores or 5)
        assert granted_memory(environment) == min(job.memory, 32 * 1024) / job.share.count
        assert granted_gpus(environment).count == len(job.share.of(range(job.gpus or 0)))


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: type(system).__name__)
class TestASystemOutsideItsJobs:
    def test_knows_nothing(self, system):
        assert system.job_id({}) is None
        assert system.array_task({}) is None
        assert system.restart_count({}) is None
        assert system.end({}).seconds == math.inf
        if type(system) is not Machine:
            assert (system.cores({}), system.memory({}), system.gpus({})) == (None, math.inf, None)

    def test_submits_and_counts_jobs_or_says_that_it_does_not(self, system):
        for method in ("jobs", "submit"):
            is_written = getattr(type(system), method) is not getattr(Scheduler, method)
            assert is_written == (type(system) is Slurm)
        if type(system) is not Slurm:
            with pytest.raises(NotImplementedError, match="jobs is not implemented"):
                system.jobs("picas-all")
            with pytest.raises(NotImplementedError, match="submit is not implemented"):
                system.submit("picas-all", 1, "job.sh", (), ())
