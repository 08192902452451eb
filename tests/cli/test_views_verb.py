"""The verb `views`, and that messages name the command instead of a script that pip does not install."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from uuid import uuid4

import pytest

import picas
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
