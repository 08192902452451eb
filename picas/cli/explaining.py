"""The verb `why`: why a token does not run."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import asdict
from typing import Any

from couchdb.http import ResourceNotFound

from ..pilot.obstacles import Explanation, why_not
from ..util import one_line
from ..views import DESIGN_DOC
from . import output
from .arguments import add_json, add_verb, connect
from .progress import wait_until_indexed


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    why = add_verb(
        verbs,
        "why",
        _why,
        help="say why a token does not run",
        description="Say why a token does not run: its state, a pause of the pool, the time for which it waits, what "
        "the running pilots lack for it, or how many tokens come before it.",
    )
    why.add_argument("token", metavar="TOKEN", help="the id of the token")
    add_json(why)


def _why(options: argparse.Namespace) -> None:
    client = connect()
    with contextlib.suppress(ResourceNotFound):  # that is one of the reasons
        wait_until_indexed(client, DESIGN_DOC)
    found = why_not(client, options.token)
    if options.json:
        output.print_json("why", to_json(found))
        return
    print(output.bold(one_line(found.id)) + (f" is in {found.state}" if found.state else ""))
    for reason in found.reasons:
        print(f"  {reason.text}")


def to_json(found: Explanation) -> dict[str, Any]:
    """Return the fields of an explanation for programs."""
    return {
        "id": found.id,
        "state": found.state,
        "reasons": [{**asdict(reason), "lacks": list(reason.lacks)} for reason in found.reasons],
        "tokens_before": found.before,
        "tokens_waiting": found.waiting,
        "running_pilots": found.pilots,
    }
