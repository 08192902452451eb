"""The command `picas`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests
from support.faults import Double, FaultProxy, Reply
from support.schemas import read_json
from support.tokens import make_token

from picas import VERSION, Task, TaskViewIterator, modifiers
from picas.cli.check import Line, describe_clock, examine
from picas.pool import spool
from picas.pool.results import ClaimedToken
from picas.views import create_report, create_views


def command(*arguments):
    return [sys.executable, "-m", "picas.cli", *arguments]


def picas(environment, *arguments):
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def keep(client, push, tmp_path):
    """Write the results of some tokens to files, as a pilot does while the database is away."""

    def keep(count, folder=tmp_path / "spool"):
        push(count)
        tokens = TaskViewIterator(client, "todo")
        for held in [ClaimedToken(next(tokens)) for _ in range(count)]:
            held.token.update(exit_code=0, output="the result")
            held.token.put_attachment("logs.out", "the log")
            modifiers.end_attempt(modifiers.close(held.token), "done")
            spool.keep(held.token, held.claimed, "x", folder, database=client.db.name, server=client.url)

    return keep


def test_version(environment):
    assert picas(environment, "--version").stdout == f"picas {VERSION}\n"


class TestCheck:
    no_report = "Monitor is complete, but Report is missing: picas views creates it"

    @staticmethod
    def lines(environment):
        """Return the lines of a check that succeeds, by their names."""
        result = picas(environment, "check")
        assert (result.returncode, result.stderr) == (0, "")
        first, *others = result.stdout.splitlines()
        assert first == f"The pool {environment['PICAS_DATABASE']} can be reached"
        assert {len(line[:24].rstrip()) < 24 < len(line) and line[24] != " " for line in others} == {True}
        return {line[:24].rstrip(): line[24:] for line in others}

    def test_shows_all_that_matters(self, environment, client, push, is_couchdb):
        push(3)
        create_report(client)
        lines = self.lines(environment)
        product = "Apache CouchDB 3" if is_couchdb else "PiCaS embedded server, compatible with CouchDB 3"
        assert re.fullmatch(rf"ok: {environment['PICAS_HOST_URL']}, {product}\.\d+\.\d+\S*", lines.pop("server"))
        assert re.fullmatch(r"ok: \d s from the server's", lines.pop("clock"))
        assert lines == {
            "database": f"ok: {environment['PICAS_DATABASE']}, 5 documents",
            "user": f"ok: {environment['PICAS_USERNAME']}",
            "views": "ok: Monitor and Report are complete",
            "may read": "ok",
            "may write": "ok",
            "may change views": "ok",
            "PICAS_HOST_URL": "ok: from the environment",
            "PICAS_DATABASE": "ok: from the environment",
            "PICAS_USERNAME": "ok: from the environment",
            "PICAS_PASSWORD": "ok: from the environment",
        }

    def test_shows_where_the_settings_come_from_if_one_of_them_is_wrong(self, environment):
        result = picas({**environment, "PICAS_PASSWORD": "wr0ng"}, "check")
        assert (result.returncode, result.stderr) == (
            1,
            "picas: wrong user or password: check PICAS_USERNAME and PICAS_PASSWORD\n",
        )
        assert f"server                  {environment['PICAS_HOST_URL']}\n" in result.stdout
        assert "PICAS_PASSWORD          ok: from the environment\n" in result.stdout
        assert "wr0ng" not in result.stdout

    def test_shows_files_and_never_the_password(self, environment, tmp_path, location):
        secret = tmp_path / "secret"
        secret.write_text(environment.pop("PICAS_PASSWORD"))
        secret.chmod(0o600)
        ini = tmp_path / "home" / ".config" / "picas" / "config.ini"
        ini.parent.mkdir(parents=True)
        ini.write_text(f"[picas]\npassword_file = {secret}\nssl_verification = true\n")
        text = picas(environment, "check").stdout
        assert f"PICAS_PASSWORD          ok: from {secret}, which {ini} names\n" in text
        assert f"PICAS_SSL_VERIFICATION  ok: from {ini}\n" in text
        host = environment["PICAS_HOST_URL"].replace("://", f"://{location.username}:{location.password}@")
        text = picas({**environment, "PICAS_HOST_URL": host}, "check").stdout
        assert f"server                  ok: {location.url}, " in text
        assert f":{location.password}@" not in text

    def test_views_that_are_missing_or_of_an_older_release(self, environment, client):
        design = client.get("_design/Monitor")
        del design["views"]["claims"]
        design["views"]["overview_total"]["map"] = "function(doc) { emit('todo', 1); }"
        client.save(design)
        older = "Monitor is of an older release: picas views updates claims, overview_total"
        assert self.lines(environment)["views"] == older
        client.delete(design)
        assert self.lines(environment)["views"] == "missing in Monitor: picas views creates them"
        create_views(client)
        assert self.lines(environment)["views"] == self.no_report
        client.add_view("reasons", "function(doc) { emit(1, 1); }", design_doc="Report")
        older = "Monitor is complete, but Report is of an older release: picas views updates it"
        assert self.lines(environment)["views"] == older

    def test_views_with_a_condition(self, environment, client):
        create_views(client, condition="doc.cores == 1")
        assert self.lines(environment)["views"] == "ok: Monitor has a condition of its own"
        client.add_view("todo", "function(doc) { emit(1, 1); }")
        assert self.lines(environment)["views"] == "Monitor has a condition of its own, and no working queue"

    @pytest.mark.parametrize(
        ("kind", "writing", "changing"),
        [
            ("member", "ok", "no: only an administrator of the database or the server may"),
            ("admin", "ok", "ok"),
            ("reader", "ok: what _design/rule accepts", "no: only an administrator of the database or the server may"),
        ],
    )
    def test_the_rights_of_this_user(self, environment, person, kind, writing, changing):
        lines = self.lines({**environment, **person(kind)})
        assert [lines[f"may {what}"] for what in ("read", "write", "change views")] == ["ok", writing, changing]

    def test_a_user_who_is_not_a_member(self, environment, person):
        result = picas({**environment, **person("stranger")}, "check")
        assert result.returncode == 1
        assert "can be reached" not in result.stdout
        assert "this user is not a member of the database: an administrator" in result.stderr

    def test_what_a_server_does_not_say_is_left_out(self, environment, location):
        """A proxy may let only the database through."""
        refusal = Reply(403, b'{"error":"forbidden","reason":"not from here"}')
        with FaultProxy(location.url) as proxy:
            proxy.fail("GET", "/_session", refusal)
            lines = self.lines({**environment, "PICAS_HOST_URL": proxy.url})
        assert "may change views" not in lines
        assert (lines["may write"], lines["views"]) == ("ok", self.no_report)

    def test_a_server_that_is_down_may_come_back(self, environment):
        result = picas({**environment, "PICAS_HOST_URL": "http://127.0.0.1:1"}, "check")
        assert result.returncode == 75
        assert "can be reached" not in result.stdout
        assert re.fullmatch(r"picas: .*127\.0\.0\.1:1.*is the address in PICAS_HOST_URL right.*\n", result.stderr)

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("PICAS_DATABASE", "nothing_there", "there is no database nothing_there"),
            ("PICAS_USERNAME", "nobody_we_know", "wrong user or password"),
            ("PICAS_HOST_URL", "no address", "PICAS_HOST_URL"),
        ],
    )
    def test_wrong_settings_are_not_worth_another_try(self, environment, name, value, words):
        result = picas({**environment, name: value}, "check")
        assert result.returncode == 1
        assert "can be reached" not in result.stdout
        assert words in result.stderr
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("answer", "code", "words"),
        [
            (Reply(200, b"<html>", {"Content-Type": "text/html"}), 1, "is not CouchDB (status 200, text/html)"),
            (Reply(403, b'{"error":"forbidden","reason":"Account is temporarily locked"}'), 75, "check PICAS_PASSWORD"),
        ],
        ids=["a page", "locked out"],
    )
    def test_what_answers_is_named(self, environment, answer, code, words):
        with Double(lambda request: answer) as double:
            result = picas({**environment, "PICAS_HOST_URL": double.url}, "check")
        assert result.returncode == code
        assert "can be reached" not in result.stdout
        assert words in result.stderr
        assert result.stderr.count("\n") == 1

    def test_json_has_all_of_it(self, environment, push, is_couchdb):
        push(3)
        result = picas(environment, "check", "--json")
        (found,) = read_json("check", result.stdout)
        assert (result.returncode, result.stderr, found["is_reachable"], found["error"]) == (0, "", True, None)
        assert found["server_product"] == ("Apache CouchDB" if is_couchdb else "PiCaS embedded server")
        assert (found["database"], found["document_count"]) == (environment["PICAS_DATABASE"], 4)
        assert (found["may_read"], found["write_rules"], found["may_change_views"]) == (True, [], True)
        assert abs(found["clock_ahead_seconds"]) < 30
        assert {line["name"] for line in found["lines"]} == {"server", *self.lines(environment)}
        assert environment["PICAS_PASSWORD"] not in result.stdout

    def test_json_of_a_pool_that_can_not_be_reached(self, environment):
        result = picas({**environment, "PICAS_HOST_URL": "http://127.0.0.1:1"}, "check", "--json")
        (found,) = read_json("check", result.stdout)
        assert (result.returncode, found["is_reachable"], found["may_change_views"]) == (75, False, None)
        assert found["error"] in result.stderr
        assert [line["ok"] for line in found["lines"]][:3] == [False] * 3

    def test_clocks_that_differ_are_named(self, client, monkeypatch):
        now = time.time
        assert describe_clock(examine(client).clock_ahead_seconds).ok
        monkeypatch.setattr("picas.clients.time.time", lambda: now() - 300)
        words = "the clock of the server is 5 min ahead of this machine's: correct the one that is wrong"
        assert describe_clock(examine(client).clock_ahead_seconds) == Line("clock", words, ok=False)
        monkeypatch.setattr("picas.clients.time.time", lambda: now() + 7200)
        assert "the server is 2 h behind this machine's" in describe_clock(examine(client).clock_ahead_seconds).text

    def test_a_certificate_that_is_not_trusted_is_named(self, environment, certificate):
        with Double(lambda request: Reply(), certificate.context()) as double:
            result = picas({**environment, "PICAS_HOST_URL": double.url}, "check")
        assert result.returncode == 1
        assert "can be reached" not in result.stdout
        assert re.fullmatch(r".*certificate is not trusted \(.*\): set PICAS_SSL_VERIFICATION.*\n", result.stderr)


class TestSettings:
    @pytest.mark.parametrize("arguments", [("check",), ("status",), ("recover", "results")], ids=" ".join)
    def test_picasconfig_is_read_from_the_working_directory(self, environment, keep, tmp_path, arguments):
        keep(1, tmp_path / "results")
        given = {name: environment.pop(name) for name in list(environment) if name.startswith("PICAS_")}
        names = ("PICAS_HOST_URL", "PICAS_DATABASE", "PICAS_USERNAME", "PICAS_PASSWORD")
        config = tmp_path / "picasconfig.py"
        config.write_text("".join(f"{name} = {given[name]!r}\n" for name in names))
        config.chmod(0o600)
        result = subprocess.run(
            command(*arguments), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (result.returncode, result.stderr) == (0, "")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
    @pytest.mark.parametrize("mode", [0o700, 0o1777])
    def test_picasconfig_of_another_user_is_not_run(self, environment, tmp_path, mode):
        folder = tmp_path / "shared"
        folder.mkdir()
        folder.chmod(mode)
        config = folder / "picasconfig.py"
        config.write_text("open('ran', 'w')\n")
        os.chown(config, 65534, 65534)

        def check(**changes):
            env = {**environment, **changes}
            return subprocess.run(
                command("check"), cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
            )

        complete, incomplete = check(), check(PICAS_PASSWORD="")
        assert (complete.returncode, complete.stderr) == (0, "")
        assert (incomplete.returncode, incomplete.stdout) == (1, "")
        assert f": {config} is not used: it belongs to another user (uid 65534)" in incomplete.stderr
        assert incomplete.stderr.count("\n") == 1
        assert not (folder / "ran").exists()

    def test_missing_settings_name_the_folder_of_picasconfig(self, environment, tmp_path):
        for name in list(environment):
            if name.startswith("PICAS_"):
                del environment[name]
        result = subprocess.run(
            command("check"), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 1
        assert f"in picasconfig.py in {tmp_path}, in the environment" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["serve", "--port", "x"],
        ["serve", "--port", "70000"],
        ["serve", "--memory", "--data", "x"],
        ["recover", "one", "two"],
        ["recover", ""],
        ["recover", __file__],
        ["recover", "--nonsense"],
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(environment, arguments):
    result = picas(environment, *arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


class TestRecover:
    """`picas recover` saves results that went to files."""

    def test_escape_sequences_of_a_token_do_not_reach_the_terminal(self, environment, client, tmp_path):
        token = client.save(Task(make_token(0, _id="\x1b[2J")))
        held = ClaimedToken(next(TaskViewIterator(client, "todo")))
        spool.keep(held.token, held.claimed, "x", tmp_path / "spool", database=client.db.name, server=client.url)
        client.save(modifiers.reset(client.get(token.id)))
        result = picas(environment, "recover")
        assert result.returncode == 1
        assert "\\x1b[2J" in result.stdout
        assert "\x1b" not in result.stdout + result.stderr

    def test_saves_results_with_their_logs_once(self, environment, client, keep):
        keep(2)
        result = picas(environment, "recover")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == "recovered 2 results, 0 kept aside, 0 unreadable, 0 left\n"
        token = client.get("token_1")
        assert (token["output"], token.get_attachment("logs.out", client)["data"]) == ("the result", b"the log")
        again = picas(environment, "recover")
        assert (again.returncode, again.stdout) == (0, f"nothing to recover in {environment['PICAS_SPOOL']}\n")

    def test_another_folder(self, environment, client, keep, tmp_path):
        keep(1, tmp_path / "other")
        result = picas(environment, "recover", str(tmp_path / "other"))
        assert (result.returncode, result.stdout[:18]) == (0, "recovered 1 result")
        assert client.get("token_0")["output"] == "the result"

    def test_each_result_that_is_not_saved_is_reported(self, environment, client, keep, tmp_path):
        keep(3)
        half = spool.files(tmp_path / "spool")[0]
        half.write_text("{")
        client.save(modifiers.reset(client.get("token_1")))
        result = picas(environment, "recover")
        assert (result.returncode, result.stderr) == (1, "")
        aside, unreadable, summary = result.stdout.splitlines()
        place = tmp_path / "spool" / "not-ours"
        assert "token_1" in aside
        assert str(place) in aside
        assert str(half) in unreadable
        assert summary == f"recovered 1 result, 1 kept aside in {place}, 1 unreadable, 0 left"

    def test_what_the_server_refuses_goes_aside_and_is_tried_again_if_its_folder_is_named(
        self, environment, client, keep, location, tmp_path
    ):
        keep(1)
        place = tmp_path / "spool" / "refused"
        with FaultProxy(location.url) as proxy:
            proxy.fail("PUT", "token_0", Reply(403, b'{"error":"forbidden","reason":"no results on Sundays"}'))
            result = picas({**environment, "PICAS_HOST_URL": proxy.url}, "recover")
        line, summary = result.stdout.splitlines()
        assert result.returncode == 1
        assert "no results on Sundays" in line
        assert str(place) in line
        assert (
            summary == f"recovered 0 results, 0 kept aside, 1 refused by the server, in {place}, 0 unreadable, 0 left"
        )
        assert picas(environment, "recover").stdout.startswith("nothing to recover")
        assert picas(environment, "recover", str(place)).stdout.startswith("recovered 1 result,")

    def test_a_missing_folder_needs_no_database(self, environment, tmp_path):
        result = picas({**environment, "PICAS_HOST_URL": "http://127.0.0.1:9"}, "recover", str(tmp_path / "absent"))
        assert (result.returncode, result.stdout) == (0, f"nothing to recover in {tmp_path / 'absent'}\n")

    def test_without_the_database_nothing_is_changed(self, environment, keep, tmp_path):
        keep(1)
        files = spool.files(tmp_path / "spool")
        result = picas({**environment, "PICAS_HOST_URL": "http://127.0.0.1:9"}, "recover")
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (75, "", 1)
        assert "can't reach http://127.0.0.1:9" in result.stderr
        assert spool.files(tmp_path / "spool") == files


@pytest.mark.parametrize("memory", [True, False])
def test_serve_runs_until_it_is_interrupted(environment, tmp_path, memory):
    """`picas serve` prints all that is needed to reach it, and Ctrl-C ends it cleanly."""
    ready = tmp_path / "ready"
    place = ["--memory"] if memory else ["--data", str(tmp_path / "data")]
    clean = {name: value for name, value in environment.items() if not name.startswith("PICAS_")}
    process = subprocess.Popen(
        command("serve", *place, "--ready-file", str(ready)), env=clean, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        shell = f". {ready}; {' '.join(command('status'))} 2>&1; echo $PICAS_HOST_URL; cat $PICAS_PASSWORD_FILE"
        output = subprocess.run(["bash", "-c", shell], env=clean, capture_output=True, text=True, check=False).stdout
        complaint, url, password = output.splitlines()
        assert "there is no view Monitor/overview_total" in complaint
        assert requests.get(f"{url}/_all_dbs", auth=("picas", password), timeout=10).json() == ["picas"]
        assert requests.get(f"{url}/_utils/", timeout=10).status_code == 200
    finally:
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "ten thousand tokens" in printed
    assert "Apache CouchDB" in printed
    assert password not in printed
    assert not ready.exists()


def test_a_server_that_can_not_start_says_so_on_standard_error(environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = picas(environment, "serve", "--memory", "--port", str(taken.getsockname()[1]))
    assert (result.returncode, result.stdout) == (1, "")
    assert "in use by another program" in result.stderr
