"""What all verbs share: tables and JSON."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.terminal import Terminal

TABLE = """
import sys
{without_rich}
from picas.cli.output import print_table
rows = [[12, "exit 1: " + "x" * 100], [3, "bad \\x1b[31m input"], [None, "後" * 3]]
print_table(["count", "reason"], rows, right=["count"])
"""
WITHOUT_RICH = "sys.modules['rich'] = sys.modules['rich.cells'] = None"


@pytest.fixture(params=["with rich", "without rich"])
def script(request):
    return TABLE.format(without_rich="" if request.param == "with rich" else WITHOUT_RICH)


def shown(script, environment, columns, **variables):
    with Terminal([sys.executable, "-c", script], {**environment, **variables}, columns) as terminal:
        assert terminal.end() == 0
        return terminal


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_a_table_fits_the_terminal(script, environment, columns):
    lines = shown(script, environment, columns).text.splitlines()
    assert lines[0].split() == ["count", "reason"]
    assert [line[:5] for line in lines[1:]] == ["   12", "    3", "    -"]
    assert all(len(line) <= columns for line in lines)
    assert lines[1].endswith("…") == (columns < 120)
    assert lines[2] == r"    3  bad \x1b[31m input"


def test_the_headings_are_bold_only_where_colours_are_wanted(script, environment):
    assert "\x1b[" in shown(script, environment, 80).raw
    assert "\x1b[31m" not in shown(script, environment, 80).raw
    assert "\x1b[3" not in shown(script, environment, 80, NO_COLOR="1").raw
    assert "\x1b[" not in shown(script, environment, 80, TERM="dumb").raw


def test_nothing_is_cut_or_coloured_in_a_file(script, environment):
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.splitlines() == [
        "count  reason",
        "   12  exit 1: " + "x" * 100,
        r"    3  bad \x1b[31m input",
        "    -  後後後",
    ]


def test_wide_characters_are_aligned_with_rich(environment):
    rows = "from picas.cli.output import print_table; print_table(['name', 'x'], [['後後後', 1], ['abcdef', 2]])"
    result = subprocess.run(
        [sys.executable, "-c", rows], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.splitlines() == ["name    x", "後後後  1", "abcdef  2"]
