"""An idle pilot listens to the changes feed: it costs almost nothing, and takes a new token within a second."""

import threading
import time

import pytest
from support.faults import CUT, FaultProxy, Reply
from support.tokens import make_token
from support.workers import PATIENCE, wait_for

from picas import EndlessViewIterator, RunActor, Task, TaskViewIterator, ViewIterator
from picas.couch import feeds
from picas.pool import changes
from picas.views import count_states, create_views

SOON = 5.0
"""Seconds for what takes a fraction of one on a machine that has nothing else to do."""


class Recording(FaultProxy):
    """A proxy that records the time of each request, and can call a function after it has forwarded one."""

    def __init__(self, url):
        super().__init__(url)
        self.times = []
        self._afterwards = []

    def after_next(self, path, action):
        """Call an action when the server has answered the next request for a path, before the client sees it."""
        self._afterwards.append((path, action))

    def forget(self):
        super().forget()
        self.times.clear()

    def reads(self):
        """Return the times at which views were read."""
        return [when for when, request in self.times if "/_view/" in request.path]

    def polls(self):
        return self.count("POST", "_changes")

    def _pass_on(self, request):
        self.times.append((time.monotonic(), request))
        answer = super()._pass_on(request)
        for entry in list(self._afterwards):
            if entry[0] in request.path:
                self._afterwards.remove(entry)
                entry[1]()
        return answer


@pytest.fixture
def proxy(location):
    with Recording(location.url) as proxy:
        yield proxy


@pytest.fixture
def far(proxy, through):
    return through(proxy, retry_pauses=())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(changes, "SPREAD", 0.1)
    monkeypatch.setattr(changes, "FIRST_PAUSE", 0.02)


@pytest.fixture(autouse=True)
def no_feed_goes_on():
    yield
    wait_for(lambda: not listeners())


def listeners():
    return [thread for thread in threading.enumerate() if thread.name == "picas-feed"]


def endless(client, sleep_sec=PATIENCE, **options):
    return EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec, **options)


class Consumer:
    """Takes tokens in its own thread, and records when it got each of them."""

    def __init__(self, iterator):
        self.iterator = iterator
        self.got = {}
        self.error = None
        self.thread = threading.Thread(target=self._consume)

    def _consume(self):
        try:
            for token in self.iterator:
                self.got[token.id] = time.monotonic()
        except Exception as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, value, traceback):
        self.iterator.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        if kind is None and self.error is not None:
            raise self.error


class Worker(RunActor):
    def __init__(self, db, **options):
        super().__init__(db, **options)
        self.processed = []

    def process_task(self, task):
        self.processed.append(task.id)


def is_idle(proxy):
    """Return whether a pilot behind a proxy listens to the feed."""
    return proxy.polls() > 0


