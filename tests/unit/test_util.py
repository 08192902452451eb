"""The small helpers that all floors share."""

import pytest

from picas import util


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), 10**400])
def test_a_number_is_a_number(value):
    assert util.is_number(value)


@pytest.mark.parametrize("value", [True, False, None, "1", [1], {}])
def test_nothing_else_is_a_number(value):
    assert not util.is_number(value)


def test_a_field_that_is_no_list_counts_as_an_empty_one():
    fields = {"list": [1, 2], "text": "ab", "none": None}
    assert util.list_in(fields, "list") == [1, 2]
    assert [util.list_in(fields, name) for name in ("text", "none", "absent")] == [[], [], []]


@pytest.mark.parametrize(
    ("detail", "line"),
    [
        ("one", "one"),
        ("two\n  lines\t", "two lines"),
        (("not_found", "missing"), "not_found: missing"),
        ((500, ("error", None), "a\nreason"), "500: error: a reason"),
        (ValueError("of an\nerror"), "of an error"),
    ],
)
def test_a_message_fits_on_one_line(detail, line):
    assert util.one_line(detail) == line


def test_a_time_has_come_once_its_seconds_have_passed():
    assert util.After(0)()
    assert not util.After(60)()
