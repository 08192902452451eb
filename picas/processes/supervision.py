"""The pilot's side of its supervisors: start them, hand them programs, and learn how those end.

Each program that runs has a supervisor (see `supervisor`), a process that is started once and used again. A program
that leaves something in the background keeps its supervisor until that has ended.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from ..picaslogger import get_logger
from ..util import wait_until
from .channels import Channel
from .descendants import Family, Root, start_of
from .faults import start_thread
from .interrupts import shielded
from .launch import ForkServer, SupervisorLost, fork_supervisor, inherited_attributes
from .programs import Command, Program, Usage
from .supervisor import KILL_WAIT, LENGTH

log = get_logger(__name__)

IDLE = 60.0
"""Seconds after which a supervisor that is not used is ended, the next time that another becomes free."""
STARTS = 2 * (os.cpu_count() or 1)
"""Programs that are started at a time: more of them get in each other's way."""
LONGEST_TURN = 0.05
"""Seconds that a program waits for its turn at most: starts on a file system that hangs do not hold up others."""
ABORT_GRACE = 1.0
"""The longest time between SIGTERM and SIGKILL for a program whose start was interrupted, in seconds."""
ANSWER_WAIT = 5.0
"""Seconds to wait for the answer to an interrupted start. One from a file system that does not answer takes longer."""