@pytest.mark.timing
class TestAnIdlePilot:
    def test_takes_a_new_token_within_a_second(self, client, far, proxy, monkeypatch):
        monkeypatch.undo()
        waits = []
        with Consumer(endless(far)) as pilot:
            for number in range(3):
                # Two polls for each token: one that reports it, and one that checks that it is still free.
                wait_for(lambda number=number: proxy.polls() > 2 * number)
                saved = time.monotonic()
                client.save(make_token(number))
                wait_for(lambda number=number: f"token_{number}" in pilot.got)
                waits.append(pilot.got[f"token_{number}"] - saved)
        assert max(waits) < SOON
        assert min(waits) < 1  # on an idle machine all of them are

    def test_takes_a_token_that_was_put_back(self, client, far, proxy, push):
        push(1)
        client.save(Task(client.get("token_0")).lock("another pilot"))
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: is_idle(proxy))
            client.save(Task(client.get("token_0")).scrub())
            wait_for(lambda: "token_0" in pilot.got, SOON)

    def test_takes_a_free_token_with_odd_fields(self, client, far, proxy):
        """Scripts that read tokens from a table may write numbers as text."""
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: is_idle(proxy))
            client.save_documents([make_token(0, lock="0", done="0"), make_token(1, lock=False, done="")])
            wait_for(lambda: len(pilot.got) == 2, 1.5)

    def test_takes_a_token_of_a_custom_view(self, client, far, proxy):
        client.add_view("mine", "function(doc) { if (doc.mine && doc.lock == 0) { emit(doc._id, null); } }")
        with Consumer(EndlessViewIterator(TaskViewIterator(far, "mine"), PATIENCE)) as pilot:
            wait_for(lambda: is_idle(proxy))
            client.save_documents([make_token(0), make_token(1, mine=True)])
            wait_for(lambda: pilot.got, SOON)
            assert list(pilot.got) == ["token_1"]

    def test_makes_no_requests_while_nothing_happens(self, far, proxy, push, client):
        """The work of other pilots on their tokens does not wake it either."""
        push(1)
        client.save(Task(client.get("token_0")).lock("another pilot"))
        with Consumer(endless(far)):
            wait_for(lambda: is_idle(proxy))
            before = len(proxy.requests)
            client.save(Task(client.get("token_0")).done())
            client.save({"_id": "notes", "type": "note"})
            time.sleep(0.8)
            assert len(proxy.requests) == before
        assert len(proxy.reads()) == 2
        assert proxy.count("GET", "_changes") == 1

    def test_that_is_an_actor_takes_a_new_token_within_a_second_too(self, client, far, proxy, push):
        push(1)
        iterator = endless(far)
        worker = Worker(far, iterator=iterator)
        run = threading.Thread(target=worker.run)
        run.start()
        try:
            wait_for(lambda: is_idle(proxy))
            before = len(proxy.requests)
            saved = time.monotonic()
            client.save(make_token(1))
            wait_for(lambda: worker.processed == ["token_0", "token_1"])
            assert time.monotonic() - saved < SOON
            wait_for(lambda: count_states(client)["done"] == 2)
            wait_for(lambda: listeners() and proxy.polls() >= 3)
            assert len(proxy.requests) - before <= 10
        finally:
            iterator.stop()
            run.join(PATIENCE)
        assert not run.is_alive()

    def test_that_is_an_actor_does_not_use_the_feed_while_it_is_busy(self, client, far, proxy, push):
        push(20)
        iterator = endless(far)
        worker = Worker(far, iterator=iterator)
        run = threading.Thread(target=worker.run)
        run.start()
        try:
            wait_for(lambda: len(worker.processed) == 20 and is_idle(proxy))
            assert proxy.count("GET", "_changes") == 1
        finally:
            iterator.stop()
            run.join(PATIENCE)
        assert count_states(client)["done"] == 20

    def test_ignores_tokens_outside_its_view(self, client, far, proxy):
        create_views(client, "Big", "doc.cores == 4")
        iterator = EndlessViewIterator(TaskViewIterator(far, "todo", design_doc="Big"), PATIENCE)
        with Consumer(iterator) as pilot:
            wait_for(lambda: is_idle(proxy))
            client.save(make_token(0, cores=1))
            wait_for(lambda: proxy.polls() >= 2)
            client.save(make_token(1, cores=4))
            wait_for(lambda: pilot.got)
        assert list(pilot.got) == ["token_1"]

    def test_is_woken_only_a_few_times_by_many_such_tokens(self, client, far, proxy):
        create_views(client, "Big", "doc.cores == 4")
        iterator = EndlessViewIterator(TaskViewIterator(far, "todo", design_doc="Big"), PATIENCE)
        with Consumer(iterator) as pilot:
            wait_for(lambda: is_idle(proxy))
            client.save_documents([make_token(number, cores=1) for number in range(60)])
            time.sleep(1)
            assert proxy.polls() <= 8
            client.save(make_token(60, cores=4))
            wait_for(lambda: pilot.got)


@pytest.mark.timing
def test_one_of_ten_idle_pilots_takes_a_new_token_and_the_others_make_few_requests(
    location, client, through, monkeypatch
):
    monkeypatch.setattr(changes, "SPREAD", 2.0)  # so that the token is locked before most of the others look
    proxies = [Recording(location.url) for _ in range(10)]
    pilots = [Consumer(endless(through(proxy.__enter__(), retry_pauses=()))) for proxy in proxies]
    try:
        for pilot in pilots:
            pilot.__enter__()
        wait_for(lambda: all(is_idle(proxy) for proxy in proxies))
        for number in range(3):  # what pilots learn from the first token must last for the next ones
            for proxy in proxies:
                proxy.forget()
            before = [len(pilot.got) for pilot in pilots]
            client.save(make_token(number))
            wait_for(lambda number=number: sum(len(pilot.got) for pilot in pilots) == number + 1)
            wait_for(lambda: all(is_idle(proxy) for proxy in proxies))
            time.sleep(0.2)
            has_lost = [len(pilot.got) == count for pilot, count in zip(pilots, before)]
            losers = [proxy for proxy, lost in zip(proxies, has_lost) if lost]
            assert len(losers) == 9
            assert sum(len(proxy.requests) for proxy in losers) <= 2.5 * 9, f"token {number}"
            assert sum(bool(proxy.reads()) for proxy in losers) <= 4, f"token {number}"
    finally:
        for pilot in pilots:
            pilot.iterator.stop()
        for pilot in pilots:
            pilot.__exit__(None, None, None)
        for proxy in proxies:
            proxy.__exit__(None, None, None)


