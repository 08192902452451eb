"""The verb `web`, without a browser: who is let in, what is answered, and what it costs the server of the pool."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.faults import FaultProxy
from support.places import ROOT, command
from support.schemas import SCHEMAS
from support.tokens import ended_token, make_token
from support.web_page import PILOT, WebPage, page_of_new_pool
from support.workers import wait_for

from picas import Task, modifiers
from picas.cli.web.assets import STATIC
from picas.cli.web.tally import EndsTally
from picas.pool.history import Bin, Ends
from picas.views import create_report

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
ROUTES = (
    "/", "/favicon.ico", "/static/main.js", "/static/absent.js", "/api/status.json", "/api/errors.json",
    "/api/pilots.json",
    "/api/history.json", "/api/tokens.json", "/api/token.json?id=token_0", "/api/token.json?id=absent",
    "/api/why.json?id=token_0", "/api/pool.json", "/api/charts.json", "/metrics", "/log?token=token_7",
    "/log?token=token_7&tail=10", "/log?token=absent", "/absent",
)  # fmt: skip


def start_ago(seconds):
    return int(time.time() - seconds)


def fill(client):
    """Make a pool with tokens in several states, and a log."""
    create_report(client)
    client.save_documents([Task(make_token(number, input=f"echo {number}")) for number in range(3)])
    failed = Task(ended_token(7, reason="exit 3: no", group="r12ab", start=start_ago(100)))
    failed.put_attachment("logs_token_7.out", b"line\n" * 100)
    client.save(failed)
    client.save(ended_token(8, "done", start=start_ago(200)))
    client.save(modifiers.lock(make_token(9), "picas_pilot_host_1_abc"))
    return client


@pytest.fixture
def pool(client):
    """A pool of the test's own."""
    return fill(client)


@pytest.fixture
def own_web(pool, environment):
    """A page of the test's own pool."""
    with WebPage(environment) as page:
        yield page


@pytest.fixture(scope="module")
def web(location):
    """A page of a pool like that, for tests that only read."""
    with page_of_new_pool(location, fill) as page:
        yield page


@pytest.fixture(scope="module")
def schema():
    """Return a function that checks an object against the schema of its verb."""

    def check(verb, found):
        jsonschema.validate(found, json.loads((SCHEMAS / f"{verb}.json").read_text(encoding="utf-8")))
        assert found["schema"] == f"picas.{verb}/1"

    return check


