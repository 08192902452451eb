"""How many tokens a pilot may hold."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from picas.pilot.pace import MOST, MOST_PER_SLOT, RECENT, Pace


def paced(slots=1, seconds=2.0, took=0.001, requests=20):
    """Return a pace after tokens and requests that were all alike."""
    pace = Pace(seconds, slots)
    for _ in range(requests):
        pace.note(took)
        pace.note_request(0.01)
    return pace


def test_it_begins_with_one_token_a_slot():
    assert Pace(2.0, 1).most() == 1
    assert Pace(2.0, 16).most() == 16


def test_it_grows_at_most_twofold_with_each_request():
    pace, held = Pace(2.0, 1), []
    for _ in range(8):
        held.append(pace.most())
        pace.note(0.0)
        pace.note_request(0.01)
    assert held == [1, 2, 4, 8, 16, 32, 64, 64]


def test_pilots_that_start_together_do_not_ask_together():
    requests = Counter()
    for _ in range(1000):
        pace, now = Pace(10.0, 1), 0
        while now < 100:
            held = pace.most()
            now += held  # tokens of a second each
            for _ in range(held):
                pace.note(1.0)
            pace.note_request(0.01)
            requests[now] += 1
    busiest = max(requests[second] for second in range(60, 100))
    assert busiest < 300, "if they were in step, all would ask in the same second"
    assert sum(requests[second] for second in range(60, 100)) < 5000, "each asks once in about ten seconds"


def test_it_never_exceeds_64_a_slot_nor_256_in_all():
    assert paced(1).most() == MOST_PER_SLOT == 64
    assert paced(2).most() == 128
    assert paced(16).most() == MOST == 256
    assert paced(300).most() == 300  # but each slot has one


def test_it_allows_what_ends_in_time_and_no_more():
    assert paced(took=0.1).most() == 20
    assert paced(took=0.9).most() == 2
    assert paced(took=1.1).most() == 1
    assert paced(slots=4, took=0.9).most() == 8


def test_the_longest_of_the_last_tokens_counts():
    pace = paced()
    pace.note(0.5)
    assert pace.most() == 4
    for _ in range(RECENT):
        pace.note(0.001)
    assert pace.most() == 64


def test_a_long_token_makes_it_begin_anew_at_once():
    pace = paced()
    pace.note(5.0)
    assert pace.most() == 1
    for _ in range(RECENT):
        pace.note(0.001)
    assert pace.most() == 1
    pace.note_request(0.01)
    assert pace.most() == 2


def test_a_token_that_is_at_work_counts_with_the_time_so_far():
    pace = paced(slots=4)
    assert pace.most([0.1, 0.001]) == 80
    assert pace.most([1.0, 0.001]) == 8
    assert pace.most([1.5, 0.001]) == 4  # as long as it may be before those that wait are put back
    assert pace.most([30.0, 0.001]) == 4


def test_tokens_that_would_wait_for_too_long_are_a_surplus():
    pace = paced()
    assert pace.surplus(64) == 0
    assert pace.surplus(64, [0.02]) == 0
    assert pace.surplus(64, [1.5]) == 63
    pace.note(0.036)  # a little longer than before
    assert pace.surplus(64) == 0
    pace.note(0.1)
    assert pace.surplus(64) == 44
    pace.note(5.0)
    assert pace.surplus(64) == 63
    assert paced(slots=4).surplus(5, [1.5]) == 1


def test_slow_requests_halve_it():
    pace = paced()
    pace.note_request(1.1)
    assert pace.most() == 32
    for _ in range(9):
        pace.note_request(1.1)
    assert pace.most() == 1


def test_results_wait_as_long_as_the_last_request_leaves_time_to_save_them():
    pace = paced()
    assert pace.patience == 1.5
    pace.note_request(0.8)
    assert pace.patience == 1.2
    pace.note_request(30.0)
    assert pace.patience == 1.0


def test_infinity_is_a_time_too():
    pace = paced(seconds=math.inf)
    assert pace.most([1e6]) == 64
    assert pace.surplus(64, [1e6]) == 0


def test_0_seconds_switch_it_off():
    pace = paced(seconds=0.0)
    assert not pace.is_on
    assert pace.most() == 1


@given(
    st.floats(0.1, 100),
    st.integers(1, 40),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=40),
)
def test_it_holds_no_more_than_ends_in_time(seconds, slots, history):
    pace = Pace(seconds, slots)
    for took, request in history:
        pace.note(took)
        pace.note_request(request)
        most = pace.most()
        assert slots <= most <= max(slots, min(64 * slots, MOST))
        assert most == slots or most * pace.usual <= slots * seconds
