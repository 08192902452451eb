"""What a document can hold, and what becomes of the rest."""

from __future__ import annotations

import array
import dataclasses
import datetime
import enum
import json
import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy
import pytest

from picas import Document
from picas.tokens.conversions import MAX_ITEMS
from picas.tokens.storable import MAX_DEPTH, describe, is_too_deep, make_storable


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


class Colour(enum.Enum):
    RED = "red"
    DAY = datetime.date(2024, 2, 29)


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: Any
    name: str = "p"


class Unreadable(Mapping):
    def __getitem__(self, name):
        raise RuntimeError("the file is gone")

    def __iter__(self):
        return iter(["a"])

    def __len__(self):
        return 1

    def __repr__(self):
        return "<Unreadable>"


DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (numpy.int64(3), 3),
        (numpy.uint8(3), 3),
        (numpy.float32(0.5), 0.5),
        (numpy.float64(0.5), 0.5),
        (numpy.float16(0.5), 0.5),
        (numpy.longdouble(0.5), 0.5),
        (numpy.bool_(True), True),
        (numpy.str_("x"), "x"),
        (numpy.arange(3), [0, 1, 2]),
        (numpy.array(7), 7),
        (numpy.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
        (numpy.array([0.5], dtype=numpy.longdouble), [0.5]),
        (numpy.array(["a", None, DAY], dtype=object), ["a", None, "2024-02-29"]),
        (numpy.ma.masked_array([1, 2], mask=[False, True]), [1, None]),
        (numpy.datetime64("2024-02-29"), "2024-02-29"),
        (numpy.array(["2024-02-29T12:30:00.123456789"], dtype="M8[ns]"), ["2024-02-29T12:30:00.123456789"]),
        (numpy.timedelta64(1500, "ms"), 1.5),
        (numpy.array([1], dtype="m8[ns]"), [1e-9]),
        (array.array("d", [1, 2.5]), [1.0, 2.5]),
        (DAY, "2024-02-29"),
        (NOON, "2024-02-29T12:30:00+00:00"),
        (NOON.timetz(), "12:30:00+00:00"),
        (datetime.timedelta(minutes=1), 60.0),
        (Path("a/b"), "a/b"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset("ba"), ["a", "b"]),
        ({"b": 1, "a": 2}.keys(), ["b", "a"]),
        ({"b": {1}}.values(), [[1]]),
        ({"b": 1}.items(), [["b", 1]]),
        (deque([1, DAY]), [1, "2024-02-29"]),
        (range(3), [0, 1, 2]),
        (Decimal("0.10"), "0.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Colour.DAY, "2024-02-29"),
        (Level.HIGH, 3),
        (Point(numpy.int8(1)), {"x": 1, "name": "p"}),
        (MappingProxyType({"a": {1}}), {"a": [1]}),
        (OrderedDict(a=Path("x")), {"a": "x"}),
        (Document({"a": {1}}), {"a": [1]}),
        ((1, {2}), [1, [2]]),
    ],
    ids=lambda value: type(value).__name__,  # a repr shows the order of a set, which changes from run to run
)
def test_what_json_has_something_for_is_converted_without_notice(value: Any, stored: Any) -> None:
    for content, expected in ({"a": value}, {"a": stored}), ({"a": {"b": [value]}}, {"a": {"b": [stored]}}):
        assert make_storable(content) == []
        assert json.loads(json.dumps(content)) == expected


def test_sets_without_an_order_are_stored_too() -> None:
    content = {"a": {1, "x", None}}
    assert make_storable(content) == []
    assert sorted(content["a"], key=str) == [1, None, "x"]


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        (numpy.int64(3), "3"),
        (numpy.float32(0.5), "0.5"),
        (numpy.bool_(True), "true"),
        (DAY, "2024-02-29"),
        (Path("p/q"), "p/q"),
        (Colour.RED, "red"),
        (Colour.DAY, "2024-02-29"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
    ids=repr,
)
def test_names_become_text(name: Any, stored: str) -> None:
    content = {"a": {name: {name: 1}}, name: 2}
    assert make_storable(content) == []
    assert content == {"a": {stored: {stored: 1}}, stored: 2}


