"""Commands as children: their output, their environment, and that all that descends from them ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.workers import PRELUDE, hopper, is_alive, wait_for

from picas import Task, executers
from picas.executers import end_all, execute, execute_old, run_command, running
from picas.processes import children, descendants

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells that")

FAMILY = """
trap '' TERM
sleep 60 & echo $! > grandchild
sh -c 'trap "" TERM; echo $$ > stubborn; while true; do sleep 1; done' &
while [ ! -s stubborn ]; do sleep 0.01; done
echo $$ > child
wait; wait; wait
"""
"""A child that ignores SIGTERM, with one child that does not and one that does."""


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    assert running() == []


def pids(folder):
    return {name: int((folder / name).read_text()) for name in ("child", "grandchild", "stubborn")}


def python(code):
    return [sys.executable, "-c", code]


class TestExecute:
    def test_returns_process_exit_code_and_both_outputs(self):
        process, exit_code, stdout, stderr = execute(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert isinstance(process, subprocess.Popen)
        assert process.returncode == exit_code == 3
        assert (stdout, stderr) == (b"out\n", b"err\n")

    def test_output_that_is_no_text_comes_as_it_is(self):
        assert execute(["printf", r"\377\000\r\n"])[2] == b"\xff\x00\r\n"

    def test_much_output_on_both_streams_does_not_block(self):
        out, err = execute(["sh", "-c", "head -c 500000 /dev/zero; head -c 500000 /dev/zero >&2"])[2:]
        assert (len(out), len(err)) == (500_000, 500_000)

    def test_a_shell_reads_a_text_if_told_so(self):
        assert execute("echo $((6 * 7)) | cat", shell=True)[1:] == (0, b"42\n", b"")

    def test_a_child_that_a_signal_ends_has_a_negative_exit_code(self):
        assert execute(["sh", "-c", "kill -TERM $$"])[1] == -signal.SIGTERM

    def test_a_command_that_is_not_there_raises(self):
        with pytest.raises(FileNotFoundError):
            execute(["no-such-command"])

    def test_the_child_leads_a_process_group(self):
        process, _, stdout, _ = execute(python("import os; print(os.getpgid(0), os.getsid(0))"))
        assert stdout.split() == [str(process.pid).encode()] * 2

    def test_a_child_that_is_interrupted_ends_with_all_its_group(self, tmp_path):
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
                run_command(["sh", "-c", FAMILY], grace=0.2)
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, previous)
        assert not any(map(is_alive, pids(tmp_path).values()))


class TestExecuteOld:
    @pytest.mark.parametrize("command", ["true", "exit 3", "kill -TERM $$", "kill -9 $$"])
    def test_returns_the_wait_status_as_os_system_does(self, command):
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

    def test_output_that_is_no_text_is_written_as_it_is(self, tmp_path):
        run_command(["printf", r"\377\000\r\n"], stdout="out")
        assert (tmp_path / "out").read_bytes() == b"\xff\x00\r\n"

    def test_both_streams_can_go_to_one_file_however_that_is_named(self, tmp_path):
        script = "echo one; echo two >&2; echo three"
        run_command(["sh", "-c", script], stdout="log", stderr=tmp_path / "log")
        assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"

    def test_an_older_file_is_replaced(self, tmp_path):
        (tmp_path / "log").write_text("a long text of an earlier run")
        run_command(["echo", "new"], stdout="log")
        assert (tmp_path / "log").read_text() == "new\n"

    def test_without_files_the_output_is_this_process_s(self, capfd):
        run_command(["sh", "-c", "echo out; echo err >&2"])
        assert capfd.readouterr() == ("out\n", "err\n")

    def test_a_file_that_cannot_be_written_raises_and_nothing_runs(self, tmp_path):
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
    def test_says_how_long_it_took(self):
        assert 0.2 <= run_command(["sleep", "0.2"]).seconds < 5

    def test_what_the_child_leaves_running_in_the_background_runs_on(self, tmp_path):
        run_command(["sh", "-c", "sleep 30 & echo $! > service"])
        pid = int((tmp_path / "service").read_text())
        assert is_alive(pid)
        os.kill(pid, signal.SIGKILL)


class TestToken:
    @staticmethod
    def environment_of(token):
        run_command("env -0", shell=True, token=token, stdout="environment")
        lines = [line.partition("=") for line in Path("environment").read_text(encoding="utf-8").split("\0")]
        return {name: value for name, _, value in lines if name.startswith("PICAS_TOKEN")}

    def test_its_id_and_input_are_offered(self):
        token = Task({"_id": "token_7", "input": 'echo "h\u00e9\nllo"'})
        assert self.environment_of(token) == {"PICAS_TOKEN_ID": "token_7", "PICAS_TOKEN_INPUT": 'echo "h\u00e9\nllo"'}

    @pytest.mark.parametrize("content", [{"a": [1, None, "x"]}, [1, 2], 7, None, True])
    def test_an_input_that_is_no_text_comes_as_json(self, content):
        environment = self.environment_of({"_id": "t", "input": content})
        assert json.loads(environment["PICAS_TOKEN_INPUT"]) == content

    def test_a_token_without_input_has_an_empty_one(self):
        assert self.environment_of({"_id": "t"}) == {"PICAS_TOKEN_ID": "t", "PICAS_TOKEN_INPUT": ""}

    @pytest.mark.parametrize(
        "content", ["a\0b", "x" * 200_000, "\u20ac" * 40_000, "\ud800"], ids=["zero", "long", "wide", "half"]
    )
    def test_an_input_that_no_environment_can_hold_is_left_out(self, content, monkeypatch):
        monkeypatch.setenv("PICAS_TOKEN_INPUT", "of the pilot's own token")
        assert self.environment_of({"_id": "t", "input": content}) == {"PICAS_TOKEN_ID": "t"}

    def test_the_largest_input_that_is_offered_can_be_run(self):
        content = "x" * (executers._MAX_VARIABLE - 1)
        assert self.environment_of({"_id": "t", "input": content})["PICAS_TOKEN_INPUT"] == content

    def test_variables_of_the_caller_win(self, tmp_path):
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

    def test_after_the_grace_period_the_whole_group_is_killed(self, tmp_path, caplog):
        result = run_command(["sh", "-c", FAMILY], timeout=1, grace=0.3)
        assert (result.timed_out, result.exit_code) == (True, -signal.SIGKILL)
        assert not any(map(is_alive, pids(tmp_path).values()))
        assert "did not end on SIGTERM" in caplog.text

    def test_a_grandchild_that_outlives_the_child_is_killed_too(self, tmp_path):
        script = "sh -c 'trap \"\" TERM; echo $$ > stubborn; while true; do sleep 1; done' & wait"
        result = run_command(["sh", "-c", script], timeout=0.5, grace=0.3)
        assert result.exit_code == -signal.SIGTERM
        assert not is_alive(int((tmp_path / "stubborn").read_text()))

    def test_nobody_waits_for_the_grace_period_if_all_end_at_once(self):
        result = run_command(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2, grace=30)
        assert result.seconds < 10

    def test_a_stopped_child_ends_too(self):
        result = run_command(["sh", "-c", "kill -STOP $$"], timeout=0.3, grace=30)
        assert result.seconds < 10

    def test_a_command_that_ends_in_time_is_left_alone(self):
        result = run_command(["sh", "-c", "exit 0"], timeout=30)
        assert (result.timed_out, result.exit_code) == (False, 0)

    @linux_only
    def test_zombies_that_nobody_reaps_do_not_hold_it_up(self):
        """In a container without an init they stay for ever: here this test leaves one in the child's group."""
        process = subprocess.Popen(["sleep", "60"], preexec_fn=os.setpgrp)  # noqa: PLW1509
        join = {"preexec_fn": lambda: os.setpgid(0, process.pid)}
        zombie = subprocess.Popen(["true"], **join)
        wait_for(lambda: not is_alive(zombie.pid))
        began = time.monotonic()
        executers.end(process, 10)
        assert time.monotonic() - began < 5
        os.killpg(process.pid, 0)  # the zombie is still there
        assert zombie.wait() == 0


