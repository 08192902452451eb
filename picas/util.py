"""Small helpers: time, numbers, texts, dictionaries, files, waiting and threads."""

from __future__ import annotations

import difflib
import errno
import importlib
import math
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Mapping, MutableSequence
from concurrent.futures import Future
from copy import deepcopy
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from .exceptions import MissingPackage

if TYPE_CHECKING:  # not in Python 3.9
    from typing import TypeGuard

Result = TypeVar("Result")

LONGEST_NAP = 0.2
"""Seconds between two checks of `wait_until` at most."""

_SECONDS_IN = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-5][0-9]):([0-5][0-9])")
"""How Slurm writes days, hours, minutes and seconds (squeue(1), %l). It writes 90 seconds as 1:30, which people read as
an hour and a half: that is refused."""
LONGEST_DURATION = 36_500 * 86_400.0
"""The most seconds that `parse_duration` returns: a hundred years. The system can't wait for much longer."""
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal or change the direction of the text, and halves of characters."""


def seconds() -> int:
    """Return the time in whole seconds since the epoch."""
    return int(time.time())


class Timer:
    """A stopwatch that starts when it is created, and that changes of the system time do not affect."""

    def __init__(self) -> None:
        self.t = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the timer was created or reset."""
        return time.monotonic() - self.t

    def reset(self) -> float:
        """Restart the timer and return the seconds that it had measured."""
        now = time.monotonic()
        passed, self.t = now - self.t, now
        return passed


def time_elapsed(timer: Timer, max: float = 30.0) -> bool:
    """Return whether the timer has measured more than `max` seconds."""
    return timer.elapsed() > max


