"""Verbs for the pool: `status` and `recover`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from couchdb.http import ResourceNotFound

from .. import console
from ..pilot import Kind, without_pilot
from ..pool import spool
from ..pool.recovery import Recovered, recover
from ..util import one_line, visible
from ..views import DESIGN_DOC, NO_STATE, TASKS, count_states, tokens_in_conflict, unseen
from .arguments import settings_here

MAX_SHOWN = 10
"""The number of kinds of tokens without a pilot that `picas status` lists."""


def add_verbs(verbs: Any) -> None:
    """Add these verbs to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    status = verbs.add_parser(
        "status", help="count the tokens in each state, and show which of them no running pilot can take"
    )
    status.add_argument("design_doc", nargs="?", default=DESIGN_DOC, help="design document (default: Monitor)")
    status.set_defaults(run=_status)

    recovery = verbs.add_parser(
        "recover",
        help="save results that pilots could not save",
        description="Save the results that pilots have kept in a folder while the database was away. A result is saved "
        "only if its token is still locked by the same claim. What the server refuses for good is moved to the folder "
        "`refused` below; name that folder to try it again. The command can be repeated, and can run beside pilots "
        "that do the same.",
    )
    recovery.add_argument(
        "folder", nargs="?", type=_folder, metavar="FOLDER", help="the folder (default: $PICAS_SPOOL, else picas-spool)"
    )
    recovery.set_defaults(run=_recover)


def _folder(text: str) -> Path:
    folder = Path(text)
    if not text or (folder.exists() and not folder.is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return folder


def _status(options: argparse.Namespace) -> None:
    client = console.connect(settings_here(), max_outage=0)
    try:
        counts = count_states(client, options.design_doc)
    except ResourceNotFound:
        raise console.no_such_view("overview_total", options.design_doc, client) from None
    for state, count in counts.items():
        print(visible(f"{state} {count}"))
    for kind in (NO_STATE, TASKS):
        for line in _describe_unseen(kind, *unseen(client, kind, options.design_doc, MAX_SHOWN)):
            print(visible(line))
    with contextlib.suppress(ResourceNotFound):  # the views of an older release
        for line in _describe_conflicts(*tokens_in_conflict(client, options.design_doc, MAX_SHOWN)):
            print(visible(line))
    with contextlib.suppress(ResourceNotFound, RecursionError):  # or the needs of a token are nested too deeply
        for line in _describe_kinds(without_pilot(client, options.design_doc)):
            print(line)


def _describe_conflicts(count: int, ids: Sequence[str]) -> Iterator[str]:
    """Yield the line about tokens with conflicting revisions."""
    if count:
        what = "1 token has" if count == 1 else f"{count} tokens have"
        yield f"{what} conflicting revisions, of which pilots see one: {_list(count, ids)}"


def _describe_unseen(kind: str, count: int, ids: Sequence[str]) -> Iterator[str]:
    """Yield the line about documents that no pilot sees, though they may have been meant as tokens."""
    them, shown = "it" if count == 1 else "them", _list(count, ids)
    if count and kind == NO_STATE:
        what = "1 token is" if count == 1 else f"{count} tokens are"
        yield f"{what} in no state, because lock or done is missing or invalid, so no pilot takes {them}: {shown}"
    elif count:
        what = "1 document has" if count == 1 else f"{count} documents have"
        yield f'{what} the type "task" instead of "token", so no pilot takes {them}: {shown}'


def _list(count: int, ids: Sequence[str]) -> str:
    """Return the first of some ids, and how many there are besides."""
    return ", ".join(one_line(id) for id in ids) + (f" and {count - len(ids)} others" if count > len(ids) else "")


def _describe_kinds(kinds: Sequence[Kind]) -> Iterator[str]:
    """Yield the lines about tokens that no running pilot can take."""
    if kinds:
        yield "No running pilot has what these tokens in todo need:"
    for kind in kinds[:MAX_SHOWN]:
        yield f"  {one_line(kind)}"
    if len(kinds) > MAX_SHOWN:
        yield f"  and {sum(kind.count for kind in kinds[MAX_SHOWN:])} others"


def _recover(options: argparse.Namespace) -> int:
    folder = options.folder or spool.default_folder()
    if not spool.files(folder):
        print(f"nothing to recover in {folder}")
        return 0
    recovered = recover(console.connect(settings_here(), max_outage=0), folder, tell=print)
    print(_summary(recovered))
    return 0 if recovered.is_complete else console.EXIT_FAILURE


def _summary(recovered: Recovered) -> str:
    saved, aside, refused = len(recovered.saved), len(recovered.kept_aside), len(recovered.refused)
    where = f" in {recovered.kept_aside[0].parent}" if aside else ""
    those_refused = f"{refused} refused by the server, in {recovered.refused[0].parent}, " if refused else ""
    return (
        f"recovered {saved} result{'' if saved == 1 else 's'}, {aside} kept aside{where}, {those_refused}"
        f"{len(recovered.unreadable)} unreadable, {len(recovered.left)} left"
    )
