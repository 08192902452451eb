"""Notes to people once all tokens have ended: `picas wait --notify`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faults import HANG, RESET, Double, FaultProxy, Reply, Request
from support.mail import MailServer
from support.tokens import ended_token
from support.workers import wait_for

from picas import CouchDB
from picas.config import without_password
from picas.couch import notes
from picas.couch.notes import Note, receivers, send_note
from picas.exceptions import UsageError
from picas.views import OVERVIEW, create_report

pytest.importorskip("apprise")

SECRET = "hunter2"
NOTE = Note("title", "text", "success")


@pytest.fixture
def ended(client: CouchDB) -> CouchDB:
    """The client of a pool in which all has ended: two tokens are done and one is in error."""
    client.save_documents([ended_token(0, "done"), ended_token(1, "done"), ended_token(2, reason="no <space>")])
    return client


@pytest.fixture
def service() -> Iterator[tuple[str, Double]]:
    """The address of a service that takes notes as JSON, and its server."""
    with Double(lambda request: Reply(404 if "/bad" in request.path else 200)) as double:
        yield f"json://me:{SECRET}@{double.netloc}", double


def content_of(request: Request) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(request.body)
    return content


class TestTheNote:
    def test_says_what_came_of_the_tokens_and_why_some_failed(
        self, ended: CouchDB, run_picas: Any, service: Any
    ) -> None:
        create_report(ended)
        url, double = service
        result = run_picas("wait", "--notify", f"{url}/a")
        assert (result.returncode, result.stdout[:15], result.stderr) == (3, "done 2, error 1", "")
        (request,) = double.requests
        note = content_of(request)
        assert note["title"] == f"{ended.database_name}: all has ended, 1 of 3 tokens in error"
        assert note["message"].splitlines() == [result.stdout.strip(), "1 token: no <space>"]
        assert note["type"] == "failure"
        assert request.authorization == "Basic bWU6aHVudGVyMg=="

    def test_if_all_is_done(self, client: CouchDB, run_picas: Any, service: Any) -> None:
        client.save(ended_token(0, "done"))
        url, double = service
        assert run_picas("wait", "--notify", url).returncode == 0
        note = content_of(double.requests[0])
        assert (note["title"], note["type"]) == (f"{client.database_name}: all is done: 1 token", "success")

    def test_if_the_time_is_up(self, push: Any, ended: CouchDB, run_picas: Any, service: Any) -> None:
        ended.save({"_id": "token_9", "type": "token", "lock": 0, "done": 0})
        url, double = service
        assert run_picas("wait", "--timeout", "0", "--notify", url).returncode == 124
        note = content_of(double.requests[0])
        assert note["title"] == f"{ended.database_name}: the time is up, and 1 of 4 tokens are left"
        assert note["message"].startswith("todo 1, locked 0, done 2, error 1 after ")
        assert note["type"] == "warning"

    def test_by_mail_with_the_text_of_tokens_escaped(self, ended: CouchDB, run_picas: Any) -> None:
        create_report(ended)
        with MailServer() as server:
            address = f"mailto://{server.netloc}?from=picas@example.org&to=ann@example.org&format=html"
            assert run_picas("wait", "--quiet", "--notify", address).returncode == 3
        (message,) = server.messages
        assert (message["To"], message["Subject"].endswith("1 of 3 tokens in error")) == ("ann@example.org", True)
        html = message.get_body(("html",))
        assert html is not None
        assert "&lt;space&gt;" in html.get_content()


@pytest.mark.parametrize("limit", ["--timeout", "PICAS_MAX_OUTAGE"])
def test_a_server_that_stays_away_is_announced(
    client: CouchDB, push: Any, run_picas: Any, service: Any, location: Any, limit: str
) -> None:
    push(1)
    url, double = service
    with FaultProxy(location.url) as proxy:
        proxy.fail("GET", OVERVIEW, RESET, times=1000)
        hook = ("--webhook", f"{double.url}/hook")
        arguments = ("--timeout", "1") if limit == "--timeout" else ()
        variables = {"PICAS_HOST_URL": proxy.url, **({} if arguments else {limit: "1"})}
        result = run_picas("wait", *arguments, "--notify", url, *hook, variables=variables)
    assert result.returncode == (124 if arguments else 75)
    texts = [content.get("message") or content["text"] for content in map(content_of, double.requests)]
    assert len(texts) == 2
    why = "the time is up" if arguments else "picas wait has given up"
    assert all(f"{why}: no answer from http://127.0.0.1" in text for text in texts)


class TestAddresses:
    def test_may_be_several_and_come_from_the_environment(self, ended: CouchDB, run_picas: Any, service: Any) -> None:
        url, double = service
        variables = {"PICAS_NOTIFY": f" {url}/a\n{url}/b "}
        result = run_picas("wait", "--notify", f"{url}/c", "--notify", "--notify", f"{url}/a", variables=variables)
        assert (result.returncode, result.stderr) == (3, "")
        assert sorted(request.path for request in double.requests) == ["/a", "/b", "/c"]

    def test_in_the_environment_alone_send_nothing(self, ended: CouchDB, run_picas: Any, service: Any) -> None:
        url, double = service
        assert run_picas("wait", variables={"PICAS_NOTIFY": url}).returncode == 3
        assert double.requests == []

    def test_in_the_environment_are_no_programs_business(self) -> None:
        assert without_password({"PICAS_NOTIFY": SECRET, "A": "b"}) == {"A": "b"}

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (f"bogus://{SECRET}", "address for notes (bogus://…) is not one that apprise knows"),
            (SECRET, "address for notes is not one that apprise knows"),
            (f"slack://{SECRET}", "address for notes (slack://…) is not one that apprise knows"),
            (None, "--notify has no address, and the variable PICAS_NOTIFY has none either"),
        ],
    )
    def test_that_are_invalid_are_refused_before_the_wait(
        self, push: Any, run_picas: Any, given: str | None, words: str
    ) -> None:
        push(1)
        result = run_picas("wait", "--notify", *([given] if given else []))
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert words in result.stderr
        assert SECRET not in result.stderr

    def test_one_of_several_that_is_invalid_is_named(self) -> None:
        with pytest.raises(UsageError, match=r"^address 2 of 2 for notes \(bogus://…\)"):
            receivers(["json://127.0.0.1", f"bogus://{SECRET}"])

    @pytest.mark.parametrize("arguments", [["--notfy", f"json://{SECRET}@a"], [f"json://{SECRET}@a"]])
    def test_stay_secret_after_a_typing_error(self, run_picas: Any, arguments: list[str]) -> None:
        result = run_picas("wait", *arguments)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert SECRET not in result.stderr

    def test_are_not_in_the_text_of_a_receiver(self) -> None:
        assert SECRET not in repr(receivers([f"json://me:{SECRET}@127.0.0.1"]))

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_are_not_in_the_list_of_processes(
        self, ended: CouchDB, at_terminal: Any, service: Any, tmp_path: Path
    ) -> None:
        url, double = service
        double.answer = lambda request: HANG
        with at_terminal("wait", "--notify", variables={"PICAS_NOTIFY": url}) as terminal:
            wait_for(lambda: double.requests)
            commands = [path.read_bytes() for path in _command_lines()]
            assert any(b"send_from_stdin" in command for command in commands)
            assert not any(SECRET.encode() in command for command in commands)
            double.stopped.set()
            terminal.end()


def _command_lines() -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if _is_readable(path)]


def _is_readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


class TestFailures:
    @pytest.mark.parametrize("is_reached", [True, False])
    def test_are_named_without_the_address_and_change_nothing(
        self, ended: CouchDB, run_picas: Any, service: Any, is_reached: bool
    ) -> None:
        url, double = service
        bad = f"{url}/bad/{SECRET}" if is_reached else f"json://{SECRET}@127.0.0.1:9/{SECRET}"
        result = run_picas("wait", "--notify", bad, "--notify", f"{url}/good")
        assert (result.returncode, result.stdout[:7], result.stderr.count("\n")) == (3, "done 2,", 1)
        assert result.stderr.startswith("picas: the note was not sent: JSON did not accept it")
        assert SECRET not in result.stderr
        assert "/good" in [request.path for request in double.requests]

    @pytest.mark.timing
    def test_a_service_that_hangs_has_little_time(self, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """It sends a byte now and then, so that no time-out of a socket ends that."""
        url, double = service
        monkeypatch.setattr(notes, "TIMEOUT", 8.0)
        with dripping() as port:
            to = receivers([f"json://127.0.0.1:{port}", url])
            began = time.monotonic()
            assert send_note(NOTE, to) == to[:1]
        assert 7 < time.monotonic() - began < 20
        assert len(double.requests) == 1

    def test_without_apprise_a_line_names_what_to_install(self, push: Any, run_picas: Any, tmp_path: Path) -> None:
        push(1)
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / "apprise.py").write_text("raise ImportError\n")
        path = str(tmp_path / "hidden")
        result = run_picas("wait", "--notify", "json://a", variables={"PYTHONPATH": path + _inherited_path()})
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == 'picas: the package apprise is missing: pip install "picas[notify]"\n'


@contextlib.contextmanager
def dripping() -> Iterator[int]:
    """Yield the port of a server whose answer never ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection = listener.accept()[0]
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.2)

        threading.Thread(target=drip, daemon=True).start()
        yield listener.getsockname()[1]


def _inherited_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{os.pathsep}{inherited}" if inherited else ""


class TestTogether:
    def test_the_note_comes_before_the_command(
        self, ended: CouchDB, run_picas: Any, service: Any, tmp_path: Path
    ) -> None:
        url, double = service
        seen: list[bool] = []

        def answer(request: Request) -> Reply:
            seen.append((tmp_path / "ran").exists())
            return Reply()

        double.answer = answer
        arguments = ("--webhook", f"{double.url}/hook", "--notify", f"{url}/note", "--then", "touch ran")
        assert run_picas("wait", *arguments).returncode == 3
        assert [request.path for request in double.requests] == ["/hook", "/note"]
        assert seen == [False, False]
        assert (tmp_path / "ran").exists()

    def test_the_exit_code_is_that_of_the_command(self, ended: CouchDB, run_picas: Any, service: Any) -> None:
        url, _ = service
        result = run_picas("wait", "--notify", f"{url}/bad", "--then", "exit 7")
        assert (result.returncode, result.stderr.count("\n")) == (1, 2)
