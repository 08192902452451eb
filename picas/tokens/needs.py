"""Whether the fields with which a token says what it needs are valid, and how they are stored."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from ..util import one_line
from .resources import FIELDS, megabytes, needs_of, positive, walltime_of

NEED_FIELDS = (*FIELDS, "walltime")
"""The fields of a token that say what it needs."""

_EXAMPLES = {
    "cores": "a number such as 4",
    "memory": "megabytes such as 8000, or with a unit such as 8G",
    "gpus": "a number such as 1 (a model is a tag)",
    "tags": "words such as avx2,fast",
    "walltime": "seconds such as 3600, or a time such as 90m, 2h, 01:30:00 or 1-12:00:00",
}
_MAX_SHOWN = 40  # characters of an invalid value


def fault_in(fields: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first invalid need among a token's fields, on one line; None if all are valid.

    A field that is missing, null, empty or 0 says nothing, and is valid.
    """
    for name in NEED_FIELDS:
        if name in fields and not _is_valid(name, fields[name]):
            return f"{name} can't be {_shown(fields[name])}: write {_EXAMPLES[name]}"
    return None


def as_stored(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with valid needs in the form that pilots of all releases understand.

    A walltime becomes seconds, and a text with several tags becomes a list.
    """
    stored = dict(fields)
    if isinstance(stored.get("walltime"), str):
        seconds = walltime_of(stored)
        stored["walltime"] = int(seconds) if seconds is not None and seconds.is_integer() else seconds
    if isinstance(stored.get("tags"), str) and "," in stored["tags"]:
        stored["tags"] = sorted(needs_of(stored).tags)
    return stored


def _shown(value: Any) -> str:
    is_nested = isinstance(value, (list, dict))  # perhaps too deeply for JSON
    text = one_line(reprlib.repr(value) if is_nested else json.dumps(value, ensure_ascii=False, default=repr))
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _is_valid(name: str, value: Any) -> bool:
    if value is None or value is False or (isinstance(value, (int, float, str, list)) and _is_nothing(value)):
        return True
    if name == "tags":
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(tag, str) for tag in value))
    if name == "walltime":
        return walltime_of({name: value}) is not None
    return (megabytes(value) if name == "memory" else positive(value)) is not None


def _is_nothing(value: float | str | list[Any]) -> bool:
    return not value or (isinstance(value, str) and value.strip() in ("", "0"))
