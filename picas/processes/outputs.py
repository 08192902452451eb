"""Files for the output of a command, of limited size: if the output is larger, they keep its head and its tail.

The command writes to pipes, and a thread copies from these to the files. If the command wrote to the files directly,
their size could not be limited on every file system while it runs, and a command that ignores a full disk would lose
output and yet seem successful.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import itertools
import os
import select
import stat
import termios
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Callable

from ..picaslogger import get_logger
from .capped_files import CappedFile
from .faults import start_thread
from .interrupts import shielded

log = get_logger(__name__)

MAX_OUTPUT = 1 << 30
"""Bytes of output that a file holds at most, by default."""

PATIENCE = 60.0
"""Seconds to wait until the rest of the output is written after the command has ended."""

_CHUNK = 1 << 16  # bytes to read at once: the capacity of a pipe
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_in_use: dict[int, Outputs] = {}  # by the identifier of the thread that has opened them
_numbers = itertools.count(1)


@dataclass(frozen=True)
class OutputTails:
    """The ends of the outputs of a command: how many bytes were written so far, and the last of them.

    None stands for an output that does not go to a file.
    """

    number: int
    """Differs for each command of this process."""
    stdout: tuple[int, bytes] | None
    stderr: tuple[int, bytes] | None


class Outputs:
    """The output files of one command. A `with` block opens them, and they are complete when it is left.

    :param stdout: the file for the standard output, None for no file
    :param stderr: the file for the standard error; may be the same file
    :param limit: how many bytes of output each file holds at most
    :raises ValueError: if the limit is negative
    """

    def __init__(self, stdout: str | Path | None, stderr: str | Path | None, limit: int = MAX_OUTPUT) -> None:
        if limit < 0:
            raise ValueError(f"a file can't hold {limit} bytes")
        self.stdout: int | None = None
        """The file descriptor for the command's standard output, None for that of this process."""
        self.stderr: int | None = None
        """The same for its standard error."""
        self._number = next(_numbers)
        self._paths = (stdout, stderr)
        self._limit = limit
        self._is_shared = False  # whether both paths lead to one file
        self._files: dict[int, CappedFile] = {}  # by the read end of the pipe that is copied to the file
        self._passed_on = contextlib.ExitStack()  # closed once the command has inherited it
        self._kept = contextlib.ExitStack()  # closed once all output is written
        self._end = -1  # the write end of a pipe; closing it says that the command has ended
        self._is_complete = threading.Event()
        self._error: BaseException | None = None  # why the output could not be copied
        self._is_copied = False  # whether a thread copies the output

    @property
    def truncated(self) -> bool:
        """Whether a file does not hold all output."""
        return any(file.is_cut for file in self._files.values())

    def __enter__(self) -> Outputs:
        stdout, stderr = self._paths
        try:
            self.stdout = self._open(stdout)
            self._is_shared = _is_same_file(stdout, stderr)
            self.stderr = self.stdout if self._is_shared else self._open(stderr)
        except BaseException:
            self._close()
            raise
        _in_use[threading.get_ident()] = self
        return self

    def start(self) -> None:
        """Start copying. Call this after starting the command."""
        self._passed_on.close()
        if self._files:
            with shielded():  # from now on only one thread may close the pipes and the files
                ended, self._end = os.pipe()
                self._kept.callback(os.close, ended)
                copiers.run(lambda: self._copy(ended))
                self._is_copied = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _in_use.pop(threading.get_ident(), None)
        if not self._is_copied:
            self._close()
            if self._end >= 0:  # no thread could be started
                os.close(self._end)
            return
        with shielded():
            os.close(self._end)
            if not self._is_complete.wait(PATIENCE):
                log.warning("The output is not written after %s s: %s", PATIENCE, self._names())

    def check(self, exit_code: int) -> None:
        """Raise an error if output was lost, or if the command may have failed because the disk is full.

        :param exit_code: the exit code of the command
        :raises OSError: with ENOSPC or EDQUOT if the disk is full; otherwise the error of the failed write
        """
        if self._error is not None:
            raise self._error
        check_inherited(exit_code, *(number for number, path in enumerate(self._paths, 1) if path is None))
        for file in self._files.values():
            if file.error is not None and file.error.errno in _DISK_FULL:
                text = f"disk full: {file.path} does not hold all {file.size} bytes of output"
                raise OSError(file.error.errno, text) from file.error
            if file.error is not None:
                raise file.error
            if exit_code != 0 and _is_full(file.path):
                raise OSError(errno.ENOSPC, f"disk full: no space beside {file.path}, exit code {exit_code}")

    def tails(self, count: int) -> OutputTails:
        """Return how many bytes were written to each file so far, and the last of them.

        Any thread may call this at any time.

        :param count: how many of the last bytes to return
        """
        files = {file.path: file for file in list(self._files.values())}
        out, err = self._paths
        stdout, stderr = (None if path is None else files.get(Path(path)) for path in (out, err))
        if self._is_shared:
            stderr = stdout
        ends = (None if file is None else file.tail(count) for file in (stdout, stderr))
        return OutputTails(self._number, *ends)

    def _open(self, path: str | Path | None) -> int | None:
        if path is None:
            return None
        path = Path(path)
        if path.exists() and not path.is_file():  # such as /dev/null or a named pipe
            return self._passed_on.enter_context(path.open("wb")).fileno()
        file = self._kept.enter_context(contextlib.closing(CappedFile(path, self._limit)))
        source, target = os.pipe()
        self._kept.callback(os.close, source)
        self._passed_on.callback(os.close, target)
        self._files[source] = file
        return target

    def _close(self) -> None:
        self._passed_on.close()
        self._kept.close()

    def _copy(self, ended: int) -> None:
        """Copy until the last writer has closed its pipe; what goes wrong is raised by `check`.

        When the command ends, the files are completed with the output up to then.
        """
        try:
            with self._kept:
                self._copy_all(ended)
        except BaseException as error:  # nobody would see it in this thread
            self._error = error
        finally:
            self._is_complete.set()

    def _copy_all(self, ended: int) -> None:
        poll = select.poll()  # unlike other selectors, it needs no descriptor
        for source in (ended, *self._files):
            poll.register(source, select.POLLIN)
        open_sources = set(self._files)
        while open_sources:
            for source, _ in poll.poll():
                if source == ended:
                    poll.unregister(ended)
                    self._complete(open_sources)
                elif not self._copy_some(source):
                    poll.unregister(source)
                    open_sources.discard(source)
        self._complete(open_sources)

    def _complete(self, sources: set[int]) -> None:
        """Copy what is in the pipes now, but no more: background processes may write for ever."""
        for source in sources:
            left = _available(source)
            while left > 0:
                copied = self._copy_some(source, left)
                left = left - copied if copied else 0
        for file in self._files.values():
            file.complete()
        self._is_complete.set()

    def _copy_some(self, source: int, most: int = _CHUNK) -> int:
        """Copy what one read returns, and return how many bytes that was; 0 at the end."""
        data = os.read(source, min(most, _CHUNK))
        self._files[source].write(data)
        return len(data)

    def _names(self) -> str:
        return ", ".join(str(file.path) for file in self._files.values())


