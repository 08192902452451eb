"""What scripts and the command share: connecting, arguments, one-line errors, progress."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import logging
import os
import shutil
import ssl
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Callable, ClassVar, NoReturn, TextIO

from couchdb.http import Forbidden, HTTPError, ResourceNotFound, ServerError, Unauthorized

from . import config
from .clients import CouchDB
from .couch.answers import is_locked_out, is_shut_out, is_unknown_user, needs_database_admin, needs_server_admin
from .couch.connections import explain, server_of
from .couch.outages import MAX_OUTAGE, is_name_unknown, is_outage_at_start, wait_out
from .exceptions import NoDatabase, PicasError, Unreachable, UntrustedServer, UsageError
from .processes import describe_system_error, reach
from .tokens.states import STATES
from .util import Timer, never, one_line, visible
from .views import DESIGN_DOC, OVERVIEW, REPORT, create_report, create_views

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_IN_ERROR = 3
"""All tokens have ended, some of them in error."""
EXIT_TIMEOUT = 124  # as of timeout(1)
EXIT_TRY_LATER = 75  # the pool may be reached later or from elsewhere: EX_TEMPFAIL in BSD's sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in a shell
ERASE = "\r\x1b[K"
"""Erases the line of a terminal."""
BAR_WIDTH = 40
LEAST_BAR_WIDTH = 4
"""How many characters wide a bar is."""
MAX_NAMES = 20
"""How many names of views or design documents an error lists."""
_CERTIFICATE_DATES = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED

_UNWRITABLE = (OSError, ValueError)  # ValueError for a closed stream


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Print the message to standard error and end the process with exit code 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see --help)\n")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call a script's main function and end the process with its result as the exit code.

    An error that a person can do something about becomes one line on standard error and exit code 1, or 2 if what was
    asked for is invalid. If the reader of
    the output goes away (`| head`), the process ends quietly. What the encoding of the output can't represent is
    printed as an escape sequence, and what is printed to a closed stream is lost.

    :param main: returns the exit code, or None for 0
    """
    if logging.lastResort is not None:  # it prints the warnings of a script that does not configure logging
        logging.lastResort.setFormatter(LogFormatter())
    _prepare_streams()
    try:
        _check_folder()
        code = main() or 0
        _flush_output()
    except KeyboardInterrupt as interrupt:
        print_error(str(interrupt) or "interrupted")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = EXIT_FAILURE
    except (PicasError, HTTPError, OSError) as error:
        print_error(describe(error))
        code = EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE
    finally:
        _drop_unwritten()
    sys.exit(code)


def run_pilot(main: Callable[[], int | None]) -> NoReturn:
    """Call a pilot's main function like `run`, but let nothing fail that it, or the work on a token, prints.

    If the disk of the log is full, or the reader of the output goes away, the work on the tokens goes on.

    :param main: returns the exit code, or None for 0
    """
    _prepare_streams()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(LossyStream, streams)
    try:
        run(main)
    finally:
        sys.stdout, sys.stderr = streams


