"""What the programs of a token have used, how the last of them has failed, and what ran out of memory."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.workers import wait_for

from picas.executers import execute, execute_old, run_command
from picas.processes import Account, accounting, left_behind
from picas.processes.control_groups import OutOfMemoryKills

BURN = ["sh", "-c", "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done"]


@pytest.fixture
def account() -> Iterator[Account]:
    """The account of this thread."""
    with Account(threading.get_ident()) as opened:
        yield opened


class TestTheUsage:
    def test_is_unknown_without_any_program(self, account: Account) -> None:
        assert account.usage() is None

    def test_of_several_programs_is_the_sum_of_times_and_the_largest_memory(self, account: Account) -> None:
        results = [run_command(command) for command in (BURN, ["true"], BURN)]
        execute(["true"])
        usage = account.usage()
        assert usage is not None
        assert usage.cpu_seconds >= sum(result.cpu_seconds or 0 for result in results) > 0
        assert usage.max_memory_mb >= max(result.max_memory_mb or 0 for result in results) > 0

    def test_includes_what_was_left_in_the_background_and_ended(self, account: Account) -> None:
        execute(["sh", "-c", f"({BURN[2]}) >/dev/null 2>&1 &"])
        before = account.usage()
        assert before is not None
        wait_for(lambda: not left_behind())
        after = account.usage()
        assert after is not None
        assert after.cpu_seconds > before.cpu_seconds

    def test_includes_a_program_that_was_ended(self, account: Account) -> None:
        run_command(["sleep", "60"], timeout=0.1)
        assert account.usage() is not None

    def test_is_unknown_if_that_of_one_program_is(self, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
        execute(["true"])
        with monkeypatch.context() as patch:
            patch.setattr("picas.processes.programs.Usage.of", lambda *arguments: None)
            execute(["true"])
        execute(["true"])
        assert account.usage() is None

    def test_of_very_many_programs_needs_little_memory(self, account: Account) -> None:
        for _ in range(50):
            execute(["true"])
        assert not account._shares[threading.get_ident()]._left


class TestTheAccount:
    def test_of_a_thread_has_only_its_own_programs(self, account: Account) -> None:
        thread = threading.Thread(target=lambda: execute(["true"]))
        thread.start()
        thread.join()
        assert account.usage() is None

    def test_of_no_thread_has_those_of_all_threads_without_an_account(self) -> None:
        with Account(None) as all_others, Account(threading.get_ident()) as own:
            thread = threading.Thread(target=lambda: execute(["true"]))
            thread.start()
            thread.join()
            assert (own.usage() is None, all_others.usage() is None) == (True, False)

    def test_goes_on_after_that_of_code_inside(self, account: Account) -> None:
        with Account(threading.get_ident()) as inner:
            execute(["false"])
        assert inner.failure is not None
        assert account.failure is None
        execute(["false"])
        assert account.failure is not None

    def test_is_closed_afterwards(self) -> None:
        with Account(None) as closed:
            pass
        execute(["false"])
        assert (closed.usage(), closed.failure, accounting._accounts) == (None, None, {})


def fail(code: int, text: str) -> list[str]:
    """Return a command that fails like this."""
    return ["sh", "-c", f"echo '{text}' >&2; exit {code}"]


class TestTheReason:
    def test_is_the_last_line_of_standard_error(self, account: Account) -> None:
        execute(["sh", "-c", "echo one >&2; echo two >&2; echo; echo three; exit 3"])
        assert account.reason(3) == "exit 3: two"

    def test_comes_from_a_file_as_well(self, account: Account, tmp_path: Path) -> None:
        command = ["sh", "-c", "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i >&2; done; exit 3"]
        run_command(command, stderr=tmp_path / "err")
        assert account.reason(3) == "exit 3: line 3000"

    @pytest.mark.parametrize("stderr", [None, "/dev/null"])
    def test_has_no_line_if_there_is_no_file(self, account: Account, stderr: str | None) -> None:
        run_command(fail(3, "seen by nobody"), stderr=stderr)
        assert account.reason(3) == "exit 3"

    def test_is_that_of_the_program_that_failed_last(self, account: Account) -> None:
        execute(fail(1, "first"))
        execute(fail(2, "second"))
        execute(["true"])
        assert account.reason(2) == "exit 2: second"

    def test_is_not_that_of_a_program_with_another_exit_code(self, account: Account) -> None:
        execute(fail(1, "first"))
        execute_old("exit 2")
        assert (account.reason(1), account.reason(2)) == ("exit 1", "exit 2")
        assert account.reason(None) == "closed without an exit code"

    def test_names_the_signal(self, account: Account) -> None:
        execute(["sh", "-c", "kill -SEGV $$"])
        assert account.reason(-11) == "signal 11 (segmentation fault)"
        assert account.reason(139) == "exit 139 (signal 11, segmentation fault)"

    def test_is_the_time_out_of_a_program_that_had_one(self, account: Account) -> None:
        result = run_command(["sleep", "60"], timeout=0.25)
        assert account.reason(result.exit_code) == "time-out after 0.25 s"


class ControlGroups:
    """Files as those of control groups, in a folder.

    :param folder: the folder
    :param version: 1 or 2
    """

    def __init__(self, folder: Path, version: int) -> None:
        self.groups, self.root = folder / "cgroup", folder / "sys"
        if version == 1:
            self.groups.write_text("11:cpu,cpuacct:/job\n10:memory:/job/step\n1:name=systemd:/x\n")
            self._file = self.root / "memory/job/step/memory.oom_control"
            self._text = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
        else:
            self.groups.write_text("0::/job/step\n")
            self._file = self.root / "job/step/memory.events"
            self._text = "low 0\nhigh 0\nmax 7\noom 9\noom_kill {}\noom_group_kill 3\n"
        self._file.parent.mkdir(parents=True)
        self.set(2)

    def set(self, count: int) -> None:
        """Set how many processes the kernel has killed."""
        self._file.write_text(self._text.format(count))

    def watch(self) -> OutOfMemoryKills:
        """Begin to watch them."""
        return OutOfMemoryKills(self.groups, self.root)


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def control_groups(request: pytest.FixtureRequest, tmp_path: Path) -> ControlGroups:
    return ControlGroups(tmp_path, request.param)


class TestOutOfMemory:
    def test_is_told_by_a_count_that_rises(self, control_groups: ControlGroups) -> None:
        kills = control_groups.watch()
        assert not kills.has_risen()
        control_groups.set(3)
        assert kills.has_risen()

    def test_may_concern_several_programs_at_once_but_none_later(
        self, control_groups: ControlGroups, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kills = control_groups.watch()
        control_groups.set(4)
        assert kills.has_risen()
        assert kills.has_risen()
        monkeypatch.setattr("picas.processes.control_groups.SAME_EVENT", 0.0)
        assert not kills.has_risen()

    def test_is_unknown_without_control_groups(self, tmp_path: Path) -> None:
        assert not OutOfMemoryKills(tmp_path / "none", tmp_path).has_risen()
        (tmp_path / "cgroup").write_text("0::/seen/from/outside\n")
        assert not OutOfMemoryKills(tmp_path / "cgroup", tmp_path).has_risen()

    def test_is_found_in_a_container_that_sees_the_names_from_outside(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup").write_text("0::/seen/from/outside\n")
        events = tmp_path / "memory.events"
        events.write_text("oom_kill 0\n")
        kills = OutOfMemoryKills(tmp_path / "cgroup", tmp_path)
        events.write_text("oom_kill 1\n")
        assert kills.has_risen()

    @pytest.mark.parametrize(
        ("command", "exit_code"),
        [(["sh", "-c", "kill -KILL $$"], -signal.SIGKILL), (["sh", "-c", "sh -c 'kill -KILL $$'"], 137)],
    )
    def test_is_the_reason_of_a_program_that_was_killed_meanwhile(
        self,
        account: Account,
        control_groups: ControlGroups,
        monkeypatch: pytest.MonkeyPatch,
        command: list[str],
        exit_code: int,
    ) -> None:
        kills = control_groups.watch()
        monkeypatch.setattr(accounting, "_kills", [kills])
        execute(command)
        assert account.reason(exit_code).startswith(("signal 9 (killed)", "exit 137 (signal 9, killed)"))
        control_groups.set(3)
        execute(["false"])
        assert account.reason(1) == "exit 1"
        execute(command)
        assert account.reason(exit_code) == "out of memory"
