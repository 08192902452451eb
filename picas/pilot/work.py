"""The work on one token: the user's code, within its time, and what becomes of the token afterwards."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable

from .. import modifiers
from ..documents import Document
from ..exceptions import NodeFault, PilotStopped, TokenCancelled, TokenLost, TokenTimeout
from ..picaslogger import get_logger
from ..pool.results import ClaimedToken, Stage
from ..processes import KILL_WAIT, SETTLE, Account, TimeLimit, describe_system_error, exposed, fault_of
from ..tokens import reasons
from ..util import safe_text, wait_until
from .attempt import Attempt, was_ended_by_signal
from .context import Context
from .rescue import call

log = get_logger(__name__)

STOP_LAG = 0.5
"""Seconds to wait for the pilot's own signal after a signal has ended a child: a batch system sends them one by one."""


class Work:
    """The work on one token.

    :param context: the run
    :param attempt: the token
    """

    def __init__(self, context: Context, attempt: Attempt) -> None:
        self.context = context
        self.attempt = attempt

    def process(self) -> None:
        """Run the user's code on the token and bring the token into its final state; it has yet to be saved.

        :raises PilotStopped, KeyboardInterrupt: if the run ends; the token is as the code has left it then
        """
        context, attempt = self.context, self.attempt
        attempt.software = context.options.software
        with Account(context.thread_of(attempt)) as attempt.account:
            limit = self._limit(context.conditions.max_token_time)
            error = self._run_code(limit)
            self._end_background()
        if self._loss() is None and not limit.expired:
            self._await_stop(error)
        loss = self._loss()  # it may have been cancelled meanwhile
        is_by_itself = loss is None and not limit.expired
        if not is_by_itself:
            error = loss or self._judge_time_out(limit)
        if context.is_stopping():
            raise PilotStopped(context.options.stop_exit_code)
        self._raise_if_broken_off()
        fault = fault_of(error) if is_by_itself and error is not None else None
        if fault is not None:
            self._give_up_node(fault)
            return
        if is_by_itself and attempt.worked is not None:
            context.matcher.note(attempt.worked)
        context.count(attempt.token, attempt.conclude(error, context.options.auto_close))

    def _run_code(self, limit: TimeLimit) -> BaseException | None:
        """Run the user's code, and return what it raised, unless that has broken it off.

        :raises PilotStopped, KeyboardInterrupt: if the run ends
        """
        context, attempt = self.context, self.attempt
        error: BaseException | None = None
        attempt.older = []
        attempt.older = context.background(attempt) + context.forks(attempt)
        began = time.monotonic()
        try:
            self._raise_if_broken_off()
            if attempt.stage in (Stage.LOST, Stage.CANCELLED):
                raise TokenLost
            with exposed():
                call(context.actor.prepare_run)
                self._raise_if_broken_off()  # the code may have swallowed the interruption
                with limit:
                    call(context.actor.process_task, attempt.token)
                    if not context.is_breaking_off:  # else the code has swallowed the interruption
                        attempt.advance(Stage.RETURNED)
        except (TokenTimeout, TokenLost):
            pass  # the limit and the attempt know it
        except BaseException as caught:  # also sys.exit() in a library: no token ends the pilot
            if self._is_stop(caught):
                raise
            error = caught
        finally:
            limit.close()
        attempt.worked = time.monotonic() - began
        return error

    def wind_up(self) -> bool:
        """Bring a token whose work was broken off into its final state, and return whether it is to be saved.

        A finished token gets the state of its result; any other is put back, unless the actor leaves it as it is.
        """
        context, attempt = self.context, self.attempt
        auto_close, reset_values = context.options.auto_close, context.actor.token_reset_values
        if attempt.stage is Stage.CANCELLED:
            self.conclude_cancelled()
        elif attempt.is_finished(auto_close):
            context.count(attempt.token, attempt.conclude(None, auto_close))
            context.retry(attempt)
        elif reset_values is not None:
            context.count(attempt.token, self._put_back(reset_values), is_processed=False)
        else:
            attempt.is_left_open = True
            return False
        return True

    def finish(self, is_seen: bool) -> None:
        """Save the token, clean up after it, and put it back if it has failed and may be retried.

        :param is_seen: whether the user's code is to find the token saved as failed before it is put back; if not, both
            take one write
        """
        context, attempt = self.context, self.attempt
        if not is_seen:
            context.retry(attempt)
        # If it can't be saved it is retried from the file.
        is_saved = self.save(as_spooled=context.retries.retried if is_seen else None)
        try:
            self._clean_up(is_saved)
        finally:
            if is_saved and not attempt.cancellation and context.retries.allows(attempt.token):
                before = ClaimedToken(attempt.token)
                context.retry(attempt)
                self._save_again(before)

    def save(self, as_spooled: Callable[[Document], Document] | None = None, is_away: bool = False) -> bool:
        """Save the token, which is in its final state, as patiently as it takes; return whether that worked.

        :param as_spooled: returns the token as it is spooled if it can't be saved
        :param is_away: whether the database is known to be away, so that the token is spooled at once
        """
        context, attempt = self.context, self.attempt
        is_saved = attempt.save(
            context.actor.db,
            max_outage=context.options.max_outage,
            spool_folder=context.options.spool_folder,
            is_result=not attempt.is_given_back,
            is_stopped=self._is_given_up,
            as_spooled=as_spooled,
            is_away=is_away,
        )
        context.has_left_some |= attempt.stage is Stage.UNSAVED
        return is_saved

    def conclude_cancelled(self) -> None:
        """Bring a token that a person has cancelled into its final state, and count it if its work had begun."""
        context, attempt = self.context, self.attempt
        outcome = attempt.conclude(TokenCancelled(attempt.cancellation), context.options.auto_close)
        context.count(attempt.token, outcome, is_processed=attempt.began is not None)

    def stop(self, kind: type[BaseException]) -> None:
        """End the work on a token that another pilot has taken, or that a person has cancelled.

        If another pilot has taken it, its result so far is spooled when it can't be saved.

        :param kind: what is raised in the user's code: `TokenLost` or `TokenCancelled`
        """
        limit = self.attempt.limit
        if self.end_children() and kind is TokenCancelled:
            wait_until(lambda: self.attempt.is_concluded, SETTLE)  # the code may attach the logs
        if limit is not None:
            limit.break_off(kind, self.context.grace + KILL_WAIT)

    def has_result(self) -> bool:
        """Return whether only the clean-up of the user's code is left."""
        return self.attempt.has_result(self.context.options.auto_close)

    def has_children(self) -> bool:
        """Return whether the user's code has a child that it may be waiting for."""
        return bool(self.context.children(self.attempt))

    def end_children(self) -> bool:
        """End the children of the user's code, and return whether any was alive."""
        return self.context.end_children(self.context.children(self.attempt))

    def _put_back(self, reset_values: Sequence[Any]) -> str:
        """Put the token back, since the run is broken off, and return the outcome of the attempt."""
        context, attempt, options = self.context, self.attempt, self.context.options
        if attempt.began is not None and context.is_stopping() and context.matcher.is_end_of_job(context.stopped_at):
            seconds = context.stopped_at - attempt.began
            # A token that pilots take late in their jobs may still be shorter than a job.
            most = options.max_job_ends if context.matcher.is_most_of_job(seconds) else math.inf
            return attempt.end_with_job(seconds, reset_values, most)
        return attempt.put_back(reasons.of_stop(context.stop_signal), reset_values, options.max_lost)

    def _give_up_node(self, fault: NodeFault) -> None:
        """Put the token back, whose work has failed for a reason that is not its own; this run takes no other."""
        context, attempt = self.context, self.attempt
        described = describe_system_error(fault)
        log.info("Token %s is put back because of a problem with this node: %s", attempt.id, described)
        context.fault = context.fault or fault
        reset_values, max_lost = context.actor.token_reset_values, context.options.max_lost
        reason = f"stopped: a problem with the node: {described}"
        context.count(
            attempt.token, attempt.put_back(reason, reset_values, max_lost, is_nodes_fault=True), is_processed=False
        )

    def _end_background(self) -> None:
        """End what the children of the user's code have left in the background, and what the code has forked."""
        left = self.context.left_over(self.attempt)
        if left:
            with exposed():  # it may take as long as the grace period
                self.context.end_children(left)

    def _loss(self) -> TokenLost | None:
        """Return the error of a token that was taken from this pilot or cancelled, None if it was not."""
        if self.attempt.stage is Stage.CANCELLED:
            return TokenCancelled(self.attempt.cancellation)
        if self.attempt.stage is Stage.LOST:
            return TokenLost(f"taken away: {self.attempt.loss}")
        return None

    def _await_stop(self, error: BaseException | None) -> None:
        """Wait for the pilot's own signal if a signal has ended a child.

        :param error: the error of the user's code
        """
        codes = self.attempt.token.get("exit_code"), getattr(error, "returncode", None)
        if was_ended_by_signal(codes[0]) or was_ended_by_signal(codes[1]):
            wait_until(self.context.is_stopping, STOP_LAG)

    def _limit(self, seconds: float | None) -> TimeLimit:
        self.attempt.limit = limit = TimeLimit(seconds, self.has_result, self.end_children, self.context.grace)
        return limit

    def _raise_if_broken_off(self) -> None:
        if self.context.is_breaking_off:
            raise PilotStopped(self.context.options.stop_exit_code)

    def _is_stop(self, error: BaseException) -> bool:
        """Return whether an exception in the user's code comes from a signal; such code may raise the same itself."""
        context = self.context
        if not isinstance(error, (PilotStopped, KeyboardInterrupt)):
            return False
        is_main_thread = threading.current_thread() is threading.main_thread()
        is_ctrl_c = is_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        return context.is_stopping() or context.is_breaking_off or (is_ctrl_c and isinstance(error, KeyboardInterrupt))

    def _is_given_up(self) -> bool:
        """Return whether the result is spooled rather than saved later.

        A slot whose run is broken off does so at once: nobody waits for its thread any more.
        """
        is_left_alone = self.context.is_breaking_off and self.attempt.thread == threading.get_ident()
        return is_left_alone or self.context.is_stopping()

    def _judge_time_out(self, limit: TimeLimit) -> TokenTimeout | None:
        """Return the error of a token whose code was broken off, None if it had its result by then."""
        if not limit.was_finished:
            return TokenTimeout(reasons.of_time_out(limit.seconds))
        modifiers.note_error(
            self.attempt.token, "time-out: the code had given its result, but went on, and was broken off"
        )
        return None

    def _clean_up(self, is_saved: bool) -> None:
        limit = self._limit(None)
        try:
            self._raise_if_broken_off()
            with exposed(), limit:
                call(self.context.actor.cleanup_run)
        except (Exception, KeyboardInterrupt) as error:
            if self._is_stop(error):
                raise
            log.exception("cleanup_run failed after token %s", self.attempt.id)
            self.context.fault = self.context.fault or fault_of(error)
            if is_saved:
                before = ClaimedToken(self.attempt.token)
                message = f"{type(error).__name__} in cleanup_run: {safe_text(error)}"
                modifiers.note_error(self.attempt.token, message, error)
                self._save_again(before)
        finally:
            limit.close()
        self._end_background()

    def _save_again(self, changed: ClaimedToken) -> None:
        """Save a change of the token, whose result is in the database already.

        :param changed: the token, with its content before the change
        """
        options = self.context.options
        is_stopped = self.context.is_stopping
        changed.save(self.context.actor.db, max_outage=options.max_outage, is_stopped=is_stopped, is_result=False)
