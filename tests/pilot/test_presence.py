"""Whether the pilots that hold tokens are alive, without a comparison of clocks."""

from __future__ import annotations

import threading
import time

import pytest

from picas.pilot import dead_pilots, presence, silent_pilots, watch_time
from picas.pilot.identity import DEAD, RUNNING


@pytest.fixture
def pilot(client):
    """Return a function that saves the document of a pilot."""

    def save(id, **fields):
        client.edit(id, lambda document: {**document, "type": "pilot", "state": RUNNING, "lease": 0.5, **fields})
        return id

    return save


def test_what_the_other_pilots_have_found_is_known_at_once(client, pilot):
    known = [pilot("a"), pilot("b", state=DEAD), "c"]
    assert dead_pilots(client, known) == {"b", "c"}
    assert dead_pilots(client, []) == silent_pilots(client, []) == set()
    assert watch_time(client, []) == 0


def test_the_longest_lease_is_waited_for(client, pilot):
    assert watch_time(client, [pilot("a"), pilot("b", lease=2)]) == 2
    assert watch_time(client, [pilot("c", lease="odd")]) == 600


@pytest.mark.timing
class TestWatching:
    def test_a_pilot_that_does_not_save_its_document_for_its_lease_is_silent(self, client, pilot):
        # The times in documents come from other clocks.
        silent = pilot("a", start=time.time() + 9999, end=time.time() + 9999)
        began = time.monotonic()
        assert silent_pilots(client, [silent, pilot("b", state=DEAD), "c"]) == {"a", "b", "c"}
        assert 0.5 <= time.monotonic() - began < 2

    def test_it_ends_early_when_all_have_saved_theirs(self, client, pilot, monkeypatch):
        monkeypatch.setattr(presence, "POLL", 0.05)
        timer = threading.Timer(0.2, lambda: [pilot(id, beat=2, lease=60) for id in ("a", "b")])
        pilots = [pilot(id, lease=60) for id in ("a", "b")]
        timer.start()
        began = time.monotonic()
        assert silent_pilots(client, pilots) == set()
        assert time.monotonic() - began < 5

    def test_each_has_its_own_lease(self, client, pilot, monkeypatch):
        monkeypatch.setattr(presence, "POLL", 0.05)
        pilots = [pilot("quick", lease=0.2), pilot("slow", lease=0.8), pilot("alive", lease=60)]
        timer = threading.Timer(0.5, lambda: pilot("alive", beat=2, lease=60))
        timer.start()
        assert silent_pilots(client, pilots) == {"quick", "slow"}

    def test_one_that_is_marked_as_dead_meanwhile_is_dead(self, client, pilot, monkeypatch):
        monkeypatch.setattr(presence, "POLL", 0.05)
        threading.Timer(0.2, lambda: pilot("a", state=DEAD, lease=60)).start()
        assert silent_pilots(client, [pilot("a", lease=60)]) == {"a"}
