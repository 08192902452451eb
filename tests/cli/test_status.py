"""The verb `status`: a pool at a glance."""

from __future__ import annotations

import re
import signal
import time
from argparse import Namespace
from typing import Any, Callable

import pytest
from support.schemas import read_json
from support.tokens import ended_token, make_token

from picas import CouchDB, Task
from picas.cli import status
from picas.cli.status import describe
from picas.pilot.orders import Pause
from picas.pilot.overview import Documents, Overview, OverviewReader
from picas.pool import indexing
from picas.pool.progress import Rate
from picas.views import DESIGN_DOC, create_report, create_views

FOUR = "todo {}\nlocked {}\ndone {}\nerror {}\n"
COUNTS = {"todo": 1000, "locked": 4, "done": 0, "error": 0}


def now() -> int:
    return int(time.time())


@pytest.fixture
def pilot(client: CouchDB) -> Callable[..., Any]:
    """Return a function that saves the document of a pilot."""

    def save(name: str, **fields: Any) -> None:
        known = {"slots": 4, "slots_busy": 3, "heartbeat": 60, "saved": now(), "start": now() - 7200}
        client.save({"_id": f"picas_pilot_{name}", "type": "pilot", "state": "running", **known, **fields})

    return save


@pytest.fixture
def busy(client: CouchDB, pilot: Callable[..., Any]) -> None:
    """A pool at work for two hours: 22 tokens have ended within the last minutes, 3 of them failed in two ways."""
    create_report(client)
    start = now() - 300
    failed = [("r3f9a", "out of memory"), ("r3f9a", "out of memory"), ("r77c0", "exit 1: no \x1b[2J file <path>")]
    client.save_documents(
        [
            *(make_token(number) for number in range(60)),
            *(make_token(100 + number, lock=start) for number in range(6)),
            *(ended_token(200 + number, "done", start=start) for number in range(19)),
            *(ended_token(300 + n, group=group, reason=text, start=start) for n, (group, text) in enumerate(failed)),
            ended_token(400, "done", start=start - 3600),
        ]
    )
    pilot("a")
    pilot("b")
    pilot("c", saved=now() - 200)


