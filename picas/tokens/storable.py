"""What a document can hold: all else that code has put into one is converted, or else replaced, leaf by leaf."""

from __future__ import annotations

import binascii
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .conversions import counterpart

MAX_DEPTH = 200
"""How deep lists and objects in a document may be nested. Python reads no more than about 900 levels, and CouchDB's
views break down at some ten thousand."""
MAX_DESCRIPTION = 10_000
"""Characters kept of the description of a value that a document can't hold."""
MAX_LOST = 200
"""Characters of the description of an attachment that was left out."""

MAX_NAMED = 10
"""How many of the values that can't be stored are named."""
MAX_PATH = 300
"""How many characters of each of these names are given."""

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode
_LARGEST = int(sys.float_info.max)  # CouchDB answers a larger number with "badarith", an error that seems to pass
_SPECIAL: dict[str, type] = {
    **dict.fromkeys((f"_{name}" for name in ("id", "rev", "revs_info", "local_seq", "access")), object),
    **dict.fromkeys(("_conflicts", "_deleted_conflicts"), object),
    "_attachments": dict,
    "_deleted": bool,
    "_revisions": dict,
}
"""The fields beginning with "_" that CouchDB accepts, and the types that they must have."""
_TEXT = frozenset({str})
_LEAVES = frozenset({str, float, bool, type(None)})  # nothing is nested in them, and JSON can hold the numbers


def make_storable(content: dict[str, Any]) -> list[str]:
    """Turn a document into one that the database can hold, in place; return what was lost, as paths like "a.b[0]".

    Nothing is lost where something in JSON stands for a value, see `conversions`: NumPy's numbers and arrays, dates,
    paths, sets and the like. Of the others, each by itself, NaN and the infinities become null, and all else becomes a
    description, the first 10,000 characters of its `repr`: bytes and other objects, numbers above 1.8e308, and what is
    nested more than 200 levels deep. A name that is invalid is changed, and an invalid attachment is left out.
    """
    if is_storable(content):
        return []  # the common case
    faults: list[str] = []
    attachments = content.pop("_attachments", {})
    taken = set(content)
    for name in list(content):
        value = content.pop(name)  # each is put back, so that the order stays
        if _is_refused(name, value):
            faults.append(_text(name))
            name = _unused(name.lstrip("_") or "field", taken)  # noqa: PLW2901
        elif not isinstance(name, str) or not _is_name(name):
            name = _converted_name(name, "", taken, faults)  # noqa: PLW2901
        taken.add(name)
        content[name] = _converted(value, _label(name), MAX_DEPTH - 1, faults, ())
    kept = _valid_attachments(attachments, faults)
    if kept:
        content["_attachments"] = kept
    return faults


def list_names(names: Sequence[str]) -> str:
    """Return the first names of what can't be stored, cut to a bounded length, and how many there are besides."""
    others = f" and {len(names) - MAX_NAMED} others" if len(names) > MAX_NAMED else ""
    return ", ".join(name[:MAX_PATH] for name in names[:MAX_NAMED]) + others


def is_storable(content: Mapping[str, Any]) -> bool:
    """Return whether the database can hold a document as it is."""
    return _is_storable(_without_logs(content)) and _has_valid_names(content) and _has_valid_attachments(content)


def in_json(value: Any) -> Any:
    """Return what a document holds in the place of a value."""
    return _converted(value, "", MAX_DEPTH - 1, [], ())


def is_too_deep(content: dict[str, Any]) -> bool:
    """Return whether lists and objects in a document from the database are nested too deeply for pilots."""
    return not _is_plain(content, MAX_DEPTH)


def describe(value: object) -> str:
    """Return a description of any value, which a document can hold."""
    try:
        text = repr(value)
    except Exception as error:  # code of the value itself runs, and Python refuses to show some values
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    return _text(text)[:MAX_DESCRIPTION]


# --- values


