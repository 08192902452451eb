"""Why an attempt has ended: one line for people, and a short id that failures of the same kind share."""

from __future__ import annotations

import hashlib
import math
import re
import signal

from ..util import number_or_none, one_line, safe_text
from .states import is_unset, parse_int

MAX_REASON = 200
"""How many characters a reason has at most."""
OUT_OF_MEMORY = "out of memory"
LEFT_OPEN = "left open"
RESET = "reset by a person"
PUT_BACK = "put back by its own code"
NO_EXIT_CODE = "closed without an exit code"

_MOST_READ = 20 * MAX_REASON  # characters of a text that is made a reason
_SHELL_SIGNALS = {
    128 + signum: signum
    for signum in (
        signal.SIGINT, signal.SIGQUIT, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE,
        signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGTERM, signal.SIGXCPU, signal.SIGXFSZ,
    )
}  # fmt: skip
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_KIND = re.compile(r"(?:exit|signal) -?[0-9]+(?: \(signal [0-9]+,)?")
"""The beginning of a reason whose numbers stay: failures with different exit codes are not alike."""
_QUOTED = re.compile(r"""(?<!\w)(?:'[^']*'|\u2018[^\u2019]*\u2019|`[^`']*['`])(?!\w)|"[^"]*"|\u201c[^\u201d]*\u201d""")
_PATH = re.compile(r"(?<![\w/<>.~-])(?:[a-z][a-z0-9+.-]*:/|~|\.\.?)?(?:/[^\s/:,;()\[\]<>|]+)+/?")
_RELATIVE_PATH = re.compile(r"(?<![\w/<>.])[\w.+@%~=-]+(?:/[\w.+@%~=-]+)+/?")
_ID = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,})(?![0-9A-Za-z])",
    re.IGNORECASE,
)
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]+")
_NUMBER = re.compile(r"(?:(?<![\w>)\]])[-+])?[0-9]+(?:[.,][0-9]+)*(?:[eE][-+]?[0-9]+)?")


def shortened(text: object) -> str:
    """Return a text as a reason: on one line, and of at most `MAX_REASON` characters."""
    line = one_line(safe_text(text)[:_MOST_READ])
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 1]}…"


def last_line(output: bytes) -> str:
    """Return the last line of a program's output that is not blank, without colours; "" if there is none.

    :param output: its end is enough
    """
    text = _ESCAPE_SEQUENCE.sub("", output.decode("utf-8", "replace"))
    return next((shortened(line) for line in reversed(text.splitlines()) if line.strip()), "")


def of_exit_code(exit_code: object, line: str = "") -> str:
    """Return the reason of a failure that only an exit code shows.

    A negative code is a signal. A shell adds 128 to the signal that has ended its command. Programs use such codes for
    other things as well, so the reason names both.

    :param exit_code: the token's exit code, of any type
    :param line: what the program has said last
    """
    if is_unset(exit_code):
        return NO_EXIT_CODE
    number = parse_int(exit_code)
    code = int(number) if math.isfinite(number) else None
    if code is None:
        kind = f"exit {one_line(safe_text(exit_code))}"
    elif code < 0:
        kind = f"signal {-code}{f' ({_signal_words(-code)})' if _signal_words(-code) else ''}"
    elif code in _SHELL_SIGNALS:
        kind = f"exit {code} (signal {_SHELL_SIGNALS[code]}, {_signal_words(_SHELL_SIGNALS[code])})"
    else:
        kind = f"exit {code}"
    return shortened(f"{kind}: {line}" if line else kind)


def of_exception(error: BaseException) -> str:
    """Return the type and the message of an exception, which may have several lines."""
    message = safe_text(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def of_time_out(seconds: float) -> str:
    """Return the reason of a token whose time was up."""
    return f"time-out after {seconds:g} s"


def of_stop(signum: int | None) -> str:
    """Return why a token was put back when its pilot ended early.

    :param signum: the signal that has stopped the pilot, None if none has
    """
    if signum is None:
        return "stopped: the run was broken off"
    name = signal.Signals(signum).name if signum in set(signal.Signals) else f"signal {signum}"
    return f"stopped: {name}"


def of_job_end(seconds: float, times: int = 1) -> str:
    """Return why a token was put back, or has failed, that was at work when the time of its job was over.

    :param seconds: how long it was at work
    :param times: how often that has happened by now
    """
    line = f"stopped: the time of the job was over after {seconds:.0f} s"
    return line if times == 1 else f"{line}, {times} times: the token takes longer than its jobs"


def of_silence(seconds: float) -> str:
    """Return why a token was put back whose pilot counts as dead.

    :param seconds: for how long, at least, the pilot had no heartbeat; 0 if that is unknown
    """
    known = number_or_none(seconds)  # it may come from a document, and be any number
    if known is None or not 0 < known < math.inf:
        return "lost: its pilot has died"
    return f"lost: pilot silent for {known:g} s"


def blanked(reason: str) -> str:
    """Return a reason without what differs between failures of the same kind.

    Quoted text becomes <text>, paths and addresses <path> (also in quotes), long ids with letters and digits <id>,
    hexadecimal numbers <hex>, and all other numbers <n>. The exit code or signal at the beginning stays.
    """
    kind = _KIND.match(reason)
    start = kind.end() if kind else 0
    rest = _QUOTED.sub(_blank_quoted, reason[start:])
    rest = _PATH.sub("<path>", rest)
    rest = _RELATIVE_PATH.sub(_blank_relative, rest)
    rest = _HEXADECIMAL.sub("<hex>", _ID.sub("<id>", rest))
    return reason[:start] + _NUMBER.sub("<n>", rest)


def group_of(reason: str) -> str:
    """Return the id that this reason shares with those of the same kind: "r" and four hexadecimal digits."""
    content = blanked(reason).encode("utf-8", "backslashreplace")
    return f"r{hashlib.sha256(content).hexdigest()[:4]}"


def _signal_words(signum: int) -> str:
    """Return what the system calls a signal, in lower case; "" if it has no name."""
    try:
        words = signal.strsignal(signum) or ""
    except (ValueError, OverflowError):
        return ""
    return "" if words.startswith("Unknown") else words.partition(":")[0].lower()  # macOS adds the number


def _blank_quoted(found: re.Match[str]) -> str:
    text = found.group()[1:-1]
    return "<path>" if "/" in text and not re.search(r"\s", text) else "<text>"


def _blank_relative(found: re.Match[str]) -> str:
    """Blank a path without a "/" in front, but not words like "input/output"."""
    text = found.group()
    return "<path>" if text.count("/") > 1 or re.search(r"[0-9._]", text) else text
