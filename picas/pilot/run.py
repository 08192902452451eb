"""A run from its start to its end: prepare, keep a heartbeat, work, stop when a signal says so, clean up."""

from __future__ import annotations

import difflib
import math
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from subprocess import Popen
from typing import Any, Callable

from couchdb.http import HTTPError

from ..clients import CouchDB
from ..couch import explain
from ..couch.outages import is_outage, wait_out
from ..documents import Document
from ..exceptions import NodeFault, PicasError, PilotStopped
from ..iterators import ViewIterator
from ..picaslogger import get_logger
from ..pool import fits_always
from ..processes import RETRY, describe_system_error, exposed, is_shielded, reach, shielded
from ..tokens.states import is_in_state
from ..util import wait_until
from .attempt import Attempt
from .breakoff import BreakOff
from .conditions import RetryPolicy, StopConditions
from .context import Context, Listener, UserActor, Values, busy_threads
from .duties import RunDuties
from .heartbeat import Heartbeat
from .identity import Pilot
from .leases import Watch
from .loop import Loop
from .matching import Matcher
from .options import Options
from .rescue import SpareDescriptors, call, quietly, restore_recursion_limit
from .signals import Signals
from .sweep import Sweep
from .term import Term
from .work import Work

log = get_logger(__name__)

NODE_FAULT_EXIT_CODE = 75
"""The exit code of a pilot whose node has a problem: EX_TEMPFAIL of BSD's sysexits.h, since another may have none."""

SAME_KEY = 0.3
"""Seconds within which a second SIGINT may come from the same Ctrl-C: shells and launchers pass it on."""
HOOKS = ("process_task", "prepare_run", "cleanup_run", "prepare_env", "cleanup_env")
"""The methods of an actor that a run calls."""
SIMILAR = 0.85
"""How similar a method's name must be to that of a hook to count as misspelt, as `difflib` measures it."""


