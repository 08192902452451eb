"""How Slurm's variables and commands are used, without a Slurm."""

from __future__ import annotations

import math
import os
import time

import pytest

from picas.batch import base, slurm_controller
from picas.batch.slurm import Slurm
from picas.batch.slurm_controller import parse_time_left
from picas.batch.slurm_options import granted_by
from picas.schedulers import Jobs, JobTemplate, SchedulerError

JOB = {"SLURM_JOB_ID": "7", "PATH": "/no/such/folder"}

pytestmark = pytest.mark.usefixtures("no_job")


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Put a shell script first in PATH."""

    def command(name, script):
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return command


@pytest.fixture
def later(monkeypatch):
    """Return a function that moves the clock forward, by seconds."""

    def later(seconds):
        now = time.monotonic
        monkeypatch.setattr(slurm_controller.time, "monotonic", lambda: now() + seconds)

    return later


@pytest.mark.timing
class TestTheEnd:
    def test_is_in_a_variable(self):
        end = Slurm().end({**JOB, "SLURM_JOB_END_TIME": str(int(time.time()) + 100)})
        assert 98 < end.seconds <= 100
        assert end.source == "SLURM_JOB_END_TIME"

    def test_is_asked_for_once(self, command, tmp_path):
        command("squeue", f"echo x >> {tmp_path}/asked; echo 1:40 7")
        ends = [Slurm().end({**os.environ, "SLURM_JOB_ID": "7"}) for _ in range(2)]
        assert all(98 < end.seconds <= 100 and end.source == "squeue" for end in ends)
        assert (tmp_path / "asked").read_text() == "x\n"

    def test_is_asked_for_again_after_some_minutes(self, command, monkeypatch, later):
        command("squeue", "echo 1:00:00 7")
        environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 100)}
        assert Slurm().end(environment).source == "SLURM_JOB_END_TIME"
        later(130)
        assert (round(Slurm().end(environment).seconds), Slurm().end(environment).source) == (3600, "squeue")
        command("squeue", "exit 1")
        later(400)
        assert round(Slurm().end(environment).seconds) == 3200

    def test_a_banner_and_filters_of_the_user_do_not_hide_it(self, command, monkeypatch):
        monkeypatch.setenv("SQUEUE_STATES", "PENDING")
        monkeypatch.setenv("SLURM_CLUSTERS", "here,there")  # each may have a job of this number
        command("squeue", '[ -z "$SQUEUE_STATES$SLURM_CLUSTERS" ] && echo Welcome to this cluster && echo 1:40 7')
        assert 98 < Slurm().end({**os.environ, "SLURM_JOB_ID": "7"}).seconds <= 100

    def test_of_a_heterogeneous_job_is_that_of_its_shortest_component(self, command):
        command("squeue", "echo 10:00 7+0; echo 12:00 7+1; echo INVALID 7+2")
        assert 598 < Slurm().end({**os.environ, "SLURM_JOB_ID": "7"}).seconds <= 600

    def test_is_unknown_without_squeue_and_a_line_says_so_once(self, caplog):
        assert Slurm().end(JOB).seconds == math.inf
        assert Slurm().end(JOB).seconds == math.inf
        assert caplog.text.count("squeue failed: there is no command squeue here") == 1

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("59", 59),
            ("4:59", 299),
            ("1:00:00", 3600),
            ("1-02:03:04", 93784),
            (" 0:00 ", 0),
            ("UNLIMITED", math.inf),
            ("NOT_SET", None),
            ("INVALID", None),
            ("", None),
        ],
    )
    def test_is_read_from_the_format_of_squeue(self, text, seconds):
        assert parse_time_left(text) == seconds


class TestTheName:
    """A job inherits the variables of the array whose task has submitted it."""

    TASK = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "3"}

    @pytest.mark.parametrize("name", ["8", "6_3"])
    def test_is_that_which_squeue_knows_and_asked_for_once(self, command, tmp_path, name):
        command("squeue", f"echo x >> {tmp_path}/asked; echo 1:40 {name}")
        environment = {**os.environ, **self.TASK}
        assert [Slurm().job_id(environment) for _ in range(3)] == [name] * 3
        assert (Slurm().array_task(environment) is None) == (name == "8")
        assert 98 < Slurm().end(environment).seconds <= 100
        assert (tmp_path / "asked").read_text() == "x\n"

    def test_is_that_of_a_task_of_an_array_without_squeue(self):
        assert Slurm().job_id({**JOB, **self.TASK, "PATH": "/no/such/folder"}) == "6_3"

    def test_of_the_task_with_the_id_of_the_array_needs_no_squeue(self):
        environment = {**JOB, **self.TASK, "SLURM_JOB_ID": "6"}
        assert Slurm().job_id(environment) == "6_3"
        assert slurm_controller._answers == {}


class TestThePlace:
    def test_is_the_user_and_the_cluster(self, command):
        command("scontrol", "echo Welcome; echo 'ClusterName             = lab'")
        assert Slurm().place() == f"{os.getuid()}.lab"

    def test_is_unknown_without_an_answer(self, command):
        command("scontrol", "echo Welcome")
        with pytest.raises(SchedulerError, match="scontrol does not know the name of the cluster: Welcome"):
            Slurm().place()


class TestTheKillWait:
    def test_is_in_the_configuration_and_asked_for_once(self, command, tmp_path):
        command("scontrol", f"echo x >> {tmp_path}/asked; echo 'KillWait                = 45 sec'")
        assert [Slurm().kill_wait({**os.environ, "SLURM_JOB_ID": "7"}) for _ in range(2)] == [(45, True)] * 2
        assert (tmp_path / "asked").read_text() == "x\n"

    def test_is_unknown_without_scontrol(self):
        assert Slurm().kill_wait(JOB).seconds == math.inf


class TestSubmitting:
    @pytest.mark.parametrize("is_job", [False, True], ids=["in a shell", "in a job"])
    def test_hands_settings_down_but_not_what_this_job_was_granted(self, monkeypatch, command, tmp_path, is_job):
        """scrontab runs its commands as jobs."""
        command("sbatch", f"env > {tmp_path}/env\necho '7;lab'")
        settings = {"SBATCH_ACCOUNT": "us", "SLURM_CONF": "/slurm.conf", "SLURM_CLUSTERS": "lab"}
        granted = {"SLURM_JOB_ID": "5", "SLURM_CPUS_PER_TASK": "7"} if is_job else {}
        for name, value in {**settings, **granted}.items():
            monkeypatch.setenv(name, value)
        assert Slurm().submit("picas-all", 2, "job.sh", (), ()) == "7"
        handed_down = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
        assert settings.items() <= handed_down.items()
        assert not {"SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"} & set(handed_down)

    def test_that_fails_says_what_sbatch_said(self, command):
        command("sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")
        with pytest.raises(SchedulerError, match=r"^sbatch: error: invalid partition$"):
            Slurm().submit("picas-all", 2, "job.sh", (), ())

    def test_that_fails_silently_says_the_exit_code(self, command):
        command("sbatch", "exit 3")
        with pytest.raises(SchedulerError, match=r"^sbatch ended with exit code 3$"):
            Slurm().submit("picas-all", 2, "job.sh", (), ())

    def test_reads_the_job_id_among_banners(self, command):
        command("sbatch", "echo Welcome, 2 messages; echo 12345; echo '7;lab-2'; echo; echo 3 nodes are down")
        assert Slurm().submit("picas-all", 2, "job.sh", (), ()) == "7"

    def test_without_a_job_id_fails(self, command):
        command("sbatch", "echo Welcome")
        with pytest.raises(SchedulerError, match=r"^sbatch has printed no job id: Welcome$"):
            Slurm().submit("picas-all", 2, "job.sh", (), ())

    def test_that_fails_says_the_error_among_banners(self, command):
        command("sbatch", "(echo Welcome; echo 'sbatch: error: no such account'; echo Goodbye) >&2; exit 1")
        with pytest.raises(SchedulerError, match=r"^sbatch: error: no such account$"):
            Slurm().submit("picas-all", 2, "job.sh", (), ())

    def test_withholds_what_would_delay_it_or_keep_it_from_submitting(self, monkeypatch, command):
        command("sbatch", "env | grep -q 'SBATCH_WAIT=\\|SBATCH_TEST_ONLY' || echo 7")
        monkeypatch.setenv("SBATCH_WAIT", "1")
        monkeypatch.setenv("SBATCH_TEST_ONLY", "1")
        assert Slurm().submit("picas-all", 2, "job.sh", (), ()) == "7"


class TestLimits:
    """Slurm refuses an array as a whole if only a part of it is within a limit."""

    TEMPLATE = JobTemplate("picas-all", "job.sh")

    @pytest.fixture
    def limit(self, command, tmp_path):
        """Let sbatch accept arrays of 1 to `size` tasks, and `total` jobs in all."""

        def limit(size, total, error="Batch job submission failed: Invalid job array specification"):
            command(
                "sbatch",
                f"""n=$(echo "$*" | sed 's/.*--array=1-\\([0-9]*\\).*/\\1/')
                used=$(cat {tmp_path}/used 2>/dev/null || echo 0)
                [ $n -le {size} ] && [ $((n + used)) -le {total} ] || {{ echo "sbatch: error: {error}" >&2; exit 1; }}
                echo $((n + used)) > {tmp_path}/used
                echo "$*" >> {tmp_path}/called; wc -l < {tmp_path}/called""",
            )

        return limit

    def test_of_the_size_make_smaller_arrays(self, limit):
        limit(4, 100)
        groups, refusal = Slurm().submit_jobs(self.TEMPLATE, 10)
        assert groups == (("1", 3), ("2", 3), ("3", 3), ("4", 1))
        assert refusal.endswith("Invalid job array specification")

    def test_of_the_number_let_as_many_go_as_there_may_be(self, limit):
        limit(100, 6, "Batch job submission failed: Job violates accounting/QOS policy (job submit limit)")
        groups, refusal = Slurm().submit_jobs(self.TEMPLATE, 10)
        assert groups == (("1", 5), ("2", 1))
        assert refusal.endswith("(job submit limit)")

    def test_without_room_for_one_job_are_an_error(self, limit):
        limit(100, 0, "Slurm job queue full")
        with pytest.raises(SchedulerError, match="queue full"):
            Slurm().submit_jobs(self.TEMPLATE, 10)

    def test_are_not_suspected_behind_other_errors(self, command, tmp_path):
        command("sbatch", f"echo x >> {tmp_path}/called; echo 'sbatch: error: invalid partition' >&2; exit 1")
        with pytest.raises(SchedulerError, match="invalid partition"):
            Slurm().submit_jobs(self.TEMPLATE, 10)
        assert (tmp_path / "called").read_text() == "x\n"

    def test_do_not_keep_sbatch_waiting(self, command):
        command(
            "sbatch",
            "echo 'sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying' >&2; exec sleep 60",
        )
        began = time.monotonic()
        with pytest.raises(SchedulerError, match="temporarily unable to accept job"):
            Slurm().submit("picas-all", 1, "job.sh", (), ())
        assert time.monotonic() - began < 30


class TestCounting:
    TEMPLATES = tuple(JobTemplate(f"picas-{name}", "job.sh") for name in "abc")

    def test_sorts_the_jobs_by_their_state(self, command):
        command(
            "squeue",
            """echo Welcome to this cluster; echo 'CLUSTER: lab'; echo
            for job in '7_1|RUNNING|None' '7_2|PENDING|Priority' '7_3|COMPLETING|None' '8|SUSPENDED|None'
            do echo "picas|$job|picas-all"; done""",
        )
        assert Slurm().jobs("picas-all") == Jobs(frozenset({"7_2"}), frozenset({"7_1", "8"}), {}, "")

    @pytest.mark.parametrize(
        ("reason", "is_blocked", "is_closed"),
        [
            ("Resources", False, False),
            ("QOSMaxJobsPerUserLimit", False, False),
            ("JobHeldUser", True, False),
            ("PartitionDown", True, True),
            ("ReqNodeNotAvail, UnavailableNodes:n1", True, True),
        ],
    )
    def test_tells_jobs_that_wait_from_jobs_that_can_not_start(self, command, reason, is_blocked, is_closed):
        command("squeue", f"echo 'picas|7|PENDING|{reason}|picas-a'")
        jobs = Slurm().jobs("picas-a")
        assert jobs.blocked == ({"7": reason} if is_blocked else {})
        assert jobs.closed == (reason if is_closed else "")

    def test_asks_once_for_all_classes_of_a_cluster(self, command, tmp_path):
        command("squeue", f"echo \"$*\" >> {tmp_path}/asked; echo 'picas|7|RUNNING|None|picas-b'")
        there = JobTemplate("picas-d", "job.sh", options=("-M", "far,away"))
        found = Slurm().queue((*self.TEMPLATES, there))
        assert [len(jobs) for jobs in found] == [0, 1, 0, 0]
        near, far = (tmp_path / "asked").read_text().splitlines()
        assert "--name=picas-a,picas-b,picas-c " in near
        assert "--clusters" not in near
        assert "--name=picas-d --clusters=far,away " in far

    def test_is_not_disturbed_by_the_settings_of_the_user(self, monkeypatch, command):
        command("squeue", "env | grep -q '^SQUEUE_\\|^SLURM_TIME_FORMAT' || echo 'picas|7|RUNNING|None|picas-a'")
        monkeypatch.setenv("SQUEUE_FORMAT", "%j")
        monkeypatch.setenv("SQUEUE_STATES", "SUSPENDED")
        monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
        assert len(Slurm().jobs("picas-a")) == 1

    def test_waits_once_for_a_squeue_that_hangs(self, monkeypatch, command, tmp_path):
        monkeypatch.setattr(base, "COMMAND_TIMEOUT", 0.3)
        command("squeue", f"echo x >> {tmp_path}/asked; exec sleep 60")
        there = JobTemplate("picas-d", "job.sh", options=("--clusters=far",))
        found = Slurm().queue((*self.TEMPLATES, there))
        assert {str(error) for error in found} == {"squeue did not answer within 0 s"}
        assert (tmp_path / "asked").read_text() == "x\n"

    def test_fails_without_the_command(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SchedulerError, match="there is no command squeue here"):
            Slurm().jobs("picas-all")


class TestWhatJobsHave:
    @pytest.fixture
    def granted(self, tmp_path):
        def granted(*options, script="", arguments=(), **environment):
            (tmp_path / "job.sh").write_text(f"#!/bin/sh\n{script}\n")
            template = JobTemplate("picas-a", str(tmp_path / "job.sh"), tuple(arguments), options)
            found = granted_by(template, environment)
            return found.cores, found.memory, found.gpus, sorted(found.tags or ()), found.walltime

        return granted

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ((), (None, None, 0, [], None)),
            (("--cpus-per-task=4", "--mem=2G", "--time=1-12"), (4, 2048, 0, [], 129600)),
            (("-c", "4", "--mem-per-cpu=500", "-t10:30"), (4, 2000, 0, [], 630)),
            (("-N1", "-n4", "--gpus=a100:2", "--mem=0"), (4, None, 2, [], None)),
            (("--gres=gpu:a100:2,tmp:5", "--mem-per-gpu", "1000"), (None, 2000, 2, [], None)),
            (("--gpus-per-task=1", "--ntasks=2", "--exclusive"), (None, None, 2, [], None)),
            (("--time=90", "--time", "UNLIMITED"), (None, None, 0, [], math.inf)),
        ],
    )
    def test_is_in_the_options(self, granted, options, found):
        assert granted(*options) == found

    def test_is_in_the_script_up_to_its_first_command(self, granted):
        script = "#SBATCH -c 2 --time=60 # two\n\n# comment\n#SBATCH --mem=100\nexec true\n#SBATCH --gpus=1"
        assert granted(script=script) == (2, 100, 0, [], 3600)
        assert granted("-c3", script=script, SBATCH_TIMELIMIT="5", SBATCH_GPUS="1") == (3, 100, 1, [], 300)

    def test_is_unknown_if_several_pilots_share_it(self, granted, tmp_path):
        granted(script="#SBATCH -n4 --mem=400 --gpus=1\nexec srun python3 local-example.py")
        found = granted_by(JobTemplate("a", str(tmp_path / "job.sh")), {})
        assert (found.cores, found.memory, found.gpus) == (None, None, None)

    def test_is_what_the_pilot_is_told(self, granted):
        arguments = ("--cores=1", "--tags", "a,b", "--slots", "4", "--memory=1G", "--gpus", "1")
        assert granted("-c8", arguments=arguments) == (1, 1024, 1, ["a", "b"], None)
        assert granted("-c8", PICAS_CORES="2", PICAS_TAGS="c") == (2, None, 0, ["c"], None)

    def test_is_unknown_if_the_script_says_it_itself(self, granted, tmp_path):
        granted(script="export PICAS_TAGS=x\n./pilot.sh --cores 4")
        found = granted_by(JobTemplate("a", str(tmp_path / "job.sh"), options=("-c8",)), {})
        assert (found.tags, found.cores, found.gpus) == (None, None, 0)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ((), "/here/slurm-7_2.out"),
        (("--output=logs/%x-%A.%a.txt",), "/here/logs/picas-a-7.2.txt"),
        (("-o", "/logs/%j-%N.out"), "/logs/*-*.out"),
        (("--chdir=/there", "-oout%4a"), "/there/out2"),
    ],
)
def test_the_output_of_a_job_follows_from_the_options(monkeypatch, tmp_path, options, path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Slurm().output_file(JobTemplate("picas-a", "job.sh", options=options), "7_2", "/here") == path
