"""A token's state is the same thing in Python and in the views."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest

from picas import CouchDB
from picas.tokens.states import STATES, has_failed, is_in_state, javascript_condition, parse_int, state_of
from picas.views import count_states

MISSING = object()
"""No such field."""

MARKS: list[Any] = [0, 1, 99, -1, 0.5, -0.0, True, False, None, MISSING, "", " ", "0", "1", "-1", "abc", "nan", "inf"]
MARKS += [
    "Infinity",
    "-Infinity",
    "0x0",
    "0x1F",
    "-0x1",
    "0b1",
    "1_000",
    "1e3",
    ".5",
    "5.",
    "1.",
    "\u0661",
    "\u00a00",
    "\u001c0",
]
"""What people and scripts have written into `lock` and `done`."""

EXIT_CODES: list[Any] = [0, 1, -1, 137, 0.0, 0.9, -0.5, 1e-7, 1e21, 1e300, 10**30, True, False, None, MISSING]
EXIT_CODES += ["", "0", "1", "00", "+0", "-0", " 0", "\ufeff0", "\u001c0", "\u00850", "0.9", "0x1", "0 errors", "1 0"]
EXIT_CODES += ["abc", "\u0660", "NaN", {}, {"a": 0}, "1" * 5000, "0" * 5000]
"""What people and scripts have written into `exit_code`."""


def token(number: int, **fields: Any) -> dict[str, Any]:
    content = {"_id": f"t{number:05}", "type": "token", **fields}
    return {name: value for name, value in content.items() if value is not MISSING}


def odd_tokens() -> list[dict[str, Any]]:
    marks = list(product(MARKS, MARKS))
    tokens = [token(number, lock=lock, done=done, exit_code="") for number, (lock, done) in enumerate(marks)]
    tokens += [token(len(tokens) + number, lock=1, done=1, exit_code=code) for number, code in enumerate(EXIT_CODES)]
    tokens += [{"_id": "z0", "type": "token"}, token(99998, lock=5, done="7", exit_code="0")]
    return tokens


def test_every_view_shows_the_tokens_that_python_puts_in_that_state(client: CouchDB) -> None:
    tokens = odd_tokens()
    assert all(client.save_documents(tokens))
    for state in STATES:
        in_view = {row.id for row in client.view(state).rows}
        in_python = {content["_id"] for content in tokens if is_in_state(content, state)}
        assert in_view == in_python, state
        assert in_python, f"the table has no token in the state {state}"


def test_the_overview_counts_what_python_counts(client: CouchDB) -> None:
    tokens = odd_tokens()
    assert all(client.save_documents(tokens))
    states = [state_of(content) for content in tokens]
    assert count_states(client) == {state: states.count(state) for state in STATES}


def test_a_document_of_another_type_is_in_no_view(client: CouchDB) -> None:
    client.save({"_id": "task", "type": "task", "lock": 0, "done": 0})
    client.save({"_id": "bare", "lock": 0, "done": 0})
    assert sum(count_states(client).values()) == 0


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"lock": 0, "done": 0}, "todo"),
        ({"lock": 1692692693, "done": 0}, "locked"),
        ({"lock": 1692692693, "done": 1692692700, "exit_code": 0}, "done"),
        ({"lock": 1692692693, "done": 1692692700, "exit_code": 1}, "error"),
        ({"lock": 1692692693, "done": 1692692700, "exit_code": ""}, "error"),
        ({"lock": 1692692693, "done": 1692692700}, "error"),
        ({"lock": 99, "done": 99, "exit_code": 99}, "error"),
        ({"lock": 0, "done": 1692692700}, None),
        ({}, None),
    ],
)
def test_the_life_of_a_token_in_states(fields: dict[str, Any], state: str | None) -> None:
    assert state_of(fields) == state


def test_a_token_is_in_one_state_at_most() -> None:
    for content in odd_tokens():
        assert sum(is_in_state(content, state) for state in STATES) <= 1, content


def test_the_conditions_of_the_views_are_those_of_the_design() -> None:
    assert javascript_condition("todo") == "doc.lock == 0 && doc.done == 0"
    assert javascript_condition("locked") == "doc.lock > 0 && doc.done == 0"
    assert javascript_condition("done") == "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code, 10) == 0"
    assert javascript_condition("error") == "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code, 10) != 0"


@pytest.mark.parametrize("exit_code", [0, "0", 0.0, "0 files"])
def test_an_exit_code_of_zero_is_no_failure(exit_code: Any) -> None:
    assert not has_failed({"exit_code": exit_code})


@pytest.mark.parametrize(
    "fields", [{"exit_code": 1}, {"exit_code": ""}, {"exit_code": None}, {}, {"exit_code": "killed"}]
)
def test_any_other_exit_code_is_a_failure(fields: dict[str, Any]) -> None:
    assert has_failed(fields)


@pytest.mark.parametrize(
    ("value", "number"),
    [("12 apples", 12), ("-7", -7), (3.99, 3), (-3.99, -3), (1e-7, 1), (2.5e22, 2), ("9" * 400, math.inf)],
)
def test_parse_int_reads_as_javascript_does(value: Any, number: float) -> None:
    assert parse_int(value) == number


@pytest.mark.parametrize("value", [True, False, None, "", "x1", "\u0663", math.inf, math.nan, 10**400, [], [0], {}])
def test_parse_int_finds_no_number_where_javascript_finds_none(value: Any) -> None:
    assert math.isnan(parse_int(value))
