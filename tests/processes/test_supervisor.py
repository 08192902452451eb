"""The supervisor ends what a killed pilot has started, and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.workers import PRELUDE, hopper, is_alive, pid_in, wait_for

from picas.executers import run_command
from picas.processes import children, descendants, supervisor
from picas.processes.descendants import Mark, Root
from picas.processes.supervision import Supervision
from picas.processes.supervisor import end_tree

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

RECORDING = """
from picas.processes import children
send = children._supervision._send
def record_and_send(message):
    send(message)
    with open("sent", "a") as file:
        file.write(message + "\\n")
children._supervision._send = record_and_send
"""
"""Makes a pilot record the messages that it sends to its supervisor."""
SERVICE = "setsid -f sh -c 'echo $$ > service; exec sleep 60'"
"""Leaves a background process that has moved to another session."""


@pytest.fixture
def tagged(monkeypatch):
    """Return a function that returns the living processes of this test. Kill them after the test."""
    tag = f"test {os.getpid()} {time.monotonic()}"
    monkeypatch.setenv("TEST_TAG", tag)
    mark = Mark(tag, range(0))

    def alive():
        return [process for process in descendants._all() if process.is_alive and mark.is_on(process.pid)]

    yield alive
    for process in alive():
        descendants.send(process, signal.SIGKILL)


@pytest.fixture
def supervisors(tagged):
    """Return a function that returns the living supervisors of this test."""
    return lambda: [process for process in tagged() if is_supervisor(process)]


@pytest.fixture
def pilot(tagged):
    """Start scripts as pilots in processes of their own."""
    started = []

    def start(body, **options):
        script = PRELUDE + RECORDING + body
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def is_supervisor(process):
    return descendants._read(f"/proc/{process.pid}/cmdline").rstrip(b"\0").endswith(b"/supervisor.py")


def kill(process):
    """Kill a pilot as soon as its supervisor knows about a child."""
    wait_for(lambda: Path("sent").exists() and Path("sent").read_text().splitlines()[-1:])
    wait_for(lambda: Path("sent").read_text().splitlines()[-1].startswith("+"))
    process.kill()
    process.wait()


class TestKilledPilot:
    @pytest.mark.parametrize(
        "script",
        {
            "the group": "sh -c 'echo $$ > child; exec sleep 60' & sleep 60; true",
            "another session": "setsid sh -c 'echo $$ > child; exec sleep 60' & sleep 60; true",
            "its parent dead": "setsid -f sh -c 'echo $$ > child; exec sleep 60'; sleep 60; true",
            "no environment": "env -i setsid -f /bin/sh -c 'echo $$ > child; exec sleep 60'; sleep 60; true",
            "ignores SIGTERM": "trap '' TERM; sleep 60 & echo $! > child; sleep 60; true",
        }.items(),
        ids=lambda pair: pair[0],
    )
    def test_leaves_nothing_behind_in(self, pilot, tagged, script):
        process = pilot(f"run_command({script[1]!r}, shell=True, grace=0.3)")
        child = pid_in("child")
        kill(process)
        wait_for(lambda: not is_alive(child) and tagged() == [])

    def test_background_processes_end_too(self, pilot, tagged):
        process = pilot(f"run_command({SERVICE!r}, shell=True)\nnote('ended')\ntime.sleep(60)")
        service = pid_in("service")
        wait_for(Path("journal").exists)
        assert is_alive(service)
        process.kill()
        wait_for(lambda: not is_alive(service) and tagged() == [])

    def test_a_process_that_keeps_forking_and_ending_is_ended(self, pilot, tagged, supervisors):
        Path("hopper.py").write_text(hopper(0.01))
        process = pilot("run_command(f'{sys.executable} hopper.py; sleep 60; true', shell=True, grace=0.2)")
        wait_for(Path("hopping").exists)
        kill(process)
        wait_for(lambda: supervisors() == [])
        assert not any(tagged() for _ in range(10))

    def test_children_have_time_to_clean_up(self, pilot, tagged):
        script = "trap 'sleep 0.3; echo > cleaned; exit' TERM; echo $$ > child; while true; do sleep 0.02; done"
        process = pilot(f"run_command({script!r}, shell=True, grace=30)")
        pid_in("child")
        kill(process)
        wait_for(lambda: tagged() == [])
        assert Path("cleaned").exists()

    def test_is_noticed_even_if_a_forked_process_lives_on(self, pilot, tagged):
        process = pilot("""
