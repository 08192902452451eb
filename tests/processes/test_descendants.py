"""Reading processes from /proc, and finding and ending the descendants of a child."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.workers import is_alive, wait_for

from picas.executers import execute, run_command
from picas.processes import descendants
from picas.processes.descendants import (
    Mark,
    Marks,
    ProcessTree,
    Root,
    marked,
    read,
    reap_adopted,
    send,
    start_of,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

NO_MARK = Mark("no process has this", range(0))


@pytest.fixture
def sleeper():
    """Start a sleeping process in a new session; kill it after the test."""
    started = []

    def start(script="exec sleep 60", **options):
        options = {"start_new_session": True, "stdout": subprocess.PIPE, **options}
        process = subprocess.Popen(["sh", "-c", f"echo; {script}"], **options)
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait()


def root_of(process, leads_group=True):
    return Root(process.pid, start_of(process.pid), leads_group)


def is_zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")


def end(tree):
    """Kill a process tree."""
    tree.is_alive()
    tree.kill()
    wait_for(lambda: not tree.is_alive())


class TestRead:
    def test_returns_this_process(self):
        process = read(os.getpid())
        assert process is not None
        assert process.is_alive
        assert process[3:] == (os.getppid(), os.getpgid(0), os.getsid(0))

    def test_a_name_may_contain_anything(self, sleeper):
        process = sleeper("printf 'a) Z (1) 2' > /proc/$$/comm; echo; sleep 60; true")
        process.stdout.readline()
        found = read(process.pid)
        assert (found.parent, found.group, found.is_alive) == (os.getpid(), process.pid, True)

    def test_a_zombie_is_not_alive(self, sleeper):
        process = sleeper("exit 0")
        wait_for(lambda: is_zombie(process.pid))
        assert not read(process.pid).is_alive
        assert not descendants._is_alive(read(process.pid))

    def test_a_process_whose_main_thread_has_ended_is_alive(self, tmp_path):
        code = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("here", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        try:
            process.stdout.readline()
            wait_for(lambda: is_zombie(process.pid))
            assert read(process.pid).is_alive
        finally:
            process.kill()
            process.communicate()

    def test_a_process_that_is_gone_can_not_be_read(self, sleeper):
        process = sleeper("exit 0")
        process.wait()
        assert read(process.pid) is None
        assert start_of(process.pid) == 0
        assert not descendants.leads_group(process.pid)
        assert list(descendants.children_of(process.pid)) == []

    def test_a_later_process_has_a_later_start_time(self, sleeper):
        assert start_of(os.getpid()) <= start_of(sleeper().pid) <= descendants._ticks()


class TestSend:
    def test_reaches_the_process(self, sleeper):
        process = sleeper()
        send(read(process.pid), signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM

    @pytest.mark.parametrize("is_old", [False, True], ids=["pidfd", "without"])
    def test_does_not_reach_another_process_that_reuses_the_id(self, sleeper, monkeypatch, is_old):
        if is_old:
            monkeypatch.delattr(os, "pidfd_open", raising=False)
        process = sleeper()
        send(read(process.pid)._replace(start=start_of(process.pid) - 1), signal.SIGKILL)
        send(read(process.pid), signal.SIGTERM)  # the first signal to arrive
        assert process.wait() == -signal.SIGTERM

    def test_does_nothing_if_the_process_is_gone(self, sleeper):
        process = sleeper()
        found = read(process.pid)
        process.kill()
        process.wait()
        send(found, signal.SIGTERM)


class TestMarks:
    def test_are_inherited_even_if_a_child_clears_its_environment(self):
        marks = Marks()
        mark, other = marks.next(), marks.next()
        assert mark.limits, "the resource limit is set here, so that it can't be a mark"
        process = subprocess.Popen(
            ["env", "-i", "/bin/sh", "-c", "/bin/sleep 60 & echo $!; wait"],
            stdout=subprocess.PIPE,
            env=marked(dict(os.environ), mark),
            preexec_fn=lambda: descendants.set_limit(mark),  # noqa: PLW1509
            start_new_session=True,
        )
        try:
            grandchild = int(process.stdout.readline())
            assert [each.is_on(grandchild) for each in (mark, marks.all, other, Marks().all)] == [1, 1, 0, 0]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def test_are_in_the_environment_if_the_limit_can_not_be_used(self, sleeper, monkeypatch):
        monkeypatch.setattr(descendants, "_is_limit_free", lambda: False)
        marks = Marks()
        mark, other = marks.next(), marks.next()
        process = sleeper(
            "sleep 60; true", env=marked(dict(os.environ), mark), preexec_fn=lambda: descendants.set_limit(mark)
        )
        assert [each.is_on(process.pid) for each in (mark, marks.all, other, Marks().all)] == [1, 1, 0, 0]

    def test_of_nested_pilots_add_up(self, sleeper, monkeypatch):
        outer, inner = Marks().next(), Marks().next()
        monkeypatch.setenv(descendants.VARIABLE, outer.text)
        process = sleeper("sleep 60; true", env=marked(dict(os.environ), inner))
        assert outer.is_on(process.pid)
        assert inner.is_on(process.pid)

    def test_a_nested_pilot_does_not_change_the_limit(self):
        code = "from picas.processes.descendants import Marks; print(len(Marks().all.limits))"
        assert execute([sys.executable, "-c", code])[2] == b"0\n"

    def test_a_child_starts_even_if_the_system_forbids_the_limit(self, monkeypatch):
        def refuse(*args):
            raise ValueError("not allowed to raise maximum limit")

        monkeypatch.setattr("resource.setrlimit", refuse)
        descendants.set_limit(Mark("", range(1, 2)))

    def test_no_process_has_an_unused_mark(self):
        assert not NO_MARK.is_on(os.getpid())


class TestProcessTree:
    def test_a_group_whose_id_was_reused_is_not_ended(self, sleeper):
        process = sleeper()
        tree = ProcessTree([root_of(process)._replace(start=start_of(process.pid) - 1)])
        assert not tree.is_alive()
        tree.terminate()
        tree.kill()
        assert is_alive(process.pid)

    def test_a_group_without_a_leader_only_counts_below_the_subreaper(self, sleeper):
        """The id may have been reused by another group whose leader has ended, too."""
        process = sleeper("sleep 60 & echo $!; exit 0")
        survivor = int(process.stdout.readline())
        root = root_of(process)
        process.wait()
        assert not ProcessTree([root], subreaper=None).is_alive()
        tree = ProcessTree([root], subreaper=1)
        assert tree.is_alive()
        end(tree)
        assert not is_alive(survivor)

    def test_a_child_in_the_group_of_this_process_is_ended_without_this_process(self, sleeper):
        process = sleeper("sleep 60 & echo $!; wait", start_new_session=False)
        grandchild = int(process.stdout.readline())
        end(ProcessTree([root_of(process, leads_group=False)]))
        assert not is_alive(grandchild)

    @pytest.mark.timing
    def test_processes_started_after_sigterm_go_on_until_the_grace_period_is_over(self, sleeper):
        mark = Mark(f"mark of {time.monotonic()}", range(0))
        first = sleeper(env={**os.environ, "MARK": mark.text})
        tree = ProcessTree([root_of(first)], [mark])
        assert tree.is_alive()
        tree.terminate()
        first.wait()
        now = descendants._ticks()
        wait_for(lambda: descendants._ticks() > now + 1)
        helper = sleeper(env={**os.environ, "MARK": mark.text})
        wait_for(lambda: (helper.pid, start_of(helper.pid)) in tree._known or not tree.is_alive())
        tree.terminate()
        tree.terminate()
        assert is_alive(helper.pid)
        tree.kill()
        assert helper.wait() == -signal.SIGKILL

    def test_a_member_that_is_found_later_gets_sigterm_too(self, sleeper):
        mark = Mark(f"mark of {time.monotonic()}", range(0))
        first, missed = (sleeper(env={**os.environ, "MARK": mark.text}) for _ in range(2))
        now = descendants._ticks()
        wait_for(lambda: descendants._ticks() > now + 1)
        tree = ProcessTree([root_of(first)], [mark])
        tree._known = {read(first.pid)[:2]: read(first.pid)}
        tree.terminate()
        first.wait()
        wait_for(tree.is_alive)
        wait_for(lambda: tree.terminate() or missed.poll() is not None or not tree.is_alive())
        assert missed.wait() == -signal.SIGTERM

    def test_a_stopped_member_reacts_to_sigterm(self, sleeper):
        process = sleeper()
        process.send_signal(signal.SIGSTOP)
        tree = ProcessTree([root_of(process)])
        assert tree.is_alive()
        tree.terminate()
        assert process.wait() == -signal.SIGTERM

    def test_slow_scans_of_all_processes_are_rare(self, sleeper, monkeypatch):
        process = sleeper()
        scans = []

        def slow_scan():
            scans.append(time.monotonic())
            time.sleep(0.05)
            return iter([])

        monkeypatch.setattr(descendants, "_all", slow_scan)
        tree = ProcessTree([root_of(process)])
        began = time.monotonic()
        while time.monotonic() < began + 0.6:
            tree.is_alive()
            time.sleep(0.001)
        assert len(scans) <= (1 + descendants._MISSES) * (0.6 / descendants._LONGEST_PAUSE + 1)

    def test_without_proc_the_process_group_is_ended(self, sleeper, monkeypatch):
        monkeypatch.setattr(descendants, "HAS_PROC", False)
        process = sleeper("trap '' TERM; echo; exec sleep 60")
        process.stdout.readline()
        tree = ProcessTree([root_of(process)])
        tree.terminate()
        assert tree.is_alive()
        tree.kill()
        process.wait()
        wait_for(lambda: not tree.is_alive())
        tree.kill()

    def test_without_proc_a_child_that_leads_no_group_is_ended_alone(self, sleeper, monkeypatch):
        monkeypatch.setattr(descendants, "HAS_PROC", False)
        process = sleeper(start_new_session=False)
        tree = ProcessTree([root_of(process, leads_group=False)])
        assert tree.is_alive()
        tree.terminate()
        assert process.wait() == -signal.SIGTERM
        assert not tree.is_alive()


class TestReaping:
    """This process reaps the orphans that it has adopted, which would stay for ever otherwise."""

    @staticmethod
    def zombies():
        return [pid for pid in descendants.children_of(os.getpid()) if is_zombie(pid)]

    @pytest.mark.parametrize(
        "script",
        [
            "(sh -c 'echo $$ > orphan' &)",
            "setsid -f sh -c 'echo $$ > orphan'",
            "env -i setsid -f sh -c 'echo $$ > orphan'",
        ],
        ids=["in the child's session", "in its own session", "without environment"],
    )
    def test_a_zombie_that_a_child_left_is_reaped(self, script, tmp_path):
        run_command(script, shell=True)
        orphan = int(wait_for(lambda: (tmp_path / "orphan").exists() and (tmp_path / "orphan").read_text()))
        wait_for(lambda: run_command(["true"]) and not Path(f"/proc/{orphan}").exists())

    @pytest.mark.parametrize("own_session", [False, True])
    def test_a_users_own_child_is_not_reaped(self, own_session):
        process = subprocess.Popen(["sh", "-c", "exit 3"], start_new_session=own_session)
        wait_for(lambda: is_zombie(process.pid))
        run_command("setsid -f true", shell=True)
        run_command(["true"])
        assert process.wait() == 3

    def test_a_process_forked_by_the_user_is_not_reaped(self):
        script = """
