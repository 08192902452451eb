"""What the scripts share."""

from __future__ import annotations

import argparse
import io
import ssl
import subprocess
import sys

import pytest
from couchdb.http import Forbidden, PreconditionFailed, ServerError, Unauthorized

from picas import console
from picas.exceptions import Unreachable


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Unauthorized(("unauthorized", "x")), "wrong user or password: check PICAS_USERNAME and PICAS_PASSWORD"),
        (Forbidden(("forbidden", "Locked")), "the server does not let this user do that: forbidden: Locked"),
        (Unreachable("can't reach x"), "can't reach x: is the address in PICAS_HOST_URL right"),
        (ServerError((503, ("busy", "later\nplease"))), "the server answered 503: busy: later please"),
        (PreconditionFailed(("file_exists", None)), "the server answered: file_exists"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), "x.txt: No such file or directory"),
        (ssl.SSLError(1, "[SSL: WRONG] wrong"), "no TLS connection"),
        (ValueError("a\nb"), "a b"),
    ],
)  # fmt: skip
def test_errors_are_one_line_that_says_what_to_do(error, line):
    assert console.describe(error).startswith(line)


def test_an_untrusted_certificate_is_named_with_the_way_out():
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = "self-signed certificate"
    assert "not trusted (self-signed certificate): set PICAS_SSL_VERIFICATION" in console.describe(error)


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_script_ends_with_what_its_main_function_returns(value, code):
    with pytest.raises(SystemExit) as exit_info:
        console.run(lambda: value)
    assert exit_info.value.code == code


def test_an_error_of_the_program_itself_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        console.run(lambda: 1 // 0)


def test_a_reader_that_goes_away_ends_the_script_quietly():
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


def test_the_bar_fills_up_at_a_terminal():
    stream = Terminal()
    bar = console.ProgressBar(4, stream)
    for done in (1, 2, 4):
        bar(done, 4)
    lines = stream.getvalue().split("\r")[1:]
    assert [line.count("#") for line in lines] == [10, 20, 40]
    assert lines[-1].endswith("4 of 4\n")


def test_no_bar_where_nobody_watches_or_for_little_work():
    for stream, total in ((io.StringIO(), 100), (Terminal(), 3)):
        console.ProgressBar(4, stream)(1, total)
        assert stream.getvalue() == ""


@pytest.mark.parametrize(("verbosity", "level"), [(0, "WARNING"), (1, "INFO"), (2, "DEBUG"), (5, "DEBUG")])
def test_the_log_is_shown_as_far_as_it_is_wanted(verbosity, level):
    code = f"""
import logging
from picas import console
console.log_to_stderr({verbosity})
print(logging.getLevelName(logging.root.level))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"{level}\n"
