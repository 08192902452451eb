"""Sizes of tokens: what is too large for the server is found before anything is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..clients import CouchDB
from ..exceptions import InputError

TRIED_FROM = 100_000
"""The size in bytes from which it is tried whether the server takes a token."""

_ESCAPE = re.compile(r"\\(?:u[0-9a-f]{4}|.)")


def size_of(value: Any) -> int:
    """Return the size of a value in bytes as CouchDB counts it: that of its JSON, with one byte for each escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if "\\" in text:
        text = _ESCAPE.sub(".", text)
    return len(text.encode("utf-8"))


def check_size(client: CouchDB, token: Mapping[str, Any], size: int, name: str) -> None:
    """Check that the server takes a token.

    :param name: what has made the token, for the error
    :raises InputError: if it is too large
    """
    if size < TRIED_FROM or client.has_room_for(token):
        return
    limit = _find_limit(client, size)
    raise InputError(
        f"{name} is too large: its token has {size / 1000:,.0f} kB, and the server takes about {limit / 1000:,.0f} kB"
    )


def _find_limit(client: CouchDB, refused: int) -> int:
    """Return the size of the largest document that the server takes, in bytes, to one percent.

    :param refused: a size that it refuses
    """
    fits, size = 0, TRIED_FROM
    while size < refused and client.has_room_for({"input": "x" * size}):
        fits, size = size, 2 * size
    refused = min(size, refused)
    while refused - fits > max(refused // 100, 1):
        size = (fits + refused) // 2
        if client.has_room_for({"input": "x" * size}):
            fits = size
        else:
            refused = size
    return fits
