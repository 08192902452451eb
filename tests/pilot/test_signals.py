"""Pilots that are stopped by real signals, in every phase of their work."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.workers import PATIENCE, Worker, is_alive, signal_after, wait_for

from picas import Actor, EndlessViewIterator, RunActor, Task, TaskViewIterator
from picas.exceptions import PilotStopped
from picas.executers import execute, running
from picas.modifiers import BasicTokenModifier
from picas.pilot import run, work
from picas.processes.interrupts import TimeLimit, shielded
from picas.tokens.states import state_of
from picas.views import count_states

NEVER = 60.0
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture(autouse=True)
def handlers_stay():
    before = [signal.getsignal(signum) for signum in SIGNALS]
    yield
    assert [signal.getsignal(signum) for signum in SIGNALS] == before
    assert running() == []


def assert_put_back(client, token_id="token_0"):
    """Assert that the token is free again, not counted as a failure, and without a trace of its owner."""
    token = client.get(token_id)
    assert state_of(token) == "todo"
    assert (token["scrub_count"], token["exit_code"]) == (0, "")
    assert "claim" not in token
    assert [attempt["outcome"] for attempt in token["attempts"]] == ["stopped"]
    return token


class TestPhases:
    @pytest.mark.parametrize("signum", SIGNALS)
    def test_while_a_child_runs(self, client, push, pilot, signum):
        push(2)
        process = pilot("""
class Running(Noting):
    def process_task(self, task):
        script = "sleep 60 & echo grandchild $! >> journal; echo child $$ >> journal; wait"
        task["exit_code"] = execute(["sh", "-c", script])[1]
Running(connect()).run()
""")
        child, grandchild = process.number("child"), process.number("grandchild")
        assert process.stop(signum) == 0
        assert not is_alive(child)
        assert not is_alive(grandchild)
        assert_put_back(client)
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 0, "error": 0}
        assert process.journal[-1] == "cleanup_env"
        assert process.journal.count("cleanup_env") == 1

    @pytest.mark.timing
    def test_while_a_child_of_run_command_ignores_the_signal(self, client, push, pilot):
        push(1)
        process = pilot("""
class Running(Noting):
    def process_task(self, task):
        script = "trap '' TERM; echo child $$ >> journal; while true; do sleep 0.1; done"
        task["exit_code"] = run_command(["sh", "-c", script], grace=60).exit_code
Running(connect(), grace=0.3).run()
""")
        child = process.number("child")
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 10
        assert not is_alive(child)
        assert_put_back(client)

    def test_the_token_is_put_back_only_after_the_child_has_ended(self, client, push, pilot):
        push(1)
        process = pilot('''
class Running(Noting):
    def process_task(self, task):
        script = """trap 'sleep 0.5; echo ended >> journal; exit' TERM; echo child >> journal
            while true; do sleep 0.05; done"""
        task["exit_code"] = execute(["sh", "-c", script])[1]
    def cleanup_env(self):
        note(state_of(client.get("token_0")))
from picas.tokens.states import state_of
client = connect()
save = client.save
client.save = lambda doc: note("save") or save(doc)
Running(client).run()
''')
        process.wait_for("child")
        assert process.stop() == 0
        assert process.journal[-3:] == ["ended", "save", "todo"]

    def test_while_python_code_runs(self, client, push, pilot):
        push(1)
        process = pilot("""
class Sleeping(Noting):
    def process_task(self, task):
        note("working")
        while True:
            try:
                time.sleep(60)
            except Exception:
                note("swallowed")
Sleeping(connect()).run()
""")
        process.wait_for("working")
        assert process.stop() == 0
        assert_put_back(client)
        assert "swallowed" not in process.journal

    def test_while_the_environment_is_prepared(self, client, push, pilot):
        push(1)
        process = pilot("""
class Preparing(Noting):
    def prepare_env(self):
        note("prepare_env")
        execute(["sh", "-c", "echo child $$ >> journal; exec sleep 60"])
