"""Lines that are shown again and again: in place at a terminal, one block after the other elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Callable

from .. import console
from .output import cut

_UP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[{}F", "\x1b[K", "\x1b[J"


class Screen:
    """Shows blocks of lines.

    :param paint: returns a line with colours; it is called after the line was cut to the width of the terminal
    """

    def __init__(self, paint: Callable[[str], str]) -> None:
        self._paint = paint
        self._is_terminal = console.is_live(sys.stdout)
        self._shown: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        """Show a block instead of the one before; elsewhere than at a terminal, print it if it is another."""
        if self._is_terminal:
            self._redraw(lines)
        elif list(lines) != self._shown:
            print(*([""] if self._shown else []), *lines, sep="\n", flush=True)
            self._shown = list(lines)

    def _redraw(self, lines: Sequence[str]) -> None:
        size = shutil.get_terminal_size()
        fitting = [cut(line, size.columns) for line in lines[: size.lines - 1]]
        start = _UP.format(len(self._shown)) if self._shown else ""
        body = "".join(f"{self._paint(line)}{_CLEAR_LINE}\n" for line in fitting)
        sys.stdout.write(f"{start}{body}{_CLEAR_BELOW}")
        sys.stdout.flush()
        self._shown = fitting
