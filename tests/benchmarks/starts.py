"""Times how fast one process starts programs, in several ways; `programs.py` runs it for each number of threads.

It reads its settings from stdin (one line of JSON: `threads`, `seconds`, `repeat`) and prints a line of JSON: for each
way the programs per second of each round, and the memory of the processes that picas has started for itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable
from uuid import uuid4

from picas.executers import execute, run_command

PROGRAM = ["true"]
SUPERVISOR = b"forkserver.py"
"""The script of the processes that are supervisors, or fork them."""
MARK = "BENCHMARK_STARTS"
"""A variable in the environment of this process, and so in that of the supervisors of its children."""

WAYS: dict[str, Callable[[], Any]] = {
    "subprocess.run": lambda: subprocess.run(PROGRAM, check=True),
    "run_command": lambda: run_command(PROGRAM),
    "execute": lambda: execute(PROGRAM),
}


class Crew:
    """Threads that start programs, each one after the other, all in the same way at the same time.

    They live until `close`: what picas keeps for a thread would go away with it.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._way: Callable[[], Any] | None = None
        self._give_up = 0.0
        self._started = [0] * count
        self._gate = threading.Barrier(count + 1)
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def run(self, way: Callable[[], Any], seconds: float) -> float:
        """Start programs for some time and return how many per second; each thread starts at least one."""
        self._way = way
        self._started = [0] * self._count
        begin = time.monotonic()
        self._give_up = begin + seconds
        self._gate.wait()
        self._gate.wait()
        return sum(self._started) / (time.monotonic() - begin)

    def close(self) -> None:
        """End the threads."""
        self._way = None
        self._gate.wait()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        while True:
            self._gate.wait()
            way = self._way
            if way is None:
                return
            try:
                while not self._started[number] or time.monotonic() < self._give_up:
                    way()
                    self._started[number] += 1
            except BaseException:
                self._gate.abort()
                raise
            self._gate.wait()


def memory_of_supervisors(mark: str) -> dict[str, Any]:
    """Return the number of supervisors of this process, and the sums of their memory in MB; empty without /proc.

    :param mark: the value of `MARK`
    """
    if not Path("/proc/self/smaps_rollup").exists():
        return {}
    sums = {"Pss": 0.0, "Rss": 0.0}
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
            if f"{MARK}={mark}".encode() not in variables or not any(word.endswith(SUPERVISOR) for word in words):
                continue
            lines = (folder / "smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue  # it has ended, or belongs to another user
        found += 1
        for name, _, value in (line.partition(":") for line in lines):
            if name in sums:
                sums[name] += int(value.split()[0]) / 1024
    return {"supervisors": found, "PSS MB": sums["Pss"], "RSS MB": sums["Rss"]}


def main() -> None:
    """Run the rounds that the settings describe."""
    settings = json.loads(sys.stdin.readline())
    os.environ[MARK] = uuid4().hex
    crew = Crew(settings["threads"])
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for way in WAYS.values():
        crew.run(way, 0)  # what is set up once is not measured
    for repeat in range(settings["repeat"]):
        for name in WAYS if repeat % 2 == 0 else reversed(WAYS):
            rates[name].append(crew.run(WAYS[name], settings["seconds"]))
    memory = memory_of_supervisors(os.environ[MARK])
    crew.close()
    print(json.dumps({"rates": rates, "memory": memory}), flush=True)


if __name__ == "__main__":
    main()
