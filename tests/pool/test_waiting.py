"""Tokens that are too large for a pilot's free slots: smaller ones overtake them, but not forever."""

import pytest

from picas import Task
from picas.pool.waiting import LEAST_TURNS, MOST_TURNS, Larger
from picas.tokens.resources import Resources, Room

FULL = Room.of(4, Resources(4), [Resources(2)])
EMPTY = Room.of(4, Resources(4))


@pytest.fixture
def tokens(client, push):
    """Four tokens that need 4, 3, 2 and 1 cores."""
    push(4)
    for number, token in enumerate(client.get(f"token_{number}") for number in range(4)):
        token["cores"] = 4 - number
        client.save(token)
    return [client.get(f"token_{number}") for number in range(4)]


@pytest.fixture
def larger(tokens):
    larger = Larger()
    for token in tokens:
        larger.add(token.value)
    return larger


def ids(documents):
    return [document.id for document in documents]


def let_pass(larger, count):
    larger.note_overtaken(EMPTY, count)


class TestTaking:
    def test_returns_tokens_that_fit_and_the_oldest_first(self, client, larger):
        assert ids(larger.take(client, FULL, 9)) == ["token_2"]
        assert ids(larger.take(client, EMPTY, 9)) == ["token_0"]
        assert ids(larger.take(client, EMPTY, 9)) == ["token_1", "token_3"]  # side by side
        assert not larger

    def test_returns_no_more_than_requested(self, client, larger):
        room = Room.of(20, Resources(20))
        assert ids(larger.take(client, room, 2)) == ["token_0", "token_1"]

    def test_skips_tokens_that_have_changed(self, client, larger, tokens):
        client.save(Task(tokens[0].value).lock("another"))
        client.delete(tokens[1])
        assert sorted(ids(larger.take(client, EMPTY, 9))) == ["token_2", "token_3"]
        assert not larger


class TestTurns:
    def test_a_multiple_of_the_pilot_s_slots_overtakes_before_smaller_tokens_wait(self, client, larger):
        passed = 0
        while not larger.block(client):
            let_pass(larger, 1)
            passed += 1
        assert LEAST_TURNS * 4 <= passed <= MOST_TURNS * 4

    def test_pilots_do_not_all_wait_at_the_same_time(self, client, tokens):
        turns = set()
        for _ in range(20):
            larger, passed = Larger(), 0
            larger.add(tokens[0].value)
            while not larger.block(client):
                let_pass(larger, 1)
                passed += 1
            turns.add(passed)
        assert len(turns) > 3

    def test_nothing_overtakes_a_token_that_has_its_turn(self, client, larger):
        let_pass(larger, MOST_TURNS * 4)
        assert larger.take(client, FULL, 9) == []
        assert larger.block(client)
        assert ids(larger.take(client, EMPTY, 9)) == ["token_0"]
        assert not larger.block(client)  # the count of the next one starts here

    def test_a_token_that_another_pilot_has_taken_blocks_nothing(self, client, larger, tokens):
        let_pass(larger, MOST_TURNS * 4)
        client.save(Task(tokens[0].value).lock("another"))
        assert not larger.block(client)
        assert ids(larger.take(client, FULL, 9)) == ["token_2"]

    def test_a_token_that_is_seen_again_keeps_its_turn(self, client, larger, tokens):
        let_pass(larger, MOST_TURNS * 4)
        larger.clear(keep_oldest=True)
        larger.add(tokens[0].value)
        assert larger.block(client)

    def test_a_forgotten_token_has_no_turn(self, client, larger):
        let_pass(larger, MOST_TURNS * 4)
        larger.clear()
        assert not larger
        assert not larger.block(client)
