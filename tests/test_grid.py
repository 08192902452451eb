"""The Grid example, as far as that goes without a Grid: the sandbox holds all that a pilot needs; the JDL is sound."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import EXAMPLES

from picas.views import count_states

JDL = (EXAMPLES / "grid-example.jdl").read_text(encoding="utf-8")
KNOWN = {
    "JobName", "Executable", "Arguments", "StdOutput", "StdError", "InputSandbox", "OutputSandbox", "CPUTime",
    "Parameters",
}  # fmt: skip


def attributes():
    # DIRAC's client drops comment lines before it parses; a semicolon ends an attribute.
    text = "\n".join(line for line in JDL.splitlines() if not line.startswith("#"))
    return dict(re.fullmatch(r"\s*(\w+) = (.*)", part, re.DOTALL).groups() for part in text.split(";") if part.strip())


def test_the_jdl_names_attributes_as_dirac_does():
    assert set(attributes()) == KNOWN


def test_all_files_of_the_input_sandbox_are_there():
    files = re.findall(r'"([^"]+)"', attributes()["InputSandbox"])
    made = "grid-sandbox/picas.tar"
    assert made in files
    assert [name for name in files if name != made and not (EXAMPLES / name).is_file()] == []
    assert attributes()["Executable"].strip('"') in {name.rpartition("/")[2] for name in files}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """The archive, built from a copy of the project."""
    root = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__", "*.tar")
    shutil.copytree(EXAMPLES, root / "examples", ignore=ignored)
    shutil.copytree(EXAMPLES.parent / "picas", root / "picas", ignore=ignored)
    env = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([str(root / "examples" / "grid-sandbox" / "build.sh")], env=env, check=True, timeout=120)
    return root / "examples" / "grid-sandbox" / "picas.tar"


def test_the_archive_is_small_and_pure_python(sandbox):
    assert sandbox.stat().st_size < 3 << 20
    listing = subprocess.run(["tar", "-tf", str(sandbox)], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"\.(so|pyd|pyc)$", listing, re.MULTILINE)


@pytest.mark.parametrize("unpacked", [False, True], ids=["archive", "unpacked by the wrapper"])
def test_a_pilot_runs_from_the_sandbox_on_a_bare_python(sandbox, environment, client, push, tmp_path, unpacked):
    push(1, input="echo from the grid")
    job = tmp_path / "job"
    job.mkdir()
    for name in re.findall(r'"([^"]+)"', attributes()["InputSandbox"]):
        shutil.copy(sandbox if name.endswith(".tar") else EXAMPLES / name, job)
    if unpacked:
        subprocess.run(["tar", "-xf", "picas.tar"], cwd=job, check=True)
        (job / "picas.tar").unlink()
    binaries = tmp_path / "bin"
    binaries.mkdir()
    bare = getattr(sys, "_base_executable", sys.executable)
    (binaries / "python3").write_text(f'#!/bin/sh\nexec "{bare}" -S "$@"\n')  # -S: nothing that was installed
    (binaries / "python3").chmod(0o755)
    settings = {name: value for name, value in environment.items() if name.startswith("PICAS_")}
    result = subprocess.run(
        ["bash", "startpilot.sh", *attributes()["Arguments"].strip('"').split()],
        cwd=job, env={**settings, "PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path), "DIRACJOBID": "42"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert count_states(client)["done"] == 1
    assert client.get("token_0")["dirac_job_id"] == "42"
