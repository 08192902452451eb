"""A sick node: its pilot puts the token back, uncounted, and ends; the tokens are processed by healthy pilots."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections import Counter

import pytest
from support.workers import PilotProcess, Worker

from picas.exceptions import NodeFault
from picas.pilot.run import NODE_FAULT_EXIT_CODE
from picas.processes import fault_of
from picas.views import count_states

COUNT = 20

RUN = """
class Actor(RunActor):
    def process_task(self, task):
        {work}

Actor(connect()).run(slots={slots}, max_scrub=2)
"""


@pytest.fixture
def pilot(environment, tmp_path):
    """Return a function that runs a pilot with this work on a token, and returns its exit code and its log."""

    def run(work, slots=1, setup="", **options):
        process = PilotProcess(tmp_path / "pilot", environment, setup + RUN.format(work=work, slots=slots), **options)
        try:
            code = process.end()
        finally:
            process.close()
        return code, process.errors.read_text()

    return run


@pytest.fixture
def nothing_is_lost(client, push):
    """Check that a sick pilot has left all tokens free and uncounted, and that a healthy one processes them."""
    push(COUNT)
    yield
    assert count_states(client)["todo"] == COUNT
    tokens = [client[f"token_{number}"] for number in range(COUNT)]
    assert all(token["scrub_count"] == 0 and "lost_count" not in token and not token.get("error") for token in tokens)
    assert {attempt["outcome"] for token in tokens for attempt in token.get("attempts", [])} == {"stopped"}
    Worker(client).run()
    assert count_states(client)["done"] == COUNT


def ends_with(result, words):
    """Check that a pilot has ended because of its node, with one line that contains these words."""
    code, log = result
    assert code == NODE_FAULT_EXIT_CODE, log
    (line,) = [line for line in log.splitlines() if line.startswith("ERROR")]
    assert re.search(f"because of a problem with its node: .*{words}", line)
    assert "Traceback" not in log


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.usefixtures("nothing_is_lost")
class TestSickNode:
    def test_the_output_of_a_program_is_on_a_full_disk(self, pilot, full_disk, slots):
        work = f"run_command(['echo', 'x'], stdout='{full_disk}/' + task.id)"
        ends_with(pilot(work, slots), "disk full: ")

    def test_a_program_inherits_the_pilots_own_output_on_a_full_disk(self, pilot, full_disk, slots):
        with (full_disk / "filling").open("ab") as output:
            result = pilot("task['exit_code'] = run_command(['echo', 'x']).exit_code", slots, stdout=output)
        ends_with(result, "disk full: no space for the output of this pilot")

    def test_python_code_writes_to_a_full_disk(self, pilot, full_disk, slots):
        ends_with(pilot(f"open('{full_disk}/filling', 'ab').write(b'x' * 9999)", slots), os.strerror(errno.ENOSPC))

    def test_there_is_no_folder_for_temporary_files(self, pilot, full_disk, slots):
        setup = f"import tempfile; tempfile._candidate_tempdir_list = lambda: ['{full_disk}']"
        ends_with(pilot("tempfile.TemporaryDirectory()", slots, setup), "No usable temporary directory")

    def test_no_descriptor_is_left(self, pilot, slots):
        setup = """
import resource
kept = []
def leak():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True: kept.append(open(os.devnull))
    except OSError:
        del kept[-2:]
"""
        ends_with(pilot("leak(); run_command(['true'], stdout='out')", slots, setup), r"\(ulimit -n is 64\)")

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
    def test_no_memory_is_left_for_a_thread(self, pilot, slots):
        setup = """
import resource
def limit():
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (4 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
"""
        ends_with(pilot("limit(); run_command(['true'], stdout='out')", slots, setup), r"ulimit -v is \d+\)")

    @pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="needs another user")
    def test_no_process_can_be_started(self, pilot, tmp_path, slots):
        setup = """
import resource
def limit():
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    os.setresuid(64999, 64999, 0)
"""
        # The limit counts the processes of a user; root has none.
        ends_with(pilot("limit(); run_command(['true'])", slots, setup), r"\(ulimit -u is 1[,)]")


def test_the_tokens_beside_it_end_normally(client, push, full_disk):
    push(2)

    def work(task):
        if task.id == "token_0":
            (full_disk / "filling").open("ab").write(bytes(9999))
        task["output"] = "well"

    actor = Worker(client, work)
    with pytest.raises(SystemExit) as ended:
        actor.run(slots=2)
    assert ended.value.code == NODE_FAULT_EXIT_CODE
    assert Counter(count_states(client)) == Counter(done=1, todo=1)
    assert client["token_1"]["output"] == "well"


def test_a_cleanup_on_a_full_disk_keeps_the_result_and_ends_the_pilot(client, push, full_disk):
    class Cleaning(Worker):
        def cleanup_run(self):
            (full_disk / "filling").open("ab").write(bytes(9999))

    push(2)
    with pytest.raises(SystemExit):
        Cleaning(client).run()
    assert Counter(count_states(client)) == Counter(done=1, todo=1)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EAGAIN, errno.ENOENT, errno.EIO])
def test_another_error_of_the_users_code_is_the_tokens(client, push, number):
    push(1)

    def work(task):
        raise OSError(number, "of a socket of the user's")

    Worker(client, work).run()
    assert count_states(client)["error"] == 1


def test_a_program_that_does_not_exist_is_the_tokens_error(client, push):
    from picas.executers import run_command

    push(1)
    Worker(client, lambda task: run_command(["/nothing/there"])).run()
    assert count_states(client)["error"] == 1


def test_the_fault_keeps_the_number_and_the_name():
    found = fault_of(OSError(errno.ENOSPC, "full", "name"))
    assert isinstance(found, NodeFault)
    assert (found.errno, found.strerror, found.filename) == (errno.ENOSPC, "full", "name")
    assert fault_of(ValueError("full")) is None
