"""How Slurm's variables and commands are used, without a Slurm."""

from __future__ import annotations

import math
import os
import time

import pytest

from picas.batch.slurm import Slurm, parse_time_left
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


@pytest.mark.timing
class TestTheEnd:
    def test_is_in_a_variable(self):
        end = Slurm().end({**JOB, "SLURM_JOB_END_TIME": str(int(time.time()) + 100)})
        assert 98 < end.seconds <= 100
        assert end.source == "SLURM_JOB_END_TIME"

    def test_is_asked_for_once(self, command, tmp_path):
        command("squeue", f"echo x >> {tmp_path}/asked; echo 1:40")
        ends = [Slurm().end({**os.environ, "SLURM_JOB_ID": "7"}) for _ in range(2)]
        assert all(98 < end.seconds <= 100 and end.source == "squeue" for end in ends)
        assert (tmp_path / "asked").read_text() == "x\n"

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
            ("UNLIMITED", None),
            ("NOT_SET", None),
            ("INVALID", None),
            ("", None),
        ],
    )
    def test_is_read_from_the_format_of_squeue(self, text, seconds):
        assert parse_time_left(text) == seconds


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
