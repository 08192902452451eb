"""The twelve decisions of the public API: where it is corrected rather than kept as in picas 1.1. One test each.

The docstrings name the files that test the details.
"""

import os
import signal
import sys
import threading
import time

import pytest
from support.tokens import make_token
from support.workers import PilotProcess, is_alive

from picas import EndlessViewIterator, RunActor, Task, TaskViewIterator, jobid
from picas.couch import writes
from picas.executers import execute
from picas.modifiers import BasicTokenModifier
from picas.pool import claims
from picas.tokens.states import state_of
from picas.views import count_states


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PICAS_SPOOL", str(tmp_path / "spool"))


class Worker(RunActor):
    """Calls `work` for each token."""

    def __init__(self, db, work=lambda task: None, **options):
        super().__init__(db, **options)
        self.work = work

    def process_task(self, task):
        self.work(task)


def test_01_a_token_is_locked_only_if_it_is_free_when_it_is_read(client, push):
    """test_iterators.py"""
    push(2)
    client.add_view("all", "function(doc) { if (doc.type == 'token') emit(doc._id, doc._id); }")
    theirs = client.save(Task(client.get("token_0")).lock("another pilot"))
    assert [token.id for token in TaskViewIterator(client, "all")] == ["token_1"]
    assert client.get("token_0").rev == theirs.rev


@pytest.mark.timing
def test_02_contention_never_raises_and_an_empty_view_after_conflicts_is_read_again(client, push, monkeypatch):
    """test_iterators.py"""
    push(8)
    rival, write = client.copy(), client.write_documents
    timer = threading.Timer(0.1, lambda: rival.save(Task(rival.get("token_0")).scrub()))
    taken = []

    def lock_too_late(tokens):
        for token in tokens:
            taken.append(token.id)
            rival.save(Task(rival.get(token.id)).lock("another pilot"))
        if len(taken) == 8:
            timer.start()  # the view is empty for a moment
            monkeypatch.setattr(client, "write_documents", write)
        return write(tokens)

    monkeypatch.setattr(client, "write_documents", lock_too_late)
    assert [token.id for token in TaskViewIterator(client, "todo")] == ["token_0"]
    assert len(taken) == 8


def test_03_a_conflict_while_saving_is_merged_or_spooled_and_the_run_goes_on(client, push, tmp_path):
    """test_results.py"""
    push(3)
    rival = client.copy()

    def work(task):
        task["output"] = "ours"
        if task.id == "token_0":  # a person edits it
            rival.save(Task({**rival.get(task.id).value, "comment": "theirs"}))
        if task.id == "token_1":  # another pilot locks it
            rival.save(Task(rival.get(task.id)).scrub().lock("another pilot"))

    Worker(client, work).run()
    edited = client.get("token_0")
    assert (edited["output"], edited["comment"], state_of(edited)) == ("ours", "theirs", "done")
    assert client.get("token_1")["claim"]["pilot"] == "another pilot"
    assert [file.name.startswith("token_1-") for file in (tmp_path / "spool").iterdir()] == [True]
    assert state_of(client.get("token_2")) == "done"


def test_04_a_normal_return_closes_with_exit_code_0_and_any_exception_is_an_error(client, push):
    """test_actors.py"""
    push(4)

    def work(task):
        if task.id == "token_1":
            raise ValueError
        if task.id == "token_2":
            task["exit_code"] = 0
            sys.exit(0)
        if task.id == "token_3":
            task["exit_code"] = 5
            raise ValueError

    Worker(client, work).run()
    tokens = [client.get(f"token_{number}") for number in range(4)]
    assert [state_of(token) for token in tokens] == ["done", "error", "error", "error"]
    assert [token["exit_code"] for token in tokens] == [0, 99, 99, 5]


def test_04_auto_close_can_be_switched_off_and_keyboard_interrupt_leaves_nothing_locked(client, push):
    """test_actors.py"""
    push(1)
    Worker(client, auto_close=False).run(max_tasks=1)
    assert (state_of(client.get("token_0")), client.get("token_0")["exit_code"]) == ("locked", "")
    client.save(make_token(1))

    def interrupt(task):
        raise KeyboardInterrupt

    Worker(client, interrupt).run()
    assert state_of(client.get("token_1")) == "error"


