"""A supervisor runs programs for its pilot, and ends what a killed pilot has started, and nothing else."""

import errno
import marshal
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from support.proc import children_of, is_supervisor, is_zombie, parent_of, read_proc
from support.workers import PRELUDE, hopper, is_alive, pid_in, wait_for

from picas.exceptions import TokenTimeout
from picas.executers import execute, run_command
from picas.processes import (
    TimeLimit,
    children,
    end,
    end_all,
    forkserver,
    left_behind,
    running,
    supervision,
    supervisor,
)
from picas.processes.launch import fork_supervisor
from picas.processes.supervision import Supervisors

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

SERVICE = "setsid -f sh -c 'echo $$ > service; exec sleep 60'; while [ ! -s service ]; do sleep 0.01; done"
"""Leaves a background process that has moved to another session."""


@pytest.fixture
def pilot(tagged):
    """Start scripts as pilots in processes of their own."""
    started = []

    def start(body, before=(), **options):
        command = [*before, sys.executable, "-c", PRELUDE + body]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def fresh(monkeypatch):
    """Let this process start its supervisors anew."""
    own = Supervisors()
    monkeypatch.setattr(supervision, "supervisors", own)
    monkeypatch.setattr(children, "supervisors", own)
    yield own
    for one in list(own._all):
        one.close()


@pytest.fixture
def nobody():
    """Return the start of a command that runs the rest of it as another user."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    python = [sys.executable, "-c", "import picas.executers"]
    if subprocess.run([*command, *python], cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("no other user can run this Python, or read the package")
    return command


def message(*content):
    """Return a message as it is sent to a supervisor."""
    data = marshal.dumps(content)
    return supervisor.LENGTH.pack(len(data)) + data


def receive(connection, count):
    """Return the next messages of a supervisor."""
    connection.settimeout(10)
    messages = []
    buffer = b""
    while len(messages) < count:
        buffer += connection.recv(4096)
        while len(buffer) >= 4 and len(buffer) >= 4 + supervisor.LENGTH.unpack_from(buffer)[0]:
            end = 4 + supervisor.LENGTH.unpack_from(buffer)[0]
            messages.append(marshal.loads(buffer[4:end]))
            buffer = buffer[end:]
    return messages


def kill(process):
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
    def test_leaves_nothing_behind_in(self, pilot, tagged, supervisors, script):
        process = pilot(f"run_command({script[1]!r}, shell=True, grace=0.3)")
        child = pid_in("child")
        kill(process)
        wait_for(lambda: not is_alive(child) and tagged() == [] and supervisors() == [])

    def test_background_processes_end_too(self, pilot, tagged):
        process = pilot(f"run_command({SERVICE!r}, shell=True)\nnote('ended')\ntime.sleep(60)")
        service = pid_in("service")
        wait_for(Path("journal").exists)
        assert is_alive(service)
        kill(process)
        wait_for(lambda: not is_alive(service) and tagged() == [])

    @pytest.mark.parametrize(
        "command", [SERVICE, "sh -c 'echo $$ > service; exec sleep 60' &"], ids=["away", "in group"]
    )
    def test_background_processes_that_are_to_be_kept_go_on(self, pilot, tagged, supervisors, command):
        process = pilot(f"run_command({command!r}, shell=True, keep_background=True)\nnote('ended')\ntime.sleep(60)")
        service = pid_in("service")
        wait_for(Path("journal").exists)
        time.sleep(0.3)
        kill(process)
        time.sleep(0.3)
        assert is_alive(service)
        assert len(supervisors()) == 1, "nobody waits for its end"
        os.kill(service, signal.SIGKILL)
        wait_for(lambda: supervisors() == [])

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
        wait_for(lambda: tagged() == [forked])

    def test_leaves_nothing_behind_if_its_children_are_pilots(self, pilot, tagged):
        inner = PRELUDE + f"run_command({'trap : TERM; ' + SERVICE + '; sleep 60; sleep 60'!r}, shell=True, grace=0.3)"
        Path("inner.py").write_text(inner)
        process = pilot("run_command([sys.executable, 'inner.py'], grace=0.3)")
        service = pid_in("service")
        kill(process)
        wait_for(lambda: not is_alive(service) and tagged() == [])

    def test_a_users_own_process_goes_on(self, pilot, tagged, supervisors):
        process = pilot("""
