"""The messages that a supervisor gets from its pilot."""

import os
import signal

import pytest

from picas.processes import supervisor
from picas.processes.descendants import Mark, Root
from picas.processes.supervisor import listen


class TestListen:
    @staticmethod
    def after(*messages):
        """Return what a supervisor knows after these messages and the pilot's end."""
        source, target = os.pipe()
        try:
            for message in messages:
                os.write(target, message)
            os.close(target)
            return listen(source)
        finally:
            os.close(source)

    def test_returns_the_children_that_run(self):
        watched = self.after(b"pilot text- 10 20 7\n+ 11 100 0.5\n", b"+ 12 101 30.0\n- 11\n")
        assert watched.children == {12: (Root(12, 101, True), 30.0)}
        assert (watched.marks, watched.since) == ([Mark("text-", range(10, 20))], [7])

    def test_after_bye_there_is_nothing_to_do(self):
        assert self.after(b"+ 11 100 0.5\nbye\n") is None

    @pytest.mark.parametrize("torn", [b"+ 11\n", b"+ 11 x 3\n", b"\n", b"-\n", b"pilot a\n", b"\xff\n", b"+ 11 100 0."])
    def test_an_incomplete_message_is_ignored(self, torn):
        assert self.after(torn).children == {}

    def test_messages_may_arrive_in_pieces(self):
        assert self.after(b"+ 11 10", b"0 0.5", b"\n").children == {11: (Root(11, 100, True), 0.5)}

    def test_a_broken_connection_is_the_end_of_the_pilot(self, monkeypatch):
        def broken(descriptor, count):
            raise ConnectionResetError

        monkeypatch.setattr(supervisor.os, "read", broken)
        assert listen(0).children == {}


def test_main_does_nothing_after_bye(monkeypatch):
    monkeypatch.setattr(supervisor, "listen", lambda descriptor: None)
    monkeypatch.setattr(supervisor, "end_tree", lambda watched: pytest.fail("there is nothing to end"))
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGHUP)]
    try:
        supervisor.main()
    finally:
        for signum, handler in zip((signal.SIGINT, signal.SIGHUP), before):
            signal.signal(signum, handler)
