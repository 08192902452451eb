"""Runs with several slots: each of many tokens is treated like a single one."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.faults import FaultProxy, Reply
from support.tokens import make_token
from support.workers import PilotProcess, is_alive, signal_after, stop_this_pilot, wait_for

from picas import (
    Actor,
    CouchDB,
    EndlessViewIterator,
    PrioritizedViewIterator,
    RunActor,
    Task,
    TaskViewIterator,
    ViewIterator,
)
from picas.exceptions import PicasError, PilotStopped
from picas.executers import execute, run_command, running
from picas.modifiers import BasicTokenModifier
from picas.processes import interrupts
from picas.tokens.states import state_of
from picas.views import count_states

NEVER = 60.0
WAIT_FOR_OVER = "while [ ! -e over ]; do sleep 0.02; done"


pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    wait_for(lambda: not slot_threads())


def slot_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("picas-slot")]


class Pilot(RunActor):
    """Calls `work` for each token, and records the calls with the token and the thread.

    It has no hook that must see a token saved, so tokens are saved together with the locks of others.
    """

    def __init__(self, db, work=lambda task: None, **options):
        super().__init__(db, **{"grace": 0.5, **options})
        self.work = work
        self.calls = []
        self.raising = {}

    def note(self, name):
        task = self.current_task
        self.calls.append((name, None if task is None else task.id, threading.current_thread().name))
        if name in self.raising:
            raise self.raising[name]

    def count(self, name):
        return [call[0] for call in self.calls].count(name)

    def prepare_env(self):
        self.note("prepare_env")

    def prepare_run(self):
        self.note("prepare_run")

    def process_task(self, task):
        assert self.current_task is task
        self.note("process_task")
        self.work(task)

    def cleanup_env(self):
        self.calls.append(("cleanup_env", None, threading.current_thread().name))


class SeeingPilot(Pilot):
    """Has a `cleanup_run`, which must see its token saved, so that each token is saved alone."""

    def cleanup_run(self):
        self.note("cleanup_run")


@pytest.fixture(params=[Pilot, SeeingPilot], ids=["saved together", "saved alone"])
def kind(request):
    return request.param


def nap(seconds):
    """Sleep in short steps, so that code in a slot can be interrupted."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        time.sleep(0.01)


def wait_in_slot(event):
    """Wait for an event in short steps, which can be interrupted; give up before the test does."""
    give_up = time.monotonic() + NEVER / 2
    while not event.is_set():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.005)


def all_tokens(client, count):
    return [client.get(f"token_{number}") for number in range(count)]


def outcomes(client, count):
    return [[attempt["outcome"] for attempt in token.value.get("attempts", [])] for token in all_tokens(client, count)]


