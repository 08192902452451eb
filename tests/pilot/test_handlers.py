"""Signals that a pilot was started without, that user code has taken away, or whose interruption it swallows."""

import os
import signal
import threading

import pytest
from support.workers import Worker, signal_after

from picas.exceptions import PilotStopped
from picas.tokens.states import state_of
from picas.views import count_states

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


pytestmark = pytest.mark.usefixtures("in_folder")


def ignore_children():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def block_all():
    signal.pthread_sigmask(signal.SIG_BLOCK, [*STOP_SIGNALS, signal.SIGCHLD])


def ignore_stops():
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


class TestStarted:
    """Some daemons and batch hooks start programs with signals ignored or blocked."""

    @pytest.mark.parametrize("setup", [ignore_children, block_all])
    def test_the_exit_codes_of_children_are_true(self, client, push, pilot, setup):
        push(4)
        process = pilot(
            """
class Failing(Noting):
    def process_task(self, task):
        command = ["sh", "-c", ["exit 3", "kill -9 $$"][int(task.id[-1]) % 2]]
        if int(task.id[-1]) < 2:
            task["exit_code"] = execute(command)[1]
        else:
            task["exit_code"] = subprocess.run(command).returncode
Failing(connect()).run()
""",
            preexec_fn=setup,
        )
        assert process.end() == 0, process.errors.read_text()
        assert [client.get(f"token_{number}")["exit_code"] for number in range(4)] == [3, -9, 3, -9]

    @pytest.mark.parametrize("setup", [block_all, ignore_stops])
    def test_a_stop_is_heard_by_the_pilot_and_by_its_programs(self, client, push, pilot, setup):
        push(1)
        process = pilot(
            """
class Waiting(Noting):
    def process_task(self, task):
        script = "trap 'echo heard >> journal; exit' TERM; echo ready >> journal; while true; do sleep 0.05; done"
        task["exit_code"] = execute(["sh", "-c", script])[1]
Waiting(connect()).run()
""",
            preexec_fn=setup,
        )
        process.wait_for("ready")
        assert process.stop() == 0
        assert "heard" in process.journal
        assert state_of(client.get("token_0")) == "todo"

    @pytest.mark.parametrize("setup", [ignore_children, block_all, ignore_stops])
    def test_what_python_code_forks_gets_exit_codes_and_can_be_stopped(self, client, push, pilot, setup):
        push(1)
        process = pilot(
            """
class Forking(Noting):
    def process_task(self, task):
        pid = os.fork()
        if pid == 0:
            note("exit code", subprocess.run(["sh", "-c", "exit 3"]).returncode)
            note("ready")
            time.sleep(60)
            os._exit(0)
        while not (os.path.exists("journal") and "ready" in open("journal").read()):
            time.sleep(0.01)
        os.kill(pid, signal.SIGTERM)
        task["output"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
Forking(connect()).run(max_token_time=20)
""",
            preexec_fn=setup,
        )
        assert process.end() == 0, process.errors.read_text()
        assert client.get("token_0").get("output") == -signal.SIGTERM
        assert process.number("exit code") == 3

    def test_what_was_changed_is_undone(self, client, push):
        push(1)
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            Worker(client, lambda task: task.update({"output": str(signal.getsignal(signal.SIGCHLD))})).run()
            assert client.get("token_0")["output"] == str(signal.SIG_DFL)
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
            assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        finally:
            signal.signal(signal.SIGCHLD, before)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class TestTakenAway:
    @pytest.mark.parametrize(
        "how",
        [
            lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
            lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
            lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
        ],
        ids=["ignored", "default", "blocked"],
    )
    @pytest.mark.parametrize("hook", ["prepare_run", "process_task", "cleanup_run"])
    @pytest.mark.parametrize("claim_ahead", [0, 2])
    def test_by_one_token_stops_are_heard_during_the_next(self, client, push, how, hook, claim_ahead):
        push(2)

        class Taking(Worker):
            def prepare_run(self):
                hook == "prepare_run" and self.current_task.id == "token_0" and how()

            def cleanup_run(self):
                hook == "cleanup_run" and self.current_task.id == "token_0" and how()

        def work(task):
            if task.id == "token_1":
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(30)
            elif hook == "process_task":
                how()

        with pytest.raises(PilotStopped):
            Taking(client, work, claim_ahead=claim_ahead).run()
        assert [state_of(client.get(f"token_{number}")) for number in range(2)] == ["done", "todo"]

    def test_before_the_first_token_it_is_the_users_own_will(self, client, push):
        push(2)
        heard = []

        class Own(Worker):
            def prepare_env(self):
                signal.signal(signal.SIGTERM, lambda *_: heard.append(1))

        Own(client, lambda task: os.kill(os.getpid(), signal.SIGTERM)).run()
        assert len(heard) == 2
        assert count_states(client)["done"] == 2