Preparing(connect()).run()
""")
        child = process.number("child")
        assert process.stop() == 0
        assert not is_alive(child)
        assert process.journal[-1] == "cleanup_env"
        assert "attempts" not in client.get("token_0")

    def test_while_a_run_is_prepared(self, client, push, pilot):
        push(1)
        process = pilot("""
class Preparing(Noting):
    def prepare_run(self):
        note("prepare_run")
        time.sleep(60)
Preparing(connect()).run()
""")
        process.wait_for("prepare_run")
        assert process.stop() == 0
        assert_put_back(client)
        assert process.journal == ["prepare_env", "prepare_run", "cleanup_env"]

    @pytest.mark.timing
    def test_while_a_token_is_claimed(self, client, push, pilot):
        push(1)
        process = pilot("""
client = connect()
write = client.write_documents
def slow_write(docs):
    note("claiming")
    time.sleep(0.5)
    written = write(docs)
    note("claimed")
    return written
client.write_documents = slow_write
Noting(client).run()
""")
        process.wait_for("claiming")
        assert process.stop() == 0
        assert process.journal == ["prepare_env", "claiming", "claimed", "cleanup_env"]
        assert_put_back(client)

    @pytest.mark.timing
    def test_while_a_result_is_saved(self, client, push, pilot):
        push(2)
        process = pilot("""
client = connect()
save = client.save
class Saving(Noting):
    def process_task(self, task):
        client.save = self.slow_save
    def slow_save(self, doc):
        note("saving")
        time.sleep(0.5)
        saved = save(doc)
        note("saved")
        return saved
Saving(client).run()
""")
        process.wait_for("saving")
        assert process.stop() == 0
        assert process.journal == ["prepare_env", "prepare_run", "saving", "saved", "cleanup_env"]
        assert count_states(client) == {"todo": 1, "locked": 0, "done": 1, "error": 0}

    @pytest.mark.timing
    def test_while_a_result_is_saved_and_the_next_token_is_locked(self, client, push, pilot):
        push(3)
        process = pilot("""
client = connect()
write = client.write_documents
class Saving(Noting):
    cleanup_run = RunActor.cleanup_run
    def process_task(self, task):
        client.write_documents = self.slow_write
    def slow_write(self, docs):
        note("saving")
        time.sleep(0.5)
        written = write(docs)
        note("saved", len(docs))
        return written
Saving(client).run()
""")
        process.wait_for("saving")
        assert process.stop() == 0
        assert process.journal == ["prepare_env", "prepare_run", "saving", "saved 2", "cleanup_env"]
        assert state_of(client.get("token_0")) == "done"
        assert_put_back(client, "token_1")
        assert "attempts" not in client.get("token_2")

    def test_while_a_run_is_cleaned_up(self, client, push, pilot):
        push(2)
        process = pilot("""
class Cleaning(Noting):
    def process_task(self, task):
        task["exit_code"] = 1
    def cleanup_run(self):
        note("cleanup_run")
        time.sleep(60)
Cleaning(connect()).run(max_scrub=1)
""")
        process.wait_for("cleanup_run")
        assert process.stop() == 0
        assert process.journal[-1] == "cleanup_env"
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"]) == ("todo", 1)  # it failed before the signal, so it is retried
        assert count_states(client)["todo"] == 2

    def test_while_the_stop_function_runs(self, client, push, pilot):
        push(1)
        process = pilot("""
Noting(connect()).run(stop_function=lambda: note("asked") or time.sleep(60))
""")
        process.wait_for("asked")
        assert process.stop() == 0
        assert process.journal[-1] == "cleanup_env"
        assert count_states(client)["done"] == 1

    @pytest.mark.timing
    @pytest.mark.parametrize("signum", SIGNALS)
    def test_while_it_waits_for_tokens(self, client, pilot, signum):
        process = pilot("""
client = connect()
iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), 60, stop_callback=lambda: note("asked"))
Noting(client, iterator).run()
""")
        process.wait_for("asked")
        began = time.monotonic()
        assert process.stop(signum) == 0
        assert time.monotonic() - began < 10
        assert process.journal[-1] == "cleanup_env"

    @pytest.mark.timing
    def test_while_it_waits_for_the_database(self, client, pilot):
        process = pilot("""