class Run:
    """One run of a user's actor.

    :param actor: the actor
    :param options: its options
    :param values: its values for each slot
    :param slots: how many tokens are processed at a time
    :param conditions: what ends the run
    :param retries: whether failed tokens are retried
    :param signals: the signals that stop it
    :param base: the class whose hooks the actor's own replace
    :param deadline: the time until which tokens may be at work in this job, on the clock of `time.monotonic`
    :param deadline_source: where the deadline comes from, for people
    :param on_end: called with each token whose attempt has ended
    """

    def __init__(
        self,
        actor: UserActor,
        options: Options,
        values: Values,
        slots: int,
        conditions: StopConditions,
        retries: RetryPolicy,
        signals: Signals,
        *,
        base: type = object,
        deadline: float = math.inf,
        deadline_source: str = "",
        on_end: Listener | None = None,
    ) -> None:
        has = replace(options.resources, cores=max(options.resources.cores, slots))
        matcher = Matcher(has, deadline, deadline_source, conditions)
        pilot = Pilot(slots=slots, has=has, deadline=deadline)
        self.context = Context(actor, options, values, conditions, retries, matcher, pilot, signals, on_end)
        self._base = base
        self._loop: Loop | None = None
        self._heartbeat: Heartbeat | None = None
        self._spare = SpareDescriptors()
        self._has_ended = False
        self._is_stop_due = False  # whether the user's code is to be interrupted once more
        self._sweep = Sweep(options.spool_folder)
        self._term = Term(self.context)

    def work(self, install_handlers: Callable[[], None]) -> None:
        """Process tokens until there are no more or a condition is met.

        :param install_handlers: lets signals stop the run
        """
        signals = self.context.signals
        with shielded():  # a signal interrupts only the user's code; the loop checks for it by itself
            busy_threads.add(self.context.thread)
            signals.put_in_order()
            install_handlers()
            self._spare.keep()
            quietly(self._term.begin, "Starting a thread")
            try:
                self._prepare_and_work()
            except NodeFault as fault:
                log.error("This pilot ends because of a problem with its node: %s", describe_system_error(fault))
                raise PilotStopped(NODE_FAULT_EXIT_CODE) from fault
            finally:
                self._term.end()
                quietly(self._release_iterator, "Releasing the iterator")
                quietly(self._end_heartbeat, "Ending the heartbeat")
                self.hurry(False)
                self._spare.release()
                signals.restore()
                log.info("%s", self.context.pilot.summary())
                busy_threads.discard(self.context.thread)
                self._has_ended = True

    def stop(self) -> None:
        """End the children and the code that is interrupted by this; called by a signal handler.

        :raises PilotStopped: always
        """
        context = self.context
        context.is_breaking_off = True
        # Taken now, and not after the end of the run: then it is unknown which children are another actor's.
        children = context.children() if context.thread in busy_threads else []
        # In another thread: code that is interrupted while it waits for a child would not see it end here.
        end = partial(self._end_code_for_stop, children)
        # Without a free thread, the loop ends them.
        quietly(threading.Thread(target=end, name="picas-stop", daemon=True).start, "Starting a thread")
        raise PilotStopped(context.options.stop_exit_code)

    def stop_again(self, signum: int) -> None:
        """Interrupt code that has gone on after it was interrupted; called by a signal handler.

        :param signum: the signal. A second Ctrl-C ends the grace period of the children, and SIGTERM may shorten it
        :raises PilotStopped: if it is time for that; otherwise a further signal is ignored
        """
        context = self.context
        if signum == signal.SIGTERM and not context.is_to_be_killed:
            context.is_to_be_killed = True  # the other signal was a warning, and now there is less time
            quietly(
                threading.Thread(target=self._end_sooner, name="picas-stop", daemon=True).start, "Starting a thread"
            )
        is_due, self._is_stop_due = self._is_stop_due, False
        is_second = signum == context.stop_signal == signal.SIGINT and not is_due
        if is_second and time.monotonic() > context.stopped_at + SAME_KEY:
            context.is_impatient = True
            # In another thread: the code that waits for the children may be below this handler.
            quietly(threading.Thread(target=self._kill, name="picas-kill", daemon=True).start, "Starting a thread")
        if is_due and not is_shielded(self.context.thread):
            raise PilotStopped(self.context.options.stop_exit_code)

    def stop_idle(self, token: Any) -> None:
        """Do what a run does when it is stopped, for a handler that is called while there is no run.

        :param token: the actor's current token
        :raises PilotStopped: always
        """
        context = self.context
        self._end_children()
        if isinstance(token, Document) and is_in_state(token, "locked"):
            self._wind_up(token, context.values.of_run)
        self._settle()
        self._clean_env_quietly()
        raise PilotStopped(context.options.stop_exit_code)

    def hurry(self, is_on: bool = True) -> None:
        """Do not wait long for the server while the run is being stopped: the batch system kills the pilot soon."""
        if isinstance(self.context.actor.db, CouchDB):
            CouchDB.hurry(self.context.actor.db, is_on)

    # --- the course of a run

    def _prepare_and_work(self) -> None:
        context = self.context
        is_prepared = False
        try:
            with exposed():
                call(context.actor.prepare_env)
            is_prepared = True
            self._check_hooks()
            older = context.background() + context.forks()
            self._begin_heartbeat()
            self._recover()
            self._work()
            with exposed():  # what threads of the user's code have left, in a run with several slots
                context.end_children([child for child in context.left_over() if child not in older])
        except BaseException:
            self._make_room()
            self._end_children()
            self._settle()
            if is_prepared or context.is_stopping():
                self._clean_env_quietly()
            raise
        self._settle()
        call(context.actor.cleanup_env)

    def _make_room(self) -> None:
        """Make sure that user code has left enough for the end of the run."""
        restore_recursion_limit()
        self._spare.release()

    def _work(self) -> None:
        self._loop = loop = Loop(self.context, self._is_seen(), self._silence)
        try:
            loop.run()
        except BaseException:
            self._make_room()
            BreakOff(self.context, loop).run()
            raise
        finally:
            self.context.has_left_some |= bool(loop.held())
            self._loop = None
            loop.close()
        if self.context.fault is not None:
            raise self.context.fault

    def _is_seen(self) -> bool:
        """Return whether the user's code is to find each token saved as it ended; `prepare_env` may set a hook, too."""
        return self._is_own("cleanup_run") or self.context.conditions.stop_function is not None

    def _is_own(self, hook: str) -> bool:
        """Return whether the actor has this hook, and not only its base class."""
        return getattr(getattr(self.context.actor, hook), "__func__", None) is not getattr(self._base, hook, None)

    def _check_hooks(self) -> None:
        """Check that the hooks of the actor have the right names; nothing calls one whose name is misspelt.

        :raises TypeError: if it has no `process_task`
        """
        actor = self.context.actor
        own = {name for name in dir(actor) if not name.startswith("_")} - set(dir(self._base))
        for hook in HOOKS:
            if self._is_own(hook):
                continue
            if hook == "process_task":
                similar = difflib.get_close_matches(hook, own, n=1)
                hint = f": is its {similar[0]} to be that?" if similar else ""
                raise TypeError(f"{type(actor).__name__} has no method process_task{hint}")
            similar = difflib.get_close_matches(hook, own, n=1, cutoff=SIMILAR)
            if similar:
                log.warning("%s.%s is never called: is it to be %s?", type(actor).__name__, similar[0], hook)

    def _clean_env_quietly(self) -> None:
        """Clean up without hiding the exception that ends the run."""
        quietly(lambda: call(self.context.actor.cleanup_env), "cleanup_env")

    def _release_iterator(self) -> None:
        iterator = self.context.actor.iterator
        if isinstance(iterator, ViewIterator):  # what did not fit this run may fit the next user of the iterator
            iterator.fits, iterator.room = fits_always, None

    # --- the heartbeat

    def _begin_heartbeat(self) -> None:
        """Let other pilots see that this one is alive, before it locks any token."""
        if not isinstance(self.context.actor.db, CouchDB):
            return  # a script's own stand-in
        try:
            self._heartbeat = self._wait_out(self._save_first_heartbeat)
        except HTTPError as error:
            if is_outage(error):
                raise
            log.warning(
                "If this pilot dies its tokens stay locked: the server refuses its document (%s)", explain(error)
            )
        if self._heartbeat is not None:
            self._heartbeat.begin()

    def _save_first_heartbeat(self) -> Heartbeat:
        options, pilot = self.context.options, self.context.pilot
        # Of its own: the script may change the actor's. Its class may have a `copy` without that parameter.
        client = CouchDB.copy(self.context.actor.db, retries=False)
        watch = Watch(client, pilot.id, options.lease, options.max_lost, also=self._sweep.begin)
        heartbeat = Heartbeat(client, pilot, options.heartbeat, watch, RunDuties(self.context, lambda: self._loop))
        heartbeat.save_first()
        return heartbeat

    def _end_heartbeat(self) -> None:
        self._sweep.end()
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.end(is_clean=not self.context.has_left_some)

    def _silence(self, pilot: str) -> float:
        return 0.0 if self._heartbeat is None else self._heartbeat.silence(pilot)

    # --- before and after the loop

    def _recover(self) -> None:
        """Save the results that earlier pilots have spooled."""
        if isinstance(self.context.actor.db, CouchDB):
            self._wait_out(lambda: self._sweep.run(self.context.actor.db, self.context.is_stopping))

    def _wait_out(self, action: Callable[[], Any]) -> Any:
        """Return what an action returns, None if the run is over while the database is away."""
        try:
            return wait_out(lambda: reach(action), self.context.options.max_outage, self.context.is_over)
        except (PicasError, HTTPError) as error:
            if is_outage(error) and self.context.is_over():
                log.warning("The run is over while the database is away: %s", error)
                return None
            raise

    def _settle(self) -> None:
        """Put back the tokens that were locked by requests whose answers were lost."""
        iterator = self.context.actor.iterator
        if not isinstance(iterator, ViewIterator):
            return
        try:
            tokens = iterator.settle()
        except Exception as error:  # most likely the database is away
            log.error("A token may have stayed locked by this pilot, %s: %s", self.context.pilot.id, error)
            self.context.has_left_some = True
            return
        for token in tokens:
            self._wind_up(token, {})

    def _wind_up(self, token: Document, values: dict[str, Any]) -> None:
        """Bring a token that is in no slot into its final state, and save it."""

        def wind_up() -> None:
            work = Work(self.context, Attempt(token, values))
            if work.wind_up():
                work.save()

        self.context.has_left_some |= not quietly(wind_up, f"Putting back token {token.id}")

    def _end_children(self) -> None:
        context = self.context
        quietly(lambda: context.end_children(context.children()), "Ending the children")

    def _kill(self) -> None:
        log.warning("Interrupted again: killing what is left")
        self._end_sooner()
        self._interrupt_again()

    def _end_sooner(self) -> None:
        """Leave the children that are being ended only the grace period that there is now."""
        loop, context = self._loop, self.context
        running = [] if loop is None else list(loop.slots.running)
        quietly(lambda: context.end_children(context.children_of(running)), "Ending the children")

    def _end_code_for_stop(self, children: list[Popen[Any]]) -> None:
        """End the children, and interrupt code again that has swallowed the interruption, or takes long to clean up."""
        context = self.context
        # Not logged in the handler, which may have interrupted a log call.
        context.announce_stop(children)
        quietly(lambda: context.end_children(children), "Ending the children")
        signum = context.stop_signal
        if context.thread != threading.main_thread().ident or signum not in signal.valid_signals():
            return  # handlers are called in the main thread only
        while not wait_until(lambda: self._has_ended, max(context.grace, RETRY)):
            self._interrupt_again()

    def _interrupt_again(self) -> None:
        """Let the signal handler interrupt code in the main thread that has gone on, unless it may not be now."""
        context = self.context
        signum = context.stop_signal
        if context.thread != threading.main_thread().ident or signum not in signal.valid_signals() or self._has_ended:
            return
        if callable(signal.getsignal(signum)) and not is_shielded(context.thread):
            self._is_stop_due = True
            signal.pthread_kill(context.thread, signum)
