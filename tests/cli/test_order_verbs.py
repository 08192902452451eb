"""The verbs that steer pilots: cancel, drain, pause, resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.schemas import read_json
from support.trees import TREE, pids
from support.workers import PilotProcess, is_alive, pid_in, wait_for

from picas import Task
from picas.pilot import find_pause
from picas.pilot.fleet import running_pilots
from picas.tokens.states import state_of
from picas.views import count_states

ENDLESS = """
client = connect()
class Program(RunActor):
    def process_task(self, task):
        result = run_command(["bash", "-c", task["input"]], stdout="out", stderr="err")
        task["exit_code"] = result.exit_code
Program(client, EndlessViewIterator(TaskViewIterator(client, "todo")), grace=1).run(slots=SLOTS, max_scrub=2)
"""


@pytest.fixture
def start(environment, tmp_path):
    """Return a function that starts an endless pilot in a process of its own."""
    started = []

    def start(slots=1, folder="pilot"):
        variables = {**environment, "PICAS_HEARTBEAT": "0.3", "PICAS_LEASE": "30"}
        script = ENDLESS.replace("SLOTS", str(slots))
        started.append(PilotProcess(tmp_path / folder, variables, script))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def silent(client):
    """A pilot that never reads its orders."""
    pilot = {
        "_id": "picas_pilot_silent_1",
        "type": "pilot",
        "state": "running",
        "beat": 3,
        "heartbeat": 60,
        "orders": {},
    }
    client.save({**pilot, "slurm_job_id": "17"})
    return pilot["_id"]


def the_pilot(client):
    return wait_for(lambda: next(running_pilots(client), None))


@pytest.mark.timing
class TestWithPilotsAsProcesses:
    @pytest.mark.parametrize("slots", [1, 4])
    def test_cancel_ends_a_program_with_its_whole_tree(self, client, push, start, run_picas, tmp_path, slots):
        start(slots)
        push(1, input=TREE)
        folder = tmp_path / "pilot"
        pid_in(folder / "child")
        processes = pids(folder)
        result = run_picas("cancel", "token_0", "--message", "wrong input", "--wait")
        assert (result.returncode, result.stdout, result.stderr) == (0, "token token_0 is cancelled\n", "")
        assert not any(map(is_alive, processes.values()))
        token = client.get("token_0")
        reason = f"cancelled by {client.username}: wrong input"
        assert (state_of(token), token["error"][-1]["message"]) == ("error", reason)
        assert token["scrub_count"] == 0

    def test_a_pause_outlasts_the_restart_of_a_pilot(self, client, push, start, run_picas):
        first = start()
        the_pilot(client)
        result = run_picas("pause", "--message", "maintenance", "--wait")
        assert result.returncode == 0
        assert result.stdout == "the pool is paused; tokens at work go on\n1 pilot obeys within 1 s\n"
        push(2, input="true")
        assert first.stop(signal.SIGTERM) == 0
        start(folder="next")
        wait_for(lambda: the_pilot(client)["orders"].get("pause"))
        assert count_states(client)["todo"] == 2
        result = run_picas("resume", "--wait")
        assert (result.returncode, result.stdout) == (0, "the pool is resumed\n1 pilot obeys within 1 s\n")
        wait_for(lambda: count_states(client)["done"] == 2)

    def test_drain_ends_an_endless_pilot(self, client, push, start, run_picas):
        process = start()
        push(1, input="until [ -e go ]; do sleep 0.05; done")
        pilot = wait_for(lambda: the_pilot(client)["slots_busy"] and the_pilot(client))
        result = run_picas("drain", pilot["_id"][:-3], "--wait", "0.5")
        assert (result.returncode, result.stdout) == (
            124,
            "1 pilot obeys within 1 s, and ends once its tokens have ended\n",
        )
        assert result.stderr == f"1 pilot has not ended yet, such as {pilot['_id']}\n"
        (process.folder / "go").touch()
        assert run_picas("drain", "--all", "--wait").returncode in (0, 1)  # the pilot may have ended
        assert process.end() == 0
        assert count_states(client)["done"] == 1
        result = run_picas("drain", "--all")
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "no pilot is running\n")


class TestCancel:
    def test_each_token_gets_a_line(self, client, push, silent, run_picas):
        push(3)
        client.save(Task(client.get("token_1")).lock(silent))
        client.save(Task(client.get("token_2")).lock("picas_pilot_gone"))
        result = run_picas("cancel", "token_0", "-", stdin="token_1\ntoken_2\nabsent\n")
        assert result.returncode == 0
        assert result.stdout.splitlines() == [
            "token token_0 is cancelled",
            "pilot picas_pilot_silent_1 cancels token token_1 within 1 min",
        ]
        assert result.stderr.splitlines() == [
            "token token_2 can't be cancelled: picas_pilot_gone has left the pool",
            "there is no token absent",
        ]
        result = run_picas("cancel", "token_1", "--wait", "0.1")
        assert (result.returncode, result.stderr) == (124, "")

    def test_as_json(self, client, push, silent, run_picas):
        push(2)
        client.save(Task(client.get("token_1")).lock(silent))
        result = run_picas("cancel", "token_0", "token_1", "absent", "--json")
        found = read_json("cancel", result.stdout)
        assert [(each["id"], each["pilot"], each["outcome"]) for each in found] == [
            ("token_0", None, "cancelled"),
            ("token_1", silent, None),
            ("absent", None, None),
        ]
        assert (result.returncode, result.stderr) == (0, "")

    def test_nothing_cancelled_is_a_failure(self, run_picas):
        result = run_picas("cancel", "absent")
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "there is no token absent\n")

    def test_escape_sequences_do_not_reach_the_terminal(self, client, run_picas):
        client.save({"_id": "bad\x1b[31m", "type": "token", "lock": 0, "done": 0})
        assert "\x1b" not in run_picas("cancel", "bad\x1b[31m").stdout
        assert state_of(client.get("bad\x1b[31m")) == "error"


class TestDrain:
    def test_as_json(self, silent, run_picas):
        result = run_picas("drain", "17", "nowhere", "--json")
        (found,) = read_json("drain", result.stdout)
        assert found["ordered"] == [silent]
        assert (found["obeyed"], found["problems"]) == (None, ["no pilot nowhere is running"])
        assert result.returncode == 0
        (found,) = read_json("drain", run_picas("drain", "--all", "--json", "--wait", "0.1").stdout)
        assert (found["ordered"], found["obeyed"]) == ([silent], [])

    @pytest.mark.parametrize("arguments", [[], ["--all", "silent"]])
    def test_either_names_or_all(self, run_picas, arguments):
        result = run_picas("drain", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == "picas: name the pilots to drain, or give --all\n"

    def test_an_ambiguous_beginning(self, client, silent, run_picas):
        client.save({"_id": "picas_pilot_silent_2", "type": "pilot", "state": "running"})
        result = run_picas("drain", "silent")
        assert result.returncode == 2
        assert result.stderr == (
            "picas: silent is the beginning of 2 pilots: picas_pilot_silent_1, picas_pilot_silent_2\n"
        )

    def test_a_pilot_that_is_marked_as_dead(self, client, silent, run_picas):
        client.edit(silent, lambda content: {**content, "state": "dead"})
        result = run_picas("drain", silent)
        assert (result.returncode, result.stderr) == (1, f"pilot {silent} is marked as dead\n")


class TestPause:
    def test_a_pool_without_pilots(self, client, run_picas):
        result = run_picas("pause", "--wait")
        assert (result.returncode, result.stdout) == (0, "the pool is paused; tokens at work go on\n")
        assert find_pause(client).by == client.username
        result = run_picas("resume", "--wait", "--message", "it works again")
        assert (result.returncode, result.stdout) == (0, "the pool is resumed\n")
        result = run_picas("resume")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("the pool is not paused: it was resumed ")
        assert result.stderr.endswith(f"by {client.username}: it works again\n")

    def test_as_json(self, silent, run_picas):
        (found,) = read_json("pause", run_picas("pause", "--json").stdout)
        assert found["ordered"] == [silent]
        (found,) = read_json("resume", run_picas("resume", "--json").stdout)
        assert found["ordered"] == [silent]
        (found,) = read_json("resume", run_picas("resume", "--json").stdout)
        assert found["ordered"] == []
        assert [problem.partition(":")[0] for problem in found["problems"]] == ["the pool is not paused"]


@pytest.mark.parametrize("arguments", [["cancel"], ["pause", "--wait", "soon"], ["resume", "now"]])
def test_wrong_arguments_are_one_line_and_exit_code_2(run_picas, arguments):
    result = run_picas(*arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("arguments", [["cancel", "token_0"], ["drain", "--all"], ["pause"], ["resume"]])
class TestRights:
    def test_who_may_not_write_gets_one_line(self, client, push, silent, person, run_picas, arguments):
        push(1)
        client.save({"_id": "picas_pool", "type": "pool", "paused": {"by": "ann", "time": 1}})
        result = run_picas(*arguments, variables=person("reader"))
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert "only readers here" in result.stderr

    def test_without_the_server(self, run_picas, arguments):
        result = run_picas(*arguments, variables={"PICAS_HOST_URL": "http://127.0.0.1:9"})
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (75, "", 1)


def test_the_autopilot_submits_nothing_while_the_pool_is_paused(
    client, push, environment, run_picas, project, tmp_path
):
    push(3)
    run_picas("pause", "--message", "maintenance")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("squeue", "sbatch"):
        (tools / name).write_text("#!/bin/sh\necho called >> called\n")
        (tools / name).chmod(0o755)
    result = subprocess.run(
        [sys.executable, str(project / "examples" / "run_autopilot.py")],
        env={**environment, "PATH": f"{tools}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    line = f"the pool is paused by {client.username}: maintenance; nothing is submitted\n"
    assert (result.returncode, result.stdout.split(" ", 2)[2], result.stderr) == (0, line, "")
    assert not (tmp_path / "called").exists()