import os, sys, time
from picas.executers import run_command
run_command(["true"])
pid = os.fork()
if pid == 0:
    os.setsid()
    os._exit(7)
while not open(f"/proc/{pid}/stat").read().rpartition(") ")[2].startswith("Z"):
    time.sleep(0.01)
run_command(["true"])
print(os.waitpid(pid, 0)[1] >> 8)
"""
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"7\n"

    def test_a_child_that_is_being_started_or_waited_for_is_not_reaped(self):
        """It has the mark, so only the code that started it can distinguish it from an orphan."""
        mark = Marks().next()
        options = {"start_new_session": True, "preexec_fn": lambda: descendants.set_limit(mark)}
        process = subprocess.Popen(["true"], **options)
        wait_for(lambda: is_zombie(process.pid))
        reap_adopted(mark, [os.getsid(0)], lambda pid: True)
        assert is_zombie(process.pid)
        reap_adopted(mark, [os.getsid(0)], lambda pid: False)
        with contextlib.suppress(FileNotFoundError):
            assert not is_zombie(process.pid)
        process.wait()

    def test_a_child_in_an_earlier_session_of_this_process_is_not_reaped(self, sleeper):
        process = sleeper("exit 0", start_new_session=False)
        wait_for(lambda: is_zombie(process.pid))
        reap_adopted(NO_MARK, [os.getsid(0), 1], lambda pid: False)
        assert is_zombie(process.pid)

    def test_does_nothing_without_children(self):
        script = "from picas.processes.descendants import *; reap_adopted(Mark('x', range(0)), [], lambda pid: False)"
        subprocess.run([sys.executable, "-c", script], check=True)
