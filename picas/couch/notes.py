"""Notes to people: by mail, in a chat, on a telephone. The package apprise knows the services.

The address of a service holds a password or a token, so it is in no error and no log, and in no list of processes.
Notes are sent by a process of their own, for two reasons: apprise logs addresses, and its threads would keep this
process alive while a service hangs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..exceptions import UsageError
from ..util import import_extra

TIMEOUT = 30.0
"""Seconds that the services have to take a note, all together."""
SERVICES = "https://github.com/caronc/apprise/wiki"
"""Where the addresses of the services are described."""
_SCHEME = re.compile(r"([a-z][a-z0-9]{0,19})://", re.I)
_SENDER = "import sys; sys.path[:] = sys.argv[1:]; from picas.couch.notes import send_from_stdin; send_from_stdin()"
"""The program of the sending process, which finds modules where this process does."""


@dataclass(frozen=True)
class Note:
    """A note."""

    title: str
    text: str
    kind: str
    """What it is about: "success", "warning" or "failure". Some services show it as a colour."""


@dataclass(frozen=True)
class Receiver:
    """Where a note goes."""

    address: str
    """Secret."""
    name: str
    """The name of the service, for people: "Slack"."""

    def __repr__(self) -> str:
        """Return a text without the address."""
        return f"Receiver({self.name!r})"


def receivers(addresses: Sequence[str]) -> list[Receiver]:
    """Return the receivers with some addresses.

    :raises MissingPackage: if apprise is not installed
    :raises UsageError: if an address is invalid; it is not in the text
    """
    apprise = import_extra("apprise", "apprise", "notify")
    found = []
    with _quiet():
        for number, address in enumerate(addresses, 1):
            service = apprise.Apprise.instantiate(address, asset=_asset(apprise), suppress_exceptions=True)
            if service is None:
                which = f"{number} of {len(addresses)} " if len(addresses) > 1 else ""
                scheme = _SCHEME.match(address)
                kind = f" ({scheme.group(1).lower()}://…)" if scheme else ""
                raise UsageError(f"address {which}for notes{kind} is not one that apprise knows: see {SERVICES}")
            found.append(Receiver(address, str(service.service_name)))
    return found


def send_note(note: Note, to: Sequence[Receiver]) -> list[Receiver]:
    """Send a note once to each receiver, and return those that did not take it in time."""
    content = {"note": asdict(note), "addresses": [receiver.address for receiver in to]}
    path = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100  # "" would stay "" as a Path
    try:
        taken = subprocess.run(
            [sys.executable, "-c", _SENDER, *path],
            input=json.dumps(content).encode("ascii"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as late:
        taken = late.stdout or b""
    numbers = set(taken.split())
    return [receiver for number, receiver in enumerate(to) if str(number).encode() not in numbers]


def send_from_stdin() -> None:
    """Send the note that standard input describes, and write the numbers of those who took it to standard output.

    This is the main function of the sending process, which ends here.
    """
    apprise = import_extra("apprise", "apprise", "notify")
    content = json.load(sys.stdin)
    note, lock = Note(**content["note"]), threading.Lock()

    def send(number: int, address: str) -> None:
        sender = apprise.Apprise(asset=_asset(apprise))
        # As text: services that show HTML escape what is in the note.
        if sender.add(address) and sender.notify(
            body=note.text,
            title=note.title,
            notify_type=_kind(apprise, note.kind),
            body_format=apprise.NotifyFormat.TEXT,
        ):
            with lock:
                os.write(sys.stdout.fileno(), b"%d\n" % number)

    threads = [threading.Thread(target=send, args=each, daemon=True) for each in enumerate(content["addresses"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0)


def _kind(apprise: Any, kind: str) -> Any:
    return getattr(apprise.NotifyType, kind.upper())


def _asset(apprise: Any) -> Any:
    """Return the settings of apprise: what a note says of its sender, and no threads of its own."""
    return apprise.AppriseAsset(app_id="PiCaS", app_desc="PiCaS", async_mode=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let nothing be logged meanwhile, since it would hold addresses."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
