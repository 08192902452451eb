"""The embedded server: its lifetime, its security, and its compatibility with CouchDB, on real servers."""

import json
import logging
import multiprocessing
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from support.places import ROOT

from picas.embedded import (
    EmbeddedServerError,
    FolderInUseError,
    InstallError,
    NodeMissingError,
    PortInUseError,
    Server,
)
from picas.embedded import node as node_module
from picas.embedded.node import Node, find_node, install_packages
from picas.embedded.serve import serve

GONE_SECONDS = 5.0
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module", autouse=True)
def _usable():
    """Skip all tests, with the reason, without Node.js or without a network to install the packages."""
    try:
        install_packages(find_node(), print)
    except (NodeMissingError, InstallError) as exc:
        pytest.skip(f"no embedded server here: {exc}")


@pytest.fixture(scope="module")
def shared():
    with Server() as running:
        yield running


@pytest.fixture
def http(shared):
    with requests.Session() as session:
        session.auth = (shared.username, shared.password)
        yield session


@pytest.fixture
def db(shared, http, request):
    url = f"{shared.url}/{re.sub('[^a-z0-9_]', '_', request.node.name.lower())}"
    assert http.put(url).status_code == 201
    yield url
    http.delete(url)


def error_of(answer):
    return answer.status_code, answer.json()["error"]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform.startswith("linux"):
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    return True


