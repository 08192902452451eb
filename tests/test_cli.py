"""The command `picas`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import requests

from picas import VERSION


def command(*arguments):
    return [sys.executable, "-m", "picas.cli", *arguments]


def picas(environment, *arguments):
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_version(environment):
    assert picas(environment, "--version").stdout == f"picas {VERSION}\n"


def test_status_counts_the_tokens_of_each_state(environment, push):
    push(2)
    result = picas(environment, "status")
    assert (result.returncode, result.stdout) == (0, "todo 2\nlocked 0\ndone 0\nerror 0\n")


def test_status_of_views_that_are_not_there(environment):
    result = picas(environment, "status", "Nowhere")
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is no view Nowhere/overview_total" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["serve", "--port", "x"], ["serve", "--port", "70000"], ["serve", "--memory", "--data", "x"]],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(environment, arguments):
    result = picas(environment, *arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("memory", [True, False])
def test_serve_runs_a_server_until_it_is_interrupted(environment, tmp_path, memory):
    """`picas serve`: what it prints is enough to reach it, and Ctrl-C ends it cleanly."""
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
