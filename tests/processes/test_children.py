"""Starting children, knowing which run, and ending them with all their descendants."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.trees import TREE, pids
from support.workers import PRELUDE, hopper, is_alive, pid_in, wait_for

from picas.executers import execute, run_command
from picas.processes import children, descendants
from picas.processes.children import end, end_all, left_behind, running

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can find all descendants")

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
"""32 processes that ignore SIGTERM, each in its own process group, and that fork endlessly."""


@linux_only
class TestDescendants:
    """The descendants of a child end with it, wherever they have moved."""

    @pytest.fixture(autouse=True)
    def tag(self, tagged):
        self.alive = tagged

    @staticmethod
    def end_when(file, action, *args, grace=10, **options):
        """Call `action`, which runs a command, in a thread; end the command when a file exists; return the result."""
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

    def test_an_interruption_ends_them(self):
        class Interruption(BaseException):
            pass

        script = f"setsid -f {SLEEPER}; sleep 60"
        with contextlib.suppress(Interruption), children.child(script, shell=True):
            wait_for(lambda: Path("escaped.pid").exists() and Path("escaped.pid").read_text())
            raise Interruption
        assert self.alive() == []

    def test_a_process_that_keeps_forking_and_ending_is_ended(self):
        self.end_when("hopping", execute, [sys.executable, "-c", hopper(0.003)], grace=0.2)
        assert self.alive() == []

    @pytest.mark.timing
    def test_a_fork_bomb_is_ended(self):
        began = time.monotonic()
        self.end_when("forking", execute, [sys.executable, "-c", BOMB], grace=0.2)
        assert time.monotonic() - began < 20
        assert self.alive() == []

    def test_they_have_time_to_clean_up(self):
        script = """setsid -f sh -c 'trap "sleep 0.2; echo > cleaned; exit" TERM; echo $$ > escaped.pid
            while true; do sleep 0.02; done'; sleep 60"""
        self.end_when("escaped.pid", execute, script, shell=True, grace=30)
        assert Path("cleaned").exists()

    def test_descendants_of_other_children_go_on(self):
        run_command(f"setsid -f {SLEEPER}", shell=True)
        wait_for(lambda: Path("escaped.pid").exists() and Path("escaped.pid").read_text())
        own = subprocess.Popen(["sleep", "60"], start_new_session=True)
        self.end_when("other", execute, ["sh", "-c", "echo > other; exec sleep 60"])
        assert is_alive(int(Path("escaped.pid").read_text()))
        assert own.poll() is None
        own.kill()
        own.wait()

    def test_descendants_of_a_users_own_popen_end_if_their_parents_are_alive(self):
        process = subprocess.Popen(f"{SLEEPER} & wait; true", shell=True)
        wait_for(lambda: Path("escaped.pid").exists() and Path("escaped.pid").read_text())
        assert end_all([process], 10)
        assert process.returncode == -signal.SIGTERM
        assert self.alive() == []

    @pytest.mark.parametrize("is_stubborn", [False, True])
    def test_if_processes_can_not_be_looked_up_at_least_the_child_ends(self, monkeypatch, is_stubborn):
        """For example because this process has no free descriptor."""
        script = "trap '' TERM; echo; exec sleep 60" if is_stubborn else "echo; exec sleep 60"
        process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
        process.stdout.readline()
        with monkeypatch.context() as patch:
            patch.setattr(descendants, "_read", lambda path: b"")
            assert end_all([process], 0.3 if is_stubborn else 30)
        assert process.returncode == (-signal.SIGKILL if is_stubborn else -signal.SIGTERM)
        process.stdout.close()

    def test_the_end_of_a_child_without_descendants_is_cheap(self, monkeypatch):
        """It needs no scan of all processes, which may be thousands."""

        def look():
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(descendants, "_all", look)
            assert run_command(["true"]).exit_code == 0
            assert execute(["true"])[1] == 0