from picas.couch import outages
outages.FIRST_PAUSE = 60.0
client = connect()
client.server.resource.session.retry_pauses = ()
class Away(Noting):
    def prepare_env(self):
        client.db.resource.url = "http://127.0.0.1:9/none"
        note("away")
Away(client).run()
""")
        process.wait_for("away")
        wait_for(lambda: "is away" in process.errors.read_text())
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 10
        assert process.journal[-1] == "cleanup_env"

    @pytest.mark.timing
    def test_while_the_environment_is_cleaned_up(self, client, push, pilot):
        """The clean-up is not interrupted, its children are not ended, and it is not done twice."""
        push(1)
        process = pilot("""
class Cleaning(Noting):
    def cleanup_env(self):
        note("cleanup_env")
        note("ended", execute(["sleep", "0.7"])[1])
Cleaning(connect()).run()
note("never reached")
""")
        process.wait_for("cleanup_env")
        assert process.stop() == 0
        assert process.journal[-2:] == ["cleanup_env", "ended 0"]
        assert count_states(client)["done"] == 1


STUBBORN = """
class Running(Noting):
    def process_task(self, task):
        script = "trap '' TERM INT; echo child $$ >> journal; while true; do sleep 0.1; done"
        task["exit_code"] = execute(["sh", "-c", script])[1]
"""
"""An actor whose program ignores SIGTERM."""


IN_A_JOB = """
import os
from picas.batch import slurm_controller
os.environ.update(SLURM_JOB_ID="7", SLURM_JOB_END_TIME="9999999999")
slurm_controller._kill_waits[""] = 1.0
"""
"""A job that Slurm kills one second after SIGTERM."""


class TestAGracePeriodThatOutlastsTheJob:
    """The batch system would kill the pilot before it had put its token back."""

    @pytest.mark.parametrize("slots", [1, 3])
    @pytest.mark.parametrize("signums", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]], ids=str)
    def test_is_cut_short_by_sigterm_and_only_by_that(self, client, push, pilot, signums, slots):
        """Users may ask for another signal long before that, as in sbatch --signal=B:INT@600."""
        push(1)
        process = pilot(IN_A_JOB + STUBBORN + f"Running(connect(), grace=300).run(slots={slots})")
        process.wait_for("child")
        said = "Programs have 0.5 s to end when this job is cancelled, not 300 s (PICAS_GRACE)"
        wait_for(lambda: said in process.errors.read_text())
        for signum in signums:
            process.send(signum)
            wait_for(lambda: f"Stopping on signal {signums[0]:d}" in process.errors.read_text())
        assert process.end() == 0
        other = "300" if signums[0] == signal.SIGTERM else "0.5"
        assert f"which may take up to {other} s" not in process.errors.read_text()
        assert_put_back(client)


class TestImpatience:
    """A person who presses Ctrl-C learns at once what happens, and need not wait for the grace period."""

    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_second_ctrl_c_kills_at_once(self, client, push, pilot, slots):
        push(3)
        process = pilot(STUBBORN + f"Running(connect(), grace=300).run(slots={slots})")
        wait_for(lambda: sum(line.startswith("child") for line in process.journal) == slots)
        time.sleep(0.3)  # until the pilot knows that they have started
        process.send(signal.SIGINT)
        wait_for(lambda: "Stopping on signal 2: ending " in process.errors.read_text())
        (line,) = [line for line in process.errors.read_text().splitlines() if "Stopping on signal" in line]
        assert line.endswith("which may take up to 300 s; Ctrl-C again kills at once")
        time.sleep(run.SAME_KEY)
        began = time.monotonic()
        process.send(signal.SIGINT)
        assert process.end() == 0
        assert time.monotonic() - began < 20
        assert count_states(client) == {"todo": 3, "locked": 0, "done": 0, "error": 0}
        for line in process.journal:
            if line.startswith("child"):
                assert not is_alive(int(line.split()[1]))

    @pytest.mark.timing
    def test_a_second_signal_of_the_same_key_press_does_not(self, client, push, pilot):
        push(1)
        process = pilot(STUBBORN + "Running(connect(), grace=2.5).run()")
        process.wait_for("child")
        time.sleep(0.3)  # until the pilot knows that it has started
        began = time.monotonic()
        process.send(signal.SIGINT)
        process.send(signal.SIGINT)
        assert process.end() == 0
        assert time.monotonic() - began > 2.5
        assert_put_back(client)

    @pytest.mark.parametrize("signums", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
    def test_other_signals_do_not(self, client, push, pilot, signums):
        push(1)
        process = pilot(STUBBORN + "Running(connect(), grace=2.5).run()")
        process.wait_for("child")
        time.sleep(0.3)  # until the pilot knows that it has started
        began = time.monotonic()
        process.send(signums[0])
        time.sleep(2 * run.SAME_KEY)
        process.send(signums[1])
        assert process.end() == 0
        assert time.monotonic() - began > 2.5
        assert_put_back(client)

    @pytest.mark.timing
    def test_code_that_goes_on_is_interrupted_again_but_that_is_no_second_ctrl_c(self, client, push, pilot):
        push(1)
        process = pilot("""