@pytest.mark.timing
class TestTokensThatBecomeFreeMeanwhile:
    """They become free after the pilot found none and before it listens."""

    def test_before_the_feed_begins(self, client, far, proxy):
        proxy.after_next("/_view/", lambda: client.save(make_token(0)))
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: pilot.got, SOON)

    def test_just_after_the_feed_began(self, client, far, proxy):
        proxy.after_next("_changes", lambda: client.save(make_token(0)))
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: pilot.got, SOON)

    def test_after_the_second_look(self, client, far, proxy):
        proxy.after_next("/_view/", lambda: proxy.after_next("/_view/", lambda: client.save(make_token(0))))
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: pilot.got, SOON)

    def test_while_the_pilot_reads_the_view_after_a_change(self, client, far, proxy):
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: is_idle(proxy))
            proxy.after_next("/_view/", lambda: client.save(make_token(1)))
            client.save(make_token(0, type="no token"))
            wait_for(lambda: pilot.got, SOON)
            assert list(pilot.got) == ["token_1"]

    def test_while_the_last_poll_is_still_ending(self, client, far, proxy, monkeypatch):
        """The thread that listened ends slowly, since the machine is busy."""
        close = feeds.OneConnection.close
        monkeypatch.setattr(feeds.OneConnection, "close", lambda self: time.sleep(0.5) or close(self))
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: is_idle(proxy))
            client.save(make_token(0, type="no token"))
            wait_for(lambda: len(proxy.reads()) == 3)
            time.sleep(0.6)
            client.save(make_token(1))
            wait_for(lambda: pilot.got, 1.5)


@pytest.mark.timing
class TestTokensThatComeIntoAViewWithoutAChange:
    @pytest.mark.parametrize("condition", ["doc.cores == 4", "doc.no.such.field"])
    def test_since_the_views_were_created_again_with_another_condition_or_repaired(
        self, client, far, proxy, monkeypatch, condition
    ):
        monkeypatch.setattr(changes, "LOOK", 0.5)
        create_views(client, condition=condition)
        client.save(make_token(0, cores=1))
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: is_idle(proxy))
            before, looks = len(proxy.requests), len(proxy.reads())
            wait_for(lambda: len(proxy.reads()) >= looks + 2)  # it looks in vain
            assert not pilot.got
            assert all("/_view/" in request.path for request in proxy.requests[before:])  # nothing but the view
            create_views(client)
            wait_for(lambda: pilot.got)

    def test_are_looked_for_once_in_a_few_minutes(self):
        assert 60 <= changes.LOOK <= 600


BROKEN_FEEDS = {
    "not found": Reply(404, b'{"error":"not_found","reason":"missing"}'),
    "bad request": Reply(400, b'{"error":"bad_request","reason":"no such filter"}'),
    "broken": Reply(500, b'{"error":"broken","reason":"odd"}'),
    "cut": CUT,
    "odd": Reply(200, b'{"results":[]}'),
}
NO_FEEDS = {
    "a page": Reply(200, b"<html>", {"Content-Type": "text/html"}),
    "a list": Reply(200, b"[]"),
    "half": Reply(200, b'{"results":'),
}


@pytest.mark.timing
class TestABrokenFeed:
    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("answer", BROKEN_FEEDS)
    def test_makes_the_pilot_poll_the_view(self, client, far, proxy, method, answer):
        proxy.fail(method, "_changes", BROKEN_FEEDS[answer], times=99)
        with Consumer(endless(far, 0.1)) as pilot:
            wait_for(lambda: len(proxy.reads()) >= 5)
            assert proxy.count(method, "_changes") == 1
            client.save(make_token(0))
            wait_for(lambda: pilot.got, SOON)

    @pytest.mark.parametrize("answer", NO_FEEDS)
    @pytest.mark.parametrize(
        "method",
        [
            "GET",
            "POST",
        ],
    )
    def test_answered_by_something_else_does_not_end_the_pilot(self, client, far, proxy, method, answer):
        """For example, a portal that asks for a password."""
        proxy.fail(method, "_changes", NO_FEEDS[answer], times=99)
        with Consumer(endless(far, 0.1)) as pilot:
            wait_for(lambda: len(proxy.reads()) >= 5 or pilot.error)

    def test_makes_the_pauses_grow_up_to_a_limit(self, far, proxy, monkeypatch):
        monkeypatch.setattr(changes, "FIRST_PAUSE", 0.05)
        proxy.fail("GET", "_changes", CUT, times=99)
        with Consumer(endless(far, 0.4)):
            wait_for(lambda: len(proxy.reads()) >= 8)
        times = proxy.reads()
        pauses = [later - earlier for earlier, later in zip(times, times[1:])]
        assert all(pause >= 0.75 * least for pause, least in zip(pauses, [0.05, 0.1, 0.2, 0.4, 0.4, 0.4, 0.4]))
        assert min(pauses[4:]) < 0.4 + 0.3

    def test_is_retried_after_a_while(self, client, far, proxy, monkeypatch):
        monkeypatch.setattr(changes, "FEED_RETRY", 0.3)
        proxy.fail("GET", "_changes", CUT, times=2)
        with Consumer(endless(far, 0.1)):
            wait_for(lambda: is_idle(proxy))
        assert proxy.count("GET", "_changes") == 3

    def test_that_breaks_later_loses_no_token(self, client, far, proxy):
        proxy.fail("POST", "_changes", CUT, meanwhile=lambda: client.save(make_token(0)))
        with Consumer(endless(far, 0.2)) as pilot:
            wait_for(lambda: pilot.got, SOON)