execute(["true"])
own = subprocess.Popen(["sleep", "60"], start_new_session=True)
note(own.pid)
time.sleep(60)
""")
        own = pid_in("journal")
        kill(process)
        wait_for(lambda: supervisors() == [] and tagged() == [own])

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
    def test_a_signal_of_a_batch_system_to_all_processes_does_not_end_the_supervisor(self, pilot, supervisors, signum):
        process = pilot("run_command(\"trap '' TERM INT HUP USR1; echo $$ > child; sleep 60; true\", shell=True)")
        child = pid_in("child")
        (found,) = supervisors()
        os.kill(found, signum)
        time.sleep(0.2)
        assert is_alive(found)
        assert is_alive(child)
        kill(process)

    def test_is_noticed_even_if_it_was_forked_while_its_supervisor_was_started(self, pilot, tagged):
        process = pilot("""
def work():
    run_command("echo $$ > child; sleep 60; true", shell=True, grace=1)
threading.Thread(target=work, daemon=True).start()
while not os.path.exists("child"):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.003)
time.sleep(60)
""")
        child = pid_in("child")
        kill(process)
        wait_for(lambda: not is_alive(child))


class TestPilotThatEnds:
    def test_ends_background_processes_and_supervisors(self, pilot, tagged, supervisors):
        process = pilot(f"run_command({SERVICE!r}, shell=True)")
        assert process.wait(30) == 0
        wait_for(lambda: tagged() == [] and supervisors() == [])

    @pytest.mark.parametrize("fork", ["", "if os.fork() == 0: note('forked', os.getpid()); time.sleep(60)"])
    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
    def test_ends_its_fork_server(self, pilot, tagged, fork_servers, fork, end):
        process = pilot(f"execute(['true'])\n{fork}\nnote('here')\ntime.sleep(60)")
        wait_for(lambda: Path("journal").exists() and "here" in Path("journal").read_text())
        assert len(fork_servers()) == 1
        process.send_signal(end)
        process.wait(30)
        wait_for(lambda: fork_servers() == [])

    def test_with_an_exception_does_so_too(self, pilot, tagged, supervisors):
        process = pilot(f"run_command({SERVICE!r}, shell=True)\nraise OSError")
        assert process.wait(30) == 1
        wait_for(lambda: tagged() == [] and supervisors() == [])

    def test_leaves_those_running_that_are_to_be_kept(self, pilot, tagged):
        process = pilot(f"run_command({SERVICE!r}, shell=True, keep_background=True)")
        service = pid_in("service")
        assert process.wait(30) == 0
        time.sleep(0.2)
        assert tagged() == [service]

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
        time.sleep(0.2)
        assert is_alive(child)
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
print("ready", flush=True)
for line in sys.stdin:
    note("ran", run_command("echo out", shell=True, stdout="log").exit_code)
""",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()  # by then its first program has ended
        (found,) = supervisors()
        yield process, found
        process.stdin.close()
        process.stdout.close()
        process.wait(30)

    def test_shares_nothing_with_the_pilot(self, waiting):
        process, found = waiting
        wait_for(
            lambda: len(list(Path(f"/proc/{found}/fd").iterdir())) == 5
        )  # it has closed those of its first program
        assert os.path.realpath(f"/proc/{found}/cwd") == "/"
        links = {link.name: str(link.readlink()) for link in Path(f"/proc/{found}/fd").iterdir()}
        assert links["0"].startswith("socket:")
        assert {links["1"], links["2"]} == {os.devnull}
        assert {link.partition(":")[0] for name, link in links.items() if int(name) > 2} == {"pipe"}  # its own
        assert os.getsid(found) not in (os.getsid(process.pid), os.getsid(0))
        assert os.getpgid(found) not in (os.getpgid(process.pid), os.getpgid(0))

    def test_is_not_a_child_of_the_pilot(self, waiting):
        """User code that waits for any child would wait for ever."""
        process, found = waiting
        assert parent_of(found) != process.pid

    def test_is_small(self, waiting):
        _, found = waiting
        rss = next(line for line in read_proc(found, "status").splitlines() if line.startswith(b"VmRSS"))
        assert int(rss.split()[1]) < 12 << 10

    def test_the_pilot_goes_on_if_its_supervisor_dies(self, waiting, supervisors):
        process, found = waiting
        os.kill(found, signal.SIGKILL)
        wait_for(lambda: not is_alive(found))
        for _ in range(3):
            process.stdin.write(b"go\n")
        process.stdin.flush()
        wait_for(lambda: Path("journal").exists() and Path("journal").read_text() == "ran 0\n" * 3)
        assert len(supervisors()) == 1

    def test_knows_no_secret(self, pilot, supervisors, monkeypatch):
        monkeypatch.setenv("PICAS_PASSWORD", "open sesame")
        process = pilot("execute(['true']); note('ran'); time.sleep(60)")
        wait_for(Path("journal").exists)  # a program that starts looks like its supervisor for a moment
        (found,) = supervisors()
        for file in ("environ", "cmdline"):
            assert b"sesame" not in read_proc(found, file)
        process.kill()

    def test_there_are_as_many_as_programs_that_run_at_a_time(self, pilot, supervisors):
        process = pilot("""
for _ in range(3):
    threads = [threading.Thread(target=run_command, args=(["sleep", "0.5"],)) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
note("ran")
time.sleep(60)
""")
        wait_for(Path("journal").exists)
        assert len(supervisors()) == 4
        process.kill()

    def test_a_program_whose_supervisor_is_killed_is_ended(self, fresh, tagged, caplog):
        results = []
        thread = threading.Thread(
            target=lambda: results.append(
                run_command("sleep 60 & echo $! > below; sh -c 'echo $PPID > child'; sleep 60", shell=True, grace=5)
            )
        )
        thread.start()
        child = pid_in("child")
        os.kill(parent_of(child), signal.SIGKILL)
        thread.join(30)
        assert results[0].exit_code == -signal.SIGKILL
        assert results[0].cpu_seconds is None
        assert tagged() == []
        assert "what is left of it is ended" in caplog.text
        assert run_command(["true"]).exit_code == 0

    @pytest.mark.timing
    def test_a_start_that_takes_too_long_can_be_interrupted(self, fresh, tagged):
        """For example because the program is on a file system that does not answer. Here its supervisor is stopped."""
        parent = int(execute(["sh", "-c", "echo $PPID"])[2])
        os.kill(parent, signal.SIGSTOP)
        try:
            with pytest.raises(TokenTimeout), TimeLimit(0.3, lambda: False, lambda: False):
                run_command(["touch", "started"])
        finally:
            os.kill(parent, signal.SIGCONT)
        wait_for(lambda: not is_alive(parent))
        assert execute(["echo", "next"])[2] == b"next\n"

    def test_starts_that_take_long_do_not_hold_up_others(self, fresh, tagged, monkeypatch):
        monkeypatch.setattr(supervision, "STARTS", 1)
        fresh.start_anew()
        parent = int(execute(["sh", "-c", "echo $PPID"])[2])
        os.kill(parent, signal.SIGSTOP)
        results = []
        thread = threading.Thread(target=lambda: results.append(run_command(["true"])))
        thread.start()
        wait_for(fresh._turns.empty)
        assert [execute(["echo", str(number)])[2] for number in range(3)] == [b"0\n", b"1\n", b"2\n"]
        assert results == []
        os.kill(parent, signal.SIGCONT)
        thread.join(30)
        assert results[0].exit_code == 0

    def test_an_interrupted_start_is_over_only_when_the_program_has_ended(self, fresh, tagged, monkeypatch):
        """Otherwise a stopped pilot would put a token back whose program is still running."""
        monkeypatch.setattr(supervision, "ANSWER_WAIT", 60)
        parent = int(execute(["sh", "-c", "echo $PPID"])[2])
        os.kill(parent, signal.SIGSTOP)
        has_answered = threading.Event()
        timer = threading.Timer(1, lambda: has_answered.set() or os.kill(parent, signal.SIGCONT))
        timer.start()
        with pytest.raises(TokenTimeout), TimeLimit(0.3, lambda: False, lambda: False):
            run_command(["sleep", "60"])
        assert has_answered.is_set()
        assert tagged() == []
        timer.join()

    def test_a_program_whose_start_was_interrupted_has_little_time_to_end(self, fresh, tagged):
        """Nobody knows yet that it runs, so that a stop of the pilot could not end it sooner."""
        script = "trap '' TERM; echo > trapped; sleep 60; true"
        with children._descriptors(None, None, None) as descriptors:
            supervisor, program = fresh.start(children._command(script, True, None, dict(os.environ), 60), descriptors)
        wait_for(Path("trapped").exists)
        began = time.monotonic()
        supervisor.abort(program)
        assert time.monotonic() - began < 20
        assert tagged() == []

    def test_a_connection_that_user_code_has_closed_is_not_mistaken_for_another(self):
        """Some code closes all descriptors that it did not open."""
        code = """
import os, socket
from picas.executers import execute
execute(["true"])
os.closerange(3, 100)
pairs = [socket.socketpair() for _ in range(20)]
print(execute(["echo", "out"])[2])
for one, other in pairs:
    for end in (one, other):
        end.setblocking(False)
        try:
            print("got", end.recv(100))
        except BlockingIOError:
            pass
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
        assert result.stdout == b"b'out\\n'\n"

    def test_orphans_do_not_stay_as_zombies_while_the_program_runs(self, tagged):
        with children.child(
            "for i in 1 2 3; do setsid -f true; done; echo $$ > child; exec sleep 60", shell=True
        ) as it:
            program = pid_in("child")
            parent = parent_of(program)
            wait_for(lambda: children_of(parent) == [program])
            end(it, 5)


class TestEnd:
    def test_in_one_message_with_the_next_program_leaves_that_alone(self):
        """The pilot's word to end a program may be late, and the next program may come with it."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            fork_supervisor(theirs)
            folder = os.open(".", os.O_RDONLY)
            run = ("run", b"sh\0-c\0sleep 0.3; exit 3", b"PATH\0/bin:/usr/bin", b"", 5.0)
            socket.send_fds(ours, [message(*run)], [0, 1, 2, folder])
            (_, pid), ended = receive(ours, 2)
            assert (ended[0], os.waitstatus_to_exitcode(ended[1]), ended[4]) == ("ended", 3, False)
            socket.send_fds(ours, [message("end", pid, 5.0) + message(*run)], [0, 1, 2, folder])
            gone, started, ended = receive(ours, 3)
            assert (gone[:3], started[0]) == (("gone", pid, True), "started")
            assert os.waitstatus_to_exitcode(ended[1]) == 3
            os.close(folder)

    @pytest.mark.timing
    def test_of_a_program_whose_supervisor_was_suspended_meanwhile(self, tagged, monkeypatch):
        """As all processes of a job that a batch system suspends."""
        monkeypatch.setattr(children, "KILL_WAIT", 0.5)
        with children.child("trap '' TERM; echo $PPID > parent; sleep 60; sleep 60", shell=True) as it:
            parent = pid_in("parent")
            it.begin_to_end(0.3)
            time.sleep(0.1)
            os.kill(parent, signal.SIGSTOP)
            time.sleep(supervisor.KILL_WAIT + 1)
            os.kill(parent, signal.SIGCONT)
            assert it.wait(10) == -signal.SIGKILL
        assert tagged() == []

    @pytest.mark.parametrize("grace", [1, True, Fraction(1, 2)])
    def test_takes_any_number_as_the_grace_period(self, grace):
        assert run_command(["sleep", "60"], timeout=0.1, grace=grace).exit_code == -signal.SIGTERM

    def test_a_signal_that_does_not_exist_does_no_harm(self):
        with children.child(["sleep", "60"]) as it:
            it.send_signal(999)
            it.terminate()
            assert it.wait(10) == -signal.SIGTERM


