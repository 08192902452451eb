"""A cluster accepts locks that no majority of its nodes has taken: such a lock is not valid, and is taken back.

A single node stands in for the cluster. A proxy in front of it presents it as a cluster, and answers writes that no
majority has taken as three real nodes do: with 202, and in `_bulk_docs` with rows that hold "accepted".
"""

import contextlib
import hashlib
import json
import threading
import time
from urllib.parse import urlsplit

import pytest
from couchdb.http import ResourceNotFound
from support.faults import CUT, FaultProxy, Reply
from support.tokens import make_token
from support.workers import Worker

from picas import CouchDB, Task
from picas.couch.outages import is_outage
from picas.exceptions import NoQuorum, PicasError
from picas.pilot.leases import Watch
from picas.pool import candidates, quorum
from picas.pool.candidates import Candidates
from picas.pool.claims import Claimer
from picas.pool.quorum import MARK, Stray, withdraw
from picas.pool.results import ClaimedToken
from picas.tokens.states import state_of
from picas.views import count_states

PILOT = "pilot_7"
AHEAD = {"is_on": False}
CLUSTER = {"q": 2, "n": 3, "w": 2, "r": 2}


pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture(autouse=True)
def short_look(monkeypatch):
    monkeypatch.setattr(quorum, "LOOK_PAUSE", 0.01)


class Cluster(FaultProxy):
    """Presents the server as three nodes, and answers chosen writes as if no majority had taken them.

    `is_accepted` returns whether a document of a bulk request is only accepted; without a quorum all are.
    """

    def __init__(self, url):
        super().__init__(url)
        self.is_accepted = lambda doc: False
        self.has_quorum = True

    def accept_next(self, is_chosen, times=1):
        """Let the next `times` writes of chosen documents be only accepted."""
        left = [times]

        def is_accepted(doc):
            if left[0] > 0 and is_chosen(doc):
                left[0] -= 1
                return True
            return False

        self.is_accepted = is_accepted

    def _forward(self, request):
        reply = super()._forward(request)
        parts = urlsplit(request.path).path.strip("/").split("/")
        if reply.status >= 400:
            return reply
        if request.method == "GET" and len(parts) == 1:
            content = {**json.loads(reply.body), "cluster": CLUSTER}
            return Reply(reply.status, json.dumps(content).encode(), reply.headers)
        if parts[-1] == "_bulk_docs":
            return self._judge(json.loads(request.body), reply)
        if request.method in ("PUT", "DELETE") and not self.has_quorum:
            return Reply(202, reply.body, reply.headers)
        return reply

    def _judge(self, sent, reply):
        if sent.get("new_edits") is False:
            return Reply(reply.status if self.has_quorum else 202, reply.body, reply.headers)
        rows = json.loads(reply.body)
        accepted = False
        for doc, row in zip(sent["docs"], rows):
            if "error" not in row and (self.is_accepted(doc) or not self.has_quorum):
                row["accepted"] = accepted = True
        return Reply(202 if accepted else 201, json.dumps(rows).encode(), reply.headers)


@pytest.fixture
def cluster(location):
    with Cluster(location.url) as cluster:
        yield cluster


@pytest.fixture
def through(cluster, through):
    """A client of the test's database that takes the server for a cluster."""
    return through(cluster)


@pytest.fixture
def claimer():
    return Claimer(Candidates("todo", {}))


def is_lock(doc):
    return bool(doc.get("claim")) and not doc.get("_deleted")


def is_deletion(doc):
    return bool(doc.get("_deleted"))


@pytest.fixture(autouse=True, params=["at once", "ahead"])
def mode(request, monkeypatch):
    """Lock all tokens but the first ahead, as a pilot does whose tokens are short."""
    monkeypatch.setattr(candidates, "SHARE", 1)  # also in a small pool
    monkeypatch.setattr(candidates, "CROWD_SHARE", 1)
    monkeypatch.setattr(candidates, "LEFT_IN_CROWD", 0)
    monkeypatch.setitem(AHEAD, "is_on", request.param == "ahead")


