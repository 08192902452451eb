"""Pilots on a real Slurm, started with the example script as users do it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.places import EXAMPLES, command, require
from support.slurm_cluster import Slurm, missing
from support.tokens import make_token
from support.workers import is_alive, wait_for

from picas import VERSION
from picas.views import count_states

pytestmark = pytest.mark.timing

QUICK = {"PICAS_HEARTBEAT": "0.5", "PICAS_LEASE": "4", "PICAS_GRACE": "2"}
"""Settings that let pilots react within seconds, not minutes."""


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Skip the tests if Slurm is not installed."""
    require("slurm", missing())


@pytest.fixture(scope="module")
def cluster(installed):
    with Slurm() as cluster:
        yield cluster


@pytest.fixture
def slurm(cluster):
    """The cluster, without jobs and with both of its nodes, before and after the test."""
    yield cluster
    cluster.cancel_all()


@pytest.fixture
def examples(tmp_path):
    """A copy of the examples, so that Slurm writes its files there."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", "*.tar")))


@pytest.fixture
def settings(slurm, environment):
    """The environment in which pilots are submitted."""
    python = os.pathsep.join([str(Path(sys.executable).parent), slurm.environment["PATH"]])
    outside = {name: value for name, value in environment.items() if not name.startswith(("SLURM", "SBATCH"))}
    return {**outside, **QUICK, "PATH": python, "SLURM_CONF": slurm.environment["SLURM_CONF"]}


@pytest.fixture
def submit(slurm, examples, settings):
    """Submit the example script and return the job's id."""

    def submit(*arguments, options=(), folder=examples, script="slurm-example.sh", **changes):
        return slurm.submit(script, *arguments, options=options, cwd=folder, env={**settings, **changes})

    return submit


@pytest.fixture
def push(client):
    """Save one token for each command."""

    def push(*commands, **fields):
        tokens = [make_token(number, input=command, **fields) for number, command in enumerate(commands)]
        assert all(client.save_documents(tokens))

    return push


@pytest.fixture
def started(tmp_path):
    """The file in which tasks record that they started, most of them with their process id."""
    return tmp_path / "started"


SEEN = "$CUDA_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES $ZE_AFFINITY_MASK $GPU_DEVICE_ORDINAL"
IMPATIENT = """
import picas
from picas.batch import slurm_controller

slurm_controller.KEPT = (0.2, 0.2)  # seconds, not minutes


class Pilot(picas.RunActor):
    def process_task(self, token):
        token["exit_code"] = 0


pool = picas.connect()
Pilot(pool, iterator=picas.EndlessViewIterator(picas.TaskViewIterator(pool, "todo"))).run(max_tasks=1)
"""
"""A pilot that stays for one token and asks Slurm for the end of its job all the time."""


def wait_for_states(client, seconds=30.0, **states):
    """Return once these numbers of tokens are in these states."""
    wait_for(lambda: states.items() <= count_states(client).items(), seconds)


def attempts(client, token_id="token_0"):
    return client.get(token_id)["attempts"]


def outcomes(client, token_id="token_0"):
    return [attempt["outcome"] for attempt in attempts(client, token_id)]


def pids(file):
    """Return the process ids that tasks have written to a file, one per line."""
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def output(folder):
    return "".join(path.read_text() for path in sorted(folder.glob("slurm-*.out")))


