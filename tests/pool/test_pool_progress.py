"""How fast tokens come to their end, and how long the rest takes; and waiting for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.tokens import ended_token, make_token

from picas import CouchDB
from picas.pool import completion, indexing
from picas.pool.completion import wait_until_ended
from picas.pool.indexing import Indexing, wait_for_index
from picas.pool.progress import LEAST_ENDED, Rate, find_rate, rough_duration
from picas.views import REPORT, create_report

MINUTE = 60 * 28_333_333
"""The beginning of a minute, in seconds since the epoch."""


@pytest.fixture
def end(client: CouchDB) -> Any:
    """Return a function that saves tokens that have ended some minutes before `MINUTE`."""
    create_report(client)
    number = iter(range(1000))

    def end(*minutes: float, outcome: str = "done", **fields: Any) -> None:
        tokens = [ended_token(next(number), outcome, start=MINUTE - int(60 * ago) - 10, **fields) for ago in minutes]
        client.save_documents(tokens)

    return end


class TestRate:
    def test_counts_what_has_ended_within_fifteen_minutes(self, client: CouchDB, end: Any) -> None:
        now = MINUTE + 30.0
        end(16, 15.1, 15, 7, 0)
        end(3, outcome="failed")
        end(-5)  # the clock of its pilot is ahead
        assert find_rate(client, now) == Rate(4, 930)

    def test_what_is_tried_again_has_not_ended(self, client: CouchDB, end: Any) -> None:
        end(1)
        client.save(make_token(0, _id="again", attempts=ended_token(0, start=MINUTE - 60)["attempts"]))
        rate = find_rate(client, MINUTE + 30.0)
        assert rate is not None
        assert rate.ended == 1

    def test_of_a_pool_that_was_begun_lately_counts_from_the_start_of_its_pilots(
        self, client: CouchDB, end: Any
    ) -> None:
        end(4, 3, 2)
        now = MINUTE + 30.0
        assert find_rate(client, now, since=now - 300) == Rate(3, 300)
        assert find_rate(client, now, since=now - 5000) == Rate(3, 930)
        assert find_rate(client, now, since=now + 50) == Rate(3, 930), "that pilot's clock is ahead"
        end(12)
        assert find_rate(client, now, since=now - 300) == Rate(4, 930), "others have worked before"

    def test_is_unknown_if_nothing_has_ended_or_too_little_time_has_passed(self, client: CouchDB, end: Any) -> None:
        now = MINUTE + 30.0
        assert find_rate(client, now) is None
        end(0)
        assert find_rate(client, now, since=now - 59) is None
        assert find_rate(client, now, since=now - 60) == Rate(1, 60)

    def test_says_how_long_the_rest_takes_once_twenty_have_ended(self) -> None:
        assert Rate(LEAST_ENDED, 600).seconds_for(10) == 300
        assert Rate(LEAST_ENDED - 1, 600).seconds_for(10) is None
        assert Rate(LEAST_ENDED, 600).per_minute == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0.4 s"),
        (59.4, "59 s"),
        (59.6, "60 s"),
        (59.8, "1 min"),
        (66, "1.1 min"),
        (5400, "1.5 h"),
        (3590, "1 h"),
        (78_500, "22 h"),
        (85_900, "24 h"),
        (86_000, "1 d"),
        (1e7, "120 d"),
    ],
)
def test_a_rough_duration_has_one_unit_and_two_digits(seconds: float, text: str) -> None:
    assert rough_duration(seconds) == text


class TestWaiting:
    def test_looks_ever_less_often_until_all_has_ended(self, client: CouchDB, push: Any) -> None:
        tokens = push(1)
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 6:
                client.save({**ended_token(0, "done"), "_rev": tokens[0].rev})

        assert wait_until_ended(client, sleep=sleep) == {"todo": 0, "locked": 0, "done": 1, "error": 0}
        assert pauses[0] == completion.FIRST_PAUSE
        assert pauses == sorted(pauses)
        assert pauses[-1] == completion.LONGEST_PAUSE

    def test_returns_when_the_time_is_up(self, client: CouchDB, push: Any) -> None:
        push(1)
        assert wait_until_ended(client, timeout=0.2)["todo"] == 1
        assert wait_until_ended(client, timeout=0, sleep=pytest.fail)["todo"] == 1

    def test_an_empty_pool_has_ended(self, client: CouchDB) -> None:
        assert sum(wait_until_ended(client, timeout=math.inf, sleep=pytest.fail).values()) == 0


def test_a_view_is_asked_only_once_it_is_indexed(
    client: CouchDB, is_couchdb: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_couchdb:
        pytest.skip("the embedded server does not say what it has to index")
    create_report(client)
    client.save_documents([ended_token(number) for number in range(1500)])
    monkeypatch.setattr(indexing, "FEW", 1000)
    monkeypatch.setattr(indexing, "POLL", 0.05)
    looks: list[Indexing] = []
    assert not wait_for_index(client, REPORT, looks.append, is_stopped=lambda: True)
    assert (looks[0].left, looks[0].total) == (1502, 1502)
    looks.clear()
    assert wait_for_index(client, REPORT, looks.append)
    assert {look.design_doc for look in looks} == {REPORT}
    assert [look.left for look in looks] == sorted((look.left for look in looks), reverse=True)
    assert looks[-1].left == 0
    assert client.pending_updates(REPORT) <= 1000
    assert wait_for_index(client, REPORT, pytest.fail)


def test_what_people_read_of_an_index_that_is_built() -> None:
    assert str(Indexing("Monitor", 250_000, 400_000, 125.0)) == (
        "indexing the views of Monitor: 37 % of 400000 changes after 125 s"
    )


def test_an_index_is_waited_for_whose_views_share_modules(client: CouchDB, monkeypatch: pytest.MonkeyPatch) -> None:
    views = {"lib": {"numbers": "exports.one = 1;"}, "mine": {"map": "function (doc) { emit(1, 1); }"}}
    client.save({"_id": "_design/Mine", "views": views})
    left = iter([9000, 0])
    monkeypatch.setattr(client, "pending_updates", lambda design_doc: next(left))
    assert wait_for_index(client, "Mine", lambda indexing: None, sleep=lambda seconds: None)
