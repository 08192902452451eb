"""Runs many pilots as processes that start at the same moment; `worker.py` is one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
GRACE = 20.0
"""Seconds between SIGTERM and SIGKILL."""


class StartError(Exception):
    """A pilot did not start; the message is the end of its stderr."""


@dataclass
class Outcome:
    """The result of a run of all pilots."""

    reports: list[dict[str, Any]] = field(default_factory=list)
    """The reports that the pilots wrote at their end."""
    crashed: int = 0
    """Pilots that ended by themselves with a non-zero exit code or a traceback on stderr."""
    stopped: int = 0
    """Pilots that were stopped at the time limit."""
    errors: list[str] = field(default_factory=list)
    """The last line on stderr of each crashed pilot, or its exit code."""

    @property
    def times_processed(self) -> Counter[str]:
        """How often each token was processed."""
        return Counter(token for report in self.reports for token in report["ids"])

    @property
    def seconds(self) -> float:
        """Seconds from the first pilot's start to the last pilot's last token."""
        return self._latest("last") - min((report["start"] for report in self.reports), default=0.0)

    @property
    def seconds_to_end(self) -> float:
        """Seconds from the first pilot's start to the last pilot's end, including a last look at the empty pool."""
        return self._latest("end") - min((report["start"] for report in self.reports), default=0.0)

    @property
    def cpu(self) -> float:
        """Processor time of all pilots in seconds, from their start to their end, without that of their children."""
        return float(sum(report["cpu"] for report in self.reports))

    def _latest(self, name: str) -> float:
        return max((report[name] for report in self.reports), default=0.0)


class _Pilot:
    """One process."""

    def __init__(self, python: str, settings: dict[str, Any], environment: dict[str, str]) -> None:
        self.is_stopped = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
        self.process = subprocess.Popen(
            [python, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        self.tell(json.dumps(settings))  # not as an argument: it contains a password

    def tell(self, line: str) -> None:
        """Write one line to the pilot's stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait_until_ready(self) -> None:
        """Return when the pilot is connected.

        :raises StartError: if it ends before that
        """
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise StartError(self.errors()[-2000:])

    def errors(self) -> str:
        """Return the pilot's stderr up to now."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")

    def close(self) -> None:
        """End the process if it is still running."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.communicate(timeout=GRACE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.communicate()
        self._errors.close()


class Fleet:
    """Pilots that are connected and wait for the start.

    :param python: the interpreter, and so the picas, that runs them
    :param settings: the settings of each pilot, see `worker.py`
    :param keeps_path: whether the interpreter inherits PYTHONPATH
    :raises StartError: if a pilot does not start
    """

    def __init__(self, python: str, settings: Sequence[dict[str, Any]], keeps_path: bool) -> None:
        environment = {name: value for name, value in os.environ.items() if keeps_path or name != "PYTHONPATH"}
        self._pilots: list[_Pilot] = []
        try:
            for setting in settings:
                self._pilots.append(_Pilot(python, setting, environment))
            for pilot in self._pilots:
                pilot.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the pilots that are still running."""
        for pilot in self._pilots:
            pilot.close()

    def run(self, limit: float) -> Outcome:
        """Start all pilots at once and return the result.

        :param limit: seconds after which pilots that are still running are stopped
        """
        outcome = Outcome()
        timers = [
            threading.Timer(limit, self._stop, [signal.SIGTERM]),
            threading.Timer(limit + GRACE, self._stop, [signal.SIGKILL]),
        ]
        for pilot in self._pilots:
            pilot.tell("start")
        for timer in timers:
            timer.start()
        try:
            for pilot in self._pilots:
                _collect(pilot, outcome)
        finally:
            for timer in timers:
                timer.cancel()
        return outcome

    def _stop(self, signum: int) -> None:
        """Send a signal to the pilots that are still running."""
        for pilot in self._pilots:
            if pilot.process.poll() is None:
                pilot.is_stopped = True
                pilot.process.send_signal(signum)


def _collect(pilot: _Pilot, outcome: Outcome) -> None:
    """Wait until a pilot ends and add its result to the outcome."""
    text, _ = pilot.process.communicate()
    found = [line for line in text.splitlines() if line.startswith("{")]
    if found:
        outcome.reports.append(json.loads(found[-1]))
    errors = pilot.errors()
    if pilot.is_stopped:
        outcome.stopped += 1
    elif pilot.process.returncode or not found or "Traceback (most recent call last)" in errors:
        outcome.crashed += 1
        outcome.errors += errors.splitlines()[-1:] or [f"exit code {pilot.process.returncode}"]
