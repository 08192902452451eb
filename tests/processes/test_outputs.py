"""Output files of a command: complete, or cut to head and tail, or with an error that says what is missing."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.workers import is_alive, pid_in, wait_for

from picas.executers import end_all, run_command, running
from picas.processes import capped_files, outputs
from picas.processes.interrupts import interrupt
from picas.processes.outputs import Outputs

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    assert running() == []
    for file in Path().glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def descriptors():
    """Return how many open descriptors this process has."""
    return len(list(Path("/dev/fd").iterdir()))


class TestLimit:
    def test_larger_output_is_cut_to_head_and_tail_and_the_result_says_so(self, tmp_path):
        result = run_command(["seq", "100000"], stdout="log", max_output=40)
        assert (result.exit_code, result.truncated) == (0, True)
        head, tail = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10", "\n99998\n99999\n100000\n"
        line = "\n[... picas cut 588855 of 588895 bytes here ...]\n"
        assert (tmp_path / "log").read_text() == head + line + tail

    def test_output_up_to_the_limit_is_complete(self, tmp_path):
        result = run_command(["seq", "10"], stdout="log", max_output=21)
        assert not result.truncated
        assert (tmp_path / "log").read_text() == "".join(f"{number}\n" for number in range(1, 11))

    def test_the_limit_is_per_file_even_for_two_streams(self, tmp_path):
        script = "printf 12345678; printf abcdefgh >&2"
        assert not run_command(["sh", "-c", script], stdout="out", stderr="err", max_output=8).truncated
        assert run_command(["sh", "-c", script], stdout="log", stderr=tmp_path / "log", max_output=8).truncated
        assert (tmp_path / "log").read_text() == "1234\n[... picas cut 8 of 16 bytes here ...]\nefgh"

    @pytest.mark.parametrize("limit", [-1])
    def test_a_negative_limit_is_rejected(self, limit):
        with pytest.raises(ValueError, match="-1"):
            run_command(["true"], stdout="log", max_output=limit)

    @linux_only
    def test_endless_output_fills_the_disk_only_up_to_the_limit(self, tmp_path):
        """Unnamed files count, too, so this adds up the open files."""
        limit = 1 << 20
        sizes = []

        def disk_use():
            total = 0
            for link in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()).startswith(str(tmp_path)):
                        total += link.stat().st_size
            return total

        def work():
            results.append(run_command(["yes"], stdout="log", max_output=limit))

        results = []
        thread = threading.Thread(target=work)
        thread.start()
        written = wait_for(lambda: running() and running()[0])
        try:
            while len(sizes) < 50 or max(sizes) < limit // 2:
                sizes.append(disk_use())
        finally:
            end_all([written], 5)
            thread.join()
        assert max(sizes) <= 2 * limit
        assert results[0].truncated
        assert limit < (tmp_path / "log").stat().st_size < limit + 100

    def test_output_without_files_is_not_cut(self, capfd):
        assert not run_command(["seq", "100"], max_output=1).truncated
        assert len(capfd.readouterr().out) == 292

    def test_simultaneous_commands_have_separate_output(self, tmp_path):
        def work(number):
            run_command(f"seq {number} 20 {number + 200000}", shell=True, stdout=f"out{number}", max_output=1 << 20)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(8):
            expected = "".join(f"{line}\n" for line in range(number, number + 200001, 20))
            assert (tmp_path / f"out{number}").read_text() == expected


@pytest.mark.timing
class TestInterrupted:
    def test_output_before_a_time_out_and_after_sigterm_is_kept(self, tmp_path):
        script = "trap 'echo cleaned; exit 1' TERM; echo began; while true; do sleep 0.05; done"
        result = run_command(["sh", "-c", script], stdout="log", timeout=1, grace=20)
        assert result.timed_out
        assert (tmp_path / "log").read_text() == "began\ncleaned\n"

    def test_output_after_sigterm_may_exceed_the_capacity_of_a_pipe(self, tmp_path):
        script = "trap 'head -c 300000 /dev/zero; exit 1' TERM; echo > ready.pid; while true; do sleep 0.05; done"
        result = run_command(["sh", "-c", script], stdout="log", timeout=1, grace=20)
        Path("ready.pid").unlink()
        assert (result.exit_code, (tmp_path / "log").stat().st_size) == (1, 300_000)

    def test_output_before_an_interruption_is_kept_within_the_limit(self, tmp_path):
        class Interruption(BaseException):
            pass

        def raise_it(signum, frame):
            raise Interruption

        previous = signal.signal(signal.SIGUSR1, raise_it)

        def interrupt():
            pid_in("child.pid")
            os.kill(os.getpid(), signal.SIGUSR1)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises(Interruption):
                run_command("seq 1000; echo $$ > child.pid; exec sleep 60", shell=True, stdout="log", max_output=20)
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, previous)
        log = (tmp_path / "log").read_text()
        assert log.startswith("1\n2\n3\n4\n5\n")
        assert log.endswith("999\n1000\n")

    def test_a_command_that_cannot_be_started_leaves_no_descriptor_open(self):
        with contextlib.suppress(FileNotFoundError):
            run_command(
                ["no-such-command"], stdout="out", stderr="err"
            )  # so that the set-up for the first child is done
        before = descriptors()
        with pytest.raises(FileNotFoundError):
            run_command(["no-such-command"], stdout="out", stderr="err")
        assert descriptors() <= before  # garbage of other tests may be closed meanwhile

    def test_no_descriptor_stays_open_after_a_command(self):
        run_command(["true"], stdout="out", stderr="err")
        before = descriptors()
        run_command(["true"], stdout="out", stderr="err")
        wait_for(lambda: descriptors() <= before)


class TestBackground:
    """Background processes of a command keep the pipe open."""

    def test_nobody_waits_for_them(self, tmp_path):
        run_command("sleep 60 & echo $! > service.pid; echo here", shell=True, stdout="log")
        assert (tmp_path / "log").read_text() == "here\n"
        assert is_alive(pid_in("service.pid"))

    def test_nobody_waits_for_them_even_if_they_write_endlessly(self, tmp_path):
        result = run_command("yes & echo $! > service.pid; sleep 0.1", shell=True, stdout="log", max_output=100)
        assert result.truncated
        assert is_alive(pid_in("service.pid"))

    def test_they_can_go_on_writing(self, tmp_path):
        script = """sh -c 'while [ ! -e go ]; do sleep 0.01; done; echo more; echo > told; exec sleep 60' &
            echo $! > service.pid; echo here"""
        run_command(script, shell=True, stdout="log")
        Path("go").touch()
        wait_for(Path("told").exists)
        assert is_alive(pid_in("service.pid"))
        wait_for(lambda: (tmp_path / "log").read_text() == "here\nmore\n")


class TestOtherFiles:
    def test_a_device_is_passed_to_the_command_directly(self):
        result = run_command(["sh", "-c", "echo out; test -c /dev/fd/1"], stdout=os.devnull, max_output=1)
        assert (result.exit_code, result.truncated) == (0, False)

    def test_a_named_pipe_goes_to_its_reader(self):
        os.mkfifo("pipe")
        reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE)
        run_command(["echo", "out"], stdout="pipe")
        assert reader.communicate()[0] == b"out\n"


class TestFullDisk:
    @staticmethod
    def fill(folder):
        """Return a script that fills the disk after its output has been written to the log."""
        wait = f"while [ ! -s {folder}/log ]; do sleep 0.01; done"
        return f"echo out; {wait}; head -c 200000 /dev/zero > {folder}/result"

    def test_lost_output_raises_an_error_with_the_reason(self, small_disk):
        with pytest.raises(OSError, match="disk full: ") as caught:
            run_command(["head", "-c", "200000", "/dev/zero"], stdout=small_disk / "log")
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.strerror == f"disk full: {small_disk}/log does not hold all 200000 bytes of output"
        assert (small_disk / "log").stat().st_size > 0

    def test_the_command_itself_goes_on(self, small_disk, tmp_path):
        with pytest.raises(OSError, match="disk full: "):
            run_command("head -c 200000 /dev/zero && touch went-on", shell=True, stdout=small_disk / "log")
        assert (tmp_path / "went-on").exists()

    def test_a_command_that_failed_because_the_disk_is_full_raises_an_error(self, small_disk):
        script = self.fill(small_disk)
        with pytest.raises(OSError, match=r"disk full: no space .*exit code 1") as caught:
            run_command(script, shell=True, stdout=small_disk / "log", stderr=os.devnull)
        assert caught.value.errno == errno.ENOSPC

    def test_a_command_that_failed_for_another_reason_returns_its_exit_code(self, small_disk):
        assert run_command(["sh", "-c", "exit 3"], stdout=small_disk / "log").exit_code == 3

    def test_a_successful_command_with_complete_output_raises_no_error(self, small_disk):
        assert (
            run_command(
                self.fill(small_disk) + "; true", shell=True, stdout=small_disk / "log", stderr=os.devnull
            ).exit_code
            == 0
        )
        assert (small_disk / "log").read_text() == "out\n"

    def test_the_tail_counts_too(self, small_disk):
        with pytest.raises(OSError, match="disk full: "):
            run_command(["head", "-c", "1000000", "/dev/zero"], stdout=small_disk / "log", max_output=100_000)


def test_another_error_in_writing_is_raised_unchanged(tmp_path, monkeypatch):
    def fail(descriptor, data):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(capped_files, "_write", fail)
    with pytest.raises(OSError, match="broken disk"):
        run_command(["echo", "out"], stdout="log")


@pytest.mark.parametrize("kind", [OSError(errno.EMFILE, "too many"), MemoryError("no memory")])
def test_an_error_in_the_thread_that_copies_is_raised_at_once(tmp_path, monkeypatch, kind):
    """Nothing real makes it fail at this point reliably."""

    def fail():
        raise kind

    monkeypatch.setattr(outputs.select, "poll", fail)
    before = time.monotonic()
    with pytest.raises(type(kind), match=str(kind.args[-1])):
        run_command(["echo", "out"], stdout="log")
    assert time.monotonic() - before < outputs.PATIENCE / 2


def test_a_hanging_disk_does_not_block_the_pilot_for_ever(tmp_path, monkeypatch, caplog):
    go = threading.Event()
    monkeypatch.setattr(capped_files, "_write", lambda descriptor, data: go.wait(30))
    monkeypatch.setattr(outputs, "PATIENCE", 0.1)
    run_command(["echo", "out"], stdout="log")
    go.set()
    assert "not written after 0.1 s" in caplog.text


class TestThreads:
    """The threads that copy the output are kept for further commands."""

    @staticmethod
    def threads():
        return {thread for thread in threading.enumerate() if thread.name == "picas-output"}

    def test_commands_one_after_the_other_share_one(self, tmp_path):
        run_command(["echo", "out"], stdout="log")
        before = self.threads()
        for number in range(20):
            run_command(["echo", str(number)], stdout="log")
            assert (tmp_path / "log").read_text() == f"{number}\n"
        assert len(self.threads() - before) <= 1  # the first may still have been at work when the second began

    def test_one_that_is_kept_by_a_background_process_does_not_delay_others(self, tmp_path):
        for name in ("one", "two", "three"):
            run_command(f"sleep 60 & echo $! >> {name}.pid; echo {name}", shell=True, stdout=name)
            assert (tmp_path / name).read_text() == f"{name}\n"

    def test_a_forked_process_starts_its_own(self, tmp_path):
        body = """
