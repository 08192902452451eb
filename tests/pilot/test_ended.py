"""What is kept of pilots that have ended, and what a pilot's document says of the time that its slots were at work."""

from __future__ import annotations

import time

import pytest
from support.workers import Worker, wait_for

from picas.pilot import ended, heartbeat
from picas.pilot.ended import MAX_PRUNED, ended_document, prune
from picas.pilot.fleet import running_pilots
from picas.pilot.heartbeat import Heartbeat
from picas.pilot.identity import ENDED_PREFIX, Pilot, pilot_rows
from picas.pilot.leases import KEPT, Watch
from picas.pilot.usage import Usage
from picas.util import seconds

pytestmark = pytest.mark.usefixtures("quick")


def kept(client):
    """Return the documents of the pilots that have ended."""
    rows = client.all_docs(startkey=ENDED_PREFIX, endkey=ENDED_PREFIX + "\ufff0", include_docs=True)
    return [row.doc for row in rows]


def put(client, end, pilot):
    document = {"_id": f"{ENDED_PREFIX}{end:010d}_{pilot}", "type": "pilot", "state": "ended", "end": end}
    return client.save(document)["_id"]


def test_a_pilot_that_ends_cleanly_is_kept_with_its_totals(client, push, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    push(3)
    actor = Worker(client, lambda token: time.sleep(0.05), heartbeat=0.5, lease=60)
    actor.run(slots=2)
    (document,) = kept(client)
    pilot = actor._picas.pilot
    assert document["_id"] == f"{ENDED_PREFIX}{document['end']:010d}_{pilot.id}"
    expected = {"type": "pilot", "state": "ended", "pilot": pilot.id, "start": pilot.start, "slots": 2, "processed": 3}
    expected |= {"outcomes": {"done": 3}, "host": pilot.host, "slurm_job_id": "17"}
    assert expected.items() <= document.items()
    assert document["busy_seconds"] >= 0.1
    assert document["idle_seconds"] >= 0
    assert abs(document["end"] - time.time()) < 30
    assert not {"holds", "free", "time_left", "slots_busy", "orders", "beat"} & set(document)
    assert pilot_rows(client) == []


def test_a_pilot_that_was_short_and_processed_nothing_is_not_kept(client, monkeypatch):
    Worker(client, heartbeat=0.5, lease=60).run()
    assert kept(client) == []
    monkeypatch.setattr(ended, "WORTH_KEEPING", 0)
    Worker(client, heartbeat=0.5, lease=60).run()
    assert [document["processed"] for document in kept(client)] == [0]


def test_every_pilot_is_kept_that_the_autopilot_has_started(client, monkeypatch):
    """The autopilot has to know that the pilot has started, and found nothing to do."""
    monkeypatch.setenv("SLURM_JOB_NAME", "picas-all-pool-3fa2c1")
    Worker(client, heartbeat=0.5, lease=60).run()
    assert [document["processed"] for document in kept(client)] == [0]


def test_the_end_is_one_request_and_one_that_looks_for_old_pilots(client, push, monkeypatch):
    pilot = Pilot(processed=1)
    heartbeat = Heartbeat(client, pilot, 60, Watch(client, pilot.id))
    heartbeat.save_first()
    calls = []
    for name in ("get", "save", "delete", "write_documents", "all_docs"):
        real = getattr(client, name)
        monkeypatch.setattr(client, name, lambda *a, n=name, real=real, **k: (calls.append(n), real(*a, **k))[1])
    heartbeat.end(is_clean=True)
    assert calls == ["write_documents", "all_docs"]


def test_an_order_at_the_last_moment_does_not_keep_the_document(client):
    pilot = Pilot(processed=1)
    heartbeat = Heartbeat(client, pilot, 60, Watch(client, pilot.id))
    heartbeat.save_first()
    client.edit(pilot.id, lambda content: {**content, "orders": {"drain": {}}})
    heartbeat.end(is_clean=True)
    assert pilot_rows(client) == []
    assert len(kept(client)) == 1


def test_a_save_that_comes_too_late_does_not_bring_the_document_back(client):
    pilot = Pilot(processed=1)
    heartbeat = Heartbeat(client, pilot, 60, Watch(client, pilot.id))
    heartbeat.save_first()
    heartbeat.end(is_clean=True)
    heartbeat._save()
    assert pilot_rows(client) == []


def test_a_pilot_that_leaves_a_token_locked_is_not_kept_as_ended(client):
    pilot = Pilot(processed=1)
    heartbeat = Heartbeat(client, pilot, 60, Watch(client, pilot.id))
    heartbeat.save_first()
    heartbeat.end(is_clean=False)
    assert [row.id for row in pilot_rows(client)] == [pilot.id]
    assert kept(client) == []


def test_an_ending_pilot_deletes_the_oldest_of_those_that_ended_long_ago(client, push):
    old = [put(client, 1_000_000 + number, "picas_pilot_old") for number in range(MAX_PRUNED + 3)]
    recent = put(client, seconds() - KEPT + 600, "picas_pilot_recent")
    push(1)
    Worker(client, heartbeat=0.5, lease=60).run()
    assert [document["_id"] for document in kept(client)][:-1] == [*old[MAX_PRUNED:], recent]
    prune(client)
    assert len(kept(client)) == 2


def test_running_pilots_do_not_read_them(client):
    put(client, seconds(), "picas_pilot_a")
    assert pilot_rows(client) == []
    assert list(running_pilots(client)) == []
    watch = Watch(client)
    watch.look()
    assert watch.pilots == 0


def test_the_ids_are_in_the_order_of_the_ends():
    pilot = Pilot(processed=1)
    assert ended_document(pilot)["_id"] > f"{ENDED_PREFIX}{999_999_999:010d}_{pilot.id}"


class TestUsage:
    def test_work_and_idleness_add_up_to_the_slots(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr("picas.pilot.usage.time.monotonic", lambda: now[0])
        usage = Usage(4)
        now[0] += 10
        usage.begin("a", 1)
        usage.begin("b", 2)
        now[0] += 10
        assert usage.describe() == {"slots_busy": 3, "busy_seconds": 30, "idle_seconds": 50}
        usage.end("b")
        now[0] += 10
        assert usage.describe() == {"slots_busy": 1, "busy_seconds": 40, "idle_seconds": 80}

    def test_a_token_never_takes_more_slots_than_there_are(self):
        usage = Usage(2)
        usage.begin("a", 16)
        assert usage.describe()["slots_busy"] == 2

    def test_a_pilot_says_soon_how_many_slots_are_busy(self, client, push, monkeypatch):
        """Its document is saved before it has locked a token; the next heartbeat comes a minute later."""
        monkeypatch.setattr(heartbeat, "SECOND_BEAT", (0.1, 0.2))
        push(1)
        busy = []
        Worker(client, lambda token: busy.append(wait_for(lambda: next(running_pilots(client))["slots_busy"]))).run()
        assert busy == [1]

    @pytest.mark.timing
    def test_a_pilot_says_so_in_its_document(self, client, push):
        push(1, cores=2)
        seen = []

        def work(token):
            wait_for(lambda: next(running_pilots(client))["slots_busy"])
            time.sleep(0.3)
            seen.append(wait_for(lambda: next(p for p in running_pilots(client) if p["busy_seconds"] > 0.3)))

        Worker(client, work, cores=3, heartbeat=0.1, lease=60).run(slots=3)
        (document,) = seen
        assert (document["slots_busy"], document["free"]) == (2, 1)
        assert abs(document["saved"] - time.time()) < 30
        (document,) = kept(client)
        total = document["busy_seconds"] + document["idle_seconds"]
        assert document["busy_seconds"] > 0.6
        assert total >= document["busy_seconds"] * 1.5 - 0.1  # one of three slots had nothing to do
