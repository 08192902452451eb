"""What the program of a token prints, followed while it runs."""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from support.faults import FaultProxy
from support.places import command
from support.workers import Worker, wait_for

from picas import EndlessViewIterator, Task, TaskViewIterator, modifiers
from picas.exceptions import NoSuchDocument, Unreachable
from picas.executers import run_command
from picas.pilot import duties
from picas.pilot.fleet import running_pilots
from picas.pilot.following import _PilotsDocument
from picas.pilot.identity import DEAD, PREFIX
from picas.pilot.mailbox import NotRunning
from picas.pilot.orders import cancel_tokens, drain_pilots, follow, follow_outputs, watch, watched
from picas.pilot.printed import Stream
from picas.pilot.watching import MAX_SHOWN, TAIL, WATCH_PAUSE, Output, Watched, tail_length
from picas.views import count_states

HEARTBEAT = 0.2

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture
def pilot(client, tmp_path):
    """Return a function that runs a pilot in a thread; its programs are the inputs of the tokens."""
    threads = []

    def start(slots=1, work=None, is_endless=False, **options):
        def run(token):
            out, err = (tmp_path / f"{token.id}.{name}" for name in ("out", "err"))
            result = run_command(["bash", "-c", token["input"]], stdout=out, stderr=err, cwd=tmp_path)
            token["exit_code"] = result.exit_code
            token.put_log(f"logs_{token.id}.out", out)
            token.put_log(f"logs_{token.id}.err", err)

        pool = client.copy()
        iterator = EndlessViewIterator(TaskViewIterator(pool, "todo")) if is_endless else None
        worker = Worker(pool, work or run, iterator=iterator, heartbeat=HEARTBEAT, lease=60, grace=1)
        thread = threading.Thread(target=worker.run, kwargs={"slots": slots, **options})
        threads.append(thread)
        thread.start()
        return worker

    yield start
    (tmp_path / "go").touch()
    drain_pilots(client)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


UNTIL_GO = "until [ -e go ]; do sleep 0.05; done"


class Follower:
    """Follows a token in a thread."""

    def __init__(self, client, token_id="token_0", **options):
        self.out, self.err, self.told, self.error = "", "", [], None
        self.stop = threading.Event()
        self._arguments = (client.copy(), token_id)
        self._options = options
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            for printed in follow_outputs(
                *self._arguments,
                sleep=lambda seconds: self.stop.wait(min(seconds, 0.05)),
                tell=self.told.append,
                **self._options,
            ):
                if printed.is_err:
                    self.err += printed.text
                else:
                    self.out += printed.text
        except Exception as error:
            self.error = error

    @property
    def has_ended(self):
        return not self._thread.is_alive()

    def end(self):
        """Wait until it ends by itself, and return it."""
        wait_for(lambda: self.has_ended)
        return self

    def wait_for(self, text):
        wait_for(lambda: text in self.out or self.has_ended)
        assert text in self.out


@pytest.fixture
def following(client):
    """Return a function that starts a `Follower`; it is stopped after the test."""
    followers = []

    def start(*arguments, **options):
        followers.append(Follower(client, *arguments, **options))
        return followers[-1]

    yield start
    for follower in followers:
        follower.stop.set()
        follower.end()


def is_locked(client, id="token_0"):
    return client.get(id)["lock"] > 0


