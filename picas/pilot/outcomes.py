"""How an attempt at a token ended, as the token, the error and the signals tell."""

from __future__ import annotations

import logging
import math
import signal

from .. import modifiers
from ..documents import Document
from ..exceptions import TokenLost, TokenTimeout
from ..tokens.states import is_in_state, parse_int, state_of

log = logging.getLogger(__name__)

STOP_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that stop a pilot by default."""

_STOPPED_EXIT_CODES = frozenset(
    code for signum in (*STOP_SIGNALS, signal.SIGKILL) for code in (-signum, 128 + signum)
)  # of a child that got the signal which stops the pilot too, as Popen and as a shell tell it


def conclude(task: Document, error: BaseException | None, auto_close: bool) -> str:
    """Bring a token that was processed into its final state, note the attempt on it, and return how that ended.

    :param task: the token
    :param error: what the user's code raised
    :param auto_close: whether a token that the code has left open is closed, with exit code 0 if it has none
    """
    if isinstance(error, (TokenTimeout, TokenLost)):
        modifiers.set_error(task, error)
        log.warning("Token %s failed: %s", _name(task), error)
        outcome = "lost" if isinstance(error, TokenLost) else "time-out"
    else:
        if error is not None:
            modifiers.set_error(task, f"{type(error).__name__}: {error}", error)
            log.warning("Token %s failed: %s: %s", _name(task), type(error).__name__, error)
        elif auto_close and is_in_state(task, "locked"):
            if task.get("exit_code") in ("", None):
                task["exit_code"] = 0
            modifiers.close(task)
        # One that the user's code has put back itself has failed as well: that is why one does it.
        outcome = {"done": "done", "locked": "left open"}.get(str(state_of(task)), "failed")
    modifiers.end_attempt(task, outcome)
    return outcome


def has_result(task: Document, auto_close: bool) -> bool:
    """Tell whether the user's code has said how its work ended, so that only its own clean-up is left."""
    is_closed = not is_in_state({"lock": 1, "done": task.get("done", 0)}, "locked")
    return is_closed or (auto_close and task.get("exit_code", "") not in ("", None))


def may_retry(task: Document, max_scrub: int) -> bool:
    """Tell whether a token has failed and may be tried again."""
    count = parse_int(task.get("scrub_count", 0))
    return is_in_state(task, "error") and max_scrub > (0 if math.isnan(count) else count)


def was_ended_by_signal(exit_code: object) -> bool:
    """Tell whether an exit code is that of a child that the pilot's own signal, or we ourselves, have ended."""
    return parse_int(exit_code) in _STOPPED_EXIT_CODES


def _name(task: Document) -> str:
    return str(task.get("_id", "without id"))
