"""Lets `python -m picas.cli` run the command, where it is not installed."""

from __future__ import annotations

from .command import main

if __name__ == "__main__":
    main()