class TestATokenThatIsFree:
    @pytest.mark.timing
    def test_is_waited_for(self, client, push, pilot, following, tmp_path):
        push(1, input=f"echo one; echo oops >&2; {UNTIL_GO}; echo two")
        follower = following()
        wait_for(lambda: follower.told)
        pilot()
        follower.wait_for("one\n")
        assert follower.err == "oops\n"
        (tmp_path / "go").touch()
        follower.end()
        assert (follower.out, follower.err, follower.error) == ("one\ntwo\n", "oops\n", None)
        assert follower.told == ["token_0 waits for a pilot (picas why token_0 says more)"]

    def test_is_said_to_wait_for_its_next_try(self, client, push, following):
        push(1, not_before=time.time() + 3601)
        follower = following()
        wait_for(lambda: follower.told)
        assert follower.told == ["token_0 waits for its next try, in 1 h (picas why token_0 says more)"]

    def test_that_changes_meanwhile_is_told_once(self, client, push, following):
        push(1)
        follower = following()
        wait_for(lambda: follower.told)
        client.edit("token_0", lambda content: {**content, "priority": 1})
        client.edit("token_0", lambda content: {**content, "priority": 2})
        time.sleep(0.3)
        assert len(follower.told) == 1

    def test_may_be_done_before_anybody_has_seen_it_at_work(self, client, push, pilot):
        push(1, input="echo one; echo oops >&2")
        text = follow_outputs(
            client, "token_0", sleep=lambda seconds: wait_for(lambda: not count_todo(client)) and None
        )
        pilot()
        assert [(printed.text, printed.is_err) for printed in text] == [("one\n", False), ("oops\n", True)]

    @pytest.mark.timing
    def test_is_followed_through_all_its_attempts(self, client, push, pilot, following, tmp_path):
        push(1, input="echo again; sleep 0.5; [ -e second ] || { touch second; exit 4; }; echo last")
        follower = following()
        pilot(max_scrub=1)
        follower.end()
        assert (follower.out, follower.error) == ("again\nagain\nlast\n", None)
        assert "the attempt at token_0 has ended: exit 4" in follower.told

    @pytest.mark.timing
    def test_that_is_put_back_and_taken_by_another_pilot(self, client, push, pilot, following, tmp_path):
        push(1, input=f"echo one; {UNTIL_GO}; echo two")
        follower = following()
        pilot(is_endless=True)
        follower.wait_for("one\n")
        client.edit("token_0", lambda content: modifiers.reset(Task(content)).value)
        pilot(is_endless=True)
        follower.wait_for("one\none\n")
        (tmp_path / "go").touch()
        follower.end()
        assert (follower.out, follower.error) == ("one\none\ntwo\n", None)


def count_todo(client):
    counts = count_states(client)
    return counts["todo"] + counts["locked"]


class TestTheEnd:
    @pytest.mark.timing
    def test_an_error_is_told(self, push, pilot, following):
        push(1, input="echo one; sleep 0.5; echo bad >&2; exit 4")
        pilot()
        follower = following().end()
        assert (follower.out, follower.err) == ("one\n", "bad\n")
        assert follower.told[-1] == "token_0 is in error: exit 4: bad"

    @pytest.mark.timing
    def test_a_token_that_is_cancelled(self, client, push, pilot, following):
        push(1, input="echo one; sleep 60")
        pilot()
        follower = following()
        follower.wait_for("one\n")
        cancel_tokens(client, ["token_0"], "wrong", "ann")
        follower.end()
        assert (follower.error, follower.told[-1]) == (None, "token_0 is in error: cancelled by ann: wrong")

    @pytest.mark.timing
    def test_a_token_that_is_deleted(self, client, push, pilot, following):
        push(1, input="echo one; sleep 60")
        pilot()
        follower = following()
        follower.wait_for("one\n")
        client.delete(client.get("token_0"))
        follower.end()
        assert isinstance(follower.error, NoSuchDocument)
        assert str(follower.error) == "token_0 was deleted"

    def test_a_token_that_is_not_there(self, client):
        with pytest.raises(NoSuchDocument, match=r"^absent is not the id of a token$"):
            list(follow(client, "absent"))

    def test_a_token_whose_pilot_has_left_the_pool(self, client, push):
        (token,) = push(1)
        client.save(modifiers.lock(token, f"{PREFIX}gone"))
        with pytest.raises(
            NotRunning, match=r"^picas_pilot_gone, .* has left the pool: picas retry token_0 puts it back"
        ):
            list(follow(client, "token_0"))

    def test_a_token_whose_pilot_is_dead_is_waited_for(self, client, push, pilot, following):
        (token,) = push(1, input="echo one")
        client.save({"_id": f"{PREFIX}a", "type": "pilot", "state": DEAD, "orders": {}})
        client.save(modifiers.lock(token, f"{PREFIX}a"))
        follower = following()
        wait_for(lambda: follower.told)
        assert follower.told == ["picas_pilot_a is marked as dead: waiting for token_0"]
        client.edit("token_0", lambda content: modifiers.reset(Task(content)).value)
        pilot()
        assert follower.end().out == "one\n"

    def test_a_token_that_an_older_client_has_locked(self, client, push, following):
        push(1)
        client.edit("token_0", lambda content: {**content, "lock": 1_700_000_000})
        follower = following()
        wait_for(lambda: follower.told)
        client.edit("token_0", lambda content: {**content, "done": 1_700_000_009, "exit_code": 0})
        follower.end()
        assert (follower.out, follower.error) == ("", None)
        assert "older release" in follower.told[0]

    def test_no_sign_of_life_is_told_once(self, client, push, following, monkeypatch):
        monkeypatch.setattr("picas.pilot.following.LATE", 0.1)
        (token,) = push(1)
        client.save(
            {"_id": f"{PREFIX}a", "type": "pilot", "state": "running", "beat": 3, "heartbeat": 0.1, "orders": {}}
        )
        client.save(modifiers.lock(token, f"{PREFIX}a"))
        follower = following()
        wait_for(lambda: follower.told)
        time.sleep(0.5)
        assert follower.told == ["picas_pilot_a, which has token_0, has shown no sign of life for 0 s: waiting"]


