"""Runs with tokens that have different needs (cores, memory, GPUs)."""

import logging
import threading
import time
from pathlib import Path

import pytest
from support.tokens import make_token

from picas import EndlessViewIterator, RunActor, Task, TaskViewIterator, ViewIterator
from picas.executers import execute, run_command
from picas.tokens.states import state_of
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")

MUCH = {"cores": 4, "memory": 1000, "gpus": 0, "tags": ""}


class Pilot(RunActor):
    """Calls `work` for each token, and records which tokens are at work at the same time."""

    def __init__(self, db, work=lambda task: None, **options):
        super().__init__(db, **{**MUCH, **options})
        self.work = work
        self.started = []
        self.together = []
        self._at = {}
        self._lock = threading.Lock()

    def process_task(self, task):
        with self._lock:
            self.started.append(task.id)
            self._at[task.id] = task
            self.together.append(list(self._at.values()))
        self.work(task)
        with self._lock:
            del self._at[task.id]

    def most(self, field):
        """Return the most that tokens at work at the same time needed of a resource."""
        return max(sum(task.value.get(field, 1) for task in tokens) for tokens in self.together)


class Foreign(ViewIterator):
    """An iterator of the user's script, which locks tokens by itself, in order."""

    def __init__(self, database):
        super().__init__()
        self.database = database

    def claim_task(self):
        for row in self.database.view("todo", include_docs=True).rows:
            if state_of(row.doc) == "todo":
                return self.database.save(Task(row.doc).lock(self.pilot))
        raise IndexError("nothing left")


@pytest.fixture
def put(client):
    """Save free tokens with these needs, token_0 and on."""

    def put(*needs):
        assert all(client.save_documents([make_token(number, **need) for number, need in enumerate(needs)]))

    return put


def states(client):
    rows = client.db.view("_all_docs", startkey="token_", endkey="token_\ufff0", include_docs=True).rows
    return {row.id: state_of(row.doc) for row in rows}


def nap(seconds=0.05):
    time.sleep(seconds)


class TestWhichTokensAPilotTakes:
    @pytest.mark.parametrize("slots", [1, 3])
    @pytest.mark.parametrize(
        "needs",
        [{"cores": 5}, {"memory": "1001"}, {"gpus": 1}, {"tags": ["avx2"]}],
        ids=lambda needs: next(iter(needs)),
    )
    def test_a_token_that_needs_more_than_the_pilot_has_is_not_touched(self, client, put, caplog, needs, slots):
        put(needs, {}, {}, needs, {})
        before = client.get("token_0").rev
        with caplog.at_level(logging.WARNING, "picas"):
            Pilot(client).run(slots=slots)
        assert states(client) == {
            "token_0": "todo",
            "token_1": "done",
            "token_2": "done",
            "token_3": "todo",
            "token_4": "done",
        }
        assert client.get("token_0").rev == before
        told = [message for message in caplog.messages if "needs more than this pilot has" in message]
        assert len(told) == 1
        assert told[0].startswith("token_0 needs more than this pilot has (4 cores, 1000 MB): ")

    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_token_that_needs_all_that_the_pilot_has_is_taken(self, client, put, slots):
        needs = {"cores": 4, "memory": "1000M", "gpus": 2, "tags": ["avx2"]}
        put(needs, {}, needs)
        Pilot(client, gpus=2, tags="avx2,fast").run(slots=slots)
        assert count_states(client)["done"] == 3

    def test_an_explicit_number_of_slots_counts_as_cores(self, client, put):
        """A user who asks for five slots says that five tokens can run at once."""
        put({"cores": 5}, {"cores": 6})
        Pilot(client, cores=2).run(slots=5)
        assert states(client) == {"token_0": "done", "token_1": "todo"}

    def test_a_larger_pilot_takes_the_tokens_that_a_smaller_one_left(self, client, put):
        put({"gpus": 1}, {})
        iterator = TaskViewIterator(client, "todo")
        Pilot(client, iterator=iterator).run(max_tasks=1)
        assert states(client) == {"token_0": "todo", "token_1": "done"}
        Pilot(client, iterator=iterator, gpus=1).run()
        assert count_states(client)["done"] == 2

    @pytest.mark.parametrize("slots", [1, 3])
    def test_an_iterator_that_ignores_needs_ends_the_run_and_loses_nothing(self, client, put, slots):
        """Otherwise it would return the same token again and again."""
        put({}, {}, {"gpus": 1}, {})
        Pilot(client, iterator=Foreign(client)).run(slots=slots)
        assert (states(client)["token_2"], count_states(client)["locked"]) == ("todo", 0)
        assert count_states(client)["done"] >= 2

    @pytest.mark.timing
    def test_the_needs_of_a_token_can_be_changed_while_a_pilot_waits(self, client, put):
        put({"cores": 50})
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=30)

        def change():
            token = client.get("token_0")
            token["cores"] = 2
            client.save(token)

        timer = threading.Timer(1.0, change)
        timer.start()
        Pilot(client, iterator=iterator).run(max_tasks=1, max_total_time=20)
        timer.join()
        assert states(client) == {"token_0": "done"}


