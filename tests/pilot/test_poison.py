"""Tokens that end the pilots that take them: each costs a few pilots, not all."""

import errno
import signal
import socket

import pytest
from support.tokens import make_token
from support.workers import PilotProcess, Worker, signal_after, stop_this_pilot

from picas import Document
from picas.exceptions import PilotStopped
from picas.modifiers import QUICK, lock, stop
from picas.pilot.attempt import Attempt
from picas.pilot.leases import MAX_LOST
from picas.tokens.states import state_of
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("in_folder")


class TestAnInterruptWithoutASignal:
    @pytest.mark.parametrize("slots", [1, 2])
    @pytest.mark.parametrize("hook", ["process_task", "prepare_run"])
    @pytest.mark.parametrize("cause", [KeyboardInterrupt, PilotStopped])
    def test_is_a_failure_of_the_token(self, client, push, hook, cause, slots):
        push(3)

        class Poisoned(Worker):
            def prepare_run(self):
                if hook == "prepare_run" and self.current_task.id == "token_1":
                    raise cause

        def work(task):
            if hook == "process_task" and task.id == "token_1":
                raise cause

        Poisoned(client, work).run(slots=slots)
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 2, "error": 1}
        assert cause.__name__ in client.get("token_1")["error"][0]["message"]

    @pytest.mark.parametrize("slots", [1, 2])
    def test_in_cleanup_run_is_noted(self, client, push, slots):
        push(2)

        class Poisoned(Worker):
            def cleanup_run(self):
                raise KeyboardInterrupt

        Poisoned(client).run(slots=slots)
        assert count_states(client)["done"] == 2
        assert "KeyboardInterrupt in cleanup_run" in client.get("token_1")["error"][0]["message"]


def test_control_c_ends_a_run_that_has_no_handler_for_it(client, push):
    push(1)
    began = []

    def work(task):
        began.append(task.id)
        signal.pause()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), signal_after(0.1, signal.SIGINT, lambda: began):
            Worker(client, work, stop_signals=[signal.SIGTERM]).run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert state_of(client.get("token_0")) == "todo"


class TestATokenThatStopsItsPilot:
    def test_costs_a_few_pilots(self, client, push):
        push(2)
        pilots = 0
        while state_of(client.get("token_0")) == "todo":
            with pytest.raises(PilotStopped):
                Worker(client, lambda task: stop_this_pilot()).run()
            pilots += 1
        assert pilots == MAX_LOST + 2
        token = client.get("token_0")
        assert (state_of(token), token["lost_count"], token["scrub_count"]) == ("error", MAX_LOST + 1, 0)
        assert "as soon as they had begun with the token" in token["error"][0]["message"]
        assert state_of(client.get("token_1")) == "todo"

    def test_by_a_program_costs_a_few_pilots(self, client, push, environment, tmp_path):
        push(1)
        body = """
class Poisoned(Noting):
    def process_task(self, task):
        task["exit_code"] = execute(["sh", "-c", f"kill -TERM {os.getpid()}; sleep 60"])[1]
Poisoned(connect(), max_lost=1).run()
"""
        for number in range(3):
            process = PilotProcess(tmp_path / f"pilot_{number}", environment, body)
            try:
                assert process.end() == 0
            finally:
                process.close()
        assert state_of(client.get("token_0")) == "error"


class TestATokenThatMakesItsNodesSick:
    """It fills their disks, for example."""

    @pytest.fixture
    def pilot(self, client, monkeypatch):
        """Return a function that runs a pilot on a node with this name."""

        def work(task):
            raise OSError(errno.ENOSPC, "full")

        def run(node):
            monkeypatch.setattr(socket, "gethostname", lambda: node)
            with pytest.raises(PilotStopped):
                Worker(client, work).run()

        return run

    def test_costs_a_few_pilots(self, client, push, pilot):
        push(1)
        for number in range(MAX_LOST + 2):
            pilot(f"node_{number}")
        token = client.get("token_0")
        assert (state_of(token), token["lost_count"], token["scrub_count"]) == ("error", MAX_LOST + 1, 0)
        assert "pilots had problems with their nodes" in token["error"][0]["message"]

    def test_is_not_to_blame_for_one_sick_node(self, client, push, pilot):
        push(1)
        for _ in range(MAX_LOST + 3):
            pilot("node_0")
        token = client.get("token_0")
        assert (state_of(token), "lost_count" in token) == ("todo", False)


class TestAStopThatDoesNotCount:
    @staticmethod
    def stopped(seconds, pilots, **fields):
        """Return a token whose pilots were stopped after some seconds each."""
        token = make_token(**fields)
        for pilot in pilots:
            lock(token, pilot)
            token["claim"]["start"] -= seconds
            stop(token, MAX_LOST)
        return token

    def test_the_first(self):
        assert "lost_count" not in self.stopped(0, ["a"])

    def test_after_longer_work(self):
        assert "lost_count" not in self.stopped(QUICK + 1, "abcdefgh")

    def test_by_the_same_pilot(self):
        assert "lost_count" not in self.stopped(0, "aaaaaaaa")

    def test_as_soon_as_it_has_begun_counts(self):
        token = self.stopped(QUICK, "abcde")
        assert (token["lost_count"], state_of(token)) == (MAX_LOST + 1, "error")

    @pytest.mark.parametrize("attempts", [[None], ["x"], [{}], [{"outcome": "stopped", "start": "x", "end": None}]])
    def test_after_attempts_that_make_no_sense(self, attempts):
        assert "lost_count" not in self.stopped(0, ["a"], attempts=attempts)

    def test_of_a_pilot_that_has_put_it_back_before_its_work(self):
        token = Document(make_token())
        for pilot in "abcdefgh":
            lock(token, pilot)
            Attempt(token, {}).put_back("stopped: SIGTERM", None, MAX_LOST)
        assert "lost_count" not in token

    def test_of_a_pilot_that_has_not_begun(self, client, push):
        """It has locked tokens that wait, and is stopped."""
        push(40)
        for _ in range(MAX_LOST + 3):
            with pytest.raises(PilotStopped):
                Worker(client, lambda task: task.id == "token_5" and stop_this_pilot(), claim_ahead=20).run()
            client.edit("token_5", lambda token: {**token, "attempts": []})
            client.edit("token_0", lambda token: {**make_token(0), "_rev": token["_rev"]})
        assert count_states(client)["error"] == 0