class TestLines:
    def test_of_a_pool_at_work(self, busy: None, run_picas: Any) -> None:
        result = run_picas("status")
        lines = result.stdout.splitlines()
        assert (result.returncode, result.stderr) == (0, "")
        assert lines[:4] == ["todo 60", "locked 6", "done 20", "error 3"]
        assert re.fullmatch(r"rate 1\.[45]/min over the last 1[56] min, about 4[5-8] min to go", lines[4])
        assert lines[5:] == [
            "pilots 2 running, 6 of 8 slots busy, 1 silent",
            "errors",
            "  2  r3f9a  out of memory",
            "  1  r77c0  exit 1: no \\x1b[2J file <path>",
        ]

    def test_of_an_empty_pool_are_the_counts_only(self, client: CouchDB, run_picas: Any, push: Any) -> None:
        push(2)
        result = run_picas("status")
        assert (result.returncode, result.stdout, result.stderr) == (0, FOUR.format(2, 0, 0, 0), "")
        create_report(client)
        assert run_picas("status").stdout == FOUR.format(2, 0, 0, 0)

    def test_without_pilots_there_is_no_rate(self, client: CouchDB) -> None:
        create_report(client)
        client.save_documents([ended_token(number, "done", start=now() - 300) for number in range(30)])
        assert describe(OverviewReader(client).read()) == FOUR.format(0, 0, 30, 0).splitlines()

    def test_of_a_paused_pool(self, client: CouchDB, run_picas: Any) -> None:
        paused = {"by": "ann", "time": 1_764_432_240, "message": "new\x1b input"}
        client.save({"_id": "picas_pool", "paused": paused})
        lines = run_picas("status", variables={"TZ": "UTC"}).stdout.splitlines()
        assert lines[4:] == ["paused by ann since 2025-11-29 16:04 UTC: new\\x1b input"]

    @pytest.mark.parametrize(
        ("pause", "line"),
        [(Pause("", 0), "paused"), (Pause("ann", 0), "paused by ann"), (Pause("", 0, "why"), "paused: why")],
    )
    def test_what_is_not_known_of_a_pause_is_left_out(self, pause: Pause, line: str) -> None:
        assert describe(Overview(COUNTS, pause=pause))[4:] == [line]

    @pytest.mark.parametrize(
        ("rate", "line"),
        [
            (Rate(468, 900), "rate 31.2/min over the last 15 min, about 32 min to go"),
            (Rate(20, 900), "rate 1.3/min over the last 15 min, about 13 h to go"),
            (Rate(19, 900), "rate 1.3/min over the last 15 min"),
            (Rate(1, 930), "rate 0.065/min over the last 16 min"),
        ],
    )
    def test_the_time_left_needs_twenty_ends(self, rate: Rate, line: str) -> None:
        assert describe(Overview(COUNTS, rate=rate))[4:] == [line]
        paused = describe(Overview(COUNTS, rate=rate, pause=Pause("ann", 0)))
        assert "to go" not in paused[5], "nobody knows how long a pause lasts"

    def test_only_the_largest_groups_of_failures_are_shown(self, client: CouchDB) -> None:
        create_report(client)
        groups = [(number, copy) for number in range(7) for copy in range(2 if number else 10)]
        tokens = [ended_token(n, group=f"r000{group}", reason=f"why {group}") for n, (group, _) in enumerate(groups)]
        client.save_documents([*tokens, ended_token(99)])
        lines = describe(OverviewReader(client).read())
        assert lines[5:] == [
            "  10  r0000  why 0",
            *(f"   2  r000{group}  why {group}" for group in range(1, 5)),
            "  and 5 in 3 other groups",
        ]

    def test_failures_of_an_older_release_have_no_group(self, client: CouchDB) -> None:
        create_report(client)
        client.save(ended_token(0))
        assert describe(OverviewReader(client).read())[4:] == ["errors", "  1  -      no reason known"]

    @pytest.mark.parametrize("pilots", [0, 1])
    def test_one_line_says_that_there_is_no_report(
        self, client: CouchDB, run_picas: Any, pilot: Any, pilots: int
    ) -> None:
        client.save(ended_token(0, "done" if pilots else "failed"))
        for number in range(pilots):
            pilot(str(number))
        result = run_picas("status")
        assert result.returncode == 0
        assert result.stderr == (
            "there is no design document Report, so neither the rate nor the reasons of failures are shown: an "
            "administrator of the database creates it with picas views\n"
        )

    def test_of_another_design_document_are_of_its_tokens_only(
        self, busy: None, client: CouchDB, run_picas: Any
    ) -> None:
        create_views(client, "Large", "doc.cores > 1")
        client.save(make_token(500, cores=8))
        result = run_picas("status", "Large")
        assert result.stderr == ""
        assert result.stdout == FOUR.format(1, 0, 0, 0) + (
            "No running pilot has what these tokens in todo need:\n  1 needs 8 cores\n"
        )

    def test_without_views(self, run_picas: Any) -> None:
        result = run_picas("status", "Nowhere")
        assert (result.returncode, result.stdout) == (1, "")
        wanted = "the design documents are Monitor; picas views Nowhere"
        assert f"there is no view Nowhere/overview_total: {wanted}" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_of_a_server_that_is_down(self, run_picas: Any) -> None:
        result = run_picas("status", variables={"PICAS_HOST_URL": "http://127.0.0.1:9"})
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (75, "", 1)


