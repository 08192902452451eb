"""What each change of a token's state writes, and what it leaves alone."""

from __future__ import annotations

import copy
import socket
import time
from typing import Any, Callable

import pytest
from support.tokens import make_token

from picas import Document, Task, modifiers
from picas.modifiers import BasicTokenModifier, NestedTokenModifier, TokenModifier
from picas.tokens.states import state_of

HOST = socket.gethostname()
OWN = {"cores": 1, "my": {"nested": [1, 2]}, "input": "echo hello"}
METHODS = ("lock", "unlock", "close", "unclose", "scrub", "set_error")


@pytest.fixture(autouse=True)
def slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the job 12 of Slurm and of nothing else."""
    monkeypatch.setattr(modifiers.jobid, "environ", {"SLURM_JOB_ID": "12"})


def locked(**fields: Any) -> dict[str, Any]:
    return modifiers.lock(make_token(**{**OWN, **fields}))


# --- one token that is a document


@pytest.mark.parametrize("kind", [dict, Document, Task])
@pytest.mark.parametrize("method", METHODS)
def test_a_modifier_returns_the_very_token_that_it_changed(kind: Any, method: str) -> None:
    token = kind(make_token(**OWN))
    assert getattr(BasicTokenModifier(), method)(token) is token


@pytest.mark.parametrize("method", METHODS)
def test_the_users_own_fields_survive(method: str) -> None:
    token = locked(_rev="3-x")
    getattr(BasicTokenModifier(), method)(token)
    assert {name: token[name] for name in OWN} == OWN
    assert token["_rev"] == "3-x"


def test_lock_writes_the_time_the_host_the_job_and_a_claim() -> None:
    token = make_token()
    before = int(time.time())
    BasicTokenModifier().lock(token)
    assert isinstance(token["lock"], int)
    assert before <= token["lock"] <= time.time()
    assert (token["done"], token["hostname"], token["slurm_job_id"]) == (0, HOST, "12")
    assert token["claim"]["start"] == token["lock"]
    assert state_of(token) == "locked"


def test_no_two_locks_have_the_same_claim() -> None:
    assert locked()["claim"]["id"] != locked()["claim"]["id"]


def test_lock_forgets_the_job_that_had_the_token_before() -> None:
    assert "dirac_job_id" not in locked(dirac_job_id="7")


def test_lock_notes_the_pilot() -> None:
    assert modifiers.lock(make_token(), "pilot 5")["claim"]["pilot"] == "pilot 5"


def test_unlock_sets_a_token_free_and_leaves_done_alone() -> None:
    token = BasicTokenModifier().unlock(locked(done=5))
    assert (token["lock"], token["done"], token["hostname"]) == (0, 5, HOST)
    assert "slurm_job_id" not in token
    assert "claim" not in token


def test_close_notes_when() -> None:
    before = int(time.time())
    token = BasicTokenModifier().close(locked(exit_code=0))
    assert before <= token["done"] <= time.time()
    assert state_of(token) == "done"
    assert token["slurm_job_id"] == "12"


def test_unclose_takes_close_back() -> None:
    token = BasicTokenModifier().unclose(BasicTokenModifier().close(locked()))
    assert (token["done"], state_of(token)) == (0, "locked")
    assert "slurm_job_id" not in token


def test_add_output_lays_fields_over_the_token() -> None:
    token = BasicTokenModifier().add_output(locked(), {"output": [1], "cores": 2})
    assert (token["output"], token["cores"], token["my"]) == ([1], 2, OWN["my"])


def test_scrub_puts_a_token_back_and_counts_that() -> None:
    logs = {"logs_0.out": {"stub": True}}
    history = [{"outcome": "failed"}]
    token = locked(done=7, exit_code=3, scrub_count=1, _attachments=logs, attempts=history, error=[{"message": "x"}])
    BasicTokenModifier().scrub(token)
    assert (token["lock"], token["done"], token["exit_code"], token["scrub_count"]) == (0, 0, "", 2)
    assert (token["hostname"], state_of(token)) == (HOST, "todo")
    assert "slurm_job_id" not in token
    assert "claim" not in token
    assert (token["_attachments"], token["attempts"], token["error"]) == (logs, history, [{"message": "x"}])


@pytest.mark.parametrize("count", [None, "many", [], float("nan"), "9" * 400])
def test_scrub_counts_from_one_where_nothing_was_counted(count: Any) -> None:
    assert modifiers.scrub(locked(scrub_count=count))["scrub_count"] == 1
    bare: dict[str, Any] = {}
    assert modifiers.scrub(bare)["scrub_count"] == 1


def test_scrub_leaves_a_token_to_be_had_at_once_unless_a_delay_is_wanted() -> None:
    assert "not_before" not in modifiers.scrub(locked(not_before=5))
    before = time.time()
    token = modifiers.scrub(locked(scrub_count=2), retry_delay=10)
    assert before + 39.9 < token["not_before"] < time.time() + 50.1  # the third failure, and a jitter of a quarter
    assert state_of(token) == "todo"


@pytest.mark.parametrize("kind", [dict, Document, Task])
@pytest.mark.parametrize("method", ["lock", "unlock", "scrub"])
def test_the_time_before_which_a_token_was_not_to_be_taken_goes_with(method: str, kind: Any) -> None:
    token = kind(make_token(not_before=5))
    assert "not_before" not in getattr(BasicTokenModifier(), method)(token)


def test_it_goes_with_a_reset_too() -> None:
    assert "not_before" not in modifiers.reset(locked(not_before=5))
    assert "not_before" not in modifiers.lose(locked(not_before=5), 9)


def test_a_reset_counts_for_nothing() -> None:
    token = modifiers.reset(locked(done=7, exit_code=3, scrub_count=1))
    assert (token["lock"], token["done"], token["exit_code"], token["scrub_count"]) == (0, 0, "", 1)


def test_a_reset_can_put_a_token_elsewhere() -> None:
    token = modifiers.reset(locked(), lock=-1, done="parked")
    assert (token["lock"], token["done"], state_of(token)) == (-1, "parked", None)


@pytest.mark.parametrize("method", ["scrub", "lock", "error"])
def test_a_task_and_the_modifier_change_a_token_alike(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modifiers, "seconds", lambda: 1692692693)
    monkeypatch.setattr(modifiers, "uuid4", lambda: type("Id", (), {"hex": "same"}))
    content = {**make_token(done=5, exit_code=1, scrub_count=2, slurm_job_id="1"), "_rev": "1-x"}
    task = Task(copy.deepcopy(content))
    assert getattr(task, method)() is task
    getattr(BasicTokenModifier(), "set_error" if method == "error" else method)(content)
    assert task.value == content


@pytest.mark.parametrize("exit_code", [0, "0", "", None, 0.0])
def test_an_error_shows_in_the_view_of_errors_whatever_the_exit_code_claims(exit_code: Any) -> None:
    token = BasicTokenModifier().set_error(locked(exit_code=exit_code))
    assert (token["lock"], token["done"], token["exit_code"], state_of(token)) == (99, 99, 99, "error")


@pytest.mark.parametrize("exit_code", [1, 137, "2", -9, "killed"])
def test_an_error_keeps_an_exit_code_that_tells_something(exit_code: Any) -> None:
    assert modifiers.set_error(locked(exit_code=exit_code))["exit_code"] == exit_code


def test_an_error_on_a_token_without_exit_code() -> None:
    token: dict[str, Any] = {"lock": 1}
    assert modifiers.set_error(token)["exit_code"] == 99


def failure(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_an_error_tells_time_message_and_traceback() -> None:
    before = int(time.time())
    token = Task(make_token()).error("no input", failure("odd"))
    (entry,) = token.get_errors()
    assert before <= entry["time"] <= time.time()
    assert entry["message"] == "no input"
    assert entry["exception"].startswith("Traceback")
    assert entry["exception"].endswith("ValueError: odd\n")


def test_the_newest_error_comes_last() -> None:
    token = Task(make_token()).error("one").error("two").error()
    assert [entry.get("message") for entry in token.get_errors()] == ["one", "two", None]


def test_an_error_list_that_a_person_overwrote_is_begun_anew() -> None:
    assert len(modifiers.set_error(locked(error="oops"), "x")["error"]) == 1


# --- nothing grows without a bound


def test_errors_have_a_bound_and_the_oldest_go_first() -> None:
    token = locked()
    for number in range(modifiers.MAX_ERRORS + 5):
        modifiers.set_error(token, number)
    messages = [entry["message"] for entry in token["error"]]
    assert messages == [str(number) for number in range(5, modifiers.MAX_ERRORS + 5)]


def test_messages_and_tracebacks_have_a_bound() -> None:
    token = modifiers.set_error(locked(), "begin" + "m" * 1_000_000, failure("x" * 1_000_000 + "end"))
    (entry,) = token["error"]
    assert len(entry["message"]) == modifiers.MAX_MESSAGE
    assert entry["message"].startswith("begin")
    assert len(entry["exception"]) == modifiers.MAX_TRACEBACK
    assert entry["exception"].endswith("xend\n")


def test_attempts_have_a_bound_and_the_oldest_go_first() -> None:
    token = locked()
    for number in range(modifiers.MAX_ATTEMPTS + 5):
        modifiers.lock(token, f"pilot {number}")
        modifiers.end_attempt(token, "failed")
    assert [attempt["pilot"] for attempt in token["attempts"]] == [
        f"pilot {number}" for number in range(5, modifiers.MAX_ATTEMPTS + 5)
    ]


# --- claims and attempts


def test_an_attempt_tells_who_when_where_and_how_it_ended() -> None:
    token = modifiers.lock(make_token(), "pilot 5")
    claim = copy.deepcopy(token["claim"])
    token["exit_code"] = 3
    modifiers.end_attempt(token, "failed")
    (attempt,) = token["attempts"]
    assert claim["start"] <= attempt.pop("end") <= time.time()
    assert attempt == {
        "claim": claim["id"],
        "pilot": "pilot 5",
        "host": HOST,
        "job_id": "12",
        "start": claim["start"],
        "outcome": "failed",
        "exit_code": 3,
    }
    assert "claim" not in token


def test_an_attempt_of_an_older_release_has_no_claim() -> None:
    token = make_token(lock=5, hostname="elsewhere", attempts="scribble")
    modifiers.end_attempt(token, "lost")
    (attempt,) = token["attempts"]
    assert (attempt["claim"], attempt["pilot"], attempt["host"], attempt["start"]) == ("", "", "elsewhere", 0)


def test_only_a_token_in_todo_is_free() -> None:
    assert modifiers.is_free(make_token())
    assert not modifiers.is_free(locked())
    assert not modifiers.is_free(make_token(done=5))
    assert not modifiers.is_free({})


def test_a_lock_is_recognised_by_its_claim() -> None:
    mine = locked()
    newer = {**copy.deepcopy(mine), "cores": 5, "_rev": "9-z"}
    assert modifiers.is_same_lock(newer, mine)
    assert not modifiers.is_same_lock(modifiers.lock(copy.deepcopy(mine)), mine)
    assert not modifiers.is_same_lock(modifiers.scrub(copy.deepcopy(mine)), mine)
    assert not modifiers.is_same_lock({**newer, "lock": 0}, mine)  # a person has reset it by hand
    assert not modifiers.is_same_lock({**newer, "lock": 5, "hostname": "old pilot"}, mine)  # it keeps our claim


def test_a_lock_of_an_older_release_is_recognised_by_time_and_host() -> None:
    mine = make_token(lock=5, hostname="a")
    assert modifiers.is_same_lock({**mine, "cores": 5}, mine)
    assert not modifiers.is_same_lock({**mine, "lock": 6}, mine)
    assert not modifiers.is_same_lock({**mine, "hostname": "b"}, mine)
    assert not modifiers.is_same_lock(locked(), mine)


@pytest.mark.parametrize("claim", [None, "x", 5, []])
def test_a_claim_that_is_none_is_none(claim: Any) -> None:
    assert modifiers.claim_of({"claim": claim}) == {}


# --- tokens inside a larger document


def record() -> dict[str, Any]:
    return {
        "_id": "run_1",
        "note": "mine",
        "part": {**make_token(), "_id": "inner"},
        "steps": {"first": [make_token(number) for number in range(2)]},
    }


REFS: list[tuple[Any, Callable[[Any], Any]]] = [
    ("part", lambda record: record["part"]),
    (["run_1", "part"], lambda record: record["part"]),
    (["run_1", "steps", "first", 1], lambda record: record["steps"]["first"][1]),
]


@pytest.mark.parametrize(("ref", "find"), REFS)
@pytest.mark.parametrize("kind", [dict, Document])
def test_a_ref_leads_to_a_token(ref: Any, find: Callable[[Any], Any], kind: Any) -> None:
    document = kind(record())
    assert NestedTokenModifier().get_token(ref, document) is find(document)


@pytest.mark.parametrize(("ref", "find"), REFS)
@pytest.mark.parametrize("method", METHODS)
def test_a_nested_change_is_the_same_change_to_that_token_only(
    ref: Any, find: Callable[[Any], Any], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modifiers, "seconds", lambda: 1692692693)
    monkeypatch.setattr(modifiers, "uuid4", lambda: type("Id", (), {"hex": "same"}))
    document, expected = record(), record()
    getattr(BasicTokenModifier(), method)(find(expected))
    assert getattr(NestedTokenModifier(), method)(ref, document) is document
    assert document == expected
    assert document != record() or method in ("unlock", "unclose")


def test_nested_output() -> None:
    document = record()
    assert NestedTokenModifier().add_output(["run_1", "part"], document, {"output": 5}) is document
    assert document["part"]["output"] == 5
    assert "output" not in document


@pytest.mark.parametrize("ref", ["nothing", ["run_1", "steps", "second"]])
def test_a_ref_that_leads_nowhere_is_a_key_error(ref: Any) -> None:
    with pytest.raises(KeyError):
        NestedTokenModifier().lock(ref, record())


def test_a_ref_of_the_document_alone_is_the_document() -> None:
    document = record()
    assert NestedTokenModifier().get_token(["run_1"], document) is document


# --- the classes


def test_the_base_class_says_what_a_subclass_has_to_do() -> None:
    modifier = TokenModifier()
    for method in (*METHODS, "add_output"):
        with pytest.raises(NotImplementedError, match=method):
            getattr(modifier, method)({})


def test_the_timeout_is_a_day() -> None:
    assert TokenModifier().timeout == BasicTokenModifier().timeout == NestedTokenModifier().timeout == 86400
    assert TokenModifier(5).timeout == NestedTokenModifier(timeout=5).timeout == 5
