"""Short tokens travel together: they are locked ahead and saved many at a time, and nothing else changes."""

import json
import os
import signal
import statistics
import threading
import time
from dataclasses import dataclass

import pytest
from support.faults import CUT, FaultProxy
from support.tokens import make_token
from support.workers import PilotProcess, Worker, stop_this_pilot, wait_for

from picas import CouchDB, EndlessViewIterator, PrioritizedViewIterator, RunActor, Task, TaskViewIterator
from picas.exceptions import PicasError, PilotStopped, SettingsError
from picas.modifiers import claim_of
from picas.pilot.identity import PREFIX, pilot_rows
from picas.tokens.states import state_of
from picas.views import count_states

AHEAD = 2.0
NEVER = 60.0

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "picas-relief"])


@dataclass
class Write:
    """How many tokens a request has saved in which state."""

    locked: int = 0
    freed: int = 0
    ended: int = 0

    @classmethod
    def of(cls, request):
        if request.method not in ("POST", "PUT") or "_design" in request.path or PREFIX in request.path:
            return cls()
        content = json.loads(request.body or b"{}")
        states = [state_of(token) for token in content.get("docs", [content]) if token.get("type") == "token"]
        return cls(states.count("locked"), states.count("todo"), states.count("done") + states.count("error"))

    def __bool__(self):
        return bool(self.locked + self.freed + self.ended)


@pytest.fixture
def proxy(location):
    with FaultProxy(location.url) as proxy:
        yield proxy


@pytest.fixture
def writes(proxy):
    """Return a function that returns what was written so far."""
    return lambda: [write for write in map(Write.of, list(proxy.requests)) if write]


@pytest.fixture
def watched(through, proxy):
    """A client whose writes are known."""
    return through(proxy)


def tokens(client):
    rows = client.all_docs(include_docs=True)
    return {row.id: row.doc for row in rows if row.doc.get("type") == "token"}


def in_state(client, state):
    return sorted((id for id, token in tokens(client).items() if state_of(token) == state), key=_number)


def _number(token_id):
    return int(token_id.rpartition("_")[2])


def is_untouched(token):
    """Return whether a free token looks as if no pilot had ever locked it."""
    assert (token["lock"], token["done"], token["exit_code"]) == (0, 0, "")
    assert (token["scrub_count"], token.get("lost_count", 0)) == (0, 0)
    return not (token.get("attempts") or "claim" in token or any(name.endswith("job_id") for name in token))


class LongFrom(Worker):
    """Processes short tokens, and from one of them on long ones that end at a word."""

    def __init__(self, db, first_long, **options):
        super().__init__(db, **{"grace": 0.5, **options})
        self.first_long = first_long
        self.is_long = threading.Event()
        self.go = threading.Event()
        self.began = 0.0

    def process_task(self, task):
        self.processed.append(task.id)
        if len(self.processed) >= self.first_long:
            self.began = time.monotonic()
            self.is_long.set()
            while not self.go.wait(0.01):
                assert time.monotonic() - self.began < NEVER


@pytest.fixture
def running():
    """Return a function that runs an actor in another thread; each has ended after the test."""
    threads = []

    def run(actor, **options):
        threads.append(threading.Thread(target=actor.run, kwargs=options))
        threads[-1].start()
        return threads[-1]

    yield run
    for thread in threads:
        thread.join(NEVER)
        assert not thread.is_alive()


