"""Which free tokens a pilot takes: in order while it is alone, from random places of the queue in a crowd."""

import json
import math
import random
import time
from urllib.parse import parse_qsl, urlsplit

import pytest
from couchdb.http import ResourceNotFound
from support.faults import FaultProxy
from support.tokens import make_token
from support.workers import wait_for

from picas import CouchDB, Document, Task
from picas.pool import rows, selection, windows
from picas.pool.candidates import Candidates
from picas.pool.selection import fits_always
from picas.tokens.resources import Room
from picas.views import FREE_VIEW, QUEUE, create_views, has_queue

EVERYTHING = "function(doc) { if (doc.type == 'token') { emit(doc._id, doc._id); } }"
FREE_ONES = "function(doc) { if (doc.type == 'token' && doc.lock == 0 && doc.done == 0) { emit(doc._id, doc._id); } }"


@pytest.fixture(autouse=True)
def dice(monkeypatch):
    """Seed the random numbers, so that each run of the tests is the same."""
    for module in (rows, selection, windows):
        monkeypatch.setattr(module, "random", random.Random(7))


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Treat all reads as quick, even on a busy machine."""
    monkeypatch.setattr(windows, "QUICK", 60.0)


@pytest.fixture
def proxy(location):
    with FaultProxy(location.url) as proxy:
        yield proxy


@pytest.fixture
def watched(proxy, through):
    """A client whose requests the proxy records."""
    return through(proxy)


@pytest.fixture
def reads(proxy):
    """Return a function that returns the reads of views with documents so far: view names and query parameters."""

    def reads():
        found = []
        for request in proxy.requests:
            parts = urlsplit(request.path)
            params = {name: value if value == "lazy" else json.loads(value) for name, value in parse_qsl(parts.query)}
            if "/_view/" in parts.path and "include_docs" in params:
                found.append({"view": parts.path.rpartition("/")[2], **params})
        return found

    return reads


def lock(client, *tokens):
    """Let another pilot lock tokens."""
    assert all(client.save_documents([Task(client.get(token)).lock("another pilot") for token in tokens]))


def ids(documents):
    return [document.id for document in documents]


def numbered(*numbers):
    return [f"token_{number}" for number in numbers]


def take_and_lock_all(client, source, count=1):
    """Take and lock candidates until there are none, and return their ids in that order."""
    taken = []
    while True:
        found = source.take(client, count)
        if not found:
            return taken
        taken += ids(found)
        assert all(client.save_documents([Task(document).lock("pilot") for document in found]))


def take_anew(client, source, count=1):
    """Take candidates from a newly read window, as a pilot does that has met others twice."""
    source.met_others(windows.GONE_IN_A_ROW)
    return source.take(client, count)


@pytest.fixture
def from_token_0(client, monkeypatch):
    """Return a function that pushes tokens; after that call every random place is that of token_0."""

    def begin(push, count):
        push(count)
        places = [row.key[0] for row in client.view(QUEUE, startkey=[]).rows if row.id == "token_0"]

        class First(random.Random):
            def randrange(self, stop):
                return places[0]

        monkeypatch.setattr(rows, "random", First(7))

    return begin


def without_queue(client):
    """Remove the queue, as an older release does when it creates the views."""

    def remove(design):
        return {**design, "views": {name: view for name, view in design["views"].items() if name != QUEUE}}

    assert client.edit("_design/Monitor", remove)


class TestALonePilot:
    def test_gets_the_tokens_in_the_order_of_their_numbers(self, client):
        client.save_documents([make_token(number) for number in (10, 2, 100, 1, 20)])
        assert ids(Candidates(FREE_VIEW, {}).take(client, 9)) == numbered(1, 2, 10, 20, 100)

    def test_gets_tokens_with_other_names_last_and_by_name(self, client):
        names = ["token_3", "b", "token_x", "a10", "token_20", "a2"]
        client.save_documents([make_token(_id=name) for name in names])
        assert ids(Candidates(FREE_VIEW, {}).take(client, 9)) == ["token_3", "token_20", "a10", "a2", "b", "token_x"]

    def test_gets_only_free_tokens(self, client, push):
        push(5)
        lock(client, "token_1", "token_3")
        assert ids(Candidates(FREE_VIEW, {}).take(client, 9)) == numbered(0, 2, 4)

    def test_gets_no_more_than_requested_and_later_the_rest_of_the_window_without_a_request(self, push, watched, reads):
        push(5)
        source = Candidates(FREE_VIEW, {})
        assert ids(source.take(watched, 2)) == numbered(0, 1)
        assert ids(source.take(watched, 2)) == numbered(2, 3)
        assert ids(source.take(watched, 2)) == numbered(4)
        assert reads() == [{"view": QUEUE, "endkey": [], "limit": windows.WINDOW, "skip": 0, "include_docs": True}]

    def test_reads_on_from_its_position_without_an_index_update(self, push, watched, reads, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 10)
        push(25)
        assert take_and_lock_all(watched, Candidates(FREE_VIEW, {})) == numbered(*range(25))
        first, *more, last = reads()
        assert (first["endkey"], "update" in first, "startkey" in first) == ([], False, False)
        assert [read["update"] for read in more] == [False] * len(more)
        assert more[0]["startkey"] == 9
        assert len(more) <= 3
        # Other tokens may have become free before its position, so it reads once more from the start.
        assert (last["endkey"], "update" in last, "startkey" in last) == ([], False, False)

    def test_returns_to_the_start_after_a_while(self, push, client, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 5)
        client.save_documents([make_token(number) for number in range(10, 40)])
        source = Candidates(FREE_VIEW, {})
        assert ids(source.take(client, 5)) == numbered(*range(10, 15))
        client.save(make_token(1))
        lock(client, *numbered(*range(10, 15)))
        assert "token_1" not in ids(source.take(client, 5))
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        assert ids(source.take(client, 1)) == numbered(1)

    def test_drops_an_old_window(self, client, push, monkeypatch):
        push(3)
        source = Candidates(FREE_VIEW, {})
        source.take(client)
        lock(client, "token_1")
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        assert ids(source.take(client, 3)) == numbered(0, 2)

    def test_skips_tokens_that_were_locked_or_deleted_after_the_index_was_built(self, client, push, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 10)
        push(20)
        source = Candidates(FREE_VIEW, {})
        for number in range(10):
            assert ids(source.take(client)) == numbered(number)
        lock(client, "token_11")
        client.delete(client.get("token_13"))
        assert [source.take(client)[0].id for _ in range(4)] == numbered(9, 10, 12, 14)

    def test_reads_a_larger_window_if_it_wants_many_tokens(self, push, watched, reads):
        push(100)
        assert len(Candidates(FREE_VIEW, {}).take(watched, 20)) == 20
        assert reads()[0]["limit"] == 80

    def test_reads_larger_windows_while_it_uses_them_up(self, push, watched, reads, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 5)
        monkeypatch.setattr(windows, "MAX_WINDOW", 15)
        push(60)
        take_and_lock_all(watched, Candidates(FREE_VIEW, {}))
        assert [read["limit"] for read in reads()][:5] == [5, 10, 15, 15, 15]

    def test_does_not_enlarge_windows_if_reads_are_slow(self, push, watched, reads, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 5)
        monkeypatch.setattr(windows, "QUICK", 0.0)
        push(20)
        take_and_lock_all(watched, Candidates(FREE_VIEW, {}))
        assert {read["limit"] for read in reads()} == {5}

    def test_does_not_enlarge_windows_in_a_crowd_either_if_reads_are_slow(self, push, watched, reads, monkeypatch):
        monkeypatch.setattr(windows, "QUICK", 0.0)
        monkeypatch.setattr(windows, "LEAST_LAGGING", 5)
        push(200)
        source = Candidates(FREE_VIEW, {})
        source.met_others()
        source.take(watched)
        with monkeypatch.context() as long_work:
            long_work.setattr(windows, "WINDOW_AGE", 0.0)
            source.take(watched)
        for _ in range(5):
            source._reader._place = 0
            source.take(watched)
        assert [read["limit"] for read in reads()][1:] == [5, 5]

    @pytest.mark.parametrize("has_met", [False, True])
    def test_returns_to_small_windows_if_tokens_take_long(self, push, watched, reads, monkeypatch, has_met):
        monkeypatch.setattr(windows, "WINDOW", 20)
        push(200)
        source = Candidates(FREE_VIEW, {})
        for _ in range(21):
            source.take(watched)
        if has_met:
            source.met_others()
            source._reader._place = 0
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        monkeypatch.setattr(windows, "LEAST_LAGGING", 6)
        source.take(watched)
        assert [read["limit"] for read in reads()] == [20, 40, 6 if has_met else 20]

    def test_finds_none_in_an_empty_view(self, watched, reads):
        assert Candidates(FREE_VIEW, {}).take(watched, 5) == []
        assert len(reads()) == 1

    def test_raises_if_the_view_does_not_exist(self, client):
        with pytest.raises(ResourceNotFound):
            Candidates("nope", {}).take(client)
        with pytest.raises(ResourceNotFound):
            Candidates(FREE_VIEW, {"design_doc": "Nope"}).take(client)


class TestACrowd:
    def test_takes_tokens_from_all_parts_of_the_queue(self, client, push):
        """Each pilot starts at another part, and together they reach every token."""
        push(100)
        first, seen = [], set()
        for _ in range(60):
            source = Candidates(FREE_VIEW, {})
            first += ids(take_anew(client, source))
            seen.update(first[-1:], ids(source.take(client, 50)), ids(take_anew(client, source, 50)))
        assert len(set(first)) > 25
        assert {int(name[6:]) // 10 for name in first} == set(range(10))
        assert seen == set(numbered(*range(100)))

    def test_spreads_over_tokens_whose_names_differ_only_at_the_end(self, client):
        names = [f"LC_{'x' * 40}_{number:06}" for number in range(100)]
        client.save_documents([make_token(_id=name) for name in names])
        first = [take_anew(client, Candidates(FREE_VIEW, {}))[0].id for _ in range(60)]
        assert len(set(first)) > 25
        assert {names.index(name) // 10 for name in first} >= {0, 2, 4, 6, 8}

    def test_gets_each_token_exactly_once(self, client, push):
        push(30)
        source = Candidates(FREE_VIEW, {})
        source.met_others()
        assert sorted(take_and_lock_all(client, source, 3)) == sorted(numbered(*range(30)))

    def test_starts_at_a_random_token(self, client, push):
        push(30)
        assert len({take_anew(client, Candidates(FREE_VIEW, {}))[0].id for _ in range(20)}) > 5

    @pytest.mark.parametrize("names", [numbered(1, 2, 3), ["a", "b", "c"]])
    def test_wraps_around_at_the_end_of_the_queue(self, client, watched, reads, names):
        client.save_documents([make_token(_id=name) for name in names])
        for _ in range(30):
            assert sorted(ids(take_anew(watched, Candidates(FREE_VIEW, {}), len(names)))) == names
        to_the_end, from_the_begin = next(
            (read, after) for read, after in zip(reads(), reads()[1:]) if "inclusive_end" in after
        )
        assert to_the_end["startkey"] == from_the_begin["endkey"]
        assert (to_the_end["endkey"], from_the_begin["inclusive_end"]) == ([], False)

    def test_starts_at_the_first_token_if_a_number_is_too_large_for_javascript(self, client, watched, reads):
        client.save(make_token(_id="token_12345678901234567890"))
        client.save(make_token(1))
        for _ in range(10):
            assert len(take_anew(watched, Candidates(FREE_VIEW, {}), 2)) == 2
        assert {(read.get("startkey"), str(read["endkey"])) for read in reads()} <= {
            (None, "[]"),
            (1, "[]"),
            (None, "1"),
        }

    def test_starts_at_the_first_token_if_the_random_place_is_after_the_last(self, push, watched, monkeypatch):
        class Highest(random.Random):
            def randrange(self, stop):
                return stop - 1

        monkeypatch.setattr(rows, "random", Highest())
        push(3)
        assert sorted(ids(take_anew(watched, Candidates(FREE_VIEW, {}), 3))) == numbered(0, 1, 2)

    def test_starts_with_few_rows(self, push, watched, reads):
        push(30)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        take_anew(watched, source)
        take_anew(watched, source)
        for read in reads()[1:]:
            assert (read["update"], read["limit"]) == (False, windows.LEAST_LAGGING)

    def test_starts_with_more_rows_if_it_wants_many_tokens(self, push, watched, reads):
        push(30)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        take_anew(watched, source, 10)
        assert reads()[1]["limit"] == 40

    def test_reads_on_after_the_rows_that_it_has_read(self, push, watched, reads, monkeypatch, from_token_0):
        monkeypatch.setattr(windows, "LEAST_LAGGING", 1)
        from_token_0(push, 40)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        watched.shards = 1  # otherwise the tokens of one shard come first
        source.met_others()
        source.met_others()
        taken = [source.take(watched)[0].id for _ in range(10)]
        first, second = [read for read in reads() if "update" in read]
        assert taken == numbered(*range(10))
        assert (first["limit"], second["startkey"]) == (4, 4)

    def test_reads_on_after_tokens_without_numbers_too(self, client, watched, monkeypatch):
        monkeypatch.setattr(windows, "LEAST_LAGGING", 4)
        names = [f"name {number:02}" for number in range(40)]
        client.save_documents([make_token(_id=name) for name in names])
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        source.met_others(windows.GONE_IN_A_ROW)
        assert set(take_and_lock_all(watched, source)) == set(names)

    def test_moves_to_another_place_after_it_met_another_pilot(self, push, watched, reads):
        push(40)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        begun_at = set()
        for _ in range(5):
            take_anew(watched, source)
            begun_at.add(reads()[-1]["startkey"])
        assert len(begun_at) > 1

    def test_moves_to_another_place_if_others_took_the_tokens_there(
        self, push, watched, reads, monkeypatch, from_token_0, is_couchdb
    ):
        monkeypatch.setattr(windows, "LEAST_LAGGING", 1)
        from_token_0(push, 40)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        lock(watched, *numbered(0, 1))  # two of the four that it reads
        watched.shards = 1
        taken = take_anew(watched, source) + source.take(watched)
        if is_couchdb and ids(taken) != numbered(2, 3):
            pytest.skip("CouchDB has updated the index by itself: no token in it is gone")
        assert ids(taken) == numbered(2, 3)
        source.take(watched)
        first, second = [read for read in reads() if "update" in read]
        assert first["startkey"] == second["startkey"] == 0  # the random token of this test

    def test_has_the_index_updated_if_many_of_its_tokens_are_gone_and_does_not_wait_for_that(
        self, client, push, watched, reads, from_token_0, is_couchdb
    ):
        from_token_0(push, 40)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        gone = numbered(*range(windows.LEAST_LAGGING * 3 // 4))
        lock(watched, *gone)
        assert len(take_anew(watched, source, 4)) == 4
        take_anew(watched, source)
        updates = [read["update"] for read in reads()[1:]]
        if is_couchdb and "lazy" not in updates:
            pytest.skip("CouchDB has updated the index by itself: no token in it is gone")
        assert updates == [False, "lazy"]
        wait_for(lambda: not {row.id for row in client.view(QUEUE, update=False).rows} & set(gone))
        take_anew(watched, source)
        take_anew(watched, source)
        assert reads()[-1]["update"] is False

    def test_waits_for_the_index_if_all_of_its_tokens_are_gone(self, push, watched, reads, from_token_0, is_couchdb):
        from_token_0(push, 40)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        lock(watched, *numbered(*range(windows.LEAST_LAGGING)))
        assert len(take_anew(watched, source, 4)) == 4
        # CouchDB may have updated the index by itself, so that no token in it is gone.
        assert is_couchdb or ["update" in read for read in reads()[1:]] == [True, False]

    @pytest.mark.parametrize(("tokens", "window"), [(10, 4), (200, 14)])
    def test_reads_small_windows_of_a_small_queue(self, push, watched, reads, monkeypatch, tokens, window):
        monkeypatch.setattr(windows, "LEAST_LAGGING", 1)
        push(tokens)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        source.met_others(windows.GONE_IN_A_ROW)
        source._reader._place = 0
        source.take(watched)
        assert reads()[1]["limit"] == window

    def test_reads_no_more_than_a_whole_window_of_a_large_queue(self, push, watched, reads, monkeypatch):
        monkeypatch.setattr(windows, "MAX_CROWD_WINDOW", 7)
        monkeypatch.setattr(windows, "LEAST_LAGGING", 1)
        push(200)
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        source.met_others(windows.GONE_IN_A_ROW)
        source._reader._place = 0
        source.take(watched)
        assert reads()[1]["limit"] == 7

    def test_takes_tokens_of_one_shard_together(self, push, watched):
        """Then one commit saves a token and locks the next."""
        push(40)
        watched.shards = 4
        source = Candidates(FREE_VIEW, {})
        taken = take_anew(watched, source, 30)
        taken += take_anew(watched, source, 30)
        shards = [watched.shard_of(token.id) for token in taken]
        assert set(shards) == {0, 1, 2, 3}
        assert sum(shard != other for shard, other in zip(shards, shards[1:])) == 6

    def test_does_not_fail_forever_on_tokens_that_only_seem_free(self, push, watched, monkeypatch):
        """A cluster node that lags behind returns outdated documents."""
        push(4)
        stale = watched.view(QUEUE, endkey=[], include_docs=True)
        assert len(stale.rows) == 4
        monkeypatch.setattr(watched, "view", lambda *args, **params: stale)
        source = Candidates(FREE_VIEW, {})
        offered = set()
        for failures in range(1, 40):
            offered.update(ids(source.take(watched)))
            source.met_others(failures)
        assert offered == set(numbered(0, 1, 2, 3))

    def test_updates_the_index_if_it_finds_no_token(self, client, push):
        """It finds new tokens too, which an outdated index may not contain."""
        push(8)
        source = Candidates(FREE_VIEW, {})
        source.take(client)
        lock(client, *numbered(*range(8)))
        client.save(make_token(9))
        assert ids(take_anew(client, source, 4)) == numbered(9)

    def test_drops_its_window_after_successive_conflicts(self, client, push, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 5)
        push(20)
        source = Candidates(FREE_VIEW, {})
        source.take(client)
        source.met_others()
        assert ids(source.take(client)) == numbered(1)  # the rest of the window may still be free
        lock(client, *numbered(2, 3, 4))
        assert not set(ids(take_anew(client, source, 4))) & set(numbered(2, 3, 4))

    def test_is_forgotten_after_a_while(self, client, push, monkeypatch):
        push(30)
        source = Candidates(FREE_VIEW, {})
        source.met_others()
        monkeypatch.setattr(windows, "CROWD_MEMORY", 0.0)
        assert ids(source.take(client, 3)) == numbered(0, 1, 2)

    def test_is_noticed_if_the_view_has_tokens_that_are_taken(self, push, watched, reads, monkeypatch):
        """The server updates the index, another pilot locks, and then the server reads the documents."""
        push(6)
        read = watched.view

        def slow(*args, **params):
            result = read(*args, **params)
            for row in result.rows[:1]:
                row["doc"]["lock"] = 1
            return result

        source = Candidates(FREE_VIEW, {})
        monkeypatch.setattr(watched, "view", slow)
        assert ids(source.take(watched, 5)) == numbered(1, 2, 3, 4, 5)
        monkeypatch.undo()
        assert source.take(watched)
        assert "startkey" in reads()[-1]


class TestScarceResources:
    def test_tokens_that_need_a_gpu_or_a_tag_come_before_plain_ones(self, client):
        needs = [{}, {"cores": 2}, {"gpus": 1}, {"memory": 10}, {"tags": "licence"}, {"gpus": 0, "tags": []}]
        client.save_documents([make_token(number, **fields) for number, fields in enumerate(needs)])
        assert ids(Candidates(FREE_VIEW, {}).take(client, 9)) == numbered(2, 4, 0, 1, 3, 5)

    def test_they_do_so_in_a_crowd_too_and_cost_no_request(self, client, push, watched, reads):
        push(20)
        client.save(make_token(20, gpus=1))
        source = Candidates(FREE_VIEW, {})
        assert ids(take_anew(watched, source, 30))[0] == "token_20"
        assert {read["view"] for read in reads()} == {QUEUE}

    def test_a_priority_counts_more(self, client):
        client.save_documents([make_token(0, gpus=1), make_token(1, priority=1), make_token(2)])
        assert ids(Candidates(FREE_VIEW, {}).take(client, 9)) == numbered(1, 0, 2)

    def test_plain_tokens_of_a_window_come_before_the_next_window(self, client, push):
        """So that they are not put off for ever."""
        push(windows.WINDOW)
        client.save(make_token(windows.WINDOW, gpus=1))
        assert ids(Candidates(FREE_VIEW, {}).take(client, 1)) == numbered(0)


class TestPriority:
    def test_takes_precedence_over_the_order_in_a_window(self, client):
        priorities = {0: 0, 1: 2.5, 2: -1, 3: 10, 4: 2.5}
        client.save_documents([make_token(number, priority=value) for number, value in priorities.items()])
        client.save(make_token(5))
        assert ids(Candidates(FREE_VIEW, {}).take(client, 9)) == numbered(3, 1, 4, 0, 5, 2)

    def test_counts_in_a_crowd_too(self, client, push):
        push(20)
        client.save(make_token(20, priority=1))
        assert ids(take_anew(client, Candidates(FREE_VIEW, {}), 30))[0] == "token_20"

    def test_counts_in_custom_views_too(self, client, push):
        push(3)
        client.save(make_token(4, priority=1))
        client.add_view("mine", FREE_ONES)
        assert ids(Candidates("mine", {}).take(client, 9)) == numbered(4, 0, 1, 2)

    @pytest.mark.parametrize("odd", ["9", "", None, True, [9], {"of": 9}])
    def test_that_is_not_numeric_is_ignored(self, client, odd):
        client.save_documents([make_token(0, priority=-1), make_token(1, priority=odd), make_token(2)])
        assert ids(Candidates(FREE_VIEW, {}).take(client, 9)) == numbered(1, 2, 0)

    def test_that_is_nan_is_ignored(self):
        """JSON has no NaN, but Python's parser accepts it."""
        assert windows._priority(Document({"priority": float("nan")})) == 0

    def test_may_be_larger_than_any_float(self):
        assert windows._priority(Document({"priority": 10**400})) > 10**300


