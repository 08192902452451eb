"""The design document Report: what only people read."""

from __future__ import annotations

from typing import Any

import pytest
from support.tokens import ended_token, make_token

from picas import CouchDB
from picas.views import ENDED, MAX_REASON, REASONS, RECENT, REPORT, create_report

MINUTE = 28_333_333
START = 60 * MINUTE
ODD: list[Any] = [None, True, "1700000000", "", [], [1], {}, {"end": "soon"}, -1, 1e300, 0]
"""Values that people and scripts may write into any field."""


@pytest.fixture
def report(client: CouchDB) -> CouchDB:
    """The client of a pool with the views of Report."""
    assert create_report(client) is True
    return client


def rows(client: CouchDB, view: str, **params: Any) -> list[tuple[Any, Any]]:
    return [(row.key, row.value) for row in client.view(view, design_doc=REPORT, **params).rows]


def test_a_second_call_writes_nothing(report: CouchDB) -> None:
    before = report.get(f"_design/{REPORT}").rev
    assert create_report(report) is False
    assert report.get(f"_design/{REPORT}").rev == before


def test_views_of_a_persons_own_stay(report: CouchDB) -> None:
    report.add_view("mine", "function(doc) {}", design_doc=REPORT)
    assert create_report(report) is False
    assert "mine" in report.get(f"_design/{REPORT}")["views"]


def test_a_member_may_not_make_them_and_is_not_troubled(client: CouchDB, person: Any, location: Any) -> None:
    user = person("member")
    member = CouchDB(location.url, client.database_name, user["PICAS_USERNAME"], user["PICAS_PASSWORD"])
    assert create_report(member) is False
    assert f"_design/{REPORT}" not in [row.id for row in client.all_docs()]


class TestReasons:
    def test_counts_the_tokens_in_error_by_group(self, report: CouchDB) -> None:
        failed = [ended_token(number, reason=f"out of {number}", group="r3f9a") for number in range(3)]
        report.save_documents([*failed, ended_token(3, reason="exit 1: x", group="r77c0"), ended_token(4, "done")])
        assert rows(report, REASONS, group=True) == [("r3f9a", 3), ("r77c0", 1)]
        assert rows(report, REASONS, reduce=False)[3] == ("r77c0", "exit 1: x")

    def test_only_the_last_attempt_counts_and_only_in_error(self, report: CouchDB) -> None:
        token = ended_token(0, reason="new", group="r0002")
        older = {**token["attempts"][0], "group": "r0001", "reason": "old"}
        again = make_token(1, attempts=[older])
        report.save_documents([{**token, "attempts": [older, *token["attempts"]]}, again])
        assert rows(report, REASONS, reduce=False) == [("r0002", "new")]

    def test_a_token_of_an_older_release_has_no_group_but_may_have_a_message(self, report: CouchDB) -> None:
        report.save_documents(
            [
                make_token(0, lock=99, done=99, exit_code=1),
                make_token(1, lock=99, done=99, error=[{"message": "x" * 1000}]),
            ]
        )
        assert rows(report, REASONS, reduce=False) == [("", None), ("", "x" * MAX_REASON)]


class TestEnded:
    def test_sums_by_minute_and_outcome(self, report: CouchDB) -> None:
        report.save_documents(
            [
                ended_token(0, "done", start=START, seconds=10),
                ended_token(1, "done", start=START, seconds=20),
                ended_token(2, "time-out", start=START, seconds=30),
                ended_token(3, "done", start=START, seconds=61),
            ]
        )
        assert rows(report, ENDED, group=True) == [
            ([MINUTE, "done"], [2, 30, 15, 2]),
            ([MINUTE, "time-out"], [1, 30, 15, 1]),
            ([MINUTE + 1, "done"], [1, 61, 30.5, 1]),
        ]
        assert rows(report, ENDED, group_level=1) == [([MINUTE], [3, 60, 30, 3]), ([MINUTE + 1], [1, 61, 30.5, 1])]
        assert rows(report, ENDED, startkey=[MINUTE + 1]) == [(None, [1, 61, 30.5, 1])]

    def test_only_the_last_attempt_of_a_token_that_is_not_tried_again_ends_it(self, report: CouchDB) -> None:
        token = ended_token(0, start=START)
        again = {**token, "attempts": token["attempts"] * 3}
        report.save_documents([again, make_token(1, attempts=token["attempts"])])
        assert rows(report, ENDED) == [(None, [4, 40, 20, 1])]

    def test_what_is_unknown_counts_as_nothing(self, report: CouchDB) -> None:
        report.save(make_token(0, attempts=[{"end": START}, {"end": START, "seconds": "5"}]))
        assert rows(report, ENDED, group=True) == [([MINUTE, ""], [2, 0, 0, 0])]


def test_the_newest_ends_have_their_outcomes_and_reasons(report: CouchDB) -> None:
    report.save_documents([ended_token(0, "done", start=START), ended_token(1, start=START + 5, reason="exit 1: x")])
    newest = rows(report, RECENT, descending=True)
    assert newest == [(START + 15, ["failed", "exit 1: x"]), (START + 10, ["done", None])]


def test_odd_documents_break_nothing(report: CouchDB) -> None:
    good = ended_token(0, start=START, reason="exit 1", group="r0001")
    attempt = good["attempts"][0]
    fields = [*attempt, "reason", "group"]
    odd = [{**good, "attempts": value} for value in [*ODD, *([value] for value in ODD)]]
    odd += [{**good, "attempts": [{**attempt, field: value}]} for field in fields for value in ODD]
    odd += [{**good, "error": value, "attempts": None} for value in [*ODD, *([value] for value in ODD)]]
    odd += [{"type": value, "attempts": value, "lock": value} for value in ODD]
    report.save_documents([{**token, "_id": f"odd_{number}"} for number, token in enumerate(odd)])
    report.save(good)
    tokens = [token for token in odd if token.get("type") == "token"]
    assert rows(report, REASONS)[0][1] == len(tokens) + 1
    ended, seconds, cpu_seconds, _ = rows(report, ENDED)[0][1]
    assert ended == len(rows(report, RECENT)) == len(rows(report, ENDED, reduce=False))
    assert 0 < ended <= len(tokens)
    assert 0 < cpu_seconds < seconds < 10 * ended


def test_writing_tokens_indexes_nothing(report: CouchDB, is_couchdb: bool) -> None:
    """Only a question does."""
    if not is_couchdb:
        pytest.skip("the embedded server indexes nothing before it is asked")
    assert report.get(f"_design/{REPORT}")["autoupdate"] is False
    report.save_documents([ended_token(number) for number in range(500)])
    report.view("todo").rows  # noqa: B018
    assert report.pending_updates(REPORT) >= 500
    assert rows(report, REASONS) == [(None, 500)]
    assert report.pending_updates(REPORT) == 0
