"""A pilot whose tokens all fail ends before it has used up the pool."""

from __future__ import annotations

import time

import pytest
from support.workers import Worker

from picas.exceptions import TooManyFailures
from picas.pilot.fuse import MAX_FAILURES
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


def broken(token):
    """Fail as in an environment in which a program is missing."""
    token["exit_code"] = 127


def test_by_default_a_run_without_any_success_ends(client, push):
    push(60)
    actor = Worker(client, broken)
    with pytest.raises(TooManyFailures, match="the last 20 tokens have all failed, each with: exit 127"):
        actor.run()
    assert actor.tasks_processed == MAX_FAILURES
    assert count_states(client) == {"todo": 60 - MAX_FAILURES, "locked": 0, "done": 0, "error": MAX_FAILURES}


@pytest.mark.parametrize("slots", [1, 4])
def test_the_tokens_at_work_end_first(client, push, slots):
    push(40)
    with pytest.raises(TooManyFailures):
        Worker(client, broken).run(slots=slots, max_failures=3)
    counts = count_states(client)
    assert counts["locked"] == counts["done"] == 0
    assert 3 <= counts["error"] <= 3 + slots


@pytest.mark.parametrize(("options", "succeeds"), [({}, True), ({"max_failures": 0}, False)], ids=["default", "none"])
def test_any_number_may_fail_after_a_success_or_if_there_is_no_limit(client, push, options, succeeds):
    push(30)
    seen = []

    def work(token):
        seen.append(token.id)
        if len(seen) > 1 or not succeeds:
            broken(token)

    Worker(client, work).run(**options)
    assert count_states(client) == {"todo": 0, "locked": 0, "done": int(succeeds), "error": 30 - succeeds}


def test_a_number_that_was_asked_for_counts_after_a_success_too(client, push):
    push(10)
    seen = []

    def work(token):
        seen.append(token.id)
        if len(seen) > 2:
            broken(token)

    with pytest.raises(TooManyFailures, match="the last 4 tokens"):
        Worker(client, work).run(max_failures=4)
    assert count_states(client) == {"todo": 4, "locked": 0, "done": 2, "error": 4}


def test_a_success_between_them_sets_the_count_back(client, push):
    push(9)
    seen = []

    def work(token):
        seen.append(token.id)
        if len(seen) % 3:
            broken(token)

    Worker(client, work).run(max_failures=3)
    assert count_states(client) == {"todo": 0, "locked": 0, "done": 3, "error": 6}


def test_retries_count_too(client, push):
    push(1)
    with pytest.raises(TooManyFailures):
        Worker(client, broken).run(max_failures=3, max_scrub=100)
    assert client.get("token_0")["scrub_count"] == 3


def test_says_what_exceptions_have_in_common(client, push):
    push(5)

    def work(token):
        raise FileNotFoundError(f"no input for {token.id}")

    with pytest.raises(TooManyFailures, match="each with: FileNotFoundError: no input for token_"):
        Worker(client, work).run(max_failures=5)


def test_names_the_most_frequent_of_several_reasons(client, push):
    push(5)
    codes = iter([1, 2, 2, 2, 1])
    with pytest.raises(TooManyFailures, match="all failed, 3 times with: exit 2"):
        Worker(client, lambda token: token.update(exit_code=next(codes))).run(max_failures=5)


def test_a_time_out_is_a_failure(client, push):
    push(2)
    with pytest.raises(TooManyFailures, match="time-out"):
        Worker(client, lambda token: time.sleep(60), grace=0.1).run(max_token_time=0.05, max_failures=2)
