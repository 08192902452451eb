"""The live view: what it shows of a real pool, what its keys do, and how it lives with a server that goes away."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Iterator
from typing import Any, Callable

import pytest
from support.faults import HANG, FaultProxy, Reply
from support.proc import read_proc
from support.terminal import Terminal
from support.tokens import ended_token, make_token
from support.workers import PATIENCE, wait_for
from textual.pilot import Pilot

from picas import CouchDB, Task
from picas.cli.live import main_screen, reader
from picas.cli.live.app import TopApp
from picas.cli.live.shelf import Shelf
from picas.modifiers import claim_of, end_attempt
from picas.pilot import find_pause
from picas.pilot.watching import Output, describe_output
from picas.tokens.states import state_of
from picas.views import count_states, create_report

SIZES = [(60, 20), (200, 50)]
PILOT = "picas_pilot_node7_4711_abcdef01"
HOSTILE = "[red]x[/red] \x1b]0;x\x07 \x1b[2J \x9b1m 漢字漢字 \u202e"
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


class Live:
    """The live view of a pool in a test.

    :param app: the application
    :param pilot: presses its keys
    """

    def __init__(self, app: TopApp, pilot: Pilot[int]) -> None:
        self.app = app
        self._pilot = pilot

    @property
    def text(self) -> str:
        """What is on the screen."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    async def press(self, *keys: str) -> None:
        """Press keys."""
        await self._pilot.press(*keys)

    async def write(self, text: str) -> None:
        """Press the keys of a text, and Enter."""
        await self._pilot.press(*("space" if sign == " " else sign for sign in text), "enter")

    async def wait_for(self, text: str, *, is_there: bool = True) -> str:
        """Wait until a text is on the screen, or is no longer there, and return the screen."""
        await self.wait_until(lambda: (text in self.text) == is_there, text)
        return self.text

    async def wait_until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Wait for a condition."""
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up, f"{what!r}\n{self.text}"
            await self._pilot.pause(0.02)

    async def confirm(self, question: str, *, message: str = "") -> None:
        """Wait for a question, and answer yes."""
        await self.wait_for(question)
        if message:
            await self.press("m")
            await self.write(message)
            await self.wait_for(f"message: {message}")
        await self.press("y")


def show(client: CouchDB, steps: Callable[[Live], Awaitable[None]], size: tuple[int, int] = SIZES[0]) -> TopApp:
    """Show a pool, do the steps, and return the application, which has ended."""

    async def run() -> TopApp:
        app = TopApp(client, count_states(client), "mypool")  # here, since Python 3.9 ties it to the running loop
        async with app.run_test(size=size) as pilot:
            await steps(Live(app, pilot))
        return app

    return asyncio.run(run())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the pool often."""
    monkeypatch.setattr(reader, "INTERVAL", 0.1)
    monkeypatch.setattr(reader, "DETAILS_INTERVAL", 0.3)


@pytest.fixture
def pilot_document(client: CouchDB) -> Any:
    """Return a function that saves the document of a pilot."""

    def save(id: str = PILOT, **fields: Any) -> str:
        now = time.time()
        content = {"type": "pilot", "state": "running", "beat": 3, "heartbeat": 30, "start": now - 3600, "saved": now}
        content |= {"orders": {}, "slots": 8, "slots_busy": 6, "host": "node7", "outcomes": {"done": 5, "failed": 2}}
        client.save({"_id": id, **content, **fields})
        return id

    return save


@pytest.fixture
def pool(client: CouchDB, pilot_document: Any) -> CouchDB:
    """The client of a pool in which there is something to see."""
    create_report(client)
    now = int(time.time())
    tokens = [ended_token(number, "done", start=now - 60 * (number % 10) - 100) for number in range(30)]
    tokens += [ended_token(number, group="r3f9a", reason="out of memory", start=now - 90) for number in range(30, 33)]
    tokens += [ended_token(33, group="r77c0", reason="exit 1: no file", start=now - 40)]
    tokens += [make_token(number, input="true") for number in range(34, 40)]
    client.save_documents(tokens)
    pilot_document()
    client.save(Task(client.get("token_39")).lock(PILOT))
    return client


