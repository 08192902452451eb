"""The verb `recover`: save the results that pilots have kept in files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import console
from ..pool import spool
from ..pool.recovery import Recovered, recover
from .arguments import settings_here


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
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
