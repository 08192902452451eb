"""A pilot that died without a word: its tokens come back by themselves, and it overwrites nothing if it returns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.faults import CUT, FaultProxy, Reply
from support.workers import PilotProcess, Worker, is_alive, pid_in, signal_after, wait_for

from picas import Document, EndlessViewIterator, RunActor, Task, TaskViewIterator
from picas.exceptions import SettingsError, Unreachable
from picas.executers import execute
from picas.pilot import heartbeat, leases
from picas.pilot.heartbeat import Heartbeat
from picas.pilot.identity import DEAD, PREFIX, RUNNING, Pilot, pilot_rows
from picas.pilot.leases import Watch
from picas.pool import reset_tokens
from picas.tokens.states import state_of
from picas.views import count_states

NEVER = 60.0

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture
def proxy(location):
    with FaultProxy(location.url) as proxy:
        yield proxy


def pilots(client):
    """Return the documents of all pilots."""
    return [row.doc for row in pilot_rows(client, include_docs=True)]


def lock(client, token_id, pilot):
    token = Task(client.get(token_id)).lock(pilot)
    return client.save(token)


def mark_dead(client):
    """Mark the only pilot as dead, though it goes on with its heartbeat meanwhile."""
    client.edit(pilots(client)[0]["_id"], lambda document: {**document, "state": DEAD})


@pytest.fixture
def dead_pilot(client):
    """Return a function that saves the document of a pilot that will never beat again, and returns its id."""

    def make(**fields):
        pilot = Pilot()
        client.save({"_id": pilot.id, "type": "pilot", "state": RUNNING, "holds": [], **fields})
        return pilot.id

    return make


def look_for(watch, seconds):
    """Look again and again for some seconds and return what was put back."""
    give_up = time.monotonic() + seconds
    put_back = []
    while time.monotonic() < give_up:
        watch.look()
        put_back += watch.put_back
        time.sleep(0.02)
    return put_back


@pytest.mark.timing
class TestAWatch:
    def test_puts_back_the_tokens_of_a_pilot_whose_document_does_not_change(self, client, push, dead_pilot):
        push(3)
        pilot = dead_pilot()
        lock(client, "token_0", pilot)
        lock(client, "token_2", pilot)
        watch = Watch(client, lease=0.3)
        watch.look()
        assert watch.put_back == []
        assert sorted(look_for(watch, 0.6)) == ["token_0", "token_2"]
        assert count_states(client) == {"todo": 3, "locked": 0, "done": 0, "error": 0}
        token = client.get("token_0")
        assert (token["lost_count"], token["scrub_count"], token["hostname"]) == (1, 0, os.uname().nodename)
        assert [attempt["outcome"] for attempt in token["attempts"]] == ["lost"]
        assert token["attempts"][0]["pilot"] == pilot
        assert "claim" not in token
        assert client.get(pilot)["state"] == DEAD

    def test_leaves_the_tokens_of_a_pilot_that_lives(self, client, push, dead_pilot):
        push(1)
        pilot = dead_pilot()
        lock(client, "token_0", pilot)
        watch = Watch(client, lease=0.5)
        for _ in range(10):
            client.save({**client.get(pilot).value, "beat": time.monotonic()})
            assert look_for(watch, 0.15) == []
        assert client.get(pilot)["state"] == RUNNING

    def test_sees_more_pilots_than_are_listed_at_once(self, client, dead_pilot, monkeypatch):
        monkeypatch.setattr("picas.pilot.identity.PAGE", 3)
        for count in range(1, 8):
            dead_pilot()
            watch = Watch(client, lease=NEVER)
            watch.look()
            assert len(watch._seen) == len({row.id for row in pilot_rows(client)}) == len(pilot_rows(client)) == count
        assert all(row.doc["type"] == "pilot" for row in pilot_rows(client, include_docs=True))

    def test_looks_at_revisions_and_at_no_clock(self, client, push, dead_pilot, monkeypatch):
        push(1)
        pilot = dead_pilot(start=2**40, lease=0.1)
        lock(client, "token_0", pilot)
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert look_for(Watch(client, lease=0.2), 0.5) == ["token_0"]

    def test_gives_a_pilot_the_lease_that_it_asks_for(self, client, push, dead_pilot):
        push(1)
        lock(client, "token_0", dead_pilot(lease=NEVER))
        assert look_for(Watch(client, lease=0.2), 0.6) == []

    def test_gives_a_pilot_for_ever_that_asks_for_it(self):
        """As a whole number that is longer than any float."""
        assert leases._own_lease(Document({"lease": 10**400})) > 10**300

    @pytest.mark.parametrize("lease", ["long", None, -1, True])
    def test_survives_nonsense_in_a_document(self, client, push, dead_pilot, lease):
        push(1)
        lock(client, "token_0", dead_pilot(lease=lease, holds={"a": 1}))
        assert look_for(Watch(client, lease=0.2), 0.6) == ["token_0"]

    def test_leaves_tokens_alone_that_older_clients_or_people_have_locked(self, client, push, dead_pilot):
        push(3)
        dead_pilot(holds=["token_0", "token_1", "token_2", "nope"])
        client.save({**client.get("token_0").value, "lock": 5})
        lock(client, "token_1", "a script of somebody's")
        assert look_for(Watch(client, lease=0.2), 0.6) == []
        assert count_states(client)["locked"] == 2

    def test_leaves_documents_alone_that_are_no_pilots(self, client):
        stored = client.save({"_id": f"{PREFIX}but_no_pilot", "state": RUNNING})
        assert look_for(Watch(client, lease=0.2), 0.6) == []
        assert client.get(stored["_id"]).rev == stored["_rev"]

    def test_is_content_with_a_pilot_that_ends(self, client, dead_pilot):
        pilot = dead_pilot()
        watch = Watch(client, lease=0.2)
        watch.look()
        client.delete(client.get(pilot))
        assert look_for(watch, 0.5) == []
        assert pilots(client) == []

    def test_of_several_each_token_is_put_back_once(self, client, push, dead_pilot):
        push(20)
        pilot = dead_pilot()
        for number in range(20):
            lock(client, f"token_{number}", pilot)
        put_back = []

        def look(client):
            put_back.extend(look_for(Watch(client, lease=0.3), 1.0))

        threads = [threading.Thread(target=look, args=(client.copy(),)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(put_back) == sorted(f"token_{number}" for number in range(20))
        assert {len(client.get(f"token_{number}")["attempts"]) for number in range(20)} == {1}

    def test_goes_on_with_what_another_has_begun(self, client, push, dead_pilot):
        """Whoever has marked a pilot as dead may have died before it put the tokens back."""
        push(1)
        lock(client, "token_0", dead_pilot(state=DEAD))
        assert look_for(Watch(client, lease=0.2), 0.6) == ["token_0"]

    def test_reads_the_document_of_a_dead_pilot_once(self, client, dead_pilot, through, proxy):
        dead_pilot(state=DEAD, end=time.time())
        look_for(Watch(through(proxy), lease=0.2), 0.6)
        assert proxy.count("GET", f"/{PREFIX}") == 1

    def test_removes_the_document_of_a_pilot_that_died_long_ago(self, client, dead_pilot):
        old, recent = dead_pilot(state=DEAD, end=time.time() - 8 * 86400), dead_pilot(state=DEAD, end=time.time())
        look_for(Watch(client, lease=0.2), 0.5)
        assert [pilot["_id"] for pilot in pilots(client)] == [recent] != [old]

    def test_knows_the_tokens_from_the_document_where_there_is_no_view(self, client, push, dead_pilot):
        push(2)
        pilot = dead_pilot(holds=["token_0"])
        lock(client, "token_0", pilot)
        lock(client, "token_1", pilot)  # since its last heartbeat
        client.delete(client.get("_design/Monitor"))
        assert look_for(Watch(client, lease=0.2), 0.5) == ["token_0"]

    def test_a_token_that_loses_its_pilot_too_often_is_in_error(self, client, push, dead_pilot):
        push(1)
        for lost in range(1, 4):
            lock(client, "token_0", dead_pilot())
            look_for(Watch(client, lease=0.1, max_lost=2), 0.3)
            assert client.get("token_0")["lost_count"] == lost
            assert state_of(client.get("token_0")) == ("todo" if lost <= 2 else "error")
        token = client.get("token_0")
        assert "lost its pilot 3 times" in token["error"][-1]["message"]
        assert [attempt["outcome"] for attempt in token["attempts"]] == ["lost"] * 3

    def test_says_in_the_token_for_how_long_the_pilot_was_silent(self, client, push, dead_pilot):
        push(2)
        lock(client, "token_0", dead_pilot(lease=1))  # longer than that of the others
        lock(client, "token_1", dead_pilot(state=DEAD, lease=700))  # another pilot has found it
        look_for(Watch(client, lease=0.1), 1.5)
        reasons = [client.get(f"token_{number}")["attempts"][0]["reason"] for number in range(2)]
        assert reasons == ["lost: pilot silent for 1 s", "lost: pilot silent for 700 s"]

    def test_a_person_who_resets_such_a_token_gives_it_as_many_tries_again(self, client, push):
        push(1, lock=99, done=99, exit_code=99, lost_count=4)
        reset_tokens(client, "error")
        assert "lost_count" not in client.get("token_0")

    @pytest.mark.parametrize("after", [False, True])
    def test_a_lost_answer_changes_nothing(self, client, push, dead_pilot, through, proxy, after):
        push(1)
        lock(client, "token_0", dead_pilot())
        watch = Watch(through(proxy), lease=0.2)
        proxy.fail("POST", "_bulk_docs", CUT, after=after)
        assert look_for(watch, 0.6) == ["token_0"]
        assert client.get("token_0")["lost_count"] == 1

    def test_raises_while_the_database_is_away_and_can_be_asked_again(self, client, push, dead_pilot, far, gate):
        push(1)
        lock(client, "token_0", dead_pilot())
        watch = Watch(far, lease=0.2)
        watch.look()
        gate.close()
        with pytest.raises(Unreachable):
            watch.look()
        gate.open()
        assert look_for(watch, 0.5) == ["token_0"]

    def test_looks_the_less_often_the_more_pilots_there_are(self, client, dead_pilot, monkeypatch):
        monkeypatch.setattr(leases, "SECONDS_PER_PILOT", 10.0)
        watch = Watch(client, lease=100.0)
        assert watch.look() == 25.0
        for _ in range(5):
            dead_pilot()
        assert watch.look() == 50.0
        for _ in range(10):
            dead_pilot()
        assert watch.look() == 100.0


class TestAHeartbeat:
    def test_is_a_document_that_tells_of_the_pilot(self, client, push, monkeypatch):
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        push(2)
        seen = []
        actor = Worker(client, heartbeat=0.05, lease=30)

        def wait(task):
            wait_for(lambda: pilots(client)[0]["holds"] == [task.id])
            seen.append(pilots(client)[0])

        actor.work = wait
        actor.run()
        document = seen[1]
        assert document["_id"] == actor._picas.pilot.id
        kept = ("type", "state", "host", "pid", "version", "slots", "slurm_job_id", "holds", "heartbeat", "lease")
        assert {name: document[name] for name in kept} == {
            "type": "pilot",
            "state": "running",
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "version": "2.0.0",
            "slots": 1,
            "slurm_job_id": "17",
            "holds": ["token_1"],
            "heartbeat": 0.05,
            "lease": 30.0,
        }
        assert document["outcomes"] == {"done": 1}

    def test_is_there_before_the_first_token_is_locked_and_gone_after_the_last(self, client, push, through, proxy):
        push(1)
        Worker(through(proxy)).run()
        writes = [(request.method, PREFIX in request.path) for request in proxy.requests if request.method != "GET"]
        assert writes[0] == ("PUT", True)
        assert writes[-1] == ("POST", False)  # with the document that is kept for people
        assert len(writes) == 4  # and in between a lock, and a release
        assert pilots(client) == []

    def test_goes_on_while_the_code_works(self, client, push):
        push(1)
        beats = set()

        def work(task):
            wait_for(lambda: beats.add(pilots(client)[0]["beat"]) or len(beats) >= 4)

        Worker(client, work, heartbeat=0.05, lease=5).run()
        assert len(beats) >= 4

    def test_tells_what_all_slots_hold(self, client, push):
        push(3)

        def work(task):
            wait_for(lambda: sorted(pilots(client)[0]["holds"]) == ["token_0", "token_1", "token_2"])

        Worker(client, work, heartbeat=0.05, lease=5).run(slots=3)

    @pytest.mark.timing
    def test_survives_an_outage(self, client, push, far, gate):
        push(1)

        def work(task):
            first = pilots(client)[0]["beat"]
            gate.close()
            time.sleep(0.3)
            gate.open()
            wait_for(lambda: pilots(client)[0]["beat"] > first)

        Worker(far, work, heartbeat=0.05, lease=NEVER).run()
        assert state_of(client.get("token_0")) == "done"

    @pytest.mark.timing
    def test_stays_after_a_run_that_could_not_save_a_token(self, client, push, far, gate):
        push(1)
        Worker(far, lambda task: gate.close(), max_outage=0.1).run(max_tasks=1)
        gate.open()
        assert [pilot["state"] for pilot in pilots(client)] == ["running"]
        assert look_for(Watch(client, lease=0.2), 0.5) == []
        document = {**pilots(client)[0], "lease": 0.1}
        client.save(document)
        assert look_for(Watch(client, lease=0.2), 0.5) == ["token_0"]

    @pytest.mark.timing
    def test_is_waited_for_while_the_database_is_away(self, client, push, far, gate):
        push(1)
        gate.close()
        threading.Timer(0.3, gate.open).start()
        Worker(far).run()
        assert state_of(client.get("token_0")) == "done"

    def test_a_server_that_refuses_the_document_gets_its_tokens_done(self, client, push, through, proxy, caplog):
        push(1)
        far = through(proxy)
        proxy.fail("PUT", PREFIX, Reply(403, b'{"error":"forbidden","reason":"tokens only"}'), times=9)
        Worker(far).run()
        assert state_of(client.get("token_0")) == "done"
        assert "its tokens stay locked" in caplog.text

    @pytest.mark.timing
    def test_an_error_of_its_own_does_not_end_it(self, client, push, monkeypatch):
        push(1)
        monkeypatch.setattr(heartbeat, "RETRY", 0.01)
        look = Watch.look
        calls = []

        def fail(watch):
            calls.append(1)
            if len(calls) < 3:
                raise RuntimeError("a defect")
            return look(watch)

        monkeypatch.setattr(Watch, "look", fail)
        Worker(client, lambda task: wait_for(lambda: len(calls) > 3), heartbeat=0.05, lease=0.2).run()
        assert state_of(client.get("token_0")) == "done"

    @pytest.mark.parametrize("cause", [SystemExit, KeyboardInterrupt, MemoryError])
    def test_nothing_ends_it(self, client, push, monkeypatch, cause):
        push(1)
        monkeypatch.setattr(heartbeat, "RETRY", 0.01)
        save = Heartbeat._save
        calls = []

        def fail(beat):
            calls.append(1)
            if 1 < len(calls) < 4:
                raise cause
            save(beat)

        monkeypatch.setattr(Heartbeat, "_save", fail)
        Worker(client, lambda task: wait_for(lambda: pilots(client)[0]["beat"] > 2), heartbeat=0.05, lease=5).run()
        assert state_of(client.get("token_0")) == "done"

    def test_goes_on_although_user_code_has_lowered_the_recursion_limit(self, client, push, environment, tmp_path):
        push(1)
        body = """