class TestUsersChildren:
    """The children that user code starts itself are none of our business."""

    def test_are_not_reaped(self):
        process = subprocess.Popen(["sh", "-c", "exit 3"])
        wait_for(lambda: is_zombie(process.pid))
        run_command("setsid -f true", shell=True)
        end_all(left_behind())
        assert process.wait() == 3

    def test_code_that_waits_for_any_child_gets_only_its_own(self):
        code = """
import os
from picas.executers import run_command
run_command(["true"])
pid = os.fork()
if pid == 0:
    os.setsid()
    os._exit(7)
run_command("setsid -f true", shell=True)
assert os.wait() == (pid, 7 << 8)
try:
    os.wait()
except ChildProcessError:
    print("none")
"""
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"none\n"


class TestInherited:
    """A program inherits what it would inherit from the thread that starts it, also if that has changed."""

    def in_pilot(self, *changes, program="print(value())"):
        """Return what a program prints before and after a change in the pilot."""
        read, change = changes
        code = (
            PRELUDE
            + f"""
import resource
program = [sys.executable, "-c", {"import os, resource, signal; print(" + read + ")"!r}]
before = execute(program)[2]
{change}
print(execute(program)[2] != before, eval({read!r}))
print(execute(program)[2].decode())
"""
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        changed, expected = result.stdout.splitlines()[0].split(" ", 1)
        assert changed == "True"
        assert result.stdout.splitlines()[1] == expected

    def test_limits(self):
        self.in_pilot(
            "resource.getrlimit(resource.RLIMIT_NOFILE)", "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))"
        )

    def test_priority(self):
        self.in_pilot("os.getpriority(os.PRIO_PROCESS, 0)", "os.nice(3)")

    def test_umask(self):
        self.in_pilot("[os.umask(0o22), os.umask(0o27)][0]", "os.umask(0o27)")

    def test_ignored_signals(self):
        """As SIGHUP is under nohup."""
        self.in_pilot("signal.getsignal(signal.SIGUSR2).name", "signal.signal(signal.SIGUSR2, signal.SIG_IGN)")

    @pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is only one processor")
    def test_processors(self):
        self.in_pilot("sorted(os.sched_getaffinity(0))", "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])")

    def test_a_working_directory_that_was_deleted(self, tmp_path, monkeypatch):
        folder = tmp_path / "gone"
        folder.mkdir()
        monkeypatch.chdir(folder)
        folder.rmdir()
        assert execute("readlink /proc/self/cwd", shell=True)[2].endswith(b"/gone (deleted)\n")

    def test_a_signal_that_python_ignores_is_not_ignored(self):
        assert execute("kill -PIPE $$", shell=True)[1] == -signal.SIGPIPE

    def test_no_descriptors_but_the_standard_ones(self):
        assert execute(["ls", "/proc/self/fd"])[2].split() == [b"0", b"1", b"2", b"3"]  # the last is that of `ls`

    @pytest.mark.parametrize(
        "how", ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "signal.pthread_sigmask(0, [17])"]
    )
    def test_nothing_that_keeps_the_end_of_children_secret(self, how):
        code = f"import signal\n{how}\nfrom picas.executers import execute; print(execute(['sh', '-c', 'exit 3'])[1])"
        assert (
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout == b"3\n"
        )

    def test_a_working_directory_that_can_not_be_entered(self, tmp_path, nobody):
        """As after `sudo -u`. The program starts elsewhere."""
        code = "from picas.executers import execute; print(execute(['true'])[1])"
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o700)
        result = subprocess.run([*nobody, sys.executable, "-c", code], cwd=locked, capture_output=True, check=False)
        assert result.stdout == b"0\n", result.stderr

    def test_nothing_for_descriptors_that_are_closed(self):
        code = """
import os
from picas.executers import run_command
files = [open("other", "w") for _ in range(3)]  # gets none of the three
result = run_command("echo lost; cat; ls -l /proc/$$/fd > all", shell=True)
os._exit(result.exit_code)
"""
        closed = {"stdin": None, "preexec_fn": lambda: os.closerange(0, 3)}
        assert subprocess.run([sys.executable, "-c", code], check=True, **closed).returncode == 0
        assert Path("all").read_text().count(os.devnull) == 3


