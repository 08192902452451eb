"""The verb `run`: a pilot that runs a program for each token, without any Python of the user's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.terminal import Terminal
from support.workers import PATIENCE, wait_for

from picas import VERSION
from picas.cli.job_output import describe_end, describe_job
from picas.cli.pilot_options import add_pilot_options, run_options
from picas.cli.running import split_command
from picas.config import Settings
from picas.console import ArgumentParser
from picas.pushes import push_tokens
from picas.views import count_states


@pytest.fixture
def start(environment, tmp_path):
    """Start the verb as a process; it is killed after the test."""
    started = []

    def start(*arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-m", "picas.cli", "run", *arguments],
            env=environment, cwd=tmp_path, text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_runs_the_input_of_each_token_and_says_how_each_has_ended(run_picas, client):
    push_tokens(client, ["echo out; echo oops >&2; exit 3", ["printf", "%s", "a b; c"], {"input": {"x": 1}}])
    result = run_picas("run")
    assert (result.returncode, result.stderr) == (0, "")
    first, second, third, last = result.stdout.splitlines()
    assert first.startswith("token_0 failed")
    assert "exit 3" in first
    assert second.startswith("token_1 done")
    assert third.startswith("token_2 failed")
    assert "only a text or a list can be run without a command" in third
    assert last == "Processed 3 tokens: 1 done, 2 failed"
    assert client.get("token_0").get_attachment("logs_token_0.out", client)["data"] == b"out\n"
    assert client.get("token_0").get_attachment("logs_token_0.err", client)["data"] == b"oops\n"
    assert client.get("token_1").get_attachment("logs_token_1.out", client)["data"] == b"a b; c"
    assert client.get("token_2")["exit_code"] == 99


def test_fills_a_command_with_the_values_of_each_token(run_picas, client):
    push_tokens(client, [{"input": {"name": "a b; $HOME", "alpha": 0.5}, "cores": 1}, {"input": {"alpha": 1}}])
    result = run_picas("run", "--slots=2", "--", "printf", "%s|", "{id}", "{name}", "--alpha={alpha}", "{{--", "--")
    assert result.returncode == 0
    out = client.get("token_0").get_attachment("logs_token_0.out", client)["data"]
    assert out == b"token_0|a b; $HOME|--alpha=0.5|{--|--|"
    assert "token_1 failed" in result.stdout
    assert "the token has no field 'name': it has alpha, id, input" in result.stdout


def test_a_shell_gets_quoted_values(run_picas, client):
    push_tokens(client, [{"input": {"name": "a b; $HOME"}}])
    assert run_picas("run", "--shell", "--", "echo {name} | tr a-z A-Z").returncode == 0
    assert client.get("token_0").get_attachment("logs_token_0.out", client)["data"] == b"A B; $HOME\n"


def test_has_the_options_of_pilots(run_picas, client, tmp_path):
    push_tokens(client, ["touch here; false"] * 2)
    result = run_picas("run", "--scratch=.", "--max-scrub=1", "--max-tasks=2", "--software=fit 1.2", "-v")
    assert result.stdout.endswith("Processed 2 tokens: 2 failed\n")
    assert not (tmp_path / "here").exists()
    assert "INFO" in result.stderr
    assert max(client.get(f"token_{number}")["scrub_count"] for number in (0, 1)) == 1


def test_programs_know_the_software(run_picas, client):
    push_tokens(client, ['echo "$PICAS_SOFTWARE"'])
    run_picas("run", "--software", "fit 1.2")
    assert client.get("token_0").get_attachment("logs_token_0.out", client)["data"] == b"fit 1.2\n"


def test_endless_waits_for_new_tokens_until_it_is_stopped(start, client):
    process = start("--endless")
    push_tokens(client, ["true"])
    wait_for(lambda: count_states(client)["done"] == 1)
    push_tokens(client, ["true"])
    wait_for(lambda: count_states(client)["done"] == 2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    *lines, last = out.splitlines()
    assert [line.split()[:2] for line in lines] == [["token_0", "done"], ["token_1", "done"]]
    assert last == "Processed 2 tokens: 2 done"


def test_a_token_at_work_is_put_back_when_the_pilot_is_stopped(start, client):
    push_tokens(client, ["touch begun; sleep 60"])
    process = start()
    wait_for(lambda: count_states(client)["locked"] == 1)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert out.startswith("token_0 stopped")
    assert count_states(client)["todo"] == 1


@pytest.mark.parametrize("where", ["a pipe that is closed", "a full disk"])
def test_output_that_nobody_takes_ends_no_pilot(start, client, where):
    push_tokens(client, ["true"] * 3)
    if where == "a full disk":
        if not os.path.exists("/dev/full"):  # noqa: PTH110
            pytest.skip("this system has no full device")
        with open("/dev/full", "w") as full:  # noqa: PTH123
            process = start(stdout=full, stderr=full)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        process = start(stdout=writing, stderr=writing)
        os.close(writing)
    assert process.wait(PATIENCE) == 0
    assert count_states(client)["done"] == 3


def test_the_bar_shows_the_progress_of_the_pool(at_terminal, client):
    push_tokens(client, ["true", "false", "true"])
    with at_terminal("run", "--progress") as terminal:
        assert terminal.end() == 0
        assert "━ 2 done, 1 failed of 3\n" in terminal.text
        assert terminal.text.endswith("Processed 3 tokens: 2 done, 1 failed\n")


def test_without_a_terminal_there_is_no_bar(run_picas, client):
    push_tokens(client, ["true"])
    assert run_picas("run", "--progress").stderr == ""


def test_control_characters_of_a_token_do_not_reach_the_terminal(at_terminal, client):
    push_tokens(client, [{"_id": "a\x1b]0;evil\x07", "input": "true"}])
    terminal: Terminal
    with at_terminal("run") as terminal:
        assert terminal.end() == 0
        assert "a\\x1b]0;evil\\x07 done" in terminal.text
        assert "\x07" not in terminal.raw


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--",), 2, "there is no COMMAND after --"),
        (("--shell",), 2, "--shell needs a COMMAND, after --"),
        (("--", "x{"), 2, "the template 'x{' has a single {"),
        (("program",), 2, "unrecognized arguments: program"),
        (("--slots", "0"), 2, "0 is not above 0"),
        (("--slots", "x"), 2, "'x' is not a whole number"),
        (("--cores", "-1"), 2, "-1 is not above 0"),
        (("--gpus", "0.5"), 2, "'0.5' is not a whole number"),
        (("--memory", "much"), 2, "'much' is not a number of megabytes, or like \"4G\""),
        (("--max-token-time", "x"), 2, "'x' is not a duration"),
        (("--scratch", "nowhere"), 2, "nowhere is not a folder"),
        (("--view", "tood"), 1, "there is no view Monitor/tood: Monitor has the views todo,"),
    ],
)
def test_bad_arguments_get_one_line(run_picas, arguments, code, words):
    result = run_picas("run", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_too_many_failures_end_the_pilot(run_picas, client):
    push_tokens(client, ["false"] * 4)
    result = run_picas("run", "--max-failures=2")
    assert result.returncode == 1
    assert result.stdout.endswith("Processed 2 tokens: 2 failed\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "waits"), [([], True), (["--no-wait-for-locked"], False)])
def test_waits_for_tokens_of_pilots_that_may_have_died_unless_told_otherwise(arguments, waits):
    parser = ArgumentParser()
    add_pilot_options(parser, wait_for_locked=True)
    assert run_options(parser.parse_args(arguments))["wait_for_locked"] is waits


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5", 1.5), ("1e3", 1000), ("15m", 900), ("2h", 7200)])
def test_limits_are_durations(text, seconds):
    parser = ArgumentParser()
    add_pilot_options(parser)
    given = parser.parse_args(["--max-token-time", text, "--max-total-time", text, "--retry-delay", text])
    options = run_options(given)
    assert {options[name] for name in ("max_token_time", "max_total_time", "retry_delay")} == {seconds}


@pytest.mark.parametrize("text", ["2x", "-3", "nan", "inf", "0h"])
def test_bad_durations_are_refused(text, capsys):
    parser = ArgumentParser(prog="picas run")
    add_pilot_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--max-token-time={text}"])
    assert capsys.readouterr().err.startswith("picas run: argument --max-token-time: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["echo", "a b"], "unrecognized arguments: echo a b: COMMAND stands after --, as in picas run -- echo 'a b'"),
        (["--slot", "2", "-x"], "unrecognized arguments: -x"),
        (["-x", "echo"], "unrecognized arguments: -x echo"),
    ],
)
def test_words_that_are_no_options_get_a_hint(run_picas, arguments, line):
    result = run_picas("run", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"picas run: {line} (see --help)\n"


def test_the_command_begins_after_the_first_two_dashes() -> None:
    assert split_command(["run", "-v", "--", "git", "log", "--", "x"]) == (["run", "-v"], ["git", "log", "--", "x"])
    assert split_command(["run", "--"]) == (["run"], [])
    assert split_command(["run"]) == (["run"], None)
    assert split_command(["push", "--", "-x"]) == (["push", "--", "-x"], None)


@pytest.mark.parametrize(
    ("token", "line"),
    [
        ({"attempts": [{"outcome": "done", "seconds": 1.25, "exit_code": 0}]}, "t done 1.2 s: exit 0"),
        ({"attempts": [{"outcome": "failed", "seconds": 60.0, "reason": "exit 2: no"}]}, "t failed 60.0 s: exit 2: no"),
        (
            {"attempts": [{"outcome": "time-out", "reason": "time-out after 9 s", "exit_code": -15}]},
            "t time-out: time-out after 9 s (signal 15)",
        ),
        ({"attempts": [{"outcome": "failed", "exit_code": 2}]}, "t failed: exit 2"),
        ({"attempts": [{"outcome": "failed", "exit_code": -9}]}, "t failed: signal 9"),
        ({"attempts": [{"outcome": "stopped", "exit_code": ""}]}, "t stopped: put back"),
        (
            {"lock": 0, "done": 0, "attempts": [{"outcome": "stopped", "seconds": 3.0, "reason": "stopped: SIGTERM"}]},
            "t stopped 3.0 s: put back (SIGTERM)",
        ),
        (
            {"lock": 1, "done": 1, "exit_code": 99, "attempts": [{"outcome": "stopped", "reason": "stopped: SIGTERM"}]},
            "t stopped: stopped: SIGTERM",
        ),
        ({"attempts": [{"outcome": "failed", "exit_code": 99}], "error": [{"message": "no\nway"}]}, "t failed: no way"),
        ({}, "t : no exit code"),
    ],
)
def test_the_line_of_a_token(token, line):
    assert describe_end({"_id": "t", **token}) == line


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "13"}, "slurm job 12_3"),
        ({"DIRACJOBID": "42", "SLURM_JOB_ID": "13"}, "dirac job 42"),
        ({"GLITE_WMS_JOBID": "nowhere"}, "wms job without an id"),
    ],
)
def test_the_first_line_in_a_job_names_the_host_the_job_and_the_pool(environment, job) -> None:
    settings = Settings("http://h:5984", "pool", "me", "hunter2")
    assert (
        describe_job(settings, environment)
        == f"picas {VERSION} on {socket.gethostname()}, {job}, pool http://h:5984/pool"
    )


def test_outside_a_job_there_is_no_first_line() -> None:
    assert describe_job(Settings("http://h", "pool", "me", "hunter2"), {}) is None


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_stop_puts_the_token_back_and_only_ctrl_c_is_an_interruption(start, client, push, signum, code):
    push(1, input="sleep 60")
    pilot = start()
    wait_for(lambda: count_states(client)["locked"])
    pilot.send_signal(signum)
    printed, _ = pilot.communicate(timeout=PATIENCE)
    assert (pilot.returncode, printed.splitlines()[-1]) == (code, "Processed 0 tokens: 1 stopped")
    assert count_states(client)["todo"] == 1
