"""Where a pilot keeps results that it can't save, and when it brings them in."""

import os
import shutil
import tempfile
import threading

import pytest
from support.tokens import make_token
from support.workers import PATIENCE, Worker, wait_for

from picas import EndlessViewIterator, TaskViewIterator
from picas.exceptions import PicasError
from picas.pool.recovery import recover
from picas.tokens.states import state_of

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture
def elsewhere(tmp_path):
    """Another folder, for code that changes its working directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return elsewhere


class TestTheFolder:
    @pytest.mark.parametrize("given", ["argument", "environment", "default"])
    def test_is_fixed_when_the_actor_is_made(self, client, far, gate, push, tmp_path, monkeypatch, elsewhere, given):
        if given == "environment":
            monkeypatch.setenv("PICAS_SPOOL", "kept")
        else:
            monkeypatch.delenv("PICAS_SPOOL")

        def work(task):
            os.chdir(elsewhere)
            monkeypatch.setenv("PICAS_SPOOL", str(elsewhere / "later"))
            gate.close()

        push(1)
        options = {"spool_folder": "kept"} if given == "argument" else {}
        pilot = Worker(far, work, max_outage=0.05, **options)
        with pytest.raises(PicasError):
            pilot.run()
        gate.open()
        assert list(elsewhere.iterdir()) == []
        folder = tmp_path / ("picas-spool" if given == "default" else "kept")
        assert len(list(folder.glob("*.json"))) == 1
        assert recover(client, folder).saved == ["token_0"]

    def test_is_not_removed_with_a_scratch_folder_that_the_code_works_in(self, far, gate, push, tmp_path, monkeypatch):
        monkeypatch.delenv("PICAS_SPOOL")
        push(1)

        def work(task):
            with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
                os.chdir(scratch)
            gate.close()

        with pytest.raises(PicasError):
            Worker(far, work, max_outage=0.05).run()
        assert len(list((tmp_path / "picas-spool").glob("*.json"))) == 1

    def test_need_not_be_reached_if_it_is_absolute_and_the_working_directory_is_gone(
        self, client, push, elsewhere, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(elsewhere)
        shutil.rmtree(elsewhere)
        push(1)
        pilot = Worker(client, spool_folder=tmp_path / "kept")
        pilot.run()
        assert pilot.processed == ["token_0"]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_pilot_brings_in_its_own_results_while_it_runs(client, far, gate, push, spool, slots):
    def work(task):
        task["output"] = "the result"
        if task.id == "token_0":
            gate.close()

    push(1)
    iterator = EndlessViewIterator(TaskViewIterator(far, "todo"), 0.1)
    pilot = Worker(far, work, iterator=iterator, max_outage=1, lease=1, claim_ahead=0)
    run = threading.Thread(target=pilot.run, kwargs={"slots": slots})
    run.start()
    try:
        try:
            wait_for(spool)
        finally:
            gate.open()
        wait_for(lambda: state_of(client.get("token_0")) == "done")
        assert client.get("token_0")["output"] == "the result"
        wait_for(lambda: spool() == [])
        client.save(make_token(1))
        wait_for(lambda: pilot.processed == ["token_0", "token_1"])
    finally:
        iterator.stop()
        run.join(PATIENCE)
    assert not run.is_alive()


def test_a_log_that_is_a_named_pipe_does_not_hold_up_the_pilot(client, push, tmp_path):
    push(2)

    def work(task):
        os.mkfifo(tmp_path / task.id)
        task.put_log("out", tmp_path / task.id)

    Worker(client, work).run()
    for number in range(2):
        token = client.get(f"token_{number}")
        assert state_of(token) == "error"
        assert "not a regular file" in token["error"][0]["message"]
