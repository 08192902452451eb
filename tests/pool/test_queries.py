"""The tokens that a person means, page by page."""

from __future__ import annotations

import pytest
from couchdb.http import ResourceNotFound
from support.tokens import ended_token, make_token

from picas.pool import Source, TokenQuery, make_filter, pages
from picas.pool.fields import parse_field
from picas.pool.queries import ordered

REPORT_MAP = """function(doc) {
    if (doc.type == "token" && doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code) != 0) {
        var attempt = (doc.attempts || []).slice(-1)[0] || {};
        emit(attempt.group || "", attempt.reason || null);
    }
}"""
TODO, LOCKED, DONE, ERROR = map(Source, ("todo", "locked", "done", "error"))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 4)


@pytest.fixture
def pool(client):
    """Twelve tokens in error of two groups, three done, two locked and one to do."""
    tokens = [ended_token(n, reason=f"bad {n % 2}", group=f"r000{n % 2}", cores=n) for n in range(12)]
    tokens += [ended_token(n, "done") for n in (12, 13, 14)]
    tokens += [make_token(n, lock=5) for n in (15, 16)]
    assert all(client.save_documents([*tokens, make_token(17)]))
    return client


@pytest.fixture
def report(pool):
    pool.add_view("reasons", REPORT_MAP, reduce_fun="_count", design_doc="Report")


def numbers(tokens):
    return sorted(int(token.id.partition("_")[2]) for token in tokens)


@pytest.fixture
def requests_of(monkeypatch):
    """Note the views that a client is asked for, with how many rows."""

    def requests_of(client):
        asked = []
        original = client.view

        def view(name, **params):
            asked.append((name, params.get("limit")))
            return original(name, **params)

        monkeypatch.setattr(client, "view", view)
        return asked

    return requests_of


def test_all_tokens_of_some_states(pool):
    query = TokenQuery(pool, [LOCKED, ERROR])
    assert numbers(query) == [*range(12), 15, 16]
    assert (query.scanned, query.matched) == (14, 14)
    assert query.count() == query.size() == 14
    assert numbers(query) == [*range(12), 15, 16]


def test_a_filter_leaves_some_out_and_all_are_read(pool):
    query = TokenQuery(pool, [ERROR, DONE], make_filter(["cores >= 9"]))
    assert numbers(query) == [9, 10, 11]
    assert (query.scanned, query.matched, query.size(), query.count()) == (15, 3, 15, 3)


def test_a_few_tokens_are_read_with_one_small_request(pool, requests_of):
    asked = requests_of(pool)
    assert len(list(TokenQuery(pool, [ERROR, DONE]).read(3))) == 3
    assert asked == [("error", 3)]


def test_a_count_without_a_filter_reads_no_tokens(pool, requests_of):
    asked = requests_of(pool)
    assert TokenQuery(pool, [ERROR, DONE]).count() == 15
    assert asked == [("error", 0), ("done", 0)]


def test_a_token_that_has_left_its_view_is_left_out(pool, monkeypatch):
    read = pool.get_documents

    def read_later(ids):
        tokens = read(ids)
        for token in tokens:
            if token.id == "token_3":
                token["lock"] = token["done"] = 0
        return tokens

    monkeypatch.setattr(pool, "get_documents", read_later)
    assert numbers(TokenQuery(pool, [ERROR])) == [0, 1, 2, *range(4, 12)]


def test_a_view_of_the_users_own(pool):
    pool.add_view("all", "function(doc) { if (doc.type == 'token') emit('same', null); }", design_doc="Own")
    own = Source("all", "Own")
    assert numbers(TokenQuery(pool, [own])) == list(range(18))
    assert numbers(TokenQuery(pool, [own], make_filter(["state = locked"]))) == [15, 16]


def test_a_missing_view_raises(pool):
    with pytest.raises(ResourceNotFound):
        list(TokenQuery(pool, [Source("nope")]))


