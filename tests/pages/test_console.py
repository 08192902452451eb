"""picas.connect, and what the scripts and the command share."""

from __future__ import annotations

import argparse
import io
import logging
import re
import ssl
import subprocess
import sys
from urllib.parse import quote

import pytest
from couchdb.http import Forbidden, PreconditionFailed, ServerError, Unauthorized

import picas
from picas import config, console
from picas.exceptions import PicasError, Unreachable, UntrustedServer


class TestConnect:
    """`picas.connect()` is the first line of a script."""

    @pytest.fixture(autouse=True)
    def settings(self, environment, monkeypatch):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    def test_is_the_function_of_the_console_module(self):
        assert picas.connect is console.connect

    def test_uses_the_settings_from_the_environment(self, client):
        assert picas.connect().db.name == client.db.name

    def test_uses_the_settings_it_is_given(self, client):
        name = f"{client.db.name}_other"
        console.create_database(config.load(database=name))
        try:
            assert picas.connect(config.load(database=name)).db.name == name
        finally:
            del client.server[name]

    def test_a_missing_database_is_named(self):
        with pytest.raises(PicasError, match="there is no database nothing_there on http://"):
            picas.connect(config.load(database="nothing_there"))

    def test_an_invalid_address_is_named(self):
        settings = config.Settings("nowhere", "database", "user", "password")
        with pytest.raises(PicasError, match="PICAS_HOST_URL is invalid: the address must begin with http"):
            picas.connect(settings)


def test_the_repr_of_a_client_names_server_and_database_without_secrets(location, client):
    scheme, _, host = location.url.partition("://")
    with_secrets = f"{scheme}://{location.username}:{quote(location.password, safe='')}@{host}"
    for made in (client, client.copy(), picas.CouchDB(with_secrets, client.db.name)):
        assert repr(made) == f"<CouchDB {location.url}/{client.db.name}>"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Unauthorized(("unauthorized", "Name or password is incorrect.")), "wrong user or password: check PICAS_USER"),
        (Unauthorized("a proxy's page"), "wrong user or password: check PICAS_USERNAME and PICAS_PASSWORD"),
        (Unauthorized(("unauthorized", "Only on Mondays")), "the server does not let this user do that: unautho"),
        (Unauthorized(("unauthorized", "You are not a server admin.")), "this user may not create databases: only an"),
        (Forbidden(("forbidden", "You are not a db or server admin.")), "this user may not change views: only an adm"),
        (Forbidden(("forbidden", "You are not allowed to access this db.")), "this user is not a member of the databa"),
        (Forbidden(("forbidden", "Locked")), "the server does not let this user do that: forbidden: Locked"),
        (Unreachable("can't reach x"), "can't reach x: is the address in PICAS_HOST_URL right"),
        (ServerError((503, ("busy", "later\nplease"))), "the server answered 503: busy: later please"),
        (PreconditionFailed(("file_exists", None)), "the server answered: file_exists"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), "x.txt: No such file or directory"),
        (ssl.SSLError(1, "[SSL: WRONG] wrong"), "no TLS connection"),
        (ValueError("a\nb"), "a b"),
    ],
)  # fmt: skip
def test_an_error_becomes_one_line_that_says_what_to_do(error, line):
    assert console.describe(error).startswith(line)


def test_an_untrusted_certificate_names_the_setting_to_change():
    error = UntrustedServer("x")
    error.__cause__ = cause = ssl.SSLCertVerificationError(1, "x")
    cause.verify_message = "self-signed certificate"
    assert "not trusted (self-signed certificate): set PICAS_SSL_VERIFICATION" in console.describe(error)


def test_an_expired_certificate_needs_no_other_setting():
    error = UntrustedServer("x")
    error.__cause__ = cause = ssl.SSLCertVerificationError(1, "x")
    cause.verify_message, cause.verify_code = "certificate has expired", 10
    assert "not valid today (certificate has expired): it has to be renewed" in console.describe(error)


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_result_of_main_is_the_exit_code(value, code):
    with pytest.raises(SystemExit) as exit_info:
        console.run(lambda: value)
    assert exit_info.value.code == code


