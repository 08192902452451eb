"""Verbs that steer pilots: `cancel`, `drain`, `pause` and `resume`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from .. import console
from ..clients import CouchDB
from ..exceptions import UsageError
from ..pilot import orders
from ..util import duration_text, visible
from .arguments import add_json, add_verb, connect, duration, token_ids
from .output import number_of, print_json, tell

PAUSED = "the pool is paused; tokens at work go on"
RESUMED = "the pool is resumed"


def add_verbs(verbs: Any) -> None:
    """Add these verbs to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    cancel = add_verb(
        verbs,
        "cancel",
        _cancel,
        help="end the work on tokens and put them into error",
        description="End the work on tokens, which are in error then and are not tried again. A free token is put into "
        "error at once. A pilot obeys with its next heartbeat.",
    )
    cancel.add_argument("tokens", nargs="+", metavar="TOKEN", help="the id of a token; - for ids on standard input")
    _add_message(cancel)
    _add_wait(cancel, "until the work on the tokens has ended")
    add_json(cancel, "an object of JSON for each token")

    drain = add_verb(
        verbs,
        "drain",
        _drain,
        help="let pilots end once their tokens have ended",
        description="Let pilots lock no further token and end once the tokens at work have ended, endless pilots too.",
    )
    drain.add_argument(
        "pilots", nargs="*", metavar="PILOT", help="the id of a pilot or its beginning, or the id of its batch job"
    )
    drain.add_argument("--all", action="store_true", help="all pilots that run")
    _add_message(drain)
    _add_wait(drain, "until the pilots have ended")
    add_json(drain)

    pause = add_verb(
        verbs,
        "pause",
        _pause,
        help="let no pilot lock another token",
        description="Let no pilot lock another token until the pool is resumed, also pilots that start meanwhile. "
        "Tokens at work go on.",
    )
    _add_message(pause)
    _add_wait(pause, "until all pilots have read it")
    add_json(pause)

    resume = add_verb(verbs, "resume", _resume, help="end the pause of the pool")
    _add_message(resume)
    _add_wait(resume, "until all pilots have read it")
    add_json(resume)


def _add_message(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--message", default="", metavar="TEXT", help="why, for the others")


def _add_wait(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--wait",
        nargs="?",
        type=duration,
        const=math.inf,
        metavar="SECONDS",
        help=f"wait {what}, or for so long at most; then the exit code is {console.EXIT_TIMEOUT}",
    )


def _cancel(options: argparse.Namespace) -> int:
    client = connect()
    found = orders.cancel_tokens(client, token_ids(options.tokens), options.message)
    if options.wait is not None:
        found = orders.wait_until_cancelled(client, found, options.wait)
    for each in found:
        if options.json:
            pilot = None if each.order is None else each.order.pilot
            print_json(
                "cancel", {"id": each.token, "pilot": pilot, "outcome": each.outcome or None, "detail": each.detail}
            )
        elif each.order is not None or each.outcome:
            print(visible(f"{each.detail}{'' if each.outcome else within([each.order])}"))
        else:
            tell(each.detail)
    if options.wait is not None and any(each.order is not None and not each.outcome for each in found):
        return console.EXIT_TIMEOUT
    is_matched = any(each.outcome == "cancelled" or (each.order is not None and not each.outcome) for each in found)
    return 0 if is_matched else console.EXIT_FAILURE


def _drain(options: argparse.Namespace) -> int:
    if options.all == bool(options.pilots):
        raise UsageError("name the pilots to drain, or give --all")
    client = connect()
    issued = orders.drain_pilots(client, None if options.all else options.pilots, options.message)
    return _report(client, options, "drain", issued, until_ended=True)


def _pause(options: argparse.Namespace) -> int:
    client = connect()
    issued = orders.pause_pool(client, options.message)
    if not options.json:
        print(PAUSED)
    is_quiet = not issued.given and not issued.problems and not options.json
    return 0 if is_quiet else _report(client, options, "pause", issued)


def _resume(options: argparse.Namespace) -> int:
    client = connect()
    issued = orders.resume_pool(client, options.message)
    if not options.json and not issued.problems:
        print(RESUMED)
    is_quiet = not issued.given and not issued.problems and not options.json
    return 0 if is_quiet else _report(client, options, "resume", issued)


def _report(
    client: CouchDB,
    options: argparse.Namespace,
    verb: str,
    issued: orders.Issued,
    *,
    until_ended: bool = False,
) -> int:
    """Wait if that is wanted, print what was ordered and obeyed, and return the exit code.

    :param until_ended: whether the pilots are to end
    """
    obeyed: list[str] | None = None
    if not options.json:
        for problem in issued.problems:
            tell(problem)
        if issued.given:
            print(describe_issued(issued, until_ended=until_ended), flush=True)
    if options.wait is not None:
        obeyed = orders.wait_until_obeyed(client, issued.given, options.wait, until_ended=until_ended)
    ordered = [given.pilot for given in issued.given]
    if options.json:
        print_json(verb, {"ordered": ordered, "obeyed": obeyed, "problems": issued.problems})
    left = [] if obeyed is None else sorted(set(ordered) - set(obeyed))
    if left and not options.json:
        what = "not ended" if until_ended else "not obeyed"
        tell(f"{number_of(len(left), 'pilot')} {'has' if len(left) == 1 else 'have'} {what} yet, such as {left[0]}")
    if left:
        return console.EXIT_TIMEOUT
    return 0 if ordered or not issued.problems else console.EXIT_FAILURE


def describe_issued(issued: orders.Issued, *, until_ended: bool = False) -> str:
    """Return one line about the pilots that got an order: "3 pilots obey within 10 s".

    :param until_ended: whether they are to end
    """
    is_one = len(issued.given) == 1
    then = f", and {'ends once its' if is_one else 'end once their'} tokens have ended" if until_ended else ""
    who = f"{number_of(len(issued.given), 'pilot')} {'obeys' if is_one else 'obey'}"
    return f"{who}{within(issued.given)}{then}"


def within(given: Sequence[orders.Given | None]) -> str:
    """Return when pilots will have read their orders, for people: " within 10 s"."""
    seconds = max((each.within for each in given if each is not None and each.within is not None), default=None)
    return "" if seconds is None else f" within {duration_text(math.ceil(seconds))}"