def claim(claimer, client, wanted=1, releases=()):
    """Exchange once, and return the tokens that were locked."""
    at_once = min(wanted, 1) if AHEAD["is_on"] else wanted
    return claimer.exchange(client, PILOT, releases, at_once, wanted - at_once).locked


def claim_in_the_end(claimer, client):
    """Claim until a token is locked: a lock that is taken back is not the end."""
    for _ in range(10):
        locked = claim(claimer, client)
        if locked:
            return locked[0]
    raise AssertionError("there was none in ten tries")


def store(client, document, rev, base):
    """Store a revision that follows `base`, as replication from another node does, and return it."""
    generation, digest = rev.split("-")
    content = {
        **document,
        "_rev": rev,
        "_revisions": {"start": int(generation), "ids": [digest, base["_rev"].partition("-")[2]]},
    }
    client.db.resource.post_json("_bulk_docs", body={"new_edits": False, "docs": [content]})
    return {**document, "_rev": rev}


def make_stray(client, base, letter, pilot=None):
    """Let a pilot lock a token on its own branch, and return the stray lock."""
    locked = dict(Task(dict(base)).lock(pilot or f"pilot {letter}").value)
    return Stray(store(client, locked, f"{int(base['_rev'][0]) + 1}-{letter * 32}", base), base)


def deleted_rev(client):
    """Return the revision of the only deleted branch of token_0."""
    (rev,) = (rev for rev, leaf in leaves(client, "token_0").items() if leaf.get("_deleted"))
    return rev


def leaves(client, name):
    """Return all branches of a document, deleted ones included, by their revision."""
    _, _, answer = client.db.resource.get_json([name], open_revs="all", headers={"Accept": "application/json"})
    return {branch["ok"]["_rev"]: branch["ok"] for branch in answer}


def living(client, name):
    return [rev for rev, leaf in leaves(client, name).items() if not leaf.get("_deleted")]


def conflicts(client, name):
    return client.db.get(name, conflicts=True).get("_conflicts", [])


def put_back_rev(base):
    digest = hashlib.md5(f"put back {base['_rev']}".encode()).hexdigest()
    return f"{int(base['_rev'][0]) + 1}-{digest}"


@pytest.fixture
def base(client, push):
    """A free token, as it was read."""
    push(1)
    return dict(client.get("token_0").value)


