"""Runs the command as `python -m picas.cli`, for a picas that is not installed."""

from __future__ import annotations

from .command import main

if __name__ == "__main__":
    main()
