"""What each change of a token's state writes, and what it does not touch."""

from __future__ import annotations

import copy
import socket
import time
from typing import Any, Callable

import pytest
from support.tokens import make_token

from picas import Document, Task, modifiers
from picas.modifiers import BasicTokenModifier, NestedTokenModifier, TokenModifier
from picas.tokens.measures import Measures
from picas.tokens.reasons import group_of
from picas.tokens.states import state_of

HOST = socket.gethostname()
OWN = {"cores": 1, "my": {"nested": [1, 2]}, "input": "echo hello"}
METHODS = ("lock", "unlock", "close", "unclose", "scrub", "set_error")


@pytest.fixture(autouse=True)
def slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as job 12 of Slurm."""
    monkeypatch.setattr(modifiers.jobid, "environ", {"SLURM_JOB_ID": "12"})


def locked(**fields: Any) -> dict[str, Any]:
    return modifiers.lock(make_token(**{**OWN, **fields}))


# --- one token that is a document


@pytest.mark.parametrize("kind", [dict, Document, Task])
@pytest.mark.parametrize("method", METHODS)
def test_a_modifier_returns_the_token_that_it_changed(kind: Any, method: str) -> None:
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


def test_lock_removes_the_id_of_an_earlier_job() -> None:
    assert "dirac_job_id" not in locked(dirac_job_id="7")


def test_lock_records_the_pilot() -> None:
    assert modifiers.lock(make_token(), "pilot 5")["claim"]["pilot"] == "pilot 5"


def test_unlock_releases_a_token_and_does_not_change_done() -> None:
    token = BasicTokenModifier().unlock(locked(done=5))
    assert (token["lock"], token["done"], token["hostname"]) == (0, 5, HOST)
    assert "slurm_job_id" not in token
    assert "claim" not in token


def test_close_records_the_time() -> None:
    before = int(time.time())
    token = BasicTokenModifier().close(locked(exit_code=0))
    assert before <= token["done"] <= time.time()
    assert state_of(token) == "done"
    assert token["slurm_job_id"] == "12"


def test_unclose_undoes_close() -> None:
    token = BasicTokenModifier().unclose(BasicTokenModifier().close(locked()))
    assert (token["done"], state_of(token)) == (0, "locked")
    assert "slurm_job_id" not in token


def test_add_output_updates_the_fields_of_the_token() -> None:
    token = BasicTokenModifier().add_output(locked(), {"output": [1], "cores": 2})
    assert (token["output"], token["cores"], token["my"]) == ([1], 2, OWN["my"])


def test_scrub_puts_a_token_back_and_counts_the_failure() -> None:
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
def test_scrub_starts_counting_at_one_if_there_is_no_count(count: Any) -> None:
    assert modifiers.scrub(locked(scrub_count=count))["scrub_count"] == 1
    bare: dict[str, Any] = {}
    assert modifiers.scrub(bare)["scrub_count"] == 1


def test_scrub_postpones_a_token_only_if_there_is_a_delay() -> None:
    assert "not_before" not in modifiers.scrub(locked(not_before=5))
    before = time.time()
    token = modifiers.scrub(locked(scrub_count=2), retry_delay=10)
    assert before + 39.9 < token["not_before"] < time.time() + 50.1  # the third failure, and a jitter of a quarter
    assert state_of(token) == "todo"


@pytest.mark.parametrize("kind", [dict, Document, Task])
@pytest.mark.parametrize("method", ["lock", "unlock", "scrub"])
def test_not_before_is_removed_by(method: str, kind: Any) -> None:
    token = kind(make_token(not_before=5))
    assert "not_before" not in getattr(BasicTokenModifier(), method)(token)


def test_not_before_is_removed_by_a_reset_too() -> None:
    assert "not_before" not in modifiers.reset(locked(not_before=5))
    assert "not_before" not in modifiers.lose(locked(not_before=5), 9)


def test_a_reset_is_not_counted() -> None:
    token = modifiers.reset(locked(done=7, exit_code=3, scrub_count=1))
    assert (token["lock"], token["done"], token["exit_code"], token["scrub_count"]) == (0, 0, "", 1)


def test_a_reset_can_set_other_values() -> None:
    token = modifiers.reset(locked(), lock=-1, done="parked")
    assert (token["lock"], token["done"], state_of(token)) == (-1, "parked", None)


@pytest.mark.parametrize("method", ["scrub", "lock", "error"])
def test_a_task_and_the_modifier_make_the_same_change(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modifiers, "seconds", lambda: 1692692693)
    monkeypatch.setattr(modifiers, "uuid4", lambda: type("Id", (), {"hex": "same"}))
    content = {**make_token(done=5, exit_code=1, scrub_count=2, slurm_job_id="1"), "_rev": "1-x"}
    task = Task(copy.deepcopy(content))
    assert getattr(task, method)() is task
    getattr(BasicTokenModifier(), "set_error" if method == "error" else method)(content)
    assert task.value == content


@pytest.mark.parametrize("exit_code", [0, "0", "", None, 0.0])
def test_a_failed_token_is_in_the_state_error_whatever_its_exit_code_was(exit_code: Any) -> None:
    token = BasicTokenModifier().set_error(locked(exit_code=exit_code))
    assert (token["lock"], token["done"], token["exit_code"], state_of(token)) == (99, 99, 99, "error")


@pytest.mark.parametrize("exit_code", [1, 137, "2", -9, "killed"])
def test_an_error_keeps_an_exit_code_of_a_failure(exit_code: Any) -> None:
    assert modifiers.set_error(locked(exit_code=exit_code))["exit_code"] == exit_code


def test_an_error_on_a_token_without_exit_code() -> None:
    token: dict[str, Any] = {"lock": 1}
    assert modifiers.set_error(token)["exit_code"] == 99


def failure(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_an_error_has_a_time_a_message_and_a_traceback() -> None:
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


def test_an_error_list_that_a_person_overwrote_is_started_again() -> None:
    assert len(modifiers.set_error(locked(error="oops"), "x")["error"]) == 1


# --- limits


def test_the_list_of_errors_is_limited_and_drops_the_oldest() -> None:
    token = locked()
    for number in range(modifiers.MAX_ERRORS + 5):
        modifiers.set_error(token, number)
    messages = [entry["message"] for entry in token["error"]]
    assert messages == [str(number) for number in range(5, modifiers.MAX_ERRORS + 5)]


def test_messages_and_tracebacks_are_limited() -> None:
    token = modifiers.set_error(locked(), "begin" + "m" * 1_000_000, failure("x" * 1_000_000 + "end"))
    (entry,) = token["error"]
    assert len(entry["message"]) == modifiers.MAX_MESSAGE
    assert entry["message"].startswith("begin")
    assert len(entry["exception"]) == modifiers.MAX_TRACEBACK
    assert entry["exception"].endswith("xend\n")


def test_the_list_of_attempts_is_limited_and_drops_the_oldest() -> None:
    token = locked()
    for number in range(modifiers.MAX_ATTEMPTS + 5):
        modifiers.lock(token, f"pilot {number}")
        modifiers.end_attempt(token, "failed")
    assert [attempt["pilot"] for attempt in token["attempts"]] == [
        f"pilot {number}" for number in range(5, modifiers.MAX_ATTEMPTS + 5)
    ]


# --- claims and attempts


def test_an_attempt_says_who_when_where_and_how_it_ended() -> None:
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


def test_an_attempt_says_why_it_has_ended_and_what_it_has_taken() -> None:
    token = locked()
    measures = Measures(1.23456, 0.98765, 10.04, 2, "image 7")
    modifiers.end_attempt(token, "failed", f"exit 1: no\n{'x' * 300}", measures)
    (attempt,) = token["attempts"]
    assert attempt["reason"].startswith("exit 1: no xxx")
    assert len(attempt["reason"]) == 200
    assert attempt["group"] == group_of(attempt["reason"])
    taken = {"seconds": 1.235, "cpu_seconds": 0.988, "max_memory_mb": 10.0, "cores": 2, "software": "image 7"}
    assert {**attempt, **taken} == attempt
    assert Measures.of(attempt) == Measures(**taken)  # type: ignore[arg-type]


def test_what_is_unknown_of_an_attempt_is_left_out() -> None:
    token = locked()
    modifiers.end_attempt(token, "failed", "", Measures(cores=1))
    (attempt,) = token["attempts"]
    assert list(attempt)[8:] == ["cores"]
    assert Measures.of("scribble") == Measures.of({}) == Measures()


@pytest.mark.parametrize("outcome", ["stopped", "lost", "taken away", "left open"])
def test_only_a_failure_has_a_group(outcome: str) -> None:
    token = modifiers.end_attempt(locked(), outcome, "because")
    assert (token["attempts"][0]["reason"], "group" in token["attempts"][0]) == ("because", False)


def test_a_token_that_loses_its_pilot_too_often_says_so_in_its_last_attempt() -> None:
    token = locked()
    for _ in range(2):
        modifiers.lose(token, 1, 600)
    first, last = token["attempts"]
    assert (first["reason"], "group" in first) == ("lost: pilot silent for 600 s", False)
    assert last["reason"] == "the token has lost its pilot 2 times: it may be what kills them"
    assert last["group"] == group_of(last["reason"])
    assert [entry["message"] for entry in token["error"]] == [last["reason"]]


def test_a_token_that_stops_its_pilots_says_so_in_its_last_attempt() -> None:
    token = make_token()
    for pilot in "abc":
        modifiers.lock(token, pilot)
        modifiers.stop(token, 1, reason="stopped: SIGTERM", measures=Measures(0.5))
    reasons = [attempt["reason"] for attempt in token["attempts"]]
    assert reasons[:2] == ["stopped: SIGTERM"] * 2
    assert reasons[2] == "pilots were stopped 2 times as soon as they had begun with the token: it may be why"
    assert [("group" in attempt, attempt["seconds"]) for attempt in token["attempts"]] == [
        (False, 0.5),
        (False, 0.5),
        (True, 0.5),
    ]
    assert [entry["message"] for entry in token["error"]] == reasons[2:]


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
    assert not modifiers.is_same_lock({**newer, "lock": 0}, mine)  # reset by hand
    assert not modifiers.is_same_lock({**newer, "lock": 5, "hostname": "old pilot"}, mine)  # which keeps our claim


def test_a_lock_of_an_older_release_is_recognised_by_time_and_host() -> None:
    mine = make_token(lock=5, hostname="a")
    assert modifiers.is_same_lock({**mine, "cores": 5}, mine)
    assert not modifiers.is_same_lock({**mine, "lock": 6}, mine)
    assert not modifiers.is_same_lock({**mine, "hostname": "b"}, mine)
    assert not modifiers.is_same_lock(locked(), mine)


@pytest.mark.parametrize("claim", [None, "x", 5, []])
def test_an_invalid_claim_counts_as_no_claim(claim: Any) -> None:
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
def test_a_nested_modifier_changes_only_its_token_and_in_the_same_way(
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
def test_a_ref_that_leads_nowhere_raises_key_error(ref: Any) -> None:
    with pytest.raises(KeyError):
        NestedTokenModifier().lock(ref, record())


def test_a_ref_with_only_the_id_leads_to_the_document() -> None:
    document = record()
    assert NestedTokenModifier().get_token(["run_1"], document) is document


# --- the classes


def test_the_base_class_names_the_method_that_is_missing() -> None:
    modifier = TokenModifier()
    for method in (*METHODS, "add_output"):
        with pytest.raises(NotImplementedError, match=method):
            getattr(modifier, method)({})


def test_the_timeout_is_a_day() -> None:
    assert TokenModifier().timeout == BasicTokenModifier().timeout == NestedTokenModifier().timeout == 86400
    assert TokenModifier(5).timeout == NestedTokenModifier(timeout=5).timeout == 5