execute(["true"])
pid = os.fork()
if pid == 0:
    note("forked", os.getpid())
    time.sleep(60)
    os._exit(0)
run_command("trap '' TERM; echo $$ > child; sleep 60; true", shell=True, grace=0.2)
""")
        child = pid_in("child")
        kill(process)
        wait_for(lambda: not is_alive(child))
        forked = int(wait_for(lambda: Path("journal").exists() and Path("journal").read_text().split()[-1:])[0])
        wait_for(lambda: [each.pid for each in tagged()] == [forked])  # the others and the supervisor end soon

    def test_leaves_nothing_behind_if_its_children_are_pilots(self, pilot, tagged):
        inner = PRELUDE + f"run_command({'trap : TERM; ' + SERVICE + '; sleep 60; sleep 60'!r}, shell=True, grace=0.3)"
        Path("inner.py").write_text(inner)
        process = pilot("run_command([sys.executable, 'inner.py'], grace=0.3)")
        service = pid_in("service")
        kill(process)
        wait_for(lambda: not is_alive(service) and tagged() == [])

    def test_a_users_own_process_goes_on(self, pilot, tagged):
        process = pilot("""
execute(["true"])
own = subprocess.Popen(["sleep", "60"], start_new_session=True)
note(own.pid)
time.sleep(60)
""")
        own = pid_in("journal")
        process.kill()
        wait_for(lambda: [each.pid for each in tagged()] == [own])
        assert is_alive(own)


class TestPilotThatEnds:
    def test_leaves_background_processes_running_and_no_supervisor(self, pilot, tagged):
        process = pilot(f"run_command({SERVICE!r}, shell=True)")
        assert process.wait(30) == 0
        service = pid_in("service")
        wait_for(lambda: [each.pid for each in tagged()] == [service])

    def test_with_an_exception_does_so_too(self, pilot, tagged):
        process = pilot(f"run_command({SERVICE!r}, shell=True)\nraise OSError")
        assert process.wait(30) == 1
        service = pid_in("service")
        wait_for(lambda: [each.pid for each in tagged()] == [service])

    def test_the_end_of_a_forked_process_is_not_the_end_of_the_pilot(self, pilot, tagged):
        process = pilot("""
execute(["true"])
pid = os.fork()
if pid == 0:
    sys.exit()
os.waitpid(pid, 0)
run_command("trap '' TERM; echo $$ > child; sleep 60; true", shell=True, grace=0.2)
""")
        child = pid_in("child")
        kill(process)
        wait_for(lambda: not is_alive(child))

    def test_without_children_has_no_supervisor(self, pilot, supervisors):
        process = pilot("note('here'); time.sleep(60)")
        wait_for(Path("journal").exists)
        assert supervisors() == []
        process.kill()


class TestSupervisorProcess:
    @pytest.fixture
    def waiting(self, pilot, supervisors):
        """A pilot that runs a command for each line of input, and its supervisor."""
        process = pilot(
            """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
execute(["true"])
for line in sys.stdin:
    note("ran", run_command("echo out", shell=True, stdout="log").exit_code)
