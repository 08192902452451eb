"""One pilot process of `claim.py` and `programs.py`. It runs with any picas since 1.1.

It reads its settings from stdin (one line of JSON), connects, prints "ready", waits for a second line, and processes
tokens until there are none left or it has processed as many as the settings allow. Then it prints a line of JSON: the
ids of the tokens, in order, the times of its start, its last token and its end (seconds since the epoch), and the
processor time that it has used meanwhile, without that of its children.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import picas
from picas.actors import RunActor
from picas.clients import CouchDB
from picas.modifiers import BasicTokenModifier

CLOSES_ITSELF = "auto_close" in inspect.signature(RunActor.__init__).parameters
KNOWS_SLOTS = "slots" in inspect.signature(RunActor.run).parameters
KNOWS_CLAIM_AHEAD = "claim_ahead" in inspect.signature(RunActor.__init__).parameters
LOG = b"A line of a log that a program has written, as long as such lines are.\n" * 3


class NoWork(RunActor):
    """Only notes the id of each token. The other hooks are not overridden, because that may cost requests."""

    def __init__(self, db: Any, **options: Any) -> None:
        super().__init__(db, **options)
        self.ids: list[str] = []
        self.last = 0.0

    def process_task(self, token: Any) -> None:
        """Note the token, and close it if this picas does not close tokens itself."""
        token["exit_code"] = self.work_on(token)
        self.ids.append(token["_id"])
        self.last = time.time()
        if not CLOSES_ITSELF:
            BasicTokenModifier().close(token)

    def work_on(self, token: Any) -> int:
        """Do the work and return its exit code."""
        return 0


class Logs(NoWork):
    """Attaches two short logs to each token."""

    def work_on(self, token: Any) -> int:
        """See `NoWork.work_on`."""
        for suffix in ("out", "err"):
            token.put_attachment(f"logs_{token['_id']}.{suffix}", LOG)
        return 0


class Programs(NoWork):
    """Runs the program `true` for each token, with its output in files, and attaches these. It needs picas 2."""

    def __init__(self, db: Any, **options: Any) -> None:
        super().__init__(db, **options)
        self.folder = Path(tempfile.mkdtemp(prefix="picas-benchmark-"))

    def work_on(self, token: Any) -> int:
        """See `NoWork.work_on`."""
        from picas.executers import run_command  # not in picas 1.1

        paths = [self.folder / f"logs_{token.id}.{suffix}" for suffix in ("out", "err")]
        result = run_command(["true"], stdout=paths[0], stderr=paths[1], token=token)
        for path in paths:
            token.put_log(path.name, path)
            path.unlink()
        return result.exit_code

    def cleanup_env(self, *args: Any, **kwargs: Any) -> None:
        """Delete the folder of the logs."""
        self.folder.rmdir()


ACTORS = {"nothing": NoWork, "logs": Logs, "programs": Programs}


def version() -> str:
    """Return the version of the measured picas."""
    return getattr(picas, "__version__", None) or metadata.version("picas")


def main() -> None:
    """Run the pilot."""
    settings = json.loads(sys.stdin.readline())
    options = dict(settings["options"])
    if not KNOWS_SLOTS:
        options.pop("slots", None)  # run() passes unknown arguments on to stop_function
    claim_ahead = settings.get("claim_ahead")
    actor_options = {} if claim_ahead is None or not KNOWS_CLAIM_AHEAD else {"claim_ahead": claim_ahead}
    actor = ACTORS[settings["work"]](CouchDB(**settings["connection"]), **actor_options)
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # the benchmark ended
    start, used = time.time(), time.process_time()
    try:
        actor.run(**options)
    finally:
        result = {
            "picas": version(),
            "slots": options.get("slots"),
            "ahead": actor_options.get("claim_ahead", "default") if KNOWS_CLAIM_AHEAD else None,
            "ids": actor.ids,
            "start": start,
            "last": actor.last or start,
            "end": time.time(),
            "cpu": time.process_time() - used,
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