def test_names_that_become_the_same_stay_apart() -> None:
    content = {"a": {"3": 1, numpy.int64(3): 2}}
    assert make_storable(content) == ["a.3"]
    assert content == {"a": {"3": 1, "3_": 2}}


@pytest.mark.parametrize(
    ("value", "path", "stored"),
    [
        (b"x", "odd", "b'x'"),
        (math.inf, "odd", None),
        ([1, float("nan")], "odd[1]", [1, None]),
        (numpy.float32("nan"), "odd", None),
        (numpy.array([[1.0, 2.0], [math.nan, 4.0]]), "odd[1][0]", [[1.0, 2.0], [None, 4.0]]),
        ({"a": numpy.array([b"x"]), "b": numpy.int64(1)}, "odd.a[0]", {"a": ["b'x'"], "b": 1}),
        (numpy.complex64(1j), "odd", "1j"),
        ({"a": {b"x"}}, "odd.a[0]", {"a": ["b'x'"]}),
        (Point(b"x"), "odd.x", {"x": "b'x'", "name": "p"}),
        ([Unreadable()], "odd[0]", ["<Unreadable>"]),
        (range(10**12), "odd", "range(0, 1000000000000)"),
        (range(10**30), "odd", f"range(0, {10**30})"),
        ({"a": {math.nan: 1}}, "odd.a.nan", {"a": {"nan": 1}}),
        ({"a": [{"b": 1, "c": b"x"}]}, "odd.a[0].c", {"a": [{"b": 1, "c": "b'x'"}]}),
        ({"a": {(1,): 2}}, "odd.a.(1,)", {"a": {"(1,)": 2}}),
        ({"\ud800": 1, "\\ud800": 2}, "odd.\\ud800", {"\\ud800_": 1, "\\ud800": 2}),
        ("\ud800", "odd", "'\\ud800'"),
        (10**5000, "odd", "<int: ValueError>"),
        ([10**400], "odd[0]", [str(10**400)]),
    ],
    ids=lambda value: describe(value)[:20],
)
def test_only_the_leaf_that_can_not_be_stored_is_replaced(value: Any, path: str, stored: Any) -> None:
    content = {"_id": "a", "odd": value, "good": [1, "x", None]}
    assert make_storable(content) == [path]
    assert content == {"_id": "a", "odd": stored, "good": [1, "x", None]}
    assert list(content) == ["_id", "odd", "good"]
    assert make_storable(content) == []


def test_what_is_endless_or_huge_is_not_read() -> None:
    generator = (number for number in range(3))
    zeros = numpy.broadcast_to(numpy.int8(0), (MAX_ITEMS + 1,))
    content = {"generator": generator, "map": map(str, [1]), "zeros": zeros}
    assert make_storable(content) == ["generator", "map", "zeros"]
    assert content["generator"].startswith("<generator object")
    assert list(generator) == [0, 1, 2]


def test_what_code_still_uses_is_not_changed() -> None:
    inner = {"when": DAY}
    content = {"list": [inner, numpy.int64(1)]}
    assert make_storable(content) == []
    assert inner == {"when": DAY}


@pytest.mark.parametrize(
    "field", [{"_deleted": True}, {"_revisions": {"start": 1}}, {"_id": "a"}, {"_attachments": {}}]
)
def test_the_fields_of_couchdb_stay(field: dict[str, Any]) -> None:
    assert make_storable(dict(field)) == []


@pytest.mark.parametrize(
    "value", [10**308, -(10**308), True, {"1": 2, "null": 3}, (1, 2), 1e308, nested(MAX_DEPTH - 1)]
)
def test_what_can_be_stored_stays(value: Any) -> None:
    content = {"a": value}
    assert make_storable(content) == []
    assert content["a"] is value