class Stubborn(Noting):
    def process_task(self, task):
        for _ in range(3):
            try:
                note("working")
                time.sleep(60)
            except BaseException:
                note("swallowed")
Stubborn(connect(), grace=0.5).run()
""")
        process.wait_for("working")
        process.send(signal.SIGINT)
        assert process.end() == 0
        assert "Interrupted again" not in process.errors.read_text()
        assert_put_back(client)

    @pytest.mark.timing
    def test_a_second_ctrl_c_interrupts_slow_clean_up_too(self, client, push, pilot):
        push(1)
        process = pilot("""
class Slow(Noting):
    def process_task(self, task):
        try:
            note("working")
            time.sleep(60)
        finally:
            note("cleaning")
            time.sleep(60)
Slow(connect(), grace=300).run()
""")
        process.wait_for("working")
        process.send(signal.SIGINT)
        process.wait_for("cleaning")
        time.sleep(2 * run.SAME_KEY)
        process.send(signal.SIGINT)
        assert process.end() == 0
        assert_put_back(client)

    def test_kills_a_users_own_process_too(self, client, push, pilot):
        push(1)
        process = pilot("""
class Running(Noting):
    def process_task(self, task):
        script = "trap '' TERM; echo child $$ >> journal; while true; do sleep 0.1; done"
        self.subprocess = subprocess.Popen(["sh", "-c", script])
        self.subprocess.wait()
Running(connect(), grace=300).run()
""")
        child = process.number("child")
        time.sleep(0.3)  # until the pilot knows that it has started
        process.send(signal.SIGINT)
        time.sleep(2 * run.SAME_KEY)
        process.send(signal.SIGINT)
        assert process.end() == 0
        assert not is_alive(child)
        assert_put_back(client)


class TestMoreSignals:
    @pytest.mark.timing
    def test_further_signals_change_nothing(self, client, push, pilot):
        push(1)
        process = pilot("""
class Running(Noting):
    def process_task(self, task):
        script = "trap 'echo term >> journal; sleep 0.7; echo ended >> journal; exit' TERM; echo child >> journal; \\
            while true; do sleep 0.05; done"
        task["exit_code"] = execute(["sh", "-c", script])[1]
    def cleanup_env(self):
        note("cleanup_env")
        time.sleep(0.3)
        note("cleaned")
Running(connect()).run()
""")
        process.wait_for("child")
        process.send(signal.SIGTERM)
        process.wait_for("term")
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send(signum)
        process.wait_for("cleanup_env")
        process.send(signal.SIGTERM)
        assert process.end() == 0
        assert process.journal[-4:] == ["term", "ended", "cleanup_env", "cleaned"]
        assert_put_back(client)

    def test_the_exit_code_of_a_stopped_pilot_can_be_chosen(self, client, push, pilot):
        push(1)
        process = pilot("""
