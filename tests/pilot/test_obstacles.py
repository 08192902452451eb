"""Why a token does not run."""

from __future__ import annotations

import time

import pytest
from support.tokens import ended_token, make_token

from picas import modifiers
from picas.exceptions import NoSuchDocument
from picas.pilot import obstacles, shortfalls
from picas.pilot.identity import PREFIX
from picas.pilot.obstacles import why_not
from picas.pilot.orders import pause_pool
from picas.tokens.storable import MAX_DEPTH
from picas.views import create_views


@pytest.fixture
def pilot(client):
    """Save the document of a running pilot."""

    def pilot(name="a", silent_for=None, **fields):
        if silent_for is not None:
            fields["saved"] = time.time() - silent_for
        known = {"cores": 1, "gpus": 0, "free": 1, "heartbeat": 60, "lease": 600}
        client.save({"_id": f"{PREFIX}{name}", "type": "pilot", "state": "running", **known, **fields})

    return pilot


def kinds(explanation):
    return [reason.kind for reason in explanation.reasons]


def only(explanation):
    """Return the text of the only reason."""
    (reason,) = explanation.reasons
    return reason.text


class TestATokenThatIsNotFree:
    def test_one_that_is_done(self, client):
        client.save(ended_token(0, "done", start=int(time.time()) - 7300, seconds=100))
        found = why_not(client, "token_0")
        assert (found.state, only(found)) == ("done", "it has been done for 2 h")
        assert (found.before, found.waiting, found.pilots) == (None, None, None)

    def test_one_in_error_says_why(self, client):
        client.save(ended_token(0, reason="exit 1: no file\nx", start=int(time.time()) - 190))
        text = only(why_not(client, "token_0"))
        assert text == "it has been in error for 3 min, and is not tried again by itself: exit 1: no file x"

    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            ({"error": [{"time": 5, "message": "old"}, {"time": 6, "message": "new"}]}, "new"),
            ({"error": "gone", "exit_code": 3}, "exit code 3"),
            ({}, "exit code unknown"),
        ],
        ids=str,
    )
    def test_one_in_error_without_a_reason_in_its_attempts(self, client, fields, why):
        client.save(make_token(0, lock=99, done=99, **fields))
        assert only(why_not(client, "token_0")).endswith(f"by itself: {why}")

    def test_one_that_a_pilot_works_on(self, client, push, pilot):
        pilot()
        (token,) = push(1)
        client.save({**modifiers.lock(token, f"{PREFIX}a"), "lock": int(time.time()) - 190})
        found = why_not(client, "token_0")
        assert (found.state, only(found)) == ("locked", f"it has been locked for 3 min by {PREFIX}a")

    @pytest.mark.parametrize(
        ("document", "kind", "words"),
        [
            (None, "pilot gone", "has left the pool"),
            ({"state": "dead"}, "pilot dead", "is dead"),
            ({"silent_for": 400}, "pilot silent", "has been silent for 7 min"),
        ],
        ids=["gone", "dead", "silent"],
    )
    def test_one_whose_pilot_does_not_work_on_it(self, client, push, pilot, document, kind, words):
        if document is not None:
            pilot(**document)
        (token,) = push(1)
        client.save(modifiers.lock(token, f"{PREFIX}a"))
        found = why_not(client, "token_0")
        assert kinds(found) == ["locked", kind]
        assert f"{PREFIX}a {words}" in found.reasons[1].text

    def test_one_that_an_older_client_has_locked(self, client):
        client.save(make_token(0, lock=5, hostname="node7"))
        assert "by a client of an older release on node7" in only(why_not(client, "token_0"))

    @pytest.mark.parametrize(
        ("fields", "kind"),
        [({"lock": None}, "no state"), ({"type": "task"}, "type task"), ({"type": "image"}, "no token")],
        ids=["no state", "task", "other"],
    )
    def test_a_document_that_pilots_do_not_see(self, client, fields, kind):
        client.save(make_token(0, **fields))
        found = why_not(client, "token_0")
        assert (found.state, kinds(found)) == (None, [kind])

    def test_one_that_does_not_exist(self, client, push):
        push(3)
        for kind in ("pilot_a", "ended_1_a", "autopilot_all", "pool"):
            client.save({"_id": f"picas_{kind}", "type": kind})
        with pytest.raises(NoSuchDocument, match=r"^there is no token token_9: the nearest ids are token_1, token_2$"):
            why_not(client, "token_9")
        with pytest.raises(NoSuchDocument, match=r"^there is no token picas_b, and no other is near$"):
            why_not(client, "picas_b")

    def test_one_with_conflicting_revisions(self, client, push):
        (token,) = push(1)
        client.store_revision({**token.value, "lock": 5, "_rev": "2-" + "a" * 32}, "1-" + "b" * 32)
        assert kinds(why_not(client, "token_0")) == ["locked", "conflict"]


