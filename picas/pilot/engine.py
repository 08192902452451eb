"""What an actor keeps of its own behind its one private attribute: its options, its runs, and their signals."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Literal, Union

from ..batch import deadline as deadline_of_job
from ..iterators import ViewIterator
from ..picaslogger import get_logger
from ..processes import interrupt
from .conditions import RetryPolicy, StopConditions
from .context import Listener, UserActor, Values
from .identity import Pilot
from .options import Options
from .rescue import quietly
from .run import Run
from .signals import Handler, Signals

log = get_logger(__name__)

SlotCount = Union[int, Literal["auto"]]


class Engine:
    """Runs a user's actor: nothing else is kept on it, and nothing of it is used but what `UserActor` lists.

    It does not hold the actor, which a script may copy.

    :param options: the actor's options
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.values = Values()
        self.pilot = Pilot()
        """The last run, as the pool knows it."""
        self.on_end: Listener | None = None
        """Called with each token whose attempt has ended."""
        self.on_run_end: Callable[[], None] | None = None
        """Called at the end of each run, whatever hooks the actor has."""
        self._run: Run | None = None
        self._signals = Signals(options.stop_signals)

    def work(
        self,
        actor: UserActor,
        slots: SlotCount,
        conditions: StopConditions,
        retries: RetryPolicy,
        *,
        base: type,
        set_handlers: Callable[[], Any],
    ) -> None:
        """Process tokens until there are no more or a condition is met, see `Actor.run`.

        :param base: the class whose hooks the actor's own replace
        :param set_handlers: makes signals call the actor's handler
        """
        count = self._count(slots)
        deadline, source = deadline_of_job(self.options.walltime)
        run = Run(
            actor,
            self.options,
            self.values,
            count,
            conditions,
            retries,
            self._signals,
            base=base,
            deadline=deadline,
            deadline_source=source,
            on_end=self.on_end,
        )
        self.pilot = run.context.pilot
        self._run = run
        try:
            run.work(set_handlers)
        finally:
            if self.on_run_end is not None:
                quietly(self.on_run_end, "Ending the run")
            if not run.context.is_stopping():  # a further signal is ignored, even after the run
                self._run = None

    def stop(self, actor: UserActor, signum: int) -> None:
        """Stop the run, or, if there is none, put the current token back and clean up. Further signals are ignored.

        :raises PilotStopped: to end the process
        """
        run, is_idle = self._run, self._run is None
        if run is None:
            run = Run(actor, self.options, self.values, 1, StopConditions(), RetryPolicy(), self._signals)
        if run.context.is_stopping():
            run.stop_again(signum)
            return
        run.context.note_stop(signum)
        run.hurry()
        if isinstance(actor.iterator, ViewIterator):
            actor.iterator.stop()
        if is_idle:
            self._run = run
            interrupt(partial(self._stop_idle, run))
        else:
            interrupt(run.stop)

    def _stop_idle(self, run: Run) -> None:
        try:
            run.stop_idle(run.context.actor.current_task)
        finally:
            self._run = None

    @property
    def stop_signal(self) -> int | None:
        """The signal that has stopped the last run, None if none has."""
        return None if self._run is None else self._run.context.stop_signal

    def set_handlers(self, handler: Handler) -> None:
        """Make the stop signals call a handler. Does nothing outside the main thread."""
        self._signals.handle(handler)

    def _count(self, slots: SlotCount) -> int:
        """Return the number of slots."""
        if slots == "auto":
            return self.options.resources.cores
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise ValueError(f'slots must be a number above 0 or "auto", not {slots!r}')
        return slots