def merge_dicts(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy of `a`, updated with the items of `b`."""
    merged = deepcopy(a)
    merged.update(b)
    return merged


def split_credentials(url: str) -> tuple[str, str, str]:
    """Split a server's address into the address without credentials, the user name and the password.

    :returns: the three; the user name and the password are '' if the address has none
    :raises ValueError: if the address is invalid; the message contains nothing that may be a password
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https"):
        raise ValueError("the address must begin with http:// or https://")
    try:
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        port_is_valid = False
    if not (port_is_valid and parts.hostname) or "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("the address has no valid host and port; write / ? # @ : in a password as %2F %3F %23 %40 %3A")
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
    return bare.rstrip("/"), unquote(parts.username or ""), unquote(parts.password or "")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number. Python counts True and False as numbers; this function does not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number_or_none(value: object) -> float | None:
    """Return a number from a document as a float, None if the value is not a number.

    True, False, NaN and texts are not numbers. Infinity is one, and an integer too large for a float becomes infinity,
    as in JavaScript.
    """
    if not is_number(value):
        return None
    try:
        number = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return None if math.isnan(number) else number


def duration_text(seconds: float) -> str:
    """Return a duration for people, in its largest unit: "45 s", "3 min", "2 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.0f} h"


def parse_duration(text: str) -> float:
    """Return the seconds that a text like "90", "15m", "2h", "3d", "01:30:00" or "1-12:00:00" stands for.

    :raises ValueError: if it is something else, or longer than `LONGEST_DURATION`
    """
    clock, match = _CLOCK.fullmatch(text.strip()), re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text.strip())
    if clock is not None:
        days, hours, minutes, rest = (float(part or 0) for part in clock.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    elif match is not None:
        seconds = float(match.group(1)) * _SECONDS_IN[match.group(2)]
    else:
        raise ValueError(f"{text!r} is not a duration like 90 (seconds), 15m, 2h, 3d or 01:30:00")
    if seconds > LONGEST_DURATION:
        raise ValueError(f"{text!r} is longer than {LONGEST_DURATION / _SECONDS_IN['d']:.0f} days")
    return seconds


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is most like another one: ", did you mean 'slots'?"; "" if none is."""
    found = difflib.get_close_matches(name, sorted(known), n=1)
    return f", did you mean {found[0]!r}?" if found else ""


def refuse_unknown(names: Iterable[str], known: Collection[str], function: str, others: Iterable[str] = ()) -> None:
    """Raise an error if a function got an argument that it does not have; without that, a typing error has no effect.

    :param names: the names of the arguments
    :param known: those that may be given
    :param function: the name of the function
    :param others: its other arguments, which may be meant as well
    :raises TypeError: if a name is unknown; it suggests the name that is most like it
    """
    for name in names:
        if name not in known:
            hint = nearest(name, {*known, *others})
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def check_limit(value: object, name: str, least: float = 0) -> None:
    """Check an argument that is a number, or None for no limit.

    :param value: the argument
    :param name: its name
    :param least: the smallest value allowed
    :raises ValueError: if it is anything else, or too small
    """
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (is_real and least <= value):  # type: ignore[operator]  # NaN is not at least anything
        raise ValueError(f"{name} must be a number, at least {least:g}, not {value!r}")


def list_in(fields: Mapping[str, Any], name: str) -> list[Any]:
    """Return the list in a field, or an empty list if the field is missing or holds anything else."""
    value = fields.get(name, None)
    return value if isinstance(value, list) else []


def visible(text: str) -> str:
    """Return a text with its control characters in the form "\\x1b", for a terminal; newlines and tabs are kept.

    A token may come from anybody. Escape sequences in it could change what the terminal shows, or what it types.
    """
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def one_line(detail: object) -> str:
    """Return a text on one line, see `visible`. The parts of a tuple, which may be nested, are joined with colons."""
    if isinstance(detail, tuple):
        return ": ".join(one_line(part) for part in detail if part)
    return visible(" ".join(str(detail).split()))


def safe_text(value: object) -> str:
    """Return the text of a value, or the name of its type if its own code fails to make one.

    Half characters, which no file can hold, become escape sequences.
    """
    try:
        return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    except Exception:
        return f"<{type(value).__name__}>"


def always() -> bool:
    """Return True: the default of parameters that take a condition."""
    return True


def never() -> bool:
    """Return False: the default of parameters that take a condition."""
    return False


class After:
    """A condition that becomes true after some time.

    :param seconds: how long after now
    """

    def __init__(self, seconds: float) -> None:
        self._time = time.monotonic() + seconds

    def __call__(self) -> bool:
        """Return whether the time has passed."""
        return time.monotonic() >= self._time


def cut_line(cut: int, size: int) -> bytes:
    """Return the line that replaces the bytes cut out of a text.

    :param cut: how many bytes were cut
    :param size: how many bytes the whole text has
    """
    return f"\n[... picas cut {cut} of {size} bytes here ...]\n".encode()


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; never wait for another process to write, as a named pipe does.

    :raises OSError: if it can't be read, or is no regular file
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_capped(path: str | Path, limit: int) -> bytes:
    """Return the content of a file; of a file larger than `limit`, its head and tail with a line between them.

    The line says how much was cut, and does not count towards the limit. Only what is returned is held in memory.

    :param path: the file
    :param limit: how many bytes of the file to return at most
    :raises OSError: if the file can't be read, or is no regular file
    """
    with open_regular(path) as file:
        # Python takes as much memory as it is asked to read, however short the file is.
        expected = min(limit, os.fstat(file.fileno()).st_size)
        head = file.read(expected + 1)
        if len(head) > expected:  # there is more, or the file grows, or the system does not know its size
            head += file.read(limit + 1 - len(head))
        if len(head) <= limit:
            return head
        half = limit // 2
        size = file.seek(0, 2)
        cut = size - 2 * half
        file.seek(size - half)
        tail = file.read(half)
    return head[:half] + cut_line(cut, size) + tail


def write_private(path: str | Path, text: str) -> None:
    """Write a file that only this user can read, all of it or nothing. If it is a link, what it leads to is replaced.

    Folders that are missing are created, for this user only.

    :raises OSError: if it can't be written
    """
    target = Path(path).resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(fresh, target)  # noqa: PTH105
    except BaseException:
        os.unlink(fresh)  # noqa: PTH108
        raise


def import_extra(module: str, package: str, extra: str) -> Any:
    """Import and return a module of a package that only an extra of picas installs.

    :param module: the name of the module, "yaml" for example
    :param package: the name of the package that has it, "PyYAML" for example
    :param extra: the name of the extra
    :raises MissingPackage: if it is not installed
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPackage(f'the package {package} is missing: pip install "picas[{extra}]"') from None


def wait_until(condition: Callable[[], bool], seconds: float, sleep: Callable[[float], object] = time.sleep) -> bool:
    """Wait until a condition is true or the time is up, and return whether the condition is true.

    It polls rather than waiting for a `threading.Event`: a signal handler that sets an event can interrupt its own
    thread while that holds the event's lock, and then waits for ever.

    :param condition: called at least once
    :param seconds: how long to wait at most
    :param sleep: called with the seconds to sleep; may return early, when the condition has become true
    """
    give_up = time.monotonic() + seconds
    pause = 0.005
    while not condition():
        left = give_up - time.monotonic()
        if left <= 0:
            return False
        sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_NAP)
    return True


def in_background(
    function: Callable[[], Result], pending: MutableSequence[Future[Result]] | None = None
) -> Future[Result]:
    """Call a function in a thread, and return its result to come.

    The process can end while the function runs. It waits for the threads of a `ThreadPoolExecutor`, which may wait for
    a server.

    :param pending: the result is appended to this before the thread starts: Ctrl-C may come between any two lines
    """
    future: Future[Result] = Future()
    if pending is not None:
        pending.append(future)

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    threading.Thread(target=run, name="picas-background", daemon=True).start()
    return future
