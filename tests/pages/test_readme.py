"""What the pages say is what happens: their commands are run, and their output is compared.

In a block marked `console` each line after "$ " is a command, and what follows it is its output, in which "…" stands
for anything. All such blocks of a page are run one after the other. The other commands are named here, with what runs
them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

PAGES = {"README.md": ROOT / "README.md", "examples/README.md": ROOT / "examples" / "README.md"}

RUN_ELSEWHERE = {
    "examples/quickstart.sh": ("tests/pages/test_quickstart.py", '"quickstart.sh"), *arguments]'),
    "tests/run.sh --install": (".ci/run", "exec tests/run.sh --install"),
    "grid-sandbox/build.sh": ("tests/batch/test_dirac.py", '["grid-sandbox/build.sh"]'),
    "dirac-wms-job-submit grid-example.jdl": ("tests/batch/test_dirac.py", 'dirac.submit("grid-example.jdl"'),
    "pip install .": ("tests/pages/test_quickstart.py", '"install", "--quiet", "."]'),
    "python tests/benchmarks/claim.py --url http://admin:secret@127.0.0.1:5984 --pilots 16 --tokens 5000": (
        "tests/pilot/test_benchmarks.py",
        'measure("claim.py", "--pilots", ',
    ),
    "picas serve": ("tests/pages/test_cli.py", 'command("serve", '),
}


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def dialogue(page):
    """The commands of a page's console blocks, each with its expected output."""
    steps = []
    for line in "".join(blocks(page, "console")).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in steps]


def matches(expected, output):
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, re.sub(r" +$", "", output.rstrip("\n"), flags=re.MULTILINE), re.DOTALL)


@pytest.fixture
def shell(environment, tmp_path):
    """Runs commands in a copy of the examples, where `python` and `picas` are those of this environment."""
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("__pycache__", "*.tar"))
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, command in {"python": "", "picas": " -m picas.cli"}.items():
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n')
        (binaries / name).chmod(0o755)
    env = {**environment, "PATH": f"{binaries}{os.pathsep}{environment['PATH']}"}

    def run(command):
        result = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
        )  # fmt: skip
        return result.stdout

    return run


@pytest.mark.parametrize(("page", "least"), [("README.md", 3), ("examples/README.md", 9)])
def test_the_commands_give_the_output_that_their_page_shows(shell, client, page, least):
    if page != "README.md":
        client.delete(client.get("_design/Monitor"))  # its commands begin with the views
    steps = dialogue(page)
    assert len(steps) >= least
    for command, expected in steps:
        output = shell(command)
        assert matches(expected, output), f"$ {command}\n{output}\ninstead of\n{expected}"


def test_the_actor_on_the_first_page_runs(environment, client, push, tmp_path):
    push(1, input="four words are here")
    code = next(block for block in blocks("README.md", "python") if "process_task" in block)
    assert len(code.strip().splitlines()) <= 10
    script = tmp_path / "counter.py"
    script.write_text(code)
    subprocess.run([sys.executable, str(script)], env=environment, check=True, timeout=60)
    token = client.get("token_0")
    assert (token["output"], token["exit_code"]) == ({"words": 4}, 0)


def test_the_user_with_few_rights_on_the_first_page(location, client, is_couchdb):
    from uuid import uuid4

    from couchdb.http import Forbidden, HTTPError

    from picas import CouchDB

    if not is_couchdb:
        pytest.skip("the embedded server has one user only")
    name = f"pilot_{uuid4().hex}"
    code = next(block for block in blocks("README.md", "python") if "set_users" in block)
    for old, new in {
        "https://couch.example.org:6984": location.url,
        "my_pool": client.db.name,
        '"admin"': repr(location.username),
        "the admin's password": location.password,
        '"pilot"': repr(name),
    }.items():
        assert old in code
        code = code.replace(old, new)
    users = client.server["_users"]
    try:
        exec(code, {})
        pilot = CouchDB(location.url, client.db.name, name, "a long password")
        pilot.save({"_id": "token_0"})
        with pytest.raises(HTTPError):
            pilot.set_users(members=[])
        client.save({"_id": "secret"})
        client.set_users(members=["somebody else"])
        with pytest.raises(Forbidden):
            CouchDB(location.url, client.db.name, name, "a long password")
    finally:
        del users[f"org.couchdb.user:{name}"]


def test_the_lines_that_say_where_the_pool_is(environment):
    exports = "".join(block for block in blocks("examples/README.md", "bash") if "export" in block)
    password = Path(environment["HOME"], ".local", "share", "picas", "password")
    password.parent.mkdir(parents=True)
    password.write_text("s3cret\n")
    password.chmod(0o600)
    clean = {name: value for name, value in environment.items() if not name.startswith("PICAS_")}
    code = f"{exports}\n{sys.executable} -c 'from picas.config import load; s = load(); print(s, s.password)'"
    result = subprocess.run(["bash", "-c", code], env=clean, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert "host_url='http://127.0.0.1:5984', database='picas', username='picas'" in result.stdout
    assert result.stdout.endswith(" s3cret\n")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_run(page):
    commands = [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    commands = [command for command in commands if not command.startswith("export ")]  # run by the test above
    assert [command for command in commands if command not in RUN_ELSEWHERE] == []
    for command in commands:
        runner, words = RUN_ELSEWHERE[command]
        assert words in (ROOT / runner).read_text(encoding="utf-8"), f"{runner} does not run {command}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page].read_text(encoding="utf-8")):
        assert target.startswith("https://") or (PAGES[page].parent / target).exists(), target