class TestSideBySide:
    def test_exactly_as_many_tokens_as_slots_are_at_work_at_once(self, client, push, kind):
        push(12)
        together = threading.Barrier(4, timeout=20)
        at_work = []
        counts = []

        def work(task):
            at_work.append(task.id)
            counts.append(len(at_work))
            together.wait()  # none goes on before four are here
            at_work.remove(task.id)

        kind(client, work).run(slots=4)
        assert count_states(client)["done"] == 12
        assert max(counts) == 4

    def test_every_token_is_processed_once(self, client, push, kind):
        push(60)
        actor = kind(client)
        actor.run(slots=7)
        processed = [token for name, token, _ in actor.calls if name == "process_task"]
        assert sorted(processed) == sorted(f"token_{number}" for number in range(60))
        assert outcomes(client, 60) == [["done"]] * 60
        assert actor.tasks_processed == 60
        assert actor._picas.pilot.outcomes == {"done": 60}

    def test_a_free_slot_takes_the_next_token_while_another_is_busy(self, client, push, kind):
        push(10)
        others_done = threading.Event()

        def work(task):
            if task.id == "token_0":
                wait_in_slot(others_done)
            elif actor.count("process_task") == 10:
                others_done.set()

        actor = kind(client, work)
        actor.run(slots=2)
        assert count_states(client)["done"] == 10

    def test_a_finished_token_is_saved_while_another_slot_is_busy(self, client, push, kind):
        push(2)

        def work(task):
            if task.id == "token_0":
                wait_for(lambda: state_of(client.copy().get("token_1")) == "done")

        kind(client, work).run(slots=2)
        assert count_states(client)["done"] == 2

    def test_there_may_be_more_slots_than_tokens(self, client, push, kind):
        push(2)
        kind(client).run(slots=20)
        assert count_states(client)["done"] == 2

    def test_without_tokens_the_environment_is_prepared_and_cleaned_up(self, client, kind):
        actor = kind(client)
        actor.run(slots=3)
        assert [call[0] for call in actor.calls] == ["prepare_env", "cleanup_env"]

    def test_two_pilots_with_slots_share_a_pool(self, client, push, kind):
        push(40)
        actors = [kind(client.copy()) for _ in range(2)]
        threads = [threading.Thread(target=actor.run, kwargs={"slots": 4}) for actor in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert outcomes(client, 40) == [["done"]] * 40
        assert sum(actor.tasks_processed for actor in actors) == 40

    def test_a_run_works_outside_the_main_thread_too(self, client, push, kind):
        push(8)
        thread = threading.Thread(target=kind(client).run, kwargs={"slots": 3})
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert count_states(client)["done"] == 8

    def test_an_actor_can_run_again_with_another_number_of_slots(self, client, push, kind):
        push(9)
        actor = kind(client)
        for slots in (2, 1, 4):
            actor.run(slots=slots, max_tasks=3)
        assert count_states(client)["done"] == 9
        assert actor.tasks_processed == 9

    def test_the_threads_of_the_slots_end_with_the_run(self, client, push, kind):
        push(3)
        names = []
        kind(client, lambda task: names.extend(thread.name for thread in slot_threads())).run(slots=3)
        assert set(names) == {"picas-slot-0", "picas-slot-1", "picas-slot-2"}
        wait_for(lambda: not slot_threads())


class TestHooks:
    def test_are_called_in_order_and_in_the_thread_of_the_token_s_slot(self, client, push):
        push(6)
        actor = SeeingPilot(client, lambda task: nap(0.02))
        actor.run(slots=3)
        for number in range(6):
            mine = [(name, thread) for name, token, thread in actor.calls if token == f"token_{number}"]
            assert [name for name, _ in mine] == ["prepare_run", "process_task", "cleanup_run"]
            assert len({thread for _, thread in mine}) == 1
            assert mine[0][1].startswith("picas-slot-")

    def test_the_environment_is_prepared_and_cleaned_up_once_in_the_thread_of_the_run(self, client, push, kind):
        push(6)
        actor = kind(client)
        actor.run(slots=3)
        here = threading.current_thread().name
        assert actor.calls[0] == ("prepare_env", None, here)
        assert actor.calls[-1] == ("cleanup_env", None, here)
        assert (actor.count("prepare_env"), actor.count("cleanup_env")) == (1, 1)

    def test_cleanup_run_sees_its_token_saved_before_the_retry(self, client, push):
        push(4)
        seen = []

        class Looking(Pilot):
            def cleanup_run(self):
                seen.append(state_of(client.copy().get(self.current_task.id)))

        Looking(client, lambda task: task.update({"exit_code": 1})).run(slots=4, max_scrub=1, max_tasks=4)
        assert seen == ["error"] * 4
        assert count_states(client)["todo"] == 4

    def test_the_stop_function_sees_the_ended_token_saved_and_as_current_task(self, client, push):
        push(6)
        seen = []

        def stop(unit):
            seen.append((actor.current_task.id, state_of(client.get(actor.current_task.id)), unit))

        actor = Pilot(client)
        actor.run(slots=3, stop_function=stop, unit="x")
        assert sorted(seen) == [(f"token_{number}", "done", "x") for number in range(6)]

    def test_the_stop_function_ends_the_run_after_the_running_tokens(self, client, push):
        push(20)
        actor = Pilot(client, lambda task: nap(0.05))
        actor.run(slots=3, stop_function=lambda: actor.tasks_processed >= 4)
        states = count_states(client)
        assert 4 <= states["done"] <= 6
        assert states["locked"] == 0

    def test_an_error_in_prepare_run_counts_against_its_token(self, client, push, kind):
        push(4)
        actor = kind(client)
        actor.raising["prepare_run"] = OSError("no disk")
        actor.run(slots=2)
        assert count_states(client)["error"] == 4
        assert actor.count("process_task") == 0
        assert "OSError: no disk" in client.get("token_0")["error"][0]["message"]

    def test_an_error_in_cleanup_run_is_noted_and_leaves_the_result(self, client, push):
        push(4)
        actor = SeeingPilot(client)
        actor.raising["cleanup_run"] = OSError("no disk")
        actor.run(slots=2)
        assert count_states(client)["done"] == 4
        assert all("no disk" in token["error"][0]["message"] for token in all_tokens(client, 4))

    @pytest.mark.parametrize("slots", [1, 2])
    def test_a_signal_in_cleanup_run_leaves_the_saved_result(self, client, push, spool, slots):
        push(1)

        class Stopping(SeeingPilot):
            def cleanup_run(self):
                stop_this_pilot()

        actor = Stopping(client, lambda task: task.update({"exit_code": 1}))
        with pytest.raises(PilotStopped):
            actor.run(slots=slots, max_scrub=1, max_tasks=1)
        assert outcomes(client, 1) == [["failed"]]
        assert actor.tasks_processed == 1
        assert state_of(client.get("token_0")) == "todo"  # it failed before the interrupt, so it is retried
        assert spool() == []

    def test_an_error_in_prepare_env_starts_no_slot(self, client, push, kind):
        push(1)
        actor = kind(client)
        actor.raising["prepare_env"] = OSError("no disk")
        with pytest.raises(OSError, match="no disk"):
            actor.run(slots=3)
        assert actor.count("process_task") == 0
        assert count_states(client)["todo"] == 1


class TestStateOfASlot:
    def test_each_slot_has_its_own_current_task(self, client, push, kind):
        push(6)
        together = threading.Barrier(3, timeout=20)
        wrong = []

        def work(task):
            together.wait()  # by now the other slots have their tokens
            if actor.current_task is not task:
                wrong.append(task.id)

        actor = kind(client, work)
        actor.run(slots=3)
        assert wrong == []
        assert count_states(client)["done"] == 6

    def test_each_slot_has_its_own_subprocess_which_is_none_for_the_next_token(self, client, push, kind):
        push(6)
        together = threading.Barrier(3, timeout=20)
        seen = []

        def work(task):
            seen.append(actor.subprocess)
            mine = actor.subprocess = execute(["true"])[0]
            together.wait()
            assert actor.subprocess is mine

        actor = kind(client, work)
        actor.run(slots=3)
        assert seen == [None] * 6
        assert count_states(client)["done"] == 6


class TestRequests:
    @pytest.fixture
    def proxied(self, client, location):
        with FaultProxy(location.url) as proxy:
            yield proxy, CouchDB(proxy.url, client.db.name, location.username, location.password)

    def test_locks_and_releases_share_requests(self, client, push, proxied):
        proxy, far = proxied
        push(40)
        together = threading.Barrier(8, timeout=20)
        Pilot(far, lambda task: together.wait()).run(slots=8)
        assert count_states(client)["done"] == 40
        # At best six: one that locks, four that release and lock, one that releases. Tokens do not all end at once.
        assert proxy.count("POST", "_bulk_docs") <= 20
        assert proxy.count("PUT", "token_") <= 1  # the very last token, if it ends by itself

    def test_tokens_are_locked_together_even_if_they_are_saved_alone(self, client, push, proxied):
        proxy, far = proxied
        push(8)
        SeeingPilot(far, lambda task: nap(0.2)).run(slots=8)
        assert count_states(client)["done"] == 8
        locks = proxy.count("POST", "_bulk_docs") + proxy.count("PUT") - 8
        assert locks <= 4

    @pytest.mark.timing
    def test_an_idle_endless_run_makes_few_requests(self, client, push, proxied):
        proxy, far = proxied
        push(1)
        iterator = EndlessViewIterator(TaskViewIterator(far, "todo"), sleep_sec=NEVER)
        Pilot(far, lambda task: nap(0.8), iterator=iterator).run(slots=4, max_tasks=1, max_total_time=NEVER)
        assert len(proxy.requests) < 25


class TestOutcome:
    def test_each_token_has_its_own(self, client, push, kind):
        push(6)

        def work(task):
            number = int(task.id[-1])
            if number == 1:
                raise ValueError("odd")
            if number == 2:
                sys.exit(3)
            if number == 3:
                task["exit_code"] = 5
            if number == 4:
                BasicTokenModifier().close(task)
                task["exit_code"] = 0

        actor = kind(client, work)
        actor.run(slots=3)
        states = [state_of(token) for token in all_tokens(client, 6)]
        assert states == ["done", "error", "error", "error", "done", "done"]
        assert client.get("token_1")["error"][0]["message"] == "ValueError: odd"
        assert "SystemExit" in client.get("token_2")["error"][0]["message"]
        assert client.get("token_3")["exit_code"] == 5
        assert actor._picas.pilot.outcomes == {"done": 3, "failed": 3}
        assert actor.count("cleanup_env") == 1

    def test_a_signal_in_one_slot_puts_the_others_back_and_ends_the_run(self, client, push, kind):
        push(5)
        together = threading.Barrier(3, timeout=20)

        def work(task):
            together.wait()
            if task.id == "token_1":
                stop_this_pilot()
            nap(NEVER)

        actor = kind(client, work)
        with pytest.raises(PilotStopped):
            actor.run(slots=3)
        assert count_states(client) == {"todo": 5, "locked": 0, "done": 0, "error": 0}
        assert outcomes(client, 5) == [["stopped"]] * 3 + [[]] * 2
        assert all(token["scrub_count"] == 0 for token in all_tokens(client, 5))
        assert actor.count("cleanup_env") == 1

    def test_a_signal_in_one_slot_ends_the_children_of_the_others(self, client, push, kind):
        push(2)
        children = []

        def work(task):
            if task.id == "token_1":
                wait_for(running)
                children.extend(running())
                stop_this_pilot()
            execute(["sleep", str(NEVER)])

        with pytest.raises(PilotStopped):
            kind(client, work).run(slots=2)
        assert [child.poll() for child in children] == [-15]
        assert outcomes(client, 2) == [["stopped"]] * 2

    def test_auto_close_off_leaves_tokens_as_the_code_left_them(self, client, push, kind):
        push(3)
        kind(client, auto_close=False).run(slots=2)
        assert count_states(client)["locked"] == 3
        assert outcomes(client, 3) == [["left open"]] * 3

    def test_values_that_json_cannot_hold_are_saved_as_text_and_affect_no_other_token(self, client, push, kind):
        push(4)
        kind(client, lambda task: task.update({"output": {"raw": b"\xff"} if task.id == "token_1" else "x"})).run(
            slots=4
        )
        assert count_states(client)["done"] == 4
        assert [token["output"] for token in all_tokens(client, 4)] == ["x", {"raw": "b'\\xff'"}, "x", "x"]

    @pytest.mark.parametrize("spoil", [lambda task: task.value.clear(), lambda task: task.update({"_id": "other"})])
    def test_code_that_corrupts_its_token_affects_no_other(self, client, push, kind, spoil):
        push(4)
        kind(client, lambda task: spoil(task) if task.id == "token_1" else None).run(slots=4, max_tasks=8)
        states = [state_of(client.get(f"token_{number}")) for number in (0, 2, 3)]
        assert states == ["done"] * 3
        assert client.doc_count() == 6  # with the design document, and the pilot; nothing was saved under a new id


class TestScrubbing:
    def test_tokens_that_fail_are_retried_max_scrub_times(self, client, push, kind):
        push(4)
        actor = kind(client, lambda task: 1 // 0)
        actor.run(slots=3, max_scrub=2)
        assert actor.count("process_task") == 12
        assert outcomes(client, 4) == [["failed"] * 3] * 4
        assert count_states(client)["error"] == 4

    @pytest.mark.parametrize("own_iterator", [False, True])
    def test_the_last_token_is_retried_even_if_other_slots_found_the_pool_empty(self, client, push, kind, own_iterator):
        push(1)

        def work(task):
            nap(0.2)  # meanwhile the other slot finds no token
            raise OSError

        kind(client, work, iterator=Foreign(client) if own_iterator else None).run(slots=2, max_scrub=1)
        assert outcomes(client, 1) == [["failed", "failed"]]

    def test_a_token_that_succeeds_on_a_retry_is_done(self, client, push, kind):
        push(3)
        kind(client, lambda task: task.update({"exit_code": 2 - task["scrub_count"]})).run(slots=3, max_scrub=5)
        assert count_states(client)["done"] == 3
        assert outcomes(client, 3) == [["failed", "failed", "done"]] * 3


class TestStopConditions:
    @pytest.mark.parametrize("slots", [2, 3, 8])
    def test_max_tasks_is_never_exceeded(self, client, push, kind, slots):
        push(12)
        actor = kind(client)
        actor.run(slots=slots, max_tasks=5)
        assert actor.count("process_task") == 5
        assert count_states(client) == {"todo": 7, "locked": 0, "done": 5, "error": 0}

    def test_max_tasks_counts_failed_tokens_and_retries_too(self, client, push, kind):
        push(2)
        actor = kind(client, lambda task: 1 // 0)
        actor.run(slots=2, max_tasks=5, max_scrub=9)
        assert actor.count("process_task") == 5

    @pytest.mark.timing
    def test_after_max_total_time_no_token_is_started_and_the_running_ones_end(self, client, push, kind):
        push(40)
        actor = kind(client, lambda task: nap(0.15))
        actor.run(slots=2, max_total_time=0.4)
        states = count_states(client)
        assert states["locked"] == states["error"] == 0
        assert 2 <= states["done"] <= 8
        assert states["done"] == actor.count("process_task")

    def test_a_token_that_cannot_end_in_time_is_not_started(self, client, push, kind):
        push(2)
        actor = kind(client)
        actor.run(slots=2, max_token_time=100, max_total_time=50)
        assert actor.count("process_task") == 0
        assert count_states(client)["todo"] == 2

    def test_an_error_in_the_stop_function_ends_the_run_and_leaves_no_token_locked(self, client, push, kind):
        push(5)

        def work(task):
            if task.id != "token_0":
                nap(NEVER)

        actor = kind(client, work)
        with pytest.raises(ZeroDivisionError):
            actor.run(slots=3, stop_function=lambda: 1 // 0)
        assert count_states(client) == {"todo": 4, "locked": 0, "done": 1, "error": 0}
        assert actor.count("cleanup_env") == 1

    @pytest.mark.parametrize("slots", [1, 3])
    def test_an_iterator_that_the_code_has_stopped_returns_no_more_tokens(self, client, push, kind, slots):
        push(9)
        actor = kind(client, lambda task: actor.iterator.stop())
        actor.run(slots=slots)
        assert 1 <= actor.count("process_task") <= slots
        assert count_states(client)["locked"] == 0


@pytest.mark.timing
class TestTimeOut:
    @pytest.fixture
    def late(self):
        """Start the time limit of token_0 later, so that it is still at work when the others time out."""

        def late(actor):
            actor.prepare_run = lambda: actor.current_task.id == "token_0" and nap(1.2)
            return actor

        return late

    def test_ends_only_the_child_of_that_slot(self, client, push, kind, late):
        push(3)

        def work(task):
            if task.id != "token_0":
                try:
                    execute(["sleep", str(NEVER)])
                finally:
                    Path(task.id).touch()
            else:
                script = "while [ ! -e token_1 ] || [ ! -e token_2 ]; do sleep 0.02; done"
                task["exit_code"] = execute(["sh", "-c", script])[1]

        late(kind(client, work)).run(slots=3, max_token_time=2.4)
        assert outcomes(client, 3) == [["done"], ["time-out"], ["time-out"]]
        assert "time-out" in client.get("token_1")["error"][0]["message"]

    def test_interrupts_only_the_python_code_of_that_slot(self, client, push, kind):
        push(4)
        kind(client, lambda task: nap(NEVER) if task.id in ("token_1", "token_2") else None).run(
            slots=2, max_token_time=0.4
        )
        assert outcomes(client, 4) == [["done"], ["time-out"], ["time-out"], ["done"]]

    def test_ends_the_popen_in_the_slot_s_subprocess(self, client, push, kind, late):
        push(2)
        codes = {}

        def work(task):
            command = ["sleep", str(NEVER)] if task.id == "token_1" else ["sh", "-c", WAIT_FOR_OVER]
            actor.subprocess = subprocess.Popen(command)
            codes[task.id] = actor.subprocess.wait()
            Path("over").touch()

        actor = late(kind(client, work))
        actor.run(slots=2, max_token_time=2.4)
        assert codes == {"token_0": 0, "token_1": -15}
        assert outcomes(client, 2) == [["done"], ["time-out"]]

    def test_code_that_swallows_the_first_interruption_is_still_a_time_out(self, client, push, kind):
        push(2)

        def work(task):
            try:
                nap(NEVER)
            except BaseException:
                task["exit_code"] = 0

        kind(client, work).run(slots=2, max_token_time=0.2)
        assert outcomes(client, 2) == [["time-out"]] * 2
        assert count_states(client)["error"] == 2

    def test_work_that_set_its_exit_code_before_the_time_out_is_done(self, client, push, kind):
        push(2)

        def work(task):
            task["exit_code"] = 0
            nap(0.4)

        kind(client, work, grace=20).run(slots=2, max_token_time=0.1)
        assert outcomes(client, 2) == [["done"]] * 2

    def test_a_slot_is_used_again_after_a_time_out(self, client, push, kind):
        push(6)
        kind(client, lambda task: execute(["sleep", str(NEVER)]) if task.id < "token_2" else None).run(
            slots=2, max_token_time=0.3
        )
        assert outcomes(client, 6) == [["time-out"]] * 2 + [["done"]] * 4


class TestChangesByOthers:
    def test_a_person_s_edit_is_kept(self, client, push, kind):
        push(4)

        def work(task):
            rival = client.copy()
            rival.save(Task({**rival.get(task.id).value, "comment": "mine"}))
            task["output"] = "ours"

        kind(client, work).run(slots=4)
        assert [(t["comment"], t["output"], state_of(t)) for t in all_tokens(client, 4)] == [
            ("mine", "ours", "done")
        ] * 4

    def test_results_of_deleted_or_taken_tokens_are_spooled_and_the_run_goes_on(self, client, push, kind, spool):
        push(6)

        def work(task):
            rival = client.copy()
            if task.id == "token_0":
                rival.delete(rival.get(task.id))
            if task.id == "token_1":
                rival.save(Task(rival.get(task.id)).scrub().lock("another pilot"))
            task["output"] = f"of {task.id}"

        actor = kind(client, work)
        actor.run(slots=3, max_scrub=2)
        assert actor.tasks_processed == 6
        assert client.get("token_1")["claim"]["pilot"] == "another pilot"
        assert [state_of(client.get(f"token_{number}")) for number in range(2, 6)] == ["done"] * 4
        assert sorted(file.name[:7] for file in spool()) == ["token_0", "token_1"]
        assert all("of token_" in file.read_text() for file in spool())

    def test_code_that_saves_its_own_token_causes_no_conflict(self, client, push, kind, spool):
        push(4)

        def work(task):
            task["progress"] = 50
            client.save(task)
            task["progress"] = 100

        kind(client, work).run(slots=2)
        assert [token["progress"] for token in all_tokens(client, 4)] == [100] * 4
        assert count_states(client)["done"] == 4
        assert spool() == []

    def test_reconnect_continues_with_new_connections(self, client, push, kind):
        push(6)
        actor = kind(client, lambda task: actor.reconnect())
        actor.run(slots=3)
        assert actor.db is not client
        assert count_states(client)["done"] == 6


@pytest.mark.timing
class TestOutages:
    def test_while_slots_are_busy_loses_nothing_and_the_run_goes_on(self, client, far, gate, push, spool, kind):
        push(8)

        def work(task):
            if task.id == "token_1":
                gate.close()
                threading.Timer(0.3, gate.open).start()
            task["output"] = "kept"

        kind(far, work).run(slots=3)
        assert outcomes(client, 8) == [["done"]] * 8
        assert all(token["output"] == "kept" for token in all_tokens(client, 8))
        assert spool() == []

    def test_a_token_that_ends_while_a_free_slot_waits_for_the_database_is_saved(
        self, client, location, push, monkeypatch
    ):
        """While it is rebuilt, a view can fail for minutes, although documents can be read and written."""
        monkeypatch.setattr("picas.pool.windows.WINDOW", 1)
        monkeypatch.setattr("picas.pool.windows.WINDOWS_PER_WANTED", 1)
        push(3)
        with FaultProxy(location.url) as proxy:
            far = CouchDB(proxy.url, client.db.name, location.username, location.password)
            far.server.resource.session.retry_pauses = ()
            first_over = threading.Event()

            def work(task):
                if task.id == "token_0":
                    proxy.fail("GET", "_view", Reply(500, b'{"error":"timeout"}'), times=10**6)
                    first_over.set()
                elif task.id == "token_1":
                    wait_in_slot(first_over)
                    nap(0.3)
                    threading.Timer(0.5, proxy._faults.clear).start()

            Pilot(far, work).run(slots=2)
            assert count_states(client)["done"] == 3
            assert proxy.count("GET", "_view") < 40  # few requests to a server in trouble

    def test_a_long_one_while_claiming_ends_the_run_after_the_running_tokens(self, client, far, gate, push, kind):
        push(6)
        actor = kind(far, max_outage=0.3)
        over = threading.Event()

        def work(task):
            if task.id == "token_1":
                gate.close()
                nap(0.9)  # long enough for the other slot to give up
                gate.open()
                over.set()

        actor.work = work
        with pytest.raises(PicasError):
            actor.run(slots=2)
        assert over.is_set()
        assert state_of(client.get("token_1")) == "done"
        assert actor.count("cleanup_env") == 1

    def test_a_long_one_while_saving_loses_no_result(self, client, far, gate, push, spool, kind):
        push(3)
        together = threading.Barrier(3, timeout=20)

        def work(task):
            if together.wait() == 0:
                gate.close()
            together.wait()
            task["output"] = "kept"

        with pytest.raises(PicasError):
            kind(far, work, max_outage=0.3).run(slots=3)
        gate.open()
        assert len(spool()) == 3
        assert all('"kept"' in file.read_text() for file in spool())

    def test_a_result_that_waits_to_be_saved_is_spooled_when_another_slot_ends_the_run(
        self, far, gate, push, spool, monkeypatch
    ):
        monkeypatch.setattr("picas.pilot.breakoff.SETTLE", 1.0)
        push(2)
        is_closed = threading.Event()

        def work(task):
            if task.id == "token_0":
                gate.close()
                is_closed.set()
                return
            wait_in_slot(is_closed)
            nap(0.3)
            stop_this_pilot()

        with pytest.raises(PilotStopped):  # token_1 is not changed, so nothing else waits for the database
            SeeingPilot(far, work, token_reset_values=None, max_outage=NEVER).run(slots=2, max_tasks=2)
        assert [file.name[:7] for file in spool()] == ["token_0"]
        gate.open()

    def test_while_claiming_ends_without_an_error_at_max_total_time(self, far, gate, kind):
        gate.close()
        actor = kind(far)
        actor.run(slots=2, max_total_time=0.2)
        gate.open()
        assert [call[0] for call in actor.calls] == ["prepare_env", "cleanup_env"]


class Foreign(ViewIterator):
    """An iterator of the user's script, which locks tokens by itself."""

    def __init__(self, database):
        super().__init__()
        self.database = database

    def claim_task(self):
        for row in self.database.view("todo").rows:
            task = Task(self.database.get(row.id))
            if state_of(task) == "todo":
                return self.database.save(task.lock(self.pilot))
        raise IndexError("nothing left")


class TestIterators:
    def test_a_generator_works_in_slots(self, client, push, kind):
        tokens = push(6)
        actor = kind(client, iterator=(client.save(token.lock()) for token in tokens))
        actor.run(slots=3)
        assert outcomes(client, 6) == [["done"]] * 6

    def test_at_most_max_tasks_tokens_are_taken_from_a_generator(self, client, push, kind):
        tokens = push(6)
        kind(client, iterator=(client.save(token.lock()) for token in tokens)).run(slots=4, max_tasks=3)
        assert count_states(client) == {"todo": 3, "locked": 0, "done": 3, "error": 0}

    @pytest.mark.parametrize("slots", [1, 3])
    def test_an_iterator_ends_with_none(self, client, push, kind, slots):
        tokens = iter([client.save(token.lock()) for token in push(2)])
        kind(client, iterator=iter(lambda: next(tokens, None), "never")).run(slots=slots)
        assert count_states(client)["done"] == 2

    def test_the_next_run_with_slots_goes_on_with_new_tokens(self, client, push, kind):
        push(2)
        actor = kind(client)
        actor.run(slots=3)
        client.save(make_token(7))
        actor.run(slots=3)
        assert client.get("token_7")["exit_code"] == 0

    def test_the_next_run_with_one_slot_needs_a_reset_as_in_picas_1(self, client, push, kind):
        push(2)
        actor = kind(client)
        actor.run()
        client.save(make_token(7))
        actor.run()
        assert actor.iterator.is_stopped()
        assert state_of(client.get("token_7")) == "todo"
        actor.iterator.reset()
        actor.run()
        assert state_of(client.get("token_7")) == "done"

    def test_a_list_works_in_slots(self, client, push, kind):
        tokens = push(3)
        kind(client, iterator=[client.save(token.lock()) for token in tokens]).run(slots=2)
        assert count_states(client)["done"] == 3

    def test_a_custom_claim_task_works_in_slots(self, client, push, kind):
        push(6)
        kind(client, iterator=Foreign(client)).run(slots=3)
        assert outcomes(client, 6) == [["done"]] * 6

    def test_an_overridden_claim_task_is_called(self, client, push, kind):
        push(6)
        seen = []

        class Watching(TaskViewIterator):
            def claim_task(self):
                task = super().claim_task()
                seen.append(task.id)
                return task

        kind(client, iterator=Watching(client, "todo")).run(slots=3)
        assert sorted(seen) == [f"token_{number}" for number in range(6)]
        assert count_states(client)["done"] == 6

    def test_an_endless_iterator_around_a_custom_one_ends_on_time(self, client, push, kind):
        push(6)
        actor = kind(client, iterator=EndlessViewIterator(Foreign(client), sleep_sec=0.05))
        actor.run(slots=3, max_total_time=1.0)
        assert outcomes(client, 6) == [["done"]] * 6

    @pytest.mark.timing
    @pytest.mark.parametrize("inner", [Foreign, lambda client: TaskViewIterator(client, "todo")], ids=["own", "ours"])
    def test_a_slot_that_waits_for_tokens_does_not_delay_the_end_of_the_run(self, client, push, kind, inner):
        """The stop function is called when the only token has ended, not when the next one arrives."""
        push(1)
        actor = kind(client, lambda task: nap(0.2), iterator=EndlessViewIterator(inner(client), sleep_sec=NEVER))
        began = time.monotonic()
        actor.run(slots=2, stop_function=lambda: True, max_total_time=10)
        assert time.monotonic() - began < 8
        assert count_states(client)["done"] == 1

    @pytest.mark.timing
    def test_a_slot_that_waits_for_tokens_does_not_delay_a_signal(self, client, push, kind):
        push(1)
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=NEVER)

        def work(task):
            nap(0.2)
            stop_this_pilot()

        began = time.monotonic()
        with pytest.raises(PilotStopped):
            kind(client, work, iterator=iterator).run(slots=2, max_total_time=10)
        assert time.monotonic() - began < 8

    def test_an_endless_iterator_takes_new_tokens(self, client, push, kind):
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=0.1)
        threading.Timer(0.3, lambda: push(4)).start()
        kind(client, iterator=iterator).run(slots=2, max_tasks=4, max_total_time=NEVER)
        assert outcomes(client, 4) == [["done"]] * 4

    def test_an_endless_iterator_fills_a_free_slot_while_another_is_busy(self, client, push, kind):
        push(1)
        late = threading.Event()

        def work(task):
            if task.id == "token_0":
                client.copy().save(make_token(1))
                wait_in_slot(late)
            else:
                late.set()

        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=0.1)
        kind(client, work, iterator=iterator).run(slots=2, max_tasks=2)
        assert count_states(client)["done"] == 2

    def test_an_endless_iterator_ends_when_its_callback_returns_true(self, client, push, kind):
        push(3)
        actor = kind(client)
        actor.iterator = EndlessViewIterator(
            TaskViewIterator(client, "todo"), sleep_sec=0.05, stop_callback=lambda: actor.tasks_processed == 3
        )
        actor.run(slots=2)
        assert count_states(client)["done"] == 3

    @pytest.mark.timing
    def test_an_idle_endless_iterator_ends_on_time_and_leaves_no_thread(self, client, kind):
        actor = kind(client, iterator=EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=NEVER))
        actor.run(slots=2, max_total_time=0.5)
        # Checked here, since the feed ends in any case when the test's database is deleted.
        wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "picas-feed"], 5)

    def test_prioritized_views_are_read_in_order(self, client, push, kind):
        client.add_view("urgent", "function(doc) { if (doc.urgent && doc.lock == 0) emit(doc._id, null); }")
        client.save_documents([make_token(number, urgent=number >= 4) for number in range(8)])
        actor = kind(client, lambda task: nap(0.02))
        actor.iterator = PrioritizedViewIterator(client, "urgent", "todo")
        actor.run(slots=2)
        processed = [token for name, token, _ in actor.calls if name == "process_task"]
        assert sorted(processed[:4]) == ["token_4", "token_5", "token_6", "token_7"]
        assert count_states(client)["done"] == 8