class TestAFreeToken:
    def test_without_pilots(self, client, push):
        push(3)
        found = why_not(client, "token_2")
        assert (only(found), found.before, found.waiting, found.pilots) == ("no pilot is running", 2, 3, 0)

    def test_its_turn_will_come(self, client, push, pilot):
        push(3)
        pilot("a", free=2)
        pilot("b")
        assert only(why_not(client, "token_2")) == (
            "its turn will come: about 2 of the 3 tokens that wait come before it; 2 running pilots can take it, and "
            "3 slots are free"
        )
        assert only(why_not(client, "token_0")).startswith("its turn will come: it is the first; ")

    def test_also_with_conflicting_revisions(self, client, push, pilot):
        (token,) = push(1)
        pilot()
        client.store_revision({**token.value, "x": 1, "_rev": "2-" + "a" * 32}, "1-" + "b" * 32)
        assert kinds(why_not(client, "token_0")) == ["turn", "conflict"]

    def test_while_all_slots_are_busy(self, client, push, pilot):
        push(1, priority=7)
        pilot(free=0)
        assert only(why_not(client, "token_0")) == (
            "its turn will come: it is the first; with its priority of 7, it may be earlier; 1 running pilot can take "
            "it, and no slot is free"
        )

    def test_while_the_pool_is_paused(self, client, push, pilot):
        push(1)
        pilot()
        pause_pool(client, "new\ncalibration", by="ann")
        assert only(why_not(client, "token_0")) == "the pool is paused by ann: new calibration"

    def test_that_waits_for_its_time(self, client, pilot):
        client.save(make_token(0, not_before=time.time() + 610))
        pilot()
        assert only(why_not(client, "token_0")) == "it waits for another 10 min, because of its field not_before"
        client.save(make_token(1, not_before=time.time() - 1))
        assert kinds(why_not(client, "token_1")) == ["turn"]

    def test_that_is_nested_too_deeply(self, client, pilot):
        deep = []
        for _ in range(MAX_DEPTH + 1):
            deep = [deep]
        client.save_documents([make_token(0)])
        client.save({**make_token(1), "deep": deep})
        pilot()
        assert kinds(why_not(client, "token_1")) == ["too deep"]

    def test_that_is_in_no_view(self, client, push, pilot):
        push(1, cores=2)
        create_views(client, condition="doc.cores == 1")
        pilot(cores=4)
        assert "it is not in the view Monitor/todo" in only(why_not(client, "token_0"))

    def test_without_views(self, client, push, pilot):
        push(1)
        pilot()
        client.delete(client.get("_design/Monitor"))
        assert kinds(why_not(client, "token_0")) == ["no views"]

    def test_with_the_views_of_an_older_release(self, client, push, pilot):
        push(2)
        pilot()
        views = client.get("_design/Monitor")
        for name in ("queue", "conflicts"):
            del views["views"][name]
        client.save(views)
        found = why_not(client, "token_1")
        assert (found.before, found.waiting) == (None, 2)
        assert only(found).startswith("its turn will come: 2 tokens wait in all; ")

    def test_all_reasons_are_given(self, client, push):
        push(1, not_before=time.time() + 100)
        pause_pool(client, by="ann")
        assert kinds(why_not(client, "token_0")) == ["waits", "paused", "no pilot"]

    @pytest.mark.parametrize("id", ["token_1", "token_01", "name", "token_12345678901234567890"])
    def test_the_order_is_that_of_the_queue(self, client, id):
        ids = ["token_01", "token_1", "name", "token_12345678901234567890"]
        client.save_documents([{**make_token(), "_id": each} for each in ids])
        found = [row.id for row in client.view("queue", endkey=[]).rows if row.id in ids][: len(ids)]
        before = why_not(client, id).before
        assert before in ((found.index(id), None) if id == ids[-1] else (found.index(id),))

    def test_of_many_before_it_the_number_comes_from_the_server_or_is_left_out(
        self, client, push, is_couchdb, monkeypatch
    ):
        monkeypatch.setattr(obstacles, "MAX_COUNTED", 3)
        push(6)
        assert why_not(client, "token_3").before == 3
        assert why_not(client, "token_5").before == (5 if is_couchdb else None)