class _Copiers:
    """Threads that copy output, one for each command that runs. They are kept, since it takes long to start one."""

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Callable[[], None]]] = []

    def run(self, task: Callable[[], None]) -> None:
        """Run a task, which must not raise, in a thread.

        :raises NodeFault: if there can be no further thread
        """
        try:
            tasks = self._idle.pop()
        except IndexError:  # all are busy
            tasks = SimpleQueue()
            # A daemon, because processes that the command leaves in the background may write for ever.
            start_thread(threading.Thread(target=self._serve, args=(tasks,), name="picas-output", daemon=True))
        tasks.put(task)

    def forget(self) -> None:
        """Forget the threads of the parent of a forked process."""
        self._idle.clear()

    def _serve(self, tasks: SimpleQueue[Callable[[], None]]) -> None:
        while True:
            tasks.get()()
            self._idle.append(tasks)


copiers = _Copiers()
os.register_at_fork(after_in_child=copiers.forget)


def output_tails(thread: int, count: int) -> OutputTails | None:
    """Return `Outputs.tails` of the command that a thread runs now, None if it runs none.

    :param thread: the identifier of the thread
    :param count: see `Outputs.tails`
    """
    outputs = _in_use.get(thread)
    return None if outputs is None else outputs.tails(count)


def read_pipes(sources: Sequence[int]) -> list[bytes]:
    """Read pipes until their last writers have closed them, and return what came out of each."""
    content: dict[int, list[bytes]] = {source: [] for source in sources}
    poll = select.poll()
    for source in sources:
        poll.register(source, select.POLLIN)
    left = set(sources)
    while left:
        for source, _ in poll.poll():
            data = os.read(source, _CHUNK)
            content[source].append(data)
            if not data:
                poll.unregister(source)
                left.discard(source)
    return [b"".join(content[source]) for source in sources]


def _available(source: int) -> int:
    """Return how many bytes can be read from a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(source, termios.FIONREAD, count)
    return count[0]


def check_inherited(exit_code: int, *descriptors: int) -> None:
    """Raise an error if a command may have failed because its output goes to a file of this process on a full disk.

    :param exit_code: the exit code of the command
    :param descriptors: those of its output that it has inherited
    :raises OSError: with ENOSPC
    """
    for descriptor in descriptors if exit_code != 0 else ():
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and _is_full(descriptor):
            text = f"disk full: no space for the output of this pilot, exit code {exit_code}"
            raise OSError(errno.ENOSPC, text)


def _is_full(file: Path | int) -> bool:
    """Return whether the disk of a file is full."""
    try:
        system = os.statvfs(file)
    except OSError:
        return False
    return system.f_blocks > 0 and system.f_bavail == 0


def _is_same_file(one: str | Path | None, other: str | Path | None) -> bool:
    """Return whether two paths, the first of which exists, lead to one file."""
    if one is None or other is None:
        return False
    with contextlib.suppress(FileNotFoundError):
        return Path(one).samefile(other)
    return False