class TestTheNumberOfSlots:
    @pytest.mark.parametrize("slots", [0, -1, 1.5, True, "many", "2", None])
    def test_must_be_a_positive_integer(self, client, kind, slots):
        actor = kind(client)
        with pytest.raises(ValueError, match="slots"):
            actor.run(slots=slots)
        assert actor.calls == []

    def test_auto_is_the_number_that_the_batch_system_granted(self, client, push, kind, monkeypatch):
        for name in ("DIRAC_JOB_PROCESSORS", "PBS_JOBID"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
        push(3)
        together = threading.Barrier(3, timeout=20)
        names = []

        def work(task):
            together.wait()
            names.extend(thread.name for thread in slot_threads())

        kind(client, work).run(slots="auto")
        assert len(set(names)) == 3

    def test_is_accepted_by_an_actor_that_is_not_a_run_actor(self, client, push):
        class Quiet(Actor):
            def process_task(self, task):
                pass

        push(4)
        Quiet(client).run(None, slots=2)
        assert count_states(client)["done"] == 4


@pytest.fixture
def pilot(pilot):
    """Return a function that starts a pilot which can use everything in WATCHED."""
    return lambda body, **options: pilot(WATCHED + body, **options)


WATCHED = """
from picas.executers import running

def watched():
    "Return a client that notes how many children are alive whenever a token is put back."
    client = connect()
    def watch(write):
        def watching(docs):
            if any(doc["lock"] == 0 for doc in (docs if isinstance(docs, list) else [docs])):
                note("put back beside", len([child for child in running() if child.poll() is None]))
            return write(docs)
        return watching
    client.save, client.write_documents = watch(client.save), watch(client.write_documents)
    return client

"""


def wait_for_lines(process, start, count):
    wait_for(lambda: sum(line.startswith(start) for line in process.journal) >= count)


def assert_all_put_back(client, process, count):
    """Assert that all tokens are free again and not counted as failures, and that no child was alive then."""
    assert count_states(client) == {"todo": count, "locked": 0, "done": 0, "error": 0}
    assert outcomes(client, count) == [["stopped"]] * count
    assert all((token["scrub_count"], token["exit_code"]) == (0, "") for token in all_tokens(client, count))
    assert {line for line in process.journal if line.startswith("put back")} == {"put back beside 0"}
    assert process.journal.count("cleanup_env") == 1
    assert process.journal[-1] == "cleanup_env"


class TestSignals:
    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_children_are_gone_before_all_tokens_are_put_back(self, client, push, pilot, signum):
        push(3)
        process = pilot("""
class Running(Noting):
    def process_task(self, task):
        script = "sleep 60 & echo child $! >> journal; echo child $$ >> journal; wait"
        if task.id == "token_0":
            task["exit_code"] = execute(["sh", "-c", script])[1]
        else:
            task["exit_code"] = run_command(["sh", "-c", script]).exit_code
Running(watched()).run(slots=3)
""")
        wait_for_lines(process, "child", 6)
        children = [int(line.split()[1]) for line in process.journal if line.startswith("child")]
        assert process.stop(signum) == 0
        assert not any(map(is_alive, children))
        assert_all_put_back(client, process, 3)

    @pytest.mark.timing
    def test_children_that_ignore_the_signal_are_killed_after_one_grace_period(self, client, push, pilot):
        push(4)
        process = pilot("""
class Running(Noting):
    def process_task(self, task):
        execute(["sh", "-c", "trap '' TERM; echo child $$ >> journal; while true; do sleep 0.1; done"])
Running(watched(), grace=1).run(slots=4)
""")
        wait_for_lines(process, "child", 4)
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 10
        assert_all_put_back(client, process, 4)

    def test_python_code_that_swallows_the_first_interruption_is_interrupted_again(self, client, push, pilot):
        push(3)
        process = pilot("""
class Sleeping(Noting):
    def process_task(self, task):
        note("working")
        for _ in range(2):
            try:
                while True:
                    time.sleep(0.01)
            except BaseException as error:
                note("interrupted by", type(error).__mro__[1].__name__)
Sleeping(watched(), grace=0.2).run(slots=3)
""")
        wait_for_lines(process, "working", 3)
        assert process.stop() == 0
        assert_all_put_back(client, process, 3)
        assert "interrupted by PilotStopped" in process.journal

    def test_a_child_that_starts_after_the_signal_is_ended_too(self, client, push, pilot):
        push(2)
        process = pilot("""
class Persistent(Noting):
    def process_task(self, task):
        for _ in range(2):
            try:
                execute(["sh", "-c", "echo child >> journal; exec sleep 60"])
            except BaseException:
                pass
Persistent(watched(), grace=1).run(slots=2)
""")
        wait_for_lines(process, "child", 2)
        assert process.stop() == 0
        assert_all_put_back(client, process, 2)

    def test_children_of_the_code_s_own_threads_are_ended_too(self, client, push, pilot):
        push(2)
        process = pilot("""
class Threading(Noting):
    def process_task(self, task):
        command = ["sh", "-c", "echo child >> journal; exec sleep 60"]
        thread = threading.Thread(target=execute, args=(command,))
        thread.start()
        thread.join()
Threading(watched(), grace=1).run(slots=2)
""")
        wait_for_lines(process, "child", 2)
        assert process.stop() == 0
        assert_all_put_back(client, process, 2)

    @pytest.mark.timing
    def test_code_in_a_long_system_call_delays_neither_its_token_nor_the_end(self, client, push, pilot):
        """A batch system kills the pilot soon after its first signal."""
        push(2)
        body = """
class Sleeping(Noting):
    def process_task(self, task):
        note("working")
        time.sleep(60)
Sleeping(watched()).run(slots=2)
"""
        process = pilot(body)
        wait_for_lines(process, "working", 2)
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 20
        assert_all_put_back(client, process, 2)

    def test_finished_tokens_stay_done(self, client, push, pilot):
        push(6)
        process = pilot("""
class Mixed(Noting):
    def process_task(self, task):
        if task.id < "token_3":
            return
        if task.id == "token_3":
            task["exit_code"] = 0
        note("working")
        while True:
            time.sleep(0.01)
Mixed(watched()).run(slots=3)
""")
        wait_for_lines(process, "working", 3)
        assert process.stop() == 0
        assert outcomes(client, 6) == [["done"]] * 4 + [["stopped"]] * 2
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 4, "error": 0}

    def test_cleanup_run_is_interrupted_and_its_token_keeps_its_result(self, client, push, pilot):
        push(2)
        process = pilot("""
class Cleaning(Noting):
    def cleanup_run(self):
        note("cleaning")
        try:
            while True:
                time.sleep(0.01)
        except PilotStopped:
            note("broken off")
            raise
from picas.exceptions import PilotStopped
Cleaning(watched()).run(slots=2)
""")
        wait_for_lines(process, "cleaning", 2)
        assert process.stop() == 0
        assert outcomes(client, 2) == [["done"]] * 2
        assert process.journal[-3:] == ["broken off", "broken off", "cleanup_env"]

    @pytest.mark.timing
    def test_further_signals_change_nothing(self, client, push, pilot):
        push(2)
        process = pilot("""
class Running(Noting):
    def process_task(self, task):
        execute(["sh", "-c", "trap 'echo term >> journal; sleep 0.7; exit' TERM; echo child >> journal; \\
            while true; do sleep 0.05; done"])
    def cleanup_env(self):
        time.sleep(0.3)
        note("cleanup_env")
Running(watched()).run(slots=2)
""")
        wait_for_lines(process, "child", 2)
        process.send(signal.SIGTERM)
        wait_for_lines(process, "term", 2)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send(signum)
        wait_for_lines(process, "put back", 1)
        process.send(signal.SIGTERM)
        assert process.end() == 0
        assert_all_put_back(client, process, 2)

    @pytest.mark.timing
    def test_while_children_are_being_started(self, client, push, pilot):
        """They are ended like any other child; the code that waits for them is not interrupted."""
        push(2)
        process = pilot("""
from picas.processes import children
start_of = children.start_of
def slow(pid):  # until this has returned, nobody knows of the child
    time.sleep(0.5)
    return start_of(pid)
children.start_of = slow
class Running(Noting):
    def process_task(self, task):
        try:
            execute(["sh", "-c", "trap 'echo term >> journal; sleep 0.7; exit' TERM; echo child >> journal; \\
                while true; do sleep 0.05; done"])
        finally:
            note("left by", sys.exc_info()[0] or "itself")
Running(watched()).run(slots=2)
""")
        wait_for_lines(process, "child", 2)
        process.send(signal.SIGTERM)
        wait_for_lines(process, "term", 2)
        assert process.end() == 0
        assert [line for line in process.journal if line.startswith("left by")] == ["left by itself"] * 2
        assert_all_put_back(client, process, 2)

    def test_code_whose_child_has_ended_is_interrupted(self, client, push, pilot):
        """Scripts for the older client keep the return value of `execute` in `self.subprocess`."""
        push(2)
        body = """
class Computing(Noting):
    def process_task(self, task):
        self.subprocess = execute(["true"])[0]
        note("working")
        while True:
            time.sleep(0.01)
Computing(watched()).run(slots=2)
"""
        process = pilot(body)
        wait_for_lines(process, "working", 2)
        assert process.stop() == 0
        assert_all_put_back(client, process, 2)
        assert "their code has not ended" not in process.errors.read_text()

    @pytest.mark.timing
    def test_while_tokens_are_being_locked_and_slots_are_about_to_start(self, client, push, pilot):
        """A slot whose thread has noticed the end of the run is not interrupted later."""
        push(6)
        process = pilot("""
from picas.pilot import run
client = watched()
write = client.write_documents
def slow_write(docs):
    note("writing")
    time.sleep(0.5)
    return write(docs)
client.write_documents = slow_write
class Beginning(run.Context):
    is_told = False
    waiting = 0
    @property
    def is_breaking_off(self):
        if threading.current_thread().name.startswith("picas-slot"):
            Beginning.waiting += 1
            while not self.is_told:  # a slot whose thread pauses just before it looks
                time.sleep(0.005)
        return self.is_told
    @is_breaking_off.setter
    def is_breaking_off(self, is_told):
        while is_told and self.waiting < 6:
            time.sleep(0.005)
        self.is_told = is_told
run.Context = Beginning
class Quiet(Noting):
    cleanup_run = RunActor.cleanup_run  # or each token would be saved by itself
    def cleanup_env(self):
        time.sleep(0.3)  # the threads of the slots end meanwhile
        note("cleanup_env")
Quiet(client).run(slots=6)
""")
        process.wait_for("writing")
        assert process.stop() == 0
        assert_all_put_back(client, process, 6)
        assert "Traceback" not in process.errors.read_text()
        assert "prepare_run" not in process.journal

    @pytest.mark.timing
    def test_while_slots_wait_for_tokens(self, client, push, pilot):
        push(1)
        process = pilot("""
class Sleeping(Noting):
    def process_task(self, task):
        note("working")
        while True:
            time.sleep(0.01)
client = watched()
Sleeping(client, EndlessViewIterator(TaskViewIterator(client, "todo"), 60)).run(slots=4)
""")
        wait_for_lines(process, "working", 1)
        time.sleep(0.2)
        assert process.stop() == 0
        assert_all_put_back(client, process, 1)

    def test_without_reset_values_the_tokens_are_not_changed(self, client, push, kind):
        push(2)
        at_work = threading.Barrier(3, timeout=20)

        def work(task):
            task["output"] = "half"
            at_work.wait()
            nap(NEVER)

        actor = kind(client, work, token_reset_values=None)
        with signal_after(0.05, signal.SIGTERM, lambda: at_work.wait() >= 0), pytest.raises(PilotStopped):
            actor.run(slots=2)
        assert count_states(client)["locked"] == 2
        assert client.get("token_0")["claim"]["pilot"] == actor._picas.pilot.id
        assert client.get("token_0")["output"] != "half"

    def test_a_run_that_is_stopped_in_another_thread_puts_its_tokens_back(self, client, push, kind):
        push(3)
        actor = kind(client, lambda task: task.update({"exit_code": execute(["sleep", str(NEVER)])[1]}))
        ends = []

        def run():
            try:
                actor.run(slots=3)
            except PilotStopped as stop:
                ends.append(stop.code)

        thread = threading.Thread(target=run)
        thread.start()
        wait_for(lambda: len(running()) == 3)
        with pytest.raises(PilotStopped):
            actor.handler(signal.SIGTERM, None)
        thread.join(30)
        assert ends == [0]
        assert outcomes(client, 3) == [["stopped"]] * 3
        assert count_states(client)["todo"] == 3

    def test_a_stopped_actor_can_run_again(self, client, push, kind, monkeypatch):
        monkeypatch.setattr(interrupts, "SETTLE", 1.0)
        push(2)
        at_work = threading.Barrier(3, timeout=20)

        def work(task):
            at_work.wait()
            nap(NEVER)

        actor = kind(client, work)
        with signal_after(0.05, signal.SIGTERM, lambda: at_work.wait() >= 0), pytest.raises(PilotStopped):
            actor.run(slots=2)
        actor.iterator.reset()
        actor.work = lambda task: None
        actor.run(slots=2)
        assert outcomes(client, 2) == [["stopped", "done"]] * 2