class TestWhatNeedsAttention:
    def test_tokens_that_no_pilot_can_take(self, client: CouchDB, pilot: Any) -> None:
        client.save_documents([make_token(number, cores=2 + number // 2) for number in range(24)])
        lines = describe(OverviewReader(client).read())
        assert lines[:5] == [
            *FOUR.format(24, 0, 0, 0).splitlines(),
            "No running pilot has what these tokens in todo need:",
        ]
        assert sorted(lines[5:15]) == sorted(f"  2 need {cores} cores" for cores in range(2, 12))
        assert lines[15:] == ["  and 4 others"]
        pilot("a", cores=12)
        assert describe(OverviewReader(client).read())[5:] == [lines[4], "  2 need 13 cores"]

    def test_silent_pilots_are_no_help(self, client: CouchDB, pilot: Any) -> None:
        client.save(make_token(0, gpus=4))
        pilot("a", gpus=4)
        assert describe(OverviewReader(client).read())[4:] == ["pilots 1 running, 3 of 4 slots busy"]
        client.edit("picas_pilot_a", lambda document: {**document, "saved": now() - 1000})
        assert describe(OverviewReader(client).read())[4:] == [
            "pilots 1 silent",
            "No running pilot has what these tokens in todo need:",
            "  1 needs 1 core, 4 GPUs",
        ]

    def test_invalid_needs_are_named_once_with_an_example(self, client: CouchDB, run_picas: Any) -> None:
        needs = [{"walltime": "soon"}, {"memory": "8,000"}, {"walltime": "soon"}, {"cores": 1}, {"tags": "a,b"}]
        client.save_documents([make_token(number, **each) for number, each in enumerate(needs)])
        client.save(make_token(9, cores="four", lock=1))
        lines = run_picas("status").stdout.splitlines()
        (line,) = [line for line in lines if "invalid" in line]
        start, fault = "3 tokens in todo have invalid needs, which pilots ignore, e.g. token_", "can't be"
        assert line.startswith(start)
        assert fault in line

    def test_tokens_that_were_longer_than_their_jobs(self, client: CouchDB, pilot: Any) -> None:
        for number, seconds in enumerate((104, 100, 90)):
            client.save(make_token(number, job_ends={"count": 2 if seconds > 90 else 1, "seconds": seconds}))
        pilot("a", time_left=110)
        assert describe(OverviewReader(client).read())[5:] == [
            "No running pilot has what these tokens in todo need:",
            "  1 needs 1 core, more time than the 104 s of earlier attempts",
        ]
        pilot("b", time_left=120)
        assert len(describe(OverviewReader(client).read())) == 5

    def test_escape_sequences_of_a_token_do_not_reach_the_terminal(self, client: CouchDB, run_picas: Any) -> None:
        client.save(make_token(0, tags=["\x1b]0;evil\x07", "x\ntodo 0"]))
        result = run_picas("status")
        assert result.stdout.splitlines()[5:] == ["  1 needs 1 core, tags \\x1b]0;evil\\x07 x todo 0"]

    def test_the_views_of_an_older_release_do_not_count_needs(self, client: CouchDB, push: Any) -> None:
        push(2, cores=4)
        views = client.get("_design/Monitor")
        del views["views"]["needs"], views["views"]["conflicts"]
        client.save(views)
        assert describe(OverviewReader(client).read()) == FOUR.format(2, 0, 0, 0).splitlines()

    def test_a_token_that_is_nested_too_deeply(self, client: CouchDB, run_picas: Any) -> None:
        deep = "[" * 3000 + "]" * 3000
        body = f'{{"type":"token","lock":0,"done":0,"cores":{deep},"input":{deep}}}'
        client.db.resource.put_json("token_0", body=body)
        result = run_picas("status")
        assert (result.returncode, result.stdout.splitlines()[0], result.stderr) == (0, "todo 1", "")

    def test_tokens_with_conflicting_revisions(self, client: CouchDB, push: Any) -> None:
        (token,) = push(1)
        client.store_revision({**token.value, "lock": 5, "_rev": "2-" + "a" * 32}, "1-" + "b" * 32)
        lines = describe(OverviewReader(client).read())
        assert lines[4:] == ["1 token has conflicting revisions, of which pilots see one: token_0"]

    def test_documents_that_no_pilot_sees(self, client: CouchDB, push: Any) -> None:
        push(1)
        client.save({"_id": "bare\x1b", "type": "token", "input": "x"})
        client.save_documents([Task({"_id": f"t{number:02}", "input": "echo x"}) for number in range(12)])
        overview = OverviewReader(client).read()
        assert overview.no_state == Documents(1, ("bare\x1b",))
        assert describe(overview)[4:] == [
            "1 token is in no state, because lock or done is missing or invalid, so no pilot takes it: bare\\x1b",
            '12 documents have the type "task" instead of "token", so no pilot takes them: '
            + ", ".join(f"t{number:02}" for number in range(10))
            + " and 2 others",
        ]


def test_a_large_pool_is_indexed_first(
    client: CouchDB, is_couchdb: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so for each design document, however long that takes."""
    if not is_couchdb:
        pytest.skip("the embedded server does not say what it has to index")
    create_report(client)
    client.save_documents([ended_token(number, reason="why", group="r0001") for number in range(2000)])
    monkeypatch.setattr(indexing, "FEW", 100)
    monkeypatch.setattr(indexing, "POLL", 0.05)
    monkeypatch.setattr(status, "connect", lambda: client)
    assert status._status(Namespace(design_doc=DESIGN_DOC, watch=None, json=False)) == 0
    printed = capsys.readouterr()
    assert printed.out == FOUR.format(0, 0, 0, 2000) + "errors\n  2000  r0001  why\n"
    assert printed.err.splitlines()[-1] == "indexing the views of Report…"
    assert len(printed.err.splitlines()) == len(set(printed.err.splitlines()))


class TestJson:
    def test_holds_all_that_the_lines_show(self, busy: None, client: CouchDB, run_picas: Any) -> None:
        had = {"count": 2, "seconds": 118}
        client.save(make_token(900, memory="4G", walltime=60, tags=["x"], job_ends=had))
        client.save(make_token(901, gpus="a100:1"))
        status_fault = 'gpus can\'t be "a100:1": write a number such as 1 (a model is a tag)'
        client.save({"_id": "picas_pool", "paused": {"by": "ann", "time": 1_764_432_240, "message": ""}})
        (found,) = read_json("status", run_picas("status", "--json").stdout)
        assert 1.3 < found.pop("ended_per_minute") < 1.5
        assert 900 <= found.pop("window_seconds") < 970
        assert found == {
            "schema": "picas.status/1",
            "design_doc": "Monitor",
            **{"todo": 62, "locked": 6, "done": 20, "error": 3},
            "paused": {"by": "ann", "since": "2025-11-29T16:04:00Z", "message": ""},
            "seconds_left": None,
            **{"pilots_running": 2, "pilots_silent": 1, "slots": 8, "slots_busy": 6},
            "errors": [
                {"count": 2, "group": "r3f9a", "reason": "out of memory", "token": "token_300"},
                {"count": 1, "group": "r77c0", "reason": "exit 1: no \x1b[2J file <path>", "token": "token_302"},
            ],
            **{"in_other_errors": 0, "in_no_state": 0, "of_type_task": 0, "in_conflict": 0},
            "invalid_needs": {"count": 1, "fault": status_fault, "token": "token_901"},
            "without_pilot": [
                {
                    **{"count": 1, "cores": 1, "memory_mb": 4096, "gpus": 0, "tags": ["x"], "walltime_seconds": 60},
                    "longest_attempt_seconds": 118,
                }
            ],
        }

    def test_says_null_for_what_is_unknown(self, client: CouchDB, run_picas: Any) -> None:
        create_views(client, "Other", "doc.cores > 1")
        for arguments in ((), ("Other",)):
            (found,) = read_json("status", run_picas("status", "--json", *arguments).stdout)
            unknown = [name for name, value in found.items() if value is None]
            rest = ["pilots_running", "pilots_silent", "slots", "slots_busy"] if arguments else []
            wanted = [
                "paused",
                "ended_per_minute",
                "window_seconds",
                "seconds_left",
                *rest,
                "errors",
                "in_other_errors",
                "invalid_needs",
            ]
            assert unknown == wanted


class TestAtATerminal:
    @pytest.mark.parametrize("columns", [40, 60, 120])
    def test_reasons_are_cut_to_its_width(self, client: CouchDB, at_terminal: Any, columns: int) -> None:
        create_report(client)
        client.save(ended_token(0, group="r0001", reason="x" * 180))
        with at_terminal("status", columns=columns) as terminal:
            assert terminal.end() == 0
        last = terminal.text.splitlines()[-1]
        assert last == f"  1  r0001  {'x' * (columns - 13)}…"
        assert len(last) == columns

    @pytest.mark.parametrize(
        ("variables", "heading"), [({}, "\x1b[1merrors\x1b[0m\r\n"), ({"NO_COLOR": "1"}, "\nerrors\r\n")]
    )
    def test_headings_are_bold_where_there_are_colours(
        self, client: CouchDB, at_terminal: Any, variables: dict[str, str], heading: str
    ) -> None:
        create_report(client)
        client.save(ended_token(0))
        with at_terminal("status", variables=variables) as terminal:
            assert terminal.end() == 0
        assert heading in terminal.raw
        assert ("\x1b" in terminal.raw) is (not variables)


class TestWatch:
    @pytest.mark.parametrize(("outcome", "code"), [("done", 0), ("failed", 3)])
    def test_ends_when_nothing_is_left(
        self, client: CouchDB, at_terminal: Any, push: Any, outcome: str, code: int
    ) -> None:
        create_report(client)
        (token,) = push(1)
        with at_terminal("status", "--watch") as terminal:
            terminal.wait_for("todo 1")
            client.save({**ended_token(0, outcome, reason="why"), "_rev": token.rev})
            assert terminal.end() == code
        assert "\x1b[4F" in terminal.raw, "it is drawn in place"
        last = terminal.text.rpartition("todo 0")[2]
        assert ("why" in last) is (outcome == "failed"), "the last lines are complete"

    @pytest.mark.parametrize("columns", [40, 60, 120])
    def test_no_line_is_wider_than_the_terminal(self, client: CouchDB, at_terminal: Any, columns: int) -> None:
        client.save({"_id": "x" * 200, "type": "token"})
        with at_terminal("status", "--watch", columns=columns) as terminal:
            assert terminal.end() == 0
        assert max(len(line.replace("\x1b[K", "")) for line in terminal.text.splitlines()) == columns

    def test_ctrl_c_leaves_the_terminal_clean(self, client: CouchDB, at_terminal: Any, push: Any) -> None:
        push(1)
        with at_terminal("status", "--watch") as terminal:
            terminal.wait_for("error 0\x1b[K\n\x1b[J")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == 130
        assert terminal.text.endswith("\x1b[J__main__.py: interrupted\n")

    def test_elsewhere_each_change_is_a_block_of_its_own(self, client: CouchDB, at_terminal: Any, push: Any) -> None:
        (token,) = push(1)
        with at_terminal("status", "--watch", variables={"TERM": "dumb"}) as terminal:
            terminal.wait_for("error 0")
            client.save({**ended_token(0, "done"), "_rev": token.rev})
            assert terminal.end() == 0
        assert terminal.text == FOUR.format(1, 0, 0, 0) + "\n" + FOUR.format(0, 0, 1, 0)

    def test_as_json(self, client: CouchDB, at_terminal: Any, push: Any) -> None:
        (token,) = push(1)
        with at_terminal("status", "--watch", "--json") as terminal:
            terminal.wait_for('"todo": 1')
            client.save({**ended_token(0, "done"), "_rev": token.rev})
            assert terminal.end() == 0
        found = read_json("status", terminal.text)
        assert [each["todo"] for each in (found[0], found[-1])] == [1, 0]

    def test_outlives_a_restart_of_the_server(
        self, client: CouchDB, gate: Any, at_terminal: Any, push: Any, tmp_path: Any
    ) -> None:
        (token,) = push(1)
        with at_terminal("status", "--watch", variables={"PICAS_HOST_URL": gate.url}) as terminal:
            terminal.wait_for("todo 1")
            gate.close()
            terminal.wait_for("server away since 20")
            client.save({**ended_token(0, "done"), "_rev": token.rev})
            gate.open()
            assert terminal.end() == 0
        assert "away" not in terminal.text.rpartition("todo 0")[2]

    @pytest.mark.parametrize("seconds", ["1", "Monitor", "0"])
    def test_refuses_an_interval_that_is_too_short_or_none(self, run_picas: Any, seconds: str) -> None:
        result = run_picas("status", "--watch", seconds)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)

    def test_costs_at_most_a_request_a_second(
        self, busy: None, client: CouchDB, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All that is looked at every 20 s, and the counts every 2 s."""
        from picas.cli.status import DETAILS_INTERVAL, INTERVAL

        reader = OverviewReader(client, DESIGN_DOC)
        overview = reader.read()
        sent: list[str] = []
        session = client.server.resource.session
        perform = session._perform

        def count(method: str, url: str, *arguments: Any, **options: Any) -> Any:
            sent.append(url)
            return perform(method, url, *arguments, **options)

        monkeypatch.setattr(session, "_perform", count)
        overview = reader.refresh(overview)
        assert len(sent) == 1
        reader.read()
        assert 1 / INTERVAL + (len(sent) - 2) / DETAILS_INTERVAL <= 1
