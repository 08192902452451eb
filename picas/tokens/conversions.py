"""What values that JSON does not know become in a document: NumPy's numbers and arrays, dates, paths, sets and more."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
from collections import deque
from collections.abc import Mapping, Set, ValuesView
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

MAX_ITEMS = 10_000_000
"""The most values of an array, or of what only makes up its values, such as `range`, that become a list."""


def counterpart(value: Any) -> Any:
    """Return what stands for a value in JSON. What is in a list or an object that this returns may have to be converted
    too.

    NumPy's numbers become numbers, its arrays (nested) lists; so do those of libraries that are used like it. Dates and
    times become text in the form of ISO 8601, spans of time a number of seconds. Paths, `Decimal` and `UUID` become
    text, a member of an `Enum` its value. Sets (sorted if they can be), views of a dict, `deque` and `range` become
    lists; other mappings and instances of data classes become objects. Iterators are left alone: to read one changes
    it, and it may never end.

    :raises TypeError: if nothing stands for it without loss
    :raises Exception: anything that code of the value itself raises
    """
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "tolist") and (hasattr(value, "dtype") or hasattr(value, "typecode")):
        return _from_array(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return _without_nat(value.isoformat())
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, Mapping):
        return {name: value[name] for name in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (Set, ValuesView, deque, range)) and len(value) <= MAX_ITEMS:
        return _in_order(value) if isinstance(value, (set, frozenset)) else list(value)
    raise TypeError(f"JSON has nothing for {type(value).__name__}")


def _from_array(value: Any) -> Any:
    """Return the number for a number of NumPy, and the list for an array. NumPy itself need not be installed."""
    shape = getattr(value, "shape", None)
    if (len(value) if shape is None else math.prod(shape)) > MAX_ITEMS:
        raise TypeError("the array is too large")
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind == "M":  # dates: what has nanoseconds would become a number
        value = value.to_numpy() if hasattr(value, "to_numpy") else value  # pandas writes dates in a form of its own
        return _without_nat(value.astype(str).tolist())
    if kind == "m":  # spans of time
        value = value / value.dtype.type(1, "s")
    elif kind == "f":  # NumPy has floats with more digits, which Python does not know
        value = value.astype(float)
    return value.tolist()


def _without_nat(texts: Any) -> Any:
    """Return the text of a date, or those in (nested) lists, with a number that JSON does not have for "not a time"."""
    if isinstance(texts, list):
        return [_without_nat(text) for text in texts]
    return math.nan if texts == "NaT" else texts


def _in_order(values: set[Any] | frozenset[Any]) -> list[Any]:
    try:
        return sorted(values)
    except Exception:  # they have no order, or code of their own runs
        return list(values)