""",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        (found,) = wait_for(supervisors)
        wait_for(lambda: _ignored_signals(found.pid))  # it has started
        yield process, found
        process.stdin.close()
        process.stdout.close()
        process.wait(30)

    def test_shares_nothing_with_the_pilot(self, waiting):
        process, found = waiting
        descriptors = {link.name: str(link.readlink()) for link in Path(f"/proc/{found.pid}/fd").iterdir()}
        assert descriptors.keys() == {"0", "1", "2"}
        assert descriptors["0"].startswith("socket:")
        assert {descriptors["1"], descriptors["2"]} == {os.devnull}
        assert os.path.realpath(f"/proc/{found.pid}/cwd") == "/"
        assert found.session not in (os.getsid(process.pid), os.getsid(0))
        assert found.group not in (os.getpgid(process.pid), os.getpgid(0))

    def test_is_not_a_child_of_the_pilot(self, waiting):
        """User code that waits for any child would wait for ever."""
        process, found = waiting
        assert found.parent != process.pid
        assert found.pid not in descendants.children_of(process.pid)

    def test_ends_on_sigterm_only(self, waiting):
        _, found = waiting
        for signum in (signal.SIGINT, signal.SIGHUP):
            os.kill(found.pid, signum)
        time.sleep(0.05)
        assert is_alive(found.pid)
        os.kill(found.pid, signal.SIGTERM)
        wait_for(lambda: not is_alive(found.pid))

    def test_the_pilot_goes_on_if_its_supervisor_dies(self, waiting):
        process, found = waiting
        os.kill(found.pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(found.pid))
        for _ in range(3):
            process.stdin.write(b"go\n")
        process.stdin.flush()
        wait_for(lambda: Path("journal").exists() and Path("journal").read_text() == "ran 0\n" * 3)

    def test_the_pilot_does_not_wait_for_a_stopped_supervisor(self, waiting):
        process, found = waiting
        os.kill(found.pid, signal.SIGSTOP)
        try:
            process.stdin.write(b"go\n")
            process.stdin.flush()
            wait_for(Path("journal").exists)
        finally:
            os.kill(found.pid, signal.SIGCONT)

    def test_knows_no_secret(self, pilot, supervisors, monkeypatch):
        monkeypatch.setenv("PICAS_PASSWORD", "open sesame")
        process = pilot("execute(['true']); time.sleep(60)")
        (found,) = wait_for(supervisors)
        wait_for(lambda: _ignored_signals(found.pid))
        for file in ("environ", "cmdline"):
            assert b"sesame" not in descendants._read(f"/proc/{found.pid}/{file}")
        process.kill()

    def test_a_pilot_has_one_supervisor_for_all_children(self, pilot, supervisors):
        process = pilot("""
threads = [threading.Thread(target=run_command, args=(["true"],)) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
note("ran")
time.sleep(60)
""")
        wait_for(Path("journal").exists)
        assert len(supervisors()) == 1
        process.kill()


class TestWithout:
    """A pilot works without a supervisor, too, if none can be started."""

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr(children, "_supervision", Supervision(children._running))

    def test_because_the_python_interpreter_is_missing(self, monkeypatch, caplog):
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        assert run_command(["true"]).exit_code == 0
        assert "The supervisor could not be started" in caplog.text

    def test_because_the_script_is_a_frozen_executable(self, monkeypatch):
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        assert run_command(["true"]).exit_code == 0
        assert children._supervision._supervisor is None


class TestEndTree:
    @pytest.fixture
    def child(self):
        process = subprocess.Popen(
            ["sh", "-c", "trap '' TERM; echo; while true; do sleep 0.1; done"],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        process.stdout.readline()
        thread = threading.Thread(target=process.wait)  # as init does after the death of its parent
        thread.start()
        yield process
        process.kill()
        thread.join()
        process.stdout.close()

    @staticmethod
    def watched(process, start):
        return supervisor.Watched({process.pid: (Root(process.pid, start, leads_group=True), 0.2)}, [], [])

    def test_kills_what_ignores_sigterm(self, child):
        assert end_tree(self.watched(child, descendants.start_of(child.pid)))
        assert not is_alive(child.pid)

    def test_does_not_end_another_process_that_reuses_the_id(self, child):
        assert end_tree(self.watched(child, descendants.start_of(child.pid) - 1))
        assert is_alive(child.pid)

    def test_gives_up_if_a_process_can_not_be_killed(self, child, monkeypatch):
        monkeypatch.setattr(supervisor, "KILL_WAIT", 0.2)
        monkeypatch.setattr(descendants, "send", lambda process, signum: None)
        monkeypatch.setattr(os, "killpg", lambda group, signum: None)
        assert not end_tree(self.watched(child, descendants.start_of(child.pid)))


def _ignored_signals(pid):
    """Return whether a process ignores SIGINT and SIGHUP already."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")), 16)
    return ignored & 1 and ignored & 2