class Sleeping(Noting):
    def process_task(self, task):
        note("working")
        time.sleep(60)
Sleeping(connect(), stop_exit_code=3).run()
""")
        process.wait_for("working")
        assert process.stop() == 3
        assert "Traceback" not in process.errors.read_text()

    def test_a_pilot_under_nohup_survives_the_end_of_its_terminal(self, client, push, pilot):
        push(1)
        process = pilot(
            """
class Waiting(Noting):
    def process_task(self, task):
        note("working")
        while not os.path.exists("go"):
            time.sleep(0.02)
Waiting(connect()).run()
""",
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        )
        process.wait_for("working")
        process.send(signal.SIGHUP)
        time.sleep(0.2)
        (process.folder / "go").touch()
        assert process.end() == 0
        assert count_states(client)["done"] == 1

    def test_a_signal_to_the_whole_job_step_stops_both_child_and_pilot(self, client, push, pilot):
        """A batch system signals the processes in turn; the pilot may see its child end before its own signal."""
        push(1)
        process = pilot("""
class Running(Noting):
    def process_task(self, task):
        task["exit_code"] = execute(["sh", "-c", "echo child $$ >> journal; exec sleep 60"])[1]
        note("child ended with", task["exit_code"])
        BasicTokenModifier().close(task)
