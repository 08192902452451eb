"""The verb `wait`: until all tokens have come to their end."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support.faults import RESET, Double, FaultProxy, Reply, Request
from support.places import Location
from support.tokens import ended_token, make_token
from support.workers import wait_for

from picas import CouchDB
from picas.views import OVERVIEW


@pytest.fixture
def ended(client: CouchDB) -> CouchDB:
    """The client of a pool in which all has ended: two tokens are done and one is in error."""
    client.save_documents([ended_token(0, "done"), ended_token(1, "done"), ended_token(2)])
    return client


@pytest.fixture
def chat() -> Iterator[tuple[str, list[Request]]]:
    """The address of a web hook, and what was sent there."""
    sent: list[Request] = []

    def answer(request: Request) -> Reply:
        sent.append(request)
        return Reply(200, b"ok", {"Content-Type": "text/plain"})

    with Double(answer) as double:
        yield f"{double.url}/hooks/s3cret", sent


@pytest.fixture
def proxy(location: Location) -> Iterator[FaultProxy]:
    """A proxy for the server, which can fail."""
    with FaultProxy(location.url) as proxy:
        yield proxy


class TestTheResult:
    def test_some_are_in_error(self, ended: CouchDB, run_picas: Any) -> None:
        result = run_picas("wait")
        assert (result.returncode, result.stderr) == (3, "")
        assert re.fullmatch(r"done 2, error 1 after \d s\n", result.stdout)

    @pytest.mark.timing
    def test_all_are_done(self, client: CouchDB, at_terminal: Any, push: Any, proxy: FaultProxy) -> None:
        (token,) = push(1)
        with at_terminal("wait", variables={"PICAS_HOST_URL": proxy.url}) as terminal:
            wait_for(lambda: proxy.count("GET", OVERVIEW) > 1)  # the first lets the server index the view
            client.save({**ended_token(0, "done"), "_rev": token.rev})
            assert terminal.end() == 0
        assert re.fullmatch(r"done 1, error 0 after \d+ s\n", terminal.text)

    def test_quiet(self, ended: CouchDB, run_picas: Any) -> None:
        result = run_picas("wait", "--quiet")
        assert (result.returncode, result.stdout, result.stderr) == (3, "", "")

    def test_the_time_is_up(self, ended: CouchDB, run_picas: Any) -> None:
        ended.save_documents([make_token(8), make_token(9, lock=5)])
        result = run_picas("wait", "--timeout", "1", "--then", "touch ran")
        assert (result.returncode, result.stderr) == (124, "")
        assert re.fullmatch(r"todo 1, locked 1, done 2, error 1 after \d s\n", result.stdout)

    def test_ctrl_c(self, at_terminal: Any, push: Any, proxy: FaultProxy) -> None:
        push(1)
        with at_terminal("wait", variables={"PICAS_HOST_URL": proxy.url}) as terminal:
            wait_for(lambda: proxy.count("GET", OVERVIEW))
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == 130

    def test_without_views(self, client: CouchDB, run_picas: Any) -> None:
        client.delete(client.get("_design/Monitor"))
        result = run_picas("wait")
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)

    @pytest.mark.parametrize(
        "arguments",
        [("--timeout", "soon"), ("--webhook", "example.org"), ("--webhook", "ftp://x"), ("Monitor",)],
        ids=str,
    )
    def test_wrong_arguments(self, run_picas: Any, arguments: tuple[str, ...]) -> None:
        result = run_picas("wait", *arguments)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


class TestOutages:
    def test_are_outlived(self, client: CouchDB, run_picas: Any, push: Any, proxy: FaultProxy) -> None:
        (token,) = push(1)
        saved = {**ended_token(0, "done"), "_rev": token.rev}
        proxy.fail("GET", OVERVIEW, RESET, times=4)
        proxy.fail("GET", OVERVIEW, RESET, meanwhile=lambda: client.save(saved))
        result = run_picas("wait", variables={"PICAS_HOST_URL": proxy.url})
        assert (result.returncode, result.stdout[:15]) == (0, "done 1, error 0")
        first, last = result.stderr.splitlines()
        assert first.startswith("The database is away (no answer from http://127.0.0.1")
        assert last.startswith("The database is back after ")

    def test_end_it_if_they_last(self, run_picas: Any, push: Any, proxy: FaultProxy) -> None:
        push(1)
        proxy.fail("GET", OVERVIEW, RESET, times=1000)
        result = run_picas("wait", variables={"PICAS_HOST_URL": proxy.url, "PICAS_MAX_OUTAGE": "1"})
        assert (result.returncode, result.stdout) == (75, "")
        assert result.stderr.splitlines()[-1].startswith("picas: no answer from http://127.0.0.1")

    @pytest.mark.parametrize("path", [OVERVIEW, "/"], ids=["later", "at the start"])
    def test_do_not_prolong_the_time(self, run_picas: Any, push: Any, proxy: FaultProxy, path: str) -> None:
        push(1)
        proxy.fail("GET", path, RESET, times=1000)
        result = run_picas("wait", "--timeout", "1", variables={"PICAS_HOST_URL": proxy.url})
        assert (result.returncode, result.stdout) == (124, "")
        assert result.stderr.splitlines()[-1].startswith("picas: no answer from http://127.0.0.1")


def test_a_user_who_is_refused_is_no_outage(run_picas: Any) -> None:
    shut_out = Reply(403, b'{"error":"forbidden","reason":"You are not allowed to access this db."}')
    with Double(lambda request: shut_out) as double:
        result = run_picas("wait", "--timeout", "0", variables={"PICAS_HOST_URL": double.url})
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "not a member of the database" in result.stderr


class TestThen:
    def test_a_command_gets_the_counts(self, ended: CouchDB, run_picas: Any, tmp_path: Any) -> None:
        result = run_picas("wait", "--then", "echo $PICAS_DONE $PICAS_ERROR $PICAS_TODO $PICAS_LOCKED > counts")
        assert result.returncode == 3
        assert (tmp_path / "counts").read_text() == "2 1 0 0\n"

    def test_a_command_that_fails(self, ended: CouchDB, run_picas: Any) -> None:
        result = run_picas("wait", "--then", "exit 7")
        assert result.returncode == 1
        assert result.stderr == "picas: the command of --then has failed with exit code 7\n"

    def test_no_command_is_run_when_the_time_is_up(self, push: Any, run_picas: Any, tmp_path: Any) -> None:
        push(1)
        assert run_picas("wait", "--timeout", "0", "--then", "touch ran").returncode == 124
        assert not (tmp_path / "ran").exists()


class TestWebhook:
    def test_gets_a_text_and_the_counts(self, ended: CouchDB, run_picas: Any, chat: Any) -> None:
        url, sent = chat
        assert run_picas("wait", "--quiet", "--webhook", url).returncode == 3
        (request,) = sent
        message = json.loads(request.body)
        name = ended.database_name
        assert re.fullmatch(rf"{name}: done 2, error 1 after \d s", message.pop("text"))
        assert message == {"database": name, "todo": 0, "locked": 0, "done": 2, "error": 1}

    def test_may_have_a_query_and_a_user_in_its_address(self, ended: CouchDB, run_picas: Any, chat: Any) -> None:
        url, sent = chat
        address = f"{url.replace('://', '://me:hunter2@')}/a%20b?key=x"
        assert run_picas("wait", "--quiet", "--webhook", address).returncode == 3
        assert sent[0].path.endswith("/a%20b?key=x")
        assert sent[0].authorization == "Basic bWU6aHVudGVyMg=="

    def test_is_told_when_the_time_is_up(self, push: Any, run_picas: Any, chat: Any) -> None:
        url, sent = chat
        push(1)
        assert run_picas("wait", "--timeout", "0", "--webhook", url).returncode == 124
        assert ": todo 1, locked 0, done 0, error 0 after 0 s" in json.loads(sent[0].body)["text"]

    @pytest.mark.parametrize("status", [None, 302, 404, 500])
    def test_that_fails_changes_nothing_and_stays_secret(
        self, ended: CouchDB, run_picas: Any, status: int | None
    ) -> None:
        with Double(lambda request: Reply(status or 200)) as double:
            url = "http://127.0.0.1:9" if status is None else double.url
            result = run_picas("wait", "--webhook", f"{url}/hooks/s3cret")
        assert (result.returncode, result.stdout[:7]) == (3, "done 2,")
        reason = "can't be reached (Connection refused)" if status is None else f"has answered with status {status}"
        assert result.stderr == f"picas: the message was not sent: 127.0.0.1 {reason}\n"