class TestTheBatches:
    @pytest.mark.parametrize("slots", [1, 4])
    def test_begin_with_one_a_slot_and_grow_at_most_twofold(self, watched, push, writes, slots):
        push(600)
        Worker(watched).run(slots=slots)
        assert count_states(watched)["done"] == 600
        locks = [write.locked for write in writes() if write.locked]
        assert all(lock <= slots * 2**number for number, lock in enumerate(locks))
        assert 32 < max(locks) <= 64 * slots

    def test_need_few_requests(self, watched, push, proxy):
        push(1000)
        proxy.forget()
        Worker(watched).run()
        assert count_states(watched)["done"] == 1000
        assert len(proxy.requests) < 80
        proxy.forget()

    def test_each_token_is_processed_once_and_in_order(self, client, push):
        push(300)
        actor = Worker(client, claim_ahead=60)  # a loaded machine gives none back
        actor.run()
        assert actor.processed == [f"token_{number}" for number in range(300)]
        assert all(len(token["attempts"]) == 1 for token in tokens(client).values())
        assert not any("claim" in token for token in tokens(client).values())

    def test_hold_no_more_than_ends_in_time(self, watched, push, writes):
        push(60)
        Worker(watched, lambda task: time.sleep(0.05), claim_ahead=0.5).run()
        assert 2 <= max(write.locked for write in writes()) <= 10

    def test_are_of_one_token_after_a_long_one(self, watched, push, writes, proxy):
        push(200)

        def work(task):
            if task.id == "token_100":
                time.sleep(0.6)
                proxy.forget()

        Worker(watched, work, claim_ahead=0.5).run()
        assert [write.locked for write in writes() if write.locked][:8] == [1] * 8

    @pytest.mark.parametrize("slots", [1, 4])
    def test_are_cut_when_tokens_take_longer_than_before(self, client, push, slots):
        push(400)

        def work(task):
            with lock:
                number = len(actor.processed)
            if number > 150:
                time.sleep(0.1)
            if 170 < number < 180:
                held.append(len(in_state(client, "locked")))

        held, lock = [], threading.Lock()
        actor = Worker(client, work, claim_ahead=0.5)
        actor.run(slots=slots, max_total_time=8)
        assert held
        assert max(held) <= 2 * 5 * slots + slots  # before the slots, and results

    @pytest.mark.parametrize("slots", [1, 3])
    def test_long_tokens_are_locked_and_saved_one_by_one(self, watched, push, writes, slots):
        push(4 * slots)
        Worker(watched, lambda task: time.sleep(0.3), claim_ahead=0.2).run(slots=slots)
        assert max(write.locked for write in writes()) <= slots
        assert not any(thread.name == "picas-relief" for thread in threading.enumerate())

    def test_the_last_tokens_are_taken_one_by_one(self, watched, push, writes):
        """Other pilots may want them. This one has met none, so it leaves them three quarters."""
        push(40)
        Worker(watched).run()
        locks = [write.locked for write in writes() if write.locked]
        left = 40
        for lock in locks:
            assert lock <= 1 + max(left // 4, 0)
            left -= lock
        assert locks[-2:] == [1, 1]

    def test_a_user_s_view_works_too(self, client, watched, push, writes):
        push(300)
        client.add_view("mine", "function(doc) { if (doc.type == 'token' && doc.lock == 0) emit(doc._id, doc._id); }")
        Worker(watched, view="mine").run()
        assert count_states(client)["done"] == 300
        assert max(write.locked for write in writes()) > 4

    def test_0_switches_it_off(self, watched, push, writes):
        push(30)
        Worker(watched, claim_ahead=0).run()
        assert max(write.locked for write in writes()) == 1

    def test_the_environment_can_switch_it_off(self, watched, push, writes, monkeypatch):
        monkeypatch.setenv("PICAS_CLAIM_AHEAD", "0")
        push(30)
        Worker(watched).run()
        assert max(write.locked for write in writes()) == 1

    @pytest.mark.parametrize("seconds", [-1, "soon", float("nan"), True])
    def test_an_invalid_time_is_refused(self, client, seconds):
        with pytest.raises(SettingsError, match="claim_ahead"):
            Worker(client, claim_ahead=seconds)

    def test_big_results_are_saved_before_they_fill_the_memory(self, watched, push, writes):
        push(40)

        def work(task):
            task.put_attachment("logs", b"x" * 3_000_000)

        Worker(watched, work).run()
        assert count_states(watched)["done"] == 40
        assert max(write.ended for write in writes()) <= 3


@pytest.mark.timing
@pytest.mark.parametrize("slots", [1, 4])
class TestBehindALongToken:
    @pytest.fixture
    def long(self, client, push, running, slots):
        """An actor whose slots are all in long tokens, with results and waiting tokens when these begin."""
        push(400)
        actor = LongFrom(client, 150, claim_ahead=1.0, heartbeat=0.05, lease=30)
        running(actor, slots=slots)
        assert actor.is_long.wait(NEVER)
        yield actor
        actor.first_long = 10**6
        actor.go.set()

    def test_results_are_saved_and_waiting_tokens_given_back_in_time(self, client, long, slots):
        assert len(in_state(client, "locked")) > slots  # results that are not saved, and tokens that wait
        time.sleep(max(0.0, long.began + 1.0 - time.monotonic()))
        now = tokens(client)
        locked = [id for id, token in now.items() if state_of(token) == "locked"]
        assert len(locked) <= slots
        assert sum(state_of(token) == "done" for token in now.values()) == len(long.processed) - len(locked)
        assert all(is_untouched(token) for token in now.values() if state_of(token) == "todo")

    def test_the_tokens_given_back_are_processed_later(self, client, long, running, slots):
        wait_for(lambda: len(in_state(client, "locked")) <= slots)
        other = Worker(client.copy())
        running(other).join(NEVER)  # another pilot takes them
        long.first_long = 10**6
        long.go.set()
        wait_for(lambda: count_states(client)["done"] == 400)
        assert sorted(long.processed + other.processed) == sorted(tokens(client))
        assert all(len(token["attempts"]) == 1 for token in tokens(client).values())

    def test_the_heartbeat_names_all_that_is_locked(self, client, long, slots):
        def names_all():
            holds = set(pilot_rows(client, include_docs=True)[0].doc["holds"])
            return set(in_state(client, "locked")) <= holds

        assert len(in_state(client, "locked")) > slots
        wait_for(names_all, 0.7)
        wait_for(lambda: len(pilot_rows(client, include_docs=True)[0].doc["holds"]) == slots)


@pytest.mark.timing
def test_a_result_is_saved_in_time_though_short_tokens_follow(client, push):
    push(400)
    waits = []
    finished = {}

    def work(task):
        time.sleep(0.02)
        finished[task.id] = time.monotonic()

    actor = Worker(client, work, claim_ahead=0.6)
    thread = threading.Thread(target=actor.run)
    thread.start()
    rival = client.copy()
    while thread.is_alive():
        asked, known = time.monotonic(), dict(finished)
        done = set(in_state(rival, "done"))
        waits += [asked - known[id] for id in known if id not in done]
    thread.join()
    assert max(waits) < 0.6 + 0.2  # the last is the time of a save
    assert statistics.median(waits) > 0.05  # they do travel together


@pytest.mark.timing
def test_sixteen_pilots_on_few_tokens_take_no_longer(client, push):
    def measure(ahead):
        for row in client.all_docs():
            if row.id.startswith("token_"):
                client.edit(row.id, lambda token: {**make_token(), "_id": token["_id"], "_rev": token["_rev"]})
        copies = [client.copy() for _ in range(16)]
        actors = [Worker(copy, lambda task: time.sleep(0.5), claim_ahead=ahead) for copy in copies]
        threads = [threading.Thread(target=actor.run) for actor in actors]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        wait_for(lambda: sum(len(actor.processed) for actor in actors) == 64)
        seconds = time.monotonic() - began
        for thread in threads:
            thread.join()
        assert count_states(client)["done"] == 64
        return seconds

    push(64)
    assert measure(AHEAD) <= measure(0) + 0.3


@pytest.fixture
def stopping(client, push, environment, tmp_path, proxy):
    """Return a function that starts a pilot, through the proxy, whose 150th token is long."""
    push(400)
    started = []

    def start(slots):
        pilot = PilotProcess(
            tmp_path / "pilot",
            {**environment, "PICAS_HOST_URL": proxy.url, "PICAS_HEARTBEAT": "0.2", "PICAS_LEASE": "1"},
            f"""
class Short(RunActor):
    def process_task(self, task):
        note("process", task.id)
        if len(open("journal").readlines()) >= 150:
            note("long", task.id)
            give_up = time.monotonic() + 60
            while time.monotonic() < give_up:
                time.sleep(0.01)
Short(connect(), claim_ahead=20, grace=0.5).run(slots={slots})
""",
        )
        started.append(pilot)
        pilot.wait_for("long")
        return pilot

    yield start
    for pilot in started:
        pilot.close()


@pytest.mark.parametrize("slots", [1, 4])
def test_a_stop_saves_what_is_finished_and_gives_back_the_rest_in_one_request(client, stopping, proxy, writes, slots):
    pilot = stopping(slots)
    wait_for(lambda: sum(line.startswith("long") for line in pilot.journal) == slots)
    time.sleep(0.5)  # a request may be on its way
    held = len(in_state(client, "locked"))
    assert held > slots
    proxy.forget()
    assert pilot.stop() == 0
    after = [write for write in writes() if write.ended or write.freed]
    assert len(after) == 1
    assert after[0].ended + after[0].freed == held
    assert after[0].freed > slots
    now = tokens(client)
    processed = {line.split()[1] for line in pilot.journal if line.startswith("process")}
    long = {line.split()[1] for line in pilot.journal if line.startswith("long")}
    assert {id for id, token in now.items() if state_of(token) == "done"} == processed - long
    assert {state_of(token) for token in now.values()} == {"todo", "done"}
    stopped = {id for id, token in now.items() if [one["outcome"] for one in token.get("attempts", [])] == ["stopped"]}
    assert stopped == long
    assert all(is_untouched(token) for id, token in now.items() if id not in processed)


def test_a_kill_loses_only_the_last_results_and_their_tokens_come_back(client, stopping):
    pilot = stopping(1)
    held = set(in_state(client, "locked"))
    done = set(in_state(client, "done"))
    assert len(held) > 1
    pilot.send(signal.SIGKILL)
    pilot.end()
    assert set(in_state(client, "locked")) == held
    watch = Worker(client, heartbeat=0.2, lease=1, iterator=EndlessViewIterator(TaskViewIterator(client, "todo")))
    watch.run(stop_function=lambda: count_states(client)["done"] == 400)
    now = tokens(client)
    assert {state_of(token) for token in now.values()} == {"done"}
    assert {id for id, token in now.items() if token.get("lost_count")} == held
    assert all(len(now[id]["attempts"]) == 1 for id in done)


class TestWhoMustSeeEachToken:
    """Has one token at a time."""

    def run(self, client, actor, **options):
        """Run an actor, and assert that it never holds more than one token."""
        seen = []
        rival = client.copy()
        actor.work = lambda task: seen.append((task.id, in_state(rival, "locked"), in_state(rival, "done")))
        actor.run(**options)
        assert len(seen) == 20
        for number, (id, locked, done) in enumerate(seen):
            assert locked == [id]
            assert len(done) == number

    def test_a_stop_function(self, client, push):
        push(20)
        self.run(client, Worker(client), stop_function=lambda: False)

    def test_a_cleanup_run_of_its_own(self, client, push):
        class Cleaning(Worker):
            def cleanup_run(self):
                pass

        push(20)
        self.run(client, Cleaning(client))

    def test_max_tasks(self, client, push):
        push(30)
        self.run(client, Worker(client), max_tasks=20)

    def test_an_iterator_with_a_claim_of_its_own(self, client, push):
        class Own(TaskViewIterator):
            def claim_task(self):
                return super().claim_task()

        push(20)
        self.run(client, Worker(client, iterator=Own(client, "todo")))

    def test_a_generator(self, client, push):
        push(20)
        self.run(client, Worker(client, iterator=(token for token in TaskViewIterator(client, "todo"))))

    def test_the_callback_of_an_endless_iterator(self, client, push):
        push(20)
        iterator = EndlessViewIterator(
            TaskViewIterator(client, "todo"), stop_callback=lambda: count_states(client)["done"] == 20
        )
        self.run(client, Worker(client, iterator=iterator))


class TestATokenThatWaits:
    """Is checked again when its turn has come."""

    def test_is_given_back_if_there_is_no_time_for_it_any_more(self, client, push):
        push(200)
        for number in range(150, 200):
            client.edit(f"token_{number}", lambda token: {**token, "walltime": 2.5})

        def work(task):
            if task.id == "token_149":
                time.sleep(0.7)

        actor = Worker(client, work, claim_ahead=20, walltime=3.0)
        actor.run()
        assert len(actor.processed) == 150
        now = tokens(client)
        assert {state_of(now[f"token_{number}"]) for number in range(150, 200)} == {"todo"}
        assert all(is_untouched(now[f"token_{number}"]) for number in range(150, 200))

    @pytest.mark.parametrize("slots", [1, 4])
    def test_is_given_back_at_the_end_of_the_run(self, client, push, slots):
        push(400)
        actor = LongFrom(client, 150, claim_ahead=20)
        actor.go.set()
        ends = []

        def stop_iterating(task):
            actor.processed.append(task.id)
            if len(actor.processed) == 150:
                ends.append(len(in_state(client, "locked")))
                actor.iterator.stop()
                ends.append(len(actor.processed))

        actor.process_task = stop_iterating
        actor.run(slots=slots)
        assert ends[0] > slots  # some did wait
        assert ends[1] <= len(actor.processed) < ends[1] + slots
        now = tokens(client)
        assert {id for id, token in now.items() if state_of(token) == "done"} == set(actor.processed)
        assert all(is_untouched(token) for id, token in now.items() if id not in actor.processed)

    def test_is_not_started_after_max_total_time(self, client, push):
        push(400)
        late = time.monotonic() + 5.1

        def work(task):
            if task.id == "token_150":
                time.sleep(max(0.0, late - time.monotonic()))

        actor = Worker(client, work, claim_ahead=40)
        actor.run(max_total_time=5)
        assert len(actor.processed) == 151
        now = tokens(client)
        assert all(is_untouched(token) for id, token in now.items() if id not in actor.processed)
        assert sum(state_of(token) == "done" for token in now.values()) == 151

    def test_is_dropped_if_another_pilot_has_taken_it(self, client, push, spool, caplog):
        push(400)
        rival = client.copy()

        def take_all_that_wait():
            locked = [token for token in tokens(rival).values() if state_of(token) == "locked"]
            taken = [token for token in locked if token["_id"] not in actor.processed]
            for token in taken:
                rival.save(Task(token).lock("another pilot"))
            pilot = pilot_rows(rival)[0].id
            rival.edit(pilot, lambda document: {**document, "state": "dead"})
            return [token["_id"] for token in taken]

        lost = []

        def work(task):
            if len(actor.processed) == 150:
                lost.extend(take_all_that_wait())
                wait_for(lambda: all(f"{id} was taken from this pilot" in caplog.text for id in lost))

        actor = Worker(client, work, claim_ahead=20, heartbeat=0.05, lease=30)
        actor.run()
        assert lost
        assert not set(lost) & set(actor.processed)
        assert {claim_of(client.get(id))["pilot"] for id in lost} == {"another pilot"}
        assert count_states(client)["done"] == 400 - len(lost)
        assert spool() == []

    def test_keeps_a_person_s_edit_when_it_is_given_back(self, client, push):
        push(400)

        def work(task):
            if len(actor.processed) == 150:
                waiting = [id for id in in_state(client, "locked") if id not in actor.processed]
                client.edit(waiting[-1], lambda token: {**token, "comment": "theirs"})
                edited.append(waiting[-1])
                actor.iterator.stop()

        edited = []
        actor = Worker(client, work, claim_ahead=20)
        actor.run()
        token = client.get(edited[0])
        assert (state_of(token), token["comment"]) == ("todo", "theirs")

    def test_has_the_true_time_of_its_start(self, client, push):
        push(200)
        starts = {}

        def work(task):
            starts[task.id] = int(time.time())
            if task.id == "token_100":
                time.sleep(2.1)

        Worker(client, work, claim_ahead=20).run()
        for id, token in tokens(client).items():
            assert abs(token["attempts"][0]["start"] - starts[id]) <= 1


class TestNeeds:
    def test_a_larger_token_is_not_overtaken_for_ever(self, client, push):
        push(600)
        client.edit("token_100", lambda token: {**token, "cores": 4})
        order = []
        at_work = set()
        lock = threading.Lock()

        def work(task):
            with lock:
                at_work.add(task.id)
                order.append(task.id)
                if task.id == "token_100":
                    assert at_work == {task.id}
                assert task.id == "token_100" or "token_100" not in at_work
            time.sleep(0.002)
            with lock:
                at_work.discard(task.id)

        Worker(client, work, cores=4).run(slots=4)
        assert count_states(client)["done"] == 600
        assert order.index("token_100") < 500

    def test_tokens_with_memory_are_not_locked_ahead_of_others_that_run_beside_them(self, watched, push, writes):
        push(40, memory=100)
        Worker(watched, memory=400).run(slots=4)
        assert count_states(watched)["done"] == 40
        assert max(write.locked for write in writes()) <= 4

    def test_one_slot_locks_tokens_with_memory_ahead(self, watched, push, writes):
        push(200, memory=100, cores=2)
        Worker(watched, memory=400, cores=2).run()
        assert count_states(watched)["done"] == 200
        assert max(write.locked for write in writes()) > 8

    def test_each_token_gets_its_gpu(self, client, push, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
        push(40, gpus=1)
        seen = []
        Worker(client, lambda task: seen.append(len(in_state(client, "locked"))), gpus=2).run()
        assert count_states(client)["done"] == 40
        assert max(seen) == 1

    def test_tokens_of_a_higher_priority_come_first(self, client, push):
        push(200)
        for number in range(20, 40):  # a pilot looks at 50 tokens at once
            client.edit(f"token_{number}", lambda token: {**token, "priority": 5})
        actor = Worker(client)
        actor.run()
        assert {_number(id) for id in actor.processed[:20]} == set(range(20, 40))

    def test_a_second_view_has_its_turn_when_the_first_is_empty(self, client, push):
        push(200)
        client.add_view("odd", "function(doc) { if (doc.type == 'token' && doc.lock == 0 && doc.odd) emit(doc._id); }")
        for number in range(150, 200):
            client.edit(f"token_{number}", lambda token: {**token, "odd": True})
        actor = Worker(client, iterator=PrioritizedViewIterator(client, "odd", "todo"))
        actor.run(slots=2)
        assert {_number(id) for id in actor.processed[:50]} == set(range(150, 200))
        assert len(actor.processed) == 200

    def test_a_token_is_not_taken_before_its_time(self, client, push):
        push(200)
        soon = int(time.time()) + 3
        for number in range(100, 110):
            client.edit(f"token_{number}", lambda token: {**token, "not_before": soon})
        began = {}
        Worker(client, lambda task: began.setdefault(task.id, time.time())).run()
        assert all(began[f"token_{number}"] >= soon for number in range(100, 110))
        assert count_states(client)["done"] == 200


class TestFailures:
    def test_failed_tokens_are_retried(self, client, push):
        push(200)

        def work(task):
            if _number(task.id) % 10 == 3 and task["scrub_count"] == 0:
                raise RuntimeError("it fails once")

        actor = Worker(client, work)
        actor.run(max_scrub=1)
        assert len(actor.processed) == 220
        assert count_states(client)["done"] == 200

    def test_a_result_that_a_batch_cannot_save_is_saved_alone(self, client, push, spool):
        push(200)
        rival = client.copy()

        def work(task):
            task["output"] = "ours"
            if _number(task.id) % 20 == 5:
                rival.edit(task.id, lambda token: {**token, "comment": "theirs"})
            if task.id == "token_150":
                rival.delete(rival.get(task.id))

        Worker(client, work).run()
        now = tokens(client)
        assert len(now) == 199
        assert {state_of(token) for token in now.values()} == {"done"}
        assert {token["output"] for token in now.values()} == {"ours"}
        assert sum("comment" in token for token in now.values()) == 10
        assert [file.name.startswith("token_150-") for file in spool()] == [True]

    @pytest.mark.timing
    @pytest.mark.parametrize("slots", [1, 4])
    def test_an_outage_while_results_wait_loses_nothing(self, client, far, gate, push, spool, slots):
        push(400)
        processed = []

        def work(task):
            processed.append(task.id)
            if len(processed) == 150:
                gate.close()
                time.sleep(0.8)
                threading.Timer(0.3, gate.open).start()

        Worker(far, work, claim_ahead=0.4).run(slots=slots)
        assert sorted(processed) == sorted(tokens(client))
        assert count_states(client)["done"] == 400
        assert spool() == []

    @pytest.mark.timing
    def test_results_are_spooled_if_the_database_stays_away(self, client, far, gate, push, spool):
        push(400)
        processed = []

        def work(task):
            processed.append(task.id)
            if len(processed) == 150:
                gate.close()
                time.sleep(1.0)

        with pytest.raises(PicasError):
            Worker(far, work, claim_ahead=0.4, max_outage=0.2).run()
        done = set(in_state(client, "done"))
        spooled = {file.name.rpartition("-")[0] for file in spool()}
        assert done | spooled == set(processed)
        assert len(spooled) > 1
        gate.open()

    def test_lost_answers_lose_nothing(self, client, push, proxy, through):
        push(600)
        far = through(proxy)
        processed = []

        def work(task):
            processed.append(task.id)
            if len(processed) in (50, 150, 300, 450):
                proxy.fail("POST", "_bulk_docs", CUT, after=len(processed) % 100 == 50, times=3)

        Worker(far, work, spool_folder="spool").run()
        now = tokens(client)
        assert {state_of(token) for token in now.values()} == {"done"}
        assert all(len([one for one in token["attempts"] if one["outcome"] == "done"]) == 1 for token in now.values())
        assert sorted(processed) == sorted(now)

    def test_a_signal_saves_and_gives_back(self, client, push):
        push(400)

        def work(task):
            if len(actor.processed) == 150:
                stop_this_pilot()

        actor = Worker(client, work, claim_ahead=20)
        with pytest.raises(PilotStopped):
            actor.run()
        assert count_states(client) == {"todo": 251, "locked": 0, "done": 149, "error": 0}

    def test_a_stop_while_results_are_saved_beside_the_user_s_code(self, client, push, proxy, through):
        """The thread that saves them is in its request when the signal comes."""
        push(400)
        arrived = threading.Event()

        def hold():
            arrived.set()
            time.sleep(0.5)

        class Stopping(RunActor):
            processed = 0

            def process_task(self, task):
                self.processed += 1
                if self.processed == 150:
                    proxy.fail("POST", "_bulk_docs", CUT, after=True, meanwhile=hold)
                    assert arrived.wait(NEVER)
                    os.kill(os.getpid(), signal.SIGUSR1)
                    time.sleep(NEVER)

        actor = Stopping(through(proxy), claim_ahead=0.3, stop_signals=[signal.SIGUSR1], grace=0.5)
        with pytest.raises(PilotStopped):
            actor.run()
        assert count_states(client) == {"todo": 251, "locked": 0, "done": 149, "error": 0}

    def test_reconnecting_in_the_middle_changes_nothing(self, client, push):
        class Reconnecting(Worker):
            def process_task(self, task):
                super().process_task(task)
                if len(self.processed) == 150:
                    self.reconnect()

        push(400)
        actor = Reconnecting(CouchDB.copy(client), claim_ahead=20)
        actor.run()
        assert len(actor.processed) == 400
        assert count_states(client)["done"] == 400
