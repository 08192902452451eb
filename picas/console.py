"""What the scripts and the command share: errors as one line, arguments, progress."""

from __future__ import annotations

import argparse
import logging
import os
import ssl
import sys
from typing import Any, Callable, NoReturn, TextIO

from couchdb.http import Forbidden, HTTPError, ResourceNotFound, ServerError, Unauthorized

from . import config
from .clients import CouchDB
from .couch.connections import explain, server_of
from .exceptions import PicasError, Unreachable
from .tokens.states import STATES
from .util import one_line

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class ArgumentParser(argparse.ArgumentParser):
    """Arguments whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with the message and exit code 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (--help tells more)\n")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call a script's main function and end the process with what it returns.

    Errors that a person can do something about become one line on standard error and exit code 1; a reader that goes
    away (`| head`) ends it quietly.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its exit
        code = EXIT_FAILURE
    except (PicasError, HTTPError, OSError) as error:
        _complain(describe(error))
        code = EXIT_FAILURE
    sys.exit(code)


def describe(error: BaseException) -> str:
    """Return an error of the server or of the way to it as one line that says what to do."""
    if isinstance(error, Unauthorized):
        return "wrong user or password: check PICAS_USERNAME and PICAS_PASSWORD"
    if isinstance(error, Forbidden):
        return f"the server does not let this user do that: {_reason(error)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({error.verify_message}): set PICAS_SSL_VERIFICATION to the file "
            "of its certificate authority"
        )
    if isinstance(error, Unreachable):
        return f"{error}: is the address in PICAS_HOST_URL right, and the server running?"
    if isinstance(error, ServerError):
        status, detail = error.args[0]
        return f"the server answered {status}: {one_line(detail)}"
    if isinstance(error, HTTPError):
        return f"the server answered: {_reason(error)}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection ({explain(error)}): does the address in PICAS_HOST_URL begin with the right scheme?"
    return one_line(error)


def connect(settings: config.Settings | None = None) -> CouchDB:
    """Return a client for the database that the settings name.

    :param settings: by default those that `config.load` finds
    :raises PicasError: if there is no such database, or a setting is missing
    """
    settings = settings or config.load()
    try:
        return CouchDB(
            url=settings.host_url,
            db=settings.database,
            username=settings.username,
            password=settings.password,
            ssl_verification=settings.ssl_verification,
        )
    except ResourceNotFound:
        where = server_of(settings.host_url)
        raise PicasError(
            f"there is no database {settings.database} on {where}: check PICAS_DATABASE, or create it with "
            "python createViews.py --create-database"
        ) from None
    except ValueError as error:
        raise PicasError(f"PICAS_HOST_URL makes no sense: {error}") from None


def create_database(settings: config.Settings) -> None:
    """Create the database that the settings name, if there is none."""
    CouchDB(
        settings.host_url,
        settings.database,
        settings.username,
        settings.password,
        settings.ssl_verification,
        create=True,
    )


def no_such_view(view: str, design_doc: str) -> PicasError:
    """Return the error for a view that is not in the database."""
    return PicasError(f"there is no view {design_doc}/{view}: create the views with python createViews.py {design_doc}")


def view_name(text: str) -> tuple[str, str]:
    """Return design document and view of an argument like "Monitor/todo".

    :raises argparse.ArgumentTypeError: if it is none
    """
    design_doc, slash, view = text.partition("/")
    if not (slash and design_doc and view) or "/" in view:
        known = ", ".join(f"Monitor/{state}" for state in STATES)
        raise argparse.ArgumentTypeError(f"{text!r} is not DESIGN_DOCUMENT/VIEW, like {known}")
    return design_doc, view


def confirm(question: str) -> bool:
    """Ask a person at a terminal and return whether the answer was yes; without a terminal there is nobody to ask."""
    if not sys.stdin.isatty():
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def log_to_stderr(verbosity: int) -> None:
    """Show the log on standard error: warnings, with 1 what goes on, with 2 every detail."""
    levels = [logging.WARNING, logging.INFO, logging.DEBUG]
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=levels[min(verbosity, 2)])


class ProgressBar:
    """A bar on standard error that fills up; nothing if nobody watches, or if the work is small.

    :param least: how much work there must be
    """

    WIDTH = 40

    def __init__(self, least: int, stream: TextIO | None = None) -> None:
        self._least = least
        self._stream = stream or sys.stderr
        self._shown = ""

    def __call__(self, done: int, total: int) -> None:
        """Show how much is done."""
        if total < self._least or not self._stream.isatty():
            return
        filled = self.WIDTH * done // total
        line = f"[{'#' * filled}{'.' * (self.WIDTH - filled)}] {done} of {total}"
        if line != self._shown:
            self._stream.write("\r" + line + ("\n" if done == total else ""))
            self._stream.flush()
            self._shown = line


def _complain(line: str) -> None:
    print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr)  # noqa: PTH119


def _reason(error: BaseException) -> str:
    detail: Any = error.args[0] if error.args else ""
    return one_line(detail)