class TestWhatIsShown:
    @pytest.mark.parametrize("size", SIZES)
    def test_counts_charts_and_lists(self, pool: CouchDB, size: tuple[int, int]) -> None:
        async def steps(live: Live) -> None:
            text = await live.wait_for("rate 2.")
            assert "mypool" in text
            assert "░ todo 5  ▒ locked 1  █ done 30  ▚ error 4" in text
            assert re.search("█+▒+▚+░+\n", text)
            assert re.search(r"rate 2\.\d/min over the last 1[56] min", text)
            assert re.search(r"▁?█.* max \d/min", text)
            assert "pilots 1 running, 6 of 8 slots busy" in text
            assert re.search("3 +r3f9a +out of memory", text)
            lines = text.split("\n")
            assert len(lines) == size[1]
            is_wide = size[0] >= main_screen.WIDE[0]
            assert (PILOT in text) == is_wide
            await live.press("tab")
            text = await live.wait_for(PILOT)
            assert re.search(f"{PILOT} .*6 of 8", text)
            await live.press("tab")
            text = await live.wait_for("token_33")
            assert re.search(r"\d\d:\d\d:\d\d +token_33 +failed +exit 1: no file", text)
            await live.press("tab")
            text = await live.wait_for("Tokens error")
            await live.wait_for("token_30")
            await live.press("tab")
            assert ("token_33  failed" in await live.wait_for("3  r3f9a")) == is_wide

        show(pool, steps, size)

    def test_changes_come_by_themselves(self, pool: CouchDB, quick: None) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            pool.save_documents([ended_token(number, group="rnew0", reason="new one") for number in range(50, 60)])
            await live.wait_for("new one")
            await live.wait_for("error 14")

        show(pool, steps)

    def test_an_empty_pool(self, client: CouchDB) -> None:
        create_report(client)

        async def steps(live: Live) -> None:
            await live.wait_for("no token is in error")
            await live.press("tab")
            await live.wait_for("no pilot is running")
            await live.press("tab")
            await live.wait_for("no attempt has ended")
            await live.press("tab")
            await live.wait_for("no token")
            await live.press("enter", "l", "r", "c", "d", "n", "b", "up", "down", "end")

        show(client, steps)

    def test_why_there_is_no_rate(self, client: CouchDB, pilot_document: Any, quick: None) -> None:
        create_report(client)

        async def steps(live: Live) -> None:
            await live.wait_for("no rate: no pilot is running")
            pilot_document(start=time.time() - 5)
            await live.wait_for("no rate: no token has ended lately")
            client.save_documents([ended_token(number, "done", start=int(time.time()) - 11) for number in range(3)])
            await live.wait_for("no rate yet: pilots have worked for less than a minute")

        show(client, steps)

    @pytest.mark.parametrize("size", [(1, 1), (12, 4), (59, 8)])
    def test_a_terminal_that_is_too_small_breaks_nothing(self, pool: CouchDB, size: tuple[int, int]) -> None:
        async def steps(live: Live) -> None:
            await live.wait_until(lambda: live.app.poller.snapshot.details)
            await live.press(
                "tab", "down", "end", "question_mark", "escape", "s", "slash", "x", "enter", "enter", "l", "q"
            )

        show(pool, steps, size)

    def test_without_the_views_of_report_the_rest_is_shown(self, client: CouchDB, pilot_document: Any) -> None:
        pilot_document()

        async def steps(live: Live) -> None:
            assert "pilots 1 running" in await live.wait_for("there is no design document Report")

        show(client, steps, (100, 24))

    def test_nothing_from_a_token_is_markup_or_steers_the_terminal(self, client: CouchDB, pilot_document: Any) -> None:
        create_report(client)
        id = f"[bold]{HOSTILE}{'x' * 300}"
        token = ended_token(0, group="[red]", reason=HOSTILE, start=int(time.time()) - 20)
        token["attempts"][0]["host"] = token["hostname"] = HOSTILE
        client.save({**token, "_id": id, "input": HOSTILE, HOSTILE: HOSTILE})
        log = Task(client.get(id))
        log.put_attachment(f"logs_{id}.out", f"{HOSTILE}\r\nnext\rline\n{'y' * 500}".encode())
        client.save(log)
        pilot_document(host=HOSTILE, slurm_job_id="[red]7")

        async def steps(live: Live) -> None:
            await live.wait_for("[red]x[/red] \\x1b]0;x\\x07")
            for keys in (["tab"], ["tab"], ["tab"], ["enter"], ["l"], ["escape", "r"], ["n", "question_mark"]):
                await live.press(*keys)
                await asyncio.sleep(0.15)
                assert not CONTROLS.search(live.text), keys
                assert all(len(line) <= 200 for line in live.text.split("\n"))
                if keys == ["l"]:
                    assert "next\\rline\n" in await live.wait_for("[red]x[/red]")

        for size in SIZES:
            show(client, steps, size)

    def test_the_colours_are_those_of_the_terminal(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            colours = {
                colour.name
                for strip in live.app.screen._compositor.render_strips()
                for segment in strip
                if segment.style is not None
                for colour in (segment.style.color, segment.style.bgcolor)
                if colour is not None
            }
            assert colours <= {"default", "red", "green", "yellow", "cyan"}

        show(pool, steps)

    def test_the_cursor_the_headings_and_failures_stand_out(self, pool: CouchDB) -> None:
        def styles(live: Live, text: str) -> list[Any]:
            strips = live.app.screen._compositor.render_strips()
            return [segment.style for strip in strips for segment in strip if text in segment.text and segment.style]

        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            assert [style.reverse for style in styles(live, "Failures 2")] == [True]
            assert [style.reverse for style in styles(live, "out of memory")] == [True]
            assert not any(style.reverse for style in styles(live, "no file"))
            await live.press("tab", "tab")
            await live.wait_for("token_33")
            assert [style.bold for style in styles(live, "outcome")] == [True]
            assert "red" in {style.color.name for style in styles(live, "failed") if style.color}

        show(pool, steps)


class TestLists:
    def test_the_tokens_of_a_group_and_of_a_pilot(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            await live.press("down", "enter")
            text = await live.wait_for("Tokens of group r77c0")
            assert "token_30" not in await live.wait_for("token_33")
            await live.press("tab", "tab")
            await live.wait_for(PILOT)
            await live.press("enter")
            await live.wait_for("token_39")
            await live.press("s")
            text = await live.wait_for("token_0")
            assert "Tokens done" in text

        show(pool, steps)

    def test_pages_are_turned_and_not_past_the_last(self, client: CouchDB, push: Any) -> None:
        push(250)

        async def steps(live: Live) -> None:
            await live.press("s")
            await live.wait_for("Tokens todo p1")
            await live.wait_for("token_0")
            for number in (2, 3, 3):
                await live.press("n")
                await live.wait_for(f"Tokens todo p{number}")
                await live.wait_for("1-1")
            await live.press("end")
            await live.wait_for("of 50")
            await live.press("b", "b", "b")
            await live.wait_for("Tokens todo p1")
            await live.wait_for("token_0")

        show(client, steps)

    def test_rows_are_sought(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            await live.press("slash")
            await live.write("NO FILE")
            text = await live.wait_for("out of memory", is_there=False)
            assert "no file" in text
            assert "Failures 2 /NO FILE" in text
            await live.press("slash", *["backspace"] * 7)
            await live.write("nothing[x]")
            await live.wait_for("nothing with 'nothing[x]'")
            await live.press("escape")
            await live.wait_for("out of memory")

        show(pool, steps)

    def test_ids_are_sought_in_the_whole_pool(self, client: CouchDB, push: Any) -> None:
        push(250)

        async def steps(live: Live) -> None:
            await live.press("s")
            await live.wait_for("token_0")
            await live.press("slash")
            await live.write("token_24")
            text = await live.wait_for("token_248")
            assert "token_100" not in text
            assert "1-10 of 11" in text

        show(client, steps)

    def test_the_cursor_stays_at_its_row_and_scrolls(self, client: CouchDB, quick: None, pilot_document: Any) -> None:
        create_report(client)
        for number in range(50):
            pilot_document(f"picas_pilot_{number:02}")

        async def steps(live: Live) -> None:
            await live.wait_for("Pilots 50")
            await live.press("tab", "end")
            await live.wait_for("picas_pilot_49")
            await live.press("up")
            client.delete(client.get("picas_pilot_48"))
            client.delete(client.get("picas_pilot_00"))
            await live.wait_for("Pilots 48")
            await live.press("home", "pagedown", "d")
            await live.wait_for("Drain picas_pilot_1")

        show(client, steps)


class TestTokens:
    def test_a_token_is_opened_with_its_attempts(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.press("tab", "tab")
            await live.wait_for("token_33")
            await live.press("enter")
            text = await live.wait_for("error since")
            assert re.search("\nid +token_33\n", text)
            assert re.search(r"\n1 .* 10\.0  failed +1  exit 1: no", text)
            await live.press("escape")
            await live.wait_for("Failures 2")

        show(pool, steps)

    def test_what_is_no_longer_there_is_said(self, pool: CouchDB, quick: None) -> None:
        async def steps(live: Live) -> None:
            await live.press("tab", "tab")
            await live.wait_for("token_33")
            pool.delete(pool.get("token_33"))
            await live.press("enter")
            await live.wait_for("there is no token token_33")

        show(pool, steps)

    def test_the_log_of_a_token(self, pool: CouchDB) -> None:
        token = Task(pool.get("token_33"))
        token.put_attachment("logs_token_33.out", b"all [bold]is[/bold] well\n" * 50 + b"the end")
        token.put_attachment("logs_token_33.err", b"oh no")
        pool.save(token)

        async def steps(live: Live) -> None:
            await live.press("tab", "tab")
            await live.wait_for("token_33")
            await live.press("l")
            text = await live.wait_for("the end")
            assert "standard output of token_33  attempt 1" in text
            assert "all [bold]is[/bold] well\n" in text
            await live.press("home")
            await live.wait_for("the end", is_there=False)
            await live.press("e")
            text = await live.wait_for("oh no")
            assert "standard error" in text
            await live.press("escape", "down", "l")
            await live.wait_for("has no log logs_token_")

        show(pool, steps)

    def test_the_log_of_a_token_at_work_comes_as_it_is_written(self, pool: CouchDB) -> None:
        def prints(text: bytes) -> None:
            claim = claim_of(pool.get("token_39"))["id"]
            shown = {"token_39": {"claim": claim, "stdout": describe_output(Output(len(text), text)), "stderr": None}}
            pool.edit(PILOT, lambda content: {**content, "watched": shown})

        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            await live.press("tab", "enter")
            await live.wait_for("token_39")
            await live.press("l")
            await live.wait_until(lambda: "watch" in pool.get(PILOT)["orders"])
            prints(b"first \x1b[31mline\n")
            await live.wait_for("first \\x1b[31mline")
            assert "standard output of token_39  live" in live.text
            prints(b"first \x1b[31mline\nsecond")
            await live.wait_for("second")
            pool.save(end_attempt(Task(pool.get("token_39")).scrub(), "stopped", "stopped: SIGTERM"))
            await live.wait_for("token_39 waits for a pilot")
            assert "second" in live.text
            pool.save(Task(ended_token(39, "done", exit_code=0, _rev=pool.get("token_39").rev)))
            await live.wait_for("standard output of token_39  has ended")
            await live.press("escape")
            await live.wait_for("Tokens of")

        show(pool, steps)

    def test_nobody_follows_a_log_whose_view_was_closed(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            await live.press("tab", "enter")
            await live.wait_for("token_39")
            before = threading.active_count()
            await live.press("l")
            await live.wait_until(lambda: "watch" in pool.get(PILOT)["orders"])
            await live.press("escape")
            await live.wait_until(lambda: threading.active_count() <= before, "its thread ends")

        show(pool, steps)


class TestChanges:
    def test_retry_of_a_group_asks_and_says_what_came_of_it(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            await live.press("r", "r", "r")  # asks once
            await live.wait_for("Retry 3 tokens of group r3f9a?")
            await live.press("n")
            await live.wait_for("nothing was changed")
            assert count_states(pool)["error"] == 4
            await live.press("r")
            await live.confirm("Retry 3 tokens of group r3f9a?")
            await live.wait_for("Retried 3 tokens")
            await live.wait_for("error 1")
            assert count_states(pool)["todo"] == 8

        show(pool, steps)

    def test_what_changes_while_the_question_stands_is_left_alone_and_counted(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            await live.press("tab", "tab", "tab")
            await live.wait_for("token_31")
            await live.press("down", "r")
            await live.wait_for("Retry 1 token: token_31?")
            token = pool.get("token_31")
            pool.delete(token)
            await live.press("y")
            await live.wait_for("Retried 0 tokens")

        show(pool, steps)

    def test_retry_of_a_token_at_work_warns(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.press("tab")
            await live.wait_for(PILOT)
            await live.press("enter")
            await live.wait_for("token_39")
            await live.press("r")
            await live.wait_for("may be alive and would lose")
            await live.press("y")
            await live.wait_for("Retried 1 token")
            assert state_of(pool.get("token_39")) == "todo"

        show(pool, steps, (100, 30))

    def test_cancel_of_a_free_token_with_a_message(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.press("s")
            await live.wait_for("Tokens todo")
            await live.wait_for("token_34")
            await live.press("enter", "c")
            await live.confirm("Cancel token token_34?", message="wrong [input] y n q")
            await live.wait_for("token token_34 is cancelled")
            await live.wait_for("error since")
            error = pool.get("token_34")["error"][-1]["message"]
            assert error == f"cancelled by {pool.username or os.environ.get('USER', 'root')}: wrong [input] y n q"

        show(pool, steps)

    def test_cancel_of_a_token_at_work_is_an_order_and_its_end_is_reported(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.press("tab")
            await live.wait_for(PILOT)
            await live.press("enter")
            await live.wait_for("token_39")
            await live.press("c")
            await live.confirm("Cancel token token_39?")
            await live.wait_for(f"pilot {PILOT} cancels token token_39 within 30 s")
            assert "token_39" in pool.get(PILOT)["orders"]["cancel"]
            token = Task(pool.get("token_39"))
            token.error("cancelled")
            pool.save(end_attempt(token, "cancelled", "cancelled by ann"))
            await live.wait_for("token token_39 is cancelled")

        show(pool, steps, (100, 30))

    def test_drain_of_a_pilot(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.press("tab")
            await live.wait_for(PILOT)
            await live.press("d")
            await live.confirm(f"Drain {PILOT}?", message="maintenance")
            await live.wait_for("1 pilot obeys within 30 s, and ends once its tokens have ended")
            assert pool.get(PILOT)["orders"]["drain"]["message"] == "maintenance"

        show(pool, steps, (100, 30))

    def test_pause_and_resume(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            await live.press("p")
            await live.confirm("Pause the pool?", message="new disks")
            text = await live.wait_for("the pool is paused; tokens at work go on; 1 pilot obeys within 30 s")
            assert "paused by" in await live.wait_for("new disks")
            pause = find_pause(pool)
            assert pause is not None
            assert pause.message == "new disks"
            await live.press("p")
            await live.confirm("Resume the pool? It is paused by")
            text = await live.wait_for("the pool is resumed")
            assert find_pause(pool) is None
            await live.wait_for("new disks", is_there=False)
            assert "paused by" not in text.split("\n")[1]

        show(pool, steps, (110, 24))

    def test_a_key_that_fits_nothing_says_what_it_is_for(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            for key, words in (("c", "c cancels a token"), ("d", "d drains a pilot"), ("l", "l shows the log")):
                await live.press(key)
                await live.wait_for(words)
            await live.press("tab", "r")
            await live.wait_for("r retries a group of failures, or a token")

        show(pool, steps)

    def test_a_failure_of_a_change_is_one_line(self, pool: CouchDB, location: Any, through: Any) -> None:
        with FaultProxy(location.url) as proxy:
            client = through(proxy)

            async def steps(live: Live) -> None:
                await live.wait_for("out of memory")
                refused = b'{"error": "forbidden", "reason": "only [red] ann may"}'
                proxy.fail("PUT", "picas_pool", Reply(403, refused, {"Content-Type": "application/json"}), times=9)
                await live.press("p")
                await live.confirm("Pause the pool?")
                await live.wait_for("the server does not let this user do that")
                assert "only [red] ann may" in live.text

            show(client, steps, (110, 24))

    def test_q_warns_while_something_is_being_changed(self, pool: CouchDB, location: Any, through: Any) -> None:
        with FaultProxy(location.url) as proxy:
            client = through(proxy)

            async def steps(live: Live) -> None:
                await live.wait_for("out of memory")
                proxy.fail("POST", "_bulk_docs", HANG)
                await live.press("r")
                await live.confirm("Retry 3 tokens")
                await live.wait_for("changing…")
                await live.press("q")
                await live.wait_for("press q again to stop here")
                await live.press("p")
                await live.wait_for("one change at a time")
                await live.press("q")
                await live.wait_until(lambda: not live.app.is_running)

            assert show(client, steps).return_value == 0

    def test_help(self, pool: CouchDB) -> None:
        async def steps(live: Live) -> None:
            await live.press("question_mark")
            text = await live.wait_for("r c d p ask first.  █ done  ▒ locked  ▚ error  ░ todo")
            assert "the next list" in text
            await live.press("q")
            await live.wait_for("Failures 2")

        show(pool, steps)


class TestTheServer:
    def test_goes_away_and_comes_back(self, pool: CouchDB, far: CouchDB, gate: Any, quick: None) -> None:
        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            gate.close()
            text = await live.wait_for("server away since")
            assert "error 4" in text
            assert "out of memory" in text
            await live.wait_for("(1 s)")
            await live.press("tab", "tab")
            await live.wait_for("token_33")
            await live.press("p")
            await live.wait_for("is the address in PICAS_HOST_URL right")
            gate.open()
            pool.save(ended_token(77, group="r3f9a", reason="out of memory"))
            await live.wait_for("error 5")
            await live.wait_for("server away", is_there=False)

        show(far, steps, (100, 30))

    def test_that_refuses_the_user_is_not_away(self, pool: CouchDB, gate: Any, far: CouchDB, quick: None) -> None:
        answer = b'{"error":"unauthorized","reason":"Name or password is incorrect."}'
        head = f"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n"

        async def steps(live: Live) -> None:
            await live.wait_for("out of memory")
            with gate.babbling(f"{head}Connection: close\r\n\r\n".encode() + answer):
                text = await live.wait_for("can't be read since")
                assert "wrong user or" in text.splitlines()[0]
                assert "server away" not in text
            await live.wait_for("can't be read", is_there=False)

        show(far, steps)

    def test_that_does_not_answer_does_not_hold_up_the_keys(
        self, pool: CouchDB, location: Any, through: Any, quick: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(main_screen, "SILENCE", 0.5)
        with FaultProxy(location.url) as proxy:
            client = through(proxy)

            async def steps(live: Live) -> None:
                await live.wait_for("out of memory")
                proxy.fail("GET", "", HANG, times=1000)
                await live.wait_for("no answer")
                began = time.monotonic()
                await live.press("tab", "tab")
                await live.wait_for("token_33")
                await live.press("enter", "escape", "l", "escape", "q")
                assert time.monotonic() - began < PATIENCE / 3

            assert show(client, steps).return_value == 0

    def test_is_asked_less_than_once_a_second(self, pool: CouchDB, location: Any, through: Any) -> None:
        with FaultProxy(location.url) as proxy:
            pool_reader = reader.PoolReader(through(proxy))
            poller = reader.Poller(pool_reader, pool_reader.counts(), lambda event: None)
            poller.show(Shelf())
            poller._look_at_details()  # once the examples of the groups are known
            proxy.forget()
            poller._look_at_counts()
            assert len(proxy.requests) == 1
            poller._look_at_page()
            assert len(proxy.requests) == 3
            poller._look_at_details()
            requests = len(proxy.requests) - 1
            assert requests == 7
            assert 1 / reader.INTERVAL + requests / reader.DETAILS_INTERVAL < 1

    def test_is_asked_by_nothing_else(
        self, pool: CouchDB, location: Any, through: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reader, "INTERVAL", 0.4)
        monkeypatch.setattr(reader, "DETAILS_INTERVAL", 3.0)
        with FaultProxy(location.url) as proxy:
            client = through(proxy)

            async def steps(live: Live) -> None:
                await live.press("tab", "tab", "tab")
                await live.wait_for("token_30")
                await asyncio.sleep(0.5)
                proxy.forget()
                began = time.monotonic()
                await asyncio.sleep(4)
                seconds = time.monotonic() - began
                assert len(proxy.requests) <= (seconds / 0.4 + 1) + 6 * (seconds / 3 + 1)

            show(client, steps)


@pytest.fixture
def top(pool: CouchDB, environment: dict[str, str], at_terminal: Any) -> Iterator[Terminal]:
    """The live view at a pseudo-terminal."""
    with at_terminal("top") as terminal:
        yield terminal


class TestAtATerminal:
    def test_an_idle_pool_costs_nothing_and_q_quits(self, top: Terminal) -> None:
        top.wait_for("out of memory", 60)
        top._read(2)
        before = len(top.raw)
        top._read(5)
        assert len(top.raw) - before < 300
        before = len(top.raw)
        top.type("\x1b[B")
        wait_for(lambda: top._read(0.5) or len(top.raw) > before)
        assert len(top.raw) - before < 1000
        top.type("q")
        assert top.end() == 0
        assert "\x1b[?1049l" in top.raw[before:]

    @pytest.mark.parametrize(
        ("how", "code"), [("\x03", 130), (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
    )
    def test_is_left_in_order(self, top: Terminal, how: Any, code: int) -> None:
        top.wait_for("out of memory", 60)
        if isinstance(how, str):
            top.type(how)
        else:
            top.process.send_signal(how)
        assert top.end() == code
        assert "Traceback" not in top.text
        assert top.raw.rindex("\x1b[?1049l") > top.raw.rindex("\x1b[?1049h")

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_comes_back_after_ctrl_z(self, top: Terminal) -> None:
        top.wait_for("out of memory", 60)
        top.type("\x1a")
        wait_for(lambda: b") T " in read_proc(top.process.pid, "stat"))
        top._read(1)
        assert "\x1b[?1049l" in top.raw
        before = len(top.raw)
        top.process.send_signal(signal.SIGCONT)
        wait_for(lambda: top._read(0.3) or "out of memory" in top.raw[before:])
        top.type("q")
        assert top.end() == 0

    def test_without_colours(self, pool: CouchDB, at_terminal: Any) -> None:
        with at_terminal("top", variables={"NO_COLOR": "1"}) as terminal:
            terminal.wait_for("out of memory", 60)
            assert not re.search(r"\x1b\[[0-9;]*3[1-7]m", terminal.raw)
            terminal.type("q")
            assert terminal.end() == 0

    def test_wrong_settings_are_one_line(self, pool: CouchDB, at_terminal: Any) -> None:
        for variables, code, words in (
            ({"PICAS_PASSWORD": "wrong"}, 1, "wrong user or password"),
            ({"PICAS_DATABASE": "nowhere"}, 1, "there is no database nowhere"),
            ({"PICAS_HOST_URL": "http://127.0.0.1:9"}, 75, "is the address in PICAS_HOST_URL right"),
        ):
            with at_terminal("top", variables=variables) as terminal:
                assert terminal.end() == code
                assert terminal.text.count("\n") == 1
                assert words in terminal.text

    def test_a_pool_without_views_is_one_line(self, client: CouchDB, at_terminal: Any) -> None:
        client.delete(client.get("_design/Monitor"))
        with at_terminal("top") as terminal:
            assert terminal.end() == 1
            assert "create the views with picas views Monitor" in terminal.text

    def test_without_textual_the_extra_is_named(self, at_terminal: Any, tmp_path: Any) -> None:
        folder = tmp_path / "without" / "textual"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError\n")
        path = os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")])
        with at_terminal("top", variables={"PYTHONPATH": path}) as terminal:
            assert terminal.end() == 1
            assert terminal.text == 'picas: the package textual is missing: pip install "picas[cli]"\n'


def test_a_terminal_without_a_size_is_refused(pool: CouchDB, environment: dict[str, str]) -> None:
    with Terminal([sys.executable, "-m", "picas.cli", "top"], environment, columns=0, lines=0) as terminal:
        assert terminal.end() == 1
        assert terminal.text.endswith("this terminal does not say how large it is: stty rows 24 cols 80\n")


def test_elsewhere_than_at_a_terminal_a_line_says_what_to_use(run_picas: Any) -> None:
    result = run_picas("top")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "picas: picas top needs a terminal: picas status --watch prints to a file or a pipe\n"
