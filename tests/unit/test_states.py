"""The states of a token, in Python and as JavaScript."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy
import pytest
from support.tokens import odd_tokens

from picas.tokens.states import STATES, has_failed, is_in_state, javascript_condition, parse_int, state_of


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
def test_the_state_of_a_token(fields: dict[str, Any], state: str | None) -> None:
    assert state_of(fields) == state


def test_a_token_is_in_at_most_one_state() -> None:
    for content in odd_tokens():
        assert sum(is_in_state(content, state) for state in STATES) <= 1, content


def test_the_conditions_in_javascript() -> None:
    assert javascript_condition("todo") == "doc.lock == 0 && doc.done == 0"
    assert javascript_condition("locked") == "doc.lock > 0 && doc.done == 0"
    assert javascript_condition("done") == "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code, 10) == 0"
    assert javascript_condition("error") == "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code, 10) != 0"


@pytest.mark.parametrize("exit_code", [0, "0", 0.0, "0 files"])
def test_exit_code_zero_is_not_a_failure(exit_code: Any) -> None:
    assert not has_failed({"exit_code": exit_code})


@pytest.mark.parametrize("zero", [numpy.int64(0), numpy.float32(0), numpy.array(0), Decimal(0)], ids=repr)
def test_numbers_of_numpy_count_as_what_is_stored_of_them(zero: Any) -> None:
    assert state_of({"lock": 5 + zero, "done": 7 + zero, "exit_code": zero}) == "done"
    assert state_of({"lock": 5 + zero, "done": zero}) == "locked"
    assert has_failed({"exit_code": 1 + zero})


@pytest.mark.parametrize(
    "fields", [{"exit_code": 1}, {"exit_code": ""}, {"exit_code": None}, {}, {"exit_code": "killed"}]
)
def test_any_other_exit_code_is_a_failure(fields: dict[str, Any]) -> None:
    assert has_failed(fields)


@pytest.mark.parametrize(
    ("value", "number"),
    [("12 apples", 12), ("-7", -7), (3.99, 3), (-3.99, -3), (1e-7, 1), (2.5e22, 2), ("9" * 400, math.inf)],
)
def test_parse_int_returns_the_number_that_javascript_does(value: Any, number: float) -> None:
    assert parse_int(value) == number


@pytest.mark.parametrize("value", [True, False, None, "", "x1", "\u0663", math.inf, math.nan, 10**400, [], [0], {}])
def test_parse_int_returns_nan_where_javascript_does(value: Any) -> None:
    assert math.isnan(parse_int(value))
