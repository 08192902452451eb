"""The pilot's loop: the order of calls, the outcomes of tokens, and the faults that a pilot survives."""

import subprocess
import threading
import time
from uuid import uuid4

import pytest
from couchdb.http import ResourceNotFound, Unauthorized
from support.faults import CUT, FaultProxy
from support.tokens import make_token
from support.workers import PilotProcess, is_alive, stop_this_pilot, untraced_threads, wait_for

import picas
from picas import Actor, CouchDB, EndlessViewIterator, RunActor, Task, TaskViewIterator
from picas.couch import outages
from picas.exceptions import PicasError, PilotStopped
from picas.executers import execute, run_command
from picas.modifiers import BasicTokenModifier, reset
from picas.pilot.identity import Pilot
from picas.processes import interrupts
from picas.tokens.states import state_of
from picas.views import count_states

NEVER = 60.0


pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


class Recorder(RunActor):
    """An actor that records the order of its calls and passes each token to `work`."""

    def __init__(self, db, work=lambda task: None, **options):
        super().__init__(db, **{"grace": 0.5, **options})
        self.work = work
        self.calls = []
        self.raising = {}

    def note(self, name):
        self.calls.append(name)
        if name in self.raising:
            raise self.raising[name]

    def prepare_env(self, *args, **kwargs):
        self.note("prepare_env")

    def prepare_run(self, *args, **kwargs):
        self.note("prepare_run")

    def process_task(self, task):
        self.note("process_task")
        self.work(task)

    def cleanup_run(self, *args, **kwargs):
        self.note("cleanup_run")

    def cleanup_env(self, *args, **kwargs):
        self.note("cleanup_env")


def work_on(client, work, **conditions):
    """Run a pilot whose process_task is `work`, and return it."""
    actor = Recorder(client, work)
    actor.run(**conditions)
    return actor


ONE_TOKEN = ["prepare_run", "process_task", "cleanup_run"]


def calls_of(tokens):
    """Return the calls of a run that processed this number of tokens."""
    one = [name for name in ONE_TOKEN if name in vars(Recorder)]
    return ["prepare_env", *one * tokens, "cleanup_env"]


@pytest.fixture(params=["saved alone", "saved with the next lock"])
def both_ways(request, monkeypatch):
    """Save tokens in both ways: alone if the actor has a `cleanup_run`, else with the lock of the next one."""
    if request.param == "saved with the next lock":
        monkeypatch.delattr(Recorder, "cleanup_run")


