"""How attempts have ended: by the minute, and the newest of them."""

from __future__ import annotations

from typing import Any

import couchdb
import pytest
from support.faults import FaultProxy
from support.tokens import ended_token, make_token

from picas import CouchDB
from picas.pool.history import Bin, End, Ends, ends_by_minute, newest_ends
from picas.views import create_report

START = 60 * 28_333_333
"""The beginning of a minute, in seconds since the epoch."""


@pytest.fixture
def report(client: CouchDB) -> CouchDB:
    """The client of a pool with the views of Report."""
    create_report(client)
    return client


class TestByMinute:
    def test_counts_attempts_tokens_and_times_by_outcome_without_gaps(self, report: CouchDB) -> None:
        failed = ended_token(3, start=START + 125)
        again = make_token(4, attempts=failed["attempts"])
        report.save_documents(
            [
                ended_token(0, "done", start=START - 70),  # before
                ended_token(1, "done", start=START - 10, seconds=10),
                ended_token(2, "done", start=START, seconds=59),
                failed,
                again,
                ended_token(5, "done", start=START + 170),  # after
            ]
        )
        assert ends_by_minute(report, START + 30, START + 140) == [
            Bin(START, 1, {"done": Ends(2, 2, 69, 34.5)}),
            Bin(START + 60, 1),
            Bin(START + 120, 1, {"failed": Ends(2, 1, 20, 10)}),
        ]

    def test_sums_outcomes(self) -> None:
        bin = Bin(START, 1, {"done": Ends(2, 2, 69, 34.5), "failed": Ends(2, 1, 20, 10)})
        assert bin.total == Ends(4, 3, 89, 44.5)
        assert Bin(START, 1).total == Ends()

    @pytest.mark.parametrize(
        ("max_bins", "lengths"), [(6, [1] * 6), (5, [2, 2, 2]), (3, [2, 2, 2]), (2, [3, 3]), (1, [6])]
    )
    def test_has_no_more_bins_than_asked_for(self, report: CouchDB, max_bins: int, lengths: list[int]) -> None:
        report.save_documents([ended_token(number, "done", start=START + 60 * number) for number in range(6)])
        bins = ends_by_minute(report, START, START + 359, max_bins)
        assert [bin.minutes for bin in bins] == lengths
        assert [bin.total.tokens for bin in bins] == lengths
        assert [bin.start for bin in bins] == [START + 60 * lengths[0] * number for number in range(len(lengths))]

    def test_of_a_long_time_has_few_bins(self, report: CouchDB) -> None:
        report.save(ended_token(0, "done", start=START))
        bins = ends_by_minute(report, 0, START + 60)
        assert len(bins) <= 2000
        assert bins[-1].total.tokens == 1

    def test_of_no_time_has_none(self, report: CouchDB) -> None:
        assert ends_by_minute(report, START, START - 60) == []

    def test_what_is_odd_counts_as_unknown(self, report: CouchDB) -> None:
        report.save(make_token(0, attempts=[{"end": START}, {"end": START, "outcome": 7, "seconds": "5"}, None]))
        assert ends_by_minute(report, START, START) == [Bin(START, 1, {"": Ends(2)})]


class TestNewest:
    def test_come_newest_first(self, report: CouchDB) -> None:
        tokens = [ended_token(number, "done", start=START + number) for number in range(5)]
        report.save_documents([*tokens, ended_token(9, start=START, seconds=13, reason="exit 1: x")])
        assert newest_ends(report, 3) == [
            End(START + 14, "token_4", "done", None),
            End(START + 13, "token_9", "failed", "exit 1: x"),
            End(START + 13, "token_3", "done", None),
        ]

    def test_what_can_be_no_time_is_left_out(self, report: CouchDB) -> None:
        attempts: list[Any] = [{"end": 99}, {"end": 1000 * START}, {"end": START}]
        report.save(make_token(0, attempts=attempts))
        assert newest_ends(report, 10) == [End(START, "token_0", None, None)]


def test_each_costs_one_request(report: CouchDB, location: Any, through: Any) -> None:
    report.save_documents([ended_token(number, "done", start=START + 60 * number) for number in range(50)])
    with FaultProxy(location.url) as proxy:
        client = through(proxy)
        ends_by_minute(client, START, START + 3600)
        newest_ends(client, 10)
        assert len(proxy.requests) == 2


def test_without_the_views_nothing_is_known(client: CouchDB) -> None:
    with pytest.raises(couchdb.ResourceNotFound):
        ends_by_minute(client, START, START)
    with pytest.raises(couchdb.ResourceNotFound):
        newest_ends(client, 1)