class TestArray:
    def test_pilots_drain_the_pool_and_end(self, slurm, submit, push, client):
        push(*["true"] * 12, "false")
        job = submit(options=("--array=1-3",))
        assert slurm.wait_for_end(job) == {f"{job}_{task}": "COMPLETED" for task in (1, 2, 3)}
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 12, "error": 1}

    def test_tokens_record_the_job_that_processed_them(self, slurm, submit, push, client):
        push(*["sleep 1"] * 4)
        job = submit()
        slurm.wait_for_end(job)
        assert {client.get(f"token_{number}")["slurm_job_id"] for number in range(4)} == {f"{job}_1", f"{job}_2"}
        attempt = attempts(client)[0]
        assert attempt["job_id"] == client.get("token_0")["slurm_job_id"]
        assert attempt["host"] == client.get("token_0")["hostname"]

    def test_from_any_folder_with_options_on_the_command_line(self, slurm, submit, push, client, examples, tmp_path):
        """The tokens come from a custom view, and each has its own folder below $TMPDIR."""
        scratch, elsewhere = tmp_path / "scratch", tmp_path / "else where"
        scratch.mkdir()
        elsewhere.mkdir()
        push("pwd > $PICAS_SCRATCH_NOTE; echo left > file", "true")
        client.save(make_token(9, input="false", cores=1))
        note = tmp_path / "note"
        job = submit(
            "--design-doc",
            "Monitor",
            "--max-tasks",
            "2",
            options=("--array=1", f"--output={tmp_path}/out"),
            folder=elsewhere,
            script=examples / "slurm-example.sh",
            TMPDIR=str(scratch),
            PICAS_SCRATCH_NOTE=str(note),
        )
        assert slurm.wait_for_end(job) == {f"{job}_1": "COMPLETED"}, (tmp_path / "out").read_text()
        assert Path(note.read_text().strip()).parent.parent == scratch
        assert list(scratch.iterdir()) == list(elsewhere.iterdir()) == []
        assert count_states(client)["todo"] == 1


class TestEnds:
    """The token of a pilot that is ended goes back into the pool, and does not count as a failure."""

    TASK = "echo $$ >> {file}; sleep 60"

    def assert_put_back(self, client, started, count=1):
        wait_for_states(client, 15, todo=count, locked=0)
        assert not any(is_alive(pid) for pid in pids(started))
        tokens = [client.get(f"token_{number}") for number in range(count)]
        assert all(token["scrub_count"] == 0 for token in tokens)

    def test_scancel(self, slurm, submit, push, client, started):
        push(self.TASK.format(file=started))
        job = submit(options=("--array=1",))
        wait_for(lambda: pids(started))
        slurm.run("scancel", f"{job}_1")
        self.assert_put_back(client, started)
        assert outcomes(client) == ["stopped"]
        assert attempts(client)[0]["job_id"] == f"{job}_1"

    def test_the_output_of_a_cancelled_job_says_what_became_of_each_token(
        self, slurm, submit, push, client, started, examples
    ):
        push("true", "echo no such file >&2; exit 3", self.TASK.format(file=started))
        job = submit(options=("--array=1",))
        wait_for(lambda: pids(started))
        said = output(examples).splitlines()  # while the job runs
        place = f"{client.url}/{client.database_name}"
        assert said[0] == f"picas {VERSION} on {socket.gethostname()}, slurm job {job}_1, pool {place}"
        slurm.run("scancel", f"{job}_1")
        wait_for_states(client, 15, todo=1, locked=0)
        wait_for(lambda: "Processed 2 tokens: 1 done, 1 failed, 1 stopped" in output(examples))
        ends = [line for line in output(examples).splitlines() if re.match(r"token_\d ", line)]
        assert [re.sub(r"\d+\.\d s", "_ s", line) for line in ends] == [
            "token_0 done _ s: exit 0",
            "token_1 failed _ s: exit 3: no such file",
            "token_2 stopped _ s: put back (SIGTERM)",
        ]
        assert ends[0] in said

    def test_another_pilot_takes_the_token_of_a_cancelled_one(self, slurm, submit, push, client, started):
        push(f"echo $$ >> {started}; [ $(wc -l < {started}) -gt 2 ] || sleep 60", self.TASK.format(file=started))
        job = submit(options=("--array=1-2",))
        wait_for(lambda: len(pids(started)) == 2)
        first = client.get("token_0")["slurm_job_id"]
        assert first.startswith(job)
        slurm.run("scancel", first)
        wait_for_states(client, 15, todo=1)
        second = submit(options=("--array=7",))
        wait_for_states(client, done=1)
        assert outcomes(client) == ["stopped", "done"]
        assert attempts(client)[1]["job_id"] == f"{second}_7"

    def test_the_time_limit(self, slurm, submit, push, client, started):
        """Slurm checks its limits every 30 seconds, and sends the signal up to a minute early."""
        push(self.TASK.format(file=started))
        job = submit(options=("--array=1", "--time=1", "--signal=B:TERM@10"))
        wait_for(lambda: pids(started))
        assert slurm.wait_for_end(job, 75) == {f"{job}_1": "COMPLETED"}
        self.assert_put_back(client, started)
        assert outcomes(client) == ["stopped"]

    def test_preemption_with_requeue(self, slurm, submit, push, client, started):
        push(f"echo $$ >> {started}; [ $(wc -l < {started}) -gt 1 ] || sleep 60")
        job = submit(options=("--array=1", "--requeue"))
        wait_for(lambda: pids(started))
        slurm.run("scontrol", "requeue", job)
        wait_for_states(client, 15, todo=1)
        assert not any(is_alive(pid) for pid in pids(started))
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # otherwise it waits for two minutes
        assert slurm.wait_for_end(job) == {f"{job}_1": "COMPLETED"}
        assert outcomes(client) == ["stopped", "done"]
        assert count_states(client)["done"] == 1

    @pytest.mark.parametrize("grace", ["", "600"])
    def test_a_program_that_ignores_the_signal(self, slurm, submit, push, client, started, grace):
        """It has so little time that the token is put back before Slurm kills the pilot, whatever the user says."""
        push(f"trap '' TERM; echo $$ >> {started}; while true; do sleep 0.1; done")
        job = submit(options=("--array=1",), PICAS_GRACE=grace)
        wait_for(lambda: pids(started))
        slurm.run("scancel", f"{job}_1")
        self.assert_put_back(client, started)
        assert outcomes(client) == ["stopped"]

    def test_a_program_has_all_its_grace_period_after_a_warning(self, slurm, submit, push, client, started, tmp_path):
        """Users ask for a warning that comes earlier than SIGTERM, and for a signal of its own."""
        save = f"sleep 3.5; echo saved > {tmp_path}/checkpoint; exit"
        push(f"trap '{save}' TERM; echo $$ >> {started}; while true; do sleep 0.1; done")
        job = submit(options=("--array=1", "--signal=B:USR1@360"), PICAS_GRACE="240")
        wait_for(lambda: pids(started))
        slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_1")
        self.assert_put_back(client, started)
        assert (tmp_path / "checkpoint").exists()
        assert attempts(client)[0]["reason"] == "stopped: SIGUSR1"


