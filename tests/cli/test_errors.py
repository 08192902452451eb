"""The verb `errors`: why tokens have failed, how often, and which."""

from __future__ import annotations

from typing import Any

import pytest
from support.schemas import read_json
from support.tokens import ended_token, make_token

from picas import CouchDB
from picas.cli.errors import COLUMNS
from picas.pool import failures
from picas.views import create_report

HINT = "picas ls error --reason r3f9a lists the tokens of a group, picas show TOKEN shows one of them"


@pytest.fixture
def failed(client: CouchDB) -> CouchDB:
    """The client of a pool in which tokens have failed in two ways, and one before the release that notes them."""
    create_report(client)
    client.save_documents(
        [
            ended_token(0, group="r77c0", reason="exit 1: no \x1b[2J file <path>"),
            *(ended_token(number, group="r3f9a", reason="out of memory") for number in range(1, 11)),
            make_token(11, lock=99, done=99, exit_code=99, error=[{"time": 5, "message": "an old\nerror"}]),
            ended_token(12, "done"),
        ]
    )
    return client


TABLE = """\
count  group  reason                        token
   10  r3f9a  out of memory                 token_1
    1  -      an old error                  token_11
    1  r77c0  exit 1: no \\x1b[2J file <path>  token_0
"""


def test_the_largest_group_comes_first(failed: CouchDB, run_picas: Any) -> None:
    result = run_picas("errors")
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [line.split() for line in TABLE.splitlines()]


def test_json_has_each_column(failed: CouchDB, run_picas: Any) -> None:
    found = read_json("errors", run_picas("errors", "--json").stdout)
    assert found[0] == {
        "schema": "picas.errors/1",
        "count": 10,
        "group": "r3f9a",
        "reason": "out of memory",
        "token": "token_1",
    }
    assert (found[1]["group"], found[1]["reason"]) == (None, "an old\nerror")
    assert set(COLUMNS) <= set(found[0])


def test_nothing_has_failed(client: CouchDB, run_picas: Any) -> None:
    create_report(client)
    result = run_picas("errors")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "no token is in error\n")


@pytest.mark.parametrize("columns", [40, 60, 120])
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=str)
def test_at_a_terminal_the_table_fits_and_says_how_to_go_on(
    failed: CouchDB, at_terminal: Any, columns: int, variables: dict[str, str]
) -> None:
    with at_terminal("errors", columns=columns, variables=variables) as terminal:
        assert terminal.end() == 0
    _, *lines, hint = terminal.text.splitlines()
    assert hint == HINT
    assert len(lines) == 3
    assert max(map(len, lines)) <= columns
    assert lines[0].split()[:2] == ["10", "r3f9a"]
    assert ("\x1b[1m" in terminal.raw) is (not variables)
    assert ("…" in terminal.text) is (columns < 60)


def test_groups_beyond_a_hundred_are_counted(client: CouchDB, monkeypatch: pytest.MonkeyPatch) -> None:
    create_report(client)
    client.save_documents([ended_token(number, group=f"r{number // 2:04}") for number in range(9)])
    found = failures.find_failures(client, limit=3)
    assert [group.group for group in found.groups] == ["r0000", "r0001", "r0002"]
    assert (found.other_groups, found.other_tokens) == (2, 3)


class TestWithoutReport:
    def test_the_tokens_are_read(self, failed: CouchDB, run_picas: Any) -> None:
        with_report = run_picas("errors").stdout
        failed.delete(failed.get("_design/Report"))
        result = run_picas("errors")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines()[0::3] == with_report.splitlines()[0::3]
        assert sorted(result.stdout.splitlines()[2:]) == sorted(with_report.splitlines()[2:])

    def test_only_some_of_them(self, client: CouchDB, run_picas: Any) -> None:
        client.save_documents([ended_token(number) for number in range(failures.MAX_SCANNED + 1)])
        result = run_picas("errors")
        assert (result.returncode, result.stdout.splitlines()[1].split()[0]) == (0, "1000")
        assert result.stderr == (
            "there is no design document Report, so only the first 1000 of 1001 tokens in error were read: an "
            "administrator of the database creates it with picas views\n"
        )

    def test_odd_tokens_break_nothing(self, client: CouchDB) -> None:
        odd: list[Any] = [None, 5, "x", [], [None], [5], {}, [{"group": 5, "reason": [], "message": {}}]]
        failed = [
            make_token(number, lock=1, done=1, attempts=value, error=other)
            for number, (value, other) in enumerate((value, other) for value in odd for other in odd)
        ]
        client.save_documents(failed)
        (group,) = failures.scan_failures(client).groups
        assert (group.count, group.group, group.example.reason) == (len(failed), "", None)
        create_report(client)
        assert failures.find_failures(client).groups[0].count == len(failed)

    def test_neither_views_of_monitor(self, client: CouchDB, run_picas: Any) -> None:
        client.delete(client.get("_design/Monitor"))
        result = run_picas("errors")
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert "there is no view Monitor/error" in result.stderr
