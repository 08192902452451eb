"""What all benchmarks share apart from the server: arguments, tables, JSON files, and a clean end."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import requests
from servers import Node

from picas import __version__

Row = dict[str, Any]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--url",
        action="append",
        required=True,
        dest="nodes",
        type=Node.from_url,
        metavar="URL",
        help="server, with the name and password of an administrator: http://admin:secret@127.0.0.1:5984",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return parser


def positive(text: str) -> int:
    """Return an argument as a positive integer.

    :raises ValueError: if it is not one
    """
    number = int(text)
    if number < 1:
        raise ValueError("must be positive")
    return number


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; on Ctrl-C and SIGTERM, delete its databases and end its processes first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")


def leave_interrupts_to_parent() -> None:
    """Ignore Ctrl-C in a child process: the benchmark ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def tell(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def report(arguments: argparse.Namespace, columns: Sequence[str], rows: Sequence[Row], **details: Any) -> None:
    """Print a table of the results, and write them to the file that `--json` names.

    :param arguments: parsed by `make_parser`
    :param columns: keys of a row that the table shows; the file contains all of them
    :param rows: results, one per row
    :param details: further content of the file
    """
    setting = describe(arguments.nodes)
    for name, value in setting.items():
        print(f"{name}: {value}")
    print()
    print(format_table(columns, rows))
    if arguments.json:
        content = {**setting, "results": list(rows), **details}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def describe(nodes: Sequence[Node]) -> dict[str, Any]:
    """Return the command line without passwords, the machine, and the versions of Python, picas and the server."""
    return {
        "command": _command_line(),
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "picas": __version__,
        "server": _server_version(nodes[0]),
        "nodes": len(nodes),
    }


def format_table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return rows as lines of text with one column per name; "-" stands for a missing value."""
    cells = [list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _command_line() -> str:
    words = [re.sub(r"//[^/@]*@", "//", word) for word in sys.argv]
    return shlex.join(["python", *words])


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _server_version(node: Node) -> str:
    try:
        welcome = node.get("")
    except requests.HTTPError as error:
        return f"unknown ({error.response.status_code})"
    vendor = (welcome.get("vendor") or {}).get("name", "unknown vendor")
    return f"{welcome.get('version', '?')}, {vendor}"
