"""Tokens for tests."""

from __future__ import annotations

from itertools import product
from typing import Any

from picas.generators import TokenGenerator

MISSING = object()
"""The field is absent."""

MARKS: list[Any] = [0, 1, 99, -1, 0.5, -0.0, True, False, None, MISSING, "", " ", "0", "1", "-1", "abc", "nan", "inf"]
MARKS += [
    "Infinity",
    "-Infinity",
    "0x0",
    "0x1F",
    "-0x1",
    "0b1",
    "1_000",
    "1e3",
    ".5",
    "5.",
    "1.",
    "\u0661",
    "\u00a00",
    "\u001c0",
]
"""Values of `lock` and `done` that people and scripts have written."""

EXIT_CODES: list[Any] = [0, 1, -1, 137, 0.0, 0.9, -0.5, 1e-7, 1e21, 1e300, 10**30, True, False, None, MISSING]
EXIT_CODES += ["", "0", "1", "00", "+0", "-0", " 0", "\ufeff0", "\u001c0", "\u00850", "0.9", "0x1", "0 errors", "1 0"]
EXIT_CODES += ["abc", "\u0660", "NaN", {}, {"a": 0}, "1" * 5000, "0" * 5000]
"""Values of `exit_code` that people and scripts have written."""


def make_token(number: int = 0, **fields: object) -> dict[str, object]:
    """Return a new token with the id token_<number>."""
    return {**TokenGenerator.get_empty_token(), "_id": f"token_{number}", "input": "", "exit_code": "", **fields}


def _odd_token(number: int, **fields: Any) -> dict[str, Any]:
    content = {"_id": f"t{number:05}", "type": "token", **fields}
    return {name: value for name, value in content.items() if value is not MISSING}


def odd_tokens() -> list[dict[str, Any]]:
    """Return a token for each pair of odd marks and for each odd exit code."""
    marks = list(product(MARKS, MARKS))
    tokens = [_odd_token(number, lock=lock, done=done, exit_code="") for number, (lock, done) in enumerate(marks)]
    tokens += [
        _odd_token(len(tokens) + number, lock=1, done=1, exit_code=code) for number, code in enumerate(EXIT_CODES)
    ]
    tokens += [{"_id": "z0", "type": "token"}, _odd_token(99998, lock=5, done="7", exit_code="0")]
    return tokens


def ended_token(
    number: int,
    outcome: str = "failed",
    *,
    reason: str | None = None,
    group: str | None = None,
    exit_code: int = 1,
    start: int = 1_700_000_000,
    seconds: float = 10.0,
    **fields: Any,
) -> dict[str, Any]:
    """Return a token as a pilot leaves it after one attempt: done with the outcome "done", else in error.

    :param start: when the attempt began, in seconds since the epoch
    :param seconds: how long it took
    """
    is_done = outcome == "done"
    code = 0 if is_done else exit_code
    attempt = {
        "claim": f"{number:032x}",
        "pilot": "picas_pilot_host_1_abcdef01",
        "host": "host",
        "job_id": None,
        "start": start,
        "end": int(start + seconds),
        "outcome": outcome,
        "exit_code": code,
        "seconds": seconds,
        "cpu_seconds": round(seconds / 2, 2),
        "max_memory_mb": 12.0,
        "cores": 1,
    }
    known = {name: value for name, value in (("reason", reason), ("group", group)) if value is not None}
    error = [] if is_done or reason is None else [{"time": attempt["end"], "message": reason}]
    return make_token(
        number,
        lock=start,
        done=attempt["end"],
        hostname="host",
        exit_code=code,
        attempts=[{**attempt, **known}],
        **({"error": error} if error else {}),
        **fields,
    )