class TestLargeCommands:
    def test_a_command_larger_than_the_buffer_of_a_socket(self):
        values = {f"VALUE_{number}": "x" * 100_000 for number in range(12)}
        run_command("env | wc -c", shell=True, env=values, stdout="size")
        assert int(Path("size").read_text()) > 1_200_000

    def test_arguments_of_any_type(self):
        command = ["sh", b"-c", 'printf "%s|" "$0" "$@" "$A"', Path("a"), "", b"\xff", "\udcfe", ""]
        assert execute(command)[2] == b"a||\xff|\xfe|||"
        run_command(command, env={"A": "b"}, stdout="out")
        assert Path("out").read_bytes() == b"a||\xff|\xfe||b|"

    def test_a_command_that_is_too_large_is_refused(self):
        with pytest.raises(OSError, match="Argument list too long") as caught:
            execute(["echo", "x" * 3_000_000])
        assert caught.value.errno == errno.E2BIG

    @pytest.mark.parametrize(
        ("arguments", "options"),
        [
            ([], {}),
            (["echo", "a\0b"], {}),
            (["true"], {"env": {"A": "\0"}}),
            (["true"], {"env": {"A=B": ""}}),
            (["true"], {"env": {"": "A"}}),
            (["true"], {"cwd": "a\0b"}),
        ],
    )
    def test_what_can_not_be_passed_to_a_program_is_refused(self, arguments, options):
        with pytest.raises(ValueError, match=r"no command|null byte|illegal environment"):
            run_command(arguments, **options)
        assert running() == []