from picas.pilot import heartbeat
heartbeat.RETRY = 0.1
class Lowering(Noting):
    def process_task(self, task):
        depth, frame = 1, sys._getframe()
        while frame.f_back:
            depth, frame = depth + 1, frame.f_back
        sys.setrecursionlimit(depth + 8)
        note("working")
        while not os.path.exists("enough"):
            time.sleep(0.02)
Lowering(connect(), lease=1).run()
"""
        process = PilotProcess(tmp_path, environment, body)
        try:
            process.wait_for("working")
            (row,) = pilot_rows(client)
            beat = client.get(row.id)["beat"]
            wait_for(lambda: client.get(row.id)["beat"] > beat + 2)
            (tmp_path / "enough").touch()
            assert process.end() == 0
        finally:
            process.close()

    def test_goes_on_if_nothing_can_be_logged(self, client, push, gate, environment, tmp_path):
        """The user's code has closed the standard error, and there is something to say."""
        push(1)
        process = PilotProcess(
            tmp_path,
            {**environment, "PICAS_HOST_URL": gate.url},
            """
class Closing(Noting):
    def process_task(self, task):
        sys.stderr.close()
        note("working")
        while not os.path.exists("go"):
            time.sleep(0.01)
Closing(connect(), heartbeat=0.05, lease=30).run()
""",
        )
        process.wait_for("working")
        first = pilots(client)[0]["beat"]
        gate.close()
        time.sleep(0.5)
        gate.open()
        wait_for(lambda: pilots(client)[0]["beat"] > first + 3)
        (tmp_path / "go").touch()
        assert process.end() == 0
        assert state_of(client.get("token_0")) == "done"