class TestPilotsThatCanNotTakeIt:
    def test_are_grouped_by_what_they_lack(self, client, push, pilot):
        push(1, cores=8, memory="16G", gpus=1, tags=["avx2"], walltime=3600)
        pilot("a", cores=8, memory=2000, gpus=1, tags=["avx2"])
        pilot("b", cores=8, memory=4000, gpus=1, tags=["avx2"])
        pilot("c", cores=4, gpus=0, time_left=60)
        reasons = why_not(client, "token_0").reasons
        assert [(reason.kind, reason.pilots, reason.lacks, reason.text) for reason in reasons] == [
            ("lacks", 2, ("memory",), "2 running pilots can't take it: up to 4000 of 16384 MB of memory"),
            (
                "lacks",
                1,
                ("cores", "gpus", "tags", "time"),
                "1 running pilot can't take it: 4 of 8 cores, 0 of 1 GPUs, not all of the tags avx2, 60 of 3600 s left",
            ),
        ]

    def test_are_named_beside_those_that_can(self, client, push, pilot):
        push(1, cores=2)
        pilot("a")
        pilot("b", cores=2)
        assert kinds(why_not(client, "token_0")) == ["lacks", "turn"]

    @pytest.mark.parametrize(
        ("fields", "lack", "words"),
        [
            ({"orders": {"drain": {"by": "ann"}}}, "permission", "ordered to take no further token"),
            ({"silent_for": 1000}, "heartbeat", "no heartbeat for 17 min"),
            ({"time_left": 0}, "time", "no time left"),
        ],
        ids=["drained", "silent", "late"],
    )
    def test_can_not_take_any(self, client, push, pilot, fields, lack, words):
        push(1)
        pilot(**fields)
        found = why_not(client, "token_0")
        (reason,) = found.reasons
        is_silent = lack == "heartbeat"
        who = "silent" if is_silent else "running"
        assert (reason.lacks, reason.text) == ((lack,), f"1 {who} pilot can't take it: {words}")
        assert found.pilots == (0 if is_silent else 1)

    def test_have_too_little_time_for_one_that_was_longer_than_its_jobs(self, client, push, pilot):
        push(1, job_ends={"count": 2, "seconds": 104})
        pilot(time_left=108)
        found = why_not(client, "token_0")
        assert [(reason.kind, reason.text) for reason in found.reasons] == [
            ("lacks", "1 running pilot can't take it: 108 of 114 s left"),
            (
                "longer than jobs",
                "its work was stopped by the end of jobs, after up to 104 s: only a pilot with 114 s left takes it",
            ),
        ]
        pilot("b", time_left=200)
        assert kinds(why_not(client, "token_0")) == ["lacks", "turn", "longer than jobs"]

    def test_ignore_what_is_invalid_in_its_needs(self, client, push, pilot):
        push(1, walltime="1:30")
        pilot()
        turn, invalid = why_not(client, "token_0").reasons
        assert (turn.kind, invalid.kind) == ("turn", "invalid need")
        assert invalid.text.startswith('one of its needs is invalid, and pilots ignore it: walltime can\'t be "1:30"')

    def test_are_named_up_to_a_number(self, client, push, pilot, monkeypatch):
        monkeypatch.setattr(shortfalls, "MAX_GROUPS", 1)
        push(1, cores=2, gpus=1)
        for name in "ab":
            pilot(name, cores=2)
        pilot("c", gpus=1)
        texts = [reason.text for reason in why_not(client, "token_0").reasons]
        assert texts == [
            "2 running pilots can't take it: 0 of 1 GPUs",
            "1 running pilot can't take it for other reasons",
        ]

    def test_odd_documents_of_pilots_are_no_obstacle(self, client, push, pilot):
        push(1)
        pilot(cores="many", memory=[], tags=7, time_left="long", free={}, saved="now", heartbeat=None, orders=[1])
        assert kinds(why_not(client, "token_0")) == ["turn"]
