"""Files of limited size: if more is written to one, it keeps the head and the tail, with a line between them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..util import cut_line

_CHUNK = 1 << 16  # bytes to read at once


class CappedFile:
    """A file of limited size. If more is written, it keeps the head and the tail, with a line between them.

    :param path: the file; an existing one is replaced
    :param limit: how many bytes it holds at most, without that line
    :raises OSError: if it can't be opened
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.size = 0
        """How many bytes were written to it."""
        self.error: OSError | None = None
        """The first error in writing. What is written after it is lost."""
        self._limit = limit
        self._half = limit // 2
        self._file = path.open("w+b", buffering=0)
        self._tail: _RingBuffer | None = None  # used once more than the limit was written
        self._is_complete = False

    @property
    def is_cut(self) -> bool:
        """Whether it does not hold everything that was written to it."""
        return self.size > self._limit

    def write(self, data: bytes) -> None:
        """Write some bytes. An error is kept in `error` and not raised, so that the writer can continue."""
        if self._is_complete and self.size + len(data) > self._limit:
            return  # written in the background, after the end of the command
        at, self.size = self.size, self.size + len(data)
        if self.error is not None:
            return
        try:
            if self.size <= self._limit:
                _write(self._file.fileno(), data)
            else:
                self._write_to_tail(at, memoryview(data))
        except OSError as error:
            self.error = error

    def tail(self, count: int) -> tuple[int, bytes]:
        """Return how many bytes were written so far, and the last of them. Another thread may write meanwhile.

        :param count: how many of the last bytes to return
        """
        size, ring = self.size, self._tail
        if ring is not None:
            with contextlib.suppress(OSError, ValueError):  # it was closed: the file has its content now
                return ring.last(count)
        try:
            file = self._file.fileno()
            end = os.fstat(file).st_size
            start = max(0, end - count)
            # Another thread may have counted bytes that it has yet to write, or has written others since then.
            return (end if ring is None else size), os.pread(file, end - start, start)
        except (OSError, ValueError):  # it has just been closed
            return size, b""

    def complete(self) -> None:
        """Append the tail to the head. If this fails, for example because the disk is full, the head stays as it is."""
        if self._is_complete:
            return
        self._is_complete = True
        if self._tail is None:
            return
        try:
            _write(self._file.fileno(), cut_line(self.size - 2 * self._half, self.size))
            for data in self._tail.content():
                _write(self._file.fileno(), data)
        except OSError as error:
            self.error = self.error or error
        finally:
            self._tail.close()

    def close(self) -> None:
        """Complete and close the file."""
        self.complete()
        self._file.close()

    def _write_to_tail(self, at: int, data: memoryview) -> None:
        """Write what exceeds the limit.

        :param at: how many bytes were written before
        """
        if self._tail is None:
            self._tail = _RingBuffer(self._half, self._half, self.path.resolve().parent)
            head = max(0, self._half - at)
            _write(self._file.fileno(), data[:head])
            data = data[head:]
            self._file.seek(self._half)
            while True:
                moved = self._file.read(_CHUNK)
                if not moved:
                    break
                self._tail.write(memoryview(moved))
            self._file.truncate(self._half)
            self._file.seek(self._half)
        self._tail.write(data)


class _RingBuffer:
    """The last bytes that were written, kept on disk in an unnamed file.

    :param size: how many bytes
    :param before: how many bytes were written elsewhere before
    :param folder: where the file is
    """

    def __init__(self, size: int, before: int, folder: Path) -> None:
        self._size = size
        self._before = before
        self._written = 0
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def write(self, data: memoryview) -> None:
        skipped = max(0, len(data) - self._size)
        self._written += skipped
        data = data[skipped:]
        while data:
            at = self._written % self._size
            count = os.pwrite(self._file.fileno(), data[: self._size - at], at)
            self._written += count
            data = data[count:]

    def last(self, count: int) -> tuple[int, bytes]:
        """Return how many bytes were written, here and before, and the last of them."""
        written = self._written
        count = min(count, self._size, written)
        if count == 0:
            return self._before + written, b""
        at = (written - count) % self._size
        first = min(count, self._size - at)
        data = os.pread(self._file.fileno(), first, at) + os.pread(self._file.fileno(), count - first, 0)
        return self._before + written, data

    def content(self) -> Iterator[bytes]:
        """Yield the bytes, oldest first."""
        oldest = self._written % self._size if self._written > self._size > 0 else 0
        yield from self._read(oldest, min(self._written, self._size))
        yield from self._read(0, oldest)

    def close(self) -> None:
        self._file.close()

    def _read(self, at: int, end: int) -> Iterator[bytes]:
        while at < end:
            data = os.pread(self._file.fileno(), min(_CHUNK, end - at), at)
            yield data
            at += len(data)


def _write(descriptor: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
