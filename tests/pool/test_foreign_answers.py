"""What is not CouchDB's answer says nothing about a token: a proxy's page in a bad hour is waited out, as an outage."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable
from uuid import uuid4

import pytest
from couchdb.http import Forbidden, HTTPError, ResourceNotFound, ServerError, Unauthorized
from support.certificates import Certificate
from support.faults import Double, FaultProxy, Reply, Request
from support.places import Location
from support.workers import Gate, Worker, wait_for

from picas import CouchDB, Task, User, console
from picas.config import Settings
from picas.couch import transport
from picas.couch.connections import Timeouts
from picas.couch.outages import is_outage, is_outage_at_start
from picas.couch.transport import Resource, Session
from picas.exceptions import ForeignAnswer, LostAnswer, NoSuchDocument, PicasError, UntrustedServer
from picas.views import count_states

HTML = {"Content-Type": "text/html"}
PAGE = b"<html>back soon</html>"
FOREIGN = {
    "a page": Reply(200, PAGE, HTML),
    "a page that says it is JSON": Reply(200, PAGE),
    "JSON of another server": Reply(200, b'{"message":"hello"}'),
    "half of it": Reply(200, b'{"ok":tr'),
    "a word": Reply(200, b'"ok"'),
    "nothing": Reply(204, b"", {}),
    "a redirect elsewhere": Reply(302, b"", {"Location": "http://login.example.org/"}),
    "a redirect without end": Reply(302, b"", {"Location": "/"}),
    "bad request": Reply(400, PAGE, HTML),
    "forbidden": Reply(403, PAGE, HTML),
    "forbidden in JSON": Reply(403, b'{"message":"Forbidden"}'),
    "not found": Reply(404, PAGE, HTML),
    "not found in JSON": Reply(404, b'{"error":"Not Found","path":"/"}'),
    "not allowed": Reply(405, PAGE, HTML),
    "who are you": Reply(407, PAGE, HTML),
    "conflict": Reply(409, PAGE, HTML),
    "precondition": Reply(412, PAGE, HTML),
}
BUSY = {
    "507": Reply(507, b'{"error":"insufficent_storage","reason":"the disk is full"}'),
    "508": Reply(508, PAGE, HTML),
    "520": Reply(520, PAGE, HTML),
}
LOCKED_OUT = Reply(
    403,
    b'{"error":"forbidden","reason":"Account is temporarily locked due to multiple authentication failures"}',
)
SHUT_OUT = Reply(403, b'{"error":"forbidden","reason":"You are not allowed to access this db."}')
WRONG_PASSWORD = Reply(401, b'{"error":"unauthorized","reason":"Name or password is incorrect."}')
REFUSALS = {"locked out": LOCKED_OUT, "shut out": SHUT_OUT, "wrong password": WRONG_PASSWORD}

foreign_answers = pytest.mark.parametrize("answer", FOREIGN.values(), ids=FOREIGN.keys())


@pytest.fixture
def resource() -> Iterator[Callable[[Reply], tuple[Resource, Double]]]:
    """Return a function that makes a resource of a server that always gives one answer."""
    doubles = []

    def make(answer: Reply) -> tuple[Resource, Double]:
        double = Double(lambda request: answer)
        doubles.append(double)
        double.__enter__()
        return Resource(double.url, Session(timeouts=Timeouts(5, 5), retry_pauses=(0.0, 0.0))), double

    yield make
    for double in doubles:
        double.__exit__(None, None, None)


# --- one request


@foreign_answers
def test_a_request_that_reads_is_repeated(resource: Callable[..., tuple[Resource, Double]], answer: Reply) -> None:
    database, double = resource(answer)
    with pytest.raises(ForeignAnswer, match=rf"^what answers at {double.url} is not CouchDB \(status {answer.status}"):
        database.get_json("db")
    assert len([request for request in double.requests if request.path == "/db"]) == 3


@foreign_answers
def test_the_outcome_of_a_request_that_writes_is_unknown(
    resource: Callable[..., tuple[Resource, Double]], answer: Reply
) -> None:
    database, double = resource(answer)
    for send in (database("db", "a").put_json, database("db", "_bulk_docs").post_json, database("db").delete_json):
        double.requests.clear()
        with pytest.raises(LostAnswer, match="is not CouchDB"):
            send()
        assert len(double.requests) == 1


@pytest.mark.parametrize("status", [413, 414])
def test_a_request_that_is_too_large_is_refused_by_whoever_answers(
    resource: Callable[..., tuple[Resource, Double]], status: int
) -> None:
    """A proxy may take less than CouchDB. The same request never succeeds."""
    database, double = resource(Reply(status, PAGE, HTML))
    with pytest.raises(ServerError) as caught:
        database("db", "a").put_json()
    assert not is_outage(caught.value)
    assert len(double.requests) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("db/_design/x/_view/y", b'{"ok":true}'),
        ("db/_all_docs", b'{"ok":true}'),
        ("db/_changes", b'{"ok":true}'),
        ("db/_design/x", b'{"ok":true}'),
        ("db/a", b'{"ok":true}'),
    ],
)
def test_json_in_another_form_is_no_answer(
    resource: Callable[..., tuple[Resource, Double]], path: str, body: bytes
) -> None:
    with pytest.raises(ForeignAnswer):
        resource(Reply(200, body))[0](*path.split("/")).get_json()


def test_attachments_are_not_json(client: CouchDB) -> None:
    task = Task({"_id": "a"})
    task.put_attachment("page.html", PAGE)
    client.save(task)
    assert client.read_attachment("a", "page.html") == PAGE


def test_only_couchdb_says_that_there_is_no_document(client: CouchDB, location: Location, through: Callable) -> None:
    with pytest.raises(NoSuchDocument):
        client.get("a")
    client.save({"_id": "a"})
    with FaultProxy(location.url) as proxy:
        far = through(proxy)
        for answer in FOREIGN.values():
            proxy.fail("GET", "/a", answer, times=3)
            with pytest.raises(PicasError) as caught:
                far.get("a")
            assert not isinstance(caught.value, ValueError)
            assert is_outage(caught.value)
        proxy.fail("GET", "/a", Reply(404, b'{"error":"not_found","reason":"Database does not exist."}'))
        with pytest.raises(ResourceNotFound):
            far.get("a")


def test_a_row_for_each_document_is_an_answer(client: CouchDB, location: Location, through: Callable) -> None:
    with FaultProxy(location.url) as proxy:
        far = through(proxy)
        for body in (b"[]", b'[{"id":"b"},{"id":"c"}]', b"[1,2]"):
            proxy.fail("POST", "_bulk_docs", Reply(201, body), after=True)
            name = f"b{len(body)}"
            assert far.save_documents([{"_id": name}, {"_id": f"{name}c"}]) == [True, True]
            assert proxy.count("POST", "_bulk_docs") == 1
            proxy.forget()


def test_a_full_disk_in_the_row_of_a_document_is_waited_out(
    client: CouchDB, location: Location, through: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picas.couch.writes.REPEAT_PAUSES", (0.0,))
    row = b'[{"id":"a","error":"insufficient_storage","reason":"database_dir is too full"}]'
    with FaultProxy(location.url) as proxy:
        far = through(proxy)
        proxy.fail("POST", "_bulk_docs", Reply(201, row))
        assert far.save_documents([{"_id": "a"}]) == [True]
        proxy.fail("POST", "_bulk_docs", Reply(201, row.replace(b'"a"', b'"b"')), times=9)
        with pytest.raises(ServerError) as caught:
            far.save_documents([{"_id": "b"}])
        assert is_outage(caught.value)


# --- a pilot in the middle of its run


class BadHour(FaultProxy):
    """A proxy that gives one answer to everything for a while.

    With `is_applied`, the server gets each request all the same.
    """

    answer_for_all: Reply | None = None
    left = 0
    is_applied = False

    def begin(self, answer: Reply, count: int, is_applied: bool) -> None:
        self.answer_for_all, self.left, self.is_applied = answer, count, is_applied

    def _pass_on(self, request: Request) -> Reply | str:
        if self.left <= 0 or self.answer_for_all is None:
            return super()._pass_on(request)
        self.left -= 1
        if self.is_applied:
            self._forward(request)
        return self.answer_for_all


@pytest.fixture
def bad_hour(location: Location) -> Iterator[BadHour]:
    with BadHour(location.url) as proxy:
        yield proxy


@pytest.mark.usefixtures("quick", "nothing_left")
class TestAPilot:
    @pytest.mark.parametrize("count", range(1, 9))
    @pytest.mark.parametrize("is_applied", [False, True], ids=["", "applied"])
    def test_saves_a_result_if_it_is_let_in_again_just_after_a_refusal(
        self,
        client: CouchDB,
        push: Callable[..., list[Task]],
        through: Callable[..., CouchDB],
        bad_hour: BadHour,
        is_applied: bool,
        count: int,
    ) -> None:
        """That the server lets the user in then does not show that it refuses the result."""
        push(1)
        answer = REFUSALS["wrong password"]
        Worker(through(bad_hour), lambda task: bad_hour.begin(answer, count, is_applied)).run()
        assert bad_hour.left == 0
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 1, "error": 0}

    @pytest.mark.parametrize("is_applied", [False, True], ids=["", "applied"])
    @pytest.mark.parametrize(
        "answer",
        [*FOREIGN.values(), *BUSY.values(), *REFUSALS.values()],
        ids=[*FOREIGN.keys(), *BUSY.keys(), *REFUSALS.keys()],
    )
    def test_waits_until_couchdb_answers_again(
        self,
        client: CouchDB,
        push: Callable[..., list[Task]],
        through: Callable[..., CouchDB],
        bad_hour: BadHour,
        spool: Callable[[], list[Path]],
        answer: Reply,
        is_applied: bool,
    ) -> None:
        push(4)
        far = through(bad_hour, retry_pauses=(0.0,))

        def work(task: Task) -> None:
            if task.id == "token_1":
                bad_hour.begin(answer, 12, is_applied and answer not in REFUSALS.values())

        pilot = Worker(far, work, heartbeat=0.05, lease=60.0, max_outage=60)
        pilot.run()
        assert sorted(pilot.processed) == [f"token_{number}" for number in range(4)]
        assert bad_hour.left == 0
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 4, "error": 0}
        assert all(len(client.get(f"token_{number}")["attempts"]) == 1 for number in range(4))
        assert spool() == []

    def test_waits_no_longer_than_it_was_told(
        self,
        client: CouchDB,
        push: Callable[..., list[Task]],
        through: Callable[..., CouchDB],
        bad_hour: BadHour,
        spool: Callable[[], list[Path]],
    ) -> None:
        push(1)
        pilot = Worker(
            through(bad_hour, retry_pauses=()),
            lambda task: bad_hour.begin(FOREIGN["a page"], 10**6, False),
            max_outage=0.2,
        )
        with pytest.raises(PicasError, match="is not CouchDB"):
            pilot.run()
        assert [path.suffix for path in spool()] == [".json"]

    def test_waits_while_couchdb_has_locked_its_account(
        self,
        client: CouchDB,
        member: CouchDB,
        push: Callable[..., list[Task]],
        location: Location,
        spool: Callable[[], list[Path]],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Somebody at the same address has tried a wrong password some times. CouchDB forgets that after minutes."""
        push(2)
        name, _ = member.server.resource.credentials

        def work(task: Task) -> None:
            answers: set[type[Exception]] = set()
            while Forbidden not in answers:
                try:
                    CouchDB(location.url, client.database_name, name, "wrong")
                except HTTPError as error:
                    answers.add(type(error))

        with pytest.raises(Forbidden, match="temporarily locked"):
            Worker(member, work, max_outage=0.2).run()
        assert re.search(r"The database is away \(forbidden: .*temporarily locked.*: trying again", caplog.text)
        assert len(spool()) == 1

    def test_waits_until_the_certificate_is_trusted_again(
        self,
        client: CouchDB,
        push: Callable[..., list[Task]],
        location: Location,
        certificate: Certificate,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        push(3)
        tls = certificate.context()
        other = Certificate(tmp_path)
        with FaultProxy(location.url, tls) as proxy:
            names = (client.database_name, location.username, location.password)
            far = CouchDB(proxy.url, *names, ssl_verification=certificate.path)

            def work(task: Task) -> None:
                if task.id == "token_1":
                    other.load_into(tls)
                    far.server.resource.session.connection_pool.close()
                    renewing.start()

            def is_refused() -> bool:
                """Close all connections: a heartbeat may have been using one, and have given it back."""
                far.server.resource.session.connection_pool.close()
                return caplog.text.count("is not trusted") >= 3

            def renew() -> None:
                wait_for(is_refused)
                certificate.load_into(tls)

            renewing = threading.Thread(target=renew)
            pilot = Worker(far, work, heartbeat=0.05, lease=60.0, max_outage=60)
            pilot.run()
            renewing.join()
        assert sorted(pilot.processed) == ["token_0", "token_1", "token_2"]
        assert count_states(client)["done"] == 3


@pytest.fixture
def member(client: CouchDB, location: Location, is_couchdb: bool) -> Iterator[CouchDB]:
    """A client of a user of its own."""
    if not is_couchdb:
        pytest.skip("the embedded server has one user only")
    name = f"picas_test_{uuid4().hex}"
    users = CouchDB(location.url, "_users", location.username, location.password, create=True)
    user = users.save(User(name, "pw"))
    client.set_users(members=[name], member_roles=[])
    yield CouchDB(location.url, client.database_name, name, "pw")
    users.delete(user)


# --- the start


@pytest.fixture
def settings(client: CouchDB, location: Location) -> Callable[..., Settings]:
    """Return a function that makes settings for the test's database."""

    def make(**other: str) -> Settings:
        values = {
            "host_url": location.url,
            "database": client.database_name,
            "username": location.username,
            "password": location.password,
        }
        return Settings(**{**values, "ssl_verification": True, **other})

    return make


@pytest.fixture
def no_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the transport repeat requests at once."""
    monkeypatch.setattr(transport, "pause", lambda pauses, retry_after=None: next(pauses, None) is not None)


class TestTheStart:
    def test_waits_for_a_server_that_is_down(
        self, gate: Gate, settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture, no_naps: None
    ) -> None:
        gate.close()
        connected: list[CouchDB] = []
        thread = threading.Thread(target=lambda: connected.append(console.connect(settings(host_url=gate.url))))
        thread.start()
        wait_for(lambda: "The database is away" in caplog.text)
        assert connected == []
        gate.open()
        thread.join(30)
        assert connected[0].doc_count() > 0

    @pytest.mark.parametrize("answer", [*BUSY.values(), LOCKED_OUT], ids=[*BUSY.keys(), "locked out"])
    def test_waits_while_the_server_is_busy(
        self,
        bad_hour: BadHour,
        settings: Callable[..., Settings],
        monkeypatch: pytest.MonkeyPatch,
        answer: Reply,
        no_naps: None,
    ) -> None:
        monkeypatch.setattr("picas.couch.outages.FIRST_PAUSE", 0.02)
        bad_hour.begin(answer, 5, False)
        assert console.connect(settings(host_url=bad_hour.url), max_outage=60).doc_count() > 0
        assert bad_hour.left == 0

    def test_waits_for_as_long_as_it_is_told(
        self, gate: Gate, settings: Callable[..., Settings], no_naps: None
    ) -> None:
        gate.close()
        with pytest.raises(PicasError, match="can't reach"):
            console.connect(settings(host_url=gate.url), max_outage=0)

    @pytest.mark.parametrize("answer", [FOREIGN["a page"], FOREIGN["not found"], FOREIGN["who are you"]])
    def test_names_an_address_that_is_not_couchdb_s(
        self, bad_hour: BadHour, settings: Callable[..., Settings], answer: Reply, no_naps: None
    ) -> None:
        bad_hour.begin(answer, 10**6, False)
        with pytest.raises(ForeignAnswer) as caught:
            console.connect(settings(host_url=bad_hour.url))
        assert console.describe(caught.value) == (
            f"what answers at {bad_hour.url} is not CouchDB (status {answer.status}, text/html): is the address in "
            "PICAS_HOST_URL right, and the server running?"
        )

    @pytest.mark.parametrize(
        ("wrong", "kind"),
        [({"database": "no_such_database"}, PicasError), ({"username": "nobody", "password": "x"}, Unauthorized)],
        ids=["database", "user"],
    )
    def test_ends_at_once_if_the_settings_are_wrong(
        self, settings: Callable[..., Settings], wrong: dict[str, str], kind: type[Exception]
    ) -> None:
        with pytest.raises(kind):
            console.connect(settings(**wrong))

    def test_ends_at_once_if_the_name_of_the_server_is_unknown(
        self, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args: (_ for _ in ()).throw(unknown))
        began = time.monotonic()
        with pytest.raises(PicasError, match="can't reach"):
            console.connect(settings(host_url="http://no.such.host.invalid:5984"))
        assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("error", "later", "at_start"),
    [
        (ForeignAnswer("a page"), True, False),
        (UntrustedServer("expired"), True, False),
        (LostAnswer("no answer"), True, True),
        (ServerError((507, "full")), True, True),
        (ServerError((508, "loop")), True, True),
        (ServerError((501, "no")), False, False),
        (ServerError((413, "too large")), False, False),
        (Unauthorized(("unauthorized", "no")), True, False),
        (Forbidden(("forbidden", "Account is temporarily locked due to multiple failures")), True, True),
        (Forbidden(("forbidden", "You are not allowed to access this db.")), True, False),
        (Forbidden(("forbidden", "tokens only")), False, False),
        (Forbidden("no"), False, False),
        (ResourceNotFound(("not_found", "missing")), False, False),
        (NoSuchDocument("a"), False, False),
    ],
    ids=repr,
)
def test_which_errors_are_an_outage(error: PicasError | HTTPError, later: bool, at_start: bool) -> None:
    assert (is_outage(error), is_outage_at_start(error)) == (later, at_start)
