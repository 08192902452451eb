"""New tokens, to be filled in and pushed to a pool."""

from __future__ import annotations

from typing import Any


class TokenGenerator:
    """Creates tokens."""

    @staticmethod
    def get_empty_token() -> dict[str, Any]:
        """Return a free token without an id and without input."""
        return {"type": "token", "lock": 0, "done": 0, "hostname": "", "scrub_count": 0}
