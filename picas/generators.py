"""The empty token that a pool is filled with."""

from __future__ import annotations

from typing import Any


class TokenGenerator:
    """Makes tokens."""

    @staticmethod
    def get_empty_token() -> dict[str, Any]:
        """Return a new token without an id and without input, ready to be locked."""
        return {"type": "token", "lock": 0, "done": 0, "hostname": "", "scrub_count": 0}