class TestItIsEnded:
    def test_at_once_from_another_thread(self, client, push, pilot, tmp_path):
        push(1, input=f"echo one; {UNTIL_GO}")
        pilot()
        wait_for(lambda: is_locked(client))
        stop, texts = threading.Event(), []
        text = follow(client.copy(), "token_0", sleep=stop.wait)
        thread = threading.Thread(target=lambda: texts.extend(text))
        thread.start()
        wait_for(lambda: texts)
        stop.set()
        thread.join(5)
        assert not thread.is_alive()

    def test_while_the_database_is_away(self, client, push, far, gate):
        push(1)
        gate.close()
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()
        assert list(follow(far, "token_0", sleep=stop.wait, max_outage=600)) == []
        assert time.monotonic() - began < 20


class TestOutages:
    def test_are_no_silence_of_the_pilot_and_delay_no_look_after_them(self, monkeypatch):
        now, told = 1000.0, []
        monkeypatch.setattr("picas.pilot.following.time.monotonic", lambda: now)
        pilot = _PilotsDocument("token_0", {"id": "c", "pilot": "p"}, told.append)
        pilot.note_order(1, 60.0)
        shown = {"token_0": {"claim": "c", "stdout": {"size": 0, "tail": ""}}}
        for beat in (2, 3):
            now += 100
            pilot.take({"beat": beat, "watched": shown}, "token_0")
            pilot.complain_if_late()
            assert pilot.pause() <= WATCH_PAUSE
        now += 100
        pilot.complain_if_late()
        assert pilot.pause() <= WATCH_PAUSE
        assert told == ["token_0 is running: its output comes within 1 min"]

    @pytest.mark.timing
    def test_are_outlived(self, client, push, pilot, far, gate, tmp_path):
        push(1, input=f"echo one; {UNTIL_GO}; echo two")
        pilot()
        text = follow(far, "token_0", sleep=lambda seconds: time.sleep(0.05), max_outage=600)
        assert next(text) == "one\n"
        gate.close()
        threading.Timer(1.0, gate.open).start()
        (tmp_path / "go").touch()
        assert "".join(text) == "two\n"

    def test_are_errors_unless_they_are_to_be_outlived(self, far, gate, push):
        push(1)
        gate.close()
        with pytest.raises(Unreachable):
            list(follow(far, "token_0"))