class TestBackground:
    """What a command has left in the background."""

    SERVICE = f"setsid -f {SLEEPER}; while [ ! -s escaped.pid ]; do sleep 0.01; done"

    def test_goes_on_after_the_command_until_it_is_ended(self, tagged):
        result = run_command(self.SERVICE, shell=True, timeout=60)
        assert (result.timed_out, result.exit_code) == (False, 0)
        service = pid_in("escaped.pid")
        assert left_behind() == [result.process]
        assert left_behind(threading.get_ident() + 1) == []
        assert is_alive(service)
        assert end_all(left_behind()) is True
        assert not is_alive(service)
        assert left_behind() == []

    def test_that_has_ended_by_itself_is_forgotten(self):
        run_command("sleep 0.2 &", shell=True)
        wait_for(lambda: left_behind() == [])

    def test_that_has_ended_by_itself_takes_no_memory(self):
        for _ in range(5):
            run_command("sleep 0.1 &", shell=True)
            wait_for(lambda: all(child.is_gone for child in children._left))
        assert len(children._left) <= 1

    @pytest.mark.timing
    def test_a_stubborn_one_is_killed(self, tagged):
        run_command(f"(trap '' TERM; {SLEEPER}) & while [ ! -s escaped.pid ]; do sleep 0.01; done", shell=True)
        began = time.monotonic()
        end_all(left_behind(), 0.2)
        assert 0.2 <= time.monotonic() - began < 10
        assert tagged() == []

    def test_does_not_delay_the_next_command(self, tagged):
        run_command(self.SERVICE, shell=True)
        assert execute(["echo", "next"])[2] == b"next\n"
        assert is_alive(pid_in("escaped.pid"))

    def test_commands_that_leave_nothing_share_a_supervisor(self):
        parents = {execute(["sh", "-c", "echo $PPID"])[2] for _ in range(5)}
        assert len(parents) == 1

    def test_a_late_word_to_end_a_command_does_not_reach_the_next(self):
        """The next command has the same supervisor."""
        first = run_command(["true"]).process
        with children.child(["sleep", "60"]) as second:
            first.begin_to_end(0)
            first.send_signal(signal.SIGKILL)
            assert end_all([first]) is False
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(0.3)
            end(second, 10)


class TestForked:
    """A process that user code has forked."""

    @pytest.fixture
    def run(self, tmp_path):
        def run(body):
            script = PRELUDE + "from picas.executers import end_all, running\n" + body
            return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True).stdout

        return run

    def test_does_not_own_the_children_of_its_parent(self, run):
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
    def test_can_start_children_and_ends_them_with_their_descendants(self, run):
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

    def test_does_not_hang_though_threads_of_its_parent_start_programs(self, run):
        body = """
stop = []
def work():
    while not stop: execute(["true"])
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.append(1)
"""
        run(body)


class TestRunning:
    def test_returns_the_children_of_all_threads_or_of_one(self, tmp_path):
        done = threading.Event()
        threads = []

        def work(name):
            threads.append(threading.get_ident())
            run_command(["sh", "-c", f"echo > {name}; exec sleep 30"], grace=1)
            done.set()

        thread = threading.Thread(target=work, args=("one",))
        thread.start()
        wait_for(lambda: (tmp_path / "one").exists() and running())  # the child may write before it is recorded
        (child,) = running()
        assert running(threads[0]) == [child]
        assert running(threading.get_ident()) == []
        assert end_all([child], 5) is True
        thread.join(10)
        assert done.is_set()
        assert end_all([child], 5) is False

    def test_a_users_own_popen_is_ended_without_its_process_group(self):
        """The pilot is in the same process group and must not get the signal."""
        process = subprocess.Popen(["sleep", "60"])
        end(process, 5)
        assert process.returncode == -signal.SIGTERM

    def test_a_popen_that_leads_a_process_group_is_ended_with_it(self, tmp_path):
        process = subprocess.Popen(["sh", "-c", TREE], start_new_session=True)
        wait_for((tmp_path / "child").exists)
        end(process, 0.2)
        assert not any(map(is_alive, pids(tmp_path).values()))

    @pytest.mark.timing
    def test_ending_a_process_that_has_ended_takes_no_time(self):
        process = subprocess.Popen(["true"])
        process.wait()
        began = time.monotonic()
        end(process, 30)
        assert time.monotonic() - began < 5

    @linux_only
    def test_unreaped_zombies_do_not_delay_the_end(self):
        """In a container without an init process they stay for ever. This test leaves one in the child's group."""
        process = subprocess.Popen(["sleep", "60"], preexec_fn=os.setpgrp)  # noqa: PLW1509
        join = {"preexec_fn": lambda: os.setpgid(0, process.pid)}
        zombie = subprocess.Popen(["true"], **join)
        wait_for(lambda: not is_alive(zombie.pid))
        began = time.monotonic()
        end(process, 10)
        assert time.monotonic() - began < 5
        os.killpg(process.pid, 0)  # the zombie is still there
        assert zombie.wait() == 0


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