class TestStartAndEnd:
    def test_the_link_alone_is_on_standard_output_and_ctrl_c_ends_it_at_once_also_with_open_pages(self, own_web):
        with own_web.stream() as stream:
            stream.wait_for("status")
            begun = time.monotonic()
            code, output, errors = own_web.stop()
            assert (code, output, time.monotonic() - begun < 5) == (0, "", True)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", own_web.link)
        lines = errors.splitlines()
        assert lines[-1] == "stopped"
        assert any(re.fullmatch(rf"ssh -L {own_web.port}:127\.0\.0\.1:{own_web.port} \S+", line) for line in lines)
        assert own_web.token not in errors

    def test_sigterm_ends_it_too_and_the_file_with_the_token_goes(self, pool, environment, tmp_path):
        file = tmp_path / "folder" / "token"
        with WebPage(environment, "--token-file", str(file)) as web:
            assert (file.read_text(), file.stat().st_mode & 0o777) == (f"{web.token}\n", 0o600)
            assert web.stop(signal.SIGTERM)[0] == 0
        assert not file.exists()

    def test_a_port_in_use_is_one_line(self, run_picas, pool):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = run_picas("web", "--port", str(port))
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (f"picas: port {port} is in use: choose another one with --port, or leave --port out\n")

    def test_a_server_that_is_away_and_views_that_are_missing_are_one_line(self, run_picas, client):
        away = run_picas("web", variables={"PICAS_HOST_URL": "http://127.0.0.1:9"})
        assert (away.returncode, away.stdout, away.stderr.count("\n")) == (75, "", 1)
        del client.db["_design/Monitor"]
        result = run_picas("web")
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert "picas views Monitor" in result.stderr

    @pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client"])
    def test_without_the_extra_one_line_names_it(self, environment, tmp_path, package):
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('no {package}')\n")
        ran = subprocess.run(
            command("web"),
            env={**environment, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (1, "")
        name = package.replace("_", "-")
        assert ran.stderr == f'picas: the package {name} is missing: pip install "picas[web]"\n'


class TestTheGuard:
    def test_lets_in_only_with_the_token(self, web):
        for path in ROUTES:
            answer = web.ask(path, token="")
            assert (answer.status, answer.text.count("\n")) == (403, 1), path
        assert web.ask("/api/status.json", token="x" * 32).status == 403
        assert web.ask("/?token=" + "x" * 32, token="").status == 403
        assert web.ask("/?token=", token="").status == 403
        assert web.ask("/?token=%FF%FE", token="").status == 403
        assert web.ask("/api/status.json", token="", Authorization="Basic eDp5").status == 403

    def test_exchanges_the_token_for_a_cookie_and_leaves_it_out_of_the_address(self, web):
        answer = web.ask(f"/?token={web.token}", token="")
        assert (answer.status, answer.headers["location"], answer.body) == (303, "/", b"")
        cookie, *attributes = answer.headers["set-cookie"].split("; ")
        assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Strict"]
        assert web.token not in cookie
        assert web.ask("/api/status.json", token="", Cookie=f"a=b; {cookie}; c=d").status == 200
        assert web.ask("/api/status.json", token="", Cookie=f"{cookie}x").status == 403
        name = cookie.partition("=")[0]
        assert web.ask("/api/status.json", token="", Cookie=f"{name}={web.token}").status == 403
        assert web.ask(f"/?token={web.token}", token="", Cookie=cookie).status == 303

    def test_two_pages_do_not_take_each_others_cookies(self, own_web, environment):
        with WebPage(environment) as other:
            names = [page.ask(f"/?token={page.token}", token="").headers["set-cookie"] for page in (own_web, other)]
        assert len({name.partition("=")[0] for name in names}) == 2

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("127.0.0.1:{port}", 200),
            ("localhost:{port}", 200),
            ("[::1]:{port}", 200),
            ("localhost:8080", 200),  # a tunnel from another port
            ("example.org:{port}", 403),
            ("localhost.example.org:{port}", 403),
            ("127.0.0.1.nip.io", 403),
            ("10.0.0.1:{port}", 403),
            ("localhost:{port}@example.org", 403),
            ("", 403),
        ],
    )
    def test_knows_its_own_names(self, web, host, status):
        assert web.ask("/api/pool.json", Host=host.format(port=web.port)).status == status

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Origin": "http://{netloc}"}, 200),
            ({"Origin": "https://example.org"}, 403),
            ({"Origin": "http://localhost:1"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec_Fetch_Site": "cross-site"}, 403),
            ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}, 403),
            ({"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, 200),
            ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
        ],
    )
    def test_refuses_pages_of_other_sites(self, web, headers, status):
        given = {name: value.format(netloc=web.netloc) for name, value in headers.items()}
        assert web.ask("/api/pool.json", **given).status == status

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
    def test_answers_only_what_reads(self, web, method):
        answer = web.ask("/api/status.json", method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")

    def test_a_link_on_a_page_of_another_site_works(self, web):
        answer = web.ask(f"/?token={web.token}", token="", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
        assert (answer.status, answer.headers["refresh"]) == (200, "0; url=/")

    def test_every_answer_has_its_headers(self, web):
        for path in ROUTES:
            for answer in (web.ask(path), web.ask(path, "HEAD"), web.ask(path, token="")):
                assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
                policy = answer.headers["content-security-policy"]
                assert policy.startswith(("default-src 'self'; base-uri 'none'", "default-src 'none'")), path
                assert "unsafe" not in policy
                assert answer.headers["cache-control"] in ("no-store", "no-cache")
                assert "server" not in answer.headers
            assert web.ask(path, "HEAD").body == b"", path

    def test_only_the_files_of_the_page_can_be_had(self, web):
        answer = web.ask("/static/main.js")
        assert (answer.status, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        assert web.ask("/static/main.js", If_None_Match=answer.headers["etag"]).status == 304
        for path in (
            "/static/../guard.py",
            "/static/%2e%2e/guard.py",
            "/static/..%2fguard.py",
            "/static//etc/passwd",
            "/static/vendor/../../assets.py",
            "/static/",
            "/static/main.js%00",
            "/../static/main.js/..",
        ):
            assert web.ask(path).status == 404, path


class TestJson:
    def test_objects_are_in_the_schemas_of_the_command(self, web, schema):
        status = web.json("status")
        schema("status", status)
        assert [status[state] for state in ("todo", "locked", "done", "error")] == [3, 1, 1, 1]
        assert [group["group"] for group in status["errors"]] == ["r12ab"]
        schema("show", web.json("token", id="token_7"))
        schema("why", web.json("why", id="token_0"))
        for name, verb in (("errors", "errors"), ("tokens", "ls")):
            found = web.json(name)
            schema("list", {name: found[name] for name in ("schema", "items")})
            assert found["items"]
            for each in found["items"]:
                schema(verb, each)
        history = web.json("history")
        schema("history", history)
        assert [end["token"] for end in history["newest"]] == ["token_7", "token_8"]
        assert len(history["minutes"]) == 60
        schema("pool", web.json("pool"))

    def test_pilots(self, own_web, pool, schema):
        now = time.time()
        pilot = {"type": "pilot", "state": "running", "host": "n1", "slots": 4, "slots_busy": 2, "start": now - 60}
        for number, age in enumerate((0, 600)):
            pool.save({"_id": f"picas_pilot_n1_{number}", **pilot, "saved": now - age, "heartbeat": 30})
        with own_web.stream() as stream:  # until the next look
            details = stream.wait_for("details", lambda data: data["pilots"])
        found = own_web.json("pilots")["items"]
        for each in [*found, *details["pilots"]]:
            schema("pilots", each)
        assert [bool(each["silent_since"]) for each in found] == [False, True]
        assert details["pilots"][0]["silent_since"]  # what needs attention comes first

    def test_without_the_design_document_report(self, pool, environment):
        del pool.db["_design/Report"]
        with WebPage(environment) as web:
            assert web.json("errors")["items"] is None
            assert web.json("history")["minutes"] is None
            assert web.json("status")["todo"] == 3
            assert "picas_attempts_ended" not in web.ask("/metrics").text
            assert [each["id"] for each in web.json("tokens", reason="r12ab")["items"]] == ["token_7"]

    @pytest.mark.parametrize(
        ("name", "parameters", "status", "words"),
        [
            ("tokens", {"state": "gone"}, 400, "'gone' is not a state"),
            ("tokens", {"limit": "0"}, 400, "limit is not a number from 1 to 200"),
            ("tokens", {"limit": "x"}, 400, "limit is not a number"),
            ("tokens", {"since": "soon"}, 400, "'soon' is not a duration"),
            ("tokens", {"where": "x"}, 400, "'x' is not a condition"),
            ("tokens", {"match": "("}, 400, "is not a regular expression"),
            ("tokens", {"reason": "x"}, 400, "'x' is not a group of failures"),
            ("tokens", {"after": "x"}, 400, "'x' is not a place in a list"),
            ("token", {"id": "absent"}, 404, "there is no token absent"),
            ("token", {"id": ""}, 500, "can't be the id of a document"),
            ("why", {"id": "absent"}, 404, "there is no token absent"),
        ],
    )
    def test_errors_are_one_line(self, web, name, parameters, status, words):
        query = "&".join(f"{key}={value}" for key, value in parameters.items())
        answer = web.ask(f"/api/{name}.json?{query}")
        assert (answer.status, list(answer.json)) == (status, ["error"])
        assert words in answer.json["error"]

    def test_a_list_is_read_page_by_page(self, own_web, pool):
        pool.save_documents([Task(make_token(number)) for number in range(100, 160)])
        found, after = [], ""
        while True:
            page = own_web.json("tokens", limit=25, after=after)
            found += [each["id"] for each in page["items"]]
            after = page["next"]
            if after is None:
                break
            assert len(page["items"]) == 25
        assert len(found) == len(set(found)) == 66
        assert found[-3:] == ["token_9", "token_8", "token_7"]  # by state, and then by id
        assert len(own_web.json("tokens", prefix="token_15", state="todo")["items"]) == 10
        assert [each["id"] for each in own_web.json("tokens", reason="r12ab")["items"]] == ["token_7"]
        assert [each["id"] for each in own_web.json("tokens", where="exit_code = 1")["items"]] == ["token_7"]

    def test_long_inputs_are_cut_in_a_list_for_people(self, own_web, pool):
        pool.save(make_token(50, input="x" * 5000))
        long, short = (own_web.json("tokens", prefix="token_50", brief=brief)["items"][0]["input"] for brief in (0, 1))
        assert (long, short) == ("x" * 5000, "x" * 300 + "…")

    def test_the_charts_of_the_report(self, web, schema):
        charts = wait_for(lambda: (found := web.json("charts"))["charts"] and not found["reading"] and found)
        schema("charts", charts)
        assert {"states", "throughput", "durations", "failures"} <= {chart["name"] for chart in charts["charts"]}
        again = web.json("charts")
        assert (again["read"], again["reading"]) == (charts["read"], None)


class TestMetrics:
    def test_are_what_prometheus_reads(self, own_web, pool):
        answer = own_web.ask("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        values = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert values[("picas_pool_info", pool.database_name, "2.0.0")] == 1
        assert values[("picas_up",)] == 1
        tokens = {state: values[("picas_tokens", state)] for state in ("todo", "locked", "done", "error")}
        assert tokens == {"todo": 3, "locked": 1, "done": 1, "error": 1}
        assert values[("picas_attempts_ended_total", "done")] == 0  # those before the start do not count
        assert {("picas_pilots", "running"), ("picas_slots", "busy"), ("picas_paused",)} <= set(values)
        assert {name: family.type for name, family in families.items()}["picas_attempts_ended"] == "counter"

    def test_what_is_unknown_is_left_out_while_the_server_is_away(self, pool, environment, gate):
        with WebPage({**environment, "PICAS_HOST_URL": gate.url}) as web:
            assert "picas_up 1.0" in web.ask("/metrics").text
            gate.close()
            text = wait_for(lambda: (found := web.ask("/metrics").text) and "picas_up 0.0" in found and found)
            assert "picas_tokens" not in text
            gate.open()
            wait_for(lambda: "picas_up 1.0" in web.ask("/metrics").text)

    def test_a_counter_never_falls_and_counts_nothing_twice(self):
        def minute(number, **counts):
            return Bin(60 * number, 1, {outcome: Ends(attempts=count) for outcome, count in counts.items()})

        tally = EndsTally(600.0)
        tally.add([minute(9, done=5), minute(10, done=3)])  # these were there before
        assert tally.totals() == {"done": 0}
        tally.add([minute(10, done=4, failed=1), minute(11, done=2)])
        assert tally.totals() == {"done": 3, "failed": 1}
        tally.add([minute(10, done=1), minute(11, done=2), minute(12)])  # somebody has deleted tokens
        assert tally.totals() == {"done": 3, "failed": 1}
        tally.add([minute(100, done=7)])
        tally.add([minute(10, done=9), minute(100, done=7)])  # too late
        assert tally.totals() == {"done": 10, "failed": 1}


class TestLive:
    def test_a_change_is_known_within_seconds(self, own_web, pool):
        with own_web.stream() as stream:
            stream.wait_for("status", lambda data: data["todo"] == 3)
            stream.wait_for("details", lambda data: data["errors"][0]["group"] == "r12ab")
            pool.save(make_token(30))
            saved = time.monotonic()
            stream.wait_for("status", lambda data: data["todo"] == 4)
            assert time.monotonic() - saved < 5
        assert stream.response.getheader("content-type") == "text/event-stream; charset=utf-8"

    def test_twenty_pages_cost_the_server_no_more_than_one(self, pool, environment, location):
        with FaultProxy(location.url) as proxy, WebPage({**environment, "PICAS_HOST_URL": proxy.url}) as web:
            pool.save(ended_token(20, "done", start=int(time.time()), seconds=0))

            def requests_with(pages):
                with ExitStack() as stack:
                    streams = [stack.enter_context(web.stream()) for _ in range(pages)]
                    for stream in streams:
                        stream.wait_for("details")
                    proxy.forget()
                    time.sleep(5)
                    assert all(len(stream.of("pulse")) >= 3 for stream in streams)
                    return len(proxy.requests)

            one = requests_with(1)
            twenty = requests_with(20)
            assert 2 <= one <= 20
            assert twenty <= one + 12  # the rest may have been read once in between
            for _ in range(20):  # twenty people who read the same
                web.json("token", id="token_7")
            assert proxy.count("GET", "/token_7") <= 3

    def test_nothing_is_read_when_nobody_looks(self, pool, environment, location):
        with FaultProxy(location.url) as proxy, WebPage({**environment, "PICAS_HOST_URL": proxy.url}) as web:
            with web.stream() as stream:
                stream.wait_for("details")
            wait_for(lambda: not is_busy(proxy), 30)
            pool.save(make_token(31))
            assert web.json("status")["todo"] == 4  # who asks gets what is true now

    def test_the_last_numbers_stay_while_the_server_is_away(self, pool, environment, gate):
        with WebPage({**environment, "PICAS_HOST_URL": gate.url}) as web, web.stream() as stream:
            stream.wait_for("details")
            gate.close()
            pulse = stream.wait_for("pulse", lambda data: data["away_since"])
            assert "is the address in PICAS_HOST_URL right" in pulse["problem"]
            assert stream.of("status")[-1]["todo"] == 3
            answer = web.ask("/api/token.json?id=token_0")
            assert (answer.status, list(answer.json)) == (503, ["error"])
            gate.open()
            wait_for(lambda: stream.of("pulse")[-1]["away_since"] is None)


class TestLogs:
    def test_are_plain_text_whatever_is_in_them(self, own_web, pool):
        hostile = b"<script>alert(1)</script>\x1b[31m\xff\xfe\x00\n"
        token = Task(make_token(40))
        token.put_attachment("logs_token_40.out", hostile, "text/html")
        token.put_attachment("logs_token_40.err", b"wrong\n")
        pool.save(token)
        for query, content in (("", hostile), ("&tail=5", hostile[-5:]), ("&err=1", b"wrong\n")):
            answer = own_web.ask(f"/log?token=token_40{query}")
            assert (answer.status, answer.body) == (200, content)
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["content-disposition"] == 'inline; filename="logs_token_40.err.txt"'

    def test_of_a_long_one_only_the_end_is_sent_to_a_view_and_little_is_in_memory(self, own_web, pool, tmp_path):
        size = 30 << 20
        path = tmp_path / "log"
        path.write_bytes(b"0123456789abcdef" * (size // 16))
        token = Task(make_token(41))
        pool.save(token)
        pool.put_attachment_file(token, path, "logs_token_41.out")
        before = resident_mb(own_web.process.pid)
        tail = own_web.ask("/log?token=token_41&tail=65536")
        assert (len(tail.body), tail.headers["x-picas-size"]) == (65536, str(size))
        assert len(own_web.ask(f"/log?token=token_41&tail={size}").body) == 1 << 18
        assert own_web.ask("/log?token=token_41").body == path.read_bytes()
        if pool.server_info().get("vendor", {}).get("name", "").startswith("The Apache"):
            assert resident_mb(own_web.process.pid) - before < 15

    @pytest.mark.parametrize(
        ("query", "status", "words"),
        [
            ("token=token_0", 404, "token_0 has no log logs_token_0.out"),
            ("token=absent", 404, "there is no token absent"),
            ("token=token_7&attempt=2", 404, "there is no attempt 2 of token_7"),
            ("token=token_7&tail=-1", 400, "tail is not a number above 0"),
            ("token=token_7&attempt=x", 400, "attempt is not a number above 0"),
        ],
    )
    def test_errors_are_one_line(self, web, query, status, words):
        answer = web.ask(f"/log?{query}")
        assert answer.status == status
        assert words in answer.json["error"]

    def test_are_followed_while_a_program_runs_by_one_for_all(self, pool, environment, location, tmp_path):
        pool.delete_documents([pool.get(f"token_{number}") for number in (1, 2)])
        token = pool.get("token_0")
        token["input"] = "echo begun; while [ ! -e go ]; do sleep 0.05; done; seq 5"
        pool.save(token)
        proxy = FaultProxy(location.url)
        settings = {**environment, "PICAS_HOST_URL": proxy.url}
        pilot = subprocess.Popen([sys.executable, "-c", PILOT], env=environment, cwd=tmp_path)
        with proxy, pilot, WebPage(settings) as web:
            wait_for(lambda: pool.get("token_0")["lock"])
            with web.stream(follow="token_0") as one, web.stream(follow="token_0") as other:
                for stream in (one, other):
                    assert text_of(stream, "begun\n") == "begun\n"
                proxy.forget()
                time.sleep(3)
                assert proxy.count("GET", "/token_0") <= 5  # one reader, a look each second
                (tmp_path / "go").touch()
                written = time.monotonic()
                for stream in (one, other):
                    assert text_of(stream, "5\n") == "begun\n1\n2\n3\n4\n5\n"
                    stream.wait_for("log-state", lambda data: data["has_ended"])
                assert time.monotonic() - written < 10
            assert pilot.wait(60) == 0

    def test_nothing_is_followed_when_nobody_looks(self, pool, environment, location):
        with FaultProxy(location.url) as proxy, WebPage({**environment, "PICAS_HOST_URL": proxy.url}) as web:
            token = pool.get("token_9")
            pool.save({"_id": token["claim"]["pilot"], "type": "pilot", "state": "running"})
            with web.stream(follow="token_9"):
                wait_for(lambda: proxy.count("POST", "/_all_docs") > 2)  # each look
            wait_for(lambda: not is_busy(proxy), 40)


class TestTheFilesOfThePage:
    def test_uplot_is_what_the_script_has_fetched(self):
        known = runpy.run_path(str(ROOT / ".ci" / "vendor-uplot"))
        folder = Path(known["TARGET"])
        found = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        assert found == {name: hash for name, (_, hash) in known["FILES"].items()}
        assert f"(v{known['VERSION']})" in (folder / "uPlot.iife.min.js").read_text(encoding="utf-8")[:100]

    def test_all_are_installed_with_the_package(self):
        patterns = re.search(r'"picas\.cli\.web": \[(.*?)\]', (ROOT / "setup.py").read_text()).group(1)
        globs = re.findall(r'"(.*?)"', patterns)
        files = [path.relative_to(STATIC.parent).as_posix() for path in STATIC.rglob("*") if path.is_file()]
        assert [name for name in files if not any(matches(name, glob) for glob in globs)] == []

    def test_nothing_in_them_makes_markup_of_text_or_needs_what_the_policy_forbids(self):
        for path in STATIC.glob("*"):
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text), (
                    path
                )
                assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        index = (STATIC / "index.html").read_text(encoding="utf-8")
        assert not re.search(r"\son\w+=|style=|<style|<script>", index)


def matches(name, glob):
    return name.count("/") == glob.count("/") and fnmatch(name, glob)


def text_of(stream, end):
    """Wait until the output that a page was sent ends so, and return it."""

    def text():
        found = ""
        for data in stream.of("log"):
            found = data["text"] if data["is_anew"] else found + data["text"]
        return found

    wait_for(lambda: text().endswith(end))
    return text()


def is_busy(proxy):
    """Return whether requests arrive within three seconds."""
    proxy.forget()
    time.sleep(3)
    return bool(proxy.requests)


def resident_mb(pid):
    """Return how much memory a process has now, in megabytes."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024
