"""Reading processes from /proc, and finding and ending descendants."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.proc import is_zombie
from support.workers import is_alive, wait_for

from picas.processes import descendants
from picas.processes.descendants import Descendants, Family, Process, Root, read, send, start_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


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


def earlier(pid):
    """Return a process that had this id before."""
    now = read(pid)
    return Process(pid, now.start - 1, True, now.parent, now.group, now.session)


def end(family):
    """Kill a family."""
    wait_for(lambda: not (family.is_alive() and (family.kill() or True)))


def tick():
    """Wait until a process that is started now has a later start time."""
    now = descendants._ticks()
    wait_for(lambda: descendants._ticks() > now + 1)


class TestRead:
    def test_returns_this_process(self):
        process = read(os.getpid())
        assert process is not None
        assert process.is_alive
        assert (process.parent, process.group, process.session) == (os.getppid(), os.getpgid(0), os.getsid(0))

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
        assert descendants.children_of(process.pid) == []

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
        send(earlier(process.pid), signal.SIGKILL)
        send(read(process.pid), signal.SIGTERM)  # the first signal to arrive
        assert process.wait() == -signal.SIGTERM

    def test_does_nothing_if_the_process_is_gone(self, sleeper):
        process = sleeper()
        found = read(process.pid)
        process.kill()
        process.wait()
        send(found, signal.SIGTERM)


class TestFamily:
    """A user's own child processes."""

    def test_a_group_whose_id_was_reused_is_not_ended(self, sleeper):
        process = sleeper()
        family = Family([Root(process.pid, start_of(process.pid) - 1, leads_group=False)])
        assert not family.is_alive()
        family.terminate()
        family.kill()
        assert is_alive(process.pid)

    def test_a_group_outlives_its_leader(self, sleeper):
        process = sleeper("sleep 60 & echo $!; exit 0")
        survivor = int(process.stdout.readline())
        family = Family([root_of(process)])
        process.wait()
        assert family.is_alive()
        end(family)
        assert not is_alive(survivor)

    def test_once_it_is_gone_its_ids_mean_nothing(self, sleeper):
        process = sleeper("exit 0")
        family = Family([root_of(process)])
        process.wait()
        wait_for(lambda: not family.is_alive())
        assert family.groups([read(os.getpid())]) == []
        assert not family.kill()

    def test_a_child_in_the_group_of_this_process_is_ended_without_this_process(self, sleeper):
        process = sleeper("sleep 60 & echo $!; wait", start_new_session=False)
        grandchild = int(process.stdout.readline())
        end(Family([root_of(process, leads_group=False)]))
        assert not is_alive(grandchild)

    def test_a_stopped_member_reacts_to_sigterm(self, sleeper):
        process = sleeper()
        process.send_signal(signal.SIGSTOP)
        family = Family([root_of(process)])
        assert family.is_alive()
        family.terminate()
        assert process.wait() == -signal.SIGTERM

    def test_slow_searches_of_all_processes_are_rare(self, sleeper, monkeypatch):
        process = sleeper()
        searches = []

        def slow_search():
            searches.append(time.monotonic())
            time.sleep(0.05)
            return iter([read(process.pid)])

        monkeypatch.setattr(descendants, "_all", slow_search)
        family = Family([root_of(process)])
        began = time.monotonic()
        while time.monotonic() < began + 0.6:
            family.is_alive()
            family.terminate()
            time.sleep(0.001)
        assert len(searches) <= (1 + descendants._MISSES) * (0.6 / descendants._LONGEST_PAUSE + 1)

    def test_without_proc_the_process_group_is_ended(self, sleeper, monkeypatch):
        monkeypatch.setattr(descendants, "HAS_PROC", False)
        process = sleeper("trap '' TERM; echo; exec sleep 60")
        process.stdout.readline()
        family = Family([root_of(process)])
        family.terminate()
        assert family.is_alive()
        family.kill()
        process.wait()
        wait_for(lambda: not family.is_alive())
        family.kill()

    def test_without_proc_a_child_that_leads_no_group_is_ended_alone(self, sleeper, monkeypatch):
        monkeypatch.setattr(descendants, "HAS_PROC", False)
        process = sleeper(start_new_session=False)
        family = Family([root_of(process, leads_group=False)])
        assert family.is_alive()
        family.terminate()
        assert process.wait() == -signal.SIGTERM
        assert not family.is_alive()


class TestDescendants:
    """All that is below a process. Here that is a shell, whose children have no orphans."""

    @pytest.fixture(params=[True, False], ids=["lists of children", "without"])
    def below(self, request, sleeper, monkeypatch):
        """Start a shell that runs a script, and return it with what is below it."""
        monkeypatch.setattr(descendants, "_HAS_LISTS", request.param)

        def start(script, group=0):
            process = sleeper(script)
            return process, Descendants(process.pid, group)

        return start

    def test_all_generations_are_found(self, below):
        process, tree = below("sh -c 'sleep 60 & echo $!; sleep 60; true' & echo $!; wait")
        pids = {int(process.stdout.readline()) for _ in range(2)}
        assert pids <= {member.pid for member in wait_for(lambda: len(tree.members()) >= 3 and tree.members())}
        assert process.pid not in {member.pid for member in tree.members()}
        assert tree.kill()
        wait_for(lambda: not any(map(is_alive, pids)))

    def test_processes_started_after_sigterm_go_on_until_they_are_killed(self, below, tmp_path):
        process, tree = below(
            "sleep 60 & echo $!; while [ ! -e go ]; do sleep 0.01; done; sleep 60 & echo $!; wait; sleep 60"
        )
        first = int(process.stdout.readline())
        tick()
        tree.terminate()
        wait_for(lambda: not is_alive(first))
        tick()
        (tmp_path / "go").touch()
        second = int(process.stdout.readline())
        tree.terminate()
        time.sleep(0.1)
        assert is_alive(second)
        assert tree.kill()
        wait_for(lambda: not is_alive(second))

    def test_only_the_groups_of_its_members_are_its_own(self, below):
        _, tree = below("sleep 60; true", group=os.getpgid(0))
        assert tree.groups(tree.members()) == []
        assert tree.groups([read(os.getpid())]) == [os.getpgid(0)]