from picas.modifiers import BasicTokenModifier
Running(connect()).run()
""")
        os.kill(process.number("child"), signal.SIGTERM)
        process.wait_for("child ended with -15")
        assert process.stop() == 0
        assert_put_back(client)


def stop_soon(condition=lambda: True, signum=signal.SIGTERM):
    return signal_after(0.05, signum, condition)


class Working(RunActor):
    """Calls `work` for each token, in the process of the test."""

    def __init__(self, db, work, **options):
        super().__init__(db, **{"grace": 1, **options})
        self.work = work
        self.working = threading.Event()
        self.cleaned = 0

    def process_task(self, task):
        self.working.set()
        self.work(task)

    def cleanup_env(self):
        self.cleaned += 1


def sleep_long(task):
    time.sleep(NEVER)


class TestStoppedTokens:
    """Here the pilot runs in the test's own process, which gets real signals too."""

    def test_run_raises_pilot_stopped(self, client, push):
        push(1)
        actor = Working(client, sleep_long)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped) as caught:
            actor.run()
        assert isinstance(caught.value, SystemExit)
        assert caught.value.code == 0
        assert_put_back(client)
        assert actor.cleaned == 1

    def test_a_stop_does_not_count_for_max_scrub(self, client, push):
        push(1)
        actor = Working(client, sleep_long)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
            actor.run(max_scrub=5)
        assert_put_back(client)

    @pytest.mark.parametrize(
        ("values", "state"), [([0, 0], "todo"), ([5, 0], "locked"), ([7, 8], "error"), ((0, 0), "todo")]
    )
    def test_the_reset_values_set_lock_and_done_of_the_token(self, client, push, values, state):
        push(1)
        actor = Working(client, sleep_long, token_reset_values=values)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
            actor.run()
        token = client.get("token_0")
        assert [token["lock"], token["done"]] == list(values)
        assert state_of(token) == state

    def test_without_reset_values_the_token_is_not_changed(self, client, push):
        push(1)

        def work(task):
            task["output"] = "half"
            sleep_long(task)

        actor = Working(client, work, token_reset_values=None)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
            actor.run()
        token = client.get("token_0")
        assert state_of(token) == "locked"
        assert token["claim"]["pilot"] == actor._picas.pilot.id
        assert token["output"] != "half"

    def test_without_reset_values_the_next_run_does_not_change_it_either(self, client, push):
        push(1)
        actor = Working(client, sleep_long, token_reset_values=None)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
            actor.run()
        actor.iterator.reset()
        actor.run()
        assert state_of(client.get("token_0")) == "locked"

    def test_fields_that_the_code_wrote_are_kept_for_the_next_attempt(self, client, push):
        push(1)

        def work(task):
            task["checkpoint"] = 17
            sleep_long(task)

        actor = Working(client, work)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
            actor.run()
        assert assert_put_back(client)["checkpoint"] == 17

    def test_a_person_s_edit_is_kept(self, client, push):
        push(1)
        edited = threading.Event()

        def work(task):
            rival = client.copy()
            rival.save(Task({**rival.get(task.id).value, "comment": "mine"}))
            edited.set()
            sleep_long(task)

        actor = Working(client, work)
        with stop_soon(edited.is_set), pytest.raises(PilotStopped):
            actor.run()
        assert assert_put_back(client)["comment"] == "mine"

    def test_a_token_that_another_pilot_has_taken_is_not_changed(self, client, push):
        push(1)
        taken = threading.Event()

        def work(task):
            rival = client.copy()
            rival.save(Task(rival.get(task.id)).scrub().lock("another pilot"))
            taken.set()
            sleep_long(task)

        actor = Working(client, work)
        with stop_soon(taken.is_set), pytest.raises(PilotStopped):
            actor.run()
        assert client.get("token_0")["claim"]["pilot"] == "another pilot"

    def test_finished_work_is_saved_rather_than_put_back(self, client, push):
        push(1)
        closed = threading.Event()

        def work(task):
            task["exit_code"] = 0
            BasicTokenModifier().close(task)
            closed.set()
            sleep_long(task)

        actor = Working(client, work)
        with stop_soon(closed.is_set), pytest.raises(PilotStopped):
            actor.run()
        token = client.get("token_0")
        assert state_of(token) == "done"
        assert token["attempts"][0]["outcome"] == "done"

    def test_finished_work_is_saved_if_the_signal_arrives_right_after_it(self, client, push, monkeypatch):
        push(2)

        class Late(TimeLimit):
            closed = 0

            def close(self):
                super().close()
                Late.closed += 1
                if Late.closed == 2:  # once when the block is left, and once more to be safe
                    os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(work, "TimeLimit", Late)
        with pytest.raises(PilotStopped):
            Working(client, lambda task: task.update({"output": "finished"})).run()
        token = client.get("token_0")
        assert (state_of(token), token["output"]) == ("done", "finished")
        assert count_states(client)["todo"] == 1

    def test_work_that_failed_before_the_stop_is_saved_as_failed(self, client, push):
        push(1)
        noted = threading.Event()

        def work(task):
            task["exit_code"] = 2
            noted.set()
            sleep_long(task)

        actor = Working(client, work)
        with stop_soon(noted.is_set), pytest.raises(PilotStopped):
            actor.run()
        assert state_of(client.get("token_0")) == "error"

    @pytest.mark.parametrize("exit_code", [-15, 143, 130, -9, "143"])
    def test_the_exit_code_of_a_child_that_the_pilot_ended_is_not_a_result(self, client, push, exit_code):
        push(1)
        noted = threading.Event()

        def work(task):
            task["exit_code"] = exit_code
            BasicTokenModifier().close(task)
            noted.set()

        actor = Working(client, work)
        with stop_soon(noted.is_set), pytest.raises(PilotStopped):
            actor.run()
        assert_put_back(client)

    @pytest.mark.timing
    def test_an_exception_about_such_a_child_is_not_a_failure(self, client, push):
        push(1)
        noted = threading.Event()

        def work(task):
            noted.set()
            subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"], check=True)

        actor = Working(client, work)
        noted_and_over = lambda: noted.is_set() and actor.current_task is not None  # noqa: E731
        with signal_after(0.2, signal.SIGTERM, noted_and_over), pytest.raises(PilotStopped):
            actor.run()
        assert_put_back(client)

    def test_a_child_that_dies_by_a_signal_is_a_failure_if_the_pilot_is_not_stopped(self, client, push, monkeypatch):
        push(1)
        monkeypatch.setattr(work, "STOP_LAG", 0.05)
        Working(client, lambda task: task.update({"exit_code": execute(["sh", "-c", "kill -9 $$"])[1]})).run()
        token = client.get("token_0")
        assert (state_of(token), token["exit_code"]) == ("error", -9)

    def test_code_that_swallows_the_stop_cannot_set_its_token_to_done(self, client, push):
        push(2)

        def work(task):
            try:
                sleep_long(task)
            except BaseException:
                task["output"] = "half"

        actor = Working(client, work)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
            actor.run()
        assert_put_back(client)
        assert "attempts" not in client.get("token_1")

    def test_an_error_in_cleanup_env_does_not_change_how_the_pilot_ends(self, client, push, caplog):
        push(1)

        class Messy(Working):
            def cleanup_env(self):
                raise OSError("no disk")

        actor = Messy(client, sleep_long)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
            actor.run()
        assert "no disk" in caplog.text
        assert_put_back(client)

    def test_a_stopped_actor_can_run_again(self, client, push):
        push(1)
        actor = Working(client, sleep_long)
        with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
            actor.run()
        actor.iterator.reset()
        actor.work = lambda task: None
        actor.run()
        assert [attempt["outcome"] for attempt in client.get("token_0")["attempts"]] == ["stopped", "done"]


