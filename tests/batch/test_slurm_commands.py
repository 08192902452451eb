"""How Slurm's variables and commands are used, without a Slurm."""

from __future__ import annotations

import math
import os
import time

import pytest

from picas.batch import slurm_controller
from picas.batch.slurm import Slurm
from picas.batch.slurm_controller import parse_time_left
from picas.schedulers import SchedulerError

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
        command("squeue", '[ -z "$SQUEUE_STATES" ] && echo Welcome to this cluster && echo 1:40 7')
        assert 98 < Slurm().end({**os.environ, "SLURM_JOB_ID": "7"}).seconds <= 100

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


class TestTheKillWait:
    def test_is_in_the_configuration_and_asked_for_once(self, command, tmp_path):
        command("scontrol", f"echo x >> {tmp_path}/asked; echo 'KillWait                = 45 sec'")
        assert [Slurm().kill_wait({**os.environ, "SLURM_JOB_ID": "7"}) for _ in range(2)] == [45, 45]
        assert (tmp_path / "asked").read_text() == "x\n"

    def test_is_unknown_without_scontrol(self):
        assert Slurm().kill_wait(JOB) == math.inf


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


class TestCounting:
    def test_sorts_the_jobs_by_their_state(self, command):
        command("squeue", "echo 7_1 RUNNING; echo 7_2 PENDING; echo 7_3 COMPLETING; echo 8 SUSPENDED")
        assert Slurm().jobs("picas-all") == (frozenset({"7_2"}), frozenset({"7_1", "8"}))

    def test_fails_without_the_command(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SchedulerError, match="there is no command squeue here"):
            Slurm().jobs("picas-all")

    def test_fails_if_the_output_is_no_list_of_jobs(self, command):
        command("squeue", "echo Welcome to this cluster")
        with pytest.raises(SchedulerError, match="not a list of jobs: Welcome to this cluster"):
            Slurm().jobs("picas-all")
