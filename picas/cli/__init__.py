"""The command `picas`: one file for each group of verbs. `main` runs it."""

from __future__ import annotations

from .command import main

__all__ = ["main"]
