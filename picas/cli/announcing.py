"""What came of the tokens that people wait for, as a message to a web hook and as a note to people."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from couchdb.http import HTTPError

from ..clients import CouchDB
from ..couch.notes import Note, Receiver, receivers, send_note
from ..couch.webhooks import check_webhook, post_to_webhook
from ..exceptions import PicasError, UsageError
from ..pool.completion import tokens_left
from ..pool.failures import find_failures
from ..pool.indexing import Indexing, wait_for_index
from ..util import After
from ..views import REPORT
from .output import number_of, tell
from .status import reason_text

VARIABLE = "PICAS_NOTIFY"
"""The environment variable with the addresses of `--notify`."""
MAX_GROUPS = 3
"""How many groups of failures a note lists."""
INDEX_TIME = 10.0
"""Seconds to wait for the views that group the failures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--webhook` and `--notify`."""
    parser.add_argument(
        "--webhook",
        type=_webhook,
        metavar="URL",
        help="send what came of them, or that the time is up, to this address as JSON with a text, as Slack and "
        "Mattermost take it. If that fails, a line says so, and the exit code stays",
    )
    parser.add_argument(
        "--notify",
        nargs="?",
        const="",
        action="append",
        metavar="URL",
        help="send a note about it to this address of apprise, such as mailto://… or slack://…; can be repeated. "
        f"Without URL: to those in the variable ${VARIABLE}, separated by blanks, which no list of processes shows. If "
        "that fails, a line says so, and the exit code stays",
    )


def _webhook(text: str) -> str:
    try:
        return check_webhook(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Announcer:
    """Sends what came of the tokens to those who want to know.

    :param options: the parsed arguments, see `add_arguments`
    :param database: the name of the pool
    :raises MissingPackage: if there are addresses for notes, and apprise is not installed
    :raises UsageError: if such an address is invalid
    """

    def __init__(self, options: argparse.Namespace, database: str) -> None:
        self._database = database
        self._webhook: str | None = options.webhook
        addresses = list(dict.fromkeys(_addresses(options.notify or ())))  # one note to each
        self._receivers: list[Receiver] = receivers(addresses) if addresses else []

    def announce(self, text: str, counts: Mapping[str, int] | None = None, client: CouchDB | None = None) -> None:
        """Send a text. If somebody does not get it, a line says so.

        :param text: what came of the tokens, on one line
        :param counts: the number of tokens in each state, None if that is not known
        :param client: the pool, None if it can't be asked why tokens have failed
        """
        if self._webhook:
            message = {"text": f"{self._database}: {text}", "database": self._database, **(counts or {})}
            try:
                post_to_webhook(self._webhook, message)
            except PicasError as error:
                tell(f"picas: the message was not sent: {error}")
        if self._receivers:
            failures = _failures(client) if client is not None and counts and counts["error"] else []
            kind, title = _summary(counts)
            note = Note(f"{self._database}: {title}", "\n".join([text, *failures]), kind)
            for receiver in send_note(note, self._receivers):
                how = "the command apprise of the same package shows why: apprise -vv --body test URL"
                tell(f"picas: the note was not sent: {receiver.name} did not accept it; {how}")


def _addresses(given: Sequence[str]) -> Iterator[str]:
    """Yield the addresses for notes; "" stands for those in the environment."""
    for address in given:
        if address:
            yield address
            continue
        inherited = os.environ.get(VARIABLE, "").split()
        if not inherited:
            raise UsageError(f"--notify has no address, and the variable {VARIABLE} has none either")
        yield from inherited


def _summary(counts: Mapping[str, int] | None) -> tuple[str, str]:
    """Return the kind of a note, see `Note.kind`, and its title without the name of the pool.

    :param counts: the number of tokens in each state, None if that is not known
    """
    if counts is None:
        return "warning", "the wait has ended"
    left, total = tokens_left(dict(counts)), number_of(sum(counts.values()), "token")
    if left:
        return "warning", f"the time is up, and {left} of {total} are left"
    if counts["error"]:
        return "failure", f"all has ended, {counts['error']} of {total} in error"
    return "success", f"all is done: {total}"


def _failures(client: CouchDB) -> list[str]:
    """Return a line for each of the largest groups of failures, as far as the server knows them without long work."""
    with contextlib.suppress(PicasError, HTTPError):  # no design document Report, or the server has just gone away
        if wait_for_index(client, REPORT, _nothing, After(INDEX_TIME)):
            found = find_failures(client, MAX_GROUPS)
            lines = [f"{number_of(group.count, 'token')}: {reason_text(group)}" for group in found.groups]
            others = found.other_groups
            return [*lines, f"and {found.other_tokens} in {number_of(others, 'other group')}"] if others else lines
    return []


def _nothing(indexing: Indexing) -> None:
    """Show nothing: people are not at the terminal."""
