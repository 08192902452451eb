"""The verb `views`, and that messages name the command instead of a script that pip does not install."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from uuid import uuid4

import pytest
from support.faults import FaultProxy, pending
from support.places import EXAMPLES

import picas
from picas import console
from picas.cli import main, progress
from picas.pool import indexing
from picas.views import count_states, report_definitions, view_definitions

PACKAGE = Path(picas.__file__).resolve().parent
OWN_FILES = ("picasconfig.py",)


def test_creates_the_views_of_the_pool(run_picas, client, push):
    push(2)
    client.delete(client.get("_design/Monitor"))
    result = run_picas("views")
    assert (result.returncode, result.stdout, result.stderr) == (0, "The views in Monitor are created\n", "")
    assert client.get("_design/Monitor")["views"] == view_definitions()
    assert client.get("_design/Report")["views"] == report_definitions()
    result = run_picas("views")
    assert (result.returncode, result.stdout) == (0, "The views in Monitor are there already\n")


class TestALargePool:
    """What asks the views waits until the server has indexed them, and says so."""

    @pytest.fixture(autouse=True)
    def busy(self, location, client, push, environment, monkeypatch, tmp_path):
        """A server that indexes Monitor, until it has been asked three times."""
        push(1)
        (tmp_path / "job.sh").touch()
        (tmp_path / "table.ini").write_text("[all]\nscript = job.sh\nmax_pilots = 0\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(indexing, "POLL", 0.01)
        with FaultProxy(location.url) as proxy:
            for left in (9000, 6000):
                proxy.fail("GET", "_design/Monitor/_info", pending(left))
            for name, value in {**environment, "PICAS_HOST_URL": proxy.url}.items():
                monkeypatch.setenv(name, value)
            yield

    @pytest.mark.parametrize(
        "arguments",
        [
            "views",
            "status",
            "ls",
            "errors",
            "why token_0",
            "delete todo --yes",
            "wait --timeout 0.2",
            "autopilot table.ini --dry-run",
        ],
    )
    def test_is_waited_for_by_a_verb(self, arguments, capsys):
        with pytest.raises(SystemExit):
            main(arguments.split())
        assert "indexing the views of Monitor…" in capsys.readouterr().err.splitlines()

    @pytest.mark.parametrize("words", ["createViews.py", "resetTokens.py Monitor/todo", "deleteTokens.py Monitor/todo"])
    def test_is_waited_for_by_a_script(self, words, capsys, monkeypatch):
        script, *arguments = words.split()
        monkeypatch.setattr("sys.argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script))["main"]()
        printed = capsys.readouterr()
        assert printed.err == "indexing the views of Monitor…\n"
        assert printed.out.count("\n") == 1

    def test_has_a_bar_at_a_terminal(self, monkeypatch):
        shown = []
        monkeypatch.setattr(console.ProgressBar, "__call__", lambda bar, done, total: shown.append(done))
        with pytest.raises(SystemExit):
            main(["views"])
        assert shown == [0, 3000, 9000]

    def test_has_lines_elsewhere(self, monkeypatch, capsys):
        monkeypatch.setattr(progress, "REMINDER", 0.0)
        with pytest.raises(SystemExit):
            main(["views"])
        assert capsys.readouterr().err.splitlines()[:3] == [
            "indexing the views of Monitor…",
            "indexing the views of Monitor: 0 % of 9000 changes after 0 s",
            "indexing the views of Monitor: 33 % of 9000 changes after 0 s",
        ]

    def test_does_not_prolong_a_wait(self, monkeypatch, capsys):
        monkeypatch.setattr(indexing, "FEW", -1)
        with pytest.raises(SystemExit) as ended:
            main(["wait", "--timeout", "0.1"])
        assert ended.value.code == console.EXIT_TIMEOUT
        line = "picas: the time is up, and the server is still indexing the views"
        assert capsys.readouterr().err.splitlines()[-1] == line


def test_a_condition_selects_tokens(run_picas, client, push):
    push(2, cores=1)
    client.save({"_id": "token_9", "type": "token", "lock": 0, "done": 0, "cores": 8})
    result = run_picas("views", "SingleCore", "doc.cores == 1")
    assert (result.returncode, result.stdout) == (0, "The views in SingleCore are created\n")
    assert count_states(client, "SingleCore")["todo"] == 2
    assert "Report" not in client.design_documents()


def test_creates_the_database_if_asked_to(run_picas, client):
    name = f"picas_test_{uuid4().hex}"
    variables = {"PICAS_DATABASE": name}
    result = run_picas("views", variables=variables)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "create it with picas views --create-database" in result.stderr
    try:
        assert run_picas("views", "--create-database", variables=variables).returncode == 0
        assert run_picas("status", variables=variables).returncode == 0
    finally:
        del client.server[name]


@pytest.mark.parametrize("name", ["a/b", ""])
def test_a_name_that_is_none(run_picas, name):
    result = run_picas("views", name)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"picas: {name!r} is not the name of a design document\n"


def test_a_condition_that_is_no_javascript(run_picas):
    result = run_picas("views", "Bad", "doc.cores ==")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "compilation_error" in result.stderr


def test_a_member_is_told_whom_to_ask(run_picas, person):
    result = run_picas("views", "Own", variables=person("member"))
    words = "this user may not change views: only an administrator of the database or the server may"
    assert (result.returncode, result.stderr) == (1, f"picas: {words}\n")


def texts(path):
    """Yield the texts in a module that people may see: all but the docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_message_names_a_script_that_pip_does_not_install(path):
    named = {name for text in texts(path) for name in re.findall(r"\b\w[\w-]*\.py\b", text)}
    assert named - set(OWN_FILES) == set()