class TestHooks:
    def test_are_called_in_order_and_the_right_number_of_times(self, client, push):
        push(3)
        actor = work_on(client, lambda task: None)
        assert actor.calls == ["prepare_env", *ONE_TOKEN * 3, "cleanup_env"]
        assert actor.tasks_processed == 3

    def test_without_tokens_the_environment_is_prepared_and_cleaned_up(self, client):
        assert work_on(client, lambda task: None).calls == ["prepare_env", "cleanup_env"]

    def test_the_token_is_saved_before_cleanup_run_and_scrubbed_after_it(self, client, push):
        push(1)
        seen = []

        class Looking(Recorder):
            def prepare_run(self):
                seen.append(("prepare", state_of(client.get("token_0"))))

            def cleanup_run(self):
                seen.append(("cleanup", state_of(client.get("token_0"))))

        Looking(client, lambda task: task.update({"exit_code": 1})).run(max_scrub=1, max_tasks=1)
        assert seen == [("prepare", "locked"), ("cleanup", "error")]
        assert state_of(client.get("token_0")) == "todo"

    def test_cleanup_run_may_be_set_while_the_environment_is_prepared(self, client, push):
        push(3)
        states = []

        class Late(RunActor):
            def prepare_env(self):
                self.cleanup_run = lambda: states.append(state_of(client.get(self.current_task.id)))

            def process_task(self, task):
                pass

        Late(client).run()
        assert states == ["done"] * 3

    def test_an_error_in_prepare_run_counts_against_the_token(self, client, push):
        push(2)
        actor = Recorder(client)
        actor.raising["prepare_run"] = OSError("no disk")
        actor.run()
        assert actor.calls == ["prepare_env", *["prepare_run", "cleanup_run"] * 2, "cleanup_env"]
        assert count_states(client)["error"] == 2
        assert "OSError: no disk" in client.get("token_0")["error"][0]["message"]

    def test_an_error_in_cleanup_run_is_noted_and_leaves_the_result(self, client, push):
        push(2)
        actor = Recorder(client)
        actor.raising["cleanup_run"] = OSError("no disk")
        actor.run()
        assert actor.calls == ["prepare_env", *ONE_TOKEN * 2, "cleanup_env"]
        assert count_states(client)["done"] == 2
        assert "OSError in cleanup_run: no disk" in client.get("token_1")["error"][0]["message"]

    def test_a_failed_token_is_scrubbed_even_if_cleanup_run_raises(self, client, push):
        push(1)
        actor = Recorder(client, lambda task: task.update({"exit_code": 1}))
        actor.raising["cleanup_run"] = OSError("no disk")
        actor.run(max_scrub=1, max_tasks=1)
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"], [error["message"] for error in token["error"]]) == (
            "todo",
            1,
            ["exit 1", "OSError in cleanup_run: no disk"],
        )

    def test_an_error_in_prepare_env_ends_the_run_at_once(self, client, push):
        push(1)
        actor = Recorder(client)
        actor.raising["prepare_env"] = OSError("no disk")
        with pytest.raises(OSError, match="no disk"):
            actor.run()
        assert actor.calls == ["prepare_env"]
        assert count_states(client)["todo"] == 1

    def test_an_error_in_cleanup_env_is_raised_once(self, client):
        actor = Recorder(client)
        actor.raising["cleanup_env"] = OSError("no disk")
        with pytest.raises(OSError, match="no disk"):
            actor.run()
        assert actor.calls == ["prepare_env", "cleanup_env"]

    def test_an_error_in_cleanup_env_does_not_hide_why_the_run_ended(self, client, push, caplog):
        push(1)
        actor = Recorder(client)
        actor.raising["cleanup_env"] = OSError("no disk")
        with pytest.raises(ZeroDivisionError):
            actor.run(stop_function=lambda: 1 // 0)
        assert actor.calls[-1] == "cleanup_env"
        assert "no disk" in caplog.text

    def test_an_error_in_the_stop_function_ends_the_run_and_leaves_no_token_locked(self, client, push):
        push(2)
        with pytest.raises(ZeroDivisionError):
            work_on(client, lambda task: None, stop_function=lambda: 1 // 0)
        assert count_states(client) == {"todo": 1, "locked": 0, "done": 1, "error": 0}

    def test_current_task_is_the_token_at_work_and_none_after_the_run(self, client, push):
        push(2)
        seen = []

        def work(task):
            assert actor.current_task is task
            seen.append(task.id)

        actor = Recorder(client, work)
        assert actor.current_task is None
        actor.run()
        assert len(seen) == 2
        assert actor.current_task is None


class TestSaving:
    """A token is saved in the request that locks the next one, unless user code must see it saved first."""

    ONE_BY_ONE = (["token_0"], "token_0", ["token_1"], "token_1", ["token_2"], "token_2")

    @pytest.fixture
    def sent(self, client, push, monkeypatch):
        """The ids in each request of a pilot that works on three tokens; a bulk request is a list."""
        push(3)
        sent = []
        write, save = client.write_documents, client.save

        def note_many(docs):
            sent.append([doc.id for doc in docs])
            return write(docs)

        def note_one(doc):
            sent.append(doc.id)
            return save(doc)

        monkeypatch.setattr(client, "write_documents", note_many)
        monkeypatch.setattr(client, "save", note_one)
        return sent

    @pytest.fixture
    def plain(self, client, monkeypatch):
        monkeypatch.delattr(Recorder, "cleanup_run")
        return Recorder(client)

    def test_together_with_the_lock_of_the_next_token(self, client, sent, plain):
        plain.run()
        assert sent == [["token_0"], ["token_0", "token_1"], ["token_1", "token_2"], ["token_2"]]
        assert count_states(client)["done"] == 3

    def test_a_failed_token_is_freed_in_the_same_request(self, client, sent, plain):
        plain.raising["process_task"] = OSError("no disk")
        plain.run(max_scrub=1, max_tasks=4)
        assert sent == [["token_0"], ["token_0", "token_1"], ["token_1", "token_2"], ["token_2", "token_0"], "token_0"]
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 0, "error": 1}

    def test_alone_if_no_token_follows(self, sent, plain):
        plain.run(max_tasks=2)
        assert sent == [["token_0"], ["token_0", "token_1"], "token_1"]

    def test_alone_before_a_custom_cleanup_run(self, client, sent):
        Recorder(client).run()
        assert tuple(sent) == self.ONE_BY_ONE

    def test_alone_before_a_stop_function(self, client, sent, plain):
        seen = []
        plain.run(stop_function=lambda: seen.append(state_of(client.get(plain.current_task.id))))
        assert seen == ["done"] * 3
        assert tuple(sent) == self.ONE_BY_ONE

    def test_alone_with_an_iterator_that_overrides_claim_task(self, client, sent, plain):
        class Own(TaskViewIterator):
            def claim_task(self):
                return super().claim_task()

        plain.iterator = Own(client, "todo")
        plain.run()
        assert tuple(sent) == self.ONE_BY_ONE

    def test_alone_if_the_iterator_uses_another_pool(self, client, sent, plain):
        plain.iterator = TaskViewIterator(client.copy(), "todo")
        plain.run()
        assert sent == ["token_0", "token_1", "token_2"]


@pytest.mark.usefixtures("both_ways")
class TestOutcome:
    def test_done_with_a_record_of_the_attempt(self, client, push):
        push(1)
        actor = work_on(client, lambda task: task.update({"output": "x"}))
        token = client.get("token_0")
        assert state_of(token) == "done"
        assert token["exit_code"] == 0
        (attempt,) = token["attempts"]
        assert (attempt["outcome"], attempt["pilot"], attempt["exit_code"]) == ("done", actor._picas.pilot.id, 0)
        assert attempt["start"] <= attempt["end"]
        assert "claim" not in token
        assert actor._picas.pilot.outcomes == {"done": 1}

    @pytest.mark.parametrize("exit_code", [1, -9, 127, "2"])
    def test_an_exit_code_other_than_0_is_an_error(self, client, push, exit_code):
        push(1)
        work_on(client, lambda task: task.update({"exit_code": exit_code}))
        token = client.get("token_0")
        assert state_of(token) == "error"
        assert token["exit_code"] == exit_code
        assert token["attempts"][0]["outcome"] == "failed"

    def test_an_exception_is_an_error_with_its_traceback(self, client, push):
        push(1)
        work_on(client, lambda task: {}["no such key"])
        token = client.get("token_0")
        assert (token["lock"], token["done"], token["exit_code"]) == (99, 99, 99)
        assert token["error"][0]["message"] == "KeyError: 'no such key'"
        assert "test_actors.py" in token["error"][0]["exception"]

    @pytest.mark.parametrize(
        "error",
        [SystemExit(0), SystemExit("bye"), GeneratorExit(), BaseException("odd"), RecursionError(), MemoryError()],
    )
    def test_any_exception_counts_against_the_token_and_the_pilot_goes_on(self, client, push, error):
        push(2)
        actor = Recorder(client)
        actor.raising["process_task"] = error
        actor.run()
        assert count_states(client)["error"] == 2
        assert actor.calls == calls_of(2)

    def test_an_exception_after_the_code_closed_its_token_is_an_error(self, client, push):
        push(1)

        def work(task):
            task["exit_code"] = 0
            BasicTokenModifier().close(task)
            raise OSError("the upload failed")

        work_on(client, work)
        assert client.get("token_0")["exit_code"] == 99
        assert state_of(client.get("token_0")) == "error"

    def test_the_exit_code_of_an_earlier_attempt_does_not_count(self, client, push):
        """Older clients leave it on the token when they put it back."""
        push(1, exit_code=3)
        work_on(client, lambda task: None)
        assert client.get("token_0")["exit_code"] == 0


@pytest.mark.usefixtures("both_ways")
class TestAutoClose:
    def test_off_leaves_the_token_as_the_code_left_it(self, client, push):
        push(1)
        Recorder(client, auto_close=False).run()
        token = client.get("token_0")
        assert state_of(token) == "locked"
        assert token["exit_code"] == ""
        assert token["attempts"][0]["outcome"] == "left open"

    def test_off_still_marks_exceptions(self, client, push):
        push(1)
        Recorder(client, lambda task: 1 // 0, auto_close=False).run()
        assert state_of(client.get("token_0")) == "error"

    def test_on_does_not_change_a_token_that_the_code_closed(self, client, push):
        push(1)

        def work(task):
            task["exit_code"] = 0
            task["done"] = 12345

        work_on(client, work)
        assert client.get("token_0")["done"] == 12345

    def test_on_closes_a_token_with_an_exit_code(self, client, push):
        push(1)
        work_on(client, lambda task: task.update({"exit_code": 4}))
        assert client.get("token_0")["done"] > 0


@pytest.mark.usefixtures("both_ways")
class TestTokensOfAllKinds:
    def test_missing_and_odd_fields_do_not_end_the_pilot(self, client):
        odd = [
            {"scrub_count": None},
            {"scrub_count": "two"},
            {"error": "a person's note"},
            {"attempts": {"no": "list"}},
            {"claim": "mine"},
            {"hostname": None, "exit_code": None},
            {"lock": "0", "done": "0"},
            {"lock": False, "done": ""},
            {"input": None, "output": 7, "uploads": []},
        ]
        client.save_documents([make_token(number, **fields) for number, fields in enumerate(odd)])
        client.save({"_id": "bare", "type": "token", "lock": 0, "done": 0})
        actor = Recorder(client, lambda task: 1 // 0)
        actor.run(max_scrub=1, max_tasks=20, max_failures=0)
        # Each token fails, and is retried as often as its scrub_count allows.
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 0, "error": 10}
        assert actor.calls.count("process_task") == 20
        assert client.get("token_1")["scrub_count"] == 1

    def test_tokens_with_odd_fields_can_be_done(self, client):
        odd = [{"lock": "0", "done": "0"}, {"lock": False, "done": ""}, {"exit_code": None}]
        client.save_documents([make_token(number, **fields) for number, fields in enumerate(odd)])
        work_on(client, lambda task: None, max_token_time=NEVER)
        assert count_states(client)["done"] == 3

    @pytest.mark.parametrize("fields", [{"done": "gone"}, {"_id": "other"}, {"lock": None}, {"attempts": 7}], ids=str)
    def test_code_that_corrupts_its_token_does_not_end_the_pilot(self, client, push, fields):
        push(2)
        actor = work_on(client, lambda task: task.update(fields))
        assert actor.calls == calls_of(2)
        assert client.get("token_0")["attempts"]

    def test_code_that_empties_its_token_does_not_end_the_pilot(self, client, push):
        push(2)
        actor = work_on(client, lambda task: task.value.clear())
        assert actor.calls == calls_of(2)
        assert client.doc_count() == 4  # the pilot that has ended is kept; nothing was saved under a new id

    def test_values_that_json_cannot_hold_are_saved_as_text(self, client, push):
        push(1)
        work_on(client, lambda task: task.update({"output": {"raw": b"\xff"}}))
        token = client.get("token_0")
        assert (state_of(token), token["output"]) == ("done", {"raw": "b'\\xff'"})
        assert "output" in token["error"][0]["message"]


@pytest.mark.usefixtures("both_ways")
class TestChangesByOthers:
    def test_a_person_s_edit_is_kept(self, client, push):
        push(1)
        rival = client.copy()

        def work(task):
            theirs = rival.get(task.id)
            theirs["comment"] = "important"
            rival.save(theirs)
            task["output"] = "ours"

        work_on(client, work)
        token = client.get("token_0")
        assert (token["comment"], token["output"], state_of(token)) == ("important", "ours", "done")

    def test_a_deleted_token_stays_deleted_and_its_result_is_kept(self, client, push, spool):
        push(2)
        actor = work_on(client, lambda task: client.copy().delete(client.get(task.id)))
        assert client.doc_count() == 2  # the design document, and the pilot that has ended
        assert len(spool()) == 2
        assert actor.calls == calls_of(2)

    def test_a_pilot_that_lost_its_lock_overwrites_nothing_and_goes_on(self, client, push, spool):
        push(2)

        def work(task):
            if task.id == "token_0":
                client.save(Task(client.get("token_0")).scrub().lock("another pilot"))

        actor = work_on(client, work, max_scrub=3)
        assert client.get("token_0")["claim"]["pilot"] == "another pilot"
        assert state_of(client.get("token_1")) == "done"
        assert len(spool()) == 1
        assert actor.tasks_processed == 2

    def test_a_lost_token_that_failed_is_not_scrubbed(self, client, push):
        push(1)

        def work(task):
            client.save(Task(client.get("token_0")).scrub().lock("another pilot"))
            raise OSError

        work_on(client, work, max_scrub=3, max_tasks=1)
        assert client.get("token_0")["claim"]["pilot"] == "another pilot"

    def test_a_token_that_was_reset_after_it_failed_is_not_scrubbed_too(self, client, push, spool):
        push(1)

        class Rival(Recorder):
            def cleanup_run(self):
                client.save(reset(client.get("token_0")))

        Rival(client, lambda task: 1 // 0).run(max_scrub=3, max_tasks=1)
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"]) == ("todo", 0)
        assert spool() == []  # the result was saved, so there is nothing to keep


@pytest.mark.usefixtures("both_ways")
class TestCodeThatSavesItsToken:
    def test_after_closing_it(self, client, push, spool):
        push(1)

        def work(task):
            task["exit_code"] = 0
            client.save(BasicTokenModifier().close(task))

        work_on(client, work)
        assert state_of(client.get("token_0")) == "done"
        assert spool() == []

    def test_while_it_works(self, client, push, spool):
        push(1)

        def work(task):
            task["progress"] = 50
            client.save(task)
            task["progress"] = 100

        work_on(client, work)
        token = client.get("token_0")
        assert (token["progress"], state_of(token)) == (100, "done")
        assert spool() == []

    def test_through_a_second_copy(self, client, push, spool):
        push(1)

        def work(task):
            copy = client.get(task.id)
            copy["progress"] = 50
            client.save(copy)

        work_on(client, work)
        token = client.get("token_0")
        assert (token["progress"], state_of(token)) == (50, "done")
        assert spool() == []

    @pytest.mark.parametrize("save", [True, False])
    def test_after_scrubbing_it(self, client, push, save):
        push(1)

        def work(task):
            BasicTokenModifier().scrub(task)
            if save:
                client.save(task)

        work_on(client, work, max_tasks=1)
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"]) == ("todo", 1)
        assert token["attempts"][0]["outcome"] == "failed"

    def test_after_marking_it_as_an_error(self, client, push):
        push(1)
        work_on(client, lambda task: task.error("it is too hot"))
        token = client.get("token_0")
        assert state_of(token) == "error"
        assert token["error"][0]["message"] == "it is too hot"

    def test_attachments_are_saved_with_the_token(self, client, push):
        push(1)
        work_on(client, lambda task: task.put_attachment("logs_token_0.out", b"\xff\x00"))
        assert client.get("token_0").get_attachment("logs_token_0.out", client)["data"] == b"\xff\x00"


@pytest.mark.usefixtures("both_ways")
class TestScrubbing:
    def test_a_token_that_fails_is_retried_max_scrub_times(self, client, push):
        push(1)
        actor = work_on(client, lambda task: 1 // 0, max_scrub=2)
        token = client.get("token_0")
        assert actor.calls.count("process_task") == 3
        assert (state_of(token), token["scrub_count"]) == ("error", 2)
        assert [attempt["outcome"] for attempt in token["attempts"]] == ["failed"] * 3

    def test_earlier_tries_count(self, client, push):
        push(1, scrub_count=2)
        assert work_on(client, lambda task: 1 // 0, max_scrub=2).calls.count("process_task") == 1

    def test_a_token_that_succeeds_on_a_retry_is_done(self, client, push):
        push(1)
        tries = []
        work_on(client, lambda task: tries.append(1) or task.update({"exit_code": 3 - len(tries)}), max_scrub=5)
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"], token["exit_code"]) == ("done", 2, 0)

    def test_without_max_scrub_a_failed_token_stays_in_error(self, client, push):
        push(1)
        work_on(client, lambda task: 1 // 0)
        assert client.get("token_0")["scrub_count"] == 0


@pytest.mark.usefixtures("both_ways")
class TestStopConditions:
    def test_max_tasks_counts_the_tokens_of_this_call(self, client, push):
        push(5)
        actor = Recorder(client)
        actor.run(max_tasks=2)
        actor.run(max_tasks=2)
        assert count_states(client)["done"] == 4
        assert actor.tasks_processed == 4

    @pytest.mark.parametrize(("max_tasks", "done"), [(0.5, 1), (1.5, 2), (float("inf"), 3), (0, 3)])
    def test_max_tasks_may_be_the_outcome_of_a_calculation(self, client, push, max_tasks, done):
        push(3)
        work_on(client, lambda task: None, max_tasks=max_tasks)
        assert count_states(client)["done"] == done

    def test_max_tasks_counts_failed_tokens_too(self, client, push):
        push(3)
        work_on(client, lambda task: 1 // 0, max_tasks=2)
        assert count_states(client)["error"] == 2

    def test_the_stop_function_gets_its_arguments_and_the_current_task(self, client, push):
        push(3)
        seen = []

        def stop(limit, unit="tokens"):
            seen.append((actor.current_task.id, unit))
            return len(seen) >= limit

        actor = Recorder(client)
        actor.run(stop_function=stop, limit=2, unit="x")
        assert seen == [("token_0", "x"), ("token_1", "x")]
        assert actor.current_task.id == "token_1"
        assert actor.calls == calls_of(2)

    @pytest.mark.timing
    def test_max_total_time_ends_the_run_between_tokens(self, client, push):
        push(20)
        work_on(client, lambda task: time.sleep(0.1), max_total_time=0.25)
        assert 1 <= count_states(client)["done"] <= 3
        assert count_states(client)["locked"] == 0

    @pytest.mark.timing
    def test_max_total_time_wakes_an_idle_endless_iterator(self, client):
        actor = Recorder(client, iterator=EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=NEVER))
        began = time.monotonic()
        actor.run(max_total_time=0.3)
        assert 0.3 <= time.monotonic() - began < 10
        assert actor.calls == ["prepare_env", "cleanup_env"]

    def test_an_endless_iterator_waits_again_after_a_run_with_max_total_time(self, client, push):
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=0.01)
        actor = Recorder(client, iterator=iterator)
        actor.run(max_total_time=0.05)
        push(1)
        iterator.reset()
        actor.run(max_tasks=1)
        assert count_states(client)["done"] == 1

    def test_a_run_whose_iterator_has_ended_before_says_so(self, client, push, caplog):
        """It processes nothing, as in picas 1.1."""
        actor = Recorder(client)
        push(1)
        actor.run()
        assert "iterator" not in caplog.text
        client.save(make_token(1))
        actor.run()
        assert "The iterator has ended before this run; iterator.reset() lets it start again" in caplog.text
        assert count_states(client)["todo"] == 1
        actor.iterator.reset()
        actor.run()
        assert caplog.text.count("iterator.reset()") == 1
        assert count_states(client)["done"] == 2

    def test_a_token_that_cannot_end_in_time_is_not_started(self, client, push):
        push(2)
        actor = work_on(client, lambda task: None, max_token_time=100, max_total_time=50)
        assert actor.calls == ["prepare_env", "cleanup_env"]
        assert count_states(client)["todo"] == 2

    @pytest.mark.timing
    def test_a_token_whose_claim_took_too_long_is_put_back(self, client, push):
        push(1)

        class Slow(TaskViewIterator):
            def claim_task(self):
                task = super().claim_task()
                time.sleep(1.2)
                return task

        actor = Recorder(client, iterator=Slow(client, "todo"))
        actor.run(max_total_time=1)
        assert actor.calls == ["prepare_env", "cleanup_env"]
        token = client.get("token_0")
        assert (state_of(token), token["scrub_count"]) == ("todo", 0)
        assert token["attempts"][0]["outcome"] == "stopped"

    def test_any_iterable_can_be_the_iterator(self, client, push):
        tokens = push(2)
        actor = Recorder(client, iterator=[client.save(token.lock()) for token in tokens])
        actor.run()
        assert count_states(client)["done"] == 2


@pytest.mark.timing
class TestTimeOut:
    """Each test runs in the main thread and in another thread."""

    @pytest.fixture(params=["main thread", "other thread"])
    def run(self, request):
        def run(actor, **conditions):
            if request.param == "main thread":
                actor.run(**conditions)
                return
            thread = threading.Thread(target=actor.run, kwargs=conditions)
            with untraced_threads():
                thread.start()
                thread.join(30)
            assert not thread.is_alive()

        return run

    @staticmethod
    def assert_timed_out(client, token_id="token_0"):
        token = client.get(token_id)
        assert state_of(token) == "error"
        assert token["attempts"][-1]["outcome"] == "time-out"
        assert "time-out" in token["error"][-1]["message"]
        return token

    def test_a_child_is_ended_with_its_whole_group(self, client, push, run, tmp_path):
        push(2)

        def work(task):
            script = f"trap '' TERM; sleep 60 & echo $! > {task.id}; wait; sleep 60"
            task["exit_code"] = execute(["sh", "-c", script])[1]

        actor = Recorder(client, work)
        run(actor, max_token_time=0.3)
        for token_id in ("token_0", "token_1"):
            assert self.assert_timed_out(client, token_id)["exit_code"] == -9
            assert not is_alive(int((tmp_path / token_id).read_text()))
        assert actor.calls == calls_of(2)

    def test_a_child_has_the_grace_period_to_save_its_work(self, client, push, run, tmp_path):
        push(1)
        script = "trap 'sleep 0.3; echo saved > saved; exit 7' TERM; while true; do sleep 0.05; done"
        actor = Recorder(client, lambda task: task.update({"exit_code": execute(["sh", "-c", script])[1]}), grace=20)
        run(actor, max_token_time=0.5)
        assert (tmp_path / "saved").exists()
        assert self.assert_timed_out(client)["exit_code"] == 7

    def test_a_child_that_exits_with_0_when_it_is_terminated_is_still_a_time_out(self, client, push, run):
        push(1)
        script = "trap 'exit 0' TERM; while true; do sleep 0.05; done"
        run(
            Recorder(client, lambda task: task.update({"exit_code": execute(["sh", "-c", script])[1]})),
            max_token_time=0.4,
        )
        assert self.assert_timed_out(client)["exit_code"] == 99

    def test_a_popen_in_self_subprocess_is_ended(self, client, push, run):
        push(1)

        def work(task):
            actor.subprocess = subprocess.Popen(["sleep", "60"])
            task["exit_code"] = actor.subprocess.wait()

        actor = Recorder(client, work)
        run(actor, max_token_time=0.3)
        assert self.assert_timed_out(client)["exit_code"] == -15

    def test_python_code_that_waits(self, client, push, run):
        push(1)

        def work(task):
            give_up = time.monotonic() + NEVER
            while time.monotonic() < give_up:
                time.sleep(0.01)

        run(Recorder(client, work), max_token_time=0.2)
        self.assert_timed_out(client)

    def test_python_code_that_spins_and_swallows_exceptions(self, client, push, run):
        push(1)

        def work(task):
            give_up = time.monotonic() + NEVER
            while time.monotonic() < give_up:
                try:
                    int("x")
                except Exception:
                    continue

        run(Recorder(client, work), max_token_time=0.2)
        self.assert_timed_out(client)

    def test_python_code_that_swallows_the_first_interruption(self, client, push, run):
        push(1)

        def work(task):
            try:
                give_up = time.monotonic() + NEVER
                while time.monotonic() < give_up:
                    time.sleep(0.01)
            except BaseException:
                task["exit_code"] = 0

        run(Recorder(client, work), max_token_time=0.2)
        assert self.assert_timed_out(client)["exit_code"] == 99

    def test_code_that_starts_another_child_is_ended_too(self, client, push, run, monkeypatch):
        monkeypatch.setattr(interrupts, "SETTLE", 0.1)
        push(1)

        def work(task):
            for _ in range(3):
                execute(["sleep", str(NEVER)])

        began = time.monotonic()
        run(Recorder(client, work, grace=1), max_token_time=0.2)
        self.assert_timed_out(client)
        assert time.monotonic() - began < 20

    def test_a_token_that_timed_out_can_be_scrubbed(self, client, push, run):
        push(1)
        run(Recorder(client, lambda task: execute(["sleep", "60"])), max_token_time=0.2, max_scrub=1)
        token = self.assert_timed_out(client)
        assert (token["scrub_count"], len(token["attempts"])) == (1, 2)

    @pytest.mark.parametrize("auto_close", [True, False])
    def test_work_that_was_closed_before_the_time_out_is_done(self, client, push, run, auto_close):
        push(1)

        def work(task):
            task["exit_code"] = 0
            BasicTokenModifier().close(task)
            time.sleep(0.5)

        run(Recorder(client, work, grace=20, auto_close=auto_close), max_token_time=0.1)
        assert state_of(client.get("token_0")) == "done"

    def test_a_result_is_kept_even_if_the_code_never_ends(self, client, push, run):
        push(1)

        def work(task):
            task["exit_code"] = 0
            give_up = time.monotonic() + NEVER
            while time.monotonic() < give_up:
                time.sleep(0.01)

        run(Recorder(client, work, grace=0.3), max_token_time=0.1)
        token = client.get("token_0")
        assert (state_of(token), token["exit_code"]) == ("done", 0)
        assert "time-out" in token["error"][0]["message"]

    def test_work_that_ends_in_time_is_left_alone(self, client, push, run):
        push(5)
        run(Recorder(client, lambda task: task.update({"exit_code": execute(["true"])[1]})), max_token_time=NEVER)
        assert count_states(client)["done"] == 5

    def test_work_that_ends_close_to_the_limit_is_either_done_or_timed_out(self, client, push, run):
        push(12)

        def work(task):
            execute(["sleep", "0.1"])
            task["exit_code"] = 0

        actor = Recorder(client, work)
        run(actor, max_token_time=0.11)
        states = count_states(client)
        assert states["done"] + states["error"] == 12
        assert actor.calls == calls_of(12)
        for number in range(12):
            token = client.get(f"token_{number}")
            assert (token["attempts"][0]["outcome"] == "time-out") == (state_of(token) == "error")

    def test_the_children_of_another_actor_are_not_ended(self, client, push, tmp_path):
        """Two actors in two threads of one process."""
        push(1)
        client.save(make_token(7, _id="other"))
        results = {}

        def run_slow():
            def work(task):
                results["slow"] = run_command(["sh", "-c", "echo > slow; exec sleep 1"]).exit_code

            Recorder(client.copy(), work, startkey="a", endkey="p").run()

        slow = threading.Thread(target=run_slow)
        slow.start()
        wait_for((tmp_path / "slow").exists)
        Recorder(client, lambda task: execute(["sleep", "60"]), startkey="t").run(max_token_time=0.2)
        slow.join(30)
        assert results["slow"] == 0
        self.assert_timed_out(client)
        assert state_of(client.get("other")) == "done"


@pytest.mark.timing
@pytest.mark.usefixtures("both_ways")
class TestOutages:
    def test_while_a_token_is_processed(self, client, far, gate, push, spool):
        push(2)

        def work(task):
            if task.id == "token_0":
                gate.close()
                threading.Timer(0.3, gate.open).start()
            task["output"] = "kept"

        actor = Recorder(far, work)
        actor.run()
        assert count_states(client)["done"] == 2
        assert client.get("token_0")["output"] == "kept"
        assert spool() == []

    def test_while_a_token_is_claimed(self, client, far, gate, push):
        push(3)

        class Closing(Recorder):
            def cleanup_run(self):
                if self.tasks_processed == 1:
                    gate.close()
                    threading.Timer(0.3, gate.open).start()

        Closing(far).run()
        assert count_states(client)["done"] == 3

    def test_a_long_one_while_claiming_ends_the_run(self, client, far, gate, push):
        push(1)
        actor = Recorder(far, max_outage=0.2)
        gate.close()
        with pytest.raises(PicasError):
            actor.run()
        gate.open()
        assert actor.calls == ["prepare_env", "cleanup_env"]
        assert count_states(client)["todo"] == 1

    def test_a_long_one_while_saving_loses_no_result(self, client, far, gate, push, spool, caplog):
        push(1)
        actor = Recorder(far, lambda task: gate.close(), max_outage=0.2)
        with pytest.raises(PicasError):
            actor.run()
        gate.open()
        (file,) = spool()
        assert '"exit_code": 0' in file.read_text()
        assert sum(record.levelname == "ERROR" for record in caplog.records) == 1
        assert state_of(client.get("token_0")) == "locked"

    def test_the_folder_for_such_results_can_be_chosen(self, far, gate, push, tmp_path):
        push(1)
        with pytest.raises(PicasError):
            Recorder(far, lambda task: gate.close(), max_outage=0.1, spool_folder=tmp_path / "mine").run()
        gate.open()
        assert len(list((tmp_path / "mine").glob("*.json"))) == 1

    def test_while_claiming_ends_without_an_error_at_max_total_time(self, far, gate):
        gate.close()
        actor = Recorder(far)
        actor.run(max_total_time=0.2)
        gate.open()
        assert actor.calls == ["prepare_env", "cleanup_env"]

    def test_a_lock_whose_response_is_lost_at_the_end_of_the_run_is_released(self, client, location, push, monkeypatch):
        push(1)
        monkeypatch.setattr(outages, "FIRST_PAUSE", NEVER)
        with FaultProxy(location.url) as proxy:
            far = CouchDB(proxy.url, client.db.name, location.username, location.password)
            far.server.resource.session.retry_pauses = ()
            proxy.fail("POST", "_bulk_docs", CUT, after=True)
            proxy.fail("GET", "token_0", CUT, times=2)  # the immediate look-up, and the one at the end
            actor = Recorder(far)
            actor.run(max_total_time=1)
            assert (proxy.count("POST", "_bulk_docs"), proxy.count("PUT", "token_0")) == (1, 1)  # locked, and put back
        assert actor.calls == ["prepare_env", "cleanup_env"]
        token = client.get("token_0")
        assert (state_of(token), token["attempts"][0]["outcome"]) == ("todo", "stopped")

    def test_other_such_locks_are_released_with_the_token_at_work(self, client, push):
        """A run with several slots can leave more such locks than the next run claims at a time."""
        push(2)
        actor = Recorder(client)
        theirs = [Task(client.get(f"token_{number}")).lock(actor._picas.pilot.id) for number in range(2)]
        assert all(client.save_documents(theirs))
        actor.iterator._current_claimer()._found = theirs
        actor.process_task = lambda task: stop_this_pilot()
        with pytest.raises(PilotStopped):
            actor.run()
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 0, "error": 0}

    def test_a_lock_that_cannot_be_looked_up_is_logged(self, client, location, push, monkeypatch, caplog):
        push(1)
        monkeypatch.setattr(outages, "FIRST_PAUSE", NEVER)
        with FaultProxy(location.url) as proxy:
            far = CouchDB(proxy.url, client.db.name, location.username, location.password)
            far.server.resource.session.retry_pauses = ()
            proxy.fail("POST", "_bulk_docs", CUT, after=True)
            proxy.fail("GET", "token_0", CUT, times=50)
            actor = Recorder(far)
            actor.run(max_total_time=0.3)
        assert f"may have stayed locked by this pilot, {actor._picas.pilot.id}" in caplog.text

    def test_reconnect_continues_with_new_connections(self, client, push):
        push(2)
        actor = Recorder(client, lambda task: actor.reconnect())
        actor.run()
        assert actor.db is not client
        assert actor.iterator.database is actor.db
        assert count_states(client)["done"] == 2


class TestErrors:
    def test_a_missing_view_is_an_error(self, client):
        with pytest.raises(ResourceNotFound):
            Recorder(client, view="nope").run()

    def test_a_wrong_password_is_an_error_after_max_outage(self, client, push):
        push(1)
        other = client.copy()
        # A unique name, since CouchDB locks an account out after a few wrong passwords.
        other.db.resource.credentials = (f"user_{uuid4().hex}", "wrong")
        with pytest.raises(Unauthorized):
            Recorder(other, max_outage=0.1).run()

    def test_a_missing_database_is_an_error_at_once(self):
        with pytest.raises(ValueError, match="database"):
            RunActor(None)


class TestConstruction:
    def test_defaults(self, client):
        actor = Actor(client)
        assert isinstance(actor.iterator, TaskViewIterator)
        assert (actor.iterator.view, actor.token_reset_values, actor.tasks_processed) == ("todo", [0, 0], 0)
        assert actor.subprocess is None
        assert picas.actors.AbstractRunActor is Actor

    def test_view_and_its_parameters(self, client):
        actor = RunActor(client, None, "locked", design_doc="Other", limit=3)
        assert actor.iterator.view == "locked"
        assert actor.iterator.view_params == {"design_doc": "Other", "limit": 3}

    def test_actors_do_not_share_their_reset_values(self, client):
        Actor(client).token_reset_values.append(1)
        assert Actor(client).token_reset_values == [0, 0]

    def test_a_pilot_describes_itself(self, client, push, monkeypatch):
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        push(1)
        actor = work_on(client, lambda task: None)
        description = actor._picas.pilot.describe()
        assert description["outcomes"] == {"done": 1}
        assert description["slurm_job_id"] == "77"
        assert description["id"] == actor._picas.pilot.id

    def test_every_run_is_a_new_pilot(self, client):
        assert Pilot().id != Pilot().id
        actor = Recorder(client)
        actor.run()
        first = actor._picas.pilot.id
        actor.run()
        assert actor._picas.pilot.id != first


def test_the_library_prints_nothing(client, push, capfd):
    push(2)
    work_on(client, lambda task: task.id == "token_0" and 1 // 0)
    assert capfd.readouterr() == ("", "")


def test_eight_pilots_process_sixty_tokens_once_each_and_end_normally(client, push, environment, tmp_path):
    push(60)
    body = "Noting(connect()).run()"
    pilots = [PilotProcess(tmp_path / f"pilot_{number}", environment, body) for number in range(8)]
    try:
        assert [pilot.end() for pilot in pilots] == [0] * 8
    finally:
        for pilot in pilots:
            pilot.close()
    processed = [line for pilot in pilots for line in pilot.journal if line.startswith("process_task")]
    assert sorted(processed) == sorted(f"process_task token_{number}" for number in range(60))
    assert count_states(client) == {"todo": 0, "locked": 0, "done": 60, "error": 0}
    assert all(len(client.get(f"token_{number}")["attempts"]) == 1 for number in range(60))