def test_what_is_nested_too_deeply_is_described_at_the_last_level() -> None:
    content = {"deep": nested(MAX_DEPTH), "wide": [[]] * 1000}
    assert is_too_deep(content)
    (path,) = make_storable(content)
    assert path == "deep" + "[0]" * (MAX_DEPTH - 1)
    assert not is_too_deep(content)
    for _ in range(MAX_DEPTH - 1):
        content = content["deep"] if isinstance(content, dict) else content[0]
    assert content == ["[]"]


def test_the_description_of_a_recursive_or_huge_value_is_short() -> None:
    endless: list[Any] = []
    endless.append(endless)
    content = {"endless": endless, "huge": b"x" * 1_000_000}
    assert make_storable(content) == ["endless[0]", "huge"]
    assert content["endless"] == ["[[...]]"]
    assert len(content["huge"]) == 10_000


@pytest.mark.parametrize(("name", "new"), [("_mine", "mine"), ("_", "field"), ("\ud800", "\\ud800"), ("_x", "x_")])
def test_a_field_whose_name_is_refused_gets_another(name: str, new: str) -> None:
    content = {"_id": "a", "x": 1, name: 2}
    assert len(make_storable(content)) == 1
    assert content == {"_id": "a", "x": 1, new: 2}


@pytest.mark.parametrize(
    "entry",
    [
        {"content_type": "text/plain", "data": "\ud800"},
        {"content_type": "text/plain", "data": b"x"},
        {"content_type": {1}, "data": "eA=="},
        {"content_type": 7, "data": "eA=="},
        {"data": "eA="},
        {"data": "e-=="},
        {"data": "eA==", "more": {1}},
        {"data": "eA==", "follows": True},
        {"stub": 1},
        {},
        "text",
        {1},
        None,
    ],
)
def test_an_invalid_attachment_is_left_out_and_the_others_stay(entry: Any) -> None:
    document = Document({"_id": "a"})
    document.put_attachment("log", "x")
    document["_attachments"].update({"old": {"stub": True}, "lines": {"data": "eA==\n"}})
    assert make_storable(document.value) == []
    document["_attachments"]["bad"] = entry
    (fault,) = make_storable(document.value)
    assert fault == f"_attachments.bad: {describe(entry)}"
    assert list(document["_attachments"]) == ["log", "old", "lines"]
    assert make_storable(document.value) == []


@pytest.mark.parametrize(("name", "new"), [("_x", "x_"), ("__", "attachment"), ("\ud800", "\\ud800")])
def test_an_attachment_whose_name_is_refused_gets_another(name: str, new: str) -> None:
    document = Document({"_id": "a"})
    document.put_attachment("x", "x")
    document.put_attachment(name, "y")
    assert len(make_storable(document.value)) == 1
    assert document.get_attachment(new)["data"] == b"y"


def test_attachments_that_are_none_are_left_out() -> None:
    for entries in ("none", None, [1]):
        content = {"_id": "a", "_attachments": entries}
        assert make_storable(content) == [f"_attachments: {entries!r}"]
        assert content == {"_id": "a"}


@pytest.mark.parametrize(
    ("value", "stored", "lost"),
    [
        ({1: "one", "1": "uno"}, {"1_": "one", "1": "uno"}, ["output.1"]),
        ({None: 0, "null": 1}, {"null_": 0, "null": 1}, ["output.null"]),
        ({1: "one", 2.5: "more", False: "no"}, {"1": "one", "2.5": "more", "false": "no"}, []),
        ({3: {4: 5}}, {"3": {"4": 5}}, []),
    ],
    ids=str,
)
def test_names_that_become_the_same_text_lose_no_value(value, stored, lost):
    content = {"output": value}
    assert make_storable(content) == lost
    assert content == {"output": stored}


def test_what_is_not_a_time_becomes_null():
    times = numpy.array(["2024-01-01T12:30", "NaT"], dtype="datetime64[s]")
    content = {"output": {"all": times, "one": times[1]}}
    assert make_storable(content) == ["output.all[1]", "output.one"]
    assert content == {"output": {"all": ["2024-01-01T12:30:00", None], "one": None}}