class TestProgramSearch:
    @pytest.fixture
    def place(self, tmp_path):
        """Write a program into a folder."""

        def write(folder, mode=0o755, content="#!/bin/sh\necho $0\n"):
            path = tmp_path / folder / "tool"
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
            path.chmod(mode)
            return path

        return write

    def test_uses_the_path_that_the_program_gets(self, place):
        path = place("bin")
        run_command(["tool"], env={"PATH": f"/nowhere:{path.parent}:/bin"}, stdout="out")
        assert Path("out").read_text() == f"{path}\n"

    def test_is_relative_to_the_working_directory_of_the_program(self, place):
        place("bin")
        run_command(["./tool"], cwd="bin", stdout="out")
        assert Path("out").read_text() == "./tool\n"

    def test_goes_on_after_a_file_that_can_not_be_run(self, place):
        places = [place("first", 0o644), place("second")]
        run_command(["tool"], env={"PATH": ":".join(str(path.parent) for path in places)}, stdout="out")
        assert Path("out").read_text() == f"{places[1]}\n"

    @pytest.mark.parametrize(
        "name", ["", "file/tool", "./loop", "./" + "x" * 300], ids=["none", "no folder", "loop", "long"]
    )
    def test_fails_as_that_of_subprocess(self, name):
        Path("file").touch()
        Path("loop").symlink_to("loop")
        with pytest.raises(OSError) as expected:  # noqa: PT011
            subprocess.run([name], check=False)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            run_command([name])
        assert caught.value.errno in (expected.value.errno, errno.EINVAL)

    def test_reports_a_file_that_can_not_be_run(self, place):
        path = place("first", 0o644)
        with pytest.raises(PermissionError):
            run_command(["tool"], env={"PATH": str(path.parent)})
        with pytest.raises(OSError, match="Exec format error"):
            run_command([str(place("second", content="no program"))])

    def test_names_the_folder_that_is_missing(self):
        with pytest.raises(FileNotFoundError) as caught:
            run_command(["true"], cwd="no/such/folder")
        assert caught.value.filename == "no/such/folder"


