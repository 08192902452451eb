"""Runs whose own code raises, or whose user code leaves it too little to work with: no lock is left behind for ever."""

import os
import signal
import time
from pathlib import Path

import pytest
from support.workers import Worker, signal_after

from picas.exceptions import PilotStopped
from picas.modifiers import claim_of
from picas.pilot import breakoff, run, work
from picas.pilot.attempt import Attempt
from picas.pilot.identity import pilot_rows
from picas.pilot.loop import Loop
from picas.pilot.rescue import LEAST_RECURSION, SPARE_DESCRIPTORS, SpareDescriptors
from picas.tokens.states import state_of
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("in_folder")


def assert_none_is_stranded(client):
    """Assert that each locked token has a pilot's document, so that other pilots will put it back."""
    pilots = {row.id for row in pilot_rows(client)}
    tokens = [client.get(row.id) for row in client.view("locked").rows]
    assert {claim_of(token)["pilot"] for token in tokens} <= pilots
    return tokens


class TestRecursionLimit:
    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_low_one_loses_no_result(self, client, push, pilot, slots):
        push(20)
        process = pilot(f"""
class Lowering(Noting):
    def process_task(self, task):
        depth, frame = 1, sys._getframe()
        while frame.f_back:
            depth, frame = depth + 1, frame.f_back
        sys.setrecursionlimit(depth + 5)
        task["result"] = 42
Lowering(connect()).run(slots={slots})
note(sys.getrecursionlimit())
""")
        assert process.end() == 0, process.errors.read_text()
        assert count_states(client)["done"] == 20
        assert {client.get(f"token_{number}")["result"] for number in range(20)} == {42}
        assert int(process.journal[-1]) >= LEAST_RECURSION

    @pytest.mark.parametrize("hook", ["prepare_env", "prepare_run", "cleanup_run", "cleanup_env", "stop"])
    def test_a_low_one_of_another_hook_ends_nothing(self, client, push, pilot, hook):
        push(3)
        process = pilot(f"""
def lower(*_):
    depth, frame = 1, sys._getframe()
    while frame.f_back:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(depth + 5)
actor = Noting(connect())
if "{hook}" == "stop":
    actor.run(stop_function=lower)
else:
    actor.{hook} = lower
    actor.run()
""")
        assert process.end() == 0, process.errors.read_text()
        assert count_states(client)["done"] == 3


class TestDescriptors:
    LEAK = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
leaked = []
class Leaking(Noting):
    def process_task(self, task):
        task["result"] = 42
        try:
            while True:
                leaked.append(open("/dev/null"))
        except OSError:
            pass
        (leaked or [sys.stdin]).pop().close()
        note("working")
        %s
Leaking(connect(), claim_ahead=0).run(slots=2)
"""

    def test_all_used_up_a_stop_puts_the_tokens_back(self, client, push, pilot):
        push(6)
        process = pilot(self.LEAK % "time.sleep(60)")
        process.wait_for("working")
        assert process.stop() == 0, process.errors.read_text()
        assert assert_none_is_stranded(client) == []
        assert count_states(client) == {"todo": 6, "locked": 0, "done": 0, "error": 0}

    def test_all_used_up_a_result_of_a_stopped_pilot_is_saved_or_kept(self, client, push, pilot, tmp_path):
        push(2)
        process = pilot(self.LEAK % 'task["exit_code"] = 0; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)')
        process.end()
        assert_none_is_stranded(client)
        done = count_states(client)["done"]
        kept = list((tmp_path / "spool").glob("*.json"))
        assert done + len(kept) >= 1, process.errors.read_text()
        assert "LOST" not in process.errors.read_text()

    def test_the_spare_ones_do_not_belong_to_another_file(self):
        spare = SpareDescriptors()
        spare.keep()
        descriptors = list(spare._descriptors)
        assert len(descriptors) == SPARE_DESCRIPTORS
        for descriptor in descriptors:
            os.close(descriptor)
        own = [os.open(os.devnull, os.O_RDONLY) for _ in descriptors]
        assert set(own) == set(descriptors)
        spare.release()
        for descriptor in own:
            os.close(descriptor)  # fails if it was closed

    def test_the_spare_ones_are_given_back(self, client, push):
        push(1)
        before = len(list(Path("/proc/self/fd").iterdir()))
        Worker(client).run()
        Worker(client).run()
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2  # connections to the database


def fail(*_, **__):
    raise OSError("a fault of the run's own code")


class TestOwnFaults:
    """Whatever raises on the way to the end, all other steps are taken, and the pilot's document says who was here."""

    @pytest.mark.parametrize("slots", [1, 2])
    @pytest.mark.parametrize(
        ("place", "name"),
        [
            (run.Context, "children"),
            (run.Context, "end_children"),
            (breakoff.BreakOff, "_interrupt"),
            (Loop, "give_back"),
            (Loop, "save"),
            (Loop, "collect"),
        ],
    )
    def test_in_a_step_of_a_stop_leaves_no_lock(self, client, push, monkeypatch, place, name, slots):
        push(4)
        began = []

        def at_work(task):
            began.append(task.id)
            if len(began) == slots:
                monkeypatch.setattr(place, name, fail)
            signal.pause() if slots == 1 else time.sleep(0.5)

        actor = Worker(client, at_work, claim_ahead=0)
        with pytest.raises((PilotStopped, OSError)), signal_after(0.1, signal.SIGTERM, lambda: len(began) >= slots):
            actor.run(slots=slots)
        assert assert_none_is_stranded(client) == []

    @pytest.mark.parametrize("name", ["wind_up", "save"])
    def test_in_the_end_of_a_token_leaves_the_pilots_document(self, client, push, monkeypatch, name):
        push(2)

        def at_work(task):
            monkeypatch.setattr(work.Work, name, fail)
            monkeypatch.setattr(Loop, "save", fail)
            os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(PilotStopped):
            Worker(client, at_work, claim_ahead=0).run()
        (token,) = assert_none_is_stranded(client)
        assert token.id == "token_0"

    def test_after_a_lock_leaves_the_pilots_document(self, client, push, monkeypatch):
        push(2)
        monkeypatch.setattr(Attempt, "__init__", fail)
        with pytest.raises(OSError, match="own code"):
            Worker(client, claim_ahead=0).run()
        assert len(assert_none_is_stranded(client)) == 1

    def test_in_the_end_of_the_heartbeat_does_not_hide_how_the_run_ended(self, client, push, monkeypatch):
        push(1)
        monkeypatch.setattr(run.Run, "_release_iterator", fail)
        monkeypatch.setattr(run.Heartbeat, "end", fail)
        before = signal.getsignal(signal.SIGTERM)
        Worker(client).run()
        assert state_of(client.get("token_0")) == "done"
        assert signal.getsignal(signal.SIGTERM) == before