def wait_until(condition, seconds=GONE_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def start_python(code, **options):
    """Start a Python process that runs `code` with this repository's picas."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


class TestLife:
    def test_starts_and_stops(self):
        server = Server()
        assert server.poll() is None
        assert server.pid is None
        server.start()
        pid = server.pid
        assert server.start() is server, "starting twice is harmless"
        assert server.pid == pid
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert server.web_url == f"{server.url}/_utils/"
        assert requests.get(f"{server.url}/_up", timeout=5).json() == {"status": "ok"}
        server.stop()
        server.stop()
        assert not alive(pid)
        assert server.poll() == 0
        assert server.wait(0) == 0
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/_up", timeout=5)

    def test_can_be_started_again(self):
        server = Server(password="same")
        for _ in range(2):
            with server:
                assert requests.get(server.url, auth=("picas", "same"), timeout=5).ok

    def test_repr_shows_no_password(self, shared):
        assert shared.password not in repr(shared)
        assert "running" in repr(shared)

    def test_no_password_before_the_start(self):
        with pytest.raises(EmbeddedServerError):
            _ = Server().password

    @pytest.mark.parametrize("bad", [{"username": "a:b"}, {"username": ""}, {"password": "two\nlines"}])
    def test_rejects_unusable_names_and_passwords(self, bad):
        with pytest.raises(ValueError, match="can't be used"):
            Server(**bad)

    def test_waits_no_longer_than_its_timeout(self, shared):
        assert shared.wait(0.05) is None

    def test_create_database_returns_whether_it_was_new(self, shared):
        assert shared.create_database("made")
        assert not shared.create_database("made")
        with pytest.raises(EmbeddedServerError, match="illegal_database_name"):
            shared.create_database("Made")

    def test_leaves_no_orphan_if_the_parent_is_killed(self):
        parent = start_python(
            """
            import time
            from picas.embedded import Server
            server = Server().start()
            print(server.pid, flush=True)
            time.sleep(60)
            """
        )
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        parent.communicate()
        assert wait_until(lambda: not alive(pid))

    def test_leaves_no_orphan_if_a_fork_outlives_the_parent(self):
        parent = start_python(
            """
            import os, time
            from picas.embedded import Server
            server = Server().start()
            child = os.fork()
            if child:
                print(server.pid, child, flush=True)
            time.sleep(60)
            """
        )
        pid, child = map(int, parent.stdout.readline().split())
        parent.kill()
        parent.wait()
        try:
            assert wait_until(lambda: not alive(pid))
            assert alive(child)
        finally:
            os.kill(child, signal.SIGKILL)
            parent.communicate()

    def test_a_fork_that_ends_does_not_stop_the_server(self):
        parent = start_python(
            """
            import os, sys
            from picas.embedded import Server
            server = Server().start()
            child = os.fork()
            if not child:
                sys.exit(0)
            os.waitpid(child, 0)
            print(server.poll(), flush=True)
            """
        )
        out, err = parent.communicate(timeout=30)
        assert out.strip() == "None", err

    def test_ends_with_a_parent_that_forgets_to_stop_it(self):
        parent = start_python("from picas.embedded import Server; print(Server().start().pid)")
        out, err = parent.communicate(timeout=30)
        assert err == ""
        assert not alive(int(out))

    def test_ctrl_c_at_the_terminal_does_not_reach_it(self, shared):
        assert os.getpgid(shared.pid) != os.getpgid(0)

    def test_port_in_use(self, shared):
        with pytest.raises(PortInUseError, match=f"port {shared.port} .* in use"):
            Server(port=shared.port).start()

    def test_chosen_port(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with Server(port=port) as server:
            assert server.port == port
            assert requests.get(f"{server.url}/_up", timeout=5).ok

    def test_one_json_line_on_stdout(self):
        node = find_node()
        config = {
            "modules": str(install_packages(node, print)),
            "folder": None,
            "host": "127.0.0.1",
            "port": 0,
            "username": "u",
            "password": "p",
            "connections": 10,
            "stall": 5000,
        }
        process = subprocess.Popen(
            [node.binary, Path(node_module.__file__).with_name("server.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        process.stdin.write(json.dumps(config) + "\n")
        process.stdin.flush()
        first = process.stdout.readline()
        url = f"http://127.0.0.1:{json.loads(first)['port']}"
        requests.put(f"{url}/db", auth=("u", "p"), timeout=5)
        requests.put(f"{url}/db/a", json={"_bad": 1}, auth=("u", "p"), timeout=5)
        rest, _ = process.communicate(timeout=10)  # closes its stdin, which ends it
        assert (rest, process.returncode) == ("", 0)


class TestData:
    def test_survives_a_restart(self, tmp_path):
        data = tmp_path / "new" / "data"
        with Server(data) as server:
            password = server.password
            server.create_database("kept")
            auth = (server.username, password)
            requests.put(f"{server.url}/kept/a", json={"x": 1}, auth=auth, timeout=5)
            requests.put(f"{server.url}/gone", auth=auth, timeout=5)
            requests.delete(f"{server.url}/gone", auth=auth, timeout=5)
        with Server(data) as server:
            assert server.password == password
            assert requests.get(f"{server.url}/kept/a", auth=auth, timeout=5).json()["x"] == 1
            assert requests.get(f"{server.url}/_all_dbs", auth=auth, timeout=5).json() == ["kept"]

    def test_acknowledged_writes_survive_a_kill(self, tmp_path):
        with Server(tmp_path) as server, requests.Session() as session:
            session.auth = (server.username, server.password)
            views = {"all": {"map": "function (doc) { emit(doc._id, doc.n); }"}}
            for name in ("first", "second"):
                server.create_database(name)
                for n in range(40):
                    assert session.put(f"{server.url}/{name}/d{n:02}", json={"n": n}).status_code == 201
                session.put(f"{server.url}/{name}/_design/M", json={"views": views})
            session.get(f"{server.url}/first/_design/M/_view/all")
            server.create_database("third")
            os.kill(server.pid, signal.SIGKILL)
            assert server.wait(5) == -signal.SIGKILL
            server.start()
            assert session.get(f"{server.url}/_all_dbs").json() == ["first", "second", "third"]
            for name in ("first", "second"):
                rows = session.get(f"{server.url}/{name}/_design/M/_view/all").json()["rows"]
                assert [row["value"] for row in rows] == list(range(40))

    def test_password_file(self, tmp_path):
        with Server(tmp_path) as server:
            assert server.password_file == tmp_path / "password"
            assert server.password_file.read_text() == server.password + "\n"
            assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600
        with Server(tmp_path, password="chosen"):
            pass
        assert (tmp_path / "password").read_text() == "chosen\n"
        (tmp_path / "password").chmod(0o644)
        with Server(tmp_path) as server:
            assert server.password == "chosen"
            assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600

    def test_second_server_in_a_folder(self, tmp_path):
        with Server(tmp_path), pytest.raises(FolderInUseError, match=f"{tmp_path} is in use .*{os.getpid()}"):
            Server(tmp_path).start()
        with Server(tmp_path):
            pass

    def test_folder_is_free_again_after_its_server_was_killed(self, tmp_path):
        parent = start_python(
            """
            import sys, time
            from picas.embedded import Server
            print(Server(sys.argv[1]).start().pid, flush=True)
            time.sleep(60)
            """.replace("sys.argv[1]", repr(str(tmp_path)))
        )
        parent.stdout.readline()
        parent.kill()
        parent.communicate()
        with Server(tmp_path) as server:
            assert server.pid

    def test_no_stray_files(self, tmp_path, monkeypatch):
        (tmp_path / "cwd").mkdir()
        monkeypatch.chdir(tmp_path / "cwd")
        with Server(tmp_path / "data") as server:
            server.create_database("db")
        with Server() as server:
            server.create_database("db")
        assert list((tmp_path / "cwd").iterdir()) == []
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["databases", "lock", "password"]

    def test_unwritable_folder(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(EmbeddedServerError, match="can't start"):
            Server(tmp_path / "file" / "data").start()


class TestSafety:
    def test_every_path_except_up_requires_the_password(self, shared):
        url = shared.url
        assert requests.get(f"{url}/_up", timeout=5).json() == {"status": "ok"}
        for path in ("", "/_all_dbs", "/db", "/db/doc", "/_utilsx", "/_up/x", "/_uuids"):
            for method in ("GET", "PUT", "POST", "DELETE"):
                answer = requests.request(method, url + path, timeout=5)
                assert error_of(answer) == (401, "unauthorized")
                assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert requests.put(f"{url}/_utils/x", timeout=5).status_code == 401

    @pytest.mark.parametrize("auth", [("picas", "wrong"), ("root", None), ("", ""), ("picas", "")])
    def test_wrong_name_or_password(self, shared, auth):
        name, password = auth
        answer = requests.get(shared.url, auth=(name, shared.password if password is None else password), timeout=5)
        assert error_of(answer) == (401, "unauthorized")
        assert answer.json()["reason"] == "Name or password is incorrect."

    def test_authentication_other_than_basic(self, shared):
        for header in ("Bearer x", "Basic", "Basic !", "Basic cGljYXM="):
            answer = requests.get(shared.url, headers={"Authorization": header}, timeout=5)
            assert answer.status_code == 401

    def test_colon_in_the_password(self):
        with Server(password="a:b:ü") as server:
            auth = (b"picas", "a:b:ü".encode())
            assert requests.get(server.url, auth=auth, timeout=5).ok

    def test_cookie_session(self, shared):
        with requests.Session() as session:
            url = f"{shared.url}/_session"
            assert session.get(url).json()["userCtx"] == {"name": None, "roles": []}
            assert error_of(session.post(url, json={"name": "picas", "password": "no"})) == (401, "unauthorized")
            form = session.post(url, data={"name": shared.username, "password": shared.password})
            assert form.json() == {"ok": True, "name": "picas", "roles": ["_admin"]}
            assert {"HttpOnly", "SameSite"} <= set(session.cookies._cookies["127.0.0.1"]["/"]["AuthSession"]._rest)
            assert session.get(url).json()["userCtx"] == {"name": "picas", "roles": ["_admin"]}
            assert session.get(f"{shared.url}/_all_dbs").ok
            elsewhere = {"Origin": "http://127.0.0.1:1"}
            assert session.put(f"{shared.url}/by_cookie", headers=elsewhere).status_code == 403
            assert session.put(f"{shared.url}/by_cookie").status_code == 201
            cookie = session.cookies["AuthSession"]
            assert session.delete(url).ok
            assert session.get(f"{shared.url}/_all_dbs").status_code == 401
        forged = {"Cookie": f"AuthSession=f{cookie}"}
        assert requests.get(f"{shared.url}/_all_dbs", headers=forged, timeout=5).status_code == 401

    @pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE", "OPTIONS"])
    @pytest.mark.parametrize("path", ["/_up", "/_utils/", "/_session", "/_all_dbs", "/db", "/db/doc"])
    def test_requests_of_foreign_pages_are_refused(self, shared, http, method, path):
        port = shared.port
        foreign = [
            {"Origin": origin} for origin in ("https://example.org", "null", "http://127.0.0.1:1", "file://", "")
        ]
        foreign += [
            {"Host": host} for host in ("example.org", f"example.org:{port}", f"127.0.0.1.example.org:{port}", "")
        ]
        foreign += [{"Host": f"example.org:{port}", "Origin": f"http://example.org:{port}"}]
        for headers in foreign:
            answer = http.request(method, shared.url + path, headers=headers, json={})
            assert error_of(answer) == (403, "forbidden"), headers

    def test_requests_of_its_own_pages_are_answered(self, shared, http, db):
        for host in (
            f"127.0.0.1:{shared.port}",
            "localhost:8000",
            "LOCALHOST",
            "[::1]:8000",
        ):  # a tunnel has its own port
            for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
                assert http.get(db, headers=headers).ok
                assert http.post(db, headers=headers, json={}).status_code == 201

    def test_a_page_cannot_push_a_token_with_a_password_that_the_browser_knows(self, shared, http, db):
        """What a form or a script of a page can send without asking the server first."""
        token = '{"_id": "token_0", "type": "token", "input": "id", "lock": 0, "done": 0}'
        for kind in (
            "text/plain",
            "TEXT/plain;charset=UTF-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
        ):
            headers = {"Content-Type": kind}
            assert error_of(http.post(db, data=token, headers=headers)) == (415, "bad_content_type")
            docs = f'{{"docs": [{token}]}}'
            assert error_of(http.post(f"{db}/_bulk_docs", data=docs, headers=headers)) == (415, "bad_content_type")
        plain = {"Content-Type": "text/plain"}
        assert error_of(http.put(f"{db}/token_0", data=token, headers=plain)) == (415, "bad_content_type")
        login = json.dumps({"name": shared.username, "password": shared.password})
        assert error_of(requests.post(f"{shared.url}/_session", data=login, headers=plain, timeout=5))[0] == 401
        assert http.get(db).json()["doc_count"] == 0

    def test_an_attachment_is_no_page_that_may_run_scripts(self, shared, http, db):
        html = {"Content-Type": "text/html"}
        assert http.put(f"{db}/a/page.html", data=b"<script>1</script>", headers=html).status_code == 201
        answer = http.get(f"{db}/a/page.html")
        assert (answer.content, answer.headers["Content-Security-Policy"]) == (b"<script>1</script>", "sandbox")
        headers = requests.get(shared.web_url, timeout=5).headers
        assert headers["Content-Security-Policy"] == "frame-ancestors 'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
    def test_without_a_password_no_large_body_is_read(self, shared, kind):
        name = "a" * 5000
        body = json.dumps({"name": name}) if kind.endswith("json") else f"name={name}"
        for data in (body, (part for part in [body.encode()])):  # the second has no Content-Length
            answer = requests.post(f"{shared.url}/_session", data=data, headers={"Content-Type": kind}, timeout=5)
            assert error_of(answer) == (413, "too_large")
        for method, path in (("PUT", "/_session"), ("PUT", "/_up"), ("POST", "/_up"), ("POST", "/_utils/")):
            answer = requests.request(method, shared.url + path, data=body, headers={"Content-Type": kind}, timeout=5)
            assert error_of(answer) == (401, "unauthorized")

    def test_half_open_requests_are_ended(self, monkeypatch):
        monkeypatch.setattr("picas.embedded.server.STALL_SECONDS", 0.5)
        with Server(password="p") as server:
            host = f"Host: 127.0.0.1:{server.port}\r\n"
            basic = "Authorization: Basic cGljYXM6cA==\r\n"
            length = "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            halves = [
                "",
                "GET / HT",
                f"GET / HTTP/1.1\r\n{host}X-More: ",
                f"POST /_session HTTP/1.1\r\n{host}{length}",
                f"PUT /db/doc HTTP/1.1\r\n{host}{basic}{length}",
            ]
            connections = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in halves]
            for connection, half in zip(connections, halves):
                connection.sendall(half.encode())
            for connection in connections:
                answer = connection.makefile().read()  # until the server closes the connection
                assert answer == "" or answer.startswith("HTTP/1.1 408 Request Timeout")
                connection.close()

    def test_a_complete_request_may_wait_longer(self, monkeypatch):
        monkeypatch.setattr("picas.embedded.server.STALL_SECONDS", 0.5)
        with Server(password="p") as server, requests.Session() as session:
            session.auth = ("picas", "p")
            session.put(f"{server.url}/db")
            feed = {"feed": "longpoll", "timeout": "1000", "since": "now"}
            assert session.get(f"{server.url}/db/_changes", params=feed).json()["results"] == []
            assert session.post(f"{server.url}/db/_changes", params=feed, json={}).json()["results"] == []

    def test_the_number_of_connections_is_limited(self, monkeypatch):
        monkeypatch.setattr("picas.embedded.server.MAX_CONNECTIONS", 3)
        with Server() as server:
            held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(3)]
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one_more:
                assert one_more.recv(1) == b""
            for connection in held:
                connection.close()

            def answers():
                try:
                    return requests.get(f"{server.url}/_up", timeout=5).ok
                except requests.ConnectionError:
                    return False

            assert wait_until(answers)

    @linux_only
    def test_no_secret_in_arguments_or_environment(self, monkeypatch):
        monkeypatch.setenv("PICAS_PASSWORD", "hunter2")
        with Server(password="sesame") as server:
            for name in ("cmdline", "environ"):
                text = Path(f"/proc/{server.pid}/{name}").read_bytes()
                assert b"sesame" not in text
                assert b"hunter2" not in text

    @linux_only
    def test_listens_on_loopback_only(self, shared):
        listening = []
        for table in ("tcp", "tcp6"):
            path = Path(f"/proc/{shared.pid}/net/{table}")
            rows = [line.split() for line in path.read_text().splitlines()[1:]] if path.exists() else []
            listening += [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{shared.port:04X}")]
        assert listening == [f"0100007F:{shared.port:04X}"]


class TestHttp:
    def test_welcome(self, shared, http):
        answer = http.get(shared.url).json()
        assert answer["couchdb"] == "Welcome"
        assert answer["vendor"]["name"] == "PiCaS embedded server"

    def test_databases(self, shared, http, db):
        assert error_of(http.put(db)) == (412, "file_exists")
        assert http.get(db).json()["doc_count"] == 0
        assert db.rsplit("/", 1)[1] in http.get(f"{shared.url}/_all_dbs").json()
        assert http.delete(db).json() == {"ok": True}
        assert error_of(http.delete(db)) == (404, "not_found")
        assert error_of(http.get(db)) == (404, "not_found")
        assert error_of(http.get(f"{db}/doc")) == (404, "not_found")

    @pytest.mark.parametrize("name", ["Big", "1st", "a.b", "a%2Fb", "a-mrview-b", "_other", "x" * 250])
    def test_bad_database_name(self, shared, http, name):
        assert error_of(http.put(f"{shared.url}/{name}")) == (400, "illegal_database_name")

    def test_one_of_many_creates_a_database(self, shared):
        def create(_):
            auth = (shared.username, shared.password)
            return requests.put(f"{shared.url}/race", auth=auth, timeout=10).status_code

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(create, range(8))) == [201] + [412] * 7

    def test_document(self, http, db):
        url = f"{db}/a%2Fb c"
        saved = http.put(url, json={"x": 1}).json()
        assert saved["id"] == "a/b c"
        read = http.get(url)
        assert read.json() == {"_id": "a/b c", "_rev": saved["rev"], "x": 1}
        assert read.headers["ETag"] == f'"{saved["rev"]}"'
        assert http.head(url).headers["ETag"] == f'"{saved["rev"]}"'
        assert error_of(http.put(url, json={"x": 2})) == (409, "conflict")
        assert error_of(http.put(url, json={"x": 2, "_rev": "1-abc"})) == (409, "conflict")
        again = http.put(url, json={"x": 2}, headers={"If-Match": saved["rev"]}).json()
        assert again["rev"].startswith("2-")
        assert error_of(http.get(f"{db}/none")) == (404, "not_found")
        assert re.fullmatch("[0-9a-f]{32}", http.post(db, json={"y": 1}).json()["id"])

    def test_delete(self, http, db):
        url = f"{db}/a"
        rev = http.put(url, json={}).json()["rev"]
        assert error_of(http.delete(url)) == (409, "conflict")
        assert error_of(http.delete(url, params={"rev": "1-abc"})) == (409, "conflict")
        assert http.delete(url, params={"rev": rev}).json()["ok"]
        assert error_of(http.delete(url)) == (404, "not_found")
        assert error_of(http.get(url)) == (404, "not_found")

    def test_copy(self, http, db):
        rev = http.put(f"{db}/a", json={"x": 1}).json()["rev"]
        http.put(f"{db}/a/t", data=b"text", params={"rev": rev})
        copied = http.request("COPY", f"{db}/a", headers={"Destination": "b%2Fc"}).json()
        assert copied["id"] == "b/c"
        assert http.get(f"{db}/b%2Fc").json()["_rev"] == copied["rev"]
        assert http.get(f"{db}/b%2Fc/t").content == b"text"
        assert error_of(http.request("COPY", f"{db}/a", headers={"Destination": "b%2Fc"})) == (409, "conflict")
        there = {"Destination": f"b%2Fc?rev={copied['rev']}"}
        assert http.request("COPY", f"{db}/a", headers=there).status_code == 201
        assert http.request("COPY", f"{db}/a").status_code == 400
        assert http.request("COPY", f"{db}/none", headers=there).status_code == 404

    def test_bytes_that_are_not_a_request(self, shared):
        with socket.create_connection(("127.0.0.1", shared.port)) as plain:
            plain.sendall(b"nonsense\r\n\r\n")
            answer = plain.makefile().read()
        assert answer.startswith("HTTP/1.1 400 ")
        assert json.loads(answer.splitlines()[-1])["error"] == "bad_request"

    def test_body_with_another_content_type_is_read_as_json(self, http, db):
        http.put(f"{db}/a", data='{"x": 1}', headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert http.get(f"{db}/a").json()["x"] == 1

    @pytest.mark.parametrize("body", ["", "[]", "5", '{"x":', '{"_id": "other"}', '{"_rev": "x"}', '{"_foo": 1}'])
    def test_bad_document(self, http, db, body):
        answer = http.put(f"{db}/a", data=body)
        assert answer.status_code == 400
        assert answer.json()["error"] in ("bad_request", "doc_validation")
        assert http.get(f"{db}/a").status_code == 404

    def test_bulk_responses_are_in_order(self, http, db):
        http.put(f"{db}/b", json={})
        broken = {"_id": "_design/x", "views": {"v": {"map": "function ("}}}
        docs = [{"_id": "c"}, broken, {"_id": "b"}, {"_id": "a"}, {"n": 1}]
        answer = http.post(f"{db}/_bulk_docs", json={"docs": docs})
        assert answer.status_code == 201
        rows = answer.json()
        assert [row.get("error", "ok") for row in rows] == ["ok", "compilation_error", "conflict", "ok", "ok"]
        assert [row["id"] for row in rows[:4]] == ["c", "_design/x", "b", "a"]
        assert all("rev" in row for row in rows if "error" not in row)

    def test_attachment(self, http, db):
        rev = http.put(f"{db}/a", json={}).json()["rev"]
        text = {"Content-Type": "text/x-log"}
        assert http.put(f"{db}/a/x.log", data=b"{1\n", params={"rev": "1-x"}, headers=text).status_code == 409
        rev = http.put(f"{db}/a/x.log", data=b"{1\n", params={"rev": rev}, headers=text).json()["rev"]
        answer = http.get(f"{db}/a/x.log")
        assert (answer.content, answer.headers["Content-Type"]) == (b"{1\n", "text/x-log")
        assert http.get(f"{db}/a").json()["_attachments"]["x.log"]["length"] == 3
        assert http.delete(f"{db}/a/x.log", params={"rev": rev}).ok
        assert http.get(f"{db}/a/x.log").status_code == 404

    def test_a_truncated_upload_is_not_stored(self, shared, http, db):
        rev = http.put(f"{db}/a", json={}).json()["rev"]
        request = requests.Request("PUT", f"{db}/a/x", params={"rev": rev}, auth=http.auth).prepare()
        with socket.create_connection(("127.0.0.1", shared.port)) as half:
            head = f"PUT {request.path_url} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            head += f"Authorization: {request.headers['Authorization']}\r\n"
            half.sendall(f"{head}Content-Length: 1000\r\n\r\nonly this".encode())
            time.sleep(0.1)
        time.sleep(0.1)
        assert http.get(f"{db}/a").json() == {"_id": "a", "_rev": rev}

    def test_views(self, http, db):
        views = {
            "all": {
                "map": "function (doc) { log(doc); if (isArray(doc.n)) emit(doc._id, sum(doc.n)); };",
                "reduce": "_sum",
            },
            "bad": {"map": "function (doc) { emit(doc.a.b.c, null); }"},
            "own": {"map": "function (doc) { emit(null, 1); }", "reduce": "function (k, v) { return v.length; }"},
        }
        assert http.put(f"{db}/_design/M", json={"views": views}).status_code == 201
        for name, n in (("a", [1, 2]), ("b", [3]), ("c", 4)):
            http.put(f"{db}/{name}", json={"n": n})
        view = f"{db}/_design/M/_view"
        assert http.get(f"{view}/all").json()["rows"] == [{"key": None, "value": 6}]
        rows = http.get(f"{view}/all", params={"reduce": "false", "include_docs": "true", "limit": 1}).json()
        assert rows["total_rows"] == 2
        assert [(row["id"], row["value"], row["doc"]["n"]) for row in rows["rows"]] == [("a", 3, [1, 2])]
        assert http.get(f"{view}/bad").json()["rows"] == []
        assert http.get(f"{view}/own").json()["rows"] == [{"key": None, "value": 3}]
        assert error_of(http.get(f"{view}/none")) == (404, "not_found")
        http.put(f"{db}/d", json={"n": [9]})
        stale = http.get(f"{view}/all", params={"reduce": "false", "update": "false"}).json()
        assert stale["total_rows"] == 2

    @pytest.mark.parametrize(
        ("views", "error"),
        [
            ({"v": {"map": "function (doc) {"}}, "compilation_error"),
            ({"v": {"map": "5"}}, "compilation_error"),
            ({"v": {"map": "function (doc) {}", "reduce": "function ("}}, "compilation_error"),
            ({"v": {"map": "function (doc) {}", "reduce": "_median"}}, "invalid_design_doc"),
            ({"v": {}}, "invalid_design_doc"),
            (5, "invalid_design_doc"),
        ],
    )
    def test_design_document_that_does_not_compile(self, http, db, views, error):
        assert error_of(http.put(f"{db}/_design/M", json={"views": views})) == (400, error)
        assert http.get(f"{db}/_design/M").status_code == 404

    def test_changes(self, http, db):
        for name in ("a", "b"):
            http.put(f"{db}/{name}", json={"name": name})
        feed = f"{db}/_changes"
        assert [row["id"] for row in http.get(feed).json()["results"]] == ["a", "b"]
        for filter_ in ("_nonsense", "x", "a/b/c"):
            assert error_of(http.get(feed, params={"filter": filter_})) == (400, "bad_request")
        assert error_of(http.get(feed, params={"filter": "_selector"})) == (400, "bad_request")
        assert error_of(http.get(feed, params={"filter": "M/none"})) == (404, "not_found")
        picked = http.post(feed, params={"filter": "_doc_ids"}, json={"doc_ids": ["b"]}).json()
        assert [row["id"] for row in picked["results"]] == ["b"]
        picked = http.post(feed, params={"filter": "_selector"}, json={"selector": {"name": "a"}}).json()
        assert [row["id"] for row in picked["results"]] == ["a"]

    @pytest.mark.timing
    def test_changes_with_a_long_poll(self, http, db, shared):
        feed = f"{db}/_changes"
        before = time.monotonic()
        answer = http.get(feed, params={"feed": "longpoll", "since": "now", "timeout": 200}).json()
        assert answer == {"results": [], "last_seq": 0, "pending": 0}
        assert 0.1 < time.monotonic() - before < 2
        auth = (shared.username, shared.password)
        threading.Timer(0.1, requests.put, [f"{db}/a"], {"json": {}, "auth": auth}).start()
        answer = http.get(feed, params={"feed": "longpoll", "since": 0}, timeout=5).json()
        assert [row["id"] for row in answer["results"]] == ["a"]
        headers = {"Accept-Encoding": "gzip"}
        with http.get(feed, params={"feed": "continuous", "timeout": 100}, headers=headers, stream=True) as stream:
            assert "Content-Encoding" not in stream.headers
            lines = [json.loads(line) for line in stream.iter_lines()]
        assert [line.get("id") for line in lines] == ["a", None]

    def test_security_and_uuids(self, shared, http, db):
        assert http.get(f"{db}/_security").json()["admins"] == {"roles": ["_admin"]}
        http.put(f"{db}/_security", json={"members": {"names": ["me"]}})
        assert http.put(f"{db}/_security", json={"members": {"names": ["you"]}}).json() == {"ok": True}
        assert http.get(f"{db}/_security").json() == {"members": {"names": ["you"]}}
        assert len(set(http.get(f"{shared.url}/_uuids", params={"count": 5}).json()["uuids"])) == 5

    def test_unsupported_paths_are_reported(self, http, db):
        for path in ("_purge", "_design/M/_show/x", "_nonsense"):
            assert error_of(http.post(f"{db}/{path}", json={})) == (501, "not_implemented")

    def test_an_unexpected_exception_is_returned_and_logged(self, shared, http, db, caplog):
        filters = {"broken": "function ("}
        http.put(f"{db}/_design/M", json={"filters": filters})
        with caplog.at_level(logging.WARNING, "picas.embedded"):
            answer = http.get(f"{db}/_changes", params={"filter": "M/broken"}, timeout=5)
            assert error_of(answer) == (500, "internal_server_error")
            assert wait_until(lambda: "SyntaxError" in caplog.text)
        assert http.get(db).ok
        assert shared.poll() is None

    def test_idle_connections_are_kept(self, http, shared):
        assert http.get(shared.url).headers["Keep-Alive"] == "timeout=65"

    def test_web_interface(self, shared):
        page = requests.get(shared.web_url, timeout=5)
        assert page.headers["Content-Type"].startswith("text/html")
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert links
        assert not [link for link in links if re.match("(https?:)?//", link)], "it needs no network"
        for link in links:
            assert requests.get(shared.web_url + link, timeout=5).ok
        assert requests.get(f"{shared.url}/_utils", timeout=5).url == shared.web_url


def save_all(url, auth, writer, docs):
    """Save each document with a writer's name in it, and return the status codes."""
    with requests.Session() as session:
        session.auth = auth
        answers = [session.put(f"{url}/{doc['_id']}", json={**doc, "writer": writer}) for doc in docs]
    return [answer.status_code for answer in answers]


def test_one_of_many_writers_wins_each_revision(shared, http, db):
    count, writers = 60, 6
    rows = http.post(f"{db}/_bulk_docs", json={"docs": [{"_id": f"d{n:02}"} for n in range(count)]}).json()
    docs = [{"_id": row["id"], "_rev": row["rev"]} for row in rows]
    with ProcessPoolExecutor(writers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(save_all, db, http.auth, writer, docs) for writer in range(writers)]
        codes = [job.result() for job in jobs]
    for n, doc in enumerate(docs):
        won = [writer for writer in range(writers) if codes[writer][n] == 201]
        assert sorted(column[n] for column in codes) == [201] + [409] * (writers - 1)
        assert http.get(f"{db}/{doc['_id']}").json()["writer"] == won[0]


class TestNode:
    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return tmp_path / "cache" / "picas"

    def fake(self, path, text):
        path.write_text(text)
        path.chmod(0o755)
        return path

    def test_a_wrapper_is_resolved_to_the_real_binary(self, tmp_path, monkeypatch):
        real = find_node().binary
        self.fake(tmp_path / "node", f'#!/bin/sh\n"{real}" "$@"\n')
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        assert find_node().binary == real
        with Server() as server:
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            server.wait(5)
            with pytest.raises(requests.ConnectionError):
                requests.get(f"{server.url}/_up", timeout=5)

    def test_an_old_or_broken_node_is_skipped(self, tmp_path, monkeypatch):
        monkeypatch.setattr(node_module, "_wheel_folder", lambda: None)
        monkeypatch.setenv("PATH", str(tmp_path))
        for text in ("#!/bin/sh\necho '[\"/old\", 18]'\n", "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho no\n"):
            self.fake(tmp_path / "node", text)
            with pytest.raises(NodeMissingError, match=r'pip install "picas\[embedded\]"'):
                find_node()

    def test_simultaneous_installations_install_once(self, cache, tmp_path):
        npm = self.fake(
            tmp_path / "npm.py",
            "import pathlib, time\n"
            f"open({str(tmp_path / 'calls')!r}, 'a').write('x')\n"
            "time.sleep(0.3)\n"
            "assert pathlib.Path('package-lock.json').is_file()\n"
            "pathlib.Path('node_modules').mkdir()\n",
        )
        said = []
        node = Node(Path(sys.executable), (sys.executable, str(npm)))
        leftover = cache / f"{node_module.cache_folder().name}.tmp-killed"
        leftover.mkdir(parents=True)
        with ThreadPoolExecutor(4) as pool:
            folders = set(pool.map(lambda _: install_packages(node, said.append), range(4)))
        assert folders == {node_module.cache_folder()}
        assert (tmp_path / "calls").read_text() == "x"
        assert [line.split()[0] for line in said] == ["installing", "installed"]
        assert not leftover.exists()

    def test_offline(self, cache, tmp_path, monkeypatch):
        monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
        monkeypatch.setenv("npm_config_fetch_retries", "0")
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
        with pytest.raises(InstallError, match=r"ECONNREFUSED.*network") as caught:
            Server().start()
        assert "\n" not in str(caught.value)
        assert [path.suffix for path in cache.iterdir()] == [".lock"], "nothing half installed is left"

    def test_lock_file_contains_no_download_address(self):
        text = (node_module.HERE / "package-lock.json").read_text()
        assert "://" not in text
        assert "resolved" not in text


class TestServe:
    CODE = """
        import signal
        import sys
        from pathlib import Path
        from picas.embedded.serve import serve
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run with nohup, which the server respects
        data, ready = (Path(a) if a else None for a in sys.argv[1:3])
        sys.exit(serve(data, *map(int, sys.argv[3:]), ready_file=ready))
        """

    def start(self, data, ready, *port):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self.CODE), str(data or ""), str(ready), *map(str, port)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @pytest.mark.parametrize("where", ["memory", "data"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_prints_how_to_use_it_and_stops_on_a_signal(self, tmp_path, number, where):
        ready = tmp_path / "ready"
        process = self.start(tmp_path / "my data" if where == "data" else None, ready)
        try:
            assert wait_until(ready.exists, 30)
            assert stat.S_IMODE(ready.stat().st_mode) == 0o600
            use = '. "$1"; printf "%s\\n" "$PICAS_HOST_URL" "$PICAS_DATABASE" "$PICAS_USERNAME" "$PICAS_PASSWORD_FILE"'
            shell = subprocess.run(["sh", "-c", use, "sh", ready], stdout=subprocess.PIPE, text=True, check=True)
            url, database, username, password_file = shell.stdout.splitlines()
            assert stat.S_IMODE(Path(password_file).stat().st_mode) == 0o600
            password = Path(password_file).read_text().strip()
            assert requests.get(f"{url}/{database}", auth=(username, password), timeout=5).ok
            os.killpg(process.pid, number)  # as a terminal does
            out, err = process.communicate(timeout=15)
        finally:
            process.kill()
        assert (process.returncode, err) == (0, "")
        for line in (f"export PICAS_HOST_URL={url}", "export PICAS_DATABASE=picas", "export PICAS_PASSWORD_FILE="):
            assert line in out
        assert "Apache CouchDB" in out
        assert f"{url}/_utils/" in out
        assert password not in out
        assert not ready.exists()
        assert Path(password_file).exists() == (where == "data")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{url}/_up", timeout=5)

    def visit(self, data, *port):
        """Start and stop the server, and return its port and what it has printed."""
        with tempfile.TemporaryDirectory() as folder:
            ready = Path(folder, "ready")
            process = self.start(data, ready, *port)
            try:
                assert wait_until(lambda: ready.exists() or process.poll() is not None, 30)
                number = int(re.search(r"127\.0\.0\.1:(\d+)", ready.read_text()).group(1))
                process.terminate()
                out, err = process.communicate(timeout=15)
            finally:
                process.kill()
        assert (process.returncode, err) == (0, "")
        return number, out

    def test_takes_the_port_of_the_last_time(self, tmp_path):
        first, _ = self.visit(tmp_path)
        second, out = self.visit(tmp_path)
        assert second == first
        assert "not free" not in out

    def test_says_so_if_that_is_taken_and_keeps_the_new_one(self, tmp_path):
        first, _ = self.visit(tmp_path)
        with socket.create_server(("127.0.0.1", first)):
            second, out = self.visit(tmp_path)
        assert second != first
        assert f"port {first}, used last time, is not free: this server listens on port {second} instead\n" in out
        assert self.visit(tmp_path)[0] == second

    def test_a_port_that_is_asked_for_wins_and_is_kept(self, tmp_path):
        first, _ = self.visit(tmp_path)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            asked = probe.getsockname()[1]
        assert self.visit(tmp_path, asked)[0] == asked != first
        assert self.visit(tmp_path)[0] == asked

    def test_in_memory_no_port_is_kept(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        self.visit(None)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"0\n",
            b"-1\n",
            b"65536\n",
            b"99999999999999999999\n",
            b"\xff\xfe",
            b"80 443\n",
            "٣٣".encode(),
            None,
            "pipe",
        ],
        ids=repr,
    )
    def test_a_damaged_file_does_no_harm(self, tmp_path, content):
        path = tmp_path / "port"
        if content is None:
            path.mkdir()
        elif content == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(content)
        number, out = self.visit(tmp_path)
        assert "not free" not in out
        assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
        if content is not None:
            assert path.read_text() == f"{number}\n"

    def test_a_port_that_this_user_may_not_use(self, tmp_path):
        (tmp_path / "port").write_text("1\n")
        number, out = self.visit(tmp_path)
        assert number == 1 or f"port 1, used last time, is not free: this server listens on port {number}" in out

    def test_reports_that_the_server_died(self, monkeypatch):
        pids = []
        real = Server.start

        def start(server):
            real(server)
            pids.append(server.pid)
            return server

        monkeypatch.setattr(Server, "start", start)
        said = []
        done = threading.Event()

        def say(line):
            said.append(line)
            if line.startswith("Ctrl-C"):
                done.set()

        killer = threading.Thread(target=lambda: done.wait(30) and os.kill(pids[0], signal.SIGKILL))
        killer.start()
        before = signal.getsignal(signal.SIGTERM)
        assert serve(None, say=say) == 1
        killer.join()
        assert "ended by itself (exit code -9)" in said[-1]
        assert signal.getsignal(signal.SIGTERM) == before

    def test_reports_a_port_in_use(self, shared, tmp_path):
        said = []
        assert serve(tmp_path, shared.port, say=said.append) == 1
        assert said == [
            f"picas serve: port {shared.port} of 127.0.0.1 is in use by another program: choose another port"
        ]
