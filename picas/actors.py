"""The actor: what a user's script subclasses to say how a token is processed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import Any, Callable

from .clients import CouchDB
from .iterators import QUERY, TaskViewIterator
from .picaslogger import get_logger
from .pilot import (
    MAX_LOST,
    STOP_SIGNALS,
    Engine,
    Listener,
    Options,
    Programs,
    RetryPolicy,
    SlotCount,
    StopConditions,
    TokenCommand,
    check_stop_function,
)
from .tokens.job_ends import MAX_JOB_ENDS
from .util import refuse_unknown

log = get_logger(__name__)


class Actor:
    """Processes tokens. A subclass says how, in `process_task`.

    Nothing of the machinery is kept on the actor but the attributes below and `_picas`: any other name is the
    subclass's own.

    :param db: the pool
    :param iterator: the source of tokens; by default a `TaskViewIterator` on `view`
    :param view: the view from which tokens are taken
    :param token_reset_values: the values of `lock` and `done` in the current token after the pilot was stopped; None
        leaves the token as it is
    :param auto_close: whether a token that `process_task` has left open is closed, with exit code 0 if it has none
    :param stop_exit_code: the exit code of a process that a signal has stopped
    :param stop_signals: the signals that stop the pilot; by default SIGTERM, SIGINT and SIGHUP. Those with which batch
        systems warn, SIGUSR1, SIGUSR2 and SIGXCPU, stop it too, unless the script has a handler of its own for them
    :param grace: seconds between SIGTERM and SIGKILL for children; by default $PICAS_GRACE, or 15. Once the pilot has
        got SIGTERM, they are so few that it can put its tokens back before Slurm kills it (KillWait)
    :param max_outage: seconds that the database may be away before a result is spooled to a file, or the run ends; by
        default $PICAS_MAX_OUTAGE, or an hour
    :param heartbeat: seconds between two heartbeats; by default $PICAS_HEARTBEAT, or 60, but at most a third of the
        lease
    :param lease: seconds without a heartbeat after which this pilot considers another dead and puts its tokens back; by
        default $PICAS_LEASE, or ten minutes. A pilot that has a longer lease is given that. A pilot whose Python code
        keeps all its threads from running for that long counts as dead, too.
    :param claim_ahead: seconds of work for which the pilot may lock tokens ahead, and the longest time for which it
        keeps a result, so that short tokens are locked and saved many at a time; by default $PICAS_CLAIM_AHEAD, or 2.
        If the pilot is killed, the results of that time are lost, and their tokens are put back after the lease. 0
        locks and saves each token when its turn has come. So does a run that has `max_tasks`, a `stop_function` or a
        `cleanup_run` of its own, or an iterator that decides on each token
    :param max_lost: how often a token may lose its pilot before it counts as failed
    :param max_job_ends: after how many attempts that the end of the job's time has stopped a token counts as failed, if
        the last had at least half of that time; from the second on, only pilots with more time left than these
        attempts had take it
    :param spool_folder: the folder for results that can't be saved; by default $PICAS_SPOOL, or picas-spool in the
        working directory. A relative path counts from where the actor is made, wherever its code changes to later
    :param walltime: seconds from the start of a run until the pilot must have ended; by default $PICAS_WALLTIME, or
        what the batch system says. The pilot takes no token that can't end before then: by the token's own field
        `walltime` (seconds) or `max_token_time`, whichever is less, else by the time of the longest of the last tokens
    :param cores: processors of this pilot. It takes no token that needs more than it has, by the token's own fields
        `cores`, `memory`, `gpus` and `tags`. By default $PICAS_CORES, or what the batch system granted, or what the
        machine has; but never less than the pilot has slots
    :param memory: its memory in megabytes, or a text like "4G"; by default $PICAS_MEMORY, or likewise
    :param gpus: the number of its GPUs; by default $PICAS_GPUS, or likewise
    :param tags: what else tokens may ask for; by default $PICAS_TAGS, separated by commas, or nothing
    :param software: what each attempt names as the software that it ran: a version, or the digest of a container, of at
        most 100 characters; by default $PICAS_SOFTWARE, or nothing
    :param view_params: CouchDB's query parameters for the view, and `design_doc`
    :raises TypeError: if an argument is unknown
    :raises ValueError: if `db` is None, or a number is invalid
    :raises SettingsError: if one of these times or resources is invalid, the spool folder is a file, or the
        name of the software is too long
    """

    def __init__(
        self,
        db: CouchDB,
        iterator: Any = None,
        view: str = "todo",
        token_reset_values: Sequence[Any] | None = (0, 0),
        *,
        auto_close: bool = True,
        stop_exit_code: int = 0,
        stop_signals: Iterable[int] = STOP_SIGNALS,
        grace: float | None = None,
        max_outage: float | None = None,
        heartbeat: float | None = None,
        lease: float | None = None,
        claim_ahead: float | None = None,
        max_lost: int = MAX_LOST,
        max_job_ends: int = MAX_JOB_ENDS,
        spool_folder: str | Path | None = None,
        walltime: float | None = None,
        cores: int | None = None,
        memory: float | str | None = None,
        gpus: int | None = None,
        tags: str | Iterable[str] | None = None,
        software: str | None = None,
        **view_params: Any,
    ) -> None:
        refuse_unknown(view_params, QUERY, type(self).__name__, signature(Actor.__init__).parameters)
        if db is None:
            raise ValueError("an actor needs a database")
        self._picas = Engine(
            Options.complete(
                auto_close=auto_close,
                stop_exit_code=stop_exit_code,
                stop_signals=stop_signals,
                grace=grace,
                max_outage=max_outage,
                heartbeat=heartbeat,
                lease=lease,
                claim_ahead=claim_ahead,
                max_lost=max_lost,
                max_job_ends=max_job_ends,
                spool_folder=spool_folder,
                walltime=walltime,
                cores=cores,
                memory=memory,
                gpus=gpus,
                tags=tags,
                software=software,
            ),
        )
        if iterator is not None and (view_params or view != "todo"):
            log.warning("The actor has an iterator of its own: its arguments for a view are not used")
        self.db = db
        self.iterator = TaskViewIterator(db, view, **view_params) if iterator is None else iterator
        self.token_reset_values = None if token_reset_values is None else list(token_reset_values)
        self.tasks_processed = 0

    def __repr__(self) -> str:
        name = type(self).__name__
        if "db" not in vars(self):  # a subclass may show itself before it calls this class's __init__
            return f"<{name}>"
        return f"<{name} on {self.db!r}, {self.tasks_processed} tokens processed>"

    # --- hooks, for subclasses to override

    def prepare_env(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the run: called once, before the first token."""

    def prepare_run(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the work on a token: called before each."""

    def process_task(self, task: Any) -> None:
        """Process one token: do the work, and write the results into the token.

        Set `task["exit_code"]` to say whether it went well. An exception marks the token as failed.
        """
        raise NotImplementedError("process_task is not implemented")

    def cleanup_run(self, *args: Any, **kwargs: Any) -> None:
        """Clean up after a token: called after each, once it has been saved."""

    def cleanup_env(self, *args: Any, **kwargs: Any) -> None:
        """Clean up after the run: called once, however the run ends."""

    # --- attributes

    @property
    def current_task(self) -> Any:
        """The token at work, None if there is none; in a slot's thread the token of that slot."""
        return self._picas.values.current.get("current_task")

    @current_task.setter
    def current_task(self, task: Any) -> None:
        self._picas.values.current["current_task"] = task

    @property
    def subprocess(self) -> Popen[Any] | None:
        """A child of the user's own that ends with its token; in a slot's thread that of the slot."""
        process: Popen[Any] | None = self._picas.values.current.get("subprocess")
        return process

    @subprocess.setter
    def subprocess(self, process: Popen[Any] | None) -> None:
        self._picas.values.current["subprocess"] = process

    # --- what users call

    def run(self, max_token_time: float | None = None, *, slots: SlotCount = 1) -> None:
        """Process tokens until the iterator has no more, or until 20 have failed in a row before the first success.

        :param max_token_time: seconds after which the work on a token is ended and counts as failed
        :param slots: how many tokens are processed at a time; "auto" for the number of processors that this process was
            granted, or that `cores` says. A token that needs several cores takes as many slots, but at most all. With
            more than one slot each is a thread that calls `prepare_run`, `process_task` and `cleanup_run`. In it
            `current_task` and `subprocess` are the slot's own; all other attributes, the working directory and the
            environment are shared: leave them alone or guard them by a lock. `stop_function` is called in the thread of
            the run.
        :raises TypeError: if the actor has no `process_task` of its own
        :raises ValueError: if `max_token_time` is invalid, or `slots` is not a number above 0
        :raises TooManyFailures: if too many tokens have failed
        :raises PilotStopped: if a signal stopped the pilot, to end the process with `stop_exit_code`
        :raises OSError, couchdb.http.HTTPError: if the database stays away for longer than `max_outage`, or if it
            refuses the pilot (no such view, wrong password)
        """
        self._picas.work(
            self,
            slots,
            StopConditions(max_token_time),
            RetryPolicy(),
            base=Actor,
            set_handlers=self.setup_handler,
        )

    def reconnect(self) -> None:
        """Continue with new connections to the database."""
        self.db = self.db.copy()
        self.iterator.reconnect(self.db)

    def setup_handler(self) -> None:
        """Make the stop signals call `handler`. Does nothing outside the main thread."""
        self._picas.set_handlers(self.handler)

    def handler(self, signum: int, frame: FrameType | None = None) -> None:
        """Stop the pilot: end the children, put the current token back, clean up, end the process.

        Further signals meanwhile are ignored.

        :param signum: the signal
        :param frame: where it interrupted the code
        :raises PilotStopped: to end the process
        """
        self._picas.stop(self, signum)


AbstractRunActor = Actor


class RunActor(Actor):
    """An actor whose runs also end on conditions, and that retries failed tokens."""

    def run(
        self,
        max_token_time: float | None = None,
        max_total_time: float | None = None,
        max_tasks: int | None = None,
        max_scrub: int = 0,
        stop_function: Callable[..., Any] | None = None,
        *,
        slots: SlotCount = 1,
        retry_delay: float = 0.0,
        max_failures: int | None = None,
        wait_for_locked: bool = False,
        **stop_function_args: Any,
    ) -> None:
        """Process tokens until the iterator has no more or a condition is met.

        :param max_token_time: seconds after which the work on a token is ended and counts as failed
        :param max_total_time: seconds after which no further token is started; with `max_token_time` known, no token is
            started that could not end before then
        :param max_tasks: how many tokens this call processes at most; 0 for any number, as in picas 1.1
        :param max_scrub: how often a token that failed is put back into the pool
        :param stop_function: called after each token; true ends the run
        :param slots: how many tokens are processed at a time, see `Actor.run`
        :param retry_delay: seconds before a token that failed may be taken again, by any pilot; doubled after each
            further failure, at most an hour, and prolonged at random by up to a quarter. A run does not end while
            tokens wait for that, unless it has no time for them. 0 for no wait
        :param max_failures: how many tokens may fail in a row before the run ends, 0 for any number; by default 20
            before the first success, and any number after it. A broken environment must not use up the pool
        :param wait_for_locked: whether the run waits, when there is nothing else to do, for tokens that are locked by
            other pilots without a sign of life: until each of these has had a heartbeat, or counts as dead and its
            tokens are put back
        :param stop_function_args: the arguments of `stop_function`
        :raises TypeError: if an argument is unknown, also to `stop_function`
        :raises ValueError: if a number is invalid
        :raises TooManyFailures: if too many tokens have failed in a row
        :raises: what `Actor.run` raises
        """
        check_stop_function(stop_function, stop_function_args, signature(RunActor.run).parameters)
        self._picas.work(
            self,
            slots,
            StopConditions(
                max_token_time,
                max_total_time,
                max_tasks,
                stop_function,
                stop_function_args,
                max_failures,
                wait_for_locked,
            ),
            RetryPolicy(max_scrub, retry_delay),
            base=Actor,
            set_handlers=self.setup_handler,
        )


class CommandActor(RunActor):
    """Runs a program for each token. Its exit code is the token's, and a failure unless it is 0.

    Its output is attached to the token as `logs_<id>.out` and `logs_<id>.err`. The program gets the variables
    PICAS_TOKEN_ID and PICAS_TOKEN_INPUT (see `run_command`); PICAS_RESULTS, an empty folder for files, whose content is
    deleted afterwards; and PICAS_UPLOADS, a file whose lines, each with a name, a tab and an address, become the
    token's field `uploads`.

    :param command: returns the program and its arguments for a token, for example a `CommandLine`. By default they are
        the token's input: a text for a shell, or a list. A `TokenError` says that there is none.
    :param scratch: a folder in which each token gets a working directory of its own, deleted afterwards; without it,
        all tokens share the pilot's working directory
    :param pass_settings: whether the programs get the password of the pool
    :param arguments: those of `Actor`, as are all other options
    """

    def __init__(
        self,
        *arguments: Any,
        command: TokenCommand | None = None,
        scratch: Path | None = None,
        pass_settings: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._programs = Programs(command, scratch, pass_settings)
        self._picas.on_run_end = self._programs.close

    def process_task(self, task: Any) -> None:
        """Run the program for a token."""
        self._programs.run(task)


def on_end(actor: Actor, listener: Listener | None) -> None:
    """Let a function be called at the end of each attempt in the actor's next runs, in the thread of its slot.

    It gets the token, which has yet to be saved. The last of its `attempts` says how it has ended.

    :param listener: the function; None for none
    """
    actor._picas.on_end = listener


def summary(actor: Actor) -> str:
    """Return one line about the actor's last run: how many tokens it has processed, and how these ended."""
    return actor._picas.pilot.summary()


def stop_signal(actor: Actor) -> int | None:
    """Return the signal that has stopped the actor's last run, None if none has."""
    return actor._picas.stop_signal


def outcomes(actor: Actor) -> dict[str, int]:
    """Return how many attempts of the actor's last run ended in which way, e.g. `{"done": 3, "failed": 1}`."""
    return dict(actor._picas.pilot.outcomes)
