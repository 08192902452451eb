"""Tokens that somebody takes from a pilot by hand: the work on them ends with the next heartbeat."""

from __future__ import annotations

import threading
import time

import pytest
from support.workers import Worker, is_alive, pid_in, wait_for

from picas import Task
from picas.actors import summary
from picas.executers import execute, run_command
from picas.tokens.states import state_of

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")

HEARTBEAT = 0.2


def reset(client):
    client.save(Task(client.get("token_0")).scrub())


def fail(client):
    client.save(Task(client.get("token_0")).error("wrong input"))


def close(client):
    """As a person does who looks at the documents in a browser."""
    client.edit("token_0", lambda content: {**content, "done": 1_700_000_000, "exit_code": 1})


def edit_lock(client):
    client.edit("token_0", lambda content: {**content, "hostname": "elsewhere"})


def lock(client):
    client.save(Task(client.get("token_0")).scrub())
    client.save(Task(client.get("token_0")).lock("picas_pilot_another"))


def delete(client):
    client.delete(client.get("token_0"))


CHANGES = [
    (reset, "it was put into the state todo", "todo"),
    (close, "it was put into the state error", "error"),
    (edit_lock, "its lock was changed", "locked"),
    (fail, "it was put into the state error", "error"),
    (lock, "picas_pilot_another has locked it", "locked"),
    (delete, "it was deleted", None),
]


@pytest.fixture
def take(client, tmp_path):
    """Run an actor whose work on token_0 a person takes away, and return the actor and the pid of its program."""

    def run(work, change, **options):
        def begin(token):
            if token.id != "token_0":
                return
            work(token, tmp_path / "pid", lambda: change(client.copy()))

        actor = Worker(client, begin, heartbeat=HEARTBEAT, lease=60, grace=1)
        actor.run(**options)
        return actor

    return run


def run_program(token, pid, take_away):
    """Run a program that would take a minute, in a token that is taken away as soon as it runs."""

    def wait():
        pid_in(pid)
        take_away()

    threading.Thread(target=wait).start()
    token["exit_code"] = run_command(["sh", "-c", f"echo $$ > {pid}; exec sleep 60"]).exit_code


@pytest.mark.timing
@pytest.mark.parametrize(("change", "words", "state"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("slots", [1, 2])
def test_the_program_is_ended(client, push, take, spool, caplog, tmp_path, slots, change, words, state):
    push(3)
    began = time.monotonic()
    actor = take(run_program, change, slots=slots, max_tasks=3)
    assert time.monotonic() - began < 20
    assert not is_alive(pid_in(tmp_path / "pid"))
    assert f"Token token_0 was taken from this pilot: {words}" in caplog.text
    if state is None:
        with pytest.raises(ValueError, match="token_0"):
            client.get("token_0")
    elif state != "todo":  # else the pilot may have taken it again
        assert state_of(client.get("token_0")) == state
        assert summary(actor) == "Processed 3 tokens: 2 done, 1 taken away"
    assert actor._picas.pilot.outcomes["taken away"] == 1


@pytest.mark.timing
def test_python_code_is_interrupted(client, push, take, spool):
    push(2)

    def work(token, pid, take_away):
        token["output"] = "half"
        take_away()
        while True:
            time.sleep(0.01)

    take(work, fail, max_tasks=1)
    token = client.get("token_0")
    assert (state_of(token), token["error"][-1]["message"]) == ("error", "wrong input")
    assert [path.name.startswith("token_0-") for path in spool()] == [True], "the result so far is kept"


@pytest.mark.timing
def test_what_people_note_in_a_token_does_not_end_its_work(client, push, take):
    push(1)

    def work(token, pid, take_away):
        take_away()
        time.sleep(4 * HEARTBEAT)
        token["exit_code"] = execute(["true"])[1]

    actor = take(work, lambda rival: rival.edit("token_0", lambda content: {**content, "note": "look at this"}))
    token = client.get("token_0")
    assert (state_of(token), token["note"]) == ("done", "look at this")
    assert summary(actor) == "Processed 1 tokens: 1 done"


@pytest.mark.timing
def test_code_may_close_and_save_its_token_itself(client, push, take):
    push(1)

    def work(token, pid, take_away):
        token["exit_code"] = 0
        token.done()
        client.save(token)
        time.sleep(4 * HEARTBEAT)

    actor = take(work, reset)
    assert summary(actor) == "Processed 1 tokens: 1 done"


def test_a_heartbeat_asks_for_all_tokens_at_once(client, push, monkeypatch):
    """And for none if no token is at work."""
    push(8)
    asked = []
    all_docs = client.all_docs

    def watched(**options):
        if "keys" in options and "include_docs" not in options:
            asked.append(sorted(options["keys"]))
        return all_docs(**options)

    monkeypatch.setattr(client, "all_docs", watched)
    gets = []
    get = client.get
    monkeypatch.setattr(client, "get", lambda id: gets.append(id) or get(id))
    Worker(client, lambda token: wait_for(lambda: asked), heartbeat=HEARTBEAT, lease=60, claim_ahead=0).run(slots=8)
    assert asked[0] == [f"token_{number}" for number in range(8)]
    assert [id for id in gets if id.startswith("token_")] == []