class TestWhoIsShown:
    @pytest.mark.timing
    def test_tokens_that_wait_for_their_slot_or_to_be_saved_show_nothing_of_another_one(
        self, client, push, pilot, tmp_path
    ):
        """They were locked together, and run one after the other in the same thread."""
        push(60, input="")
        shown = {}

        def work(token):
            others = set(locked_ids(client)) - {token.id} if len(worker.processed) > 20 and not shown else ()
            if not others:
                return
            run_in_background = threading.Thread(target=look, args=(others,))
            run_in_background.start()
            script = f"echo private; {UNTIL_GO}"
            run_command(["sh", "-c", script], stdout=tmp_path / "out", cwd=tmp_path)
            run_in_background.join()

        def look(others):
            for id in others:
                watch(client, id)
            beat = next(running_pilots(client))["beat"]
            wait_for(lambda: next(running_pilots(client))["beat"] > beat + 2)
            shown.update((id, watched(client, id)) for id in others)
            (tmp_path / "go").touch()

        worker = pilot(work=work)
        wait_for(lambda: count_states(client)["done"] == 60)
        assert shown, "no token was locked ahead"
        assert all(each is None or each.stdout is None for each in shown.values())

    @pytest.mark.timing
    def test_more_tokens_than_fit_are_shown_shorter(self, client, push, pilot, tmp_path):
        push(10, input=f"for i in $(seq 2000); do echo $i; done; echo end; {UNTIL_GO}")
        pilot(slots=10)
        wait_for(lambda: count_states(client)["locked"] == 10)
        ids = [f"token_{number}" for number in range(10)]
        for id in ids:
            watch(client, id)

        def tails():
            shown = [watched(client, id) for id in ids]
            return [each.stdout.tail for each in shown if each is not None and each.stdout is not None]

        wait_for(lambda: [len(tail) for tail in tails() if tail.endswith(b"\nend\n")] == [tail_length(10)] * 10)

    @pytest.mark.timing
    def test_who_is_dropped_for_another_asks_again(self, client, push, pilot, following, tmp_path, monkeypatch):
        monkeypatch.setattr(duties, "MAX_WATCHED", 1)
        push(2, input=f"echo one; {UNTIL_GO}; sleep 0.5; echo two; sleep 60")
        pilot(slots=2)
        wait_for(lambda: count_states(client)["locked"] == 2)
        followers = [following("token_0"), following("token_1")]
        for follower in followers:
            follower.wait_for("one\n")
        (tmp_path / "go").touch()
        for follower in followers:
            follower.wait_for("two\n")
        cancel_tokens(client, ["token_0", "token_1"])

    @pytest.mark.timing
    def test_several_people_follow_the_same_token(self, client, push, pilot, following, tmp_path):
        push(1, input=f"echo one; {UNTIL_GO}; sleep 0.5; echo two; sleep 0.5")
        pilot()
        followers = [following(), following()]
        for follower in followers:
            follower.wait_for("one\n")
        (tmp_path / "go").touch()
        assert [follower.end().out for follower in followers] == ["one\ntwo\n"] * 2

    @pytest.mark.timing
    def test_an_output_stays_after_its_program_when_somebody_else_looks(self, client, push, pilot, tmp_path):
        push(1)

        def work(token):
            run_command(["sh", "-c", f"echo one; {UNTIL_GO}"], stdout=tmp_path / "out", cwd=tmp_path)
            (tmp_path / "has_ended").touch()
            wait_for((tmp_path / "may_return").exists)

        pilot(work=work)
        wait_for(lambda: is_locked(client))
        watch(client, "token_0")
        wait_for(lambda: (shown := watched(client, "token_0")) and shown.stdout and shown.stdout.tail)
        (tmp_path / "go").touch()
        wait_for((tmp_path / "has_ended").exists)
        beat = next(running_pilots(client))["beat"]
        watch(client, "token_0")
        wait_for(lambda: next(running_pilots(client))["beat"] > beat + 2)
        shown = watched(client, "token_0")
        (tmp_path / "may_return").touch()
        assert shown.stdout.tail == b"one\n"

    @pytest.mark.timing
    def test_a_second_program_of_a_token_is_told_from_the_first(self, client, push, pilot, following, tmp_path):
        """It has printed more than the first when it is seen for the first time."""
        push(1)

        def work(token):
            run_command(["sh", "-c", "echo one; sleep 1"], stdout=tmp_path / "out")
            run_command(["sh", "-c", f"echo another; {UNTIL_GO}"], stdout=tmp_path / "out", cwd=tmp_path)

        pilot(work=work)
        follower = following()
        follower.wait_for("one\nanother\n")

    def test_nobody(self, client, push, pilot, monkeypatch, tmp_path):
        """Then a heartbeat reads no file."""
        looks = []
        monkeypatch.setattr(duties, "output_tails", lambda *arguments: looks.append(arguments))
        push(1, input=f"echo one; {UNTIL_GO}")
        pilot()
        beat = wait_for(lambda: next(running_pilots(client), {}).get("beat"))
        wait_for(lambda: next(running_pilots(client))["beat"] > beat + 3)
        assert looks == []
        assert "watched" not in next(running_pilots(client))