class TestSwallowed:
    """Code that swallows the interruption is interrupted again after the grace period."""

    @pytest.mark.parametrize("hook", ["prepare_env", "prepare_run", "process_task", "stop_function"])
    def test_again_and_again(self, client, push, hook):
        push(2)
        swallowed, at_work = [], threading.Event()

        def swallow():
            at_work.set()
            while len(swallowed) < 3:
                try:
                    threading.Event().wait(30)
                except BaseException:
                    swallowed.append(1)
            threading.Event().wait(30)

        class Stubborn(Worker):
            def prepare_env(self):
                hook == "prepare_env" and swallow()

            def prepare_run(self):
                hook == "prepare_run" and swallow()

        def work(task):
            hook == "process_task" and swallow()

        def is_enough():
            hook == "stop_function" and swallow()

        with pytest.raises(PilotStopped), signal_after(0.1, signal.SIGTERM, at_work.is_set):
            Stubborn(client, work, grace=0.1).run(stop_function=is_enough)
        assert len(swallowed) == 3
        expected = {"todo": 1, "done": 1} if hook == "stop_function" else {"todo": 2, "done": 0}
        assert count_states(client) == {**expected, "locked": 0, "error": 0}

    def test_in_another_thread_the_process_is_not_killed(self, client, push, pilot):
        """There is no handler for a signal that the script passes on from elsewhere."""
        push(1)
        process = pilot("""
class Waiting(Noting):
    def process_task(self, task):
        note("working")
        time.sleep(1.5)
actor = Waiting(connect(), grace=0.2)
thread = threading.Thread(target=actor.run)
thread.start()
while not (os.path.exists("journal") and "working" in open("journal").read()):
    time.sleep(0.01)
try:
    actor.handler(signal.SIGTERM)
except SystemExit:
    thread.join()
note("joined")
""")
        assert process.end() == 0, process.errors.read_text()
        assert process.journal[-1] == "joined"
        assert state_of(client.get("token_0")) == "todo"

    def test_the_next_run_of_the_process_is_not_interrupted(self, client, push):
        push(1)
        stopped = Worker(client, lambda task: os.kill(os.getpid(), signal.SIGTERM), grace=0.3)
        stopped.cleanup_env = lambda: threading.Event().wait(0.6)  # while the stop looks for its end now and then
        with pytest.raises(PilotStopped):
            stopped.run()
        Worker(client, lambda task: threading.Event().wait(1)).run()
        assert state_of(client.get("token_0")) == "done"

    def test_by_prepare_run_no_work_begins(self, client, push):
        push(1)

        class Stubborn(Worker):
            def prepare_run(self):
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                    threading.Event().wait(30)
                except BaseException:
                    pass

        actor = Stubborn(client)
        with pytest.raises(PilotStopped):
            actor.run()
        assert actor.processed == []

    def test_a_further_signal_is_still_ignored(self, client, push, pilot):
        push(1)
        process = pilot("""
class Cleaning(Noting):
    def process_task(self, task):
        note("working")
        try:
            time.sleep(60)
        finally:
            note("cleaning")
            time.sleep(0.5)
            note("clean")
Cleaning(connect(), grace=30).run()
""")
        process.wait_for("working")
        process.send(signal.SIGTERM)
        process.wait_for("cleaning")
        assert process.stop() == 0
        assert process.journal[-2:] == ["clean", "cleanup_env"]
