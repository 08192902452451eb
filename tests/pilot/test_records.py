"""What pilots record of an attempt: why it has ended, and what it has taken."""

from __future__ import annotations

import errno
import json
import signal
import sys
import threading
import time

import pytest
from support.workers import Worker, signal_after, stop_this_pilot, wait_for

from picas.exceptions import PilotStopped, SettingsError
from picas.executers import execute, run_command
from picas.modifiers import BasicTokenModifier
from picas.pilot.options import MAX_SOFTWARE
from picas.tokens.reasons import group_of
from picas.tokens.states import state_of

BURN = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done"
FAIL = "echo 'first' >&2; echo 'FileNotFoundError: /data/7.fits' >&2; exit 3"
MEASURED = {"seconds", "cpu_seconds", "max_memory_mb", "cores"}

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


def last_attempt(client, id="token_0"):
    return client.get(id)["attempts"][-1]


def messages(client, id="token_0"):
    return [entry.get("message") for entry in client.get(id)["error"]]


def run(command, **options):
    """Return the work of a token that runs a command in a shell."""

    def work(token):
        token["exit_code"] = execute(["sh", "-c", command], **options)[1]

    return work


class TestATokenThatSucceeds:
    def test_has_what_it_took_and_no_reason(self, client, push):
        push(1)
        Worker(client, run(BURN)).run()
        attempt = last_attempt(client)
        assert set(attempt) > MEASURED
        assert {"reason", "group", "software"}.isdisjoint(attempt)
        assert 0 < attempt["cpu_seconds"] < attempt["seconds"] + 1 < 60
        assert attempt["max_memory_mb"] > 0
        assert attempt["cores"] == 1
        assert client.get("token_0")["error"] == []

    def test_has_no_processor_time_if_it_ran_no_program(self, client, push):
        push(1)
        Worker(client, lambda token: time.sleep(0.05)).run()
        attempt = last_attempt(client)
        assert attempt["seconds"] >= 0.05
        assert MEASURED & set(attempt) == {"seconds", "cores"}

    @pytest.mark.parametrize("slots", [1, 3])
    def test_has_its_own_processor_time_in_each_slot(self, client, push, slots):
        push(6)

        def work(token):
            for _ in range(2 if token.id == "token_1" else 0):
                execute(["sh", "-c", BURN])
            execute(["true"])

        Worker(client, work).run(slots=slots)
        cpu = [last_attempt(client, f"token_{number}")["cpu_seconds"] for number in range(6)]
        assert cpu[1] > 2 * max(cpu[:1] + cpu[2:])

    def test_has_that_of_programs_in_threads_of_its_code(self, client, push):
        push(1)

        def work(token):
            threads = [threading.Thread(target=execute, args=(["sh", "-c", BURN],)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        Worker(client, work).run()
        assert last_attempt(client)["cpu_seconds"] > 0.01

    @pytest.mark.parametrize("slots", [1, 4])
    def test_has_the_cores_that_it_held(self, client, push, slots):
        push(1, cores=4)
        Worker(client, run("true"), cores=4).run(slots=slots)
        assert last_attempt(client)["cores"] == 4


class TestAProgramThatFails:
    @pytest.mark.parametrize("slots", [1, 2])
    def test_gives_its_last_words_as_the_reason(self, client, push, slots):
        push(2)
        Worker(client, run(FAIL)).run(slots=slots)
        for id in ("token_0", "token_1"):
            attempt = last_attempt(client, id)
            reason = "exit 3: FileNotFoundError: /data/7.fits"
            assert (attempt["outcome"], attempt["reason"], attempt["group"]) == ("failed", reason, group_of(reason))
            assert set(attempt) > MEASURED
            assert messages(client, id) == [reason]

    def test_whose_output_goes_to_files_does_so_too(self, client, push, tmp_path):
        push(1)

        def work(token):
            token["exit_code"] = run_command(["sh", "-c", FAIL], stderr=tmp_path / "err").exit_code

        Worker(client, work).run()
        assert last_attempt(client)["reason"] == "exit 3: FileNotFoundError: /data/7.fits"

    def test_is_named_with_its_signal(self, client, push):
        push(1)
        Worker(client, run("kill -ABRT $$")).run()
        assert last_attempt(client)["reason"] == "signal 6 (aborted)"

    def test_has_a_reason_for_each_try(self, client, push):
        push(1)
        Worker(client, run(FAIL)).run(max_scrub=1)
        assert len({attempt["reason"] for attempt in client.get("token_0")["attempts"]}) == 1
        assert len(messages(client)) == 2

    def test_of_a_user_who_starts_it_by_himself_leaves_its_exit_code(self, client, push):
        push(1)
        code = "import subprocess, sys; sys.exit(subprocess.call(['sh', '-c', 'exit 5']))"
        Worker(client, lambda token: token.update(exit_code=execute([sys.executable, "-c", code])[1])).run()
        assert messages(client) == [last_attempt(client)["reason"]] == ["exit 5"]


class TestCodeThatFails:
    def test_has_its_exception_as_the_reason_and_in_one_entry_of_error(self, client, push):
        push(1)

        def work(token):
            raise ValueError("odd\n" + "x" * 500)

        Worker(client, work).run()
        attempt, (entry,) = last_attempt(client), client.get("token_0")["error"]
        assert attempt["reason"].startswith("ValueError: odd xxx")
        assert (len(attempt["reason"]), attempt["group"]) == (200, group_of(attempt["reason"]))
        assert entry["message"] == "ValueError: odd\n" + "x" * 500
        assert "Traceback" in entry["exception"]

    def test_may_give_a_reason_of_its_own(self, client, push):
        push(1, error=[{"message": "an older one"}])
        Worker(client, lambda token: token.error("it is too hot\nhere")).run()
        assert last_attempt(client)["reason"] == "it is too hot here"
        assert messages(client) == ["an older one", "it is too hot\nhere"]

    def test_that_marks_its_token_without_a_word_has_the_exit_code(self, client, push):
        push(1, error=[{"message": "an older one"}])
        Worker(client, lambda token: BasicTokenModifier().set_error(token)).run()
        assert last_attempt(client)["reason"] == messages(client)[-1] == "exit 99"

    def test_that_puts_its_token_back_says_so(self, client, push):
        push(1)
        Worker(client, lambda token: BasicTokenModifier().scrub(token)).run(max_tasks=1)
        attempt = last_attempt(client)
        assert (attempt["outcome"], attempt["reason"]) == ("failed", "put back by its own code")
        assert messages(client) == ["put back by its own code"]

    def test_that_closes_its_token_without_an_exit_code_says_so(self, client, push):
        push(1)
        Worker(client, lambda token: BasicTokenModifier().close(token)).run()
        assert last_attempt(client)["reason"] == "closed without an exit code"

    def test_that_leaves_its_token_open_is_no_failure(self, client, push):
        push(1)
        Worker(client, lambda token: None, auto_close=False).run()
        attempt = last_attempt(client)
        assert (attempt["outcome"], attempt["reason"], "group" in attempt) == ("left open", "left open", False)
        assert messages(client) == []


def test_a_time_out_names_the_limit(client, push):
    push(1)
    Worker(client, run("sleep 60"), grace=1).run(max_token_time=0.25)
    attempt = last_attempt(client)
    assert (attempt["outcome"], attempt["reason"]) == ("time-out", "time-out after 0.25 s")
    assert messages(client) == ["time-out after 0.25 s"]
    assert 0.25 <= attempt["seconds"] < 30
    assert set(attempt) > MEASURED


class TestAPilotThatIsStopped:
    @pytest.mark.parametrize("slots", [1, 2])
    def test_names_the_signal_and_what_the_work_had_taken(self, client, push, slots):
        push(1)
        began = []

        def work(token):
            began.append(token.id)
            execute(["sleep", "60"])

        with pytest.raises(PilotStopped), signal_after(0.2, signal.SIGTERM, lambda: began):
            Worker(client, work, grace=1).run(slots=slots)
        attempt = last_attempt(client)
        assert (attempt["outcome"], attempt["reason"]) == ("stopped", "stopped: SIGTERM")
        assert set(attempt) >= MEASURED
        assert "group" not in attempt
        assert state_of(client.get("token_0")) == "todo"
        assert messages(client) == []

    def test_gives_the_problem_of_its_node_as_the_reason(self, client, push):
        push(1)

        def work(token):
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(PilotStopped):
            Worker(client, work).run()
        assert last_attempt(client)["reason"] == "stopped: a problem with the node: No space left on device"

    def test_says_nothing_of_work_that_has_not_begun(self, client, push):
        push(2)
        actor = Worker(client, lambda token: stop_this_pilot(), claim_ahead=0)
        with pytest.raises(PilotStopped):
            actor.run()
        (waiting,) = {"token_0", "token_1"} - set(actor.processed)
        assert client.get(waiting).get("attempts", []) == []


class TestAResultThatIsNotSaved:
    def test_says_what_became_of_its_token(self, client, push, spool):
        push(1)

        def work(token):
            client.copy().edit("token_0", lambda stored: {**stored, "lock": 0})
            wait_for(lambda: False, 60)

        Worker(client, work, heartbeat=0.1, grace=1).run(max_tasks=1)
        (path,) = spool()
        attempt = json.loads(path.read_text())["token"]["attempts"][-1]
        reason = "taken away: it was put into the state todo"
        assert (attempt["outcome"], attempt["reason"]) == ("taken away", reason)


class TestTheSoftware:
    def test_is_in_each_attempt(self, client, push, monkeypatch):
        push(2)
        monkeypatch.setenv("PICAS_SOFTWARE", " image@sha256:\n0123 ")
        Worker(client, run("true")).run(max_tasks=1)
        Worker(client, run("false"), software="v7").run()
        assert {last_attempt(client, f"token_{number}")["software"] for number in range(2)} == {
            "image@sha256: 0123",
            "v7",
        }

    def test_can_be_none_whatever_the_environment_says(self, client, push, monkeypatch):
        push(1)
        monkeypatch.setenv("PICAS_SOFTWARE", "v7")
        Worker(client, software="").run()
        assert "software" not in last_attempt(client)

    def test_is_not_too_long(self, client, monkeypatch):
        Worker(client, software="x" * MAX_SOFTWARE)
        with pytest.raises(SettingsError, match=r"PICAS_SOFTWARE.* 100 characters, not 101$"):
            Worker(client, software="x" * (MAX_SOFTWARE + 1))


@pytest.mark.parametrize(
    "command", ["true", "echo 'FileNotFoundError: no such file: /data/run 0712/part.csv' >&2; exit 1"]
)
def test_a_record_takes_at_most_300_bytes(client, push, command):
    """Of a token's document after one attempt; longer than before this was recorded."""
    push(1)
    Worker(client, run(command)).run()
    token = client.get("token_0").value
    new = {"reason", "group", *MEASURED}
    attempts = [{name: value for name, value in attempt.items() if name not in new} for attempt in token["attempts"]]
    before = {**token, "attempts": attempts, "error": []}
    grown = len(json.dumps(token, separators=(",", ":"))) - len(json.dumps(before, separators=(",", ":")))
    assert 0 < grown <= 300
    print(command, grown)
