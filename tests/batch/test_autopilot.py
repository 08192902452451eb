"""The autopilot submits exactly as many pilots as are missing."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
from support.places import EXAMPLES
from support.tokens import make_token

from picas import autopilot as module
from picas.autopilot import Autopilot, JobClass
from picas.pilot.orders import pause_pool, resume_pool
from picas.schedulers import Jobs, Scheduler, SchedulerError
from picas.views import create_views

NONE = frozenset()


class Queue(Scheduler):
    """A batch system whose jobs change only when the test changes them."""

    def __init__(self):
        self.pending = set()
        self.running = set()
        self.submitted = []
        self.error = None

    def jobs(self, name):
        return Jobs(frozenset(self.pending), frozenset(self.running))

    def submit(self, name, count, script, arguments, options):
        if self.error is not None:
            raise self.error
        self.submitted.append(count)
        job = str(len(self.submitted))
        self.pending |= {f"{job}_{number}" for number in range(1, count + 1)}
        return job


@pytest.fixture
def queue():
    return Queue()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def pilot(client, queue, lines):
    """An autopilot for one class of tokens."""

    def pilot(is_dry=False, **values):
        kind = JobClass(**{"name": "all", "script": "job.sh", "max_pilots": 10, **values})
        return Autopilot(client, [kind], queue, is_dry, lines.append)

    return pilot


class TestOneRound:
    def test_submits_the_missing_pilots_once(self, pilot, queue, push, lines):
        push(3)
        autopilot = pilot()
        assert autopilot.look()
        assert autopilot.look()
        assert queue.submitted == [3]
        assert lines == [
            "all: 3 tokens wait, 0 jobs are queued and 0 run, with 0 free slots: submitted 3 pilots as job 1",
            "all: 3 tokens wait, 3 jobs are queued and 0 run, with 0 free slots: that is enough",
        ]

    def test_submits_nothing_while_the_pool_is_paused(self, client, pilot, queue, push, lines):
        push(1)
        pause_pool(client, "maintenance", "ann")
        assert pilot().look()
        assert (queue.submitted, lines) == ([], ["the pool is paused by ann: maintenance; nothing is submitted"])
        resume_pool(client)
        assert pilot().look()
        assert queue.submitted == [1]

    def test_a_dry_run_only_prints_what_it_would_submit(self, pilot, queue, push, lines):
        push(1)
        pilot(is_dry=True).look()
        assert queue.submitted == []
        assert lines[0].endswith("1 pilot would be submitted")

    def test_counts_the_free_slots_of_living_pilots(self, pilot, queue, push, client):
        push(5)
        state = {"type": "pilot", "state": "running", "slots": 4}
        client.save({"_id": "picas_pilot_a", **state, "slurm_job_id": "9_1", "free": 3})
        client.save({"_id": "picas_pilot_b", **state, "slurm_job_id": "9_2", "free": 2})
        client.save({"_id": "picas_pilot_c", **state, "slurm_job_id": "8_1", "free": 4})  # its job has ended
        client.save({"_id": "picas_pilot_d", **state, "slurm_job_id": ["odd"], "free": "some"})
        queue.running = {"9_1", "9_2"}
        pilot().look()
        assert queue.submitted == []
        push_more = [make_token(number) for number in range(10, 13)]
        client.save_documents(push_more)
        pilot().look()
        assert queue.submitted == [3]

    def test_counts_all_slots_of_a_job_without_a_pilot_document_as_free(self, pilot, queue, push):
        push(4)
        queue.running = {"9_1"}
        pilot(slots=4).look()
        assert queue.submitted == []

    def test_counts_the_tokens_in_the_view_of_the_class(self, pilot, queue, client):
        create_views(client, "FourCores", "doc.cores == 4")
        client.save_documents([make_token(0), make_token(1, cores=4), make_token(2, cores=4)])
        pilot(design_doc="FourCores").look()
        assert queue.submitted == [2]

    def test_reports_missing_views_and_continues_with_the_other_classes(self, client, queue, push, lines):
        push(1)
        kinds = [JobClass("gpu", "job.sh", design_doc="Gpu"), JobClass("all", "job.sh")]
        assert not Autopilot(client, kinds, queue, tell=lines.append).look()
        assert re.search(r"^gpu: there is no view Gpu/todo, .* picas views Gpu$", lines[0])
        assert queue.submitted == [1]


class TestFailures:
    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch):
        """The seconds that the autopilot believes to have passed."""
        began, passed = time.monotonic(), [0.0]
        monkeypatch.setattr(module, "monotonic", lambda: began + passed[0])
        return passed

    def test_of_submissions_are_reported_and_not_retried_at_once(self, pilot, queue, push, lines, clock):
        push(1)
        queue.error = SchedulerError("sbatch: error: no such partition")
        autopilot = pilot()
        assert not autopilot.look()
        assert "no such partition; the next try is in 60 s at the earliest" in lines[0]
        queue.error = None
        assert autopilot.look()
        assert "nothing is submitted for another 60 s, after a failure" in lines[1]
        clock[0] += 61
        autopilot.look()
        assert queue.submitted == [1]

    def test_double_the_wait_up_to_an_hour(self, pilot, queue, push, lines, clock):
        push(1)
        queue.error = SchedulerError("no")
        autopilot = pilot()
        for _ in range(8):
            autopilot.look()
            clock[0] += 4000
        waits = [int(line.split("next try is in ")[1].split()[0]) for line in lines]
        assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]

    def test_include_jobs_that_end_without_taking_a_token(self, pilot, queue, push, lines, clock, caplog):
        """Otherwise a faulty script would be submitted for ever."""
        push(2)
        autopilot = pilot()
        autopilot.look()
        queue.pending.clear()
        autopilot.look()
        assert queue.submitted == [2]
        assert "the last jobs ended without taking a token" in caplog.text
        clock[0] += 61
        autopilot.look()
        assert queue.submitted == [2, 2]

    def test_do_not_include_jobs_that_processed_tokens(self, pilot, queue, push, client):
        push(2)
        autopilot = pilot()
        autopilot.look()
        queue.pending.clear()
        client.save(client.get("token_0").value | {"lock": 1, "done": 1})
        autopilot.look()
        client.save_documents([make_token(5)])
        autopilot.look()
        assert queue.submitted == [2, 1, 1]

    def test_do_not_include_jobs_that_processed_tokens_while_more_were_pushed(self, pilot, queue, push, client, caplog):
        push(2)
        autopilot = pilot()
        autopilot.look()
        queue.pending.clear()
        client.save({**client.get("token_0").value, "lock": 1, "done": 1})
        client.save_documents([make_token(number) for number in range(5, 9)])
        autopilot.look()
        assert queue.submitted == [2, 5]
        assert "without taking a token" not in caplog.text

    def test_of_one_class_do_not_affect_the_others(self, client, push, queue, lines):
        push(1)

        class Odd(Queue):
            def jobs(self, name):
                if name == "picas-odd":
                    raise SchedulerError("squeue: error: slurm_load_jobs")
                return super().jobs(name)

        odd = Odd()
        kinds = [JobClass(name, "job.sh") for name in ("odd", "good")]
        assert not Autopilot(client, kinds, odd, tell=lines.append).look()
        assert odd.submitted == [1]
        assert "slurm_load_jobs" in lines[0]

    def test_of_the_database_do_not_end_a_permanent_autopilot(self, far, gate, push, queue, lines, caplog):
        push(1)
        autopilot = Autopilot(far, [JobClass("all", "job.sh")], queue, tell=lines.append)
        pauses = []

        def sleep(seconds):
            pauses.append(seconds)
            if len(pauses) == 1:
                gate.open()
            else:
                raise KeyboardInterrupt

        gate.close()
        with pytest.raises(KeyboardInterrupt):
            autopilot.stay(5, sleep)
        assert pauses == [5, 5]
        assert "The pool can't be read now" in caplog.text
        assert queue.submitted == [1]


class TestTheScript:
    def test_without_slurm_prints_one_line_and_fails(self, environment, tmp_path, push):
        push(1)
        ran = subprocess.run(
            [sys.executable, EXAMPLES / "run_autopilot.py"],
            env={**environment, "PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 1
        assert ran.stdout.count("\n") == 1
        assert "there is no command squeue here" in ran.stdout
        assert ran.stderr == ""

    def test_with_an_invalid_table_prints_one_line_and_fails(self, environment, tmp_path):
        table = tmp_path / "table.ini"
        table.write_text("nonsense")
        ran = subprocess.run(
            [sys.executable, EXAMPLES / "run_autopilot.py", table],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
