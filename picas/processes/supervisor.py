"""The supervisor: a small process that runs one program at a time for a pilot, and ends it with all that it started.

The fork server of a pilot forks it, and the pilot talks to it over the socket that is its standard input. Whatever a
program starts stays below the supervisor, because the supervisor adopts orphans (on Linux). So it can end all of it
when the pilot asks for that, and when the socket ends because the pilot was killed.

A message is a tuple in the format of `marshal`, preceded by its length. The pilot sends

    ("run", arguments, environment, folder, grace), with the descriptors of the program's standard input, output and
        error and of the pilot's working directory, unless it can't enter that. There are zero bytes between the
        arguments, and between the names and values of the environment. `folder` is relative to the working directory,
        and `grace` is the number of seconds between SIGTERM and SIGKILL if the pilot is killed
    ("signal", pid, number)     send a signal to the program with this pid, if that still runs
    ("end", pid, grace)         end that program and all below, if no other has been started since
    ("keep", pid)               let what is left in the background go on, and leave the pilot

and the supervisor answers

    ("started", pid)
    ("failed", errno, is_folder)    it was not started: because of the folder, or because of the program
    ("ended", status, cpu, memory, is_left)     status of `os.waitpid`, seconds, and kilobytes (on macOS bytes);
        `is_left` says whether something goes on in the background
    ("gone", pid, is_gone, was_alive, cpu, memory)  sent after "end", and when the background has ended by itself
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import signal
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # a supervisor is smaller and starts faster without these
    from collections.abc import Mapping, Sequence
    from typing import Any

if not __package__:  # in the fork server, without the package
    from descendants import (  # type: ignore[import-not-found,unused-ignore]
        HAS_PROC,
        Descendants,
        become_subreaper,
        group_exists,
    )
else:
    from .descendants import HAS_PROC, Descendants, become_subreaper, group_exists

KILL_WAIT = 10.0
"""Seconds that killed processes may take to disappear. In an uninterruptible system call they take longer."""

LENGTH = struct.Struct("!I")
"""The length of a message, in front of it."""
MAX_DESCRIPTORS = 4
"""The most descriptors that are sent with a message."""

_PAUSE = 0.05  # seconds between two checks after SIGTERM
_KILL_PAUSE = 0.002  # seconds between two checks after SIGKILL, when processes may keep forking
_PATIENCE = 1.0  # milliseconds for which the start of a program is not reported: it may end before
_CHUNK = 1 << 16  # bytes to receive at once
_DEFAULT_PATH = "/bin:/usr/bin"
_BATCH_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGXCPU")
_RESTORED = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores them; a program expects their default actions
_RESTORED += [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]  # the pilot may ignore or block them


class Supervisor:
    """Serves a pilot at the other end of a socket.

    :param connection: the socket
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._outgoing = b""
        self._descriptors: list[int] = []  # received, and not used yet
        self._is_cut_off = False  # whether the pilot has left
        self._is_adopting = become_subreaper()
        self._program = 0  # the pid of the program, 0 if none runs
        self._group = 0  # the process group that the last program led
        self._grace = 0.0
        self._cpu, self._memory = 0.0, 0  # used by the program and by the orphans that have ended
        self._is_left = False  # whether the pilot knows that something is left in the background
        self._is_alive = False  # whether anything was alive below at the last look
        self._tree: Descendants | None = None  # while what is below is being ended
        self._kill_at = 0.0
        self._give_up_at = 0.0  # 0 until SIGKILL was sent
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)

    def serve(self) -> None:
        """Serve the pilot until it leaves, and end then what it has left."""
        while not self._is_cut_off or self._tree is not None or self._is_left:
            events = self._poll.poll(self._pause())
            if not events:
                self._flush()
            for descriptor, _ in events:
                if descriptor == self._woken:
                    os.read(self._woken, _CHUNK)
                elif not self._is_cut_off:
                    self._receive()
            self._reap()
            if self._tree is not None:
                self._go_on_ending(self._tree)

    def _pause(self) -> float | None:
        """Return the milliseconds after which to check again, None if there is nothing to check."""
        if self._outgoing:
            return _PATIENCE
        if self._tree is None:
            return None
        return 1000 * (_PAUSE if time.monotonic() < self._kill_at else _KILL_PAUSE)

    # --- messages

    def _receive(self) -> None:
        try:
            data, descriptors = receive(self._connection, MAX_DESCRIPTORS)
        except OSError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        self._buffer += data
        if not data:
            self._lose_pilot()
        while len(self._buffer) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                break
            message = marshal.loads(self._buffer[LENGTH.size : end])
            self._buffer = self._buffer[end:]
            self._obey(*message)

    def _obey(self, kind: str, *arguments: Any) -> None:
        if kind == "run":
            self._run(*arguments)
        elif kind == "signal" and arguments[0] == self._program:
            self._send_signal(arguments[1])
        elif kind == "end" and arguments[0] == self._group:
            self._begin_to_end(arguments[1])
        elif kind == "keep" and arguments[0] == self._group:
            self._cut_off()

    def _send(self, *message: Any, can_wait: bool = False) -> None:
        """Send a message. One that can wait is sent together with the next, if that comes in time."""
        data = marshal.dumps(message)
        self._outgoing += LENGTH.pack(len(data)) + data
        if not can_wait:
            self._flush()

    def _flush(self) -> None:
        data, self._outgoing = self._outgoing, b""
        if self._is_cut_off or not data:
            return
        try:
            self._connection.sendall(data)
        except OSError:
            self._lose_pilot()

    def _lose_pilot(self) -> None:
        """End all that is below, because the pilot was killed."""
        if not self._is_cut_off:
            self._cut_off()
            self._begin_to_end(self._grace)

    def _cut_off(self) -> None:
        self._is_cut_off = True
        self._poll.unregister(self._connection)
        self._connection.close()

    # --- the program

    def _run(self, arguments: bytes, environment: bytes, folder: bytes, grace: float) -> None:
        standard, pilots_folder = self._descriptors[:3], self._descriptors[3:]
        self._grace, self._cpu, self._memory, self._is_left = grace, 0.0, 0, False
        is_in_folder = False
        try:
            _enter(pilots_folder, folder)
            is_in_folder = True
            self._program = self._group = spawn(arguments.split(b"\0"), _variables(environment), standard)
        except (OSError, ValueError) as error:  # ValueError for an empty name
            self._send("failed", getattr(error, "errno", None) or errno.EINVAL, not is_in_folder)
        else:
            self._send("started", self._program, can_wait=True)
        finally:
            os.chdir("/")  # a file system that is in use can't be unmounted
            for descriptor in self._descriptors:
                os.close(descriptor)
            self._descriptors = []

    def _send_signal(self, number: int) -> None:
        try:  # noqa: SIM105  # it starts faster without contextlib
            os.kill(self._program, number)
        except (OSError, OverflowError):  # it has changed its user, or there is no such signal
            pass

    def _reap(self) -> None:
        """Reap what has ended, and report the end of the program and that of all that it has left."""
        status: int | None = None
        has_children = True
        while has_children:
            try:
                pid, found, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                has_children = False
                break
            if not pid:
                break
            self._cpu += usage.ru_utime + usage.ru_stime
            self._memory = max(self._memory, usage.ru_maxrss)
            if pid == self._program:
                status, self._program = found, 0
        self._is_alive = self._look(has_children)
        if status is not None:
            self._is_left = self._is_alive
            self._send("ended", status, self._cpu, self._memory, self._is_left)
        elif self._is_left and not self._is_alive and self._tree is None:
            self._note_gone(was_alive=False)

    def _look(self, has_children: bool) -> bool:
        """Return whether anything is alive below that can be found and ended.

        :param has_children: whether this process has children, which includes adopted ones
        """
        if self._program or (has_children and HAS_PROC):
            return True
        # Without adoption, the members of the program's group are no children; without /proc no others can be found.
        return bool(self._group) and (has_children or not self._is_adopting) and group_exists(self._group)

    # --- the end

    def _begin_to_end(self, grace: float) -> None:
        kill_at = time.monotonic() + grace
        if self._tree is not None:
            self._kill_at = min(self._kill_at, kill_at)  # a later call may allow less time, but not more
            return
        self._reap()
        if self._is_alive:
            self._tree, self._kill_at, self._give_up_at = Descendants(os.getpid(), self._group), kill_at, 0.0
        else:  # at once, since the next message may be the next program
            self._note_gone(was_alive=False)

    def _go_on_ending(self, tree: Descendants) -> None:
        now = time.monotonic()
        if self._is_alive and now < self._kill_at:
            tree.terminate()
        elif self._is_alive and (not self._give_up_at or now < self._give_up_at):
            # This process may have been suspended for longer than that.
            self._give_up_at = self._give_up_at or now + KILL_WAIT
            tree.kill()
        else:
            self._tree = None
            self._note_gone(was_alive=True)

    def _note_gone(self, was_alive: bool) -> None:
        self._is_left = False
        self._send("gone", self._group, not self._is_alive, was_alive, self._cpu, self._memory)


