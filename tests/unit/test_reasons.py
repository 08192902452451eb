"""Why an attempt has ended: one line, and a group for failures that are alike."""

from __future__ import annotations

import math
import re
import signal

import pytest

from picas.tokens import reasons
from picas.tokens.reasons import MAX_REASON, blanked, group_of, last_line, of_exit_code


class TestAReason:
    def test_is_one_line_of_limited_length(self) -> None:
        assert reasons.shortened("first\n\n second\tthird ") == "first second third"
        long = reasons.shortened("word " * 1_000_000)
        assert (len(long), long[-1]) == (MAX_REASON, "…")

    def test_shows_control_characters(self) -> None:
        assert reasons.shortened("a\x1b[2Jb\udc80") == r"a\x1b[2Jb\udc80"

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (KeyError("name"), "KeyError: 'name'"),
            (ValueError(), "ValueError"),
            (SystemExit(3), "SystemExit: 3"),
        ],
    )
    def test_of_an_exception_names_its_type(self, error: BaseException, reason: str) -> None:
        assert reasons.of_exception(error) == reason

    @pytest.mark.parametrize(("seconds", "text"), [(3600, "3600"), (3600.0, "3600"), (0.05, "0.05")])
    def test_of_a_time_out_names_the_limit(self, seconds: float, text: str) -> None:
        assert reasons.of_time_out(seconds) == f"time-out after {text} s"

    def test_of_a_stop_names_the_signal(self) -> None:
        assert reasons.of_stop(signal.SIGTERM) == "stopped: SIGTERM"
        assert reasons.of_stop(64 + 1) == "stopped: signal 65"
        assert reasons.of_stop(None) == "stopped: the run was broken off"

    def test_of_a_dead_pilot_names_its_silence_if_that_is_known(self) -> None:
        assert reasons.of_silence(600.0) == "lost: pilot silent for 600 s"
        for unknown in (0.0, -1, math.inf, math.nan, 10**400):
            assert reasons.of_silence(unknown) == "lost: its pilot has died"


class TestTheReasonOfAnExitCode:
    @pytest.mark.parametrize(
        ("exit_code", "line", "reason"),
        [
            (1, "", "exit 1"),
            (2, "no such file", "exit 2: no such file"),
            ("3", "", "exit 3"),
            (3.0, "", "exit 3"),
            ("3 errors", "", "exit 3"),
            (-9, "", "signal 9 (killed)"),
            (-11, "core", "signal 11 (segmentation fault): core"),
            (-1000, "", "signal 1000"),
            (137, "", "exit 137 (signal 9, killed)"),
            (139, "oh", "exit 139 (signal 11, segmentation fault): oh"),
            (129, "usage: git", "exit 129: usage: git"),  # git's own exit code, and not SIGHUP
            (255, "", "exit 255"),
            ("broken", "", "exit broken"),
            ({"a": 1}, "", "exit {'a': 1}"),
            (None, "", "closed without an exit code"),
            ("", "", "closed without an exit code"),
        ],
    )
    def test_is(self, exit_code: object, line: str, reason: str) -> None:
        assert of_exit_code(exit_code, line) == reason

    def test_is_cut_with_its_line(self) -> None:
        assert len(of_exit_code(1, "x" * MAX_REASON)) == MAX_REASON


class TestTheLastLine:
    @pytest.mark.parametrize(
        ("output", "line"),
        [
            (b"", ""),
            (b"\n \n\t\n", ""),
            (b"one\ntwo\n\n  \n", "two"),
            (b"one\r\ntwo\r\n", "two"),
            (b"10 %\r20 %\r", "20 %"),
            (b"   indented", "indented"),
            (b"\x1b[1;31mError:\x1b[0m no\x1b]0;title\x07 disk\x1b[K\n", "Error: no disk"),
            ("gr\u00fc\u00df".encode(), "gr\u00fc\u00df"),
            (b"half \xc3", "half \ufffd"),
            (b"\x00\x07bell", "\\x00\\x07bell"),
        ],
    )
    def test_is(self, output: bytes, line: str) -> None:
        assert last_line(output) == line

    def test_is_cut(self) -> None:
        assert len(last_line(b"x" * 4096)) == MAX_REASON


class TestBlanking:
    @pytest.mark.parametrize(
        ("reason", "blank"),
        [
            ("exit 1: FileNotFoundError: /data/run 7.fits", "exit 1: FileNotFoundError: <path> <n>.fits"),
            (
                "exit 1: FileNotFoundError: [Errno 2] No such file or directory: '/data/a.csv'",
                "exit 1: FileNotFoundError: [Errno <n>] No such file or directory: <path>",
            ),
            ("KeyError: 'name'", "KeyError: <text>"),
            ('ValueError: "it is" not', "ValueError: <text> not"),
            ("can't open it, won't try", "can't open it, won't try"),
            ("cat: \u2018a b\u2019: no", "cat: <text>: no"),
            ("make: *** [`all'] Error 2", "make: *** [<text>] Error <n>"),
            ("exit 137 (signal 9, killed): line 12: 4711 Killed", "exit 137 (signal 9, killed): line <n>: <n> Killed"),
            ("signal 11 (segmentation fault): 0x7ffe12", "signal 11 (segmentation fault): <hex>"),
            ("exit 1: exit 2", "exit 1: exit <n>"),
            ("time-out after 3600 s", "time-out after <n> s"),
            ("no host node017.cluster", "no host node<n>.cluster"),
            ("T = -12.5e-3 K, 1,000 steps", "T = <n> K, <n> steps"),
            ("at 2026-11-29T10:00:00", "at <n>-<n>-<n>T<n>:<n>:<n>"),
            ("job 3f2b8c1e-0000-4000-8000-0123456789ab gone", "job <id> gone"),
            ("commit 9fceb02d0ae598e9 is bad", "commit <id> is bad"),
            ("the facade is defaced", "the facade is defaced"),
            ("token_12: bad", "token_<n>: bad"),
            ("GET https://a.example/x?y=1 failed", "GET <path> failed"),
            ("~/run/x and ./y/z and ../w", "<path> and <path> and <path>"),
            ("bad data/part_3.csv here", "bad <path> here"),
            ("Input/output error", "Input/output error"),
            ("out of memory", "out of memory"),
            ("", ""),
        ],
    )
    def test_replaces_what_differs_between_failures_of_a_kind(self, reason: str, blank: str) -> None:
        assert blanked(reason) == blank

    def test_of_any_text_is_quick(self) -> None:
        for text in ("'" * 200, "/" * 200, "a/" * 100, "0" * 200, "a0" * 100, "-" * 200, "\udc80" * 200):
            assert blanked(text) is not None
            assert re.fullmatch("r[0-9a-f]{4}", group_of(text))


class TestTheGroup:
    def test_is_the_same_for_failures_of_a_kind(self) -> None:
        assert group_of("exit 1: no file /data/1.fits") == group_of("exit 1: no file /scratch/22.fits")

    @pytest.mark.parametrize(
        ("one", "other"),
        [("exit 1", "exit 2"), ("exit 9", "signal 9 (killed)"), ("exit 1: a", "exit 1: b"), ("signal 6", "signal 9")],
    )
    def test_differs_between_kinds(self, one: str, other: str) -> None:
        assert group_of(one) != group_of(other)

    def test_never_changes_since_the_tokens_hold_it(self) -> None:
        assert group_of("out of memory") == "r01f1"
        assert group_of("exit 1: FileNotFoundError: /data/1") == group_of("exit 1: FileNotFoundError: <path>")
