"""The small helpers: numbers, texts, time, dictionaries, files, waiting and threads."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from picas import util
from picas.util import (
    After,
    Timer,
    in_background,
    is_number,
    list_in,
    merge_dicts,
    number_or_none,
    one_line,
    parse_duration,
    read_capped,
    seconds,
    time_elapsed,
    visible,
    wait_until,
)

NEVER = 60.0
"""Seconds that no test here lasts."""


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0.0), (7, 7.0), (-2.5, -2.5), (math.inf, math.inf), (10**400, math.inf), (-(10**400), -math.inf)],
    ids=lambda value: repr(value)[:10],
)
def test_a_number(value: object, number: float) -> None:
    found = number_or_none(value)
    assert isinstance(found, float)
    assert found == number
    assert is_number(value)


@pytest.mark.parametrize("value", [None, True, False, "7", "", [7], {"n": 7}], ids=repr)
def test_not_a_number(value: object) -> None:
    assert not is_number(value)
    assert number_or_none(value) is None


def test_nan_is_only_a_number_to_those_who_ask_for_the_type() -> None:
    assert is_number(math.nan)
    assert number_or_none(math.nan) is None


def test_a_field_that_is_not_a_list_counts_as_an_empty_list() -> None:
    fields = {"list": [1, 2], "text": "ab", "none": None}
    assert list_in(fields, "list") == [1, 2]
    assert [list_in(fields, name) for name in ("text", "none", "absent")] == [[], [], []]


@pytest.mark.parametrize(
    ("detail", "line"),
    [
        ("one", "one"),
        ("two\n  lines\t", "two lines"),
        (("not_found", "missing"), "not_found: missing"),
        ((500, ("error", None), "a\nreason"), "500: error: a reason"),
        (ValueError("of an\nerror"), "of an error"),
        (("bad", "\x1b[2J"), "bad: \\x1b[2J"),
    ],
)
def test_a_message_fits_on_one_line(detail: object, line: str) -> None:
    assert one_line(detail) == line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("käse €\n\tb", "käse €\n\tb"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten\b\0\x7f", "over\\rwritten\\x08\\x00\\x7f"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),  # one character that some terminals take for an escape sequence
        ("\u202etxt.exe\u2066", "\\u202etxt.exe\\u2066"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_characters_that_steer_a_terminal_become_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_after_is_true_once_its_seconds_have_passed() -> None:
    assert After(0)()
    assert not After(60)()


def test_seconds_are_whole() -> None:
    before = int(time.time())
    now = seconds()
    assert isinstance(now, int)
    assert before <= now <= time.time()


def test_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    timer = Timer()
    clock[0] = 130.0
    assert timer.elapsed() == 30.0
    assert not time_elapsed(timer)
    assert time_elapsed(timer, 29)
    assert time_elapsed(timer, max=29.5)
    clock[0] = 130.5
    assert time_elapsed(timer)
    assert timer.reset() == 30.5
    assert timer.elapsed() == 0


def test_merging_changes_neither_dict() -> None:
    a, b = {"x": [1], "y": 1}, {"y": 2, "z": 3}
    merged = merge_dicts(a, b)
    merged["x"].append(2)
    assert merged == {"x": [1, 2], "y": 2, "z": 3}
    assert (a, b) == ({"x": [1], "y": 1}, {"y": 2, "z": 3})


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        (0, 0, b""),
        (10, 10, b"0123456789"),
        (10, 11, b"0123456789"),
        (10, 4, b"01\n[... picas cut 6 of 10 bytes here ...]\n89"),
        (10, 5, b"01\n[... picas cut 6 of 10 bytes here ...]\n89"),
        (10, 1, b"\n[... picas cut 10 of 10 bytes here ...]\n"),
        (10, 0, b"\n[... picas cut 10 of 10 bytes here ...]\n"),
    ],
)
def test_head_and_tail_of_a_file(tmp_path: Path, size: int, limit: int, expected: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789"[:size])
    assert read_capped(path, limit) == read_capped(str(path), limit) == expected


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc")
def test_a_file_whose_size_the_system_does_not_know() -> None:
    path = Path("/proc/version")
    assert path.stat().st_size == 0
    assert read_capped(path, 10_000) == path.read_bytes() != b""


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A named pipe without a writer would be waited for, for ever."""
    make(tmp_path / "odd")
    with pytest.raises(OSError, match="not a regular file"):
        read_capped(tmp_path / "odd", 10)


@pytest.mark.timing
class TestWaitUntil:
    def test_returns_whether_the_condition_became_true(self) -> None:
        began = time.monotonic()
        assert wait_until(lambda: time.monotonic() - began > 0.1, NEVER) is True
        assert wait_until(lambda: False, 0.1) is False
        assert time.monotonic() - began < 5

    def test_checks_the_condition_once_if_there_is_no_time_to_wait(self) -> None:
        assert wait_until(lambda: True, 0) is True
        assert wait_until(lambda: False, -1) is False

    def test_sleeps_with_the_given_function_and_checks_again_after_each_sleep(self) -> None:
        pauses: list[float] = []
        assert wait_until(lambda: len(pauses) > 20, NEVER, pauses.append) is True
        assert len(pauses) == 21
        assert 0 < pauses[0] < pauses[-1] <= util.LONGEST_NAP

    def test_a_signal_handler_may_make_the_condition_true(self) -> None:
        """An event could deadlock: the interrupted code may hold its lock."""
        flag: list[Any] = []
        previous = signal.signal(signal.SIGUSR1, lambda signum, frame: flag.append(True))
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        try:
            assert wait_until(lambda: bool(flag), NEVER)
        finally:
            signal.signal(signal.SIGUSR1, previous)
            timer.join()


@pytest.mark.parametrize(
    ("text", "duration"),
    [("90", 90), ("1.5m", 90), ("2h", 7200), ("01:30:00", 5400), ("1-12:00:05", 129_605), ("36500d", 36_500 * 86_400)],
)
def test_a_duration(text: str, duration: float) -> None:
    assert parse_duration(text) == duration


def test_a_duration_that_the_system_could_not_wait_for_is_refused() -> None:
    with pytest.raises(ValueError, match="'9999999d' is longer than 36500 days"):
        parse_duration("9999999d")


class TestInBackground:
    def test_the_result_comes_later(self) -> None:
        go = threading.Event()
        future = in_background(lambda: (go.wait(NEVER), threading.current_thread())[1])
        assert not future.done()
        go.set()
        assert future.result(NEVER).daemon, "the process would wait for it"

    def test_an_error_is_raised_for_whoever_asks(self) -> None:
        with pytest.raises(ZeroDivisionError):
            in_background(lambda: 1 / 0).result(NEVER)