def _variables(environment: bytes) -> dict[bytes, bytes]:
    parts = environment.split(b"\0")
    return dict(zip(parts[::2], parts[1::2]))


def _enter(pilots_folder: list[int], folder: bytes) -> None:
    """Change to a program's working directory.

    :raises OSError: if that is not possible
    """
    for descriptor in pilots_folder:
        os.fchdir(descriptor)
    if folder:
        os.chdir(folder)


def spawn(arguments: list[bytes], environment: Mapping[bytes, bytes], standard: Sequence[int]) -> int:
    """Start a program in a session of its own, and return its pid. Like `subprocess`, search the new PATH for it.

    :param arguments: the program and its arguments
    :param environment: its whole environment
    :param standard: the descriptors of its standard input, output and error
    :raises OSError: if it can't be started
    """
    program = arguments[0]
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(standard)]
    if b"/" in program:
        return _spawn(program, arguments, environment, actions)
    number = errno.ENOENT
    for folder in environment.get(b"PATH", os.fsencode(_DEFAULT_PATH)).split(b":"):
        name = os.path.join(folder, program)  # noqa: PTH118  # bytes
        if not os.access(name, os.F_OK):  # faster than a failed start
            continue
        try:
            return _spawn(name, arguments, environment, actions)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) and number == errno.ENOENT:
                number = error.errno or errno.EIO
    raise OSError(number, os.strerror(number))