SLEEPER = "sh -c 'echo $$ > escaped.pid; exec sleep 60'"
BOMB = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(5):
    os.fork()
os.setpgid(0, 0)
open("forking", "w").close()
while True:
    if os.fork() == 0:
        time.sleep(0.05)
        os._exit(0)
    os.wait()
"""
"""32 processes that ignore SIGTERM, each in a group of its own, and that fork without end."""


@linux_only
class TestDescendants:
    """Of a child that is ended end too, wherever they have gone."""

    @pytest.fixture(autouse=True)
    def tagged(self, monkeypatch):
        """Mark what the test starts, and leave nothing of it."""
        execute(["true"])  # the first child brings the keeper, which stays
        tag = f"test {os.getpid()} {time.monotonic()}"
        monkeypatch.setenv("TEST_TAG", tag)
        self.mark = descendants.Mark(tag, range(0))
        yield
        for process in self.alive():
            descendants.send(process, signal.SIGKILL)
        for file in Path().glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)

    def alive(self):
        return [process for process in descendants._all() if process.is_alive and self.mark.is_on(process.pid)]

    @staticmethod
    def end_when(file, action, *args, grace=10, **options):
        """Call what runs a command, in a thread, and end that when a file is there; return what it returned."""
        results = []
        thread = threading.Thread(target=lambda: results.append(action(*args, **options)))
        thread.start()
        try:
            wait_for(lambda: Path(file).exists() and (Path(file).suffix != ".pid" or Path(file).read_text().strip()))
        finally:
            (child,) = wait_for(lambda: running(thread.ident))
            assert end_all([child], grace)
            thread.join(30)
        assert not thread.is_alive()
        return results[0]

    @pytest.mark.parametrize(
        "escape",
        {
            "another session": f"setsid {SLEEPER} & wait",
            "another session, its parent dead": f"setsid -f {SLEEPER}; sleep 60",
            "its parent dead": f"({SLEEPER} &); sleep 60",
            "another group, its parent dead": f"(set -m; {SLEEPER} &); sleep 60",
            "forked twice": f"setsid -f sh -c '(setsid -f {SLEEPER.replace(chr(39), chr(34))} &)'; sleep 60",
            "no environment": f"env -i /bin/{SLEEPER} & wait",
            "no environment, another session, its parent dead": f"env -i setsid -f /bin/{SLEEPER}; sleep 60",
            "the child dead": f"setsid -f {SLEEPER}",
        }.items(),
        ids=lambda pair: pair[0],
    )
    @pytest.mark.parametrize("is_stubborn", [False, True], ids=["", "ignores SIGTERM"])
    def test_in(self, escape, is_stubborn):
        script = escape[1]
        if is_stubborn:
            script = f"trap '' TERM; {script}"
        # Its output goes into a pipe that all of them hold.
        self.end_when("escaped.pid", execute, script, shell=True, grace=0.3 if is_stubborn else 30)
        assert not is_alive(int(Path("escaped.pid").read_text()))
        assert self.alive() == []

    @pytest.mark.timing
    def test_a_time_out_of_run_command_ends_them(self):
        wait = "while [ ! -s escaped.pid ]; do sleep 0.01; done"
        result = run_command(f"setsid -f {SLEEPER}; {wait}; sleep 60", shell=True, timeout=1, stdout="log")
        assert result.timed_out
        assert self.alive() == []

    def test_with_an_interruption_they_end(self):
        class Interruption(BaseException):
            pass

        script = f"setsid -f {SLEEPER}; sleep 60"
        with contextlib.suppress(Interruption), children.child(script, shell=True):
            wait_for(lambda: Path("escaped.pid").exists() and Path("escaped.pid").read_text())
            raise Interruption
        assert self.alive() == []

    def test_one_that_goes_on_in_ever_new_processes_ends(self):
        self.end_when("hopping", execute, python(hopper(0.003)), grace=0.2)
        assert self.alive() == []

    @pytest.mark.timing
    def test_a_fork_bomb_ends(self):
        began = time.monotonic()
        self.end_when("forking", execute, python(BOMB), grace=0.2)
        assert time.monotonic() - began < 20
        assert self.alive() == []

    def test_they_have_time_to_clean_up(self):
        script = """setsid -f sh -c 'trap "sleep 0.2; echo > cleaned; exit" TERM; echo $$ > escaped.pid
            while true; do sleep 0.02; done'; sleep 60"""
        self.end_when("escaped.pid", execute, script, shell=True, grace=30)
        assert Path("cleaned").exists()

    def test_those_of_other_children_go_on(self):
        run_command(f"setsid -f {SLEEPER}", shell=True)
        wait_for(lambda: Path("escaped.pid").exists() and Path("escaped.pid").read_text())
        own = subprocess.Popen(["sleep", "60"], start_new_session=True)
        self.end_when("other", execute, ["sh", "-c", "echo > other; exec sleep 60"])
        assert is_alive(int(Path("escaped.pid").read_text()))
        assert own.poll() is None
        own.kill()
        own.wait()

    def test_of_a_user_s_own_popen_those_end_that_have_their_parents(self):
        process = subprocess.Popen(f"{SLEEPER} & wait; true", shell=True)
        wait_for(lambda: Path("escaped.pid").exists() and Path("escaped.pid").read_text())
        assert end_all([process], 10)
        assert process.returncode == -signal.SIGTERM
        assert self.alive() == []

    @pytest.mark.parametrize("is_stubborn", [False, True])
    def test_if_the_system_tells_nothing_at_least_the_child_ends(self, monkeypatch, is_stubborn):
        """As when this process has no descriptor left to read with."""
        script = "trap '' TERM; echo; exec sleep 60" if is_stubborn else "echo; exec sleep 60"
        process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
        process.stdout.readline()
        with monkeypatch.context() as patch:
            patch.setattr(descendants, "_read", lambda path: b"")
            assert end_all([process], 0.3 if is_stubborn else 30)
        assert process.returncode == (-signal.SIGKILL if is_stubborn else -signal.SIGTERM)
        process.stdout.close()

    def test_the_end_of_a_child_that_leaves_nothing_is_cheap(self, monkeypatch):
        """Nobody looks at the processes of the whole machine, of which there may be thousands."""

        def look():
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(descendants, "_all", look)
            assert run_command(["true"]).exit_code == 0
            assert execute(["true"])[1] == 0

    def test_of_a_command_that_ended_in_time_are_left_alone(self):
        result = run_command(f"setsid -f {SLEEPER}", shell=True, timeout=60)
        assert (result.timed_out, result.exit_code) == (False, 0)
        wait_for(lambda: Path("escaped.pid").exists() and Path("escaped.pid").read_text())
        assert end_all([result.process]) is False
        assert is_alive(int(Path("escaped.pid").read_text()))


