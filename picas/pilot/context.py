"""What the parts of a run share, and what they know of the user's actor."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable
from functools import partial
from subprocess import Popen
from typing import Any, Callable, Protocol

from ..batch import Grace
from ..documents import Document
from ..exceptions import NodeFault
from ..picaslogger import get_logger
from ..processes import end_all, forks, left_behind, running, workers_in_use
from .attempt import Attempt
from .conditions import RetryPolicy, StopConditions
from .identity import Pilot
from .matching import Matcher
from .options import Options
from .rescue import quietly
from .signals import Signals

log = get_logger(__name__)

Listener = Callable[[Document], object]
"""What is called with a token when an attempt has ended."""

MAX_NAMED = 5
"""How many processes the log names when they are ended."""

busy_threads: set[int] = set()
"""The identifiers of the threads in which actors run."""


class UserActor(Protocol):
    """All that a run uses of the user's actor; whatever else is on it is the user's."""

    db: Any
    iterator: Any
    token_reset_values: Any
    tasks_processed: int
    current_task: Any

    def prepare_env(self) -> Any:
        """Prepare the run."""

    def prepare_run(self) -> Any:
        """Prepare the work on a token."""

    def process_task(self, task: Any) -> Any:
        """Do the work on a token."""

    def cleanup_run(self) -> Any:
        """Clean up after a token."""

    def cleanup_env(self) -> Any:
        """Clean up after the run."""


class Values:
    """The attributes of an actor that have a value for each slot: `current_task` and `subprocess`."""

    def __init__(self) -> None:
        self.of_run: dict[str, Any] = {}
        """The values in all threads that are not a slot's."""
        self._of_thread = threading.local()

    @property
    def current(self) -> dict[str, Any]:
        """The values in this thread."""
        values: dict[str, Any] = getattr(self._of_thread, "values", self.of_run)
        return values

    def enter_slot(self, token: Document) -> dict[str, Any]:
        """Give this thread, that of a slot, new values for a token, and return them."""
        values = self._of_thread.values = {"current_task": token}
        return values


