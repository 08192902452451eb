"""When a failed token may be tried again, and which of those tokens a pilot remembers."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from picas.pool import waiting
from picas.tokens import retries


class TestTheDelay:
    @pytest.fixture(autouse=True)
    def no_jitter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retries.random, "uniform", lambda low, high: low)
        monkeypatch.setattr(retries.time, "time", lambda: 1000.0)

    def test_doubles_with_each_failure(self) -> None:
        assert [retries.next_try(5, failures) - 1000 for failures in (1, 2, 3, 4)] == [5, 10, 20, 40]

    def test_is_at_most_an_hour(self) -> None:
        assert retries.next_try(5, 50) - 1000 == retries.LONGEST_DELAY == 3600
        assert retries.next_try(99999, 1) - 1000 == 3600
        assert retries.next_try(1, 10**400) - 1000 == 3600

    def test_is_the_shortest_one_if_a_person_has_written_an_odd_count(self) -> None:
        assert retries.next_try(5, -7) - 1000 == 5

    def test_has_jitter_so_that_tokens_do_not_return_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        before = time.time()
        times = [retries.next_try(100, 1) for _ in range(100)]
        assert all(before + 99.9 < when < time.time() + 125.1 for when in times)
        assert max(times) - min(times) > 10


@pytest.mark.parametrize(
    "odd", [None, "9999999999", "", float("nan"), float("inf"), -5, True, [9], {"of": 9}, 10**400], ids=str
)
def test_an_invalid_time_is_ignored(odd: Any) -> None:
    assert retries.not_before({"not_before": odd}) <= 0


def test_a_time_may_be_an_integer_or_a_fraction() -> None:
    assert [retries.not_before({"not_before": when}) for when in (5, 5.5)] == [5, 5.5]


class TestThePostponedTokensThatAPilotRemembers:
    def test_are_in_the_order_of_their_times(self) -> None:
        postponed = waiting.Postponed()
        for id, ago in (("a", 5), ("b", 9), ("c", -60)):
            postponed.add({"_id": id, "_rev": "1-" + id}, time.time() - ago)
        assert list(postponed.due().items()) == [("b", "1-b"), ("a", "1-a")]
        assert postponed.seconds_left() == 0
        for id in ("a", "b", "x"):
            postponed.forget(id)
        assert 59 < postponed.seconds_left() <= 60
        postponed.clear()
        assert (bool(postponed), postponed.seconds_left()) == (False, math.inf)

    def test_are_limited_in_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "MAX_REMEMBERED", 3)
        postponed = waiting.Postponed()
        for number in range(9):
            postponed.add({"_id": str(number), "_rev": "1-x"}, 1.0)
        assert list(postponed.due()) == ["0", "1", "2"]
