"""Values of a token's fields as the verbs print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..documents import Document
from ..pool.fields import MISSING, Field, text_of
from .output import json_time, print_csv


def json_value(token: Document, field: Field) -> Any:
    """Return the value of a field as JSON holds it: a time in UTC, None if it is missing."""
    value = field.of(token)
    if value is MISSING:
        return None
    return json_time(value) if field.is_time else value


def cell_of(token: Document, field: Field) -> str:
    """Return the value of a field for comma-separated values: nested values as JSON, nothing if it is missing."""
    return text_of(json_value(token, field))


def print_csv_of(tokens: Iterable[Document], fields: Sequence[Field]) -> None:
    """Print fields of tokens as comma-separated values."""
    print_csv([field.name for field in fields], ([cell_of(token, field) for field in fields] for token in tokens))
