"""Pilots on a real DIRAC, submitted with the example as users do it, to worker nodes without picas."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from support.dirac_site import Dirac, missing
from support.places import require
from support.tokens import make_token
from support.workers import is_alive, pid_in, wait_for

from picas.tokens.states import state_of
from picas.views import count_states

pytestmark = pytest.mark.timing

SECONDS = 90.0
"""Limit for a submitted job to end, in seconds."""
QUICK = {"PICAS_HEARTBEAT": "0.5", "PICAS_LEASE": "4"}
"""Settings that let pilots react within seconds, not minutes."""


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Skip the tests if DIRAC is not installed."""
    require("dirac", missing())


@pytest.fixture(scope="module")
def dirac(installed):
    with Dirac() as dirac:
        yield dirac


@pytest.fixture(scope="module")
def built(project):
    """The examples, with the sandbox built as the page explains."""
    examples = project / "examples"
    env = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["grid-sandbox/build.sh"], cwd=examples, env=env, check=True, timeout=120)
    return examples


@pytest.fixture
def examples(built, environment, tmp_path):
    """The examples, with the settings filled in."""
    examples = Path(shutil.copytree(built, tmp_path / "examples"))
    set_up(examples, environment)
    return examples


def set_up(examples, environment, **changes):
    """Write the settings to picasconfig.py, where jobs find them."""
    settings = {name: value for name, value in {**environment, **changes}.items() if name.startswith("PICAS_")}
    names = ("PICAS_HOST_URL", "PICAS_DATABASE", "PICAS_USERNAME", "PICAS_PASSWORD")
    (examples / "picasconfig.py").write_text("".join(f"{name} = {settings[name]!r}\n" for name in names))


@pytest.fixture
def submit(dirac, examples):
    """Submit the example and return the ids of its jobs."""

    def submit(count=1):
        jdl = examples / "grid-example.jdl"
        jdl.write_text(jdl.read_text().replace("Parameters = 2;", f"Parameters = {count};"))
        jobs = dirac.submit("grid-example.jdl", cwd=examples)
        assert len(jobs) == count
        return jobs

    return submit


@pytest.fixture
def nodes(dirac):
    """Return a function that starts worker nodes; they are stopped after the test."""
    started = []

    def nodes(count=1, **options):
        started.extend(dirac.start_agent(**QUICK, **options) for _ in range(count))
        return started

    yield nodes
    for agent in started:
        dirac.stop_agent(agent)


def wait_for_status(dirac, jobs, *ends):
    """Return once all jobs are in one of these states; fail if a job ends in another state."""
    give_up = time.monotonic() + SECONDS
    while not (found := set(dirac.status(*jobs).values())) <= set(ends):
        assert not found & ({"Done", "Failed", "Killed"} - set(ends)), found
        assert time.monotonic() < give_up, found
        time.sleep(0.3)


def log(client, token_id, end="out"):
    return client.get(token_id).get_attachment(f"logs_{token_id}.{end}", client)["data"].decode()


def outcomes(client, token_id="token_0"):
    return [attempt["outcome"] for attempt in client.get(token_id).value.get("attempts", [])]


class TestJobs:
    def test_two_concurrent_jobs_drain_the_pool_and_one_token_fails(self, dirac, submit, nodes, client, tmp_path):
        """Each of the first two tokens waits until the other has started."""
        meet = "touch {0}/{1}; while [ ! -e {0}/{2} ]; do sleep 0.1; done; echo met"
        inputs = [meet.format(tmp_path, 0, 1), meet.format(tmp_path, 1, 0), "echo out; echo err >&2", "exit 3"]
        client.save_documents([make_token(number, input=text) for number, text in enumerate(inputs)])
        jobs = submit(2)
        nodes(2)
        wait_for_status(dirac, jobs, "Done")
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 3, "error": 1}
        assert state_of(client.get("token_3")) == "error"
        assert client.get("token_3")["exit_code"] == 3
        assert (log(client, "token_2"), log(client, "token_2", "err")) == (
            "Working on token_2\nout\n",
            "err\n",
        )
        assert {client.get(f"token_{number}")["dirac_job_id"] for number in (0, 1)} == {str(job) for job in jobs}
        output = tmp_path / "output"
        output.mkdir()
        said = [(dirac.output(job, output) / "std.out").read_text() for job in jobs]
        assert all("can be reached" in text for text in said)
        processed = [int(text.rpartition("Processed ")[2].split()[0]) for text in said]
        assert (sum(processed), min(processed) >= 1) == (4, True)

    def test_the_software_can_be_in_a_shared_folder(self, dirac, submit, nodes, client, examples, tmp_path):
        """One line of the JDL is changed, as the page explains."""
        with tarfile.open(examples / "grid-sandbox" / "picas.tar") as archive:
            archive.extractall(tmp_path / "shared")
        with (tmp_path / "shared" / "picas" / "__init__.py").open("a") as package:
            package.write(f"open({str(tmp_path / 'used')!r}, 'w').close()\n")
        (examples / "grid-sandbox" / "picas.tar").unlink()
        (examples / "grid-sandbox" / "software.txt").write_text(f"{tmp_path}/shared\n")
        jdl = examples / "grid-example.jdl"
        jdl.write_text(jdl.read_text().replace('"grid-sandbox/picas.tar"', '"grid-sandbox/software.txt"'))
        client.save(make_token(input="echo path $PYTHONPATH"))
        jobs = submit()
        nodes()
        wait_for_status(dirac, jobs, "Done")
        assert (tmp_path / "used").exists()
        assert log(client, "token_0").splitlines()[-1] == "path", "the task has an environment of its own"
        assert outcomes(client) == ["done"]


