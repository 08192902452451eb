"""Scripts that are started in odd ways: without a place for their output, without a home, in a folder that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import EXAMPLES

from picas.views import count_states

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

COUNT = 3


@pytest.fixture
def start(environment, tmp_path):
    """Return a function that starts a script of the examples by a shell command, with "$0" for the script."""

    def start(command, script="local-example.py", **changes):
        env = {name: value for name, value in {**environment, **changes}.items() if value is not None}
        command = command.replace("$0", f"{sys.executable} {EXAMPLES / script}")
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, timeout=60, check=False
        )

    return start


@pytest.fixture
def picas(start):
    """Return a function that starts the command `picas`, for "$0" in a shell command."""
    return lambda command, **changes: start(command.replace("$0", f"{sys.executable} -m picas.cli"), **changes)


class TestPilotsOutput:
    """What a pilot prints decides about no token, and its work about its exit code."""

    @pytest.fixture(autouse=True)
    def tokens(self, client, push):
        push(COUNT, input="echo grüße →")
        yield
        assert count_states(client)["done"] == COUNT

    @pytest.mark.parametrize("slots", [1, 2])
    @pytest.mark.parametrize("target", [pytest.param(">/dev/full", marks=needs_full), ">&-", "| true"])
    def test_it_goes_nowhere(self, start, target, slots):
        ran = start(f"set -o pipefail; $0 --slots {slots} {target}")
        assert (ran.returncode, ran.stderr) == (0, b"")

    @needs_full
    @pytest.mark.parametrize("target", [">/dev/full 2>&1", ">&- 2>&-"])
    def test_the_log_goes_nowhere_either(self, start, target):
        assert start(f"$0 -vv {target}").returncode == 0

    def test_it_is_on_a_full_disk(self, start, full_disk):
        ran = start(f"$0 >>{full_disk}/filling")
        assert (ran.returncode, ran.stderr) == (0, b"")

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_it_is_escaped_where_the_encoding_lacks_it(self, start, encoding):
        ran = start("$0", PYTHONIOENCODING=f"{encoding}:strict")
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert rb"\u2192" in ran.stdout

    def test_the_template_does_the_same(self, start):
        ran = start("set -o pipefail; $0 | true", "example-template.py")
        assert (ran.returncode, ran.stderr) == (0, b"")


class TestCommands:
    """A command whose output is lost has failed."""

    @needs_full
    def test_its_output_is_on_a_full_disk(self, picas):
        ran = picas("$0 status >/dev/full", PYTHONUNBUFFERED=None)
        assert (ran.returncode, ran.stderr.count(b"\n")) == (1, 1)
        assert b"standard output: No space left on device" in ran.stderr

    @needs_full
    def test_its_errors_are_on_a_full_disk(self, picas):
        assert picas("$0 status nothing 2>/dev/full").returncode == 1

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
    def test_a_stream_is_closed(self, picas, closed):
        ran = picas(f"$0 status {closed}")
        assert (ran.returncode, ran.stderr) == (0, b"")

    def test_a_question_without_input_is_not_asked(self, start, push, client):
        push(1)
        assert start("$0 Monitor/todo <&-", "deleteTokens.py").returncode == 0
        assert count_states(client)["todo"] == 0


class TestPlaces:
    REMOVED = "mkdir gone; cd gone; rmdir ../gone; "

    @pytest.mark.parametrize("script", ["local-example.py", "pushTokens.py -"])
    def test_the_working_directory_was_removed(self, start, script):
        name, _, argument = script.partition(" ")
        ran = start(f"{self.REMOVED} $0 {argument}", name, PICAS_SPOOL=None)
        assert ran.returncode == 1
        assert ran.stderr.decode() == f"{name}: the working directory was removed: change to another folder\n"

    @pytest.mark.parametrize("limit", [8, 12])
    def test_too_few_files_may_be_open(self, start, push, client, limit):
        push(1, input="true")
        ran = start(f"ulimit -n {limit}; $0")
        assert (ran.returncode, ran.stderr.count(b"\n")) == (75, 1)
        assert f"(ulimit -n is {limit})".encode() in ran.stderr
        assert count_states(client)["todo"] == 1

    @needs_root
    @pytest.mark.parametrize("home", [None, "unreadable"])
    def test_a_user_without_a_name_or_a_readable_home(self, start, tmp_path, home):
        folder = None
        if home is not None:
            folder = tmp_path / home
            (folder / ".config").mkdir(parents=True)
            folder.chmod(0o700)
            tmp_path.chmod(0o755)
        code = 'import os, picas.batch.slurm; os.chdir("/"); os.setuid(64999); print(picas.config.load().database)'
        ran = start(f"{sys.executable} -c '{code}'", HOME=folder and str(folder), XDG_CONFIG_HOME=None, NETRC=None)
        assert ran.stderr == b""
        assert ran.stdout.startswith(b"picas_test_")

    @needs_root
    def test_the_embedded_server_needs_a_place_for_its_data(self, start):
        code = 'import os, picas.cli, picas.embedded.serve; os.setuid(64999); picas.cli.main(["serve"])'
        ran = start(f"{sys.executable} -c '{code}'", HOME=None, XDG_DATA_HOME=None)
        assert ran.returncode == 1
        assert ran.stderr == b"picas: there is no home folder for ~/.local/share: set HOME or XDG_DATA_HOME\n"

    @needs_root
    def test_a_path_in_a_home_that_nobody_knows(self, start):
        load = 'picas.config.load(ssl_verification="~/ca.pem")'
        code = f'import os, picas.config; os.chdir("/"); os.setuid(64999); {load}'
        ran = start(f"{sys.executable} -c '{code}'", HOME=None, XDG_CONFIG_HOME=None, NETRC=None)
        assert b"SettingsError: There is no home folder for ~/ca.pem: set HOME, or give the whole path" in ran.stderr
