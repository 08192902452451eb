"""Running commands: their output, their environment, time-outs."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.trees import TREE, pids
from support.workers import is_alive, wait_for

from picas import Task, executers
from picas.executers import execute, execute_old, run_command


def python(code):
    return [sys.executable, "-c", code]


class TestExecute:
    def test_returns_process_exit_code_and_both_outputs(self):
        process, exit_code, stdout, stderr = execute(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert isinstance(process, subprocess.Popen)
        assert process.returncode == exit_code == 3
        assert (stdout, stderr) == (b"out\n", b"err\n")

    def test_binary_output_is_unchanged(self):
        assert execute(["printf", r"\377\000\r\n"])[2] == b"\xff\x00\r\n"

    def test_much_output_on_both_streams_does_not_block(self):
        out, err = execute(["sh", "-c", "head -c 500000 /dev/zero; head -c 500000 /dev/zero >&2"])[2:]
        assert (len(out), len(err)) == (500_000, 500_000)

    def test_a_text_can_be_run_in_a_shell(self):
        assert execute("echo $((6 * 7)) | cat", shell=True)[1:] == (0, b"42\n", b"")

    def test_a_signal_that_ends_the_child_is_a_negative_exit_code(self):
        assert execute(["sh", "-c", "kill -TERM $$"])[1] == -signal.SIGTERM

    def test_a_missing_command_raises(self):
        with pytest.raises(FileNotFoundError):
            execute(["no-such-command"])

    def test_the_child_leads_a_process_group(self):
        process, _, stdout, _ = execute(python("import os; print(os.getpgid(0), os.getsid(0))"))
        assert stdout.split() == [str(process.pid).encode()] * 2

    def test_an_interruption_ends_the_child_and_its_process_group(self, tmp_path):
        class Interruption(BaseException):
            pass

        def raise_it(signum, frame):
            raise Interruption

        previous = signal.signal(signal.SIGUSR1, raise_it)

        def interrupt():
            wait_for((tmp_path / "child").exists)
            os.kill(os.getpid(), signal.SIGUSR1)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises(Interruption):
                run_command(["sh", "-c", TREE], grace=0.2)
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, previous)
        assert not any(map(is_alive, pids(tmp_path).values()))


class TestExecuteOld:
    @pytest.mark.parametrize("command", ["true", "exit 3", "kill -TERM $$", "kill -9 $$"])
    def test_returns_the_same_wait_status_as_os_system(self, command):
        assert execute_old(command) == os.system(command)

    def test_shows_the_output(self, capfd):
        execute_old("echo shown")
        assert capfd.readouterr().out == "shown\n"


class TestRunCommand:
    def test_writes_the_outputs_to_files(self, tmp_path):
        result = run_command(["sh", "-c", "echo out; echo err >&2; exit 4"], stdout="out", stderr=tmp_path / "err")
        assert (result.exit_code, result.timed_out) == (4, False)
        assert (tmp_path / "out").read_bytes() == b"out\n"
        assert (tmp_path / "err").read_bytes() == b"err\n"
        assert result.process.returncode == 4

    def test_binary_output_is_written_unchanged(self, tmp_path):
        run_command(["printf", r"\377\000\r\n"], stdout="out")
        assert (tmp_path / "out").read_bytes() == b"\xff\x00\r\n"

    def test_both_streams_can_go_to_the_same_file_under_two_names(self, tmp_path):
        script = "echo one; echo two >&2; echo three"
        run_command(["sh", "-c", script], stdout="log", stderr=tmp_path / "log")
        assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"

    def test_an_existing_file_is_replaced(self, tmp_path):
        (tmp_path / "log").write_text("a long text of an earlier run")
        run_command(["echo", "new"], stdout="log")
        assert (tmp_path / "log").read_text() == "new\n"

    def test_without_files_the_output_goes_to_that_of_this_process(self, capfd):
        run_command(["sh", "-c", "echo out; echo err >&2"])
        assert capfd.readouterr() == ("out\n", "err\n")

    def test_an_unwritable_file_raises_and_nothing_runs(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            run_command(["touch", "ran"], stdout="no/such/folder/log")
        assert not (tmp_path / "ran").exists()

    def test_runs_in_a_folder(self, tmp_path):
        (tmp_path / "work").mkdir()
        run_command(["pwd"], cwd="work", stdout="out")
        assert (tmp_path / "out").read_text().strip() == str((tmp_path / "work").resolve())

    def test_variables_are_added_to_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OURS", "1")
        run_command('echo "$OURS $THEIRS"', env={"THEIRS": "2"}, shell=True, stdout="out")
        assert (tmp_path / "out").read_text() == "1 2\n"

    @pytest.mark.timing
    def test_the_result_has_the_duration(self):
        assert 0.2 <= run_command(["sleep", "0.2"]).seconds < 5

    def test_background_processes_of_the_command_go_on(self, tmp_path):
        run_command(["sh", "-c", "sleep 30 & echo $! > service"])
        pid = int((tmp_path / "service").read_text())
        assert is_alive(pid)
        os.kill(pid, signal.SIGKILL)


RUN = {
    "run_command": "from picas.executers import run_command; run_command({!r}, shell=True)",
    "execute": "from picas.executers import execute; sys.stdout.buffer.write(execute({!r}, shell=True)[2])",
    "execute_old": "from picas.executers import execute_old; execute_old({!r})",
}
"""Python code that runs a shell command in each way."""


@pytest.fixture(params=RUN)
def run_in_pilot(request):
    """Run a shell command in a Python process with some text at its standard input, and return what both print."""

    def run(command, text, more="", **options):
        code = f"import sys; {RUN[request.param].format(command)}; {more}"
        return subprocess.run(
            [sys.executable, "-c", code],
            input=text,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
            **options,
        ).stdout

    return run


class TestStandardInput:
    """A program reads nothing that a person types, and waits for nobody."""

    def test_is_empty_and_that_of_the_pilot_is_left_alone(self, run_in_pilot):
        out = run_in_pilot("cat; echo end", "typed\n", "sys.stdout.flush(); print(sys.stdin.read())")
        assert out == "end\ntyped\n\n"

    def test_a_question_gets_no_answer(self, run_in_pilot):
        assert run_in_pilot("bash -c 'read -p name: name; echo $?:$name'", "typed\n") == "1:\n"

    def test_of_a_pilot_without_one(self, run_in_pilot):
        assert run_in_pilot("cat; echo end", None, preexec_fn=lambda: os.close(0)) == "end\n"

    @pytest.mark.parametrize("way", RUN)
    def test_there_is_no_terminal(self, way):
        """A program that asks for a password opens /dev/tty. At this one, somebody types."""
        command = "(exec </dev/tty) 2>&1 | grep -o 'No such device'; tty; cat"
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", f"import sys; {RUN[way].format(command)}"])
        os.write(terminal, b"typed\n")
        printed = b""
        try:
            while data := os.read(terminal, 1000):
                printed += data
        except OSError:  # Linux says with EIO that the last process has left the terminal
            pass
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] == 0
        assert printed.split(b"\r\n")[-3:] == [b"No such device", b"not a tty", b""]

    @pytest.mark.parametrize("command", ["cat", ["cat"]], ids=["shell", "arguments"])
    def test_can_be_a_file(self, tmp_path, command):
        content = os.urandom(300_000)
        (tmp_path / "data").write_bytes(content)
        for stdin in ("data", tmp_path / "data"):
            run_command(command, shell=isinstance(command, str), stdin=stdin, stdout="out", cwd="/")
            assert (tmp_path / "out").read_bytes() == content

    def test_can_be_named_empty(self):
        assert run_command(["cat"], stdin=os.devnull, timeout=30).timed_out is False

    @pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
    def test_that_is_no_file_is_refused_and_nothing_runs(self, tmp_path, kind):
        if kind == "folder":
            (tmp_path / kind).mkdir()
        if kind == "pipe":
            os.mkfifo(tmp_path / kind)
        with pytest.raises(OSError, match=f"'{kind}'"):
            run_command(["touch", "ran"], stdin=kind, stdout="out")
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "out").exists()


class TestSettings:
    """A program gets the password of the pool only if it asks for it."""

    SECRET = "s3cret"

    @pytest.fixture(autouse=True)
    def settings(self, monkeypatch):
        monkeypatch.setenv("PICAS_HOST_URL", f"https://me:{self.SECRET}@couch.example.org:6984")
        monkeypatch.setenv("PICAS_DATABASE", "pool")
        monkeypatch.setenv("PICAS_USERNAME", "me")
        monkeypatch.setenv("PICAS_PASSWORD", self.SECRET)
        monkeypatch.setenv("PICAS_PASSWORD_FILE", f"/{self.SECRET}")

    @staticmethod
    def variables(**options):
        run_command("env -0", shell=True, stdout="environment", **options)
        lines = Path("environment").read_text().split("\0")
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def test_are_not_in_the_environment_of_a_program(self, capfd):
        execute_old("env")
        for text in (execute(["env"])[2].decode(), capfd.readouterr().out, str(self.variables(token={"_id": "t"}))):
            assert "PICAS_DATABASE" in text
            assert self.SECRET not in text
            assert "PICAS_PASSWORD" not in text

    def test_are_not_in_a_copy_of_this_environment_that_is_passed_either(self):
        variables = self.variables(env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert self.SECRET not in str(variables)
        assert (variables["OMP_NUM_THREADS"], variables["PICAS_DATABASE"]) == ("1", "pool")
        assert self.variables(env=dict(os.environ), pass_settings=True)["PICAS_PASSWORD"] == self.SECRET

    def test_the_rest_stays(self):
        variables = self.variables()
        assert variables["PICAS_HOST_URL"] == "https://couch.example.org:6984"
        assert (variables["PICAS_DATABASE"], variables["PICAS_USERNAME"]) == ("pool", "me")

    def test_an_address_without_credentials_is_passed_as_it_is(self, monkeypatch):
        monkeypatch.setenv("PICAS_HOST_URL", "https://couch.example.org:6984/?x")
        assert self.variables()["PICAS_HOST_URL"] == "https://couch.example.org:6984/?x"

    @pytest.mark.parametrize(
        "address", ["https://me:s3cret/@h", "me:s3cret@h", "http://me:s3cret@h:x", "http://s3cret@"]
    )
    def test_an_address_with_a_password_that_can_not_be_found_is_left_out(self, monkeypatch, address):
        monkeypatch.setenv("PICAS_HOST_URL", address)
        assert "PICAS_HOST_URL" not in self.variables()

    def test_are_passed_if_that_is_asked_for(self):
        expected = {name: value for name, value in os.environ.items() if name.startswith("PICAS_")}
        assert self.variables(pass_settings=True).items() >= expected.items()
        assert f"PICAS_PASSWORD={self.SECRET}\n" in execute(["env"], pass_settings=True)[2].decode()

    def test_what_the_caller_sets_is_passed(self):
        assert self.variables(env={"PICAS_PASSWORD": "another"})["PICAS_PASSWORD"] == "another"


class TestToken:
    @staticmethod
    def environment_of(token):
        run_command("env -0", shell=True, token=token, stdout="environment")
        lines = [line.partition("=") for line in Path("environment").read_text(encoding="utf-8").split("\0")]
        return {name: value for name, _, value in lines if name.startswith("PICAS_TOKEN")}

    def test_its_id_and_input_are_in_the_environment(self):
        token = Task({"_id": "token_7", "input": 'echo "h\u00e9\nllo"'})
        assert self.environment_of(token) == {"PICAS_TOKEN_ID": "token_7", "PICAS_TOKEN_INPUT": 'echo "h\u00e9\nllo"'}

    @pytest.mark.parametrize("content", [{"a": [1, None, "x"]}, [1, 2], 7, None, True])
    def test_an_input_that_is_not_a_text_is_passed_as_json(self, content):
        environment = self.environment_of({"_id": "t", "input": content})
        assert json.loads(environment["PICAS_TOKEN_INPUT"]) == content

    def test_json_in_the_input_is_readable(self, monkeypatch):
        content = {"name": "Z\u00fcrich \u20ac"}
        assert executers.input_text({"input": content}) == '{"name": "Z\u00fcrich \u20ac"}'
        assert self.environment_of({"input": content})["PICAS_TOKEN_INPUT"] == '{"name": "Z\u00fcrich \u20ac"}'

    def test_json_that_no_program_could_get_is_escaped(self):
        assert self.environment_of({"input": ["\ud800"]})["PICAS_TOKEN_INPUT"] == '["\\ud800"]'

    def test_a_missing_input_is_passed_as_an_empty_text(self):
        assert self.environment_of({"_id": "t"}) == {"PICAS_TOKEN_ID": "t", "PICAS_TOKEN_INPUT": ""}

    @pytest.mark.parametrize(
        "content", ["a\0b", "x" * 200_000, "\u20ac" * 40_000, "\ud800"], ids=["zero", "long", "wide", "half"]
    )
    def test_an_input_that_does_not_fit_an_environment_is_left_out(self, content, monkeypatch):
        monkeypatch.setenv("PICAS_TOKEN_INPUT", "of the pilot's own token")
        assert self.environment_of({"_id": "t", "input": content}) == {"PICAS_TOKEN_ID": "t"}

    def test_the_largest_input_that_is_passed_works(self):
        content = "x" * (executers._MAX_VARIABLE - 1)
        assert self.environment_of({"_id": "t", "input": content})["PICAS_TOKEN_INPUT"] == content

    def test_variables_of_the_caller_take_precedence(self, tmp_path):
        run_command("echo $PICAS_TOKEN_ID", shell=True, token={"_id": "t"}, env={"PICAS_TOKEN_ID": "u"}, stdout="out")
        assert (tmp_path / "out").read_text() == "u\n"


@pytest.mark.timing
class TestTimeout:
    def test_the_child_gets_sigterm_and_can_clean_up(self, tmp_path):
        script = "trap 'echo cleaned > cleaned; exit 5' TERM; echo > ready; while true; do sleep 0.05; done"
        result = run_command(["sh", "-c", script], timeout=0.5, grace=20)
        assert (result.timed_out, result.exit_code) == (True, 5)
        assert (tmp_path / "cleaned").exists()
        assert result.seconds < 10

    def test_after_the_grace_period_the_whole_process_group_is_killed(self, tmp_path, caplog):
        result = run_command(["sh", "-c", TREE], timeout=1, grace=0.3)
        assert (result.timed_out, result.exit_code) == (True, -signal.SIGKILL)
        assert not any(map(is_alive, pids(tmp_path).values()))
        assert "did not end on SIGTERM" in caplog.text

    def test_a_grandchild_that_outlives_the_child_is_killed_too(self, tmp_path):
        script = "sh -c 'trap \"\" TERM; echo $$ > stubborn; while true; do sleep 1; done' & wait"
        result = run_command(["sh", "-c", script], timeout=0.5, grace=0.3)
        assert result.exit_code == -signal.SIGTERM
        assert not is_alive(int((tmp_path / "stubborn").read_text()))

    def test_the_grace_period_ends_early_if_all_processes_end(self):
        result = run_command(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2, grace=30)
        assert result.seconds < 10

    def test_a_stopped_child_ends_too(self):
        result = run_command(["sh", "-c", "kill -STOP $$"], timeout=0.3, grace=30)
        assert result.seconds < 10

    def test_a_command_that_ends_in_time_is_not_ended(self):
        result = run_command(["sh", "-c", "exit 0"], timeout=30)
        assert (result.timed_out, result.exit_code) == (False, 0)