class TestAViewWithoutAQueue:
    @pytest.fixture(params=["an older release's", "changed by hand", "selected by parameters", "a view of one's own"])
    def plain(self, request, client):
        """Return the arguments of Candidates for such a view, which has all free tokens."""
        if request.param == "an older release's":
            without_queue(client)
        elif request.param == "changed by hand":
            client.add_view(FREE_VIEW, FREE_ONES)
        elif request.param == "selected by parameters":
            return FREE_VIEW, {"startkey": "token_", "endkey": "token_z"}
        else:
            client.add_view("mine", FREE_ONES)
            return "mine", {}
        return FREE_VIEW, {}

    def test_is_read_directly_and_in_its_own_order(self, push, watched, reads, plain):
        push(12)
        assert ids(Candidates(*plain).take(watched, 12)) == sorted(numbered(*range(12)))
        assert {read["view"] for read in reads()} == {plain[0]}

    def test_is_read_in_windows(self, push, watched, reads, plain, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 10)
        push(25)
        assert take_and_lock_all(watched, Candidates(*plain)) == sorted(numbered(*range(25)))
        assert [read["limit"] for read in reads()] == [10, 20, 40]
        assert not any("update" in read for read in reads())

    def test_is_read_in_wider_windows_and_random_order_in_a_crowd(self, push, watched, reads, plain, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 10)
        push(100)
        source = Candidates(*plain)
        source.met_others()
        source.met_others()
        taken = ids(source.take(watched, 5))
        for _ in range(5):
            source.met_others(windows.GONE_IN_A_ROW)
        source.take(watched)
        assert [read["limit"] for read in reads()] == [40, 80]
        assert set(taken) < set(sorted(numbered(*range(100)))[:40])
        assert taken != sorted(taken)

    def test_replaces_a_queue_that_was_removed(self, client, push, monkeypatch):
        """An older release does so if it creates the views again while pilots work."""
        push(3)
        source = Candidates(FREE_VIEW, {})
        assert ids(source.take(client)) == numbered(0)
        design = client.get("_design/Monitor")
        del design["views"][QUEUE]
        client.save(design)
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        assert ids(source.take(client, 3)) == numbered(0, 1, 2)

    def test_returns_only_free_tokens(self, client, push, plain):
        push(5)
        lock(client, "token_1", "token_3")
        assert ids(Candidates(*plain).take(client, 9)) == numbered(0, 2, 4)

    def test_may_select_more_than_free_tokens(self, client, push):
        push(4)
        lock(client, "token_1")
        client.save({"_id": "token_list", "type": "token"})
        client.add_view("all", EVERYTHING)
        assert ids(Candidates("all", {}).take(client, 9)) == numbered(0, 2, 3)

    def test_may_have_many_rows_before_the_first_free_token(self, watched, client, reads, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 4)
        monkeypatch.setattr(windows, "PAGE", 8)
        client.save_documents([make_token(number, lock=1 if number < 40 else 0) for number in range(10, 42)])
        client.add_view("all", EVERYTHING)
        assert ids(Candidates("all", {}).take(watched, 2)) == numbered(40, 41)
        assert [(read["skip"], read["limit"]) for read in reads()] == [(0, 8), (8, 8), (16, 8), (24, 8)]

    def test_respects_the_user_s_limit_and_skip(self, client, push):
        push(6)
        lock(client, "token_2")
        client.add_view("all", EVERYTHING)
        assert ids(Candidates("all", {"limit": 3, "skip": 1}).take(client, 9)) == numbered(1, 3)
        assert Candidates("all", {"limit": 1, "skip": 2}).take(client, 9) == []
        assert ids(Candidates(FREE_VIEW, {"limit": 2}).take(client, 9)) == numbered(0, 1)

    def test_respects_the_user_s_order(self, client, push):
        push(6)
        source = Candidates(FREE_VIEW, {"startkey": "token_3", "descending": True})
        assert ids(source.take(client, 9)) == numbered(3, 2, 1, 0)