class TestUsage:
    def test_processor_time_is_that_of_the_program_and_of_what_it_has_waited_for(self):
        code = "import time\nwhile time.process_time() < 0.5: pass"
        result = run_command(f"{sys.executable} -c '{code}'; true", shell=True)
        assert 0.5 <= result.cpu_seconds < 5

    def test_memory_is_that_of_the_largest_process(self, fresh):
        small = run_command(["true"])
        large = run_command([sys.executable, "-c", "len(b'x' * 200_000_000)"])
        assert small.max_memory_mb < 15
        assert 190 < large.max_memory_mb < 400
        assert small.cpu_seconds < 0.5

    def test_of_a_killed_program_is_known_too(self):
        assert run_command(["sleep", "60"], timeout=0.1, grace=5).cpu_seconds < 0.5
        burn = f"{sys.executable} -c 'while True: pass'; true"
        assert run_command(burn, shell=True, timeout=1, grace=5).cpu_seconds > 0.2


class TestMany:
    """Programs in many threads, with supervisors that come and go."""

    @pytest.mark.timing
    def test_no_time_out_ends_the_program_of_another_thread(self):
        wrong = []
        end = time.monotonic() + 3

        def work(thread):
            while time.monotonic() < end:
                seconds = 0.01 + 0.005 * (thread % 2)
                result = run_command(
                    ["sleep", str(seconds)], timeout=(seconds + 0.003 if thread % 3 else None), grace=0
                )
                if result.exit_code != 0 and not result.timed_out:
                    wrong.append(result)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_signal_handler_may_start_a_program_at_any_time(self):
        code = """
import signal, time
from picas.executers import execute
count = 0
is_inside = False
def handle(*_):
    global count, is_inside
    if not is_inside:
        is_inside = True
        try:
            execute(["/no/such/program"] if count % 2 else ["true"])
        except FileNotFoundError:
            pass
        count += 1
        is_inside = False
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.0037)
end = time.monotonic() + 3
while time.monotonic() < end:
    execute(["true"])
signal.setitimer(signal.ITIMER_REAL, 0)
print(count > 3)
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
        assert result.stdout == b"True\n", result.stderr

    def test_supervisors_that_are_not_used_end(self, fresh, monkeypatch):
        monkeypatch.setattr(supervision, "IDLE", 0.5)
        threads = [threading.Thread(target=run_command, args=(["sleep", "0.3"],)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(fresh._free) == 5
        time.sleep(0.6)
        for _ in range(5):
            run_command(["true"])
        wait_for(lambda: len(fresh._all) == 1)

    def test_a_supervisor_that_was_killed_is_replaced_by_one_as_small(self, fresh):
        os.kill(int(execute("echo $PPID", shell=True)[2]), signal.SIGKILL)
        execute(["true"])
        parent = int(execute("echo $PPID", shell=True)[2])
        assert is_supervisor(parent), "and not a fork of this process"

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
    def test_supervisors_go_on_without_their_fork_server(self, fresh, tagged, how):
        with children.child("echo $PPID > parent; sleep 0.5; exit 3", shell=True) as it:
            server = parent_of(pid_in("parent"))
            os.kill(server, how)
            if how == signal.SIGKILL:
                wait_for(lambda: not is_alive(server))
            parent = int(execute("echo $PPID", shell=True)[2])
            assert is_supervisor(parent), "and not a fork of this process"
            assert (parent_of(parent) == server) == (how == signal.SIGTERM)
            assert it.wait(10) == 3

    def test_starts_another_fork_server_if_that_is_to_pass_on_something_else(self, fresh):
        def server():
            return parent_of(int(execute("echo $PPID", shell=True)[2]))

        first = server()
        before = os.umask(0o027)
        try:
            second = server()
        finally:
            os.umask(before)
        assert first != second
        wait_for(lambda: not is_alive(first))


class TestWithoutInterpreter:
    """Where no interpreter can run the supervisor's script, this process is forked instead."""

    @pytest.fixture(autouse=True)
    def anew(self, tagged, fresh):
        pass

    @staticmethod
    def check(tagged):
        assert execute("echo out; exit 3", shell=True)[1:3] == (3, b"out\n")
        began = time.monotonic()
        result = run_command(f"{SERVICE}; sleep 60", shell=True, timeout=1, grace=5)
        assert result.timed_out
        assert time.monotonic() - began < 30
        assert tagged() == []

    def test_because_it_is_missing(self, monkeypatch, caplog, tagged):
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        self.check(tagged)
        assert "/no/such/python can't be started" in caplog.text

    def test_because_the_pilot_is_a_frozen_executable(self, monkeypatch, tagged):
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        self.check(tagged)

    def test_because_the_package_is_in_an_archive(self, monkeypatch, tagged):
        monkeypatch.setattr(forkserver, "__file__", "/no/such/archive.zip/picas/processes/forkserver.py")
        self.check(tagged)

    def test_because_it_fails(self, monkeypatch, tagged):
        monkeypatch.setattr(sys, "executable", shutil.which("false"))
        self.check(tagged)

    def test_because_it_does_nothing(self, monkeypatch, tagged):
        monkeypatch.setattr(sys, "executable", shutil.which("true"))
        self.check(tagged)

    def test_a_killed_pilot_leaves_nothing_behind(self, pilot, tagged):
        process = pilot(f"sys.executable = ''\nrun_command({SERVICE + '; sleep 60; true'!r}, shell=True, grace=0.3)")
        service = pid_in("service")
        kill(process)
        wait_for(lambda: not is_alive(service) and tagged() == [])