class LossyStream:
    """A text stream that loses what it can't write, instead of raising an error.

    :param stream: the stream to which it writes, and whose other methods and attributes it has
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, if that is possible, and return its length."""
        with contextlib.suppress(*_UNWRITABLE):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write some lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is left, if that is possible."""
        with contextlib.suppress(*_UNWRITABLE):
            self._stream.flush()


def describe(error: BaseException) -> str:
    """Return one line about an error of the server or the connection that says what to do."""
    return visible(_describe(error))


def _describe(error: BaseException) -> str:
    if is_unknown_user(error):
        return "wrong user or password: check PICAS_USERNAME and PICAS_PASSWORD"
    if is_shut_out(error):
        return "this user is not a member of the database: an administrator of the database or the server can add them"
    if needs_server_admin(error):
        return "this user may not create databases: only an administrator of the server may"
    if needs_database_admin(error):
        return "this user may not change views: only an administrator of the database or the server may"
    if is_locked_out(error):
        return (
            f"the server lets this user in again in a few minutes ({_reason(error)}): meanwhile, check PICAS_PASSWORD "
            "and stop whatever sends a wrong one"
        )
    if isinstance(error, (Forbidden, Unauthorized)):
        return f"the server does not let this user do that: {_reason(error)}"
    if isinstance(error, UntrustedServer):
        return _describe_certificate(error.__cause__)
    if isinstance(error, Unreachable):
        return f"{error}: is the address in PICAS_HOST_URL right, and the server running?"
    if isinstance(error, ServerError):
        status, detail = error.args[0]
        return f"the server answered {status}: {one_line(detail)}"
    if isinstance(error, HTTPError):
        return f"the server answered: {_reason(error)}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection ({explain(error)}): does the address in PICAS_HOST_URL begin with the right scheme?"
    if isinstance(error, OSError) and error.errno is not None:
        return one_line(describe_system_error(error))
    return one_line(error)


def connect(settings: config.Settings | None = None, *, max_outage: float | None = None) -> CouchDB:
    """Connect to the pool: return a client for the database that the settings name.

    This is `picas.connect`, the first line of a script. If the server is down, it waits. Wrong settings are reported at
    once.

    :param settings: by default, what `config.load` finds in the environment, in picasconfig.py beside the script, in
        ~/.config/picas/config.ini and in ~/.netrc
    :param max_outage: seconds to wait for a server that is down; by default $PICAS_MAX_OUTAGE, or an hour
    :raises NoDatabase: if the database does not exist
    :raises PicasError: if a setting is missing or invalid, or if the server cannot be reached
    :raises couchdb.http.HTTPError: if the server refuses the user
    """
    settings = settings or config.load()
    patience = config.duration(max_outage, "PICAS_MAX_OUTAGE", MAX_OUTAGE)
    try:
        return wait_out(lambda: reach(lambda: _open(settings)), patience, never, _may_start)
    except ResourceNotFound:
        where = server_of(settings.host_url)
        raise NoDatabase(
            f"there is no database {settings.database} on {where}: check PICAS_DATABASE, or create it with "
            "picas views --create-database"
        ) from None
    except ValueError as error:
        raise PicasError(f"PICAS_HOST_URL is invalid: {error}") from None


def create_database(settings: config.Settings) -> None:
    """Create the database that the settings name, unless it exists.

    :raises couchdb.Unauthorized: if it does not exist, and this user is no administrator of the server
    """
    try:
        _open(settings)
    except ResourceNotFound:  # CouchDB lets only an administrator ask to create it, also if it exists
        _open(settings, create=True)


def make_views(
    settings: config.Settings,
    design_doc: str = DESIGN_DOC,
    condition: str | None = None,
    *,
    with_database: bool = False,
) -> bool:
    """Create the views of the pool that the settings name, and return whether that changed anything.

    With the views of `DESIGN_DOC` come those that only people read, in `REPORT`, if this user may create them.

    :param design_doc: the name of the design document
    :param condition: a JavaScript expression on `doc` that tokens must meet too, see `views.create_views`
    :param with_database: whether the database is created unless it exists
    :raises UsageError: if no design document can have this name
    :raises PicasError: see `connect`
    :raises couchdb.http.HTTPError: if the server refuses the condition, or this user may not change design documents
    """
    if not design_doc or "/" in design_doc:
        raise UsageError(f"{design_doc!r} is not the name of a design document")
    if with_database:
        create_database(settings)
    client = connect(settings, max_outage=0)
    changed = create_views(client, design_doc, condition)
    if design_doc == DESIGN_DOC:
        changed |= create_report(client)
    return changed


def _open(settings: config.Settings, create: bool = False) -> CouchDB:
    return CouchDB(
        url=settings.host_url,
        db=settings.database,
        username=settings.username,
        password=settings.password,
        ssl_verification=settings.ssl_verification,
        create=create,
    )


def _may_start(error: BaseException) -> bool:
    return is_outage_at_start(error) and not is_name_unknown(error)


def no_such_view(view: str, design_doc: str, client: CouchDB | None = None) -> PicasError:
    """Return the error for a view that does not exist.

    :param client: the pool; with it, the error names the views or the design documents that there are
    """
    documents: dict[str, dict[str, Any]] = {}
    if client is not None:
        with contextlib.suppress(PicasError, HTTPError, RecursionError):
            documents = client.design_documents()
    existing = [name for name, document in documents.items() if views_in(document) and name not in (design_doc, REPORT)]
    views = list(views_in(documents.get(design_doc, {})))
    if views:
        create = f"; picas views {design_doc} creates it" if view in (*STATES, OVERVIEW) else ""
        known = _nearest_first(view, views)
        return PicasError(f"there is no view {design_doc}/{view}: {design_doc} has the views {known}{create}")
    if existing:
        known = _nearest_first(design_doc, existing)
        create = f"picas views {design_doc} creates it"
        return PicasError(f"there is no view {design_doc}/{view}: the design documents are {known}; {create}")
    return PicasError(f"there is no view {design_doc}/{view}: create the views with picas views {design_doc}")


def no_report(lack: str) -> str:
    """Return a line about a pool without the design document Report.

    :param lack: what lacks without it
    """
    return (
        f"there is no design document {REPORT}, so {lack}: an administrator of the database creates it with picas views"
    )


def views_in(design_document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the views in a design document, by their names."""
    views = design_document.get("views")
    return views if isinstance(views, dict) else {}


