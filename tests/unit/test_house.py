"""All requests to the database go through the client: no module above it uses the layers below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import couchdb.http
import pytest

import picas

PACKAGE = Path(picas.__file__).resolve().parent
BENEATH = ("clients.py", "couch/")
"""The client and the layers below it."""
ASIDE = "embedded/"
"""The embedded server, which is not a client."""

INNER = ("db", "server")
"""The attributes of the client that are objects of the package `couchdb`."""
HTTP = ("http", "requests", "urllib3", "certifi", "socketserver")
"""Packages that send requests, and their dependencies."""

ALL = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]
ABOVE = [name for name in ALL if not name.startswith((*BENEATH, ASIDE))]


def is_error(name: str) -> bool:
    kind = getattr(couchdb.http, name, None)
    return isinstance(kind, type) and issubclass(kind, Exception)


def is_actor(node: ast.expr) -> bool:
    """Return whether an expression is an actor by its name; the `db` of an actor is the client."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in ("self", "actor", "_actor")


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the full names of what a statement imports from other packages."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_offence(name: str) -> bool:
    package, _, member = name.partition(".")
    if package == "couchdb":
        return not is_error(member.rpartition(".")[2])
    return package in HTTP


def offences(tree: ast.AST) -> Iterator[str]:
    """Yield the line and the code of each place where a module bypasses the client."""
    for node in ast.walk(tree):
        for name in imported(node):
            if is_offence(name):
                yield f"{node.lineno}: import of {name}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr in INNER:
            is_client = node.value.attr == "db" and is_actor(node.value.value) and hasattr(picas.CouchDB, node.attr)
            if not is_client:
                yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name_of = node.args[1]
            if isinstance(name_of, ast.Constant) and name_of.value in INNER:
                yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("name", ABOVE)
def test_a_module_uses_the_client(name: str) -> None:
    assert list(offences(ast.parse((PACKAGE / name).read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("name", ALL)
def test_dependencies_of_requests_are_not_imported_directly(name: str) -> None:
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    packages = {found.partition(".")[0] for node in ast.walk(tree) for found in imported(node)}
    assert not packages & {"certifi", "urllib3", "idna", "charset_normalizer"}


@pytest.mark.parametrize(
    "line",
    [
        "client.db.view('_all_docs')",
        "self.client.db.resource.put_json('a')",
        "self.db.resource",
        "client.server.resource.session",
        "name = client.db.name",
        "getattr(client, 'db', None)",
        "import couchdb",
        "from couchdb.http import Resource",
        "from couchdb import Database",
        "import requests",
        "from http.client import HTTPConnection",
    ],
)
def test_code_that_bypasses_the_client_is_found(line: str) -> None:
    assert len(list(offences(ast.parse(line)))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "self.db.copy()",
        "self.context.actor.db.get('a')",
        "client.view('todo')",
        "database = client.db",
        "from couchdb.http import HTTPError, ResourceNotFound",
        "from couchdb import Unauthorized",
        "from .clients import CouchDB",
    ],
)
def test_code_that_uses_the_client_is_accepted(line: str) -> None:
    assert list(offences(ast.parse(line))) == []
