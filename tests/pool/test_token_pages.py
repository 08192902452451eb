"""Pages of tokens: each begins where the one before has ended, whatever the filter and the states."""

from __future__ import annotations

from itertools import chain

import pytest
from support.tokens import ended_token, make_token

from picas import Task
from picas.exceptions import UsageError
from picas.pool.filters import Filter, make_filter
from picas.pool.token_pages import Place, parse_place, read_page
from picas.views import create_report

STATES = ["todo", "error"]
FURTHER = [f"token_{number}" for number in range(71, 75)]


def read_all(client, *arguments, **options):
    """Return the ids on all pages, in lists."""
    found, after = [], None
    while True:
        page = read_page(client, *arguments, after=after, **options)
        found.append([token.id for token in page.tokens])
        after = None if page.next is None else parse_place(str(page.next))
        if after is None:
            return found


@pytest.fixture
def pool(client):
    tokens = [Task(make_token(number)) for number in range(10, 35)]
    tokens += [Task(ended_token(number, reason="no", group="r0001")) for number in range(50, 62)]
    tokens += [Task(ended_token(number, reason="never", group="r0002")) for number in range(70, 75)]
    assert all(client.save_documents(tokens))
    return client


def test_follow_each_other_without_gaps_over_all_states(pool):
    pages = read_all(pool, STATES, limit=10)
    assert [len(page) for page in pages] == [10, 10, 10, 10, 2]
    expected = [f"token_{number}" for number in (*range(10, 35), *range(50, 62), *range(70, 75))]
    assert list(chain(*pages)) == expected
    assert [len(page) for page in read_all(pool, ["todo"], limit=25)] == [25]  # no empty page follows


def test_have_only_ids_that_begin_so(pool):
    assert read_all(pool, STATES, prefix="token_3", limit=3) == [
        ["token_30", "token_31", "token_32"],
        ["token_33", "token_34"],
    ]
    assert read_all(pool, STATES, prefix="zzz") == [[]]


def test_have_ids_in_upper_or_lower_case_where_the_server_sorts_them_side_by_side(pool, is_couchdb):
    assert read_all(pool, STATES, prefix="TOKEN_7") == ([["token_70", *FURTHER]] if is_couchdb else [[]])


@pytest.mark.parametrize("has_report", [True, False])
def test_of_a_group_of_failures(pool, has_report):
    if has_report:
        create_report(pool)
    group = Filter(group="r0001")
    assert [len(page) for page in read_all(pool, ["error"], group, limit=5)] == [5, 5, 2]
    assert read_all(pool, ["error"], group, prefix="token_6") == [["token_60", "token_61"]]
    assert read_all(pool, ["error"], Filter(group="rffff")) == [[]]


@pytest.mark.parametrize("has_report", [True, False])
def test_of_failures_without_a_group(pool, has_report):
    assert all(pool.save_documents([Task(ended_token(number)) for number in range(80, 83)]))
    if has_report:
        create_report(pool)
    assert read_all(pool, ["error"], Filter(group=""), limit=2) == [["token_80", "token_81"], ["token_82"]]


def test_of_a_pilot(pool):
    for number in range(10, 15):
        pool.save(Task(pool.get(f"token_{number}")).lock(f"picas_pilot_{number % 2}"))
    even = [["token_10", "token_12"], ["token_14"]]
    assert read_all(pool, ["locked"], pilot="picas_pilot_0", limit=2) == even
    assert read_all(pool, ["locked"], pilot="picas_pilot_0", prefix="token_14") == even[1:]
    assert read_all(pool, ["locked"], pilot="picas_pilot_9") == [[]]


def test_end_early_if_a_filter_finds_little(pool):
    filter = make_filter(match="never")
    page = read_page(pool, STATES, filter, max_scanned=20)
    assert page.tokens == ()
    assert page.scanned >= 20
    assert page.next is not None
    found = list(chain(*read_all(pool, STATES, filter, max_scanned=20)))
    assert found == [f"token_{number}" for number in range(70, 75)]


def test_go_on_behind_a_token_that_was_deleted(pool):
    first = read_page(pool, ["todo"], limit=3)
    pool.delete(pool.get("token_12"))
    assert [token.id for token in read_page(pool, ["todo"], after=first.next, limit=2).tokens] == [
        "token_13",
        "token_14",
    ]


def test_a_place_is_a_text_and_back():
    place = Place("error", "a/b c")
    assert parse_place(str(place)) == place
    for wrong in ("", "token_1", "gone/token_1"):
        with pytest.raises(UsageError):
            parse_place(wrong)