def _nearest_first(name: str, names: list[str]) -> str:
    """Return the names that there are instead of a name, the most similar one first."""
    similar = difflib.get_close_matches(name, names, n=1)
    ordered = [*similar, *(other for other in names if other not in similar)]
    more = len(ordered) - MAX_NAMES
    return ", ".join(map(one_line, ordered[:MAX_NAMES])) + (f" and {more} others" if more > 0 else "")


def view_name(text: str) -> tuple[str, str]:
    """Split an argument like "Monitor/todo" into design document and view.

    :raises argparse.ArgumentTypeError: if it has another form
    """
    design_doc, slash, view = text.partition("/")
    if not (slash and design_doc and view) or "/" in view:
        known = ", ".join(f"Monitor/{state}" for state in STATES)
        raise argparse.ArgumentTypeError(f"{text!r} is not DESIGN_DOCUMENT/VIEW, like {known}")
    return design_doc, view


def confirm(question: str) -> bool:
    """Ask a yes-or-no question at the terminal and return the answer; without a terminal, return True."""
    if not sys.stdin.isatty():
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class LogFormatter(logging.Formatter):
    """A formatter for a terminal: text of tokens in the log can't contain escape sequences."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines for a record: one, and the traceback if it has one."""
        return visible(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name of the base class
        """Return the line of a record: an id with a line break in it can't begin another one."""
        record.message = " ".join(record.message.splitlines())
        return super().formatMessage(record)


def log_to_stderr(verbosity: int) -> None:
    """Show the log on standard error.

    :param verbosity: 0 for warnings, 1 for progress, 2 or more for every detail
    """
    levels = [logging.WARNING, logging.INFO, logging.DEBUG]
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=levels[min(verbosity, 2)])


def has_colour(stream: TextIO) -> bool:
    """Return whether what is written to a stream may be coloured: at a terminal, unless `NO_COLOR` is set."""
    return is_live(stream) and not os.environ.get("NO_COLOR")