class TestMissingViews:
    def test_the_views_that_there_are_are_named_the_nearest_first(self, client):
        line = str(console.no_such_view("tood", "Monitor", client))
        assert line.startswith("there is no view Monitor/tood: Monitor has the views todo, locked, done, error, ")
        assert "picas views" not in line

    def test_a_view_of_the_scripts_can_be_created_beside_others(self, client):
        client.add_view("mine", "function(doc) { emit(1, 1); }", design_doc="Own")
        line = str(console.no_such_view("todo", "Own", client))
        expected = "there is no view Own/todo: Own has the views mine; picas views Own creates it"
        assert line == expected

    def test_the_design_documents_that_there_are_are_named_the_nearest_first(self, client):
        client.add_view("mine", "function(doc) { emit(1, 1); }", design_doc="Cores")
        client.save({"_id": "_design/rule", "validate_doc_update": "function() {}"})
        assert str(console.no_such_view("todo", "Montor", client)) == (
            "there is no view Montor/todo: the design documents are Monitor, Cores; picas views Montor creates it"
        )

    def test_there_may_be_none(self, client):
        client.delete(client.get("_design/Monitor"))
        expected = "there is no view Monitor/todo: create the views with picas views Monitor"
        for pool in (client, None):
            assert str(console.no_such_view("todo", "Monitor", pool)) == expected

    def test_many_are_counted_and_odd_ones_do_no_harm(self, client):
        views = {f"view {number}\n": {"map": "function(doc) {}"} for number in range(30)}
        client.save({"_id": "_design/Many", "views": views})
        client.save({"_id": "_design/Odd", "views": {}})
        line = str(console.no_such_view("x", "Many", client))
        assert line.endswith(", view 19 and 10 others")
        assert "\n" not in line

    def test_an_outage_meanwhile_hides_nothing(self, client, far, gate):
        gate.close()
        assert "there is no view Monitor/x: create" in str(console.no_such_view("x", "Monitor", far))


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        console.run(lambda: 1 // 0)


def test_a_closed_pipe_ends_the_script_quietly():
    code = "from picas import console; console.run(lambda: [print('x' * 100) for _ in range(100000)] and None)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(10) == 1


def test_a_view_is_named_with_its_design_document():
    assert console.view_name("Monitor/todo") == ("Monitor", "todo")
    with pytest.raises(argparse.ArgumentTypeError, match="Monitor/todo, Monitor/locked"):
        console.view_name("todo")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def without_colours(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


def test_the_bar_fills_up_at_a_terminal(without_colours):
    stream = Terminal()
    bar = console.ProgressBar(4, stream)
    for done in (1, 2, 4):
        bar(done, 4)
    lines = stream.getvalue().split(console.ERASE)[1:]
    assert [line.count("━") for line in lines] == [10, 20, 40]
    assert lines[-1].endswith("4 of 4\n")


def test_the_bar_is_coloured_where_colours_are_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console.ProgressBar(4, stream)(1, 4)
    assert "\x1b[" in stream.getvalue().removeprefix(console.ERASE)


def test_the_words_stand_alone_without_rich(without_colours, monkeypatch):
    for name in ("rich", "rich.console", "rich.progress_bar"):
        monkeypatch.setitem(sys.modules, name, None)
    stream = Terminal()
    console.ProgressBar(4, stream)(2, 4)
    assert stream.getvalue() == f"{console.ERASE}2 of 4"


def test_an_error_stands_below_a_bar_that_is_not_finished(without_colours, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    console.ProgressBar(4)(1, 4)
    console.print_error("interrupted", "picas")
    console.print_error("again", "picas")
    console.ProgressBar(4)(4, 4)
    console.print_error("done", "picas")
    after = stream.getvalue().partition("1 of 4")[2]
    assert after.startswith("\npicas: interrupted\npicas: again\n")
    assert after.endswith("4 of 4\npicas: done\n")


@pytest.mark.parametrize("columns", [20, 40, 120])
def test_the_bar_with_a_rate_fits_into_the_terminal(columns, without_colours, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    bar = console.ProgressBar(4, stream, rate_of="t")
    for done in (500, 1000):
        bar(done, 1000)
    first, last = stream.getvalue().split(console.ERASE)[1:]
    assert re.fullmatch(r"━*╸? *500 of 1000, [\d/t s]*", first)
    assert max(len(first), len(last.strip("\n"))) < columns


def test_the_bar_is_hidden_without_a_terminal_and_for_little_work():
    for stream, total in ((io.StringIO(), 100), (Terminal(), 3)):
        console.ProgressBar(4, stream)(1, total)
        assert stream.getvalue() == ""


def test_the_bar_is_hidden_at_a_terminal_that_can_write_no_line_over(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    console.ProgressBar(4, stream)(1, 100)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "code",
    [
        "log.warning(evil)",  # Python's own handler
        "console.log_to_stderr(0); log.warning('%s', evil)",
        "console.log_to_stderr(0)\ntry: raise ValueError(evil)\nexcept ValueError: log.exception('in a traceback')",
        "raise PicasError(evil)",
        "raise Forbidden(('forbidden', evil))",
        "raise FileNotFoundError(2, 'No such file', evil)",
    ],
)
def test_escape_sequences_in_the_log_and_in_errors_do_not_reach_the_terminal(code):
    head = "import logging; from couchdb.http import Forbidden; from picas import console; "
    head += "from picas.exceptions import PicasError; log = logging.getLogger('picas.x'); evil = 'a\\x1b[2Jb'; "
    script = f"{head}exec_ = {code!r}\nconsole.run(lambda: exec(exec_))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "a\\x1b[2Jb" in result.stderr
    assert "\x1b" not in result.stderr


def test_a_line_break_in_an_id_begins_no_line_of_the_log():
    record = logging.LogRecord("picas.x", logging.WARNING, "x.py", 1, "%s is odd", ("a\n2026-11-29 ERROR b",), None)
    formatter = console.LogFormatter("%(levelname)s %(message)s")
    assert formatter.format(record) == "WARNING a 2026-11-29 ERROR b is odd"


@pytest.mark.parametrize(("verbosity", "level"), [(0, "WARNING"), (1, "INFO"), (2, "DEBUG"), (5, "DEBUG")])
def test_the_verbosity_sets_the_level_of_the_log(verbosity, level):
    code = f"""
import logging
from picas import console
console.log_to_stderr({verbosity})
print(logging.getLevelName(logging.root.level))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"{level}\n"