def test_the_children_of_another_actor_are_not_ended(client, push, tmp_path):
    """Two actors run in two threads of one process, and one of the runs is interrupted."""
    push(2)
    client.save(make_token(7, _id="other"))
    codes = []
    slow = SeeingPilot(
        client.copy(),
        lambda task: codes.append(run_command(["sh", "-c", "echo > slow; exec sleep 1"]).exit_code),
        startkey="a",
        endkey="p",
    )
    thread = threading.Thread(target=slow.run, kwargs={"slots": 2})
    thread.start()
    wait_for((tmp_path / "slow").exists)

    def work(task):
        if task.id == "token_0":
            nap(0.3)
            stop_this_pilot()
        execute(["sleep", str(NEVER)])

    with pytest.raises(PilotStopped):
        Pilot(client, work, startkey="t").run(slots=2)
    thread.join(30)
    assert codes == [0]
    assert state_of(client.get("other")) == "done"


def test_pilots_with_slots_process_each_token_once_and_end_normally(client, push, environment, tmp_path):
    push(60)
    body = "Noting(connect()).run(slots=4)"
    pilots = [PilotProcess(tmp_path / f"pilot_{number}", environment, body) for number in range(4)]
    try:
        assert [pilot.end() for pilot in pilots] == [0] * 4
    finally:
        for pilot in pilots:
            pilot.close()
    processed = [line for pilot in pilots for line in pilot.journal if line.startswith("process_task")]
    assert sorted(processed) == sorted(f"process_task token_{number}" for number in range(60))
    assert outcomes(client, 60) == [["done"]] * 60


def test_the_library_prints_nothing(client, push, kind, capfd):
    push(3)
    kind(client, lambda task: task.id == "token_0" and 1 // 0).run(slots=2)
    assert capfd.readouterr() == ("", "")