@pytest.mark.parametrize("scrub", [lambda token: token.scrub(), BasicTokenModifier().scrub], ids=["Task", "modifier"])
def test_05_both_scrubs_reset_lock_done_and_exit_code_and_keep_logs(client, push, scrub):
    """test_modifiers.py"""
    push(1)
    Worker(client, lambda task: task.put_attachment("logs_token_0.out", "first") or 1 // 0).run()
    client.save(scrub(Task(client.get("token_0"))))
    token = client.get("token_0")
    assert (token["lock"], token["done"], token["exit_code"], token["scrub_count"]) == (0, 0, "", 1)
    assert token.get_attachment("logs_token_0.out", client)["data"] == b"first"


def test_06_a_stop_of_the_pilot_does_not_count_against_max_scrub(client, push, environment, tmp_path):
    """test_signals.py"""
    push(1)
    pilot = PilotProcess(
        tmp_path,
        environment,
        """
class Running(Noting):
    def process_task(self, task):
        task["exit_code"] = execute(["sh", "-c", "echo child >> journal; exec sleep 60"])[1]
Running(connect()).run(max_scrub=3)
""",
    )
    try:
        pilot.wait_for("child")
        assert pilot.stop() == 0
    finally:
        pilot.close()
    token = client.get("token_0")
    assert (state_of(token), token["scrub_count"], token["attempts"][0]["outcome"]) == ("todo", 0, "stopped")


@pytest.mark.timing
def test_07_max_token_time_ends_the_child_with_its_group_and_python_code(client, push, tmp_path):
    """test_actors.py, test_interrupts.py"""
    push(2)

    def work(task):
        if task.id == "token_0":
            script = "trap '' TERM; (trap '' TERM; sleep 60) & echo $! > grandchild; wait; sleep 60"
            task["exit_code"] = execute(["sh", "-c", script])[1]
        else:
            time.sleep(60)

    began = time.monotonic()
    Worker(client, work, grace=0.3).run(max_token_time=0.3)
    assert time.monotonic() - began < 20
    assert not is_alive(int((tmp_path / "grandchild").read_text()))
    for token in (client.get("token_0"), client.get("token_1")):
        assert (state_of(token), token["attempts"][0]["outcome"]) == ("error", "time-out")
        assert "time-out" in token["error"][0]["message"]


@pytest.mark.timing
def test_07_finished_work_is_never_turned_into_an_error(client, push):
    """test_actors.py"""
    push(1)

    def work(task):
        task["exit_code"] = 0
        time.sleep(0.4)

    Worker(client, work).run(max_token_time=0.1)
    assert state_of(client.get("token_0")) == "done"


def test_08_max_tasks_counts_the_tokens_of_this_call(client, push):
    """test_actors.py"""
    push(5)
    actor = Worker(client)
    actor.run(max_tasks=2)
    actor.run(max_tasks=2)
    assert count_states(client)["done"] == 4


@pytest.mark.timing
def test_08_max_total_time_wakes_an_idle_pilot_and_starts_no_token_that_cannot_end(client, push):
    """test_actors.py"""
    began = time.monotonic()
    Worker(client, iterator=EndlessViewIterator(TaskViewIterator(client, "todo"), 60)).run(max_total_time=0.3)
    assert time.monotonic() - began < 10
    push(1)
    Worker(client).run(max_token_time=60, max_total_time=30)
    assert count_states(client)["todo"] == 1


def test_09_run_works_outside_the_main_thread_and_does_not_touch_signals(client, push):
    """test_signals.py"""
    push(2)
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=Worker(client, lambda task: time.sleep(0.01)).run, kwargs={"max_token_time": 60})
    thread.start()
    assert signal.getsignal(signal.SIGTERM) == before
    thread.join(30)
    assert count_states(client)["done"] == 2


@pytest.mark.parametrize(("options", "code"), [({}, 0), ({"stop_exit_code": 7}, 7)], ids=["default", "chosen"])
def test_09_the_handler_ends_with_exit_code_0_or_the_chosen_one(client, options, code):
    """test_signals.py"""
    with pytest.raises(SystemExit) as caught:
        Worker(client, **options).handler(signal.SIGTERM, None)
    assert caught.value.code == code


def test_10_many_documents_are_saved_and_deleted_with_one_request_for_each_chunk(client, monkeypatch):
    """test_clients.py"""
    monkeypatch.setattr(writes, "BULK_DOCS", 10)
    requests = []
    session = client.server.resource.session
    original = session.request_json

    def request(method, url, *args, **kwargs):
        requests.append((method, url.rpartition("/")[2]))
        return original(method, url, *args, **kwargs)

    monkeypatch.setattr(session, "request_json", request)
    tokens = [Task(make_token(number)) for number in range(25)]
    assert client.save_documents(tokens) == [True] * 25
    assert client.delete_documents(tokens) == [True] * 25
    assert requests == [("POST", "_bulk_docs")] * 6


def test_11_more_batch_systems_are_known_and_an_incomplete_environment_is_no_error(monkeypatch):
    """test_jobid.py"""
    for name in list(os.environ):
        if "JOB" in name or "SLURM" in name or name.startswith(("DIRAC", "LSB", "PBS", "_CONDOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")  # without the task's number
    jobid.add_job_id({})
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    token = {}
    monkeypatch.setenv("LSB_JOBID", "77")
    jobid.add_job_id(token)
    assert token == {"lsf_job_id": "77"}


def test_12_an_empty_view_is_read_once_more_before_the_end(client, monkeypatch):
    """test_iterators.py"""
    pauses = []

    def fill_meanwhile(seconds):
        pauses.append(seconds)
        client.save(make_token(0))
        return lambda: True

    monkeypatch.setattr(claims, "After", fill_meanwhile)
    assert next(TaskViewIterator(client, "todo")).id == "token_0"
    assert pauses == [claims.EMPTY_PAUSE]
