"""Measures how fast programs are started, and how fast pilots run tokens whose work is a short program.

Contenders take turns, and each pilot has a new database. Parts: `start` compares `run_command` and `execute` with bare
`subprocess.run`, `pilot` runs `true` for each token and attaches both logs, `script` is a script of picas 1.1, and
`sleep` is the example script with many slots.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Callable

from fleet import Fleet
from reports import Row, make_parser, positive, report, run, tell
from servers import Node, fresh_database, save_tokens, warm_views

from picas.views import count_states

COLUMNS = ("part", "who", "slots", "programs/s", "lowest", "highest", "share", "PSS MB/slot", "RSS MB/slot")
MEDIANS = ("PSS MB/slot", "RSS MB/slot")
PARTS = ("start", "pilot", "script", "sleep")

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
SLEEP = 0.1
"""Seconds of work of each token of the part `sleep`."""
SLOTS = 16
LIMIT = 600.0
"""Seconds after which a pilot is stopped."""
GRACE = 20.0
"""Seconds between SIGTERM and SIGKILL for a process of the benchmark."""

Measure = Callable[[], Row]


def main() -> None:
    """Run the benchmark that the command line describes."""
    arguments = _parse()
    rows: list[Row] = []
    for part in arguments.parts:
        rows += {"start": _start, "pilot": _pilot, "script": _script, "sleep": _sleep}[part](arguments)
    report(arguments, COLUMNS, rows)


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--repeat", type=positive, default=3, help="runs per row (default: 3)")
    parser.add_argument(
        "--threads",
        type=positive,
        nargs="+",
        default=[1, 4, 16, 64],
        help="start: numbers of threads that start programs (default: 1 4 16 64)",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="start: seconds of each run (default: 2)")
    parser.add_argument(
        "--tokens", type=positive, default=2000, help="pilot: tokens, or tasks, per run (default: 2000)"
    )
    parser.add_argument("--hyperqueue", metavar="PYTHON", help="pilot: interpreter in which hyperqueue is installed")
    parser.add_argument("--script-tokens", type=positive, default=300, help="script: tokens per run (default: 300)")
    parser.add_argument("--against", metavar="PYTHON", help="script: interpreter with another picas to compare with")
    parser.add_argument("--sleeps", type=positive, default=32, help="sleep: tokens for each slot (default: 32)")
    return parser.parse_args()


# --- start: how fast a process starts programs


def _start(arguments: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for threads in arguments.threads:
        settings = {"threads": threads, "seconds": arguments.seconds, "repeat": arguments.repeat}
        told = json.loads(_output_of([sys.executable, str(HERE / "starts.py")], json.dumps(settings) + "\n"))
        bare = median(told["rates"]["subprocess.run"])
        for who, rates in told["rates"].items():
            row = _row("start", who, threads, [{"programs/s": rate} for rate in rates], bare)
            if who == "run_command" and told["memory"]:
                row["supervisors"] = told["memory"]["supervisors"]
                row.update({f"{kind} MB/slot": told["memory"][f"{kind} MB"] / threads for kind in ("PSS", "RSS")})
            rows.append(row)
    return rows


# --- pilot: `true` for each token, both logs attached, beside HyperQueue


def _pilot(arguments: argparse.Namespace) -> list[Row]:
    contenders: dict[tuple[str, int], Measure] = {
        ("ours", slots): lambda slots=slots: _run_pilot(arguments, slots)  # type: ignore[misc]
        for slots in (1, SLOTS)
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if arguments.hyperqueue:
        contenders["HyperQueue", cores] = lambda: _run_hyperqueue(arguments, cores)
    runs = _take_turns("pilot", contenders, arguments.repeat)
    return _rows("pilot", runs, compared_with=("HyperQueue", cores))


def _run_pilot(arguments: argparse.Namespace, slots: int) -> Row:
    with _pool(arguments.nodes[0], arguments.tokens, "true") as (connection, count_done):
        settings = {"connection": connection, "options": {"slots": slots}, "work": "programs"}
        with Fleet(sys.executable, [settings], keeps_path=True) as fleet:
            outcome = fleet.run(LIMIT)
        if outcome.crashed or count_done() != arguments.tokens:
            raise RuntimeError(f"the pilot did not do its work: {outcome.errors}")
        return {"programs/s": arguments.tokens / outcome.seconds, "seconds to end": outcome.seconds_to_end}


def _run_hyperqueue(arguments: argparse.Namespace, cores: int) -> Row:
    with _folder() as folder:
        command = [arguments.hyperqueue, str(HERE / "hyperqueue_tasks.py"), folder, str(cores), str(arguments.tokens)]
        lines = _output_of(command, cwd=folder, environment=_environment({"TMPDIR": folder})).splitlines()
    told = json.loads(next(line for line in lines if line.startswith("{")))
    return {"programs/s": arguments.tokens / told["seconds"]}


# --- script: a script of picas 1.1


def _script(arguments: argparse.Namespace) -> list[Row]:
    contenders: dict[tuple[str, int], Measure] = {("ours", 1): lambda: _run_script(arguments, sys.executable)}
    if arguments.against:
        contenders["against", 1] = lambda: _run_script(arguments, arguments.against)
    runs = _take_turns("script", contenders, arguments.repeat)
    return _rows("script", runs, compared_with=("against", 1))


def _run_script(arguments: argparse.Namespace, python: str) -> Row:
    tokens = arguments.script_tokens
    with _pool(arguments.nodes[0], tokens, "true") as (connection, count_done), _folder() as folder:
        copy = Path(folder, "script")
        shutil.copytree(HERE / "classic", copy)
        lines = [f"{name} = {value!r}\n" for name, value in _variables(connection).items()]
        (copy / "picasconfig.py").write_text("".join(lines), encoding="utf-8")
        begin = time.monotonic()
        output = _output_of([python, "example.py"], cwd=str(copy), environment=_environment({}))
        seconds = time.monotonic() - begin
        if count_done() != tokens:
            raise RuntimeError(f"not all tokens are done: {output[-2000:]}")
    words = next(line for line in reversed(output.splitlines()) if line.startswith("Time elapsed:")).split()
    return {"programs/s": tokens / float(words[-1]), "seconds of the process": seconds}


# --- sleep: the example script with many slots


def _sleep(arguments: argparse.Namespace) -> list[Row]:
    contenders: dict[tuple[str, int], Measure] = {
        ("subprocess.run", SLOTS): lambda: _run_bare(arguments),
        ("local-example.py", SLOTS): lambda: _run_example(arguments),
    }
    rows = _rows("sleep", _take_turns("sleep", contenders, arguments.repeat), compared_with=None)
    for row in rows:
        row["share"] = row["programs/s"] * SLEEP / SLOTS
    return rows


def _run_bare(arguments: argparse.Namespace) -> Row:
    """Run the same script with the same input in as many threads, without a pool."""
    command = ["bash", str(EXAMPLES / "process_task.sh"), f"sleep {SLEEP}", "token_0"]

    def work() -> None:
        for _ in range(arguments.sleeps):
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    threads = [threading.Thread(target=work) for _ in range(SLOTS)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"programs/s": arguments.sleeps * SLOTS / (time.monotonic() - begin)}


def _run_example(arguments: argparse.Namespace) -> Row:
    tokens = arguments.sleeps * SLOTS
    command = [sys.executable, str(EXAMPLES / "local-example.py"), "--slots", str(SLOTS)]
    with _pool(arguments.nodes[0], tokens, f"sleep {SLEEP}") as (connection, _), _folder() as folder:
        environment = _environment(_variables(connection))
        with _process(command, cwd=folder, environment=environment) as process:
            assert process.stdout is not None
            # The script prints this as soon as a token's work has ended.
            ends = [time.monotonic() for line in process.stdout if line == "exit_code 0\n"]
    if len(ends) != tokens:
        raise RuntimeError(f"{len(ends)} of {tokens} tokens are done")
    return {"programs/s": tokens / (ends[-1] - ends[0] + SLEEP)}


# --- what the parts share


def _take_turns(
    part: str, contenders: Mapping[tuple[str, int], Measure], repeat: int
) -> dict[tuple[str, int], list[Row]]:
    """Return the results of each contender; each goes first equally often."""
    runs: dict[tuple[str, int], list[Row]] = {contender: [] for contender in contenders}
    for number in range(repeat):
        for contender in contenders if number % 2 == 0 else reversed(list(contenders)):
            runs[contender].append(contenders[contender]())
            tell(f"{part}: {contender[0]}, {contender[1]} slots: {runs[contender][-1]['programs/s']:.0f} programs/s")
    return runs


def _rows(part: str, runs: Mapping[tuple[str, int], list[Row]], compared_with: tuple[str, int] | None) -> list[Row]:
    other = runs.get(compared_with) if compared_with else None
    rate = median(row["programs/s"] for row in other) if other else None
    return [_row(part, who, slots, same, rate) for (who, slots), same in runs.items()]


def _row(part: str, who: str, slots: int, runs: list[Row], rate: float | None) -> Row:
    """Return the summary of several runs.

    :param rate: the rate that it is compared with
    """
    rates = [row["programs/s"] for row in runs]
    return {
        "part": part,
        "who": who,
        "slots": slots,
        "programs/s": median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "share": median(rates) / rate if rate else None,
        "runs": runs,
    }


@contextmanager
def _pool(node: Node, count: int, text: str) -> Iterator[tuple[dict[str, str], Callable[[], int]]]:
    """Create a pool of tokens and delete it at the end.

    Yields the arguments that connect a client, and a function that returns how many tokens are done.

    :param count: the number of tokens
    :param text: their input
    """
    with fresh_database(node, with_views=True) as client:
        for _ in save_tokens(client, 0, count, input=text):
            pass
        warm_views(node, client.db.name)
        yield node.settings(client.db.name), lambda: count_states(client)["done"]


def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is deleted when its block ends."""
    return tempfile.TemporaryDirectory(prefix="picas-benchmark-")


def _variables(connection: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a connection under the names that scripts use."""
    names = {
        "PICAS_HOST_URL": "url",
        "PICAS_DATABASE": "db",
        "PICAS_USERNAME": "username",
        "PICAS_PASSWORD": "password",
    }
    return {name: connection[key] for name, key in names.items()}


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process, without settings for picas, and with some variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PICAS_") and name != "PYTHONPATH"}
    return {**own, **variables}


def _output_of(
    command: Sequence[str], text: str = "", *, cwd: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command with a text as its standard input and return its standard output.

    :raises RuntimeError: if it fails
    """
    with _process(command, cwd=cwd, environment=environment) as process:
        output, _ = process.communicate(text)
    return output


@contextmanager
def _process(
    command: Sequence[str], *, cwd: str | None, environment: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[str]]:
    """Run a command and wait for its end; end it first if the block is left by an error.

    :raises RuntimeError: if it fails; the message is the end of its stderr
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=cwd,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        try:
            yield process
        except BaseException:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        finally:
            process.communicate()
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(errors.read().decode("utf-8", "replace")[-2000:])


if __name__ == "__main__":
    run(main)
