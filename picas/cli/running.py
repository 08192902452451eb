"""The verb `run`: a pilot that runs a program for each token."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from couchdb.http import HTTPError, ResourceNotFound

from .. import console
from ..actors import CommandActor, on_end, stop_signal, summary
from ..clients import CouchDB
from ..exceptions import PicasError, PilotStopped, TooManyFailures, UsageError
from ..iterators import EndlessViewIterator, TaskViewIterator
from ..pilot import CommandLine
from ..views import count_states
from .arguments import add_verb, settings_here
from .job_output import announce_job, print_end
from .pilot_options import actor_options, add_pilot_options, prepare_log, run_options

VERB = "run"
REFRESH = 2.0
"""Seconds between two readings of the counts for the bar."""
SOFTWARE = "PICAS_SOFTWARE"
"""The environment variable with the name of the software that the tokens' programs are."""


def add_verbs(verbs: Any) -> None:
    """Add `run` to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    parser = add_verb(
        verbs,
        VERB,
        _run,
        help="process the tokens: run a program for each",
        description="Process the tokens of the pool, one or several at a time, until there is no work left. For each "
        "token this runs COMMAND, in which {id}, {input} and the names of the token's other fields, or of those of its "
        "input, are replaced by their values, each as a part of one argument; {{ stands for a brace. Without COMMAND, "
        "it runs the token's input: a text in a shell, or a list of a program and its arguments. The exit code and the "
        "output are kept in the token. The program has the token's id in PICAS_TOKEN_ID and its input in "
        "PICAS_TOKEN_INPUT. What it writes to the file $PICAS_UPLOADS, a name, a tab and an address a line, becomes "
        "the token's field uploads; the folder $PICAS_RESULTS is for files on their way there.",
    )
    parser.usage = "picas run [options] [-- COMMAND ...]"
    parser.set_defaults(runner=console.run_pilot, refuse=lambda unknown: parser.error(_unrecognized(unknown)))
    add_pilot_options(parser, wait_for_locked=True)
    parser.add_argument("--endless", action="store_true", help="wait for new tokens when there are no more")
    parser.add_argument(
        "--shell", action="store_true", help="let a shell run COMMAND; the values are quoted for it where they need it"
    )
    parser.add_argument(
        "--software", metavar="TEXT", help="note in each attempt what it ran: a version, or a container's digest"
    )
    parser.add_argument("--progress", action="store_true", help="show the progress of the pool as a bar, at a terminal")


def split_command(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Split the arguments of `picas run` at the first "--": COMMAND follows, whatever it looks like.

    :returns: the arguments before it, and COMMAND; None if there is no "--", or another verb
    """
    if VERB not in arguments[:1] or "--" not in arguments:
        return list(arguments), None
    at = list(arguments).index("--")
    return list(arguments[:at]), list(arguments[at + 1 :])


def _unrecognized(words: Sequence[str]) -> str:
    """Return the error about arguments that the verb does not have."""
    hint = "" if words[0].startswith("-") else f": COMMAND stands after --, as in picas run -- {shlex.join(words)}"
    return f"unrecognized arguments: {' '.join(words)}{hint}"


def _run(options: argparse.Namespace) -> None:
    command = _command(options)
    prepare_log(options)
    if not options.verbose:
        logging.getLogger("picas.pilot.attempt").setLevel(logging.ERROR)  # each failed token has a line of its own
    if options.software is not None:
        os.environ[SOFTWARE] = options.software
    settings = settings_here()
    announce_job(settings)
    client = console.connect(settings)
    actor = CommandActor(client, command=command, **_source(client, options), **actor_options(options))
    ends = _Ends(_bar(client, options))
    on_end(actor, ends.show)
    try:
        with ends:
            actor.run(**run_options(options))
    except (TooManyFailures, PilotStopped):
        print(summary(actor))
        if stop_signal(actor) == signal.SIGINT:
            raise PilotStopped(console.EXIT_INTERRUPTED) from None
        raise
    except ResourceNotFound:
        raise console.no_such_view(options.view, options.design_doc, client) from None
    print(summary(actor))


def _command(options: argparse.Namespace) -> CommandLine | None:
    """Return what is run for each token, None for its input.

    :raises UsageError: if it is invalid
    """
    words = options.command
    if words == []:
        raise UsageError("there is no COMMAND after --")
    if words is None and options.shell:
        raise UsageError("--shell needs a COMMAND, after --: a token's input is run by a shell anyway")
    return None if words is None else CommandLine(words, options.shell)


def _source(client: CouchDB, options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the actor about where its tokens come from."""
    view = {"view": options.view, "design_doc": options.design_doc}
    return {"iterator": EndlessViewIterator(TaskViewIterator(client, **view))} if options.endless else view


def _bar(client: CouchDB, options: argparse.Namespace) -> PoolBar | None:
    """Return the bar, if there is to be one."""
    if not (options.progress and console.is_live(sys.stderr)):
        return None
    return PoolBar(client.copy(retries=False), options.design_doc)


class _Ends:
    """Prints a line for each attempt that has ended, above the bar.

    :param bar: the bar, None for none
    """

    def __init__(self, bar: PoolBar | None) -> None:
        self._bar = bar

    def show(self, token: Any) -> None:
        """Print the line of a token."""
        with contextlib.nullcontext() if self._bar is None else self._bar.aside():
            print_end(token)

    def __enter__(self) -> None:
        if self._bar is not None:
            self._bar.start()

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


class PoolBar:
    """The progress of the pool, on a terminal: how many tokens are done, and failed, of all, every two seconds.

    :param client: the pool; no other thread may use it
    :param design_doc: the design document of the states
    :param stream: where to write instead of standard error
    """

    def __init__(self, client: CouchDB, design_doc: str, stream: TextIO | None = None) -> None:
        self._client = client
        self._design_doc = design_doc
        self._stream = stream or sys.stderr
        self._line = ""
        self._lock = threading.RLock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="picas-bar", daemon=True)

    def start(self) -> None:
        """Begin to show the bar."""
        self._thread.start()

    def close(self) -> None:
        """Leave the bar with the last counts."""
        self._is_over.set()
        self._thread.join(REFRESH)
        if not self._thread.is_alive():  # else it waits for a server that is away
            self._read()
        self._write(console.ERASE + self._line + ("\n" if self._line else ""))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Hide the bar during a block that prints a line."""
        with self._lock:
            self._write(console.ERASE)
            yield
            self._write(self._line)

    def _refresh(self) -> None:
        while not self._is_over.is_set():
            self._read()
            with self._lock:
                self._write(console.ERASE + self._line)
            self._is_over.wait(REFRESH)

    def _read(self) -> None:
        """Read the counts. While the server is away, the bar keeps the last ones."""
        with contextlib.suppress(PicasError, HTTPError, OSError):
            self._line = _bar_line(count_states(self._client, self._design_doc), self._stream)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _bar_line(counts: Mapping[str, int], stream: TextIO) -> str:
    done, failed, total = counts["done"], counts["error"], sum(counts.values())
    return console.progress_line(f"{done} done, {failed} failed of {total}", done + failed, total, stream)
