"""The verb `logs`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from support.places import command
from support.schemas import read_json
from support.tokens import ended_token, make_token
from support.workers import wait_for

from picas import Task, modifiers
from picas.cli import main, output
from picas.pool.program_logs import find_log

BYTES = b"one\r\n\x1b[31mred\x1b[0m \xff\xfe\x00 \xc3\xa9\n" * 2
MEGABYTES = 30
MEASURED = """
import atexit, sys
from resource import RUSAGE_SELF, getrusage
from picas.cli import main
measure = lambda: print(getrusage(RUSAGE_SELF).ru_maxrss, file=sys.stderr)
measure()
atexit.register(measure)
main()
"""
"""Runs the command and prints how much memory its process had before and after, in kilobytes."""


PILOT = """
import picas
from picas.executers import run_command

class Pilot(picas.RunActor):
    def process_task(self, token):
        out = run_command(["bash", "-c", token["input"]], stdout="out.txt")
        token["exit_code"] = out.exit_code
        token.put_log(f"logs_{token.id}.out", "out.txt")

Pilot(picas.connect(), heartbeat=0.2).run()
"""
"""A pilot that runs the programs of its tokens."""


@pytest.fixture
def save(client):
    """Save a token with logs."""

    def save(out=BYTES, err=None, outcomes=("failed",), **fields):
        token = Task(ended_token(7, reason="no", **fields))
        token["attempts"] = [{**token["attempts"][0], "outcome": outcome} for outcome in outcomes]
        for name, data in (("out", out), ("err", err)):
            if data is not None:
                token.put_attachment(f"logs_token_7.{name}", data)
        client.save(token)
        return token

    return save


def logs(environment, *arguments):
    """Return the bytes that the verb has printed."""
    return subprocess.run(
        command("logs", *arguments), env=environment, capture_output=True, timeout=60, check=True
    ).stdout


def test_are_printed_byte_for_byte(environment, save):
    save(err=b"error\n")
    assert logs(environment, "token_7") == BYTES
    assert logs(environment, "token_7", "--err") == b"error\n"


def test_are_escaped_at_a_terminal(at_terminal, save):
    save()
    with at_terminal("logs", "token_7") as terminal:
        assert terminal.end() == 0
    assert terminal.raw == "one\\r\r\n\\x1b[31mred\\x1b[0m \\xff\\xfe\\x00 é\r\n" * 2


def test_a_character_is_not_split_at_a_terminal(environment, save, monkeypatch, capsys):
    save(out=b"x" + "é".encode() * 50_000)  # blocks have an even number of bytes
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["logs", "token_7"])
    assert capsys.readouterr().out == "x" + "é" * 50_000


def test_that_are_large_take_little_memory(environment, client, save, tmp_path, is_couchdb):
    if not is_couchdb:
        pytest.skip("the embedded server sends an attachment in one piece")
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * MEGABYTES)
    client.put_attachment_file(save(out=None), path, "logs_token_7.out")
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, "logs", "token_7"],
        env=environment,
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert ran.stdout == path.read_bytes()
    imported, used = map(int, ran.stderr.split())
    assert used - imported < 10_000


class TestFollow:
    def test_prints_the_output_while_the_program_runs(self, environment, client, push, tmp_path):
        push(1, input="echo begun; while [ ! -e go ]; do sleep 0.05; done; seq 5")
        with subprocess.Popen([sys.executable, "-c", PILOT], env=environment, cwd=tmp_path) as pilot:
            wait_for(lambda: client.get("token_0")["lock"])
            follow = command("logs", "token_0", "--follow")
            with subprocess.Popen(follow, env=environment, stdout=subprocess.PIPE, text=True) as reader:
                assert reader.stdout.readline() == "begun\n"
                (tmp_path / "go").touch()
                assert reader.stdout.read() == "1\n2\n3\n4\n5\n"
                assert (reader.wait(60), pilot.wait(60)) == (0, 0)

    def test_of_a_token_that_has_ended_its_log_is_printed(self, environment, save):
        save()
        assert logs(environment, "token_7", "--follow") == BYTES

    def test_of_a_token_whose_pilot_has_left_it_is_said_what_to_do(self, run_picas, client):
        client.save(modifiers.lock(make_token(0), "picas_pilot_gone"))
        result = run_picas("logs", "token_0", "--follow")
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert "has left the pool: picas retry token_0 puts it back" in result.stderr

    def test_of_a_token_without_a_log_says_so_at_its_end(self, run_picas, client):
        client.save(make_token(0))
        timer = threading.Timer(1, lambda: client.edit("token_0", lambda content: {**content, "lock": 1, "done": 1}))
        timer.start()
        result = run_picas("logs", "token_0", "--follow")
        timer.join()
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.splitlines()[-1] == "picas: token_0 has no log logs_token_0.out: it has no attachments"

    def test_waits_for_a_free_token_until_ctrl_c(self, client, push, at_terminal):
        push(1)
        with at_terminal("logs", "token_0", "--follow") as terminal:
            terminal.wait_for("token_0 waits for a pilot (picas why token_0 says more)")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == 130

    def test_of_a_token_that_is_deleted(self, client, push, at_terminal):
        push(1)
        with at_terminal("logs", "token_0", "--follow") as terminal:
            terminal.wait_for("token_0 waits for a pilot")
            client.delete(client.get("token_0"))
            assert terminal.end() == 1
        assert terminal.text.splitlines()[-1] == "picas: token_0 was deleted"


class TestOfAnAttempt:
    def test_the_one_that_is_kept(self, environment, save):
        save(outcomes=["time-out", "failed"])
        assert logs(environment, "token_7", "--attempt", "2") == BYTES

    @pytest.mark.parametrize(
        ("outcomes", "number", "words"),
        [
            (
                ["time-out", "failed"],
                1,
                "the log of attempt 1 of token_7 is not kept: that of attempt 2 has replaced it",
            ),
            (["failed", "lost"], 2, "attempt 2 of token_7 has left no log: it was lost"),
            (["failed"], 2, "there is no attempt 2 of token_7: 1 attempt of it has ended"),
            ([], 1, "there is no attempt 1 of token_7: 0 attempts of it have ended"),
        ],
        ids=["replaced", "lost", "unknown", "none"],
    )
    def test_one_that_is_not(self, run_picas, save, outcomes, number, words):
        save(outcomes=outcomes)
        result = run_picas("logs", "token_7", "--attempt", str(number))
        assert (result.returncode, result.stdout, result.stderr) == (1, "", f"picas: {words}\n")

    def test_the_one_that_is_running(self, run_picas, client, push):
        (token,) = push(1)
        client.save(modifiers.lock(token, "picas_pilot_a"))
        result = run_picas("logs", "token_0", "--attempt", "1")
        assert (result.returncode, result.stdout) == (1, "")
        assert "attempt 1 of token_0 is running" in result.stderr

    def test_an_earlier_one_is_said_to_be_so(self, run_picas, save):
        save(out=b"text\n", outcomes=["failed", "lost"])
        result = run_picas("logs", "token_7")
        assert (result.returncode, result.stdout) == (0, "text\n")
        assert result.stderr == "This is the log of attempt 1. Later ones have left none so far.\n"

    @pytest.mark.parametrize("has_log", [True, False])
    def test_one_that_was_stopped_may_have_come_so_far_as_to_leave_one(self, client, save, has_log):
        token = save(outcomes=["failed"])
        token["attempts"].append({**token["attempts"][0], "outcome": "stopped"})
        if has_log:
            token.put_attachment("logs_token_7.out", b"so far")
        client.save(token)
        log = find_log(client.get("token_7"))
        assert (log.attempt.number, log.is_of_last) == ((2, True) if has_log else (1, False))


class TestWithoutALog:
    def test_the_attachments_are_named(self, run_picas, client, save):
        token = save(out=None)
        result = run_picas("logs", "token_7")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "picas: token_7 has no log logs_token_7.out: it has no attachments\n"
        token.put_attachment("plot.png", b"")
        token.put_attachment("\x1b[0m", b"")
        client.save(token)
        assert run_picas("logs", "token_7").stderr.endswith(": its attachments are \\x1b[0m, plot.png\n")

    def test_of_a_token_at_work_it_is_said_how_to_see_its_output(self, run_picas, client):
        client.save(modifiers.lock(make_token(0), "picas_pilot_a"))
        assert run_picas("logs", "token_0").stderr.endswith("; it is locked, and --follow shows its output\n")

    def test_of_an_unknown_token(self, run_picas):
        result = run_picas("logs", "token_0")
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)


def test_the_list_as_json(run_picas, client, save):
    save(err=b"error\n")
    found = read_json("logs", run_picas("logs", "token_7", "--json").stdout)
    assert [(each["name"], each["size_bytes"]) for each in found] == [
        ("logs_token_7.err", 6),
        ("logs_token_7.out", len(BYTES)),
    ]
    client.save(make_token(0))
    assert run_picas("logs", "token_0", "--json").stdout == ""


@pytest.mark.parametrize(
    "wrong",
    [
        ["--attempt", "0"],
        ["--attempt", "x"],
        ["--json", "--follow"],
        ["--attempt", "1", "--follow"],
        ["--json", "--err"],
    ],
    ids=" ".join,
)
def test_wrong_usage(run_picas, push, wrong):
    push(1)
    result = run_picas("logs", "token_0", *wrong)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
