"""An attempt: a token that this pilot has locked, the work on it, and how that ended."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from subprocess import Popen
from typing import Any

from .. import modifiers
from ..documents import Document
from ..exceptions import TokenCancelled, TokenLost, TokenTimeout
from ..picaslogger import get_logger
from ..pool.results import ClaimedToken, Stage
from ..processes import Account, TimeLimit
from ..tokens import reasons
from ..tokens.measures import Measures
from ..tokens.resources import needs_of
from ..tokens.states import is_in_state, is_unset, parse_int, state_of
from ..util import list_in, seconds
from .conditions import CANCELLED
from .options import STOP_SIGNALS
from .signals import WARNINGS

log = get_logger(__name__)

_STOPPED_EXIT_CODES = frozenset(
    code for signum in (*STOP_SIGNALS, *WARNINGS, signal.SIGKILL) for code in (-signum, 128 + signum)
)  # of a child that received the signal that stops the pilot too, as Popen and as a shell report it

_OUTCOMES = {TokenTimeout: "time-out", TokenLost: "taken away", TokenCancelled: CANCELLED}
"""The outcomes of attempts that did not end by themselves, by what was raised in the user's code."""


class Attempt(ClaimedToken):
    """A token that this pilot holds, and the work on it.

    :param token: the token, just locked
    :param values: what the user's code sets on the actor while it works on this token
    """

    def __init__(self, token: Document, values: dict[str, Any]) -> None:
        super().__init__(token, stage=Stage.WORKING)
        self.values = values
        self.needs = needs_of(token)
        """What it needs of the pilot; the user's code may change the token's fields later."""
        self.gpus: list[int] = []
        """The numbers of the GPUs assigned to it, among those of the pilot."""
        self.older: list[Popen[Any]] = []
        """The children that had left something in the background before the work on it began, and what was forked."""
        self.thread: int | None = None
        """The identifier of its slot's thread; None if the work is done in the thread of the run."""
        self.limit: TimeLimit | None = None
        """What can interrupt the user's code."""
        self.interruption: BaseException | None = None
        """What ended the work, if not the user's code by itself."""
        self.account: Account | None = None
        """What its programs have used; None if its work has not begun."""
        self.software = ""
        """See `Options.software`."""
        self.cancellation = ""
        """Who has cancelled it and why, if somebody has: the reason of the attempt."""
        self.waits = False
        """Whether it was locked ahead, before there was a slot for it."""
        self.began: float | None = None
        """When the work on it began, on the clock of `time.monotonic`; None if it has not."""
        self.worked: float | None = None
        """For how many seconds the user's code has worked on it; None until it has returned."""
        self.is_given_back = False
        """Whether it was put back before its work began."""
        self.is_left_open = False
        """Whether it is to stay locked, although its work was broken off."""
        self.outcome = ""
        """How it ended, see `modifiers.end_attempt`; "" while it has not, and if its work has not begun."""
        self.ended = math.inf
        """When it came into its final state, on the same clock."""

    @property
    def is_concluded(self) -> bool:
        """Whether the token is in its final state, saved or not."""
        return self.stage not in (Stage.WORKING, Stage.RETURNED, Stage.LOST, Stage.CANCELLED)

    @property
    def is_over(self) -> bool:
        """Whether this pilot is known to hold the token no longer."""
        is_taken_before = self.stage is Stage.LOST and self.began is None
        return self.stage in (Stage.SAVED, Stage.TAKEN) or self.is_left_open or is_taken_before

    @property
    def attached(self) -> int:
        """The characters of the files in the token that have yet to be sent."""
        entries = self.token.get("_attachments")
        if not isinstance(entries, dict):  # the user's code can put anything there
            return 0
        data = [entry.get("data") for entry in entries.values() if isinstance(entry, dict) and not entry.get("stub")]
        return sum(len(text) for text in data if isinstance(text, str))

    def has_result(self, auto_close: bool) -> bool:
        """Return whether the user's code has said how its work ended, so that only its own clean-up is left."""
        token = self.token
        is_closed = not is_in_state({"lock": 1, "done": token.get("done", 0)}, "locked")
        return is_closed or (auto_close and not is_unset(token.get("exit_code")))

    def is_finished(self, auto_close: bool) -> bool:
        """Return whether a token whose work was broken off counts as processed all the same."""
        is_done = self.stage is Stage.RETURNED or self.has_result(auto_close)
        return is_done and not was_ended_by_signal(self.token.get("exit_code"))

    def conclude(self, error: BaseException | None, auto_close: bool) -> str:
        """Bring a token that was processed into its final state, record the attempt, and return its outcome.

        :param error: what the user's code raised
        :param auto_close: whether a token that the code has left open is closed, with exit code 0 if it has none
        """
        outcome, reason = self._judge(error, auto_close)
        modifiers.end_attempt(self.token, outcome, reason, self.measures())
        if reason and outcome in modifiers.FAILURES:
            log.log(logging.INFO if error is None else logging.WARNING, "Token %s failed: %s", self.id, reason)
        elif not reason:
            log.info("Token %s is %s", self.id, outcome)
        self.advance(Stage.CONCLUDED)
        self.outcome = outcome
        return outcome

    def measures(self) -> Measures:
        """Return what the work on it has taken so far, as far as that is known."""
        if self.began is None:
            return Measures()
        worked = time.monotonic() - self.began if self.worked is None else self.worked
        usage = None if self.account is None else self.account.usage()
        if usage is None:
            return Measures(worked, cores=self.needs.cores, software=self.software)
        return Measures(worked, usage.cpu_seconds, usage.max_memory_mb, self.needs.cores, self.software)

    def _judge(self, error: BaseException | None, auto_close: bool) -> tuple[str, str]:
        """Bring the token into its final state, and return its outcome and the reason. For the parameters see above."""
        token = self.token
        if error is not None:
            is_by_itself = not isinstance(error, (TokenTimeout, TokenLost))
            text = reasons.of_exception(error) if is_by_itself else str(error)
            modifiers.set_error(token, text, error if is_by_itself else None)
            return _OUTCOMES.get(type(error), "failed"), text
        if auto_close and is_in_state(token, "locked"):
            if is_unset(token.get("exit_code")):
                token["exit_code"] = 0
            modifiers.close(token)
        state = state_of(token)
        if state == "locked":
            return "left open", reasons.LEFT_OPEN
        # A token that the user's code has put back itself has failed as well: that is why code does so.
        return ("done", "") if state == "done" else ("failed", self._failure(is_free=state == "todo"))

    def _failure(self, is_free: bool) -> str:
        """Return why the token has failed without an exception, and note it in its field `error`.

        :param is_free: whether the user's code has put it back
        """
        token = self.token
        before, errors = list_in(self.claimed, "error")[-1:], list_in(token, "error")[-1:]
        if token.get("lock") == modifiers.ERROR_MARK and errors != before and isinstance(errors[0], dict):
            own = reasons.shortened(errors[0].get("message", ""))  # the user's code has called `set_error`, or the like
            if own:
                return own
        exit_code = token.get("exit_code")
        if is_free:
            reason = reasons.PUT_BACK
        else:
            reason = reasons.of_exit_code(exit_code) if self.account is None else self.account.reason(exit_code)
        modifiers.note_error(token, reason)
        return reason

    def begin(self) -> bool:
        """Note that its work begins, and return whether it may: not if another pilot has taken it while it waited."""
        if self.stage is Stage.LOST:
            return False
        if self.waits and "claim" in self.token:
            self.token["claim"]["start"] = seconds()
        self.began = time.monotonic()
        log.info("Token %s is taken", self.id)
        return True

    def give_back(self) -> None:
        """Put the token back, whose work has not begun: nothing is recorded, nothing counted."""
        modifiers.reset(self.token)
        self.advance(Stage.CONCLUDED)
        self.is_given_back = True
        self.ended = time.monotonic()

    def put_back(
        self,
        reason: str,
        reset_values: Sequence[Any] | None = None,
        max_lost: float = math.inf,
        *,
        is_nodes_fault: bool = False,
    ) -> str:
        """Put the token back, not counted as a failure, record the attempt, and return its outcome.

        :param reason: why it is put back
        :param reset_values: what `lock` and `done` become, 0 by default
        :param max_lost: how often pilots may be stopped as soon as they have begun with it, see `modifiers.stop`
        :param is_nodes_fault: whether the pilot ends because of a problem with its node
        """
        values = reset_values or (0, 0)
        if self.began is None:
            modifiers.reset(modifiers.end_attempt(self.token, "stopped", reason), *values)
        else:
            modifiers.stop(
                self.token, max_lost, *values, reason=reason, measures=self.measures(), is_nodes_fault=is_nodes_fault
            )
        return self._end_stopped()

    def end_with_job(self, seconds: float, reset_values: Sequence[Any], max_job_ends: float) -> str:
        """Put the token back, whose job's time is over, record the attempt, and return its outcome.

        :param seconds: how long it was at work
        :param reset_values: what `lock` and `done` become
        :param max_job_ends: see `modifiers.end_with_job`
        """
        modifiers.end_with_job(self.token, seconds, max_job_ends, *reset_values, measures=self.measures())
        return self._end_stopped()

    def _end_stopped(self) -> str:
        log.info("Token %s is put back", self.id)
        self.advance(Stage.CONCLUDED)
        self.outcome = "stopped"
        return self.outcome


def describe_loss(stored: Mapping[str, Any], pilot: str) -> str:
    """Return what became of a token that a pilot had locked.

    :param stored: its content in the database, empty if there is none
    :param pilot: the id of that pilot
    """
    if not stored:
        return "it was deleted"
    state = state_of(stored)
    if state != "locked":
        return f"it was put into the state {state}" if state else "it was put into no state"
    holder = modifiers.claim_of(stored).get("pilot")
    if holder == pilot:
        return "its lock was changed"
    return f"{holder} has locked it" if holder else "it was locked by somebody else"


def was_ended_by_signal(exit_code: object) -> bool:
    """Return whether an exit code is that of a child ended by the pilot's own stop signal, or by the pilot itself."""
    return parse_int(exit_code) in _STOPPED_EXIT_CODES
