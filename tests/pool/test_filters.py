"""What people say about tokens: fields, conditions and filters."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.tokens import ended_token, make_token

from picas import Task
from picas.exceptions import UsageError
from picas.pool import Filter, make_filter
from picas.pool.fields import MISSING, parse_field, text_of
from picas.pool.filters import parse_condition

FAILED = ended_token(
    7, "failed", reason="exit 1: boom", group="r3f9a", seconds=30, input={"name": "fit", "alpha": 0.5}, odd=None
)
TOKEN: dict[str, Any] = {
    "number": 5,
    "text": "5",
    "flag": True,
    "nothing": None,
    "list": [1, {"a": "b"}],
    "a.b": "whole",
}


def value(name: str, token: Any = FAILED) -> Any:
    return parse_field(name).of(token)


class TestFields:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("exit_code", 1),
            ("input.name", "fit"),
            ("input.alpha", 0.5),
            ("attempts.-1.outcome", "failed"),
            ("attempts.0.host", "host"),
            ("id", "token_7"),
            ("_id", "token_7"),
            ("state", "error"),
            ("host", "host"),
            ("pilot", "picas_pilot_host_1_abcdef01"),
            ("start", 1_700_000_000),
            ("end", 1_700_000_030),
            ("since", 1_700_000_030),
            ("seconds", 30),
            ("cpu_seconds", 15),
            ("max_memory_mb", 12.0),
            ("attempts", 1),
            ("reason", "exit 1: boom"),
            ("group", "r3f9a"),
            ("odd", None),
        ],
    )
    def test_of_a_token_that_failed(self, name, expected):
        assert value(name) == expected

    @pytest.mark.parametrize(
        "name",
        [
            "nope",
            "input.nope",
            "input.name.x",
            "attempts.1.host",
            "attempts.-2",
            "attempts.x",
            "exit_code.0",
            "attempts." + "9" * 50,
        ],
    )
    def test_that_a_token_does_not_have(self, name):
        assert value(name) is MISSING

    def test_a_name_with_a_dot_can_be_a_fields_own(self):
        assert value("a.b", TOKEN) == "whole"

    def test_a_dot_before_the_name_means_the_tokens_own_field(self):
        assert value(".attempts")[0]["outcome"] == "failed"
        assert value(".state") is MISSING
        assert value(".state", {**FAILED, "state": "mine"}) == "mine"
        assert value("state", {**FAILED, "state": "mine"}) == "error"

    def test_of_a_locked_token_are_those_of_the_attempt_that_goes_on(self):
        token = Task({**FAILED, "lock": 0, "done": 0}).lock("pilot_x")
        assert value("state", token) == "locked"
        assert value("pilot", token) == "pilot_x"
        assert value("start", token) == value("since", token) == token["lock"]
        assert [value(name, token) for name in ("end", "seconds", "cpu_seconds", "max_memory_mb")] == [MISSING] * 4

    def test_of_a_token_that_was_never_locked(self):
        names = ("since", "start", "end", "seconds", "host", "pilot", "reason", "group")
        assert [value(name, make_token(0)) for name in names] == [MISSING] * len(names)
        assert value("attempts", make_token(0)) == 0

    def test_of_a_token_of_an_older_release(self):
        error = [{"time": 1_600_000_000, "message": "bad"}]
        token = make_token(
            0, lock=99, done=99, exit_code=99, error=error, attempts=[{"start": 1.6e9, "end": 1.6e9 + 9}]
        )
        assert value("reason", token) == "bad"
        assert value("seconds", token) == 9

    def test_an_earlier_error_is_no_reason_once_the_token_is_done(self):
        token = {**ended_token(0, "done"), "error": [{"time": 1, "message": "earlier"}]}
        assert value("reason", token) is MISSING

    @pytest.mark.parametrize(
        "attempts", [None, "x", [None], [[]], [{"host": 5, "pilot": [], "group": 3, "seconds": "x", "end": {}}]]
    )
    def test_odd_attempts_say_nothing(self, attempts):
        token = {**FAILED, "attempts": attempts, "hostname": ""}
        names = ("host", "pilot", "group", "seconds", "cpu_seconds", "end")
        assert [value(name, token) for name in names] == [MISSING] * len(names)

    @pytest.mark.parametrize("odd", [1e300, 10**400, 1_700_000_000_000, -1, 99, True, "1700000000"])
    def test_a_number_that_is_no_time_is_not_shown_as_one(self, odd):
        attempt = {"start": odd, "end": odd}
        tokens = [make_token(0, lock=odd), make_token(0, lock=1, done=1, exit_code=1, attempts=[attempt])]
        assert [value(name, token) for token in tokens for name in ("since", "start", "end")] == [MISSING] * 6

    @pytest.mark.parametrize("name", ["", " ", ".", "a.", "a..b", "a b", "a=b", "..a"])
    def test_an_invalid_name_is_refused(self, name):
        with pytest.raises(UsageError, match="is not a field like exit_code"):
            parse_field(name)

    def test_as_text(self):
        values = [MISSING, None, "a\nb", 5, 0.5, True, {"a": ["\u00fc"]}]
        assert [text_of(each) for each in values] == ["", "", "a\nb", "5", "0.5", "true", '{"a": ["\u00fc"]}']


class TestConditions:
    @pytest.mark.parametrize(
        "text",
        [
            "number = 5",
            "number == 5.0",
            "number=5",
            "number != 6",
            "number < 5.5",
            "number <= 5",
            "number > -1e3",
            "number >= 5",
            "text = 5",
            'text = "5"',
            "text ~ ^[0-9]$",
            "text > 4x",
            "flag = true",
            "flag != 1",
            "nothing = null",
            "nothing exists",
            "list.0 = 1",
            'list.1 = {"a": "b"}',
            "list.1.a = b",
            "nope missing",
            "nope.x missing",
            "  number   =  5  ",
            "a.b = whole",
        ],
    )
    def test_holds(self, text):
        assert parse_condition(text).holds(TOKEN)

    @pytest.mark.parametrize(
        "text",
        [
            "number = 6",
            "number != 5",
            'number = "5"',
            "number < 5",
            "number < x",
            "number ~ 5",
            "text < 6",
            "text >= 0",
            "text != 5",
            "flag = 1",
            "flag > 0",
            "nothing < 1",
            "list > 0",
            "nope = 5",
            "nope != 5",
            "nope ~ .*",
            "nope exists",
            "nothing missing",
        ],
    )
    def test_does_not_hold(self, text):
        """Values of unlike types are neither smaller nor larger, and a field that is missing is like nothing."""
        assert not parse_condition(text).holds(TOKEN)

    @pytest.mark.parametrize("text", ["number = NaN", "number = " + "[" * 100_000, "number = " + "9" * 5000])
    def test_a_value_that_json_can_not_hold_is_a_text(self, text):
        assert not parse_condition(text).holds(TOKEN)

    def test_a_value_may_hold_anything(self):
        assert parse_condition("cmd = a = b\n~").holds({"cmd": "a = b\n~"})
        assert parse_condition("cmd =").holds({"cmd": ""})

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is not a condition like"),
            ("exit_code", "is not a condition like"),
            ("a b = 3", "is not a condition like"),
            ("= 3", "is not a field like"),
            ("a..b = 3", "is not a field like"),
            ("a =~ 3", "no operator: there are = != < <= > >= ~ and exists missing"),
            ("a <> 3", "no operator"),
            ("a ~ (", "is not a regular expression"),
        ],
    )
    def test_an_invalid_one_is_refused_in_one_line(self, text, message):
        with pytest.raises(UsageError, match=message) as refused:
            parse_condition(text)
        assert "\n" not in str(refused.value)


class TestFilters:
    def test_an_empty_one_accepts_everything(self):
        assert not make_filter()
        assert make_filter() == Filter()
        assert Filter().accepts({})

    def test_all_parts_have_to_be_met(self):
        assert make_filter(["exit_code = 1", "input.alpha < 1"], reason="r3f9a", match="bo+m").accepts(FAILED)
        assert not make_filter(["exit_code = 1", "input.alpha > 1"]).accepts(FAILED)
        assert not make_filter(reason="r3f9b").accepts(FAILED)
        assert not make_filter(match="^boom").accepts(FAILED)
        assert make_filter(["exit_code = 1"])

    def test_the_time_is_that_of_the_lock_or_of_the_last_end(self):
        now = int(time.time())
        tokens = [make_token(0, lock=now - 100), ended_token(1, start=now - 500, seconds=400), make_token(2)]
        assert [make_filter(since=60).accepts(token) for token in tokens] == [False, False, False]
        assert [make_filter(since=200).accepts(token) for token in tokens] == [True, True, False]
        assert [make_filter(older_than=60).accepts(token) for token in tokens] == [True, True, False]
        assert [make_filter(older_than=200).accepts(token) for token in tokens] == [False, False, False]

    @pytest.mark.parametrize("group", ["", "3f9a", "r3f9", "r3F9A", "r3f9ab", "out of memory"])
    def test_an_invalid_group_is_refused(self, group):
        with pytest.raises(UsageError, match="is not a group of failures like r3f9a"):
            make_filter(reason=group)

    @pytest.mark.parametrize("pattern", ["(", "a{99999999999999}", "[", "*"])
    def test_an_invalid_expression_is_refused(self, pattern):
        with pytest.raises(UsageError, match="is not a regular expression"):
            make_filter(match=pattern)