class TestFreeResources:
    def test_a_token_takes_as_many_slots_as_it_needs_cores(self, client, put):
        put(*[{}] * 6, {"cores": 4}, {"cores": 2}, {}, {"cores": 3}, {"cores": 2}, {"cores": 2}, {})
        pilot = Pilot(client, lambda task: nap())
        pilot.run(slots=4)
        assert count_states(client)["done"] == 13
        assert pilot.most("cores") == 4
        assert sorted(pilot.started) == sorted(states(client))  # none twice, and none was put back

    def test_a_pilot_may_have_more_cores_than_slots(self, client, put):
        """With many cores and few slots, a large token takes all slots and no more."""
        put(*[{"cores": 3}] * 3)
        pilot = Pilot(client, lambda task: nap(), cores=4)
        pilot.run(slots=2)
        assert count_states(client)["done"] == 3
        assert max(map(len, pilot.together)) == 1

    @pytest.mark.parametrize("field", ["memory", "gpus"])
    def test_memory_and_gpus_are_divided_among_tokens(self, client, put, field):
        has = {"memory": 1000, "gpus": 5}[field]
        needs = {"memory": 400, "gpus": 2}[field]
        put(*[{field: needs}] * 6)
        pilot = Pilot(client, lambda task: nap(), **{field: has})
        pilot.run(slots=4)
        assert count_states(client)["done"] == 6
        assert pilot.most(field) == 2 * needs

    def test_smaller_tokens_overtake_one_that_does_not_fit(self, client, put):
        put({}, {"cores": 4}, {}, {}, {})
        passed = threading.Event()

        def work(task):
            if task.id == "token_0":
                assert passed.wait(20)
            elif pilot.started[-3:] and {"token_2", "token_3", "token_4"} <= {*pilot.started}:
                passed.set()

        pilot = Pilot(client, work)
        pilot.run(slots=4)
        assert pilot.started[-1] == "token_1"
        assert count_states(client)["done"] == 5

    @pytest.mark.timing
    def test_a_large_token_is_not_overtaken_for_ever(self, client, put):
        """A small token is always at work, until the pilot starts no more of them."""
        put({}, {"cores": 2}, *[{}] * 60)

        def work(task):
            place = pilot.started.index(task.id)
            give_up = time.monotonic() + 1.0
            while len(pilot.started) <= place + 1 and time.monotonic() < give_up:
                nap(0.005)

        pilot = Pilot(client, work, cores=2)
        pilot.run(slots=2)
        assert (
            3 <= pilot.started.index("token_1") <= 12
        )  # 1-4 times the two slots, and the tokens that were already locked
        assert count_states(client)["done"] == 62

    @pytest.mark.timing
    def test_a_waiting_pilot_takes_the_larger_token_when_it_fits(self, client, put):
        put({}, {"cores": 2})
        iterator = EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_sec=60)
        began = time.monotonic()
        Pilot(client, lambda task: nap(0.5), iterator=iterator).run(slots=2, max_tasks=2, max_total_time=30)
        assert count_states(client)["done"] == 2
        assert time.monotonic() - began < 15

    def test_a_larger_token_from_an_iterator_that_ignores_needs_starts_when_it_fits(self, client, put):
        put({}, {"cores": 3}, {}, {"cores": 2}, {})
        pilot = Pilot(client, lambda task: nap(), iterator=Foreign(client))
        pilot.run(slots=3)
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 5, "error": 0}
        assert pilot.most("cores") <= 3

    def test_a_token_whose_needs_grow_while_it_runs_keeps_its_share(self, client, put):
        put(*[{}] * 6)

        def work(task):
            task["cores"] = 4
            nap()

        pilot = Pilot(client, work)
        pilot.run(slots=3)
        assert max(map(len, pilot.together)) == 3
        assert count_states(client)["done"] == 6


