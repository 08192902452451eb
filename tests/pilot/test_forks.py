"""User code that forks: a forked process is no pilot, and ends with its token."""

import concurrent.futures
import multiprocessing
import multiprocessing.pool
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.workers import Worker, is_alive, pid_in, wait_for

from picas.pilot.identity import pilot_rows
from picas.processes import forks, interrupts
from picas.tokens.states import state_of
from picas.views import count_states

pytestmark = [
    pytest.mark.usefixtures("in_folder"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere forks are known only in part"),
]


def nap(name):
    """Note the pid in a file, and sleep for longer than any test takes."""
    Path(name).write_text(str(os.getpid()))
    time.sleep(120)


def fork_napping(name):
    if os.fork() == 0:
        nap(name)
        os._exit(0)
    return pid_in(name)


def start_process(name, method="fork"):
    process = multiprocessing.get_context(method).Process(target=nap, args=(name,), daemon=True)
    process.start()
    return pid_in(name)


def start_pool(name):
    context = multiprocessing.get_context("fork")
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
    pool.submit(nap, name)
    return pid_in(name)


WAYS = [fork_napping, start_process, start_pool, lambda name: start_process(name, "spawn")]
NAMES = ["fork", "Process", "pool", "spawn"]


class TestAForkedProcess:
    @pytest.mark.parametrize("hook", ["prepare_env", "prepare_run", "process_task", "cleanup_run", "cleanup_env"])
    @pytest.mark.parametrize(
        ("ending", "code"),
        [("raise OSError('a defect')", 1), ("return", 0), ("sys.exit(7)", 7), ("raise KeyboardInterrupt", 1)],
    )
    def test_that_comes_back_is_no_pilot(self, client, push, pilot, hook, ending, code):
        push(2)
        process = pilot(f"""
class Forking(Noting):
    def {hook}(self, *arguments):
        pid = os.fork()
        if pid == 0:
            {ending}
        note("code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
Forking(connect()).run()
note("end", os.getpid())
""")
        assert process.end() == 0, process.errors.read_text()
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 2, "error": 0}
        assert [line for line in process.journal if line.startswith("end")] == [f"end {process.process.pid}"]
        assert {line for line in process.journal if line.startswith("code")} == {f"code {code}"}
        assert ("a defect" in process.errors.read_text()) == ("a defect" in ending)
        assert list(pilot_rows(client)) == []

    def test_does_not_handle_the_signals_of_the_pilot(self, client, push, pilot):
        push(1)
        process = pilot("""
class Forking(Noting):
    def process_task(self, task):
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
        os.kill(pid, signal.SIGTERM)
        task["output"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
Forking(connect()).run()
""")
        assert process.end() == 0, process.errors.read_text()
        assert client.get("token_0")["output"] == -signal.SIGTERM

    def test_its_exit_code_is_the_users(self, client, push):
        push(1)

        def work(task):
            pid = os.fork()
            if pid == 0:
                os._exit(5)
            time.sleep(0.1)
            task["exit_code"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        Worker(client, work).run()
        assert client.get("token_0")["exit_code"] == 5

    def test_its_exit_code_is_the_users_also_while_other_tokens_end(self, client, push):
        push(2)

        def work(task):
            if task.id == "token_0":
                process = multiprocessing.get_context("fork").Process(target=os._exit, args=(5,))
                process.start()
                wait_for(lambda: state_of(client.get("token_1")) == "done")
                task["output"] = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
            else:
                wait_for(lambda: any(not is_alive(child.pid) for child in multiprocessing.process._children))

        Worker(client, work, claim_ahead=0).run(slots=2)
        assert client.get("token_0").get("output") == 5, client.get("token_0").value

    @pytest.mark.parametrize("ending", ["raise OSError('a defect')", "return"])
    def test_that_comes_back_when_the_pilot_is_stopped_is_no_pilot(self, client, push, pilot, ending):
        push(1)
        process = pilot(f"""
class Forking(Noting):
    def process_task(self, task):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    def cleanup_env(self):
        pid = os.fork()
        if pid == 0:
            {ending}
        os.waitpid(pid, 0)
try:
    Forking(connect()).run()
finally:
    note("end", os.getpid())
""")
        assert process.end() == 0, process.errors.read_text()
        assert [line for line in process.journal if line.startswith("end")] == [f"end {process.process.pid}"]
        assert "was marked as dead" not in process.errors.read_text()


@pytest.mark.parametrize("slots", [1, 2])
class TestWhatIsForkedEndsWithItsToken:
    @pytest.mark.parametrize("start", WAYS, ids=NAMES)
    def test_at_its_end(self, client, push, start, slots):
        push(1)
        Worker(client, lambda task: task.update({"output": start("pid")})).run(slots=slots)
        pid = client.get("token_0")["output"]
        wait_for(lambda: not is_alive(pid))
        assert state_of(client.get("token_0")) == "done"

    @pytest.mark.parametrize("start", WAYS[:3], ids=NAMES[:3])
    def test_at_its_time_out(self, client, push, monkeypatch, start, slots):
        monkeypatch.setattr(interrupts, "SETTLE", 0.2)
        push(1)

        def work(task):
            task["output"] = start("pid")
            while True:
                time.sleep(0.01)

        Worker(client, work, grace=1).run(max_token_time=1, slots=slots)
        token = client.get("token_0")
        wait_for(lambda: not is_alive(pid_in("pid")))
        assert token["attempts"][0]["outcome"] == "time-out"


def test_what_a_pool_of_threads_has_forked_ends_with_the_token(client, push):
    push(1)

    def work(task):
        with multiprocessing.pool.ThreadPool(1) as pool:
            task["output"] = pool.apply(fork_napping, ("pid",))

    Worker(client, work).run()
    wait_for(lambda: not is_alive(client.get("token_0")["output"]))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_stop_ends_workers(client, push, pilot, slots):
    push(1)
    process = pilot(f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
def nap(name):
    open(name, "w").write(str(os.getpid()))
    time.sleep(120)
class Forking(Noting):
    def process_task(self, task):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            pool.submit(nap, "pid").result()
Forking(connect(), grace=2).run(slots={slots})
""")
    pid = pid_in(process.folder / "pid")
    assert process.stop() == 0, process.errors.read_text()
    assert not is_alive(pid)
    assert state_of(client.get("token_0")) == "todo"


class Pooling(Worker):
    """Keeps a pool of workers for all tokens, and uses it for each.

    :param make: returns the pool
    """

    def __init__(self, client, make, **options):
        super().__init__(client, self.use, **options)
        self.make = make
        self.pool = None

    def prepare_env(self):
        self.pool = self.make()

    def use(self, task):
        if isinstance(self.pool, concurrent.futures.Executor):
            task["output"] = self.pool.submit(abs, -3).result(20)
        else:
            task["output"] = self.pool.apply_async(abs, (-3,)).get(20)

    def cleanup_env(self):
        if isinstance(self.pool, concurrent.futures.Executor):
            self.pool.shutdown()
        else:
            self.pool.close()
            self.pool.join()


class PoolingLate(Pooling):
    """Makes it for the first token."""

    def prepare_env(self):
        pass

    def prepare_run(self):
        self.pool = self.pool or self.make()


def executor(method="fork"):
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))


def started_executor():
    pool = executor()
    pool.submit(abs, 1).result()
    return pool


def short_lived():
    return multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1)


class SlowToStart(multiprocessing.context.ForkProcess):
    """It has been forked for a while when the process that forks it notes it."""

    forked = []

    @staticmethod
    def _Popen(process):  # noqa: N802  # the name is Python's
        popen = multiprocessing.context.ForkProcess._Popen(process)
        SlowToStart.forked.append((process, popen))
        time.sleep(0.3)
        return popen


class SlowContext(multiprocessing.context.ForkContext):
    Process = SlowToStart


class TestAPoolOfWorkersThatTheActorKeeps:
    @pytest.mark.parametrize(
        ("kind", "make", "slots"),
        [
            (Pooling, started_executor, 1),
            (Pooling, executor, 1),
            (Pooling, executor, 2),
            (Pooling, lambda: executor("spawn"), 1),
            (PoolingLate, executor, 1),
            (Pooling, short_lived, 1),
            (PoolingLate, short_lived, 1),
        ],
        ids=["started", "lazy", "slots", "spawn", "late", "Pool", "late Pool"],
    )
    def test_works_for_all_tokens(self, client, push, kind, make, slots):
        push(5)
        kind(client, make).run(slots=slots)
        assert [client.get(f"token_{number}").get("output") for number in range(5)] == [3] * 5

    def test_replaces_its_workers_while_tokens_end(self, client, push, monkeypatch):
        monkeypatch.setattr(SlowToStart, "forked", [])
        push(5)
        Pooling(client, lambda: SlowContext().Pool(2, maxtasksperchild=1)).run()
        assert count_states(client)["done"] == 5
        assert {worker.exitcode for worker, _ in SlowToStart.forked} == {0}

    def test_goes_on_if_another_thread_is_starting_it(self, client, push, monkeypatch):
        monkeypatch.setattr(SlowToStart, "forked", [])
        push(1)
        results = []
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=SlowContext()) as pool:

            def work(task):
                threading.Thread(target=lambda: results.append(pool.submit(abs, -3)), daemon=True).start()
                wait_for(lambda: SlowToStart.forked)

            Worker(client, work).run()
            wait_for(lambda: results)
            assert SlowToStart.forked[0][1].poll() is None
            assert results[0].result(20) == 3

    def test_ends_with_the_token_if_it_is_being_shut_down(self, client, push):
        push(1)
        kept = []

        def work(task):
            kept.append(executor())
            kept[0].submit(nap, "pid")
            task["output"] = pid_in("pid")
            kept[0].shutdown(wait=False)

        Worker(client, work).run()
        wait_for(lambda: not is_alive(client.get("token_0")["output"]))

    @pytest.mark.parametrize(
        ("used", "ending"),
        [
            ("self.pool.map(abs, [1]); note('working'); time.sleep(60)", "self.pool.close(); self.pool.join()"),
            ("note('working'); time.sleep(60)", "self.pool.terminate()"),
            ("note('working'); time.sleep(60)", "pass"),
        ],
        ids=["join", "terminate", "exit"],
    )
    def test_is_ended_by_the_code_of_a_pilot_that_is_stopped(self, client, push, pilot, used, ending):
        push(1)
        process = pilot(f"""
import multiprocessing
class Pooling(Noting):
    def prepare_env(self):
        self.pool = multiprocessing.get_context("fork").Pool(3)
        note("workers", *[child.pid for child in multiprocessing.active_children()])
    def process_task(self, task):
        {used}
    def cleanup_env(self):
        {ending}
Pooling(connect()).run()
""")
        process.wait_for("working")
        workers = [int(pid) for pid in process.wait_for("workers").split()[1:]]
        assert process.stop() == 0, process.errors.read_text()
        assert len(workers) == 3
        wait_for(lambda: not any(map(is_alive, workers)))
        assert state_of(client.get("token_0")) == "todo"
        assert list(pilot_rows(client)) == []


def test_a_program_that_another_thread_is_starting_goes_on(client, push):
    push(1)
    programs = []

    def dawdle():
        Path("forked").touch()
        time.sleep(1)

    def start():
        programs.append(subprocess.Popen(["sleep", "60"], preexec_fn=dawdle))  # noqa: PLW1509  # as old scripts do

    def work(task):
        threading.Thread(target=start, daemon=True).start()
        wait_for(Path("forked").exists)

    Worker(client, work).run()
    wait_for(lambda: programs)
    assert programs[0].poll() is None
    programs[0].kill()
    programs[0].wait()


def test_a_users_own_program_goes_on(client, push, tmp_path):
    """Also if Python calls the user's code between the fork and the program."""
    push(1)
    programs = []

    def work(task):
        programs.append(subprocess.Popen(["sleep", "60"]))
        programs.append(subprocess.Popen(["sleep", "60"], preexec_fn=os.setsid))  # noqa: PLW1509  # as old scripts do

    Worker(client, work).run()
    assert [program.poll() for program in programs] == [None, None]
    for program in programs:
        program.kill()
        program.wait()
    assert forks() == []
