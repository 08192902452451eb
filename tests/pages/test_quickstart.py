"""The first command of the README, and `pip install .`, as a newcomer runs them: in a fresh clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.places import ROOT

OVERVIEW = "todo 0\nlocked 0\ndone 3\nerror 0\n"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Copy the files that git knows, as they are in the working tree."""
    folder = tmp_path_factory.mktemp("clone")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
            target.chmod((ROOT / name).stat().st_mode)
    return folder


@pytest.fixture(scope="module")
def env():
    """Return the environment without any settings of PiCaS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PICAS_")}
    return {**kept, "PYTHON": sys.executable}


def quickstart(clone, env, *arguments, timeout=300):
    return subprocess.run(
        [str(clone / "examples" / "quickstart.sh"), *arguments],
        cwd=clone, env=env, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def snapshot(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if ".venv" not in path.parts}


def children_of(clone):
    """Return the processes that run from the clone."""
    processes = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in processes.splitlines() if str(clone) in line and " ps " not in line]


def end(clone, pid):
    """End a server that runs from the clone."""
    os.kill(pid, 15)
    deadline = time.monotonic() + 10
    while children_of(clone) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children_of(clone) == []


@pytest.mark.timing
def test_on_a_fresh_clone_three_tokens_are_done(clone, env):
    before = snapshot(clone)
    began = time.monotonic()
    result = quickstart(clone, env)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < 120
    assert OVERVIEW in result.stdout
    assert re.search(r"http://127\.0\.0\.1:\d+/_utils/", result.stdout)
    assert children_of(clone) == []
    left = {path for path in snapshot(clone) - before if "__pycache__" not in path.parts}
    assert all(path.parts[0] == "picas.egg-info" for path in left), left


@pytest.mark.timing
def test_a_second_run_is_quick_and_uses_the_server_in_the_environment(clone, env, environment):
    began = time.monotonic()
    result = quickstart(clone, {**env, **{k: v for k, v in environment.items() if k.startswith("PICAS_")}})
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < 30
    assert "Using the server that is set in the environment" in result.stdout
    assert OVERVIEW in result.stdout


@pytest.mark.timing
def test_a_pool_that_has_the_tokens_already_gets_them_once_more(clone, env, environment):
    settings = {name: value for name, value in environment.items() if name.startswith("PICAS_")}
    for done in (3, 6):
        result = quickstart(clone, {**env, **settings})
        assert (result.returncode, result.stderr) == (0, "")
        assert f"\ndone {done}\n" in result.stdout


@pytest.mark.timing
def test_keep_leaves_the_server_running(clone, env):
    result = quickstart(clone, env, "--keep")
    assert result.returncode == 0, result.stderr
    pid = int(re.search(r"kill (\d+)", result.stdout).group(1))
    file = re.search(r"shell: \. (\S+)", result.stdout).group(1)
    try:
        status = subprocess.run(
            ["bash", "-c", f". {file}; {clone}/.venv/quickstart/bin/picas status"],
            env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert status.stdout == OVERVIEW, status.stderr
        settings = Path(file).read_text()
    finally:
        end(clone, pid)
    again = re.search(r"with the same settings: (.*)", result.stdout).group(1)
    process = subprocess.Popen([*again.split(), "--ready-file", file], env=env, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not Path(file).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert Path(file).read_text() == settings
    finally:
        end(clone, process.pid)
        process.wait()


def test_an_unknown_option_is_refused(clone, env):
    result = quickstart(clone, env, "--what")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)


def test_help_describes_the_option(clone, env):
    assert "--keep" in quickstart(clone, env, "--help").stdout


def test_a_package_installed_with_pip_is_complete(clone, env, tmp_path):
    """`pip install .`: nothing is missing without the clone, and the embedded server starts."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", "."], cwd=clone, env=env, check=True, timeout=300)
    code = """
import picas, picas.embedded
with picas.embedded.Server() as server:
    client = picas.CouchDB(server.url, "pool", server.username, server.password, create=True)
    print(picas.__version__, client.doc_count())
"""
    result = subprocess.run(
        [str(venv / "bin" / "python"), "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+ 0\n", result.stdout), result.stderr
    assert (venv / "bin" / "picas").exists()
    assert list(venv.glob("lib/python*/site-packages/picas/py.typed"))


@pytest.mark.parametrize("name", ["run", "quickstart"])
def test_the_shell_scripts_are_executable(name):
    (path,) = [path for path in (ROOT / "tests" / f"{name}.sh", ROOT / "examples" / f"{name}.sh") if path.exists()]
    assert os.access(path, os.X_OK)