class TestAnAcceptedLock:
    def test_the_number_of_copies_shows_a_cluster(self, client, through):
        assert (client.copies, through.copies, through.copy().copies) == (1, 3, 3)

    def test_is_not_a_lock(self, through, client, cluster, push, claimer):
        push(1)
        cluster.accept_next(is_lock)
        assert claim(claimer, through) == []

    def test_is_taken_back_and_the_token_is_free_again(self, through, client, cluster, push, claimer):
        push(1)
        base = client.get("token_0")
        cluster.accept_next(is_lock)
        claim(claimer, through)
        claimer.settle(through)
        stored = client.get("token_0")
        assert {**stored.value, "_rev": None} == {**base.value, "_rev": None}
        assert list(leaves(client, "token_0")) == [stored.rev]
        assert [row.id for row in client.view("todo")] == ["token_0"]

    def test_its_token_can_be_locked_again(self, through, client, cluster, push, claimer):
        push(1)
        cluster.accept_next(is_lock, times=3)
        token = claim_in_the_end(claimer, through)
        assert token["claim"] == client.get("token_0")["claim"]
        assert living(client, "token_0") == [token.rev]
        assert claim(claimer, through) == []

    def test_starts_no_work(self, through, client, cluster, push):
        push(3)
        cluster.accept_next(is_lock, times=4)
        seen = []
        worker = Worker(through, lambda task: seen.append(client.get(task.id)["claim"]["id"] == task["claim"]["id"]))
        worker.run()
        assert sorted(worker.processed) == ["token_0", "token_1", "token_2"]
        assert seen == [True] * 3
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 3, "error": 0}
        assert all(conflicts(client, name) == [] for name in worker.processed)

    def test_a_lock_with_a_majority_is_valid(self, through, push, claimer, cluster):
        push(2)
        assert [token.id for token in claim(claimer, through, 2)] == ["token_0", "token_1"]
        assert cluster.count("POST", "_bulk_docs") == 1

    def test_is_valid_on_a_single_node(self, client, cluster, location, push, claimer):
        """No other copy can have another owner."""
        push(1)
        alone = CouchDB(cluster.url, client.db.name, location.username, location.password)
        alone.copies = 1
        cluster.accept_next(is_lock)
        assert len(claim(claimer, alone)) == 1

    def test_locks_of_one_request_are_judged_one_by_one(self, through, client, cluster, push, claimer):
        push(4)
        held = ClaimedToken(claim(claimer, through)[0])
        held.token.done()["exit_code"] = 0
        client.save(Task(client.get("token_2")).lock("another pilot"))
        cluster.accept_next(lambda doc: doc["_id"] == "token_1")
        assert [token.id for token in claim(claimer, through, 3, [held])] == ["token_3"]
        assert held.is_saved
        claimer.settle(through)
        states = [state_of(client.get(f"token_{number}")) for number in range(4)]
        assert states == ["done", "todo", "locked", "locked"]
        assert client.get("token_2")["claim"]["pilot"] == "another pilot"

    def test_an_accepted_release_counts_as_saved(self, through, client, cluster, push, claimer):
        """The token has one owner, and all later revisions follow that owner's lock."""
        push(2)
        held = ClaimedToken(claim(claimer, through)[0])
        held.token.done()["exit_code"] = 0
        cluster.accept_next(lambda doc: doc["_id"] == "token_0")
        assert [token.id for token in claim(claimer, through, 1, [held])] == ["token_1"]
        assert held.is_saved
        assert state_of(client.get("token_0")) == "done"
        assert [leaf.get(MARK) for leaf in leaves(client, "token_0").values()] == [None]

    def test_a_run_takes_back_all_such_locks_before_it_ends(self, through, client, cluster, push):
        push(2)
        cluster.accept_next(lambda doc: is_lock(doc) and doc["_id"] == "token_1")
        worker = Worker(through)
        worker.run(max_tasks=1)
        assert worker.processed == ["token_0"]
        assert count_states(client) == {"todo": 1, "locked": 0, "done": 1, "error": 0}