class TestFailures:
    def test_another_job_takes_the_token_of_a_killed_one(self, dirac, submit, nodes, client, tmp_path):
        """DIRAC 8 kills without warning; other pilots notice that the heartbeat stops."""
        note = tmp_path / "pids"
        client.save(make_token(input=f"echo $$ >> {note}; [ $(wc -l < {note}) -gt 1 ] || sleep 600"))
        (first,) = submit()
        nodes(2)
        wait_for(note.exists, SECONDS)
        (pid,) = [int(line) for line in wait_for(note.read_text).split()]
        dirac.kill(first)
        wait_for(lambda: not is_alive(pid), SECONDS)
        assert state_of(client.get("token_0")) == "locked"
        # A busy pilot puts back the tokens of dead ones.
        client.save(make_token(1, input=f"while [ ! -e {tmp_path}/back ]; do sleep 0.1; done"))
        (second,) = submit()
        wait_for(lambda: state_of(client.get("token_0")) == "todo", SECONDS)
        (tmp_path / "back").touch()
        wait_for(lambda: outcomes(client)[-1:] == ["done"], SECONDS)
        assert outcomes(client) == ["lost", "done"]
        assert client.get("token_0")["dirac_job_id"] == str(second)

    def test_a_job_at_its_time_limit_puts_its_token_back(self, dirac, submit, nodes, client, examples, tmp_path):
        """This needs a site that reports the time limit to DIRAC."""
        jdl = examples / "grid-example.jdl"
        jdl.write_text(jdl.read_text() + "StopSigStartSeconds = 0;\n")  # otherwise every job gets 30 minutes first
        note = tmp_path / "pid"
        client.save(make_token(input=f"echo $$ > {note}; sleep 600"))
        jobs = submit()
        nodes(seconds_left=400)
        pid = pid_in(note)
        wait_for_status(dirac, jobs, "Done")
        assert not is_alive(pid)
        assert outcomes(client) == ["stopped"]
        assert count_states(client)["todo"] == 1

    def test_a_job_without_the_database_is_rescheduled(self, dirac, submit, nodes, client, gate, examples, environment):
        set_up(examples, environment, PICAS_HOST_URL=gate.url)
        client.save(make_token(input="echo from the grid"))
        gate.close()
        (job,) = submit()
        nodes()
        wait_for(lambda: dirac.reschedulings(job) > 0, SECONDS)
        gate.open()
        wait_for_status(dirac, [job], "Done")
        assert client.get("token_0")["dirac_job_id"] == str(job)
        assert outcomes(client) == ["done"]

    def test_a_result_that_cannot_be_saved_is_in_the_output_of_the_job(
        self, dirac, submit, nodes, client, gate, examples, environment, tmp_path
    ):
        set_up(examples, environment, PICAS_HOST_URL=gate.url)
        client.save(make_token(input=f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/closed ]; do sleep 0.1; done"))
        jobs = submit()
        nodes(PICAS_MAX_OUTAGE="2")
        wait_for((tmp_path / "begun").exists, SECONDS)
        gate.close()
        (tmp_path / "closed").touch()
        wait_for_status(dirac, jobs, "Done", "Failed")
        gate.open()
        folder = dirac.output(jobs[0], tmp_path)
        assert state_of(client.get("token_0")) == "locked"
        recover = [sys.executable, "-m", "picas.cli", "recover", str(folder)]
        result = subprocess.run(recover, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, "recovered 1 result" in result.stdout) == (0, True), result
        assert outcomes(client) == ["done"]
