"""What a document can hold, and what becomes of the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest

from picas import Document
from picas.tokens.storable import MAX_DEPTH, describe, is_too_deep, make_storable


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path", "stored"),
    [
        (b"x", "odd", "b'x'"),
        (math.inf, "odd", "inf"),
        ([1, float("nan")], "odd[1]", [1, "nan"]),
        ((1, {2}), "odd[1]", [1, "{2}"]),
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


@pytest.mark.parametrize(
    "field", [{"_deleted": True}, {"_revisions": {"start": 1}}, {"_id": "a"}, {"_attachments": {}}]
)
def test_the_fields_of_couchdb_stay(field: dict[str, Any]) -> None:
    assert make_storable(dict(field)) == []


@pytest.mark.parametrize("value", [10**308, -(10**308), True, {1: 2, None: 3}, (1, 2), 1e308, nested(MAX_DEPTH - 1)])
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
    content = {"endless": endless, "huge": {"x" * 1_000_000}}
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