class TestWalltime:
    """Slurm tells a pilot when its job must end."""

    def test_a_token_that_cannot_end_in_time_is_not_taken(self, slurm, submit, client, examples):
        walltimes = {0: 3600, 1: 1, 2: 3600, 3: 1}
        tokens = [make_token(number, input="true", walltime=seconds) for number, seconds in walltimes.items()]
        assert all(client.save_documents(tokens))
        job = submit(options=("--array=1", "--time=2"))
        assert slurm.wait_for_end(job) == {f"{job}_1": "COMPLETED"}
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 2, "error": 0}
        assert re.search(r"No further token: 10\d s are left for work in this job \(squeue\)", output(examples))
        assert "Processed 2 tokens" in output(examples)

    def test_a_token_that_is_longer_than_its_jobs_waits_for_a_longer_one(self, slurm, submit, push, client, examples):
        push("sleep 400", job_ends={"count": 1, "seconds": 30})
        job = submit(options=("--array=1",), PICAS_WALLTIME="10")
        wait_for_states(client, locked=1)
        wait_for(lambda: time.time() > client.get("token_0")["lock"] + 4)  # a stop in the first quarter would not count
        slurm.run("scancel", job)
        wait_for_states(client, todo=1)
        token = client.get("token_0")
        assert re.fullmatch(r"stopped: the time of the job was over after \d+ s", token["attempts"][-1]["reason"])
        assert token["job_ends"] == {"count": 2, "seconds": 30}
        job = submit(options=("--array=1",), PICAS_WALLTIME="10")
        slurm.wait_for_end(job)
        assert "Processed 0 tokens" in output(examples)
        assert len(attempts(client)) == 1

    def test_a_task_of_an_array_asks_for_its_own_end(self, slurm, tmp_path):
        """This task has the job id of the whole array, while tasks with a longer limit are pending."""
        script = tmp_path / "job.sh"
        told = "import picas.batch; print(picas.batch.job_end().seconds)"
        script.write_text(f"#!/bin/bash\n{sys.executable} -c '{told}' > {tmp_path}/$SLURM_JOB_ID\n")
        job = slurm.submit(script, options=("--hold", "--array=1-3", "--time=10"), cwd=tmp_path)
        for task in (1, 2):
            slurm.run("scontrol", "update", f"JobId={job}_{task}", "TimeLimit=30")
        slurm.run("scontrol", "release", f"{job}_3")
        seconds = wait_for(lambda: (tmp_path / job).exists() and (tmp_path / job).read_text())
        assert 500 < float(seconds) <= 600
        wait_for(lambda: slurm.states(job).get(f"{job}_3") == "COMPLETED")

    def test_a_job_that_a_task_of_an_array_has_submitted_has_an_id_and_an_end_of_its_own(self, slurm, tmp_path):
        """It inherits the variables of the array."""
        told = "import os, picas.batch as b; print(b.find_job_id(os.environ)[1], b.job_end().seconds)"
        (tmp_path / "inner.sh").write_text(f"#!/bin/bash\n{sys.executable} -c '{told}' > told\n")
        (tmp_path / "outer.sh").write_text("#!/bin/bash\nsbatch --parsable --time=10 inner.sh > inner\n")
        slurm.submit("outer.sh", options=("--array=3", "--time=60"), cwd=tmp_path)
        name, seconds = wait_for(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text().split())
        assert name == (tmp_path / "inner").read_text().strip()
        assert 500 < float(seconds) <= 600

    def test_a_pilot_notices_that_the_limit_of_its_job_has_changed(self, slurm, push, client, settings, tmp_path):
        push("true", walltime=5000)
        (tmp_path / "pilot.sh").write_text(f"#!/bin/bash\nexec {sys.executable} pilot.py\n")
        (tmp_path / "pilot.py").write_text(IMPATIENT)
        job = slurm.submit("pilot.sh", options=("--time=60",), cwd=tmp_path, env=settings)

        def time_left():
            rows = client.db.view("_all_docs", startkey="picas_pilot_", endkey="picas_pilot_~", include_docs=True)
            return max((row.doc.get("time_left", 0) for row in rows), default=0)

        wait_for(lambda: 3000 < time_left() < 3600)
        slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
        wait_for(lambda: 1500 < time_left() < 1800)
        slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=120")
        wait_for_states(client, done=1)
        assert slurm.wait_for_end(job) == {job: "COMPLETED"}
        assert output(tmp_path).count("The time limit of this job has changed: ") == 2