class TestWithdrawing:
    def test_does_not_change_the_owner_s_branch(self, through, client, base):
        """The owner's branch is not the one that readers see yet."""
        owner = make_stray(client, base, "a")  # hidden behind the other branch, since "b" is greater
        stray = make_stray(client, base, "b")
        withdraw(through, stray)
        assert living(client, "token_0") == [owner.token["_rev"]]
        assert client.get("token_0")["claim"]["pilot"] == "pilot a"
        assert conflicts(client, "token_0") == []

    def test_does_not_change_the_branch_of_an_owner_that_is_done(self, through, client, base):
        owner = make_stray(client, base, "a")
        client.save(Task(dict(owner.token)).done())
        withdraw(through, make_stray(client, base, "b"))
        assert state_of({**client.get("token_0").value, "exit_code": 0}) == "done"
        assert len(living(client, "token_0")) == 1

    def test_puts_the_token_back_only_after_the_last_stray(self, through, client, base):
        first, second = (make_stray(client, base, letter) for letter in "ab")
        withdraw(through, first)
        assert living(client, "token_0") == [second.token["_rev"]]
        assert leaves(client, "token_0")[deleted_rev(client)][MARK] is True
        withdraw(through, second)
        (rev,) = living(client, "token_0")
        assert {**client.get("token_0").value, "_rev": None} == {**base, "_rev": None}
        assert rev.startswith("3-")  # it follows the second lock, so the token was never absent

    def test_two_pilots_that_put_the_token_back_at_once_make_one_revision(self, through, client, base, monkeypatch):
        """Both delete their branches before either of them looks."""
        ready, deleted, looked = (threading.Barrier(2) for _ in range(3))
        write, has_vanished = CouchDB.write_documents, quorum._has_vanished
        seen = []

        def write_and_wait(*args):
            ready.wait(10)  # by now both have seen the other's branch
            written = write(*args)
            deleted.wait(10)
            return written

        def look_and_wait(*args):
            seen.append(has_vanished(*args))
            looked.wait(10)
            return seen[-1]

        losers = [make_stray(client, base, letter) for letter in "ab"]
        monkeypatch.setattr(CouchDB, "write_documents", write_and_wait)
        monkeypatch.setattr(quorum, "_has_vanished", look_and_wait)
        threads = [threading.Thread(target=withdraw, args=(through.copy(), loser)) for loser in losers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert seen == [True] * 4
        assert living(client, "token_0") == [put_back_rev(base)]
        assert conflicts(client, "token_0") == []
        assert state_of(client.get("token_0")) == "todo"

    def test_a_late_pilot_does_not_put_the_token_back_under_its_next_owner(self, through, client, base):
        store(client, base, put_back_rev(base), base)
        owner = client.save(Task(client.get("token_0")).lock("the next"))
        store(client, base, put_back_rev(base), base)  # the late pilot sends this, since it looked before
        assert living(client, "token_0") == [owner.rev]
        assert client.get("token_0")["claim"]["pilot"] == "the next"

    def test_can_be_repeated(self, through, client, base):
        stray = make_stray(client, base, "a")
        withdraw(through, stray)
        before = leaves(client, "token_0")
        withdraw(through, stray)
        withdraw(through, Stray(stray.token, base))
        assert leaves(client, "token_0") == before

    def test_looks_twice_before_it_puts_the_token_back(self, through, client, base, monkeypatch):
        """The owner's write may still be on its way to the node that was asked."""
        stray = make_stray(client, base, "b")
        owner = []
        monkeypatch.setattr(quorum.time, "sleep", lambda seconds: owner.append(make_stray(client, base, "a")))
        withdraw(through, stray)
        assert living(client, "token_0") == [owner[0].token["_rev"]]

    def test_does_not_undo_a_person_s_deletion(self, through, client, base):
        """The person deleted the token as it was, on a separate branch."""
        stray = make_stray(client, base, "a")
        store(client, {"_id": "token_0", "_deleted": True}, f"2-{'d' * 32}", base)
        withdraw(through, stray)
        assert living(client, "token_0") == []
        with pytest.raises(ResourceNotFound):
            client["token_0"]

    def test_does_not_undo_a_person_s_deletion_of_the_stray(self, through, client, base):
        stray = make_stray(client, base, "a")
        client.delete(dict(stray.token))
        withdraw(through, stray)
        assert living(client, "token_0") == []

    def test_keeps_a_person_s_edit_of_the_stray(self, through, client, base):
        stray = make_stray(client, base, "a")
        client.save({**stray.token, "note": "a person's", "lock": 0})
        withdraw(through, stray)
        assert client.get("token_0")["note"] == "a person's"
        assert len(living(client, "token_0")) == 1

    def test_sends_its_branch_to_nodes_that_do_not_have_it(self, through, client, base):
        """The node that accepted the lock may be away now."""
        locked = dict(Task(dict(base)).lock("pilot a").value)
        stray = Stray({**locked, "_rev": f"2-{'a' * 32}"}, base)
        assert living(client, "token_0") == [base["_rev"]]
        withdraw(through, stray)
        assert state_of(client.get("token_0")) == "todo"
        assert client.get("token_0").rev.startswith("3-")

    def test_keeps_the_attachments(self, through, client, push, claimer, cluster):
        """The attachments come from an earlier attempt."""
        (token,) = push(1)
        token.put_attachment("logs_token_0.out", "it failed")
        client.save(token)
        cluster.accept_next(is_lock)
        claim(claimer, through)
        claimer.settle(through)
        stored = client.get("token_0")
        assert state_of(stored) == "todo"
        assert stored.get_attachment("logs_token_0.out", client)["data"] == b"it failed"
        assert claim_in_the_end(claimer, through).get_attachment("logs_token_0.out", client)["data"] == b"it failed"

    def test_any_number_of_concurrent_strays_leaves_one_token(self, through, client, base):
        losers = [make_stray(client, base, letter) for letter in "abcdef"]
        threads = [threading.Thread(target=withdraw, args=(through.copy(), loser)) for loser in losers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert state_of(client.get("token_0")) == "todo"
        assert conflicts(client, "token_0") == []


class TestAnOldBranch:
    """A pilot was killed before it could take the branch back, and the token has been edited since."""

    @pytest.fixture
    def now(self, client, base):
        """The current token, which a person has edited twice."""
        client.save({**base, "note": "once"})
        client.save({**client.get("token_0").value, "note": "twice"})
        now = client.get("token_0").value
        make_stray(client, base, "f", "picas_pilot_f")
        assert client.get("token_0")["note"] == "twice"
        return dict(now)

    def test_does_not_win_when_a_lock_is_taken_back(self, through, client, now):
        withdraw(through, make_stray(client, now, "a"))
        assert state_of(client.get("token_0")) == "todo"
        assert client.get("token_0")["note"] == "twice"

    def test_does_not_win_when_several_locks_are_taken_back(self, through, client, now, monkeypatch):
        """They are taken back at the same time, so each pilot sees another lock."""
        losers = [make_stray(client, now, letter) for letter in "ab"]
        monkeypatch.setattr(quorum, "_has_rivals", lambda *details: True)
        for loser in losers:
            withdraw(through, loser)
        assert state_of(client.get("token_0")) == "todo"
        assert client.get("token_0")["note"] == "twice"

    def test_does_not_win_when_the_next_pilot_dies_too(self, client, now, through):
        client.save(Task(dict(now)).lock("picas_pilot_g"))
        client.save({"_id": "picas_pilot_g", "type": "pilot", "state": "running", "lease": 0.1, "holds": ["token_0"]})
        watch = Watch(through, lease=0.1)
        put_back = []
        for _ in range(2):
            watch.look()
            put_back += watch.put_back
            time.sleep(0.15)
        assert put_back == ["token_0"]
        assert (state_of(client.get("token_0")), client.get("token_0")["note"]) == ("todo", "twice")


class TestALockOfADeadPilot:
    """The pilot died before it could take back its lock."""

    @pytest.fixture
    def look(self, through, client):
        """Let other pilots find the pilot dead and clean up after it."""

        def look():
            client.save(
                {"_id": "picas_pilot_f", "type": "pilot", "state": "running", "lease": 0.1, "holds": ["token_0"]}
            )
            watch = Watch(through, lease=0.1)
            watch.look()
            time.sleep(0.15)
            watch.look()
            return watch.put_back

        return look

    def test_that_hides_the_owner_is_removed(self, client, base, look):
        owner, _ = (
            make_stray(client, base, letter, pilot) for letter, pilot in (("a", "owner"), ("f", "picas_pilot_f"))
        )
        assert client.get("token_0")["claim"]["pilot"] == "picas_pilot_f"
        assert look() == []
        assert living(client, "token_0") == [owner.token["_rev"]]

    def test_that_is_the_only_branch_is_put_back_like_any_other_lock(self, client, base, look):
        make_stray(client, base, "f", "picas_pilot_f")
        assert look() == ["token_0"]
        assert state_of(client.get("token_0")) == "todo"
        assert client.get("token_0")["lost_count"] == 1


class TestWithoutAQuorum:
    def test_is_an_outage(self):
        assert is_outage(NoQuorum("too few"))

    def test_nothing_is_put_back(self, through, client, cluster, base):
        """The nodes that are away may have accepted anything."""
        stray = make_stray(client, base, "a")
        cluster.has_quorum = False
        for _ in range(2):
            with pytest.raises(NoQuorum):
                withdraw(through, stray)
        assert living(client, "token_0") == [stray.token["_rev"]]
        assert cluster.count("PUT", "_local/") == 2
        cluster.has_quorum = True
        withdraw(through, stray)
        assert state_of(client.get("token_0")) == "todo"
        assert conflicts(client, "token_0") == []

    def test_a_probe_looks_for_a_quorum_if_no_branch_is_left(self, through, client, cluster, base):
        stray, _ = (make_stray(client, base, letter) for letter in "ab")
        cluster.accept_next(is_deletion)
        withdraw(through, stray)
        assert cluster.count("PUT", "_local/picas_probe_") == cluster.count("DELETE", "_local/picas_probe_") == 1

    @pytest.mark.timing
    def test_a_pilot_waits_and_then_settles_its_locks(self, through, client, cluster, push):
        push(3)
        cluster.has_quorum = False
        timer = threading.Timer(0.5, lambda: setattr(cluster, "has_quorum", True))
        timer.start()
        worker = Worker(through)
        worker.run()
        timer.join()
        assert sorted(worker.processed) == ["token_0", "token_1", "token_2"]
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 3, "error": 0}
        assert all(conflicts(client, name) == [] for name in worker.processed)

    def test_for_a_long_time_a_run_ends_and_processes_nothing(self, through, client, cluster, push):
        push(2)
        cluster.has_quorum = False
        worker = Worker(through, max_outage=0.1)
        with pytest.raises(NoQuorum):
            worker.run()
        assert worker.processed == []
        # Others treat the lock that it could not take back as that of a dead pilot.
        left = client.get("token_0" if state_of(client.get("token_0")) == "locked" else "token_1")
        assert left["claim"]["pilot"] == worker._picas.pilot.id
        assert client.get(worker._picas.pilot.id)["state"] == "running"

    def test_results_are_still_saved(self, through, client, cluster, push):
        push(1)
        worker = Worker(through, lambda task: setattr(cluster, "has_quorum", False))
        worker.run(max_tasks=1)
        assert count_states(client)["done"] == 1


class TestLostAnswers:
    """Once a response is lost, nobody can find out whether a majority accepted the write."""

    def test_a_lock_whose_response_was_lost_is_not_valid(self, through, client, cluster, push, claimer):
        push(1)
        cluster.fail("POST", "_bulk_docs", CUT, after=True)
        assert claim(claimer, through) == []
        token = claim_in_the_end(claimer, through)
        assert living(client, "token_0") == [token.rev]
        assert conflicts(client, "token_0") == []

    def test_nor_is_a_lock_that_is_looked_up_later(self, through, client, cluster, push, claimer):
        push(1)
        cluster.fail("POST", "_bulk_docs", CUT, after=True)
        cluster.fail("GET", "token_0", CUT, times=99)
        with pytest.raises(PicasError):
            claim(claimer, through)
        lost = client.get("token_0")["claim"]
        cluster._faults.clear()
        assert claimer.settle(through) == []
        token = claim_in_the_end(claimer, through)
        assert token["claim"]["id"] != lost["id"]
        assert conflicts(client, "token_0") == []

    def test_nor_is_a_lock_that_is_hidden_behind_another_stray(self, through, client, cluster, base, claimer):
        """Two pilots were too late, and one of them lost its response: both branches are taken back."""
        other = []
        cluster.fail(
            "POST", "_bulk_docs", CUT, after=True, meanwhile=lambda: other.append(make_stray(client, base, "f"))
        )
        with contextlib.suppress(PicasError):
            claim(claimer, through)
        with contextlib.suppress(PicasError):
            claimer.settle(through)
        withdraw(through, other[0])
        assert len(living(client, "token_0")) == 1
        assert claim_in_the_end(claimer, through).id == "token_0"

    def test_a_pilot_processes_each_token_once(self, through, client, cluster, push):
        push(5)
        seen = []
        worker = Worker(through, lambda task: seen.append(client.get(task.id)["claim"]["id"] == task["claim"]["id"]))
        cluster.fail("POST", "_bulk_docs", CUT, after=True, times=3)
        worker.run()
        assert sorted(worker.processed) == [f"token_{number}" for number in range(5)]
        assert seen == [True] * 5
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 5, "error": 0}

    @pytest.mark.parametrize("after", [False, True])
    def test_a_lock_is_taken_back_whichever_request_fails_meanwhile(
        self, through, client, cluster, push, claimer, after
    ):
        for number in range(8):
            name = f"run_{number}"
            client.save(make_token(_id=name))
            cluster.accept_next(is_lock)
            cluster.requests.clear()
            fail_later(cluster, number, after)
            token = None
            for _ in range(10):
                try:
                    token = claim_in_the_end(claimer, through)
                    break
                except PicasError:
                    continue
            assert token is not None, f"request {number}"
            assert token.id == name, f"request {number}"
            assert living(client, name) == [token.rev], f"request {number}"
            through.save(token.done())
            cluster.reset_faults()