class TestHandlers:
    def test_are_restored_after_a_run(self, client):
        def mine(signum, frame):
            raise AssertionError

        previous = {signum: signal.signal(signum, mine) for signum in SIGNALS}
        try:
            Worker(client).run()
            assert all(signal.getsignal(signum) is mine for signum in SIGNALS)
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def test_are_restored_after_a_run_that_raised(self, client):
        class Failing(Actor):
            def prepare_env(self):
                assert signal.getsignal(signal.SIGTERM) == self.handler
                raise OSError

        with pytest.raises(OSError):  # noqa: PT011
            Failing(client).run()

    def test_an_ignored_hangup_stays_ignored(self, client):
        previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)

        class Looking(Worker):
            def prepare_env(self):
                assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN

        try:
            Looking(client).run()
        finally:
            signal.signal(signal.SIGHUP, previous)

    def test_are_not_installed_outside_the_main_thread(self, client, push):
        push(2)
        errors = []

        class Looking(Actor):
            def process_task(self, task):
                if signal.getsignal(signal.SIGTERM) == self.handler:
                    errors.append("a handler was set")

        thread = threading.Thread(target=Looking(client).run)
        thread.start()
        thread.join(30)
        assert errors == []
        assert count_states(client)["done"] == 2

    def test_can_be_set_for_another_signal(self, client, push):
        push(1)
        actor = Working(client, sleep_long, stop_signals=(signal.SIGTERM, signal.SIGUSR1))
        before = signal.getsignal(signal.SIGUSR1)
        with stop_soon(actor.working.is_set, signal.SIGUSR1), pytest.raises(PilotStopped):
            actor.run()
        assert signal.getsignal(signal.SIGUSR1) == before
        assert_put_back(client)

    @pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU], ids=str)
    def test_stop_a_pilot_that_its_batch_system_warns(self, client, push, pilot, signum):
        """By default, these signals would kill it."""
        push(1)
        process = pilot(STUBBORN.replace("TERM INT", "INT") + "Running(connect()).run()")
        process.wait_for("child")
        assert process.stop(signum) == 0
        assert f"Stopping on signal {signum.value}" in process.errors.read_text()
        assert_put_back(client)

    def test_leave_the_handler_of_a_script_for_such_a_warning(self, client, push):
        push(1)
        heard = threading.Event()
        previous = signal.signal(signal.SIGUSR1, lambda signum, frame: heard.set())

        def work(task):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert heard.wait(PATIENCE)

        try:
            Working(client, work).run()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert count_states(client)["done"] == 1

    def test_in_the_main_thread_can_stop_an_actor_in_another_thread(self, client, push):
        push(2)
        actor = Working(client, lambda task: task.update({"exit_code": execute(["sleep", "60"])[1]}))

        def run():
            with pytest.raises(PilotStopped):
                actor.run()

        thread = threading.Thread(target=run)
        thread.start()
        wait_for(running)
        with pytest.raises(PilotStopped):
            actor.handler(signal.SIGTERM, None)
        thread.join(30)
        assert not thread.is_alive()
        assert_put_back(client)
        assert actor.cleaned == 1