class Supervisor:
    """A supervisor process, and the thread that reads its answers.

    :param inherited: what it will inherit from this thread, see `inherited_attributes`
    """

    def __init__(self, inherited: object) -> None:
        self.inherited = inherited
        self._program: Program | None = None
        self._channel = Channel()
        self.free_since = 0.0
        """When it was last released, on the clock of `time.monotonic`."""
        self._sending = threading.RLock()

    def start(self, start: Callable[[socket.socket], None]) -> None:
        """Start the process.

        :param start: starts it at the other end of a connection
        :raises SupervisorLost: if no interpreter can run the script
        :raises OSError: if there are too many processes, or not enough memory
        """
        with self._channel.theirs:
            start(self._channel.theirs)
        start_thread(threading.Thread(target=self._read, name="picas-supervisor", daemon=True))

    def run(self, program: Program, descriptors: Sequence[int]) -> None:
        """Begin to start a program. Its `is_answered` is set when that has worked or failed.

        :param descriptors: those of its standard input, output and error, and of the working directory of this process
            unless it can't enter that
        :raises SupervisorLost: if the supervisor has ended
        :raises OSError: if there are too many open files
        """
        self._program = program
        command = program.command
        try:
            self._send("run", command.arguments, command.environment, command.folder, command.grace, fds=descriptors)
        except OSError as error:
            if isinstance(error, ConnectionError) or self._channel.is_closed:  # closed by the other thread
                raise SupervisorLost from None
            raise

    def abort(self, program: Program) -> None:
        """End a program whose start was interrupted, and wait for its end. It has not had the time to do much.

        If it is not known soon whether it has started, the supervisor ends it as soon as that has happened.
        """
        with shielded():
            if program.is_answered.wait(ANSWER_WAIT):
                grace = min(program.command.grace, ABORT_GRACE)
                self.end(program, grace)
                program.is_gone.wait(grace + KILL_WAIT if program.pid else 0)
            else:
                self.close()

    def send_signal(self, program: Program, signum: int) -> None:
        """Send a signal to a program, if it still runs."""
        self._send_quietly("signal", program.pid, signum)

    def end(self, program: Program, grace: float) -> None:
        """Begin to end a program and all that it has started.

        :param grace: seconds between SIGTERM and SIGKILL
        """
        if program.pid:
            self._send_quietly("end", program.pid, grace)

    def keep(self, program: Program) -> None:
        """Leave what a program has started to itself. The supervisor can't be used again."""
        self._program = None
        program.is_gone.set()
        self._send_quietly("keep", program.pid)
        self.close()

    def close(self) -> None:
        """Let the supervisor end, and with it all that is below it."""
        self._channel.shutdown()

    def abandon(self) -> None:
        """Close the connection in a forked process, or the supervisor would not notice the end of its pilot."""
        self._channel.close()
        self._channel.theirs.close()
        if self._program is not None:
            self._program.is_gone.set()

    def _send(self, *message: Any, fds: Sequence[int] = ()) -> None:
        content = marshal.dumps(message)
        with self._sending:
            self._channel.send(LENGTH.pack(len(content)) + content, fds)

    def _send_quietly(self, *message: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended, which the other thread finds out
            self._send(*message)

    # --- in the thread that reads the answers

    def _read(self) -> None:
        buffer = b""
        while received := self._channel.receive():
            buffer += received
            while len(buffer) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
                if len(buffer) < end:
                    break
                if self._program is not None:
                    self._note(self._program, *marshal.loads(buffer[LENGTH.size : end]))
                buffer = buffer[end:]
        supervisors.forget(self)
        self._channel.close()
        if self._program is not None:
            self._note_loss(self._program)

    def _note(self, program: Program, kind: str, *arguments: Any) -> None:
        if kind == "started":
            (program.pid,) = arguments
            program.is_answered.set()
        elif kind == "failed":
            program.error = _error_of(program.command, *arguments)
            supervisors.release(self)
            program.is_answered.set()
        elif kind == "ended":
            status, cpu, memory, is_left = arguments
            program.exit_code, program.usage = os.waitstatus_to_exitcode(status), Usage.of(cpu, memory)
            self._note_end(program, is_gone=not is_left)
            program.has_ended.set()
        elif kind == "gone" and arguments[0] == program.pid:  # else it is about an earlier program
            _, is_gone, program.was_alive, cpu, memory = arguments
            program.usage = Usage.of(cpu, memory)
            self._note_end(program, is_gone)
            program.is_gone.set()

    def _note_end(self, program: Program, is_gone: bool) -> None:
        if is_gone and not program.is_gone.is_set():
            supervisors.release(self)  # first: who waits for the end may start the next program at once
            program.is_gone.set()

    def _note_loss(self, program: Program) -> None:
        """End what is left of a program whose supervisor was killed; its exit code will never be known."""
        if not program.is_answered.is_set():
            program.error = SupervisorLost()
        elif not program.is_gone.is_set():
            log.warning("The supervisor of process %s has ended: what is left of it is ended", program.pid)
            end_family([Root(program.pid, start_of(program.pid), leads_group=True)], program.command.grace)
        if program.exit_code is None:
            program.exit_code = -signal.SIGKILL
        program.is_answered.set()
        program.has_ended.set()
        program.is_gone.set()


class Supervisors:
    """The supervisors of this process.

    Operations on them are single ones on a set or a list, which are atomic: a signal handler may start a program in the
    middle of a start, and its supervisor's thread must not have to wait for a lock of that.
    """

    def __init__(self) -> None:
        self.start_anew()

    def before_fork(self) -> None:
        """Let no other thread open a connection while this process is forked."""
        self._opening.acquire()

    def after_fork(self) -> None:
        """Go on after this process was forked."""
        self._opening.release()

    def start_anew(self) -> None:
        """Begin without any supervisor, in a forked process as well."""
        for supervisor in getattr(self, "_all", set()):
            supervisor.abandon()
        server: ForkServer | None = getattr(self, "_server", None)
        if server is not None:
            server.close()
        self._opening = threading.RLock()
        self._server: ForkServer | None = None
        self._turns: queue.SimpleQueue[object] = queue.SimpleQueue()  # which a signal handler may use, like `Once`
        for _ in range(STARTS):
            self._turns.put(object())
        self._all: set[Supervisor] = set()
        self._free: list[Supervisor] = []  # the one that was used last is the last

    def start(self, command: Command, descriptors: Sequence[int]) -> tuple[Supervisor, Program]:
        """Start a program, and wait until it has started.

        :param descriptors: see `Supervisor.run`
        :raises OSError: if it can't be started
        """
        inherited = inherited_attributes()
        for provide in (self._take, self._start, self._fork):
            supervisor: Supervisor | None = None
            program = Program(command)
            try:
                with self._turn():
                    with shielded():
                        supervisor = provide(inherited)
                        supervisor.run(program, descriptors)
                    program.is_answered.wait()  # for long, if the program is on a file system that does not answer
            except SupervisorLost:
                continue
            except BaseException:
                if supervisor is not None:
                    supervisor.abort(program)
                raise
            if program.error is None:
                return supervisor, program
            if isinstance(program.error, OSError):
                raise program.error
        raise OSError(errno.ECHILD, "the process that starts programs has ended again and again")

    def release(self, supervisor: Supervisor) -> None:
        """Take back a supervisor below which nothing is left."""
        now = time.monotonic()
        if supervisor in self._all:
            supervisor.free_since = now
            self._free.append(supervisor)
        with contextlib.suppress(IndexError):  # another thread has taken the last
            if self._free[0].free_since < now - IDLE:
                self._close(self._free.pop(0))

    def forget(self, supervisor: Supervisor) -> None:
        """Note that a supervisor has ended, or will."""
        self._all.discard(supervisor)
        with contextlib.suppress(ValueError):
            self._free.remove(supervisor)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Let `STARTS` threads into the block at a time, but none wait for longer than `LONGEST_TURN`."""
        turns, turn = self._turns, None
        with contextlib.suppress(queue.Empty):
            turn = turns.get(timeout=LONGEST_TURN)
        try:
            yield
        finally:
            if turn is not None:
                turns.put(turn)

    def _take(self, inherited: object) -> Supervisor:
        """Return a free supervisor that passes the present attributes of this process on, or start one.

        The one that was used last comes first: the memory of the others may have been paged out.
        """
        for supervisor in reversed(list(self._free)):
            if supervisor.inherited == inherited:
                with contextlib.suppress(ValueError):  # another thread has taken it
                    self._free.remove(supervisor)
                    return supervisor
        with contextlib.suppress(IndexError):
            self._close(self._free.pop(0))  # it does not fit any more; one comes, one goes
        return self._start(inherited)

    def _close(self, supervisor: Supervisor) -> None:
        self._all.discard(supervisor)
        supervisor.close()

    def _start(self, inherited: object) -> Supervisor:
        return self._add(inherited, lambda connection: self._ask_server(inherited, connection))

    def _fork(self, inherited: object) -> Supervisor:
        return self._add(inherited, fork_supervisor)

    def _add(self, inherited: object, start: Callable[[socket.socket], None]) -> Supervisor:
        supervisor: Supervisor | None = None
        try:
            # No fork of this process may have a connection that it does not know, or the pipe of a starting `Popen`.
            with self._opening:
                supervisor = Supervisor(inherited)
                self._all.add(supervisor)
                supervisor.start(start)
        except BaseException:
            if supervisor is not None:
                self.forget(supervisor)
                supervisor.close()
            raise
        return supervisor

    def _ask_server(self, inherited: object, connection: socket.socket) -> None:
        """Let the fork server start a supervisor. If there is none that passes the attributes on, start one."""
        server = self._server
        if server is not None and server.inherited == inherited:
            try:
                server.fork(connection)
            except SupervisorLost:
                pass
            else:
                return
        self._server = ForkServer(inherited)
        if server is not None:
            server.close()
        self._server.fork(connection)


supervisors = Supervisors()
os.register_at_fork(
    before=supervisors.before_fork, after_in_parent=supervisors.after_fork, after_in_child=supervisors.start_anew
)


def end_family(roots: Sequence[Root], grace: float) -> None:
    """End processes that have no supervisor: SIGTERM, and SIGKILL after the grace period in seconds."""
    family = Family(roots)

    def is_over() -> bool:
        if family.is_alive():
            family.terminate()
            return False
        return True

    def is_killed() -> bool:
        family.kill()
        return not family.is_alive()

    if not wait_until(is_over, grace):
        wait_until(is_killed, KILL_WAIT)


def _error_of(command: Command, number: int, is_folder: bool) -> OSError:
    """Return the error of a program that could not be started."""
    return OSError(
        number, os.strerror(number), os.fsdecode(command.folder if is_folder else command.arguments.partition(b"\0")[0])
    )
