"""One pilot of `claim.py`, as a process. Runs under any picas from 1.1 on, and uses only what all of them have.

It reads one line of JSON from stdin (the settings), connects, prints "ready", waits for a second line, and processes
tokens until there are none, or as many as it was told to. At the end it prints a line of JSON: the ids of the tokens,
in order, and when it began, had its last token, and ended (seconds since the epoch).
"""

from __future__ import annotations

import inspect
import json
import sys
import time
from importlib import metadata
from typing import Any

import picas
from picas.actors import RunActor
from picas.clients import CouchDB
from picas.modifiers import BasicTokenModifier

CLOSES_ITSELF = "auto_close" in inspect.signature(RunActor.__init__).parameters
KNOWS_SLOTS = "slots" in inspect.signature(RunActor.run).parameters


class NoWork(RunActor):
    """Does nothing with a token but note its id. The other hooks stay as they are: overriding one may cost requests."""

    def __init__(self, db: Any) -> None:
        super().__init__(db)
        self.ids: list[str] = []
        self.last = 0.0

    def process_task(self, token: Any) -> None:
        """Note the token; where picas does not close tokens itself, close it."""
        self.ids.append(token["_id"])
        self.last = time.time()
        token["exit_code"] = 0
        if not CLOSES_ITSELF:
            BasicTokenModifier().close(token)


def version() -> str:
    """Return the version of the picas that is measured."""
    return getattr(picas, "__version__", None) or metadata.version("picas")


def main() -> None:
    """Run the pilot."""
    settings = json.loads(sys.stdin.readline())
    actor = NoWork(CouchDB(**settings["connection"]))
    options = dict(settings["options"])
    if not KNOWS_SLOTS:
        options.pop("slots", None)  # any unknown argument of run() is taken for one of stop_function's
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # the benchmark has ended
    start = time.time()
    try:
        actor.run(**options)
    finally:
        result = {
            "picas": version(),
            "slots": options.get("slots"),
            "ids": actor.ids,
            "start": start,
            "last": actor.last or start,
            "end": time.time(),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