class TestHandlerWithoutARun:
    """Scripts call the handler themselves, or install it and write their own loop."""

    def test_puts_the_current_task_back_cleans_up_and_exits(self, client, push):
        push(1)
        actor = Working(client, sleep_long)
        actor.current_task = next(actor.iterator)
        with pytest.raises(SystemExit) as caught:
            actor.handler(signal.SIGTERM, None)
        assert caught.value.code == 0
        assert_put_back(client)
        assert actor.cleaned == 1

    def test_ends_the_child(self, client, push):
        push(1)
        actor = Working(client, sleep_long)
        actor.current_task = next(actor.iterator)
        actor.subprocess = subprocess.Popen(["sleep", "60"])
        with pytest.raises(SystemExit):
            actor.handler(signal.SIGTERM, None)
        assert actor.subprocess.returncode == -15
        assert_put_back(client)

    def test_without_a_task_there_is_nothing_to_put_back(self, client, push):
        push(1)
        actor = Working(client, sleep_long)
        with pytest.raises(SystemExit):
            actor.handler(signal.SIGTERM, None)
        assert "attempts" not in client.get("token_0")
        assert actor.cleaned == 1

    def test_does_not_change_a_token_that_is_done(self, client, push):
        push(1)
        actor = Working(client, lambda task: None)
        actor.run(stop_function=lambda: True)
        assert actor.current_task is not None
        with pytest.raises(SystemExit):
            actor.handler(signal.SIGTERM, None)
        assert state_of(client.get("token_0")) == "done"

    def test_does_not_change_the_token_without_reset_values(self, client, push):
        push(1)
        actor = Working(client, sleep_long, token_reset_values=None)
        actor.current_task = next(actor.iterator)
        with pytest.raises(SystemExit):
            actor.handler(signal.SIGTERM, None)
        assert state_of(client.get("token_0")) == "locked"

    def test_waits_for_the_end_of_what_must_not_be_interrupted(self, client):
        actor = RunActor(client)
        reached = []

        def start_a_child():
            with shielded():
                actor.handler(signal.SIGTERM, None)
                reached.append("the end")

        with pytest.raises(PilotStopped):
            start_a_child()
        assert reached == ["the end"]

    def test_does_nothing_after_a_run_that_was_stopped(self, client, push):
        """Batch systems send their signals several times, and a script may have set the handler itself."""
        push(1)
        cleaned = []

        class Stopping(RunActor):
            def process_task(self, task):
                self.handler(signal.SIGTERM, None)

            def cleanup_env(self):
                cleaned.append(True)

        actor = Stopping(client)
        with pytest.raises(PilotStopped):
            actor.run()
        actor.handler(signal.SIGTERM, None)
        assert cleaned == [True]

    def test_can_be_called_again(self, client):
        actor = Working(client, sleep_long)
        for _ in range(2):
            with pytest.raises(SystemExit):
                actor.handler(signal.SIGTERM, None)
        assert actor.cleaned == 2

    def test_works_in_a_script_with_its_own_loop(self, client, push):
        push(1)
        actor = Working(client, sleep_long)
        previous = {signum: signal.getsignal(signum) for signum in SIGNALS}

        def work_alone():
            actor.setup_handler()
            actor.current_task = next(actor.iterator)
            actor.process_task(actor.current_task)

        try:
            with stop_soon(actor.working.is_set), pytest.raises(PilotStopped):
                work_alone()
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        assert_put_back(client)


def test_an_endless_iterator_of_a_stopped_actor_has_ended(client):
    iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=NEVER)
    actor = Working(client, sleep_long, iterator=iterator)
    with stop_soon(), pytest.raises(PilotStopped):
        actor.run()
    assert iterator.is_stopped()
    assert iterator.iterator.is_stopped()
