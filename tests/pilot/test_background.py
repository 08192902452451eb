"""What programs leave in the background ends with its token."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from support.workers import Worker, is_alive, pid_in, wait_for

from picas.executers import run_command
from picas.processes import end_all, left_behind
from picas.views import count_states

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can find all descendants")


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    end_all(left_behind(), 0)


def leave(name, trap="", **options):
    """Run a command that leaves a process in another session, and return its process id."""
    run_command(f"{trap} setsid -f sh -c 'echo $$ > {name}; exec sleep 60'", shell=True, **options)
    return pid_in(name)


class Serving(Worker):
    """Leaves a process in the background for each token."""

    def __init__(self, db, **options):
        super().__init__(db, lambda task: self.services.update({task.id: leave(task.id)}), **options)
        self.services = {}


@pytest.mark.parametrize("slots", [1, 3])
class TestEndOfToken:
    def test_ends_what_its_programs_have_left(self, client, push, slots):
        push(5)
        actor = Serving(client)
        actor.run(slots=slots)
        assert len(actor.services) == 5
        assert not any(map(is_alive, actor.services.values()))
        assert count_states(client)["done"] == 5

    def test_ends_it_before_the_token_is_saved(self, client, push, slots):
        push(3)
        alive = []

        class Looking(Serving):
            def cleanup_run(self):
                alive.append(is_alive(self.services[self.current_task.id]))

        Looking(client).run(slots=slots)
        assert alive == [False] * 3

    def test_ends_what_cleanup_run_has_left(self, client, push, slots):
        push(2)
        services = []

        class Leaving(Worker):
            def cleanup_run(self):
                services.append(leave(f"cleanup_{self.current_task.id}"))

        Leaving(client).run(slots=slots)
        assert [is_alive(pid) for pid in services] == [False, False]

    def test_is_not_before_the_end_of_its_work(self, client, push, slots):
        push(3)
        alive = []

        def work(task):
            service = leave(task.id)
            run_command(["true"])
            alive.append(is_alive(service))

        Worker(client, work).run(slots=slots)
        assert alive == [True] * 3

    def test_leaves_what_is_to_be_kept(self, client, push, slots):
        push(2)
        services = []
        Worker(client, lambda task: services.append(leave(task.id, keep_background=True))).run(slots=slots)
        try:
            assert [is_alive(pid) for pid in services] == [True, True]
            assert left_behind() == []
        finally:
            for pid in services:
                os.kill(pid, signal.SIGKILL)

    def test_leaves_what_prepare_env_has_started(self, client, push, slots):
        push(3)
        alive = []

        class Preparing(Worker):
            def prepare_env(self):
                self.service = leave("service")

            def cleanup_env(self):
                alive.append(is_alive(self.service))

        actor = Preparing(client, lambda task: alive.append(is_alive(actor.service)))
        actor.run(slots=slots)
        assert alive == [True] * 4
        assert end_all(left_behind())
        assert not is_alive(actor.service)


def test_the_end_of_a_token_in_one_slot_ends_nothing_of_another(client, push):
    push(2)
    together = threading.Barrier(2, timeout=30)
    alive = []

    def work(task):
        service = leave(task.id)
        together.wait()
        if task.id == "token_0":
            wait_for(lambda: count_states(client)["done"] == 1)
            alive.append(is_alive(service))

    Worker(client, work).run(slots=2)
    assert alive == [True]


@pytest.mark.parametrize("slots", [1, 3])
def test_what_threads_of_the_users_code_have_left_ends_with_the_run(client, push, slots):
    push(4)
    services = []

    def work(task):
        thread = threading.Thread(target=lambda: services.append(leave(task.id)))
        thread.start()
        thread.join()

    Worker(client, work).run(slots=slots)
    assert [is_alive(pid) for pid in services] == [False] * 4


@pytest.mark.timing
def test_a_stubborn_one_is_killed_after_the_grace_period(client, push):
    push(1)
    services = []
    actor = Worker(client, lambda task: services.append(leave("service", "trap '' TERM;")), grace=0.3)
    began = time.monotonic()
    actor.run()
    assert time.monotonic() - began < 15
    assert not is_alive(services[0])
    assert client.get("token_0")["exit_code"] == 0


@pytest.mark.parametrize("slots", [1, 2])
def test_a_stop_ends_it(client, push, pilot, slots):
    push(1)
    process = pilot(f"""
class Leaving(Noting):
    def process_task(self, task):
        run_command("setsid -f sh -c 'echo $$ > service; exec sleep 60'", shell=True)
        while not os.path.exists("service"): time.sleep(0.01)
        note("left")
        time.sleep(60)
Leaving(connect()).run(slots={slots})
""")
    process.wait_for("left")
    service = pid_in("service")
    assert process.stop() == 0
    assert not is_alive(service)
    assert count_states(client)["todo"] == 1


def test_a_stop_while_it_is_being_ended_keeps_the_result(client, push, pilot):
    push(1)
    process = pilot("""
class Leaving(Noting):
    def process_task(self, task):
        run_command("trap '' TERM; setsid -f sh -c 'echo $$ > service; exec sleep 60'", shell=True)
        while not os.path.exists("service"): time.sleep(0.01)
        note("left")
Leaving(connect(), grace=1).run()
""")
    process.wait_for("left")
    time.sleep(0.3)
    assert process.stop() == 0
    assert not is_alive(pid_in("service"))
    assert count_states(client)["done"] == 1
    assert not Path("spool").exists()
