"""The verb `logs`: the output of a token's program."""

from __future__ import annotations

import argparse
import codecs
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from .. import config
from ..clients import CouchDB
from ..couch.outages import MAX_OUTAGE
from ..documents import Document
from ..exceptions import UsageError
from ..pilot.orders import follow
from ..pool.facts import attachments_of, find_token
from ..pool.program_logs import BLOCK, find_log, open_log
from ..tokens.states import state_of
from ..util import visible
from . import output
from .arguments import add_json, add_verb, connect, positive


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    logs = add_verb(
        verbs,
        "logs",
        _logs,
        help="print the output of a token's program",
        description="Print the log that is attached to a token, byte for byte; at a terminal, with control characters "
        "escaped. A token keeps the log of one attempt: that of a later one replaces it.",
    )
    logs.add_argument("token", metavar="TOKEN", help="the id of the token")
    logs.add_argument("--err", action="store_true", help="standard error instead of standard output")
    way = logs.add_mutually_exclusive_group()
    way.add_argument("--attempt", type=positive(int), metavar="N", help="only the log of attempt N, if it is kept")
    way.add_argument(
        "--follow", action="store_true", help="print new output as it comes, until the token is done, or in error"
    )
    add_json(way, "the list of the token's attachments, an object of JSON for each,")


def _logs(options: argparse.Namespace) -> None:
    client = connect()
    token = find_token(client, options.token)
    if options.json:
        if options.err:
            raise UsageError("--json lists all attachments of the token: leave out --err")
        _list(token)
        return
    if options.follow and state_of(token) in ("todo", "locked"):
        _follow(client, token.id, options.err)
        return
    log = find_log(token, is_err=options.err, attempt=options.attempt)
    if not log.is_of_last and log.attempt is not None:
        output.tell(f"This is the log of attempt {log.attempt.number}. Later ones have left none so far.")
    with open_log(client, log) as file:
        _print_bytes(iter(lambda: file.read(BLOCK), b""))


def _list(token: Document) -> None:
    for each in attachments_of(token):
        fields = {"id": token.id, "name": each.name, "size_bytes": each.size, "content_type": each.content_type}
        output.print_json("logs", fields)


def _follow(client: CouchDB, token_id: str, is_err: bool) -> None:
    """Print what a program prints, until the token is done, or in error.

    :raises NoLog: if it has printed nothing, and has left no log either
    """
    patience = config.duration(None, "PICAS_MAX_OUTAGE", MAX_OUTAGE)
    has_printed = False

    def printed() -> Iterator[bytes]:
        nonlocal has_printed
        for text in follow(client, token_id, is_err=is_err, tell=output.tell, max_outage=patience):
            has_printed = True
            yield text.encode("utf-8", "backslashreplace")

    _print_bytes(printed())
    if not has_printed:
        find_log(find_token(client, token_id), is_err=is_err)


def _print_bytes(blocks: Iterable[bytes]) -> None:
    """Print bytes as they are, and to a terminal as text with its control characters escaped."""
    if not output.is_terminal():
        sys.stdout.flush()
        for block in blocks:
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
        return
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for block in blocks:
        print(visible(decoder.decode(block)), end="", flush=True)
    print(visible(decoder.decode(b"", final=True)), end="", flush=True)
