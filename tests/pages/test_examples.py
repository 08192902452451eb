"""The example scripts as a user runs them, in a copy of examples/: their output, and one line about bad input."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest
from support.places import EXAMPLES
from support.tokens import MISSING, make_token
from support.workers import PATIENCE, PilotProcess, wait_for

from picas import modifiers
from picas.views import count_states

LINE = "-----------------------"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "picasconfig.py")


@pytest.fixture
def folder(tmp_path):
    """A copy of the examples, so that nothing is written into the project."""
    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__", "*.tar", "logs_*"))
    (copy / "picasconfig.py").chmod(0o644)  # with a umask of 002, git lets the group write to it
    return copy


@pytest.fixture
def script(folder, environment):
    def run(*arguments, stdin="", stdout=subprocess.PIPE, **changes):
        env = {key: value for key, value in {**environment, **changes}.items() if value is not None}
        command = arguments if arguments[0] == "bash" else (sys.executable, *arguments)
        return subprocess.run(
            command, cwd=folder, env=env, input=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def at_terminal(folder, environment):
    """Run a script with a terminal as its standard input, at which somebody types."""

    def run(typed, *arguments):
        primary, secondary = pty.openpty()
        os.write(primary, typed.encode())
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder, env=environment, stdin=secondary, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        os.close(primary)
        os.close(secondary)
        return result

    return run


def complaint(result, code=1):
    """Return the one line that a script wrote about bad input."""
    assert result.returncode == code, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


class TestQuickExample:
    """The steps of the page, in order."""

    def test_from_creating_the_views_to_deleting_the_tokens(self, script, client):
        client.delete(client.get("_design/Monitor"))
        assert script("createViews.py").stdout == "The views in Monitor are created\n"
        assert script("createViews.py").stdout == "The views in Monitor are there already\n"

        pushed = script("pushTokens.py", "quickExample.txt")
        assert (pushed.returncode, pushed.stdout) == (0, "Pushed 3 tokens: token_0 to token_2\n")

        processed = script("local-example.py")
        assert processed.returncode == 0, processed
        assert processed.stdout.endswith("Processed 3 tokens: 3 done\n")
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 3, "error": 0}

        deleted = script("deleteTokens.py", "Monitor/done")
        assert (deleted.returncode, deleted.stdout) == (0, "Deleted 3 tokens of Monitor/done\n")
        assert count_states(client)["done"] == 0

    def test_the_block_of_a_token_ends_with_its_exit_code(self, script):
        script("pushTokens.py", "quickExample.txt")
        block = script("local-example.py", "--max-tasks", "1").stdout.splitlines()
        expected = [
            "-----------------------",
            "Working on token: token_0",
            "_id token_0",
            r"_rev 2-[0-9a-f]{32}",
            "type token",
            r"lock \d{10}",
            "done 0",
            r"hostname \S+",
            "scrub_count 0",
            'input echo "bash-echo"',
            "exit_code 0",
            "-----------------------",
        ]
        assert len(block) == len(expected) + 1
        for line, pattern in zip(block, expected):
            assert line == pattern or re.fullmatch(pattern, line), (line, pattern)

    def test_the_fields_are_printed_before_the_work_starts(self, script, folder, client):
        output = folder / "output"
        script("pushTokens.py", "-", stdin=f"cat {output}; exit 3\n")
        with output.open("w") as stdout:
            script("local-example.py", stdout=stdout)
        log = client.get("token_0").get_attachment("logs_token_0.out", client)["data"].decode()
        assert log.splitlines()[1:3] == [LINE, "Working on token: token_0"]
        assert "exit_code" not in log
        assert output.read_text().splitlines()[-3:] == ["exit_code 3", LINE, "Processed 1 tokens: 1 failed"]

    def test_the_blocks_of_several_slots_do_not_mix(self, script, push):
        push(9, input="sleep 0.0$RANDOM")
        *blocks, last = script("local-example.py", "--slots", "3").stdout.split(f"{LINE}\n")[1:]
        assert last == "Processed 9 tokens: 9 done\n"
        assert blocks[1::2] == [""] * 8
        shown = [(block.splitlines()[0], block.splitlines()[-1]) for block in blocks[::2]]
        assert sorted(shown) == [(f"Working on token: token_{number}", "exit_code 0") for number in range(9)]

    def test_several_slots_in_a_batch_job_print_a_line_for_each_token(self, script, push):
        """Their output goes to one file, where thousands of blocks would hide what has failed."""
        push(9, input="true")
        first, *lines, last = script("local-example.py", "--slots", "3", PBS_JOBID="7").stdout.splitlines()
        assert ("pbs job 7" in first, last) == (True, "Processed 9 tokens: 9 done")
        ends = sorted(re.sub(r" \d+\.\d s", "", line) for line in lines)
        assert ends == [f"token_{number} done: exit 0" for number in range(9)]

    def test_the_block_is_closed_after_a_time_out(self, script):
        script("pushTokens.py", "-", stdin="sleep 60\n")
        lines = script("local-example.py", "--max-token-time", "1").stdout.splitlines()
        assert lines[-3:] == ["exit_code -15", LINE, "Processed 1 tokens: 1 time-out"]

    def test_output_and_exit_code_are_kept_in_the_token(self, script, client):
        script("pushTokens.py", "-", stdin="echo to-out; echo to-err >&2; exit 3\n")
        assert script("local-example.py").returncode == 0
        token = client.get("token_0")
        assert token["exit_code"] == 3
        assert token.get_attachment("logs_token_0.out", client)["data"].endswith(b"to-out\n")
        assert token.get_attachment("logs_token_0.err", client)["data"] == b"to-err\n"
        assert count_states(client)["error"] == 1

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ({"a": [1, None, "\u00fc"]}, '{"a": [1, null, "\u00fc"]}'),
            ([True, 2.5], "[true, 2.5]"),
            ("it's \u20ac", "it's \u20ac"),
            (7, "7"),
            (None, "null"),
            (MISSING, ""),
        ],
    )
    def test_a_program_gets_a_text_unchanged_and_anything_else_as_json(self, script, folder, client, content, text):
        task = '#!/bin/bash\nprintf \'%s\\n%s\\n%s\\n\' "$1" "$2" "$PICAS_TOKEN_INPUT"\n'
        (folder / "process_task.sh").write_text(task)
        token = make_token(0, input=content)
        client.save({name: value for name, value in token.items() if value is not MISSING})
        result = script("local-example.py")
        assert result.stdout.endswith("Processed 1 tokens: 1 done\n")
        log = client.get("token_0").get_attachment("logs_token_0.out", client)["data"].decode()
        assert log == f"{text}\ntoken_0\n{text}\n"
        assert content is MISSING or f"\ninput {text}\n" in result.stdout

    def test_nothing_is_left_beside_the_scripts(self, script, folder, client):
        before = sorted(path.name for path in folder.iterdir())
        script("pushTokens.py", "quickExample.txt")
        script("local-example.py")
        after = {path.name for path in folder.iterdir()}
        assert sorted(after - {"__pycache__"}) == before

    def test_without_work_the_pilot_ends_at_once(self, script):
        result = script("local-example.py")
        assert (result.returncode, result.stdout) == (0, "Processed 0 tokens\n")


class TestCreateViews:
    def test_a_condition_selects_the_tokens(self, script, client):
        client.save_documents([make_token(0, cores=1), make_token(1, cores=4)])
        assert script("createViews.py", "SingleCore", "doc.cores == 1").returncode == 0
        assert [row.id for row in client.view("todo", design_doc="SingleCore").rows] == ["token_0"]

    def test_a_condition_that_is_not_javascript(self, script):
        assert "compilation_error" in complaint(script("createViews.py", "Bad", "doc.cores =="))

    def test_an_invalid_name_is_refused(self, script):
        assert "is not the name of a design document" in complaint(script("createViews.py", "a/b"), code=2)

    def test_the_database_can_be_created_too(self, script, client):
        name = client.db.name + "_new"
        try:
            assert script("createViews.py", "--create-database", PICAS_DATABASE=name).returncode == 0
            assert script("createViews.py", "--create-database", PICAS_DATABASE=name).returncode == 0
        finally:
            del client.server[name]


class TestPushTokens:
    def test_a_resumed_push_reports_existing_tokens(self, script):
        script("pushTokens.py", "quickExample.txt")
        result = script("pushTokens.py", "--resume", "quickExample.txt")
        assert "3 tokens were in the pool already" in result.stdout

    def test_a_file_that_is_in_the_pool_needs_again(self, script, folder):
        script("pushTokens.py", "quickExample.txt")
        line = complaint(script("pushTokens.py", "quickExample.txt"))
        assert line == (
            "pushTokens.py: quickExample.txt is in the pool already, as token_0 to token_2; "
            "--again pushes it once more\n"
        )
        again = script("pushTokens.py", "--again", "quickExample.txt")
        assert (again.returncode, again.stdout) == (0, "Pushed 3 tokens: token_3 to token_5\n")
        script("deleteTokens.py", "Monitor/todo")
        fresh = script("pushTokens.py", "quickExample.txt")
        assert (fresh.stdout, fresh.stderr) == ("Pushed 3 tokens: token_6 to token_8\n", "")

    def test_so_does_standard_input(self, script):
        script("pushTokens.py", "-", stdin="a\n")
        line = complaint(script("pushTokens.py", "-", stdin="a\n"))
        assert "standard input is in the pool already, as token_0; --again" in line
        assert script("pushTokens.py", "--again", "-", stdin="a\n").stdout == "Pushed 1 tokens: token_1\n"

    @pytest.mark.parametrize(("answer", "count", "code"), [("n\n", 3, 1), ("\n", 3, 1), ("y\n", 6, 0)])
    def test_a_person_at_a_terminal_is_asked_before_a_second_push(
        self, script, at_terminal, client, answer, count, code
    ):
        script("pushTokens.py", "quickExample.txt")
        result = at_terminal(answer, "pushTokens.py", "quickExample.txt")
        assert (
            "quickExample.txt is in the pool already, as token_0 to token_2. Push it once more? [y/N]" in result.stderr
        )
        assert (result.returncode, count_states(client)["todo"]) == (code, count)

    def test_a_push_that_did_not_finish_needs_resume_or_again(self, script, folder, client):
        script("pushTokens.py", "quickExample.txt")
        counter = client.get("token_counter")
        counter["pushes"][0]["done"] = False
        client.save(counter)
        line = complaint(script("pushTokens.py", "quickExample.txt"))
        assert line == (
            "pushTokens.py: an earlier push of quickExample.txt did not finish (--resume finishes it); "
            "--again pushes it once more\n"
        )
        assert "not allowed with" in complaint(
            script("pushTokens.py", "--resume", "--again", "quickExample.txt"), code=2
        )

    def test_text_in_another_encoding_is_named(self, script, folder, client):
        (folder / "list.txt").write_bytes("echo one\r\n".encode("utf-16"))
        line = complaint(script("pushTokens.py", "list.txt"))
        assert line == "pushTokens.py: list.txt is UTF-16 text: convert it with iconv -f UTF-16 -t UTF-8\n"
        assert client.doc_count() == 1

    def test_the_program_of_a_line_after_a_byte_order_mark_is_found(self, script, folder, client):
        (folder / "list.txt").write_bytes("echo one\r\n".encode("utf-8-sig"))
        script("pushTokens.py", "list.txt")
        assert script("local-example.py").stdout.endswith("Processed 1 tokens: 1 done\n")

    def test_a_line_that_is_too_large_is_named_before_anything_is_pushed(self, script, folder, client, is_couchdb):
        if not is_couchdb:
            pytest.skip("the embedded server takes 256 MB")
        (folder / "list.txt").write_text("small\n" + "x" * 8_100_000 + "\n")
        line = complaint(script("pushTokens.py", "list.txt"))
        assert "list.txt is too large: its token has 8,100 kB, and the server takes about 7,9" in line
        assert "--resume" not in line
        assert client.doc_count() == 1

    def test_a_failed_push_says_how_to_finish_it(self, script, folder, client, is_couchdb):
        if not is_couchdb:
            pytest.skip("the embedded server asks no validation functions")
        rule = "function(doc) { if (doc.input == 'b') throw({forbidden: 'not today'}); }"
        client.save({"_id": "_design/rule", "validate_doc_update": rule})
        (folder / "two.txt").write_text("a\nb\n")
        result = script("pushTokens.py", "two.txt")
        assert result.returncode == 1
        assert "pushTokens.py --resume two.txt" in result.stderr
        assert "the server refuses new tokens, e.g. token_" in result.stderr

    def test_sets_fields_of_the_tokens(self, script, client):
        needs = ["cores=4", "memory=8G", "tags=avx2", "note=a=b", 'list=["x"]', "odd=NaN"]
        result = script("pushTokens.py", *[word for need in needs for word in ("--set", need)], "quickExample.txt")
        assert (result.returncode, result.stderr) == (0, "")
        expected = {"cores": 4, "memory": "8G", "tags": "avx2", "note": "a=b", "list": ["x"], "odd": "NaN"}
        assert client.get("token_2").value.items() >= expected.items()

    def test_an_invalid_field_is_refused(self, script):
        assert "cores is not like FIELD=VALUE" in complaint(script("pushTokens.py", "--set", "cores", "-"), code=2)
        assert "'lock' can't be set" in complaint(script("pushTokens.py", "--set", "lock=1", "quickExample.txt"))

    def test_a_pipe_is_read_like_standard_input(self, script, folder, client):
        os.mkfifo(folder / "pipe")
        (folder / "list").write_text("in a file\n")
        commands = {
            "python pushTokens.py <(echo substituted)": "substituted",
            "echo piped | python pushTokens.py /dev/stdin": "piped",
            "python pushTokens.py /dev/stdin <list": "in a file",
            "python pushTokens.py --again - <list": "in a file",
            "(echo named >pipe) & timeout 50 python pushTokens.py pipe": "named",
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for number, (command, text) in enumerate(commands.items()):
            result = script("bash", "-c", command, PATH=path)
            assert (result.stdout, result.stderr) == (f"Pushed 1 tokens: token_{number}\n", ""), command
            assert client.get(f"token_{number}")["input"] == text

    def test_standard_input_that_is_closed_or_empty(self, script):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for name in ("-", "/dev/stdin"):
            for command in (f"python pushTokens.py {name} <&-", f"python pushTokens.py {name} </dev/null"):
                assert "standard input has no inputs" in complaint(script("bash", "-c", command, PATH=path))

    def test_a_missing_file(self, script):
        line = complaint(script("pushTokens.py", "nothing.txt"))
        assert line == "pushTokens.py: can't read nothing.txt: No such file or directory\n"

    def test_a_folder(self, script):
        assert "Is a directory" in complaint(script("pushTokens.py", "."))

    def test_an_empty_file(self, script):
        line = complaint(script("pushTokens.py", "-", stdin="# nothing\n"))
        assert line.startswith("pushTokens.py: standard input has no inputs")


class TestDeleteAndReset:
    def test_reset_puts_tokens_back(self, script, client, push):
        for token in push(2):
            client.save(token.lock())
        result = script("resetTokens.py", "Monitor/locked")
        assert (result.returncode, result.stdout) == (0, "Reset 2 tokens of Monitor/locked to todo\n")

    def test_reset_only_of_tokens_locked_long_ago(self, script, client, push):
        for token in push(2):
            client.save(token.lock())
        assert script("resetTokens.py", "Monitor/locked", "1").stdout == "Reset 0 tokens of Monitor/locked to todo\n"

    def test_reset_leaves_what_failed_just_now_by_an_exception(self, script, client, push):
        (token,) = push(1)
        client.save(modifiers.end_attempt(modifiers.set_error(token.lock("pilot"), "bad"), "failed"))
        assert script("resetTokens.py", "Monitor/error", "24").stdout == "Reset 0 tokens of Monitor/error to todo\n"
        assert script("resetTokens.py", "Monitor/error").stdout == "Reset 1 tokens of Monitor/error to todo\n"

    @pytest.fixture
    def held(self, client, push):
        """Six locked tokens: two of a pilot with a document, one of a dead one, two of one without, one of nobody."""
        client.save({"_id": "picas_pilot_a", "type": "pilot", "state": "running", "lease": 1})
        client.save({"_id": "picas_pilot_b", "type": "pilot", "state": "dead"})
        names = ("picas_pilot_a", "picas_pilot_a", "picas_pilot_b", "picas_pilot_c", "picas_pilot_c", "")
        for token, name in zip(push(6), names):
            client.save(token.lock(name))

    WARNING = (
        "2 of 6 locked tokens are held by 1 pilot that may be alive and would lose this work; "
        "--dead leaves live pilots alone"
    )

    def test_reset_warns_of_pilots_that_may_be_alive(self, script, held, client):
        result = script("resetTokens.py", "Monitor/locked")
        assert (result.returncode, result.stdout) == (0, "Reset 6 tokens of Monitor/locked to todo\n")
        assert result.stderr == f"Warning: {self.WARNING}\n"

    def test_reset_says_nothing_of_tokens_of_the_dead(self, script, held, client):
        client.delete(client.get("picas_pilot_a"))
        result = script("resetTokens.py", "Monitor/locked")
        assert (result.stdout, result.stderr) == ("Reset 6 tokens of Monitor/locked to todo\n", "")

    @pytest.mark.parametrize(("answer", "left", "code"), [("n\n", 6, 1), ("y\n", 0, 0)])
    def test_a_person_at_a_terminal_is_asked_before_pilots_lose_tokens(
        self, at_terminal, held, client, answer, left, code
    ):
        result = at_terminal(answer, "resetTokens.py", "Monitor/locked")
        assert f"{self.WARNING}. Reset all? [y/N]" in result.stderr
        assert (result.returncode, count_states(client)["locked"]) == (code, left)

    def test_yes_resets_without_a_question(self, at_terminal, held, client):
        result = at_terminal("", "resetTokens.py", "--yes", "Monitor/locked")
        assert (result.returncode, result.stderr, count_states(client)["locked"]) == (0, "", 0)

    @pytest.mark.timing
    def test_dead_resets_only_tokens_of_dead_and_of_silent_pilots(self, script, held, client):
        beats = threading.Event()

        def beat():
            while not beats.wait(0.1):
                client.edit("picas_pilot_a", lambda pilot: {**pilot, "beat": pilot.get("beat", 0) + 1})

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            result = script("resetTokens.py", "--dead", "Monitor/locked")
        finally:
            beats.set()
            thread.join()
        assert result.returncode == 0
        assert result.stderr == "Watching 1 pilot for up to 1 s to see who is alive\n"
        assert result.stdout == (
            "Left alone 2 tokens of 1 pilot that is alive\n"
            "Left alone 1 tokens that name no pilot: they were locked by an older release or by hand\n"
            "Reset 3 tokens of Monitor/locked to todo\n"
        )
        assert [client.get(f"token_{number}")["lock"] == 0 for number in range(6)] == [
            False, False, True, True, True, False,
        ]  # fmt: skip
        silent = script("resetTokens.py", "--dead", "Monitor/locked")
        assert "Reset 2 tokens of Monitor/locked to todo\n" in silent.stdout
        assert count_states(client)["locked"] == 1

    @pytest.mark.timing
    def test_dead_leaves_the_token_of_a_pilot_at_work(self, script, environment, client, push, tmp_path):
        push(1)
        body = "class Long(Noting):\n    def process_task(self, task): time.sleep(60)\n"
        body += "Long(connect(), heartbeat=0.2, lease=1).run()\n"
        pilot = PilotProcess(tmp_path / "pilot", environment, body)
        try:
            wait_for(lambda: count_states(client)["locked"] == 1)
            result = script("resetTokens.py", "--dead", "Monitor/locked")
        finally:
            pilot.close()
        assert "Left alone 1 tokens of 1 pilot that is alive\nReset 0 tokens" in result.stdout

    @pytest.mark.parametrize("hours", ["x", "-1", "nan"])
    def test_invalid_hours_are_refused(self, script, hours):
        assert "HOURS" in complaint(script("resetTokens.py", "Monitor/locked", "--", hours), code=2)

    @pytest.mark.parametrize("name", ["deleteTokens.py", "resetTokens.py"])
    def test_a_missing_view_is_named_with_those_that_there_are(self, script, name):
        line = complaint(script(name, "Monitor/eror"))
        assert line.startswith(f"{name}: there is no view Monitor/eror: Monitor has the views error, todo, ")
        line = complaint(script(name, "monitor/error"))
        expected = "the design documents are Monitor; picas views monitor creates it\n"
        assert line == f"{name}: there is no view monitor/error: {expected}"

    @pytest.mark.parametrize("name", ["deleteTokens.py", "resetTokens.py"])
    @pytest.mark.parametrize("view", ["todo", "Monitor/", "/todo", "a/b/c"])
    def test_a_view_without_its_design_document(self, script, name, view):
        assert "is not DESIGN_DOCUMENT/VIEW, like Monitor/todo" in complaint(script(name, view), code=2)

    @pytest.mark.parametrize(("answer", "left", "code"), [("n\n", 3, 1), ("\n", 3, 1), ("y\n", 0, 0)])
    def test_a_person_at_a_terminal_is_asked_first(self, at_terminal, client, push, answer, left, code):
        push(3)
        result = at_terminal(answer, "deleteTokens.py", "Monitor/todo")
        assert "Delete 3 tokens of Monitor/todo?" in result.stderr
        assert (result.returncode, count_states(client)["todo"]) == (code, left)

    def test_yes_asks_nothing(self, script, client, push):
        push(1)
        result = script("deleteTokens.py", "--yes", "Monitor/todo")
        assert (result.stderr, count_states(client)["todo"]) == ("", 0)


class TestLocalExample:
    def test_a_failed_token_is_retried(self, script, client):
        script("pushTokens.py", "-", stdin="false\n")
        assert script("local-example.py", "--max-scrub", "2").stdout.endswith("Processed 3 tokens: 3 failed\n")
        assert client.get("token_0")["scrub_count"] == 2

    def test_a_time_out_keeps_the_logs_so_far(self, script, client):
        script("pushTokens.py", "-", stdin="echo so-far; sleep 60\n")
        result = script("local-example.py", "--max-token-time", "1")
        assert result.stdout.endswith("Processed 1 tokens: 1 time-out\n")
        token = client.get("token_0")
        assert "time-out" in token["error"][0]["message"]
        assert b"so-far" in token.get_attachment("logs_token_0.out", client)["data"]

    def test_a_missing_view_is_named_with_those_that_there_are(self, script):
        line = complaint(script("local-example.py", "--view", "tood"))
        assert "there is no view Monitor/tood: Monitor has the views todo, locked, done, error, " in line
        line = complaint(script("local-example.py", "--design-doc", "Monitr"))
        assert "there is no view Monitr/todo: the design documents are Monitor; " in line

    def test_tasks_get_the_password_only_if_that_is_asked_for(self, script, client, environment):
        work = "env | grep ^PICAS_PASSWORD; env | grep ^PICAS_DATABASE\n"
        script("pushTokens.py", "-", stdin=work * 2)
        assert "Processed 1 tokens: 1 done" in script("local-example.py", "--max-tasks", "1").stdout
        assert "Processed 1 tokens: 1 done" in script("local-example.py", "--pass-settings").stdout
        logs = [client.get(f"token_{n}").get_attachment(f"logs_token_{n}.out", client)["data"].decode() for n in (0, 1)]
        rest = f"PICAS_DATABASE={environment['PICAS_DATABASE']}\n"
        assert logs[0].splitlines(keepends=True)[1:] == [rest]
        assert logs[1].splitlines(keepends=True)[1:] == [f"PICAS_PASSWORD={environment['PICAS_PASSWORD']}\n", rest]

    def test_a_task_reads_nothing_that_a_person_types(self, script, client):
        script("pushTokens.py", "-", stdin="cat; read -p password: word; echo $?\n")
        result = script("local-example.py", stdin="typed\n")
        assert result.stdout.endswith("Processed 1 tokens: 1 done\n")
        log = client.get("token_0").get_attachment("logs_token_0.out", client)["data"]
        assert log.splitlines()[1:] == [b"1"]

    @pytest.mark.parametrize("option", ["--max-tasks", "--max-token-time", "--max-total-time"])
    @pytest.mark.parametrize("value", ["0", "-3", "many"])
    def test_invalid_limits_are_refused(self, script, option, value):
        assert option in complaint(script("local-example.py", f"{option}={value}"), code=2)

    def test_verbose_shows_the_log_on_standard_error(self, script):
        script("pushTokens.py", "-", stdin="exit 1\n")
        assert "Token token_0" not in script("local-example.py", "--max-tasks", "1").stdout

    def test_a_missing_scratch_folder_is_named(self, script):
        assert "nowhere is not a folder" in complaint(script("local-example.py", "--scratch", "nowhere"), code=2)

    @pytest.mark.parametrize("slots", ["2", "auto"])
    def test_works_on_several_tokens_at_a_time(self, script, client, push, slots):
        push(5, input="echo one")
        result = script("local-example.py", "--slots", slots)
        assert result.stdout.endswith("Processed 5 tokens: 5 done\n")
        assert client.get("token_4")["exit_code"] == 0

    def test_takes_tokens_that_fit_its_resources(self, script, client):
        for need in ("cores=3", "cores=4", "memory=3G", "memory=4G", "gpus=2", "gpus=3", "tags=avx2", "tags=avx3"):
            script("pushTokens.py", "--set", need, "-", stdin="true\n")
        result = script(
            "local-example.py", "--slots=2", "--cores=3", "--memory=3G", "--gpus=2", "--tags=fast,avx2"
        )  # fmt: skip
        assert result.stdout.endswith("Processed 4 tokens: 4 done\n")
        assert count_states(client)["todo"] == 4
        assert "needs more than this pilot has (3 cores, 3072 MB, 2 GPUs, tags avx2 fast)" in result.stderr

    @pytest.mark.parametrize("option", ["--cores=0", "--memory=much", "--gpus=-1"])
    def test_invalid_resources_are_refused(self, script, option):
        assert option[2:].partition("=")[0] in complaint(script("local-example.py", option), code=2)

    @pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
    def test_an_invalid_number_of_slots_is_refused(self, script, value):
        assert "--slots" in complaint(script("local-example.py", f"--slots={value}"), code=2)


class TestSettings:
    """Missing and wrong settings, for each script that connects."""

    @pytest.fixture(params=SCRIPTS)
    def command(self, request):
        needs = {"pushTokens.py": ["quickExample.txt"], "deleteTokens.py": ["Monitor/todo"]}
        return [request.param, *needs.get(request.param, ["Monitor/todo"] if request.param == "resetTokens.py" else [])]

    def test_help(self, script, command):
        result = script(command[0], "--help")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(f"usage: {command[0]}")

    def test_no_settings(self, script, command):
        nothing = dict.fromkeys(("PICAS_HOST_URL", "PICAS_DATABASE", "PICAS_USERNAME", "PICAS_PASSWORD"))
        line = complaint(script(*command, **nothing))
        assert "Not set: PICAS_DATABASE, PICAS_USERNAME, PICAS_PASSWORD. Set them in picasconfig.py" in line
        assert "export PICAS_DATABASE=" in line

    def test_wrong_password(self, script, command):
        # A random name: CouchDB locks an account after some wrong passwords.
        line = complaint(script(*command, PICAS_USERNAME=f"user_{uuid4().hex}", PICAS_PASSWORD="wrong-s3cret"))
        assert "wrong user or password: check PICAS_USERNAME and PICAS_PASSWORD" in line
        assert "wrong-s3cret" not in line

    def test_no_such_database(self, script, command):
        line = complaint(script(*command, PICAS_DATABASE="no_such_database"))
        assert "there is no database no_such_database on http://127.0.0.1" in line
        assert "picas views --create-database" in line

    # A script retries for some seconds, and all of them do so in the same way: two are enough.
    @pytest.mark.parametrize("command", [["createViews.py"], ["local-example.py"]], ids=" ".join)
    def test_unreachable_server(self, script, command):
        line = complaint(script(*command, PICAS_HOST_URL="http://127.0.0.1:9", PICAS_MAX_OUTAGE="0"))
        assert "can't reach http://127.0.0.1:9 (Connection refused)" in line

    def test_address_without_a_scheme(self, script, command):
        assert "must begin with http:// or https://" in complaint(script(*command, PICAS_HOST_URL="127.0.0.1:5984"))


class TestRights:
    """What users with few rights are told."""

    def test_an_ordinary_user_can_not_create_a_database(self, script, client, person):
        user = person("member")
        line = complaint(script("createViews.py", "--create-database", PICAS_DATABASE=f"{client.db.name}_new", **user))
        words = "this user may not create databases: only an administrator of the server may"
        assert line == f"createViews.py: {words}\n"

    def test_an_ordinary_user_can_use_a_database_that_exists(self, script, person):
        result = script("createViews.py", "--create-database", **person("member"))
        assert (result.returncode, result.stdout) == (0, "The views in Monitor are there already\n")

    @pytest.mark.parametrize("options", [(), ("--create-database",)], ids=str)
    def test_a_member_can_not_create_views(self, script, person, options):
        line = complaint(script("createViews.py", "Own", *options, **person("member")))
        words = "this user may not change views: only an administrator of the database or the server may"
        assert line == f"createViews.py: {words}\n"

    def test_an_administrator_of_the_database_can_create_views(self, script, person):
        assert script("createViews.py", "Own", **person("admin")).stdout == "The views in Own are created\n"

    @pytest.mark.parametrize(
        "command",
        [
            ["createViews.py"],
            ["createViews.py", "--create-database"],
            ["pushTokens.py", "quickExample.txt"],
            ["local-example.py"],
            ["resetTokens.py", "Monitor/error"],
            ["deleteTokens.py", "Monitor/todo"],
            ["run_autopilot.py", "--dry-run"],
            ["example-template.py"],
        ],
        ids=" ".join,
    )
    def test_a_stranger_is_told_who_can_help(self, script, person, command):
        line = complaint(script(*command, **person("stranger")))
        words = "this user is not a member of the database: an administrator of the database or the server can add them"
        assert line == f"{command[0]}: {words}\n"

    def test_a_reader_can_not_push(self, script, person):
        result = script("pushTokens.py", "quickExample.txt", **person("reader"))
        assert result.returncode == 1
        assert "the server does not let this user do that: forbidden: only readers here\n" in result.stderr


def test_the_environment_wins_over_picasconfig(script, folder, client):
    (folder / "picasconfig.py").write_text("PICAS_DATABASE = 'other'\nPICAS_PASSWORD = 'other'\n")
    assert script("createViews.py").returncode == 0


def test_picasconfig_is_enough(script, folder, environment):
    names = ("PICAS_HOST_URL", "PICAS_DATABASE", "PICAS_USERNAME", "PICAS_PASSWORD")
    config = folder / "picasconfig.py"
    config.write_text("".join(f"{name} = {environment[name]!r}\n" for name in names))
    config.chmod(0o600)
    result = script("createViews.py", **dict.fromkeys(names))
    assert (result.returncode, result.stderr) == (0, "")


def test_a_picasconfig_that_others_can_read_gets_a_warning(script, folder, environment):
    config = folder / "picasconfig.py"
    config.write_text(f"PICAS_PASSWORD = {environment['PICAS_PASSWORD']!r}\n")
    config.chmod(0o644)
    result = script("createViews.py", PICAS_PASSWORD=None)
    assert result.returncode == 0
    assert f"chmod 600 {config}" in result.stderr


def test_the_settings_before_anybody_changes_them(script):
    """What picasconfig.py contains in the repository."""
    code = "import picasconfig as p; print(p.PICAS_HOST_URL, [p.PICAS_DATABASE, p.PICAS_USERNAME, p.PICAS_PASSWORD])"
    nothing = dict.fromkeys(("PICAS_HOST_URL", "PICAS_DATABASE", "PICAS_USERNAME", "PICAS_PASSWORD"))
    assert script("-c", code, **nothing).stdout == "https://picas.surfsara.nl:6984 ['', '', '']\n"


def test_the_template_runs(script, client):
    script("pushTokens.py", "-", stdin="some words\n")
    result = script("example-template.py")
    assert (result.returncode, result.stdout) == (0, "My input is: some words\n")
    assert client.get("token_0")["output"] == {"length": 10}


def test_escape_sequences_of_a_token_do_not_reach_the_terminal(script, client):
    client.save_documents([make_token(number, input="true \x1b]0;evil\x07", colour="\x9b31m") for number in range(3)])
    for command in (
        ["local-example.py", "--max-tasks", "1", "-vv"],
        ["local-example.py", "--slots", "2", "--max-tasks", "1"],
    ):
        result = script(*command)
        assert result.returncode == 0
        assert "input true \\x1b]0;evil\\x07\n" in result.stdout
        assert not re.search("[\x1b\x07\x9b]", result.stdout + result.stderr)
    assert script("example-template.py").stdout == "My input is: true \\x1b]0;evil\\x07\n"


@pytest.mark.parametrize("storage", [None, "/dev/null/nowhere"], ids=["no storage", "storage"])
@pytest.mark.parametrize(
    ("work", "printed", "code"),
    [
        ("echo hello; exit 7", "hello\n", 7),
        ("echo hello; exec sh -c 'exit 7'", "hello\n", 7),
        ("set -e; echo hello; false; echo no", "hello\n", 1),
        ("echo [$#$*]", "[0]\n", 0),
        ("echo one\necho 'two  three' # four\n", "one\ntwo  three\n", 0),
        ("echo 'one", "", 2),
        ("exit", "", 0),
        ("[ $$ = $BASHPID ]", "", 0),
        ("echo $?", "0\n", 0),
        ("upload one", "", 127),  # no function of the script is in the way of a program
        ("one_name one", "", 127),
        ("declare name=one; trap 'echo end of $name' EXIT; echo work", "work\nend of one\n", 0),
    ],
)
def test_process_task_runs_any_command_and_passes_its_exit_code_through(script, work, printed, code, storage):
    result = script("bash", "process_task.sh", work, "token_9", PICAS_STORAGE=storage, PICAS_RESULTS="/nowhere")
    assert (result.returncode, result.stdout) == (code, f"Working on token_9\n{printed}")


class TestUploads:
    """Results that are too large for the database go to a storage, by the user's own command."""

    WORK = "echo large > $PICAS_RESULTS/one.dat; echo larger > $PICAS_RESULTS/two.dat; echo log\n"

    @pytest.mark.parametrize("options", [(), ("--scratch", "."), ("--slots", "2")], ids=" ".join)
    def test_their_addresses_are_kept_in_the_token(self, script, client, tmp_path, options):
        script("pushTokens.py", "-", stdin=self.WORK + "echo nothing to keep\n")
        storage = f"{tmp_path}/storage"
        result = script("local-example.py", *options, PICAS_STORAGE=storage, PICAS_COPY="install -D")
        assert "Processed 2 tokens: 2 done" in result.stdout
        uploads = client.get("token_0")["uploads"]
        assert uploads == {name: f"{storage}/token_0_{name}" for name in ("one.dat", "two.dat")}
        assert [Path(uploads[name]).read_text() for name in ("one.dat", "two.dat")] == ["large\n", "larger\n"]
        assert "uploads" not in client.get("token_1")

    @pytest.mark.parametrize("end", ["exit", "exec true", "set -e", "trap 'pkill -P $$' EXIT; sleep 60 & true"])
    def test_results_are_uploaded_however_the_work_ends(self, script, client, tmp_path, end):
        script("pushTokens.py", "-", stdin=f"echo large > $PICAS_RESULTS/one.dat; {end}\n")
        result = script("local-example.py", PICAS_STORAGE=str(tmp_path / "storage"), PICAS_COPY="install -D")
        assert "Processed 1 tokens: 1 done" in result.stdout
        assert list(client.get("token_0")["uploads"]) == ["one.dat"]

    @pytest.mark.parametrize(
        ("id", "name", "stored"),
        [
            ("../escaped", "one.dat", "..=2Fescaped_one.dat"),
            ("a/../../b", "one.dat", "a=2F..=2F..=2Fb_one.dat"),
            ("..%2Fb?c#d", "x%2F..%2F..%2Fy", "..=252Fb=3Fc=23d_x=252F..=252F..=252Fy"),  # for a storage with URLs
            ("käse=1", "-my file.txt", "k=C3=A4se=3D1_-my=20file.txt"),
        ],
    )
    def test_an_id_is_one_name_in_the_storage(self, script, client, tmp_path, id, name, stored):
        client.save(make_token(0, _id=id, input=f'echo large > "$PICAS_RESULTS/{name}"'))
        storage = tmp_path / "storage" / "mine"
        result = script("local-example.py", PICAS_STORAGE=str(storage), PICAS_COPY="install -D")
        assert "Processed 1 tokens: 1 done" in result.stdout
        assert client.get(id)["uploads"] == {name: f"{storage}/{stored}"}
        assert [path.name for path in (tmp_path / "storage").rglob("*")] == ["mine", stored]

    def test_a_failed_upload_is_an_error_of_the_token(self, script, client):
        script("pushTokens.py", "-", stdin=self.WORK)
        script("local-example.py", PICAS_STORAGE="/dev/null/nowhere", PICAS_COPY="install -D")
        token = client.get("token_0")
        assert (token["exit_code"], "uploads" in token) == (1, False)
        assert b"/dev/null" in token.get_attachment("logs_token_0.err", client)["data"]

    def test_failed_work_is_not_uploaded_nor_any_without_a_storage(self, script, client, tmp_path):
        script("pushTokens.py", "-", stdin="echo large > $PICAS_RESULTS/one.dat; exit 3\n")
        script("local-example.py", PICAS_STORAGE=str(tmp_path / "storage"), PICAS_COPY="install -D")
        assert client.get("token_0")["exit_code"] == 3
        script("pushTokens.py", "-", stdin=self.WORK)
        script("local-example.py", PICAS_COPY="install -D")
        assert client.get("token_1")["exit_code"] == 0
        assert ("uploads" in client.get("token_0"), "uploads" in client.get("token_1")) == (False, False)
        assert not (tmp_path / "storage").exists()