class TestResources:
    """Slurm tells a pilot what its job was granted."""

    def test_slots_take_the_tokens_that_fit(self, slurm, submit, client, examples, started):
        needs = [{"cores": 3}, {}, {}, {"cores": 4}, {"memory": 501}, {"memory": 500}, {"gpus": 1}]
        command = f"echo begin $PICAS_TOKEN_ID >> {started}; sleep 1; echo end >> {started}"
        assert all(
            client.save_documents([make_token(number, input=command, **need) for number, need in enumerate(needs)])
        )
        job = submit("--slots", "auto", options=("--array=1", "--cpus-per-task=3", "--mem=500"))
        assert slurm.wait_for_end(job) == {f"{job}_1": "COMPLETED"}
        left = [number for number in range(len(needs)) if client.get(f"token_{number}")["lock"] == 0]
        assert left == [3, 4, 6]
        assert "needs more than this pilot has (3 cores, 500 MB)" in output(examples)
        events = started.read_text().splitlines()
        alone = events.index("begin token_0")
        assert events[alone + 1] == "end"  # nothing runs next to it
        assert any(one.startswith("begin") and two.startswith("begin") for one, two in zip(events, events[1:]))

    def test_each_slot_sees_the_gpus_of_its_token_in_all_variables(self, slurm, submit, client, tmp_path):
        saying = f"echo {SEEN} > {tmp_path}/$PICAS_TOKEN_ID; sleep 1"
        tokens = [make_token(number, input=saying, gpus=1) for number in (0, 1)]
        assert all(client.save_documents([*tokens, make_token(2, input=saying)]))
        job = submit("--slots", "2", options=("--array=1-2", "--cpus-per-task=2", "--gpus=2"))
        assert set(slurm.wait_for_end(job).values()) == {"COMPLETED"}
        seen = [(tmp_path / f"token_{number}").read_text().split() for number in range(3)]
        assert sorted(seen[:2]) == [["0"] * 4, ["1"] * 4]
        assert seen[2] == ["-1"] * 4