class TestGroups:
    """With the view of the reasons, only the tokens of a group are read."""

    def test_with_the_view(self, pool, report, requests_of):
        asked = requests_of(pool)
        query = TokenQuery(pool, [ERROR], make_filter(reason="r0001"))
        assert query.count() == query.size() == 6
        assert numbers(query) == [1, 3, 5, 7, 9, 11]
        assert (query.scanned, query.lacks_reasons) == (6, False)
        assert {name for name, _ in asked} == {"reasons"}

    def test_without_it(self, pool):
        query = TokenQuery(pool, [ERROR], make_filter(reason="r0001"))
        assert query.count() == 6
        assert numbers(query) == [1, 3, 5, 7, 9, 11]
        assert (query.scanned, query.lacks_reasons) == (12, True)

    def test_with_further_conditions(self, pool, report):
        query = TokenQuery(pool, [ERROR], make_filter(["cores < 6"], reason="r0001"))
        assert (query.count(), query.size()) == (3, 6)

    def test_a_group_without_tokens(self, pool, report):
        query = TokenQuery(pool, [ERROR], make_filter(reason="rffff"))
        assert (query.count(), numbers(query)) == (0, [])

    def test_other_states_are_read_whole(self, pool, report):
        query = TokenQuery(pool, [DONE, ERROR], make_filter(reason="r0001"))
        assert (query.count(), query.scanned) == (6, 9)


class TestIds:
    def test_missing_ones_and_documents_of_another_kind_are_noted(self, pool):
        ids = ["token_1", "nope", "token_15", "_design/Monitor", "token_1", "token_17"]
        query = TokenQuery(pool, ids=ids)
        assert [token.id for token in query] == ["token_1", "token_15", "token_17"]
        assert query.missing == ["nope", "_design/Monitor"]

    def test_over_several_pages_with_a_filter(self, pool):
        query = TokenQuery(pool, ids=[f"token_{n}" for n in range(18)], filter=make_filter(["state = done"]))
        assert numbers(query) == [12, 13, 14]
        assert (query.scanned, query.count(), query.missing) == (18, 3, [])


class TestOrder:
    TOKENS = (5, "b", None, 2.5, [1], "a", 10, "missing")

    @pytest.fixture
    def tokens(self, client):
        fields = [{} if value == "missing" else {"key": value} for value in self.TOKENS]
        client.save_documents([make_token(number, **each) for number, each in enumerate(fields)])
        return TokenQuery(client, [TODO])

    @pytest.mark.parametrize(("descending", "expected"), [(False, [3, 0, 6, 5, 1, 4]), (True, [4, 1, 5, 6, 0, 3])])
    @pytest.mark.parametrize("limit", [0, 3, 100])
    def test_by_type_and_value_and_what_is_missing_comes_last(self, tokens, descending, expected, limit):
        found = ordered(tokens, parse_field("key"), descending=descending, limit=limit)
        ids = [int(token.id.partition("_")[2]) for token in found]
        assert ids[:6] == expected[: limit or 6]
        assert len(ids) == min(limit or 8, 8)
        assert set(ids[6:]) == ({2, 7} if len(ids) > 6 else set())


def test_pages_grow_from_the_first(pool, requests_of, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 1000)
    asked = requests_of(pool)
    assert [len(page) for page in pages.pages(pool, "error", first=2)] == [2, 4, 6]
    assert [name for name, _ in asked] == ["error"] * 3


@pytest.mark.parametrize("count", [7, 8, 9, 12, 13])
def test_pages_of_rows_with_one_key_are_complete(client, push, count):
    client.add_view("by_type", "function(doc) { if (doc.type == 'token') emit(doc.type, null); }", design_doc="Own")
    push(count)
    found = [token.id for page in pages.pages(client, "by_type", "Own") for token in page]
    assert sorted(found) == sorted(f"token_{number}" for number in range(count))