class Context:
    """What the parts of a run share.

    :param actor: the user's actor
    :param options: its options
    :param values: its values for each slot
    :param conditions: what ends the run
    :param retries: whether failed tokens are retried
    :param matcher: which tokens fit
    :param pilot: what the pool knows of this run
    :param signals: the signals that stop it
    :param on_end: called with each token whose attempt has ended
    """

    def __init__(
        self,
        actor: UserActor,
        options: Options,
        values: Values,
        conditions: StopConditions,
        retries: RetryPolicy,
        matcher: Matcher,
        pilot: Pilot,
        signals: Signals,
        on_end: Listener | None = None,
    ) -> None:
        self.actor = actor
        self.options = options
        self.values = values
        self.conditions = conditions
        self.retries = retries
        self.matcher = matcher
        self.pilot = pilot
        self.signals = signals
        self.on_end = on_end
        self.thread = threading.get_ident()
        """The identifier of the thread of the run."""
        self.older_forks = forks()
        """What Python code had forked before the run."""
        self.stop_signal: int | None = None
        """The signal that stops the run."""
        self.stopped_at = 0.0
        """When that came, on the clock of `time.monotonic`."""
        self.is_to_be_killed = False
        """Whether SIGTERM came: a batch system kills the pilot soon after it."""
        self.batch_grace = Grace()
        """What the batch system leaves of `grace`."""
        self.is_impatient = False
        """Whether children have no time any more to end by themselves."""
        self.is_breaking_off = False
        """Whether the work on all tokens is being broken off."""
        self.fault: NodeFault | None = None
        """The problem of the node that ends the run, once the tokens at work have ended."""
        self.is_draining = False
        """Whether a person has ordered that no further token is started."""
        self.is_paused = False
        """Whether the pool is paused: no further token is started until it is resumed."""
        self.has_left_some = False
        """Whether a token may have stayed locked by this pilot."""
        self._counting = threading.Lock()
        self._is_announced = False

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL for programs, as far as that leaves time to put tokens back."""
        usual, limit, is_certain = self.batch_grace
        wanted = usual if self.options.grace is None else self.options.grace
        return min(wanted, limit) if self.is_to_be_killed and is_certain else wanted

    def note_stop(self, signum: int) -> None:
        """Note the signal that stops the run."""
        self.stop_signal, self.stopped_at = signum, time.monotonic()
        self.is_to_be_killed = signum == signal.SIGTERM

    def announce_stop(self, children: list[Popen[Any]]) -> None:
        """Log, once, which signal stops the run, and what follows: people who press Ctrl-C wait for it.

        :param children: the processes that are ended
        """
        if self.stop_signal is None or self._is_announced:
            return
        self._is_announced = True
        if not children:
            log.warning("Stopping on signal %s", self.stop_signal)
            return
        pids = ", ".join(str(child.pid) for child in children[:MAX_NAMED])
        what = f"process {pids}" if len(children) == 1 else f"{len(children)} processes ({pids}"
        more = "" if len(children) == 1 else ", …)" if len(children) > MAX_NAMED else ")"
        again = "; Ctrl-C again kills at once" if self.stop_signal == signal.SIGINT else ""
        log.warning(
            "Stopping on signal %s: ending %s%s, which may take up to %g s%s",
            self.stop_signal, what, more, self.grace, again,
        )  # fmt: skip

    def is_stopping(self) -> bool:
        """Return whether a signal has stopped the run."""
        return self.stop_signal is not None

    def is_over(self) -> bool:
        """Return whether no further token is started: there is no time left, a signal or an order came, or the node is
        at fault."""
        return self.is_stopping() or self.fault is not None or self.is_draining or self.matcher.is_late

    def count(self, token: Document, outcome: str, is_processed: bool = True) -> None:
        """Count an attempt that has ended, and pass its token to the listener.

        :param is_processed: whether it counts as a token that was processed
        """
        with self._counting:
            self.actor.tasks_processed += is_processed
            self.pilot.count(outcome, is_processed)
        if self.on_end is not None:
            quietly(partial(self.on_end, token), "Reporting the end of a token")

    def retry(self, attempt: Attempt) -> None:
        """Put a token back if it has failed and may be tried again, not if a person wanted to cancel it meanwhile."""
        if not attempt.cancellation:
            self.retries.apply(attempt.token)

    def children(self, attempt: Attempt | None = None) -> list[Popen[Any]]:
        """Return the children that run for this actor, or only those of an attempt in a slot."""
        children = running(self.thread_of(attempt)) + self.forks(attempt)
        own = (self.values.of_run if attempt is None else attempt.values).get("subprocess")
        if own is not None and hasattr(own, "send_signal") and own not in children and own.poll() is None:
            children.append(own)
        return children

    def background(self, attempt: Attempt | None = None) -> list[Popen[Any]]:
        """Return the children that have ended and have left something in the background, as `children` does.

        What was left before an attempt, for example by `prepare_env`, is not counted as the attempt's.
        """
        left = left_behind(self.thread_of(attempt))
        return left if attempt is None else [child for child in left if child not in attempt.older]

    def forks(self, attempt: Attempt | None = None) -> list[Popen[Any]]:
        """Return the processes that Python code has forked since the begin of the run, or of an attempt."""
        older = self.older_forks if attempt is None else attempt.older
        return [fork for fork in forks(self.thread_of(attempt)) if fork not in older]

    def children_of(self, attempts: Iterable[Attempt]) -> list[Popen[Any]]:
        """Return the children of attempts in slots, and those of threads that the user's code has started.

        Those that have ended and left something in the background are among them.
        """
        children = self.children() + self.background()
        for attempt in list(attempts):
            of_attempt = self.children(attempt) + self.background(attempt)
            children += [child for child in of_attempt if child not in children]
        return children

    def left_over(self, attempt: Attempt | None = None) -> list[Popen[Any]]:
        """Return what ends with an attempt in a slot, or with the run, once the user's code has returned."""
        left = self.background(attempt) + self.forks(attempt)
        in_use = workers_in_use() if left else ()
        return [child for child in left if child.pid not in in_use]

    def end_children(self, children: list[Popen[Any]]) -> bool:
        """End children and all that descends from them; return whether any was alive."""
        return end_all(children, 0 if self.is_impatient else self.grace)

    def thread_of(self, attempt: Attempt | None) -> int | None:
        """Return the identifier of the thread that starts the children of an attempt, or of all; None for any."""
        if attempt is not None and attempt.thread is not None:
            return attempt.thread
        # Those of threads that the user's code has started count too, unless they may be another actor's.
        return self.thread if len(busy_threads) > 1 else None
