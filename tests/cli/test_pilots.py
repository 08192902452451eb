"""The verb `pilots`: who is at work."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.schemas import read_json

from picas import CouchDB
from picas.cli import pilots
from picas.pilot.fleet import FleetCount, count_fleet, ended_pilots, list_pilots, summarize
from picas.pilot.identity import ENDED_PREFIX

NOW = int(time.time())
"""When these tests were begun."""
END = 1_764_432_240
ODD: list[Any] = [None, True, "4", [], {}, -1, 1e300]


@pytest.fixture
def fleet(client: CouchDB) -> CouchDB:
    """The client of a pool with a pilot of each kind."""
    at_work = {"type": "pilot", "state": "running", "heartbeat": 3600, "slots": 8, "version": "3.0", "start": NOW - 60}
    client.save_documents(
        [
            {
                **at_work,
                "_id": "picas_pilot_node1_7_b",
                "host": "node1",
                "slurm_job_id": "42_7",
                "slots_busy": 5,
                "time_left": 7200,
                "outcomes": {"done": 90, "failed": 3, "time-out": 2, "stopped": 1},
                "saved": NOW - 100,
                "busy_seconds": 300.5,
                "idle_seconds": 179.5,
            },
            {
                **at_work,
                "_id": "picas_pilot_node2_9_a",
                "host": "node2",
                "slots_busy": 8,
                "saved": NOW - 181,
                "heartbeat": 60,
            },
            {"_id": "picas_pilot_old", "type": "pilot", "state": "running", "slots": 4, "free": 1},
            {"_id": "picas_pilot_gone", "type": "pilot", "state": "dead", "host": "node3", "slots": 2},
            {
                "_id": f"{ENDED_PREFIX}{END:010}_picas_pilot_node1_1_c",
                "pilot": "picas_pilot_node1_1_c",
                **{"type": "pilot", "state": "ended", "host": "node1", "slots": 8, "end": END},
                "outcomes": {"done": 12},
            },
            {"_id": "picas_pilot_no_pilot", "type": "note"},
        ]
    )
    return client


def cells(text: str) -> list[list[str]]:
    return [[cell for cell in line.split("  ") if cell] for line in text.splitlines()]


def test_lists_those_that_run_by_id(fleet: CouchDB, run_picas: Any) -> None:
    result = run_picas("pilots", variables={"TZ": "UTC"})
    silent = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(NOW - 181))
    assert (result.returncode, result.stderr) == (0, "")
    assert [[cell.strip() for cell in row] for row in cells(result.stdout)] == [
        ["id", "host", "job", "slots", "time left", "done", "failed", "silent since"],
        ["picas_pilot_node1_7_b", "node1", "42_7", "5 of 8", "2 h", "90", "5", "-"],
        ["picas_pilot_node2_9_a", "node2", "-", "8 of 8", "-", "0", "0", silent],
        ["picas_pilot_old", "-", "-", "3 of 4", "-", "0", "0", "-"],
    ]


def test_all_lists_those_that_were_found_dead_or_have_ended_too(fleet: CouchDB, run_picas: Any) -> None:
    rows = cells(run_picas("pilots", "--all", variables={"TZ": "UTC"}).stdout)
    found = {row[0].strip(): row[1].strip() for row in rows[1:]}
    assert found == {
        "picas_pilot_gone": "dead",
        "picas_pilot_node1_1_c": "ended",
        "picas_pilot_node1_7_b": "running",
        "picas_pilot_node2_9_a": "running",
        "picas_pilot_old": "running",
    }
    assert list(found) == sorted(found)
    (ended,) = [row for row in rows if row[0].strip() == "picas_pilot_node1_1_c"]
    assert ended[-1].strip() == "2025-11-29 16:04:00 UTC"


def test_json_says_what_is_known(fleet: CouchDB, run_picas: Any) -> None:
    found = {each["id"]: each for each in read_json("pilots", run_picas("pilots", "--all", "--json").stdout)}
    first = found["picas_pilot_node1_7_b"]
    assert first["saved"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - 100))
    assert {name: value for name, value in first.items() if name not in ("schema", "id", "saved", "start")} == {
        **{"state": "running", "host": "node1", "job_id": "42_7", "version": "3.0", "slots": 8, "slots_busy": 5},
        **{"time_left_seconds": 7200, "done": 90, "failed": 5, "silent_since": None, "end": None},
        **{"busy_seconds": 300.5, "idle_seconds": 179.5},
    }
    assert found["picas_pilot_node2_9_a"]["silent_since"] == found["picas_pilot_node2_9_a"]["saved"]
    assert found["picas_pilot_node1_1_c"]["end"] == "2025-11-29T16:04:00Z"
    assert found["picas_pilot_gone"]["slots"] == 2


def test_each_column_is_in_the_json(fleet: CouchDB) -> None:
    names = {"job": "job_id", "time left": "time_left_seconds", "silent since": "silent_since"}
    fields = pilots.to_json(list_pilots(fleet)[0], NOW)
    assert {names.get(column, column) for column in pilots.COLUMNS} <= set(fields)


def test_no_pilot_runs(run_picas: Any, client: CouchDB) -> None:
    for arguments, line in ((), "no pilot is running\n"), (("--all",), "there are no pilots\n"):
        result = run_picas("pilots", *arguments)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", line)


@pytest.mark.parametrize(
    ("columns", "headings"),
    [
        (40, ["id", "slots", "failed"]),
        (60, ["id", "job", "slots", "time left", "done", "failed"]),
        (120, ["id", "host", "job", "slots", "time left", "done", "failed"]),
    ],
)
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=str)
def test_at_a_terminal_columns_are_left_out_until_the_ids_fit(
    fleet: CouchDB, at_terminal: Any, columns: int, headings: list[str], variables: dict[str, str]
) -> None:
    fleet.delete(fleet.get("picas_pilot_node2_9_a"))
    with at_terminal("pilots", columns=columns, variables=variables) as terminal:
        assert terminal.end() == 0
    heading, *lines = terminal.text.splitlines()
    assert [name.strip() for name in cells(heading)[0]] == headings
    assert [line.split()[0] for line in lines] == ["picas_pilot_node1_7_b", "picas_pilot_old"]
    assert max(map(len, [heading, *lines])) <= columns
    assert ("\x1b[1m" in terminal.raw) is (not variables)


@pytest.mark.parametrize("columns", [40, 60])
def test_silent_pilots_are_shown_at_a_narrow_terminal_too(fleet: CouchDB, at_terminal: Any, columns: int) -> None:
    with at_terminal("pilots", columns=columns) as terminal:
        assert terminal.end() == 0
    assert "silent since" in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= columns


def test_only_the_newest_that_have_ended_are_listed(
    client: CouchDB, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], capsys: Any
) -> None:
    client.save_documents(
        [
            {"_id": f"{ENDED_PREFIX}{END + n:010}_p{n}", "pilot": f"p{n}", "type": "pilot", "state": "ended"}
            for n in range(5)
        ]
    )
    assert [pilot.id for pilot in ended_pilots(client, 2)] == ["p4", "p3"]
    monkeypatch.setattr(pilots, "MAX_ENDED", 3)
    monkeypatch.setattr(pilots, "connect", lambda: client)
    pilots._pilots(type("Options", (), {"all": True, "json": False})())
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == ["id", "p2", "p3", "p4"]
    assert printed.err == "of the pilots that have ended, only the newest 3 are listed\n"


class TestSummaries:
    def test_a_pilot_is_silent_after_three_heartbeats(self) -> None:
        pilot = summarize({"_id": "a", "state": "running", "saved": 1000, "heartbeat": 10})
        assert [pilot.silent_since(now) for now in (900, 1030, 1031)] == [None, None, 1000]

    @pytest.mark.parametrize("fields", [{"saved": 5}, {"heartbeat": 5}, {"saved": 5, "heartbeat": 0}, {}])
    def test_one_that_does_not_say_when_it_was_saved_is_never_silent(self, fields: dict[str, Any]) -> None:
        assert summarize({"_id": "a", "state": "running", **fields}).silent_since(1e9) is None

    def test_odd_fields_are_unknown(self) -> None:
        names = ["host", "slots", "slots_busy", "free", "time_left", "outcomes", "start", "saved", "heartbeat", "end"]
        for name in names:
            for value in ODD:
                pilot = summarize({"_id": "a", "state": "running", "slurm_job_id": value, name: value})
                pilots.to_json(pilot, NOW)

    def test_silent_pilots_and_their_slots_are_counted_apart(self, fleet: CouchDB) -> None:
        assert count_fleet(list_pilots(fleet), NOW) == FleetCount(
            running=2, silent=1, slots=12, slots_busy=8, since=NOW - 60
        )