class TestForked:
    """A process that the user's own code has forked."""

    @pytest.fixture
    def run(self, tmp_path):
        def run(body):
            script = PRELUDE + "from picas.executers import end_all, running\n" + body
            return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True).stdout

        return run

    def test_has_no_part_in_the_children_of_its_parent(self, run):
        body = """
thread = threading.Thread(target=run_command, args=(["sleep", "60"],))
thread.start()
while not running():
    time.sleep(0.01)
(child,) = running()
pid = os.fork()
if pid == 0:
    os._exit(len(running()) + end_all([child], 1))
assert os.waitpid(pid, 0)[1] == 0
assert child.poll() is None
end_all([child], 10)
"""
        run(body)

    @pytest.mark.timing
    def test_can_have_children_itself_and_ends_them_with_their_descendants(self, run):
        body = """
execute(["true"])
pid = os.fork()
if pid == 0:
    script = "setsid -f sh -c 'echo $$ > escaped; exec sleep 60'; while [ ! -s escaped ]; do sleep 0.01; done; sleep 60"
    os._exit(0 if run_command(script, shell=True, timeout=1, grace=5).timed_out else 1)
assert os.waitpid(pid, 0)[1] == 0
"""
        run(body)
        if sys.platform.startswith("linux"):
            assert not is_alive(int(Path("escaped").read_text()))