def fail_later(cluster, number, after):
    """Cut the connection of the request with this number, and of both its repetitions."""
    pass_on = type(cluster)._pass_on
    seen = [0]

    def spoiled(request):
        seen[0] += 1
        if number < seen[0] <= number + 3:
            if after:
                cluster._forward(request)
            return CUT
        return pass_on(cluster, request)

    cluster.answer = spoiled
    cluster.reset_faults = lambda: setattr(cluster, "answer", cluster._pass_on)


class TestANodeThatLagsBehind:
    """It does not have the attachments yet that a lock names, and its answer counts for the whole request."""

    STUB = Reply(412, b'{"error":"missing_stub","reason":"Invalid attachment stub in token_0 for input.txt"}')

    @pytest.fixture
    def tokens(self, client):
        for number in range(3):
            token = Task(make_token(number))
            token.put_attachment("input.txt", "some input")
            client.save(token)

    @pytest.mark.parametrize("is_applied", [False, True], ids=["", "applied"])
    @pytest.mark.parametrize("times", [1, 6])
    def test_is_waited_for(self, through, client, cluster, tokens, spool, times, is_applied):
        cluster.fail("POST", "_bulk_docs", self.STUB, after=is_applied, times=times)
        worker = Worker(through)
        worker.run()
        assert sorted(worker.processed) == ["token_0", "token_1", "token_2"]
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 3, "error": 0}
        assert spool() == []

    def test_is_waited_for_when_a_result_is_saved(self, through, client, cluster, tokens, spool):
        worker = Worker(through, lambda task: cluster.fail("PUT", "/token_", self.STUB))
        worker.run(max_tasks=2)
        assert len(worker.processed) == 2
        assert count_states(client) == {"todo": 1, "locked": 0, "done": 2, "error": 0}
        assert spool() == []

    def test_is_waited_for_when_a_lock_is_taken_back(self, through, client, cluster, tokens):
        stray = make_stray(client, dict(client.get("token_0").value), "a")
        cluster.fail("POST", "_bulk_docs", self.STUB)
        with pytest.raises(PicasError) as caught:
            withdraw(through, stray)
        assert is_outage(caught.value)
        withdraw(through, stray)
        assert state_of(client.get("token_0")) == "todo"

    def test_on_a_single_node_an_attachment_is_missing_for_good(self, client, spool, tokens):
        def work(task):
            task["_attachments"]["nothing.txt"] = {"stub": True, "content_type": "text/plain", "length": 1}

        worker = Worker(client, work)
        worker.run(max_tasks=1)
        assert len(spool()) == 1
