"""Arguments that several verbs have, and types of arguments."""

from __future__ import annotations

import argparse
import getpass
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NoReturn

from .. import config, console
from ..clients import CouchDB
from ..exceptions import UsageError
from ..util import parse_duration, visible

_ADDRESS = re.compile(r"://\S+")


def settings_here() -> config.Settings:
    """Return the settings, with picasconfig.py from the working directory: the command has no folder of its own."""
    return config.load(script_dir=Path.cwd())


def connect() -> CouchDB:
    """Return a client for the pool that the settings name. It does not wait for a server that is down."""
    return console.connect(settings_here(), max_outage=0)


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int | None], *, help: str, description: str | None = None
) -> argparse.ArgumentParser:
    """Add a verb to the command and return its parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    :param run: does the work; gets the parsed arguments, and returns the exit code, None for 0
    :param help: what it does, for the list of verbs
    :param description: the same at length, for its own help
    """
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=description or help)
    parser.set_defaults(run=run, refuse=refuse_with(parser))
    return parser


def refuse_with(parser: argparse.ArgumentParser) -> Callable[[Sequence[str]], NoReturn]:
    """Return a function that ends the process with an error about arguments that a parser does not have."""

    def refuse(unknown: Sequence[str]) -> NoReturn:
        # An address may hold a password: that of `--notify`, for example.
        parser.error(f"unrecognized arguments: {_ADDRESS.sub('://…', ' '.join(unknown))}")

    return refuse


def add_json(parser: argparse._ActionsContainer, what: str = "an object of JSON") -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=f"print {what} instead")


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add `--yes`."""
    parser.add_argument("--yes", action="store_true", help="do not ask first")


def confirm(question: str, yes: bool) -> bool:
    """Ask at the terminal before a change of many tokens, and return the answer.

    :param yes: whether `--yes` was given, so that nobody is asked
    :raises UsageError: if there is neither that nor a terminal
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked without a terminal: repeat this with --yes")
    return console.confirm(question)


def ask_secret(question: str) -> str:
    """Return what is typed at the terminal, where it is not shown; without a terminal, a line of standard input.

    :returns: "" if there is nothing
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    try:
        return getpass.getpass(visible(question))
    except EOFError:  # Ctrl-D
        return ""


def token_ids(given: Iterable[str]) -> Iterator[str]:
    """Yield the ids of tokens that were given as arguments; "-" stands for those on standard input, one a line."""
    for id in given:
        if id != "-":
            yield id
            continue
        for line in sys.stdin:
            if line.strip():
                yield line.strip()


def field_value(text: str) -> tuple[str, Any]:
    """Split an argument like "FIELD=VALUE" into the field's name and its value, which is JSON, or else a text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not like FIELD=VALUE")
    try:
        return name, json.loads(value, parse_constant=_refuse_constant)
    except ValueError:
        return name, value


def _refuse_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python accepts but a database does not."""
    raise ValueError(text)


def duration(text: str) -> float:
    """Convert an argument like "90", "15m", "2h" or "3d" to seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _real_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return an argument type for a number above 0.

    :param kind: int, float, or an argument type for numbers
    """
    convert = whole_number if kind is int else _real_number if kind is float else kind

    def number(text: str) -> Any:
        value = convert(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def whole_number(text: str) -> int:
    """Convert an argument to a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def not_negative(text: str) -> int:
    """Convert an argument to a whole number, at least 0."""
    number = whole_number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def port_number(text: str) -> int:
    """Convert an argument to a port, 0 for any."""
    number = whole_number(text)
    if not 0 <= number < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to 65535)")
    return number