def test_too_many_processes_is_an_error_of_the_system(tmp_path):
    """Not one of the token, and not one that ends the pilot."""
    code = """
import resource
from picas.executers import run_command
resource.setrlimit(resource.RLIMIT_NOFILE, (7, 7))
try:
    run_command(["true"], stdout="out", stderr="err")
except OSError as error:
    print(error.strerror)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "Too many open files\n"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root makes containers")
class TestContainer:
    """In a container, where the pilot may be the first process, and /proc may be missing."""

    @pytest.fixture
    def open_folder(self, monkeypatch):
        """Run the test in a folder that other users can enter."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            monkeypatch.chdir(folder)
            yield
            monkeypatch.undo()

    def run(self, *options, body, setup="", user=""):
        script = Path("inside.py").absolute()
        script.write_text(PRELUDE + body)
        command = f"{setup} exec {user} {sys.executable} {script}"
        result = subprocess.run(
            ["unshare", *options, "sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
        )
        if "unshare" in result.stderr:
            pytest.skip(f"no containers here: {result.stderr}")
        return result

    def test_a_pilot_may_be_the_first_process(self):
        body = f"""
from picas.processes import end_all, left_behind
assert os.getpid() == 1
print(execute("exit 3", shell=True)[1])
run_command({SERVICE!r}, shell=True)
print(end_all(left_behind()))
print(run_command({SERVICE + "; sleep 60"!r}, shell=True, timeout=1, grace=2).timed_out)
"""
        result = self.run("--pid", "--fork", "--mount-proc", body=body)
        assert result.stdout.split() == ["3", "True", "True"], result.stderr

    @pytest.mark.parametrize(
        ("options", "setup"),
        [
            (["--mount"], "mount -t proc -o ro proc /proc;"),
            (["--pid", "--fork"], ""),
        ],
        ids=["read-only", "of another container"],
    )
    def test_with_another_proc_programs_run_and_end(self, options, setup):
        body = """
result = run_command("sleep 60 & sleep 60", shell=True, timeout=0.3, grace=5)
print(result.timed_out, result.exit_code, result.seconds < 4)
"""
        result = self.run(*options, body=body, setup=setup)
        assert result.stdout.split() == ["True", "-15", "True"], result.stderr

    def test_a_program_that_proc_hides_ends_too(self, open_folder, nobody):
        """With the mount option hidepid, other users' processes can't be seen, and a setuid program is one."""
        tool = Path("tool").absolute()
        shutil.copy(shutil.which("sleep"), tool)
        tool.chmod(0o4755)
        body = f"""
result = run_command([{str(tool)!r}, "60"], timeout=0.3, grace=5)
print(result.timed_out, result.exit_code, result.seconds < 4)
"""
        setup = "mount -t proc -o hidepid=2 proc /proc; cd /; "
        result = self.run("--mount", body=body, setup=setup, user=" ".join(nobody))
        assert result.stdout.split() == ["True", "-15", "True"], result.stderr

    def test_without_proc_programs_run_and_end_with_their_group(self):
        body = """
print(os.path.exists("/proc/self"))
print(execute("exit 3", shell=True)[1])
result = run_command("sleep 60 & sleep 60", shell=True, timeout=0.3, grace=5)
print(result.timed_out, result.exit_code, result.seconds < 4)
"""
        result = self.run("--mount", body=body, setup="mount -t tmpfs none /proc;")
        assert result.stdout.split() == ["False", "3", "True", "-15", "True"], result.stderr
