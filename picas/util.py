"""Small helpers: time, dictionaries and files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable
from urllib.parse import unquote, urlsplit, urlunsplit

if TYPE_CHECKING:  # Python 3.9 has none
    from typing import TypeGuard

LONGEST_NAP = 0.2
"""Seconds after which `wait_until` looks again at the latest."""


def seconds() -> int:
    """Return the time in whole seconds since the epoch."""
    return int(time.time())


class Timer:
    """A stopwatch that runs from its making, on a clock that nobody sets back."""

    def __init__(self) -> None:
        self.t = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the timer was made or reset."""
        return time.monotonic() - self.t

    def reset(self) -> float:
        """Start again from zero and return the seconds that had passed."""
        now = time.monotonic()
        passed, self.t = now - self.t, now
        return passed


def time_elapsed(timer: Timer, max: float = 30.0) -> bool:
    """Tell whether more than `max` seconds have passed on the timer."""
    return timer.elapsed() > max


def merge_dicts(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy of `a`, with the items of `b` laid over it."""
    merged = deepcopy(a)
    merged.update(b)
    return merged


def split_credentials(url: str) -> tuple[str, str, str]:
    """Return a server's address without user and password, the user, and the password ('' where there is none).

    :raises ValueError: if the address makes no sense; the text tells nothing of what may be a password
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
    """Return whether a value is a number, as people write one: `True` is an int in Python, and is none here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def list_in(fields: Mapping[str, Any], name: str) -> list[Any]:
    """Return the list in a field, or an empty list if the field is missing or holds anything else."""
    value = fields.get(name, None)
    return value if isinstance(value, list) else []


def one_line(detail: object) -> str:
    """Return a text on one line. The parts of a tuple, which may be nested, are joined with colons."""
    if isinstance(detail, tuple):
        return ": ".join(one_line(part) for part in detail if part)
    return " ".join(str(detail).split())


def always() -> bool:
    """Return True: the default where a condition can be given."""
    return True


def never() -> bool:
    """Return False: the default where a condition can be given."""
    return False


class After:
    """A condition that becomes true after some time.

    :param seconds: the seconds from now
    """

    def __init__(self, seconds: float) -> None:
        self._time = time.monotonic() + seconds

    def __call__(self) -> bool:
        """Return whether the time has passed."""
        return time.monotonic() >= self._time


def cut_line(cut: int, size: int) -> bytes:
    """Return the line that stands in a text where some of its bytes were left out.

    :param cut: how many bytes
    :param size: how many there were in all
    """
    return f"\n[... picas cut {cut} of {size} bytes here ...]\n".encode()


def read_capped(path: str | Path, limit: int) -> bytes:
    """Return a file's content, at most `limit` bytes of it: its head and its tail, with a line between that says so.

    Only what is returned is held in memory. The line comes on top of the limit.

    :param path: the file
    :param limit: the most bytes of the file to return
    :raises OSError: if the file can't be read
    """
    with Path(path).open("rb") as file:
        head = file.read(limit + 1)
        if len(head) <= limit:
            return head
        half = limit // 2
        size = file.seek(0, 2)
        cut = size - 2 * half
        file.seek(size - half)
        tail = file.read(half)
    return head[:half] + cut_line(cut, size) + tail


def wait_until(condition: Callable[[], bool], seconds: float, sleep: Callable[[float], object] = time.sleep) -> bool:
    """Wait until a condition holds, at the most some seconds, and return whether it does.

    It looks again and again, rather than waiting for a `threading.Event`: a signal handler that sets an event can meet
    the thread inside that event's own lock, and both would wait for ever.

    :param sleep: sleeps for so many seconds; may wake up earlier when the condition has come true
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
