"""The pilot of a chaos run and its tasks: `python tasks.py LEDGER_FOLDER SLOTS`.

The settings come from the environment. The input of a token is the kind of its task.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from picas import EndlessViewIterator, RunActor, TaskViewIterator, console
from picas.executers import execute

KINDS = ("python", "command", "flaky", "forks", "fails", "hangs", "swarms", "writes", "closes")
QUICK = "quick"
"""A kind so short that pilots lock and save several at a time."""
DOOMED = ("fails", "hangs", "swarms")
"""The kinds that always fail."""

MAX_TOKEN_TIME = 3.0
MAX_SCRUB = 1
COMMANDS = {
    "command": "sleep 0.2; echo done",
    "forks": "(sleep 0.4 &) ; setsid sleep 0.3 & echo forked",
    "fails": "echo no >&2; exit 3",
    "hangs": "trap '' TERM; sleep 600",
    "swarms": "for i in 1 2 3; do sh -c 'trap \"\" TERM; setsid sleep 600' & done; wait",
}


class ChaosPilot(RunActor):
    """Notes in a ledger, one file per token, which attempts have begun and which have reached their end."""

    ledger = Path()

    def process_task(self, token: Any) -> None:
        """Do the task of the token; note its success before reporting it."""
        claim = token["claim"]["id"]
        self._note(token, f"begin {claim}")
        kind = token["input"]
        if kind == "flaky" and token["scrub_count"] == 0:
            raise RuntimeError("flaky tasks fail the first time")
        if kind in COMMANDS:
            token["exit_code"] = execute(["sh", "-c", COMMANDS[kind]])[1]
        elif kind == "writes":
            Path(f"scratch_{claim}").write_bytes(bytes(100_000))
        elif kind == "closes":
            sys.stdout.close()
            sys.stderr.close()
        else:
            time.sleep(0.2 if kind == QUICK else 0.1)
        if not token.get("exit_code"):
            self._note(token, f"end {claim}")

    def _note(self, token: Any, line: str) -> None:
        with (self.ledger / token.id).open("a", encoding="ascii") as file:
            file.write(line + "\n")


def main() -> None:
    """Work until stopped."""
    console.log_to_stderr(0)
    ChaosPilot.ledger = Path(sys.argv[1])
    client = console.connect()
    # Pilots are killed often here, and no task is to blame.
    pilot = ChaosPilot(client, EndlessViewIterator(TaskViewIterator(client, "todo")), max_lost=10**6)
    pilot.run(max_token_time=MAX_TOKEN_TIME, max_scrub=MAX_SCRUB, slots=int(sys.argv[2]))


if __name__ == "__main__":
    console.run_pilot(main)
