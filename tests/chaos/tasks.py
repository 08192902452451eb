"""What the tasks of a chaos run do, and the pilot that does them: `python tasks.py LEDGER_FOLDER SLOTS`.

The settings come from the environment. A task's kind is the first part of its token's input.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from picas import EndlessViewIterator, RunActor, TaskViewIterator, console
from picas.executers import execute

KINDS = ("python", "command", "flaky", "forks", "fails", "hangs", "swarms")
DOOMED = ("fails", "hangs", "swarms")
"""The kinds that never end well."""

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
    """Notes in a ledger, a file for each token, which attempts have begun, and which have come to their end."""

    ledger = Path()

    def process_task(self, token: Any) -> None:
        """Do what the token says; what reports success has been noted before that."""
        claim = token["claim"]["id"]
        self._note(token, f"begin {claim}")
        kind = token["input"]
        if kind == "flaky" and token["scrub_count"] == 0:
            raise RuntimeError("flaky tasks fail the first time")
        if kind in COMMANDS:
            token["exit_code"] = execute(["sh", "-c", COMMANDS[kind]])[1]
        else:
            time.sleep(0.1)
        if not token.get("exit_code"):
            self._note(token, f"end {claim}")

    def _note(self, token: Any, line: str) -> None:
        with (self.ledger / token.id).open("a", encoding="ascii") as file:
            file.write(line + "\n")


def main() -> None:
    """Work until somebody says stop."""
    console.log_to_stderr(0)
    ChaosPilot.ledger = Path(sys.argv[1])
    client = console.connect()
    # Kills are many here, and no task is to blame.
    pilot = ChaosPilot(client, EndlessViewIterator(TaskViewIterator(client, "todo")), max_lost=10**6)
    pilot.run(max_token_time=MAX_TOKEN_TIME, max_scrub=MAX_SCRUB, slots=int(sys.argv[2]))


if __name__ == "__main__":
    console.run(main)
