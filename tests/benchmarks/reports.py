"""What the benchmarks have in common beside the server: arguments, tables, JSON files, and a clean end."""

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
        help="the server, with an administrator's name and password: http://admin:secret@127.0.0.1:5984",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file as well")
    return parser


def positive(text: str) -> int:
    """Return an argument as a whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError("must be above 0")
    return number


def run(main: Callable[[], None]) -> None:
    """Run a benchmark so that Ctrl-C and SIGTERM end it in order: databases deleted, processes ended."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")


def leave_interrupts_to_parent() -> None:
    """Ignore Ctrl-C in a process that the benchmark has started, and will end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def tell(text: str) -> None:
    """Say on stderr how far the benchmark is."""
    print(text, file=sys.stderr, flush=True)


def report(arguments: argparse.Namespace, columns: Sequence[str], rows: Sequence[Row], **details: Any) -> None:
    """Print a table of the results, and write them to the file that `--json` names.

    :param arguments: those of `make_parser`
    :param columns: the keys of a row that the table shows; the file has all
    :param rows: the results, a row each
    :param details: what else the file is to hold
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
    """Return what ran where: the command line without passwords, the machine, Python, picas and the server."""
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
    """Return rows as lines of text with a column for each name; what a row lacks is shown as "-"."""
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