def _spawn(name: bytes, arguments: list[bytes], environment: Mapping[bytes, bytes], actions: Any) -> int:
    # posix_spawn, because it copies nothing of this process, however large that is.
    options: dict[str, Any] = {"file_actions": actions, "setsigdef": _RESTORED, "setsigmask": []}
    try:
        return os.posix_spawn(name, arguments, environment, setsid=True, **options)
    except NotImplementedError:  # an old C library
        return os.posix_spawn(name, arguments, environment, setpgroup=0, **options)


def receive(connection: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """Wait for data, and return it with the descriptors that came with it.

    :param connection: a socket
    :param most: the most descriptors that can come
    :raises OSError: if the connection is broken
    """
    data, ancillary, _, _ = connection.recvmsg(
        _CHUNK, socket.CMSG_SPACE(most * 4), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    )
    descriptors: list[int] = []
    for _, kind, content in ancillary:
        if kind == socket.SCM_RIGHTS:
            descriptors += struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return data, descriptors


def prepare(title: str) -> None:
    """Prepare this process for its life beside a pilot: batch systems send signals to all processes of a job.

    :param title: its name for `ps` and `pkill`
    """
    for name in _BATCH_SIGNALS:
        # A signal that is ignored stays so for the programs.
        if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), _ignore)
    try:
        with open("/proc/self/comm", "w") as file:  # noqa: PTH123
            file.write(title)
    except OSError:  # there is no /proc, or it is read-only
        pass


def main() -> None:
    """Serve the pilot at the other end of the standard input."""
    prepare("picas-child")
    Supervisor(socket.socket(fileno=0)).serve()


def _ignore(number: int, frame: object) -> None:
    """Do nothing. Unlike an ignored signal, this is not inherited by programs."""
