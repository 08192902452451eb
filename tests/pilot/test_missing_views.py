"""A pilot waits, as in an outage, for views that disappear while it runs; without views it does not begin.

It also waits while the server indexes the views, and that is no outage.
"""

import threading

import pytest
from couchdb.http import ResourceNotFound
from support.faults import FaultProxy, Reply, pending
from support.workers import Worker, wait_for

from picas import EndlessViewIterator, TaskViewIterator
from picas.exceptions import ViewGone
from picas.views import count_states, create_views

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


def listeners():
    return [thread for thread in threading.enumerate() if thread.name == "picas-feed"]


def remove(client):
    client.db.delete(client.db["_design/Monitor"])


def empty(client):
    client.edit("_design/Monitor", lambda document: {**document, "views": {}})


def break_language(client):
    """CouchDB has no such language; the embedded server knows only JavaScript, and ignores the field."""
    client.edit("_design/Monitor", lambda document: {**document, "language": "none"})


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("damage", [remove, empty, break_language])
class TestViewsThatDisappear:
    def test_are_waited_for(self, client, push, caplog, damage, slots):
        push(6)
        repaired = []

        def work(task):
            if not repaired:
                repaired.append(threading.Timer(0.3, create_views, [client]))
                damage(client)
                repaired[0].start()

        pilot = Worker(client, work, claim_ahead=0, iterator=TaskViewIterator(client, "todo"))
        pilot.run(slots=slots)
        repaired[0].join()
        assert len(pilot.processed) == 6
        assert count_states(client)["done"] == 6

    def test_are_waited_for_by_an_idle_pilot(self, client, push, monkeypatch, damage, slots):
        monkeypatch.setattr("picas.pool.changes.LOOK", 0.2)
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"))
        pilot = Worker(client, iterator=iterator)
        run = threading.Thread(target=pilot.run, kwargs={"slots": slots})
        run.start()
        try:
            wait_for(listeners)
            damage(client)
            push(1)
            create_views(client)
            wait_for(lambda: pilot.processed)
        finally:
            iterator.stop()
            run.join(30)
        assert not run.is_alive()
        wait_for(lambda: not listeners())


def test_a_pilot_ends_if_they_do_not_come_back_in_time_and_says_what_to_do(client, push):
    push(1)
    pilot = Worker(client, lambda task: remove(client), max_outage=0.1, claim_ahead=0)
    with pytest.raises(ViewGone, match="no view Monitor/todo any more: create the views"):
        pilot.run()
    assert len(pilot.processed) == 1
    assert client.get(pilot.processed[0])["exit_code"] == 0


def test_a_pilot_that_never_saw_them_ends_at_once(client, push):
    push(1)
    remove(client)
    with pytest.raises(ResourceNotFound):
        Worker(client).run()


def test_a_queue_that_was_removed_for_a_while_is_used_again(client, push, monkeypatch):
    monkeypatch.setattr("picas.pool.windows.WINDOW_AGE", 0.0)
    push(5)
    used = []

    def only_todo(document):
        return {**document, "views": {"todo": document["views"]["todo"]}}

    def work(task):
        used.append(pilot.iterator._claimer.views[0]._reader._view.has_queue)
        if len(used) == 1:
            client.edit("_design/Monitor", only_todo)
        elif len(used) == 2:
            create_views(client)

    pilot = Worker(client, work, claim_ahead=0)
    pilot.run()
    assert used == [True, False, True, True, True]


class TestViewsThatAreIndexed:
    """A server that indexes a large pool answers no question to a view until it is done."""

    INFO = "_design/Monitor/_info"
    TIMEOUT = Reply(500, b'{"error":"timeout","reason":"The request could not be processed in a reasonable time."}')

    @pytest.fixture
    def proxy(self, location, monkeypatch):
        monkeypatch.setattr("picas.pool.indexing.POLL", 0.01)
        with FaultProxy(location.url) as proxy:
            yield proxy

    @pytest.fixture
    def run(self, client, push, through, proxy, caplog):
        """Process six tokens with a pilot that waits for no outage, and return what it has logged."""

        def run(**options):
            push(6)
            pilot = Worker(through(proxy, retry_pauses=()), max_outage=0)
            pilot.run(**options)
            assert len(pilot.processed) == 6
            return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

        return run

    def test_are_waited_for_by_a_pilot_that_starts(self, proxy, run):
        for left in (9000, 6000, 5001):
            proxy.fail("GET", self.INFO, pending(left))
        assert run() == [
            "The server is indexing the views of Monitor: 0 % of 9000 changes after 0 s; this pilot waits",
            "The views of Monitor are indexed",
        ]

    @pytest.mark.parametrize("slots", [1, 2])
    def test_are_waited_for_if_many_tokens_come_later(self, proxy, run, slots):
        """A request that times out then is no outage."""
        proxy.fail("GET", self.INFO, pending(10))
        proxy.fail("GET", self.INFO, pending(9000), times=3)
        proxy.fail("GET", "/_view/queue", self.TIMEOUT)
        assert run(slots=slots) == [
            "The server is indexing the views of Monitor: 0 % of 9000 changes after 0 s; this pilot waits",
            "The views of Monitor are indexed",
        ]

    def test_do_not_hold_up_a_pilot_that_is_stopped(self, client, push, through, proxy):
        push(1)
        proxy.fail("GET", self.INFO, pending(9000), times=1_000_000)
        pilot = Worker(through(proxy))
        run = threading.Thread(target=pilot.run, kwargs={"max_total_time": 0.5})
        run.start()
        run.join(60)
        assert not run.is_alive()
        assert pilot.processed == []

    def test_are_asked_about_once(self, client, push, through, proxy):
        push(6)
        Worker(through(proxy), claim_ahead=0).run()
        assert proxy.count("GET", self.INFO) == 1