class TestRunning:
    def test_tells_the_children_of_all_threads_or_of_one(self, tmp_path):
        done = threading.Event()
        threads = []

        def work(name):
            threads.append(threading.get_ident())
            run_command(["sh", "-c", f"echo > {name}; exec sleep 30"], grace=1)
            done.set()

        thread = threading.Thread(target=work, args=("one",))
        thread.start()
        wait_for(lambda: (tmp_path / "one").exists() and running())  # it may write before it is noted here
        (child,) = running()
        assert running(threads[0]) == [child]
        assert running(threading.get_ident()) == []
        assert executers.end_all([child], 5) is True
        thread.join(10)
        assert done.is_set()
        assert executers.end_all([child], 5) is False

    def test_a_popen_of_the_user_s_own_is_ended_alone(self):
        """It has no group of its own: the signal must not hit the pilot."""
        process = subprocess.Popen(["sleep", "60"])
        executers.end(process, 5)
        assert process.returncode == -signal.SIGTERM

    def test_a_popen_that_leads_a_group_is_ended_with_it(self, tmp_path):
        process = subprocess.Popen(["sh", "-c", FAMILY], start_new_session=True)
        wait_for((tmp_path / "child").exists)
        executers.end(process, 0.2)
        assert not any(map(is_alive, pids(tmp_path).values()))

    @pytest.mark.timing
    def test_one_that_has_ended_is_no_work(self):
        process = subprocess.Popen(["true"])
        process.wait()
        began = time.monotonic()
        executers.end(process, 30)
        assert time.monotonic() - began < 5


@linux_only
def test_children_die_when_the_pilot_is_killed(tmp_path):
    script = PRELUDE + "run_command(['sh', '-c', 'echo $$ > child; exec sleep 60'])"
    pilot = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    child = int((tmp_path / "child").read_text())
    assert is_alive(child)
    pilot.kill()
    pilot.wait()
    wait_for(lambda: not is_alive(child), 10)