def test_the_slurm_script_runs_a_pilot(script, folder, client):
    """Without Slurm, as sbatch would run it. Because of `exec`, there is no shell between Slurm and Python."""
    script("pushTokens.py", "quickExample.txt")
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "python3").symlink_to(sys.executable)
    path = f"{Path(sys.executable).parent}{os.pathsep}{binaries}{os.pathsep}{os.environ['PATH']}"
    result = script("bash", "slurm-example.sh", "--max-tasks", "2", SLURM_SUBMIT_DIR=str(folder), PATH=path)
    assert result.stdout.endswith("Processed 2 tokens: 2 done\n"), result
    assert '\nexec python3 "$pilot"' in (folder / "slurm-example.sh").read_text()


def test_interrupted_scripts_say_so(folder, environment):
    """Ctrl-C while a server does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "createViews.py"],
            cwd=folder, env={**environment, "PICAS_HOST_URL": url}, stderr=subprocess.PIPE, text=True,
            preexec_fn=heed_ctrl_c,  # noqa: PLW1509  # it only resets a signal
        )  # fmt: skip
        server.settimeout(PATIENCE)
        connection, _ = server.accept()
        connection.recv(1)
        stderr = interrupt(process)
        connection.close()
    assert (process.returncode, stderr) == (130, "createViews.py: interrupted\n")


def heed_ctrl_c():
    """Undo what a shell does to its background jobs, and they to their children: ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(process):
    """Send SIGINT until the process ends, and return what it wrote to standard error.

    A signal that arrives just before a system call that blocks is noticed only when that call returns, so a busy
    machine may need a second one, like a person does.
    """
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=5)[1]
    process.kill()
    pytest.fail(f"SIGINT did not end the process: {process.communicate()[1]}")