def _converted(value: Any, path: str, levels: int, faults: list[str], above: tuple[int, ...]) -> Any:
    """Return a value as a document can hold it.

    :param path: where it is
    :param levels: how deep its lists and objects may be nested
    :param faults: gets the paths of what is lost
    :param above: the identities of the values that it is in
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            faults.append(path)
            return None
        return value
    if (type(value) is int and -_LARGEST <= value <= _LARGEST) or _is_storable(value, levels):
        return value
    try:
        if levels > 0 and id(value) not in above:
            above = (*above, id(value))
            if isinstance(value, dict):
                return _converted_dict(value, path, levels, faults, above)
            if isinstance(value, (list, tuple)):
                return [
                    _converted(item, f"{path}[{number}]", levels - 1, faults, above)
                    for number, item in enumerate(value)
                ]
            return _converted(counterpart(value), path, levels - 1, faults, above)
    except Exception:  # code of the value itself runs, and the recursion limit may be lower than usual
        pass
    faults.append(path)
    return describe(value)


def _converted_dict(
    value: dict[Any, Any], path: str, levels: int, faults: list[str], above: tuple[int, ...]
) -> dict[Any, Any]:
    converted: dict[Any, Any] = {}
    taken = set(value)
    for name, content in value.items():
        if not isinstance(name, str) or not _is_name(name):
            name = _converted_name(name, f"{path}.", taken, faults)  # noqa: PLW2901
        converted[name] = _converted(content, f"{path}.{name}", levels - 1, faults, above)
    return converted


def _is_storable(value: Any, levels: int = MAX_DEPTH) -> bool:
    try:
        _encode(value).encode("utf-8")
    except Exception:  # code of the value itself may run
        return False
    return _is_plain(value, levels)


def _is_plain(value: Any, levels: int) -> bool:
    """Return whether a value that JSON can hold is not nested too deeply, and contains no number that is too large."""
    level: list[Any] = [(value,)]
    for _ in range(levels + 1):
        below: list[Any] = []
        for item in level:
            children = item
            if isinstance(item, dict):
                if not _TEXT.issuperset(map(type, item)):
                    return False  # JSON writes the names 1 and "1" alike
                children = item.values()
            for child in children:
                if type(child) in _LEAVES:
                    continue  # most are, and this is asked for each token
                if isinstance(child, (dict, list, tuple)):
                    below.append(child)
                elif isinstance(child, int) and not -_LARGEST <= child <= _LARGEST:
                    return False
        if not below:
            return True
        level = below
    return False


# --- names


def _has_valid_names(content: Mapping[str, Any]) -> bool:
    """Return whether CouchDB accepts the names of the fields; JSON can hold them."""
    special = [name for name in content if name[:1] == "_"]
    return not any(_is_refused(name, content[name]) for name in special)


def _is_refused(name: object, value: object) -> bool:
    """Return whether CouchDB keeps the name of a field for itself, and for other values."""
    return isinstance(name, str) and name[:1] == "_" and not isinstance(value, _SPECIAL.get(name, ()))


def _is_name(name: object) -> bool:
    return _is_storable({name: None})


def _converted_name(name: object, path: str, taken: set[Any], faults: list[str]) -> str:
    """Return a text for a name that JSON can't hold, and that no other name in the same object is.

    :param path: what leads to it
    :param faults: gets its path if it was changed with a loss
    """
    lost: list[str] = []
    stored = _converted(name, "", MAX_DEPTH, lost, ())
    if lost or isinstance(stored, (list, tuple, dict)):
        stored, lost = _label(name), [path]
    text = stored if isinstance(stored, str) else _encode(stored)
    if lost or text in taken:
        faults.append(f"{path}{text}")
    return _unused(text, taken)


def _text(text: str) -> str:
    """Return a text that UTF-8 can represent."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _label(name: object) -> str:
    """Return a text for a name, whatever that is."""
    return _text(name) if isinstance(name, str) else describe(name)


def _unused(name: str, taken: set[Any]) -> str:
    """Return a name, changed if others have it already, and add it to these."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


# --- attachments


def _without_logs(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what has to be tested of a document: JSON can hold the data of its attachments, unless it is no ASCII."""
    entries = content.get("_attachments")
    if not isinstance(entries, dict):
        return content
    left = dict(entries)
    for name, entry in entries.items():
        if isinstance(entry, dict) and isinstance(entry.get("data"), str) and entry["data"].isascii():
            left[name] = {**entry, "data": ""}
    return {**content, "_attachments": left}


def _has_valid_attachments(content: Mapping[str, Any]) -> bool:
    """Return whether the database accepts the attachments; JSON can hold them."""
    entries = content.get("_attachments", {})
    return (
        isinstance(entries, dict)
        and not any(name[:1] == "_" for name in entries if isinstance(name, str))
        and all(_is_attachment(entry) for entry in entries.values())
    )


def _valid_attachments(entries: Any, faults: list[str]) -> dict[str, Any]:
    """Return the attachments that the database accepts, under names that it accepts."""
    if not isinstance(entries, dict):
        faults.append(f"_attachments: {describe(entries)[:MAX_LOST]}")
        return {}
    kept, taken = {}, set(entries)
    for name, entry in entries.items():
        path = f"_attachments.{_label(name)}"
        if not _is_attachment(entry) or not _is_storable({**entry, "data": ""}):
            faults.append(f"{path}: {describe(entry)[:MAX_LOST]}")
        elif _is_attachment_name(name):
            kept[name] = entry
        else:
            faults.append(path)
            kept[_unused(_label(name).lstrip("_") or "attachment", taken)] = entry
    return kept


def _is_attachment_name(name: object) -> bool:
    return isinstance(name, str) and not name.startswith("_") and _is_name(name)


def _is_attachment(entry: object) -> bool:
    """Return whether an entry says what CouchDB needs to know of an attachment."""
    if not (isinstance(entry, dict) and isinstance(entry.get("content_type", ""), str)):
        return False
    data = entry.get("data")
    if data is None:
        return entry.get("stub") is True
    return isinstance(data, str) and _is_base64(data) and not entry.get("follows")


def _is_base64(text: str) -> bool:
    try:
        size = len(binascii.a2b_base64(text))  # skips what is not base64
    except ValueError:
        return False
    if len(text) // 4 * 3 - text[-2:].count("=") != size:
        text = "".join(text.split())  # line breaks are allowed
    return len(text) % 4 == 0 and len(text) // 4 * 3 - text[-2:].count("=") == size