class TestSteps:
    """srun starts several pilots side by side on a node."""

    @pytest.fixture
    def run_step(self, slurm, examples, settings):
        def run_step(command, *options):
            (examples / "step.sh").write_text(f"#!/bin/bash\nexec {command}\n")
            job = slurm.submit("step.sh", options=("--nodes=1", *options), cwd=examples, env=settings)
            assert slurm.wait_for_end(job) == {job: "COMPLETED"}, output(examples)
            return output(examples)

        return run_step

    @staticmethod
    def pilots(client):
        """Return the cores, slots, memory and GPUs of the pilots that have processed tokens."""
        rows = client.db.view("_all_docs", startkey="picas_ended_", endkey="picas_ended_~", include_docs=True)
        return [(row.doc["cores"], row.doc["slots"], row.doc["memory"], row.doc["gpus"]) for row in rows]

    def test_share_the_node(self, run_step, client, tmp_path):
        """Two of four tasks have one of the two GPUs each; no task has the memory and the cores of all."""
        command = f"echo {SEEN} >> {tmp_path}/seen; sleep 1"
        tokens = [make_token(number, input=command, gpus=1, memory=100) for number in range(4)]
        too_large = [make_token(9, input="true", gpus=1, memory=400, cores=4)]
        assert all(client.save_documents([*tokens, *too_large]))
        said = run_step("srun python3 local-example.py --slots auto", "--ntasks=4", "--mem=400", "--gpus=2")
        assert "needs more than this pilot has (1 core, 100 MB, 1 GPU): 4 cores, 400 MB, 1 GPU" in said
        assert count_states(client) == {"todo": 1, "locked": 0, "done": 4, "error": 0}
        assert set(self.pilots(client)) == {(1, 1, 100, 1)}
        assert set((tmp_path / "seen").read_text().splitlines()) <= {"0 0 0 0", "1 1 1 1"}

    def test_one_runs_on_each_of_two_nodes(self, slurm, submit, push, client, examples):
        push(*["true"] * 4)
        script = (examples / "slurm-example.sh").read_text()
        line = 'exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" python3 "$pilot" --scratch "${TMPDIR:-/tmp}" "$@"'
        assert line in (examples / "slurm.md").read_text().splitlines()
        (examples / "slurm-example.sh").write_text(f"{script[: script.index('exec python3')]}{line}\n")
        options = ("--array=1", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4")
        job = submit("--slots", "auto", options=options)
        assert slurm.wait_for_end(job) == {f"{job}_1": "COMPLETED"}
        assert output(examples).count("Processed") == 2
        assert count_states(client)["done"] == 4
        assert {cores for cores, *_ in self.pilots(client)} == {4}

    def test_slurm_binds_gpus_to_tasks(self, run_step, client, tmp_path):
        both = f"while [ $(wc -l < {tmp_path}/seen) -lt 2 ]; do sleep 0.1; done"
        command = f"echo {SEEN} >> {tmp_path}/seen; {both}"
        assert all(client.save_documents([make_token(number, input=command, gpus=1) for number in range(2)]))
        run_step("srun --gpus-per-task=1 python3 local-example.py", "--ntasks=2", "--gpus=2", "--mem=400")
        assert set(self.pilots(client)) == {(1, 1, 200, 1)}
        assert sorted((tmp_path / "seen").read_text().splitlines()) == ["0 0 0 0", "1 1 1 1"]


class TestAutopilot:
    """run_autopilot.py starts pilots, as a person or cron runs it."""

    @pytest.fixture
    def autopilot(self, settings, examples):
        def autopilot(*arguments, table="", **changes):
            if table:
                (examples / "autopilot.ini").write_text(table)
            command = [sys.executable, "run_autopilot.py", *arguments]
            options = {"cwd": examples, "env": {**settings, **changes}, "capture_output": True, "text": True}
            return subprocess.run(command, timeout=60, check=False, **options)

        return autopilot

    def test_submits_pilots_that_drain_the_pool(self, slurm, autopilot, push, client):
        push(*["sleep 2"] * 5)
        table = "[quick]\nscript = slurm-example.sh\nmax_pilots = 2\ntokens = 2\noptions = --time=5\n"
        said = autopilot("--dry-run", table=table)
        assert said.stdout.endswith(
            "quick: 5 tokens wait, 0 jobs are queued and 0 run, with 0 free slots: 2 pilots would be submitted\n"
        )
        assert not slurm.run("squeue", "-h")
        said = autopilot(SQUEUE_FORMAT="%j", SBATCH_WAIT="1")
        job = re.search(r"submitted 2 pilots as job (\d+)$", said.stdout.strip())[1]
        again = autopilot(SQUEUE_FORMAT="%j", SQUEUE_STATES="SUSPENDED")
        assert (again.returncode, "submitted" in again.stdout) == (0, False)
        assert slurm.wait_for_end(job) == {f"{job}_1": "COMPLETED", f"{job}_2": "COMPLETED"}
        assert count_states(client)["done"] == 5
        assert "0 tokens wait, 0 jobs are queued and 0 run, with 0 free slots: that is enough" in autopilot().stdout
        assert client.get(f"picas_autopilot_quick@{os.getuid()}.lab")["jobs"] == []

    def test_names_the_output_of_jobs_that_fail_and_waits(self, slurm, autopilot, push, examples, client):
        push("true", "true")
        (examples / "broken.sh").write_text("#!/bin/sh\n. /no/such/environment\n")
        (examples / "logs").mkdir()
        table = "[a]\nscript = broken.sh\noptions = --output=logs/%x.%a.txt\n"
        job = autopilot(table=table).stdout.strip().rpartition(" ")[2]
        slurm.wait_for_end(job)
        said = autopilot().stdout
        reason = r"another \d+ s: 2 of the last 2 jobs took no token, see (/.*/logs/picas-a-.*\.1\.txt)$"
        assert "/no/such/environment" in Path(re.search(reason, said.strip())[1]).read_text()
        assert re.search(reason, autopilot().stdout.strip())

    def test_submits_smaller_arrays_if_one_would_be_too_large(self, slurm, autopilot, push):
        push(*["true"] * 25)
        said = autopilot(table="[a]\nscript = slurm-example.sh\nmax_pilots = 25\noptions = --hold\n").stdout
        assert "submitted 25 pilots as jobs " in said
        assert "(not together as 25: sbatch: error: Batch job submission failed: Invalid job array spec" in said
        assert len(slurm.run("squeue", "-h", "-r").splitlines()) == 25
        said = autopilot().stdout
        assert "25 jobs are queued (25 can't start: JobHeldUser) and 0 run" in said
        assert "that is the largest number of jobs allowed" in said

    def test_submits_nothing_more_while_the_partition_is_down(self, slurm, autopilot, push):
        push("true")
        slurm.run("scontrol", "update", "PartitionName=debug", "State=DOWN")
        try:
            assert "submitted 1 pilot" in autopilot(table="[a]\nscript = slurm-example.sh\n").stdout
            wait_for(lambda: "PartitionDown" in slurm.run("squeue", "-h", "-o", "%r"))
            said = autopilot().stdout
        finally:
            slurm.run("scontrol", "update", "PartitionName=debug", "State=UP")
        assert "1 jobs are queued (1 can't start: PartitionDown) and 0 run" in said
        assert "nothing is submitted, as it would not start either: PartitionDown" in said

    def test_submits_no_more_jobs_if_two_run_at_once(self, slurm, autopilot, push):
        push(*["true"] * 8)
        table = "[a]\nscript = slurm-example.sh\nmax_pilots = 4\noptions = --hold\n"
        autopilot("--dry-run", table=table)
        with ThreadPoolExecutor(3) as threads:
            said = [done.stdout for done in threads.map(lambda _: autopilot(), range(3))]
        assert len(slurm.run("squeue", "-h", "-r").splitlines()) == 4
        assert sum("submitted 4 pilots" in line for line in said) == 1

    def test_makes_no_job_for_a_token_that_none_can_take(self, slurm, autopilot, push):
        push("true", cores=1000)
        said = autopilot(table="[a]\nscript = slurm-example.sh\n").stdout
        assert "Monitor/todo: no job of these classes can take all tokens: 1 needs 1000 cores" in said
        assert not slurm.run("squeue", "-h")

    def test_prints_the_error_of_slurm_in_one_line(self, slurm, autopilot, push):
        push("true")
        said = autopilot(table="[a]\nscript = slurm-example.sh\noptions = --partition=none\n")
        assert said.returncode == 1
        assert said.stdout.count("\n") == 1
        assert "invalid partition specified: none" in said.stdout

    def test_submits_nothing_while_a_pilot_is_idle(self, slurm, autopilot, push, client):
        """The only token is postponed, and a pilot waits for it."""
        push("true", not_before=time.time() + 600)
        assert "submitted 1 pilot" in autopilot(table="[a]\nscript = slurm-example.sh\n").stdout
        wait_for(lambda: any(row.id.startswith("picas_pilot_") for row in client.db.view("_all_docs")))
        said = autopilot().stdout
        assert "a: 1 tokens wait, 0 jobs are queued and 1 run, with 1 free slots: that is enough\n" in said


class TestTutorial:
    """The pilots of the tutorial's fractals."""

    @pytest.fixture
    def folder(self, examples, client):
        inputs = [f"python fractal.py julia --c=-0.8+0.{number}j --iterations=100" for number in range(1, 5)]
        tokens = [make_token(number, input=text) for number, text in enumerate(inputs)]
        assert all(client.save_documents(tokens))
        return examples / "tutorial"

    @staticmethod
    def images(client):
        return sum("fractal.png" in client.get(f"token_{number}")["_attachments"] for number in range(4))

    def test_submitted_by_hand(self, slurm, submit, client, folder):
        job = submit(folder=folder, script="slurm-fractals.sh", FRACTAL_SIZE="12x8")
        assert slurm.wait_for_end(job) == {f"{job}_1": "COMPLETED", f"{job}_2": "COMPLETED"}, output(folder)
        assert (count_states(client)["done"], self.images(client)) == (4, 4)
        assert "token_0 done " in output(folder)

    def test_submitted_by_the_autopilot(self, slurm, client, folder, settings):
        run = {"cwd": folder, "env": {**settings, "FRACTAL_SIZE": "12x8"}, "capture_output": True, "text": True}
        said = subprocess.run(command("autopilot", "fractals.ini"), timeout=60, check=True, **run).stdout
        job = re.search(r"fractals: .*submitted 1 pilot as job (\d+)$", said.strip())[1]
        assert set(slurm.wait_for_end(job).values()) == {"COMPLETED"}, output(folder)
        assert (count_states(client)["done"], self.images(client)) == (4, 4)


class TestDeadNodes:
    """Slurm requeues the job, which then starts on the other node."""

    @pytest.fixture
    def slurm(self):
        with Slurm() as slurm:
            yield slurm

    def test_another_pilot_takes_the_token_of_a_dead_node(self, slurm, submit, push, client, started):
        push(f"echo $$ >> {started}; [ $(wc -l < {started}) -gt 1 ] || sleep 60", *["sleep 5"] * 3)
        job = submit(options=("--array=1", "--nodelist=n1"))
        wait_for(lambda: pids(started))
        slurm.kill_node("n1")
        other = submit(options=("--array=8", "--nodelist=n2"))
        assert slurm.wait_for_end(other) == {f"{other}_8": "COMPLETED"}
        assert outcomes(client) == ["lost", "done"]
        assert client.get("token_0")["lost_count"] == 1
        assert count_states(client)["done"] == 4
        assert job != other

    def test_two_copies_of_a_job_never_share_a_token(self, slurm, submit, push, client, started):
        """Slurm takes a node for dead whose pilot is still alive."""
        tasks = 6
        push(*[f"echo $PICAS_TOKEN_ID >> {started}; sleep 6"] * tasks)
        job = submit(options=("--array=1", "--nodelist=n1"))
        wait_for(started.exists)
        slurm.kill_daemons("n1")
        slurm.run("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test")
        wait_for(lambda: "PENDING" in slurm.states(job).values())
        slurm.run("scontrol", "update", f"JobId={job}", "ReqNodeList=", "StartTime=now")
        wait_for(lambda: len(slurm.pilots()) == 2)
        assert slurm.wait_for_end(job) == {f"{job}_1": "COMPLETED"}
        wait_for_states(client, done=tasks)
        assert sorted(started.read_text().split()) == [f"token_{number}" for number in range(tasks)]
        assert all(outcomes(client, f"token_{number}") == ["done"] for number in range(tasks))
        pilots = {attempts(client, f"token_{number}")[0]["pilot"] for number in range(tasks)}
        assert len(pilots) == 2
