"""What a program has printed, put together from the ends of its output that a pilot shows, and from its log."""

from __future__ import annotations

import codecs
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..pool.program_logs import BLOCK
from .watching import TAIL, Output, Watched


@dataclass(frozen=True)
class Printed:
    """A piece of what a program has printed."""

    text: str
    """Never empty; it may begin and end anywhere in a line."""
    is_err: bool
    """Whether it went to the standard error."""


class Stream:
    """What was seen of an output of an attempt.

    :param is_err: whether it is the standard error
    """

    def __init__(self, is_err: bool) -> None:
        self.is_err = is_err
        self._seen = Output(0, b"")
        self._program: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_in_line = False

    def add(self, shown: Watched) -> Iterator[Printed]:
        """Yield what is new in what the pilot shows."""
        output = shown.stderr if self.is_err else shown.stdout
        if output is None:
            return
        is_next = output.size < self._seen.size if shown.program is None else shown.program != self._program
        new = output.size - (0 if is_next else self._seen.size)
        if new < 0:
            return  # the pilot is just rewriting a file that has become too large
        self._seen, self._program = output, shown.program
        if new <= len(output.tail):
            yield from self._print(output.tail[len(output.tail) - new :])
            return
        data = _from_line(output.tail)
        yield from self._skip(f"[... {new - len(data)} bytes ...]\n")
        yield from self._print(data)

    def add_rest(self, file: BinaryIO) -> Iterator[Printed]:
        """Yield what is new in the log that the attempt has left."""
        position = _position_after(self._seen, file)
        if position is None:
            yield from self._skip("[...]\n")
            position = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(position)
            if position:
                yield from self._print(_from_line(file.read(TAIL)))
                return
        file.seek(position)
        for block in iter(lambda: file.read(BLOCK), b""):
            yield from self._print(block)

    def end(self) -> Iterator[Printed]:
        """Yield what stands for an incomplete character at the end."""
        yield from self._text(self._decoder.decode(b"", True))

    def _print(self, data: bytes) -> Iterator[Printed]:
        yield from self._text(self._decoder.decode(data))

    def _skip(self, line: str) -> Iterator[Printed]:
        """Yield a line that stands for what is missing."""
        self._decoder.reset()
        yield from self._text("\n" + line if self._is_in_line else line)

    def _text(self, text: str) -> Iterator[Printed]:
        if text:
            self._is_in_line = not text.endswith("\n")
            yield Printed(text, self.is_err)


def _from_line(data: bytes) -> bytes:
    """Return the bytes from the first begin of a line on, or from that of a character if they are one line."""
    end = data.find(b"\n")
    if 0 <= end < len(data) - 1:
        return data[end + 1 :]
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:  # the later bytes of a character in UTF-8
        start += 1
    return data[start:]


def _position_after(seen: Output, file: BinaryIO) -> int | None:
    """Return where a log goes on after an output that was seen; None if the log does not have the end of that.

    A log may be shorter than the output, if that was very large, or begin with those of other programs.
    """
    start = seen.size - len(seen.tail)
    file.seek(start)
    if file.read(len(seen.tail)) == seen.tail:
        return seen.size
    if file.seek(0, os.SEEK_END) == 0:
        return 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = content.rfind(seen.tail)
    return None if found < 0 else found + len(seen.tail)