def is_live(stream: TextIO) -> bool:
    """Return whether lines of a stream can be written over: at a terminal that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def progress_line(words: str, done: int, total: int, stream: TextIO) -> str:
    """Return a line of progress that fits the terminal: the words behind a bar of the package rich.

    rich is an extra. Without it, and in a terminal with too little room, there are the words alone.

    :param words: what the bar means
    :param done: how much of the work is done
    :param total: how much work there is
    :param stream: where the line is to be written
    """
    columns = shutil.get_terminal_size().columns
    width = min(BAR_WIDTH, columns - len(words) - 2)
    if width >= LEAST_BAR_WIDTH and total:
        with contextlib.suppress(ImportError):
            return f"{_draw_bar(done, total, width, stream)} {words}"
    return words[: columns - 1]


def _draw_bar(done: int, total: int, width: int, stream: TextIO) -> str:
    """Return a bar; only its filled part is visible where there are no colours.

    :raises ImportError: without rich
    """
    from rich.console import Console  # noqa: PLC0415  # it takes 50 ms
    from rich.progress_bar import ProgressBar as Bar  # noqa: PLC0415

    colour = has_colour(stream)
    drawing = Console(
        file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None, _environ={}
    )
    with drawing.capture() as drawn:
        drawing.print(Bar(total, done, width), end="")
    return drawn.get() if colour else drawn.get().ljust(width)


class ProgressBar:
    """A line on standard error that says how much of a work is done, with a bar if the package rich is there.

    It stays hidden if standard error is no terminal, or if there is little work.

    :param minimum: the amount of work from which it is shown
    :param stream: where to write instead of standard error
    :param rate_of: what is counted, to show how much of it is done in a second, for example "tokens"
    """

    _unfinished: ClassVar[TextIO | None] = None
    """The stream whose last line is a bar that is not finished."""

    def __init__(self, minimum: int, stream: TextIO | None = None, rate_of: str = "") -> None:
        self._minimum = minimum
        self._stream = stream or sys.stderr
        self._rate_of = rate_of
        self._timer = Timer()
        self._shown = ""

    def __call__(self, done: int, total: int) -> None:
        """Show how much of the work is done."""
        if total < self._minimum or not is_live(self._stream):
            return
        words = f"{done} of {total}"
        if self._rate_of:
            words += f", {done / max(self._timer.elapsed(), 0.001):.0f} {self._rate_of}/s"
        if words != self._shown:
            line = progress_line(words, done, total, self._stream)
            self._stream.write(ERASE + line + ("\n" if done == total else ""))
            self._stream.flush()
            self._shown = words
            ProgressBar._unfinished = None if done == total else self._stream

    @staticmethod
    def leave() -> None:
        """Leave the last bar as it is, if it is not finished: what is printed next begins on a line of its own."""
        stream, ProgressBar._unfinished = ProgressBar._unfinished, None
        if stream is not None:
            with contextlib.suppress(*_UNWRITABLE):
                print(file=stream)


def _prepare_streams() -> None:
    """Open the standard streams that the process was started without, and let them escape what they can't print."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_folder() -> None:
    """Check that the working directory exists.

    :raises PicasError: if it was removed
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise PicasError("the working directory was removed: change to another folder") from None


def _flush_output() -> None:
    """Write what was printed.

    :raises OSError: if that is not possible; it names the output
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def _drop_unwritten() -> None:
    """Drop what can't be written: Python would complain when it exits, and change the exit code."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None:
            continue
        try:
            stream.flush()
        except _UNWRITABLE:
            with contextlib.suppress(*_UNWRITABLE):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_error(line: str, program: str | None = None) -> None:
    """Print an error to standard error, if that is possible.

    :param program: the name of the program, by default that of the running script
    """
    name = os.path.basename(sys.argv[0]) if program is None else program  # noqa: PTH119
    ProgressBar.leave()
    with contextlib.suppress(*_UNWRITABLE):
        print(f"{name}: {line}", file=sys.stderr, flush=True)


def _describe_certificate(error: Any) -> str:
    """Return one line about a certificate that is not trusted.

    :param error: the `ssl.SSLCertVerificationError`
    """
    if getattr(error, "verify_code", None) in _CERTIFICATE_DATES:
        return (
            f"the server's certificate is not valid today ({error.verify_message}): it has to be renewed, or this "
            "machine's clock is wrong"
        )
    return (
        f"the server's certificate is not trusted ({error.verify_message}): set PICAS_SSL_VERIFICATION to the file of "
        "its certificate authority"
    )


def _reason(error: BaseException) -> str:
    detail: Any = error.args[0] if error.args else ""
    return one_line(detail)