import os
from picas.executers import run_command
run_command(["echo", "out"], stdout="log")
pid = os.fork()
if pid == 0:
    run_command(["echo", "in the fork"], stdout="log")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
        subprocess.run([sys.executable, "-c", body], timeout=30, check=True)
        assert (tmp_path / "log").read_text() == "in the fork\n"


def test_a_stop_just_after_the_copying_has_begun_loses_no_output(tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    def stop():
        raise Stop

    def run(task, run=outputs.copiers.run):
        run(lambda: (time.sleep(0.3), task()))  # it gets the processor late
        wait_for((tmp_path / "begun").exists)
        interrupt(stop)

    run_command(["true"], stdout="log")
    before = descriptors()
    monkeypatch.setattr(outputs.copiers, "run", run)
    with pytest.raises(Stop):
        run_command(["sh", "-c", "echo out; touch begun; exec sleep 60"], stdout="log")
    assert (tmp_path / "log").read_text() == "out\n"
    wait_for(lambda: descriptors() <= before)


def test_one_file_under_two_names_gets_both_streams(tmp_path):
    (tmp_path / "log").touch()
    (tmp_path / "link").symlink_to("log")
    os.link("log", "other")
    for name in ("link", "./log", "other"):
        run_command(["sh", "-c", "echo out; echo err >&2"], stdout="log", stderr=name)
        assert (tmp_path / "log").read_text() == "out\nerr\n"


def test_outputs_that_are_never_started_are_closed(tmp_path):
    before = descriptors()
    with Outputs("out", "err"):
        pass
    assert descriptors() <= before  # garbage of other tests may be closed meanwhile