@pytest.mark.timing
class TestTheEndOfAnIdleIteration:
    @pytest.fixture(params=["feed", "no feed"])
    def idle(self, request, far, proxy):
        """Return a function that returns whether a pilot has started to wait."""
        if request.param == "feed":
            return lambda: is_idle(proxy)
        proxy.fail("GET", "_changes", CUT, times=99)
        return lambda: proxy.count("GET", "_changes") > 0

    def test_comes_at_its_deadline(self, far, idle):
        iterator = endless(far)
        began = time.monotonic()
        iterator.deadline = began + 0.8
        assert list(iterator) == []
        assert 0.8 <= time.monotonic() - began < 0.8 + SOON
        assert idle()

    def test_comes_with_a_stop_from_another_thread(self, far, idle):
        with Consumer(endless(far)) as pilot:
            wait_for(idle)
            stopped = time.monotonic()
            pilot.iterator.stop()
            pilot.thread.join(PATIENCE)
            assert time.monotonic() - stopped < SOON

    def test_comes_when_the_stop_callback_returns_true(self, far, idle):
        stop = threading.Event()
        with Consumer(endless(far, 0.2, stop_callback=stop.is_set)) as pilot:
            wait_for(idle)
            stop.set()
            pilot.thread.join(SOON)
            assert not pilot.thread.is_alive()

    def test_the_stop_callback_is_called_repeatedly(self, far, idle):
        calls = []

        def note(word):
            calls.append(word)

        with Consumer(endless(far, 0.2, stop_callback=note, word="now")):
            wait_for(lambda: idle() and len(calls) >= 6, SOON)
        assert set(calls) == {"now"}

    def test_comes_at_the_max_total_time_of_a_run(self, far, idle):
        worker = Worker(far, iterator=endless(far))
        began = time.monotonic()
        worker.run(max_total_time=0.8)
        assert 0.7 < time.monotonic() - began < 0.8 + SOON

    def test_ends_the_feed_too(self, far, proxy):
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: is_idle(proxy))
            assert len(listeners()) == 1
            pilot.iterator.stop()
            wait_for(lambda: not listeners(), SOON)

    def test_ends_the_feed_even_if_it_is_about_to_poll(self, far, monkeypatch):
        iterator = endless(far)
        get = feeds.OneConnection.get
        connections = []

        def get_late(self, url):
            connections.append(self)
            if len(connections) == 2:  # the first one started the feed
                iterator.stop()
            return get(self, url)

        monkeypatch.setattr(feeds.OneConnection, "get", get_late)
        try:
            assert list(iterator) == []
            wait_for(lambda: not listeners(), 1.5)
        finally:
            connections[-1].break_off()

    def test_the_feed_ends_with_the_wait(self, client, far, proxy):
        iterator = endless(far)
        timer = threading.Timer(0.3, lambda: client.save(make_token(0)))
        timer.start()
        assert next(iterator).id == "token_0"
        wait_for(lambda: not listeners(), SOON)
        timer.join()

    def test_a_reconnected_iterator_listens_again(self, client, far, proxy):
        with Consumer(endless(far)) as pilot:
            wait_for(lambda: is_idle(proxy))
            pilot.iterator.reconnect(client)
            client.save(make_token(0))
            wait_for(lambda: pilot.got, 1.5)


def test_a_custom_iterator_is_polled():
    """It has no database with a feed."""

    class Now(ViewIterator):
        asked = 0

        def claim_task(self):
            self.asked += 1
            if self.asked < 5:
                raise IndexError
            return Task({"_id": "at last"})

    assert next(EndlessViewIterator(Now(), 0.05)).id == "at last"
