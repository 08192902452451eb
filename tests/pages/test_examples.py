"""The example scripts as a person runs them, in a copy of examples/: their output, and one clear line for bad input."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from support.places import EXAMPLES
from support.tokens import make_token

from picas.views import count_states

SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "picasconfig.py")


@pytest.fixture
def folder(tmp_path):
    """A copy of the examples, so that nothing is written into the project."""
    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__", "*.tar", "logs_*"))
    return copy


@pytest.fixture
def script(folder, environment):
    def run(*arguments, stdin="", **changes):
        env = {key: value for key, value in {**environment, **changes}.items() if value is not None}
        command = arguments if arguments[0] == "bash" else (sys.executable, *arguments)
        return subprocess.run(
            command, cwd=folder, env=env, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def complaint(result, code=1):
    """The one line that a script wrote about bad input."""
    assert result.returncode == code, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


class TestQuickExample:
    """The uses that the project was asked for, in their order."""

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

    def test_the_block_that_is_printed_for_each_token(self, script, client):
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
            "exit_code ",
            "-----------------------",
        ]
        assert len(block) == len(expected) + 1
        for line, pattern in zip(block, expected):
            assert line == pattern or re.fullmatch(pattern, line), (line, pattern)

    def test_output_and_exit_code_are_kept_in_the_token(self, script, client):
        script("pushTokens.py", "-", stdin="echo to-out; echo to-err >&2; exit 3\n")
        assert script("local-example.py").returncode == 0
        token = client.get("token_0")
        assert token["exit_code"] == 3
        assert token.get_attachment("logs_token_0.out", client)["data"].endswith(b"to-out\n")
        assert token.get_attachment("logs_token_0.err", client)["data"] == b"to-err\n"
        assert count_states(client)["error"] == 1

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
    def test_a_condition_of_the_users_own(self, script, client):
        client.save_documents([make_token(0, cores=1), make_token(1, cores=4)])
        assert script("createViews.py", "SingleCore", "doc.cores == 1").returncode == 0
        assert [row.id for row in client.view("todo", design_doc="SingleCore").rows] == ["token_0"]

    def test_a_condition_that_is_no_javascript(self, script):
        assert "compilation_error" in complaint(script("createViews.py", "Bad", "doc.cores =="))

    def test_a_name_that_is_none(self, script):
        assert "is not the name of a design document" in complaint(script("createViews.py", "a/b"), code=2)

    def test_the_database_can_be_created_too(self, script, client):
        name = client.db.name + "_new"
        try:
            assert script("createViews.py", "--create-database", PICAS_DATABASE=name).returncode == 0
            assert script("createViews.py", "--create-database", PICAS_DATABASE=name).returncode == 0
        finally:
            del client.server[name]


class TestPushTokens:
    def test_a_resumed_push_says_what_was_there(self, script):
        script("pushTokens.py", "quickExample.txt")
        result = script("pushTokens.py", "--resume", "quickExample.txt")
        assert "3 tokens were in the pool already" in result.stdout

    def test_a_push_that_breaks_off_says_how_to_go_on(self, script, folder, client, is_couchdb):
        if not is_couchdb:
            pytest.skip("the embedded server asks no validation functions")
        rule = "function(doc) { if (doc.input == 'b') throw({forbidden: 'not today'}); }"
        client.save({"_id": "_design/rule", "validate_doc_update": rule})
        (folder / "two.txt").write_text("a\nb\n")
        result = script("pushTokens.py", "two.txt")
        assert result.returncode == 1
        assert "pushTokens.py --resume two.txt" in result.stderr
        assert "the server refuses new tokens, e.g. token_" in result.stderr

    def test_says_what_the_work_needs(self, script, client):
        needs = ["cores=4", "memory=8G", "tags=avx2", "note=a=b", 'list=["x"]', "odd=NaN"]
        result = script("pushTokens.py", *[word for need in needs for word in ("--set", need)], "quickExample.txt")
        assert (result.returncode, result.stderr) == (0, "")
        expected = {"cores": 4, "memory": "8G", "tags": "avx2", "note": "a=b", "list": ["x"], "odd": "NaN"}
        assert client.get("token_2").value.items() >= expected.items()

    def test_a_field_that_is_none(self, script):
        assert "cores is not like FIELD=VALUE" in complaint(script("pushTokens.py", "--set", "cores", "-"), code=2)
        assert "'lock' can't be set" in complaint(script("pushTokens.py", "--set", "lock=1", "quickExample.txt"))

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

    def test_reset_of_tokens_that_are_locked_for_long(self, script, client, push):
        for token in push(2):
            client.save(token.lock())
        assert script("resetTokens.py", "Monitor/locked", "1").stdout == "Reset 0 tokens of Monitor/locked to todo\n"

    @pytest.mark.parametrize("hours", ["x", "-1", "nan"])
    def test_hours_that_are_none(self, script, hours):
        assert "HOURS" in complaint(script("resetTokens.py", "Monitor/locked", "--", hours), code=2)

    @pytest.mark.parametrize("name", ["deleteTokens.py", "resetTokens.py"])
    def test_a_view_that_is_not_there(self, script, name):
        line = complaint(script(name, "Monitor/nope"))
        assert line == f"{name}: there is no view Monitor/nope: create the views with python createViews.py Monitor\n"

    @pytest.mark.parametrize("name", ["deleteTokens.py", "resetTokens.py"])
    @pytest.mark.parametrize("view", ["todo", "Monitor/", "/todo", "a/b/c"])
    def test_a_view_without_its_design_document(self, script, name, view):
        assert "is not DESIGN_DOCUMENT/VIEW, like Monitor/todo" in complaint(script(name, view), code=2)

    @pytest.mark.parametrize(("answer", "left", "code"), [("n\n", 3, 1), ("\n", 3, 1), ("y\n", 0, 0)])
    def test_a_person_at_a_terminal_is_asked_first(self, folder, environment, client, push, answer, left, code):
        push(3)
        primary, secondary = pty.openpty()
        os.write(primary, answer.encode())
        result = subprocess.run(
            [sys.executable, "deleteTokens.py", "Monitor/todo"],
            cwd=folder, env=environment, stdin=secondary, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        os.close(primary)
        os.close(secondary)
        assert "Delete 3 tokens of Monitor/todo?" in result.stderr
        assert (result.returncode, count_states(client)["todo"]) == (code, left)

    def test_yes_asks_nothing(self, script, client, push):
        push(1)
        result = script("deleteTokens.py", "--yes", "Monitor/todo")
        assert (result.stderr, count_states(client)["todo"]) == ("", 0)


class TestLocalExample:
    def test_a_failed_token_is_tried_again(self, script, client):
        script("pushTokens.py", "-", stdin="false\n")
        assert script("local-example.py", "--max-scrub", "2").stdout.endswith("Processed 3 tokens: 3 failed\n")
        assert client.get("token_0")["scrub_count"] == 2

    def test_a_token_that_takes_too_long_is_ended_with_its_logs_so_far(self, script, client):
        script("pushTokens.py", "-", stdin="echo so-far; sleep 60\n")
        result = script("local-example.py", "--max-token-time", "1")
        assert result.stdout.endswith("Processed 1 tokens: 1 time-out\n")
        token = client.get("token_0")
        assert "time-out" in token["error"][0]["message"]
        assert b"so-far" in token.get_attachment("logs_token_0.out", client)["data"]

    def test_a_view_that_is_not_there(self, script):
        assert "there is no view Monitor/nope" in complaint(script("local-example.py", "--view", "nope"))

    @pytest.mark.parametrize("option", ["--max-tasks", "--max-token-time", "--max-total-time"])
    @pytest.mark.parametrize("value", ["0", "-3", "many"])
    def test_limits_that_are_none(self, script, option, value):
        assert option in complaint(script("local-example.py", f"{option}={value}"), code=2)

    def test_verbose_shows_the_log_on_standard_error(self, script):
        script("pushTokens.py", "-", stdin="exit 1\n")
        assert "Token token_0" not in script("local-example.py", "--max-tasks", "1").stdout

    def test_a_scratch_folder_that_is_none(self, script):
        assert "nowhere is not a folder" in complaint(script("local-example.py", "--scratch", "nowhere"), code=2)

    @pytest.mark.parametrize("slots", ["2", "auto"])
    def test_works_on_several_tokens_at_a_time(self, script, client, push, slots):
        push(5, input="echo one")
        result = script("local-example.py", "--slots", slots)
        assert result.stdout.endswith("Processed 5 tokens: 5 done\n")
        assert client.get("token_4")["exit_code"] == 0

    def test_takes_what_it_has_enough_for(self, script, client):
        for need in ("cores=3", "cores=4", "memory=3G", "memory=4G", "gpus=2", "gpus=3", "tags=avx2", "tags=avx3"):
            script("pushTokens.py", "--set", need, "-", stdin="true\n")
        result = script(
            "local-example.py", "--slots=2", "--cores=3", "--memory=3G", "--gpus=2", "--tags=fast,avx2"
        )  # fmt: skip
        assert result.stdout.endswith("Processed 4 tokens: 4 done\n")
        assert count_states(client)["todo"] == 4
        assert "needs more than this pilot has (3 cores, 3072 MB, 2 GPUs, tags avx2 fast)" in result.stderr

    @pytest.mark.parametrize("option", ["--cores=0", "--memory=much", "--gpus=-1"])
    def test_refuses_resources_that_are_none(self, script, option):
        assert option[2:].partition("=")[0] in complaint(script("local-example.py", option))

    @pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
    def test_refuses_an_impossible_number_of_slots(self, script, value):
        assert "--slots" in complaint(script("local-example.py", f"--slots={value}"), code=2)


class TestSettings:
    """Bad settings, for each script that connects."""

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
        # A name of its own: CouchDB locks an account out after some wrong passwords.
        line = complaint(script(*command, PICAS_USERNAME=f"user_{uuid4().hex}", PICAS_PASSWORD="wrong-s3cret"))
        assert "wrong user or password: check PICAS_USERNAME and PICAS_PASSWORD" in line
        assert "wrong-s3cret" not in line

    def test_no_such_database(self, script, command):
        line = complaint(script(*command, PICAS_DATABASE="no_such_database"))
        assert "there is no database no_such_database on http://127.0.0.1" in line
        assert "createViews.py --create-database" in line

    # It tries for some seconds, in each script by the same means: two are enough.
    @pytest.mark.parametrize("command", [["createViews.py"], ["local-example.py"]], ids=" ".join)
    def test_unreachable_server(self, script, command):
        line = complaint(script(*command, PICAS_HOST_URL="http://127.0.0.1:9"))
        assert "can't reach http://127.0.0.1:9 (Connection refused)" in line

    def test_address_without_a_scheme(self, script, command):
        assert "must begin with http:// or https://" in complaint(script(*command, PICAS_HOST_URL="127.0.0.1:5984"))


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


def test_a_picasconfig_with_a_password_that_others_can_read_gets_a_warning(script, folder, environment):
    config = folder / "picasconfig.py"
    config.write_text(f"PICAS_PASSWORD = {environment['PICAS_PASSWORD']!r}\n")
    config.chmod(0o644)
    result = script("createViews.py", PICAS_PASSWORD=None)
    assert result.returncode == 0
    assert f"chmod 600 {config}" in result.stderr


def test_the_settings_as_they_come(script):
    """What a script finds in picasconfig.py if nobody has changed it."""
    code = "import picasconfig as p; print(p.PICAS_HOST_URL, [p.PICAS_DATABASE, p.PICAS_USERNAME, p.PICAS_PASSWORD])"
    nothing = dict.fromkeys(("PICAS_HOST_URL", "PICAS_DATABASE", "PICAS_USERNAME", "PICAS_PASSWORD"))
    assert script("-c", code, **nothing).stdout == "https://picas.surfsara.nl:6984 ['', '', '']\n"


def test_the_template_runs(script, client):
    script("pushTokens.py", "-", stdin="some words\n")
    result = script("example-template.py")
    assert (result.returncode, result.stdout) == (0, "My input is: some words\n")
    assert client.get("token_0")["output"] == {"length": 10}


def test_process_task_passes_the_exit_code_through(script):
    result = script("bash", "process_task.sh", "echo hello; exit 7", "token_9")
    assert result.returncode == 7
    assert "token_9" in result.stdout
    assert result.stdout.endswith("hello\n")


class TestUploads:
    """Results that are too large for the database, by a command that the user names."""

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

    def test_a_storage_that_takes_nothing_is_an_error_of_the_token(self, script, client):
        script("pushTokens.py", "-", stdin=self.WORK)
        script("local-example.py", PICAS_STORAGE="/dev/null/nowhere", PICAS_COPY="install -D")
        token = client.get("token_0")
        assert (token["exit_code"], "uploads" in token) == (1, False)
        assert b"/dev/null" in token.get_attachment("logs_token_0.err", client)["data"]

    def test_what_failed_or_has_no_storage_is_not_uploaded(self, script, client, tmp_path):
        script("pushTokens.py", "-", stdin="echo large > $PICAS_RESULTS/one.dat; exit 3\n")
        script("local-example.py", PICAS_STORAGE=str(tmp_path / "storage"), PICAS_COPY="install -D")
        assert client.get("token_0")["exit_code"] == 3
        script("pushTokens.py", "-", stdin=self.WORK)
        script("local-example.py", PICAS_COPY="install -D")
        assert client.get("token_1")["exit_code"] == 0
        assert ("uploads" in client.get("token_0"), "uploads" in client.get("token_1")) == (False, False)
        assert not (tmp_path / "storage").exists()


def test_the_slurm_script_runs_a_pilot(script, folder, client):
    """Without Slurm: what sbatch would run, from another directory. `exec` leaves no shell between Slurm and Python."""
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
    import signal
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "createViews.py"],
            cwd=folder, env={**environment, "PICAS_HOST_URL": url}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        server.settimeout(10)
        connection, _ = server.accept()
        connection.recv(1)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
        connection.close()
    assert (process.returncode, stderr) == (130, "createViews.py: interrupted\n")