class TestGpus:
    @pytest.fixture(autouse=True)
    def granted(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab,5")

    @pytest.mark.parametrize("way", ["execute", "run_command"])
    def test_each_token_has_its_own_gpus(self, client, put, way):
        put({"gpus": 1}, {"gpus": 2}, *[{"gpus": 1}] * 6, {"gpus": 3})
        command = ["sh", "-c", 'printf %s "$CUDA_VISIBLE_DEVICES"']
        lock, in_use, seen = threading.Lock(), set(), {}

        def work(task):
            if way == "execute":
                output = execute(command)[2].decode()
            else:
                file = Path(f"{task.id}.out")
                run_command(command, stdout=file)
                output = file.read_text()
            names = set(output.split(","))
            with lock:
                seen[task.id] = names
                assert not names & in_use
                in_use.update(names)
            nap()
            with lock:
                in_use.difference_update(names)

        Pilot(client, work, gpus=None).run(slots=4)
        assert count_states(client)["done"] == 9
        assert {len(names) == client.get(id)["gpus"] for id, names in seen.items()} == {True}
        assert set().union(*seen.values()) == {"3", "GPU-ab", "5"}

    def test_an_environment_that_the_user_sets_for_a_child_is_not_changed(self, client, put):
        put({"gpus": 1})
        seen = []
        command = ["sh", "-c", 'printf %s "$CUDA_VISIBLE_DEVICES"']

        def work(task):
            run_command(command, stdout="out", env={"CUDA_VISIBLE_DEVICES": "7"})
            seen.append(Path("out").read_text())

        Pilot(client, work, gpus=None).run(slots=2)
        assert seen == ["7"]


class TestGPUs:
    """A batch system has granted two, and names them in several variables."""

    @pytest.fixture(autouse=True)
    def granted(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
        monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2,3")

    @pytest.fixture
    def seen(self, client, tmp_path):
        """Return a function that lets a pilot run a program for each token, and returns what they saw."""

        def seen(*needs, slots=1):
            tokens = [make_token(number, gpus=count) for number, count in enumerate(needs)]
            client.save_documents(tokens)
            command = f"echo $CUDA_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES > {tmp_path}/$PICAS_TOKEN_ID"
            Pilot(client, lambda task: run_command(command, shell=True, token=task), gpus=2).run(slots=slots)
            return [(tmp_path / f"token_{number}").read_text().strip() for number in range(len(needs))]

        return seen

    @pytest.mark.parametrize("slots", [1, 3])
    def test_a_program_sees_those_of_its_token_and_none_if_that_needs_none(self, seen, slots, caplog):
        assert seen(2, 0, 0, slots=slots) == ["2,3 2,3", "-1 -1", "-1 -1"]
        assert caplog.text.count("needs no GPU and sees none (PICAS_HIDE_GPUS=0 shows them)") == 1

    def test_a_program_whose_token_needs_none_sees_all_if_the_user_wants_that(self, seen, monkeypatch):
        monkeypatch.setenv("PICAS_HIDE_GPUS", "0")
        assert seen(0, 1) == ["2,3 2,3", "2 2"]