class TestPostponedTokens:
    @pytest.fixture(params=["the queue", "a view of one's own"])
    def source(self, request, client):
        """Candidates of a view with a queue, and of one without."""
        if request.param == "the queue":
            return Candidates(FREE_VIEW, {})
        client.add_view("mine", FREE_ONES)
        return Candidates("mine", {})

    @pytest.fixture
    def save(self, client):
        """Return a function that saves tokens from 1000 on and postpones some of them by ten minutes."""

        def save(count, waiting):
            when = time.time() + 600
            fields = [{"not_before": when} if number in waiting else {} for number in range(count)]
            client.save_documents([make_token(1000 + number, **more) for number, more in enumerate(fields)])

        return save

    @pytest.fixture
    def let_their_time_come(self, monkeypatch):
        now = time.time
        return lambda: monkeypatch.setattr(time, "time", lambda: now() + 700)

    @pytest.fixture
    def asked(self, proxy):
        """Return a function that counts the tokens read so far, including those requested by name."""

        def asked():
            lengths = [
                int(dict(parse_qsl(urlsplit(request.path).query)).get("limit", 0))
                for request in proxy.requests
                if "include_docs" in request.path
            ]
            return sum(lengths) + sum(len(json.loads(body)["docs"]) for body in by_name())

        def by_name():
            return [request.body for request in proxy.requests if "_bulk_get" in request.path]

        return asked

    def test_are_skipped(self, client, save, source):
        save(6, {0, 3, 5})
        assert take_and_lock_all(client, source, 9) == numbered(1001, 1002, 1004)

    def test_are_returned_once_they_are_due(self, client, save, source, let_their_time_come):
        save(3, {0, 2})
        assert ids(source.take(client, 9)) == numbered(1001)
        lock(client, "token_1001")
        assert source.take(client, 9) == []
        assert time.monotonic() + 500 < source.ready_at < time.monotonic() + 601
        let_their_time_come()
        assert source.ready_at <= time.monotonic()
        assert sorted(ids(source.take(client, 9))) == numbered(1000, 1002)

    def test_leave_ready_at_infinite_if_none_are_left(self, client, save, source, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        monkeypatch.setattr(windows, "REST_PER_READING", 0)
        assert source.ready_at == math.inf
        save(1, {0})
        assert source.take(client) == []
        assert source.ready_at < math.inf
        lock(client, "token_1000")
        assert source.take(client) == []
        assert source.ready_at == math.inf

    def test_do_not_count_as_a_sign_of_other_pilots(self, client, save, push, reads, watched):
        save(8, set(range(6)))
        source = Candidates(FREE_VIEW, {})
        source.take(watched, 2)
        source.take(watched, 2)
        assert not any("startkey" in read and read["startkey"] != 1007 for read in reads())

    def test_do_not_make_a_crowd_update_the_index(self, watched, save, reads, monkeypatch):
        monkeypatch.setattr(windows, "LEAST_LAGGING", 8)
        save(100, {number for number in range(100) if number % 4})
        source = Candidates(FREE_VIEW, {})
        source.take(watched)
        for _ in range(4):
            source._reader._place = 1000
            source._window.clear()
            source.met_others()
            source._reader._place = 1000
            assert source.take(watched)
        assert all(read["update"] is False for read in reads()[1:])

    def test_are_dropped_if_they_changed_meanwhile(self, client, save, source, let_their_time_come):
        """Such a token may no longer belong to the view."""
        save(3, {0, 1, 2})
        assert source.take(client) == []
        lock(client, "token_1000")
        client.edit("token_1001", lambda content: {**content, "note": "a person's"})
        let_their_time_come()
        assert ids(source.take(client, 9)) == numbered(1002)
        lock(client, "token_1002")
        assert ids(source.take(client, 9)) == numbered(1001)

    def test_are_spread_over_a_crowd(self, client, save, let_their_time_come):
        save(30, set(range(30)))
        sources = [Candidates(FREE_VIEW, {}) for _ in range(10)]
        for source in sources:
            assert take_anew(client, source) == []
        let_their_time_come()
        assert len({source.take(client)[0].id for source in sources}) > 3

    def test_do_not_hide_a_free_token_after_them(self, watched, save, source, asked, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 10)
        monkeypatch.setattr(windows, "PAGE", 40)
        save(202, set(range(200)))
        assert ids(source.take(watched)) == numbered(1200)
        assert asked() <= 202 + 50

    def test_are_read_now_and_then_and_not_for_every_claim(self, watched, client, save, source, asked, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW", 10)
        monkeypatch.setattr(windows, "PAGE", 40)
        save(240, set(range(200)))
        assert set(take_and_lock_all(watched, source)) == set(numbered(*range(1200, 1240)))
        before = asked()
        assert before < 1000  # 200 reads to get past them, and as many to check that there are no others
        for _ in range(20):
            assert source.take(watched) == []
        assert asked() == before
        client.edit("token_1100", lambda content: {**content, "not_before": 0})
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        monkeypatch.setattr(windows, "REST_PER_READING", 0)
        source._reader._beginning.rest = 0.0
        assert ids(source.take(watched)) == numbered(1100)

    def test_become_free_one_by_one_at_the_cost_of_one_read_each(
        self, watched, client, source, asked, let_their_time_come
    ):
        when = time.time() + 600
        client.save_documents([make_token(1000 + number, not_before=when + 600 * (number > 4)) for number in range(99)])
        assert source.take(watched) == []
        before = asked()
        let_their_time_come()
        taken = take_and_lock_all(watched, source)
        assert sorted(taken) == numbered(*range(1000, 1005))
        assert asked() - before == 5

    def test_are_read_again_less_often_if_reads_are_slow(self, client, save, source, monkeypatch):
        monkeypatch.setattr(windows, "WINDOW_AGE", 0.0)
        monkeypatch.setattr(windows, "REST_PER_READING", 10_000)
        save(3, {0, 1, 2})
        assert source.take(client) == []
        client.save(make_token(1))
        assert source.take(client) == []
        monkeypatch.setattr(windows, "REST_PER_READING", 0)
        source._reader._beginning.rest = 0.0
        assert ids(source.take(client)) == numbered(1)


class TestTheQueue:
    def test_has_the_tokens_that_meet_the_condition_of_its_views(self, watched, client, reads):
        create_views(client, "Big", "doc.cores == 4")
        client.save_documents([make_token(number, cores=4 if number % 2 else 1) for number in (1, 2, 3, 10, 11)])
        assert ids(Candidates(FREE_VIEW, {"design_doc": "Big"}).take(watched, 9)) == numbered(1, 3, 11)
        assert reads()[0]["view"] == QUEUE
        assert has_queue(client, "Big")

    def test_is_used_only_while_it_matches_the_view_todo(self, client):
        assert has_queue(client)
        client.add_view(FREE_VIEW, FREE_ONES)
        assert not has_queue(client)
        create_views(client)
        assert has_queue(client)
        create_views(client, condition="doc.cores == 4")
        assert has_queue(client)

    def test_with_another_condition_is_not_used(self, client):
        create_views(client, "Big", "doc.cores == 4")
        todo = client.get("_design/Monitor")["views"][FREE_VIEW]["map"]
        client.add_view(FREE_VIEW, todo, design_doc="Big")
        assert not has_queue(client, "Big")

    def test_is_missing_if_an_older_release_created_the_views(self, client):
        without_queue(client)
        assert not has_queue(client)
        create_views(client)
        assert has_queue(client)

    @pytest.mark.parametrize(
        "design", [None, {}, {"views": None}, {"views": {FREE_VIEW: {}}}, {"views": {FREE_VIEW: None}}], ids=str
    )
    def test_is_missing_without_views(self, client, monkeypatch, design):
        found = {"_design/Odd": design} if design is not None else {}
        monkeypatch.setattr(client, "get", lambda id: found[id] if id in found else CouchDB.get(client, id))
        assert not has_queue(client, "Odd")

    def test_is_read_by_the_iterators_of_old_scripts_too(self, watched, client, push, reads):
        """They specify only the view."""
        push(3)
        from picas import TaskViewIterator

        assert ids(TaskViewIterator(watched, "todo")) == numbered(0, 1, 2)
        assert {read["view"] for read in reads()} == {QUEUE}


class TestAhead:
    """Tokens that are to wait for a slot."""

    def test_are_at_most_a_quarter_of_the_free_ones(self, client, push):
        push(40)
        source = Candidates(FREE_VIEW, {})
        assert ids(source.take(client, 1, 0)) == numbered(0)
        assert ids(source.take(client, 1, 30)) == numbered(*range(1, 11))  # one, and a quarter of the 39
        assert ids(source.take(client, 2, 30)) == numbered(*range(11, 20))

    def test_are_at_most_so_many_as_wanted(self, client, push):
        push(40)
        assert ids(Candidates(FREE_VIEW, {}).take(client, 1, 3)) == numbered(0, 1, 2, 3)

    def test_are_few_in_a_crowd_and_none_near_the_end(self, client, push):
        push(200)
        source = Candidates(FREE_VIEW, {})
        source.take(client)
        assert len(take_anew(client, source)) == 1
        assert len(source.take(client, 1, 60)) == 1 + 198 // 32 - 2
        lock(client, *(f"token_{number}" for number in range(140)))
        source.look_anew()
        take_anew(client, source, 60)
        assert len(take_anew(client, source)) == 1
        assert len(source.take(client, 1, 60)) == 1

    def test_are_none_beside_tokens_that_wait_for_more_room(self, client, push):
        push(40)
        client.edit("token_5", lambda token: {**token, "cores": 3})
        source = Candidates(FREE_VIEW, {})
        source.choose(fits_always, Room(4, 2, 1000.0, 0))
        assert ids(source.take(client, 2, 9)) == numbered(0, 1)
        assert source.has_larger

    def test_take_a_slot_and_nothing_else(self, client, push):
        push(40)
        client.edit("token_5", lambda token: {**token, "memory": 10})
        source = Candidates(FREE_VIEW, {})
        source.choose(fits_always, Room(4, 2, 1000.0, 0))
        assert ids(source.take(client, 2, 9)) == numbered(0, 1, 2, 3, 4)
        assert ids(source.take(client, 2, 9)) == numbered(*range(5, 15))

    def test_need_no_gpu_if_there_is_one_slot(self, client, push):
        push(40)
        for token in ("token_5", "token_6"):
            client.edit(token, lambda token: {**token, "gpus": 1})
        client.edit("token_3", lambda token: {**token, "memory": 10, "cores": 2})
        source = Candidates(FREE_VIEW, {})
        assert ids(source.take(client, 1, 9)) == numbered(5)
        assert ids(source.take(client, 1, 4)) == numbered(6, 0, 1, 2, 3)

    def test_are_found_though_no_slot_is_free(self, client, push):
        push(100)
        source = Candidates(FREE_VIEW, {})
        source.choose(fits_always, Room(2, 2, 1000.0, 0))
        assert len(source.take(client, 2)) == 2
        source.choose(fits_always, Room(2, 0, 1000.0, 0))
        assert ids(source.take(client, 0, 9)) == numbered(*range(2, 11))
        assert not source.has_larger