def locked_ids(client):
    return [row.id for row in client.view("locked").rows]


def test_tails_of_few_tokens_are_long_and_all_together_are_bounded():
    assert [tail_length(count) for count in (0, 1, 8)] == [TAIL] * 3
    assert all(count * tail_length(count) <= MAX_SHOWN for count in range(8, 65))


class TestWhatIsMissing:
    """The pilot shows the end of an output only."""

    @pytest.fixture
    def add(self):
        """Return a function that shows a stream how long its output is, and its end, and returns the new text."""
        stream = Stream(is_err=False)

        def add(size, tail, program=1):
            return "".join(printed.text for printed in stream.add(Watched(Output(size, tail), None, program)))

        return add

    def test_nothing(self, add):
        assert add(4, b"one\n") == "one\n"
        assert add(4, b"one\n") == ""
        assert add(8, b"\ntwo\n"[-4:]) == "two\n"

    def test_of_the_beginning(self, add):
        assert add(104, b"xx\none\ntwo\n") == "[... 96 bytes ...]\none\ntwo\n"

    def test_in_the_middle_of_a_line(self, add):
        assert add(3, b"one") == "one"
        assert add(100, b"two\nthree\n") == "\n[... 91 bytes ...]\nthree\n"

    def test_without_any_line(self, add):
        """A character is not cut, and one that was not complete is dropped."""
        assert add(2, b"a\xc3") == "a"
        assert add(100, b"\xb6b\xc3\xb6") == "\n[... 95 bytes ...]\nbö"
        assert add(102, b"\xc3\xb6c\xc3") == "c"
        assert add(103, b"c\xc3\xb6") == "ö"

    def test_another_program(self, add):
        assert add(4, b"one\n", program=1) == "one\n"
        assert add(6, b"other\n", program=2) == "other\n"

    def test_another_program_of_a_pilot_that_does_not_number_them(self, add):
        assert add(6, b"first\n", program=None) == "first\n"
        assert add(4, b"two\n", program=None) == "two\n"

    def test_less_than_before(self, add):
        assert add(6, b"first\n") == "first\n"
        assert add(3, b"fir") == ""
        assert add(8, b"first\nab") == "ab"


PACE = 6.0
"""Seconds between two heartbeats of the pilot whose output is timed."""
LINES = "for i in $(seq 40); do date +%s.%N; sleep 0.5; done"


@pytest.mark.timing
def test_lines_come_in_time(client, environment, push, tmp_path, location):
    """The first within a heartbeat and two seconds, the others within three, with two pilots' worth of requests."""
    push(1, input=LINES)
    with FaultProxy(location.url) as proxy, running_pilot(environment, tmp_path, proxy.url):
        wait_for(lambda: is_locked(client))
        began = time.time()
        lags = []
        follower = command("logs", "token_0", "--follow")
        with subprocess.Popen(follower, env=environment, stdout=subprocess.PIPE, text=True) as reader:
            for line in reader.stdout:
                lags.append(time.time() - float(line))
                if len(lags) == 1:
                    first = time.time()
                    proxy.forget()
                if time.time() - first > 1 and len(lags) > 24:
                    break
            requests, seconds = len(proxy.requests), time.time() - first
            reader.terminate()
    recent = lags[-20:]
    assert first - began < PACE + 2 + SLACK
    assert max(recent) < 3 + SLACK
    assert statistics.median(recent) < 2
    assert requests / seconds < 2


SLACK = 2.0
"""Seconds that a busy machine takes to start the command, and to answer."""


@contextmanager
def running_pilot(environment, folder, url):
    variables = {**environment, "PICAS_HOST_URL": url, "PICAS_HEARTBEAT": str(PACE)}
    with subprocess.Popen(
        command("run"), env=variables, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
