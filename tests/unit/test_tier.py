"""The unit tier keeps its promises: no server, no process, and signals arrive in the thread that runs the tests."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import threading

import pytest

from picas import CouchDB

FAILED = pytest.fail.Exception


def test_no_process_can_be_started() -> None:
    with pytest.raises(FAILED, match="Popen"):
        subprocess.run(["true"], check=True)
    with pytest.raises(FAILED, match=r"os\.system"):
        os.system("true")
    with pytest.raises(FAILED, match=r"os\.fork"):
        multiprocessing.get_context("fork").Process().start()


def test_no_server_can_be_reached_or_started() -> None:
    with pytest.raises(FAILED, match="connect"):
        socket.create_connection(("127.0.0.1", 9))
    with pytest.raises(FAILED, match="bind"):
        socket.create_server(("127.0.0.1", 0))
    with pytest.raises(FAILED, match="connect"):
        CouchDB("http://127.0.0.1:9", "pool").doc_count()


def test_the_server_of_other_tests_is_not_available(request: pytest.FixtureRequest) -> None:
    with pytest.raises(FAILED, match="no server"):
        request.getfixturevalue("client")


def test_tests_run_in_the_main_thread() -> None:
    """Python calls signal handlers there only; pytest-xdist could run tests in another thread."""
    assert threading.current_thread() is threading.main_thread()


def test_only_a_test_that_depends_on_real_time_runs_again(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        again = item.get_closest_marker("flaky")
        assert (again is not None) == (item.get_closest_marker("timing") is not None), item.nodeid
        assert again is None or again.kwargs == {"reruns": 1}


def test_every_test_has_the_marker_of_its_folder(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        assert item.get_closest_marker(item.path.parent.name), item.nodeid
