"""The tokens in the database: claiming, saving, recovering and editing them."""

from __future__ import annotations

from .edits import Change, count_tokens, delete_tokens, reset_tokens

__all__ = ["Change", "count_tokens", "delete_tokens", "reset_tokens"]
