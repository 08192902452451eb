"""What the programs of a token have used, and how the last of them has failed.

The supervisors know what each program has used when they reap it. A token's account sums that up for the programs that
its thread starts; an account of no thread, for those of all threads that have none of their own.
"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from types import TracebackType

from ..tokens import reasons
from .control_groups import OutOfMemoryKills
from .programs import Program, Usage

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the exit codes of a killed program, and of its shell

_accounts: dict[int | None, Account] = {}  # by the identifier of a thread
_kills: list[OutOfMemoryKills] = []  # one, from the first account on


@dataclass(frozen=True)
class Failure:
    """How a program has failed."""

    exit_code: int
    line: str
    """What it has said last, on standard error."""
    timeout: float | None
    """The seconds that it was allowed to take, if they were over."""
    is_out_of_memory: bool
    """Whether the kernel has killed it, or a process below it, because there was no memory left."""

    def explains(self, exit_code: object) -> bool:
        """Return whether a token's exit code is that of the program."""
        is_of_shell = self.exit_code < 0 and exit_code == 128 - self.exit_code
        return not isinstance(exit_code, bool) and (exit_code == self.exit_code or is_of_shell)

    def reason(self, exit_code: object) -> str:
        """Return why a token with this exit code has failed."""
        if self.is_out_of_memory:
            return reasons.OUT_OF_MEMORY
        return reasons.of_exit_code(exit_code, self.line) if self.timeout is None else reasons.of_time_out(self.timeout)


class Account:
    """The account of a token. It is kept during a `with` block.

    :param thread: the identifier of the thread that starts its programs; None for all threads without an account
    """

    def __init__(self, thread: int | None) -> None:
        self.failure: Failure | None = None
        """How the last program that has failed did so."""
        self._thread = thread
        self._shares: dict[int, _Share] = {}  # by thread: each adds only to its own
        self._outer: Account | None = None

    def __enter__(self) -> Account:
        if not _kills:
            _kills.append(OutOfMemoryKills())
        self._outer = _accounts.get(self._thread)
        _accounts[self._thread] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outer is None:
            _accounts.pop(self._thread, None)
        else:  # the token's code runs an actor of its own
            _accounts[self._thread] = self._outer
            self._outer = None

    def add(self, program: Program) -> None:
        """Add a program that has ended, or was left to itself."""
        self._shares.setdefault(threading.get_ident(), _Share()).add(program)

    def usage(self) -> Usage | None:
        """Return what all programs have used; None if there was none, or if it is unknown of one."""
        if not self._shares:
            return None
        shares = [share.usage() for share in list(self._shares.values())]
        known = [usage for usage in shares if usage is not None]
        if len(known) < len(shares):
            return None
        return Usage(sum(usage.cpu_seconds for usage in known), max(usage.max_memory_mb for usage in known))

    def reason(self, exit_code: object) -> str:
        """Return why a token has failed of which only an exit code shows that."""
        failure = self.failure
        if failure is None or not failure.explains(exit_code):
            return reasons.of_exit_code(exit_code)
        return failure.reason(exit_code)


class _Share:
    """What the programs of one thread have used, of which there may be very many."""

    def __init__(self) -> None:
        self._sum: Usage | None = Usage(0.0, 0.0)
        self._left: list[Program] = []  # they have left something in the background, whose use is not known yet

    def add(self, program: Program) -> None:
        self._left.append(program)
        for each in [each for each in self._left if each.is_gone.is_set()]:
            self._left.remove(each)
            self._sum = _together(self._sum, each.usage)

    def usage(self) -> Usage | None:
        total = self._sum
        for program in list(self._left):
            total = _together(total, program.usage)
        return total


def _together(one: Usage | None, other: Usage | None) -> Usage | None:
    """Return the sum of what programs have used that may have run one after the other; None if one is unknown."""
    if one is None or other is None:
        return None
    return Usage(one.cpu_seconds + other.cpu_seconds, max(one.max_memory_mb, other.max_memory_mb))


def note_end(program: Program) -> None:
    """Note a program of this thread that has ended, or was left to itself."""
    account = _current()
    if account is not None:
        account.add(program)


def note_failure(exit_code: int, line: str = "", timeout: float | None = None) -> None:
    """Note how a program of this thread has failed.

    :param exit_code: its exit code, which is not 0
    :param line: what it has said last
    :param timeout: the seconds that it was allowed to take, if they were over
    """
    account = _current()
    if account is not None:
        is_out_of_memory = exit_code in _KILLED and timeout is None and any(kills.has_risen() for kills in _kills)
        account.failure = Failure(exit_code, line, timeout, is_out_of_memory)


def _current() -> Account | None:
    return _accounts.get(threading.get_ident()) or _accounts.get(None)
