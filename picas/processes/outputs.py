"""The files for a command's output: they keep all of it up to a limit, and of more than that the head and the tail.

The command writes into pipes, and a thread copies that into the files. If the command wrote into the files itself,
nothing could bound them on every file system while it runs, and one that ignores a full disk would lose output and seem
to have ended well.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import logging
import os
import selectors
import tempfile
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ..util import cut_line
from .interrupts import shielded

log = logging.getLogger(__name__)

MAX_OUTPUT = 1 << 30
"""Bytes of output that a file holds."""

PATIENCE = 60.0
"""Seconds that the disk has to take the last of the output when the command has ended."""

_CHUNK = 1 << 16  # bytes that are read at once, as many as a pipe holds
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Outputs:
    """The files of one command: opened by `with`, and complete when that is left.

    :param stdout: the file for the standard output, None for none
    :param stderr: the file for the standard error; may be the same
    :param limit: the most bytes of output that each holds
    :raises ValueError: if the limit is below 0
    """

    def __init__(self, stdout: str | Path | None, stderr: str | Path | None, limit: int = MAX_OUTPUT) -> None:
        if limit < 0:
            raise ValueError(f"a file can't hold {limit} bytes")
        self.stdout: int | None = None
        """What the command is to have as its standard output, None for that of this process."""
        self.stderr: int | None = None
        """The same for its standard error."""
        self._paths = (stdout, stderr)
        self._limit = limit
        self._files: dict[int, CappedFile] = {}  # by the pipes that their content comes from
        self._near = contextlib.ExitStack()  # what is closed here when the command has it
        self._far = contextlib.ExitStack()  # what is closed when all is written
        self._end = -1  # is closed to tell that the command has ended
        self._is_complete = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def truncated(self) -> bool:
        """Whether any file does not hold all that was written."""
        return any(file.is_cut for file in self._files.values())

    def __enter__(self) -> Outputs:
        stdout, stderr = self._paths
        try:
            self.stdout = self._open(stdout)
            self.stderr = self.stdout if _is_same_file(stdout, stderr) else self._open(stderr)
        except BaseException:
            self._close()
            raise
        return self

    def start(self) -> None:
        """Begin to copy: the command has been started."""
        self._near.close()
        if self._files:
            ended, self._end = os.pipe()
            self._far.callback(os.close, ended)
            # As a daemon: what the command leaves in the background may go on writing for as long as it likes.
            self._thread = threading.Thread(target=self._copy, args=(ended,), name="picas-output", daemon=True)
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            self._close()
            return
        with shielded():
            os.close(self._end)
            if not self._is_complete.wait(PATIENCE):
                log.warning("The output is not written after %s s: %s", PATIENCE, self._names())

    def check(self, exit_code: int) -> None:
        """Raise an exception if output was lost, or if the command may have failed because the disk is full.

        :param exit_code: how the command has ended
        :raises OSError: with ENOSPC, or EDQUOT, and a line that says so, or what else went wrong in writing
        """
        for file in self._files.values():
            if file.error is not None and file.error.errno in _DISK_FULL:
                text = f"disk full: {file.path} does not hold all {file.size} bytes of output"
                raise OSError(file.error.errno, text) from file.error
            if file.error is not None:
                raise file.error
            if exit_code != 0 and _is_disk_full(file.path):
                raise OSError(errno.ENOSPC, f"disk full: no space beside {file.path}, exit code {exit_code}")

    def _open(self, path: str | Path | None) -> int | None:
        if path is None:
            return None
        path = Path(path)
        if path.exists() and not path.is_file():  # /dev/null holds nothing, a pipe is read by somebody else
            return self._near.enter_context(path.open("wb")).fileno()
        file = self._far.enter_context(contextlib.closing(CappedFile(path, self._limit)))
        source, target = os.pipe()
        self._far.callback(os.close, source)
        self._near.callback(os.close, target)
        self._files[source] = file
        return target

    def _close(self) -> None:
        self._near.close()
        self._far.close()

    def _copy(self, ended: int) -> None:
        """Copy until nobody writes any more. When the command has ended the files are completed with what is there."""
        with self._far, contextlib.ExitStack() as last, selectors.DefaultSelector() as selector:
            last.callback(self._is_complete.set)
            for source in (ended, *self._files):
                selector.register(source, selectors.EVENT_READ)
            open_sources = set(self._files)
            while open_sources:
                for source in [key.fd for key, _ in selector.select()]:
                    if source == ended:
                        selector.unregister(ended)
                        self._complete(open_sources)
                    elif not self._copy_some(source):
                        selector.unregister(source)
                        open_sources.discard(source)
            self._complete(open_sources)

    def _complete(self, sources: set[int]) -> None:
        """Copy what is in the pipes, and no more: others may write for ever."""
        for source in sources:
            left = _available(source)
            while left > 0:
                copied = self._copy_some(source, left)
                left = left - copied if copied else 0
        for file in self._files.values():
            file.complete()
        self._is_complete.set()

    def _copy_some(self, source: int, most: int = _CHUNK) -> int:
        """Copy what can be read at once, and return how many bytes that were; 0 at the end."""
        data = os.read(source, min(most, _CHUNK))
        self._files[source].write(data)
        return len(data)

    def _names(self) -> str:
        return ", ".join(str(file.path) for file in self._files.values())


class CappedFile:
    """A file that keeps the head and the tail of what is written to it, with a line between that tells of the rest.

    :param path: the file, which is replaced
    :param limit: the most bytes that it holds, without that line
    :raises OSError: if it can't be opened
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.size = 0
        """Bytes that were written to it."""
        self.error: OSError | None = None
        """What went wrong first. What is written after that is lost."""
        self._limit = limit
        self._half = limit // 2
        self._file = path.open("w+b", buffering=0)
        self._tail: _Ring | None = None  # once it does not hold everything
        self._is_complete = False

    @property
    def is_cut(self) -> bool:
        """Whether it does not hold all that was written to it."""
        return self.size > self._limit

    def write(self, data: bytes) -> None:
        """Add some bytes. An error is noted, not raised: who writes goes on undisturbed."""
        if self._is_complete and self.size + len(data) > self._limit:
            return  # of something in the background, after the end of the command
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

    def complete(self) -> None:
        """Put the tail behind the head. Both are as they were if this fails, for want of space say."""
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
        """Close it."""
        self.complete()
        self._file.close()

    def _write_to_tail(self, at: int, data: memoryview) -> None:
        """Write what does not fit any more.

        :param at: how much was written before
        """
        if self._tail is None:
            self._tail = _Ring(self._half, self.path.resolve().parent)
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


class _Ring:
    """The last bytes that were written, on disk in a file that has no name."""

    def __init__(self, size: int, folder: Path) -> None:
        self._size = size
        self._written = 0
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def write(self, data: memoryview) -> None:
        data = data[max(0, len(data) - self._size) :]
        while data:
            at = self._written % self._size
            count = os.pwrite(self._file.fileno(), data[: self._size - at], at)
            self._written += count
            data = data[count:]

    def content(self) -> Iterator[bytes]:
        """Give them, the oldest first."""
        oldest = self._written % self._size if self._written > self._size else 0
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


def _available(source: int) -> int:
    """Return how many bytes are in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(source, termios.FIONREAD, count)
    return count[0]


def _is_disk_full(path: Path) -> bool:
    try:
        system = os.statvfs(path)
    except OSError:
        return False
    return system.f_blocks > 0 and system.f_bavail == 0


def _is_same_file(one: str | Path | None, other: str | Path | None) -> bool:
    return one is not None and other is not None and Path(one).resolve() == Path(other).resolve()