@pytest.mark.timing
class TestAPilotThatReturns:
    """It was cut off for longer than the lease; its token was put back, and maybe taken by another."""

    @staticmethod
    def declare_dead(client):
        """Do what other pilots do when this one is silent, and let one of them take its token.

        The mark comes last: once it is there the code that does this here is interrupted.
        """
        tokens = [client.get(token_id) for token_id in ("token_0", "token_1")]
        for token in tokens:
            if state_of(token) == "locked":
                lock(client, client.save(Task(token).scrub()).id, "another")
        mark_dead(client)

    @pytest.mark.parametrize("slots", [1, 2])
    def test_stops_the_work_and_keeps_the_result_aside(self, client, push, spool, slots):
        push(2)
        began = time.monotonic()

        def work(task):
            task["output"] = {"half": 1}
            if task.id == "token_0":
                self.declare_dead(client)
                time.sleep(0.01)
                while True:
                    time.sleep(0.01)
            time.sleep(0.3)

        actor = Worker(client, work, heartbeat=0.05, lease=5, grace=1)
        actor.run(slots=slots, max_tasks=1)
        assert time.monotonic() - began < 30
        token = client.get("token_0")
        assert (token["claim"]["pilot"], token["output"]) == ("another", {})
        assert "token_0-" in "".join(path.name for path in spool())
        assert actor._picas.pilot.outcomes["taken away"] == 1

    def test_ends_the_child(self, client, push, spool, tmp_path):
        push(2)

        def declare_dead():
            pid_in(tmp_path / "pid")
            self.declare_dead(client)

        def work(task):
            threading.Thread(target=declare_dead).start()
            task["exit_code"] = execute(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"])[1]

        Worker(client, work, heartbeat=0.05, lease=5).run(max_tasks=1)
        assert not is_alive(pid_in(tmp_path / "pid"))
        assert client.get("token_0")["claim"]["pilot"] == "another"
        assert len(spool()) == 1

    def test_although_the_server_refuses_its_heartbeat(self, client, push, through, proxy, spool):
        push(2)

        def work(task):
            proxy.fail("PUT", PREFIX, Reply(403, b'{"error":"forbidden","reason":"tokens only"}'), times=999)
            self.declare_dead(client)
            while True:
                time.sleep(0.01)

        Worker(through(proxy), work, heartbeat=0.05, lease=0.3, grace=1).run(max_tasks=1)
        assert client.get("token_0")["claim"]["pilot"] == "another"

    def test_goes_on_with_what_is_still_its_own(self, client, push):
        push(1)

        def work(task):
            mark_dead(client)
            wait_for(lambda: pilots(client)[0]["state"] == RUNNING)
            time.sleep(0.2)

        Worker(client, work, heartbeat=0.05, lease=5).run()
        token = client.get("token_0")
        assert (state_of(token), len(token["attempts"])) == ("done", 1)

    def test_notices_also_if_its_document_was_deleted(self, client, push, spool):
        push(1)

        def work(task):
            lock(client, client.save(Task(client.get("token_0")).scrub()).id, "another")
            client.edit(pilots(client)[0]["_id"], lambda document: {**document, "_deleted": True})
            while True:
                time.sleep(0.01)

        Worker(client, work, heartbeat=0.05, lease=5).run(max_tasks=1)
        assert client.get("token_0")["claim"]["pilot"] == "another"
        assert len(spool()) == 1

    def test_takes_the_next_token_as_ever(self, client, push, spool):
        push(2)

        def work(task):
            if task.id == "token_0":
                self.declare_dead(client)
                while True:
                    time.sleep(0.01)

        Worker(client, work, heartbeat=0.05, lease=5).run(max_tasks=2)
        assert state_of(client.get("token_1")) == "done"
        assert pilots(client) == []


@pytest.mark.timing
def test_the_tokens_of_a_pilot_that_was_killed_are_done_by_another(client, push, environment, tmp_path):
    push(3)
    script = tmp_path / "pilot.py"
    script.write_text(
        "import time\n"
        "from picas import RunActor, console\n"
        "class Sleeping(RunActor):\n"
        "    def process_task(self, task):\n"
        "        print('working', flush=True)\n"
        "        time.sleep(60)\n"
        "Sleeping(console.connect()).run()\n"
    )
    settings = {**environment, "PICAS_HEARTBEAT": "0.1", "PICAS_LEASE": "0.5"}
    doomed = subprocess.Popen([sys.executable, script], env=settings, stdout=subprocess.PIPE)
    assert doomed.stdout.readline() == b"working\n"
    doomed.kill()
    doomed.communicate()
    tokens = EndlessViewIterator(TaskViewIterator(client, "todo"))
    actor = Worker(client, iterator=tokens, heartbeat=0.1, lease=0.5)
    actor.run(max_tasks=3)
    assert sorted(actor.processed) == ["token_0", "token_1", "token_2"]
    assert [attempt["outcome"] for attempt in client.get("token_0")["attempts"]] == ["lost", "done"]
    assert [pilot["state"] for pilot in pilots(client)] == ["dead"]


def test_a_pilot_that_is_stopped_leaves_no_document(client, push):
    push(1)
    actor = Worker(client, lambda task: time.sleep(NEVER))
    with pytest.raises(SystemExit), signal_after(0.1, signal.SIGTERM, lambda: actor.processed):
        actor.run()
    assert pilots(client) == []
    assert state_of(client.get("token_0")) == "todo"


class TestTimes:
    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({}, (60.0, 600.0)),
            ({"PICAS_HEARTBEAT": "5"}, (5.0, 600.0)),
            ({"PICAS_LEASE": "30"}, (10.0, 30.0)),
            ({"PICAS_HEARTBEAT": "400"}, (400.0, 1200.0)),
            ({"PICAS_HEARTBEAT": "2", "PICAS_LEASE": "6"}, (2.0, 6.0)),
            ({"PICAS_HEARTBEAT": "", "PICAS_LEASE": ""}, (60.0, 600.0)),
        ],
    )
    def test_come_from_the_environment(self, client, monkeypatch, variables, expected):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        actor = RunActor(client)
        assert (actor._picas.options.heartbeat, actor._picas.options.lease) == expected

    def test_of_the_others_too(self, client, monkeypatch):
        monkeypatch.setenv("PICAS_GRACE", "2.5")
        monkeypatch.setenv("PICAS_MAX_OUTAGE", "7")
        actor = RunActor(client)
        assert (actor._picas.options.grace, actor._picas.options.max_outage) == (2.5, 7.0)

    def test_an_argument_wins(self, client, monkeypatch):
        for name in ("GRACE", "MAX_OUTAGE", "HEARTBEAT", "LEASE"):
            monkeypatch.setenv(f"PICAS_{name}", "50")
        actor = RunActor(client, grace=0, max_outage=1, heartbeat=2, lease=6)
        assert (
            actor._picas.options.grace,
            actor._picas.options.max_outage,
            actor._picas.options.heartbeat,
            actor._picas.options.lease,
        ) == (0.0, 1.0, 2.0, 6.0)

    @pytest.mark.parametrize("name", ["PICAS_GRACE", "PICAS_MAX_OUTAGE", "PICAS_HEARTBEAT", "PICAS_LEASE"])
    @pytest.mark.parametrize("value", ["soon", "-1", "nan", "1h"])
    def test_nonsense_is_refused_with_one_line(self, client, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=f"^{name} must be a number of seconds, at least .*, not '{value}'$"):
            RunActor(client)

    @pytest.mark.parametrize("name", ["grace", "max_outage", "heartbeat", "lease"])
    @pytest.mark.parametrize("value", ["soon", -1, True, [1]])
    def test_so_is_an_argument_that_is_nonsense(self, client, name, value):
        with pytest.raises(SettingsError, match=f"^the argument {name} must be"):
            RunActor(client, **{name: value})

    def test_a_lease_that_is_too_short_for_the_heartbeat_is_refused(self, client):
        with pytest.raises(SettingsError, match="at least 3 times"):
            RunActor(client, heartbeat=10, lease=20)

    def test_a_spool_folder_that_is_a_file_is_refused(self, client, monkeypatch, tmp_path):
        file = tmp_path / "file"
        file.touch()
        monkeypatch.setenv("PICAS_SPOOL", str(file))
        with pytest.raises(SettingsError, match="PICAS_SPOOL must name a folder"):
            RunActor(client)


@pytest.mark.timing
def test_a_heartbeat_by_itself_writes_when_it_is_due(client):
    """What tests/benchmarks/beats.py relies on."""
    pilot = Pilot()
    heartbeat = Heartbeat(client, pilot, 0.2, Watch(client, pilot.id, lease=NEVER))
    heartbeat.save_first()
    first = client.get(pilot.id).rev
    assert 0 < heartbeat.step() <= 0.2
    assert client.get(pilot.id).rev == first
    time.sleep(0.2)
    heartbeat.step()
    assert client.get(pilot.id).rev.startswith("2-")
    heartbeat.end(is_clean=True)
    assert pilots(client) == []
