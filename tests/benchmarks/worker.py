"""One pilot process of `claim.py`. It runs with any picas since 1.1, and uses only what all of them have.

It reads its settings from stdin (one line of JSON), connects, prints "ready", waits for a second line, and processes
tokens until there are none left or it has processed as many as the settings allow. Then it prints a line of JSON: the
ids of the tokens, in order, and the times of its start, its last token and its end (seconds since the epoch).
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
    """Only notes the id of each token. The other hooks are not overridden, because that may cost requests."""

    def __init__(self, db: Any) -> None:
        super().__init__(db)
        self.ids: list[str] = []
        self.last = 0.0

    def process_task(self, token: Any) -> None:
        """Note the token, and close it if this picas does not close tokens itself."""
        self.ids.append(token["_id"])
        self.last = time.time()
        token["exit_code"] = 0
        if not CLOSES_ITSELF:
            BasicTokenModifier().close(token)


def version() -> str:
    """Return the version of the measured picas."""
    return getattr(picas, "__version__", None) or metadata.version("picas")


def main() -> None:
    """Run the pilot."""
    settings = json.loads(sys.stdin.readline())
    actor = NoWork(CouchDB(**settings["connection"]))
    options = dict(settings["options"])
    if not KNOWS_SLOTS:
        options.pop("slots", None)  # run() passes unknown arguments on to stop_function
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # the benchmark ended
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
