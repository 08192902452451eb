"""What a pilot prints for people: in a batch job, where it runs; and how the attempt on each token has ended."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from ..batch import find_job_id
from ..config import Settings
from ..modifiers import ERROR_MARK
from ..tokens.states import state_of
from ..util import is_number, list_in, one_line, visible
from ..version import VERSION

_STOPPED = "stopped"


def announce_job(settings: Settings) -> bool:
    """Print one line about the host, the job and the pool, and return True; outside a batch job, return False.

    :param settings: the pool. The password is not shown.
    """
    line = describe_job(settings)
    if line is None:
        return False
    _print_line(line)
    return True


def describe_job(settings: Settings, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return one line about the host, the job and the pool, None outside a batch job."""
    found = find_job_id(environment)
    if found is None:
        return None
    field, job_id = found
    job = f"{field[: -len('_job_id')]} job {job_id or 'without an id'}"
    return f"picas {VERSION} on {socket.gethostname()}, {job}, pool {settings.host_url}/{settings.database}"


def print_end(token: Mapping[str, Any]) -> None:
    """Print how the last attempt on a token has ended; a listener for `actors.on_end`."""
    _print_line(describe_end(token))


def describe_end(token: Mapping[str, Any]) -> str:
    """Return one line about a token's last attempt: "token_7 failed 1.2 s: exit 3".

    :param token: the token as the attempt has left it
    """
    attempts = list_in(token, "attempts")
    last: dict[str, Any] = attempts[-1] if attempts and isinstance(attempts[-1], dict) else {}
    seconds = last.get("seconds")
    time = [f"{seconds:.1f} s"] if is_number(seconds) else []
    line = " ".join([one_line(token.get("_id", "")), str(last.get("outcome", "")), *time])
    return f"{line}: {_why(token, last)}"


def _why(token: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Return why an attempt ended in this way: its reason, and the exit code of its program where that says more."""
    reason = one_line(last.get("reason") or "")
    if last.get("outcome") == _STOPPED and state_of(token) != "error":
        cause = reason[len(f"{_STOPPED}: ") :] if reason.startswith(f"{_STOPPED}: ") else reason
        return f"put back ({cause})" if cause else "put back"
    errors, code = list_in(token, "error"), last.get("exit_code")
    if code in (ERROR_MARK, str(ERROR_MARK)):  # Python code has raised an exception
        message = errors[-1].get("message", "") if errors and isinstance(errors[-1], dict) else ""
        return reason or one_line(message) or f"exit {ERROR_MARK}"
    end = _describe_code(code)
    return f"{reason} ({end})" if reason and end and not reason.startswith(end) else reason or end or "no exit code"


def _describe_code(code: object) -> str:
    """Return what an exit code says, '' if it is none."""
    if not is_number(code):
        return ""
    return f"signal {-code:.0f}" if code < 0 else f"exit {code:.0f}"


def _print_line(line: str) -> None:
    print(visible(line) + "\n", end="", flush=True)  # in one piece: slots print at once, and people follow the file
