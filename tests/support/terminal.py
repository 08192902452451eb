"""A pseudo-terminal for programs that are used by people: what they would see, and what they would type."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from typing import Any

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A program at a pseudo-terminal, as standard input, output and error.

    :param command: the program and its arguments
    :param environment: its environment variables
    :param columns: the width of the terminal
    :param options: further arguments of `Popen`
    """

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], columns: int = 80, lines: int = 40, **options: Any
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        variables = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            env={"TERM": "xterm-256color", **variables},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            **options,
        )
        os.close(theirs)
        self.raw = ""
        """All that was printed so far."""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """What was printed so far, without colours, with plain line ends."""
        return _COLOURS.sub("", self.raw).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type a text; "\\n" is the key Enter."""
        os.write(self._ours, text.encode())

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Wait until a text was printed."""
        self._read(seconds, text)
        assert text in self.text, f"{text!r} is not in {self.text!r}"

    def end(self, seconds: float = 60) -> int:
        """Wait until the program ends, and return its exit code."""
        self._read(seconds)
        return self.process.wait(seconds)

    def _read(self, seconds: float, wanted: str | None = None) -> None:
        until = time.monotonic() + seconds
        while (wanted is None or wanted not in self.text) and time.monotonic() < until:
            if not select.select([self._ours], [], [], 0.1)[0]:
                if self.process.poll() is not None:
                    return
                continue
            part = b""
            with contextlib.suppress(OSError):  # Linux says EIO once the program has closed the terminal
                part = os.read(self._ours, 65536)
            if not part:
                return
            self.raw += part.decode("utf-8", "replace")
