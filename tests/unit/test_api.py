"""The names, signatures and defaults that user scripts rely on, and the structure of the package."""

from __future__ import annotations

import ast
import inspect
import logging
import re
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from pathlib import Path
from typing import Any

import couchdb
import pytest

import picas
from picas import exceptions

PACKAGE = Path(picas.__file__).resolve().parent

FLOORS = (
    ("config", "crypto", "exceptions", "generators", "picaslogger", "sandbox", "util", "version"),
    ("tokens",),
    ("processes",),
    ("batch", "jobid", "schedulers"),
    ("couch",),
    ("clients", "documents", "executers", "modifiers"),
    ("console", "picas_config", "views"),
    ("pool", "pushes"),
    ("iterators",),
    ("pilot",),
    ("actors", "autopilot"),
    ("cli",),
)
"""The files and folders of the package, by floor from the bottom up. Modules import from their own floor or below."""
ASIDE = "embedded"
"""The folder outside the floors: only the command line imports it."""
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

COMMANDS = ("cli", "console", "sandbox", ASIDE)
"""Modules that print messages for people."""

EXPORTS = ["CouchDB", "Document", "Task", "Job", "User", "ViewIterator", "TaskViewIterator", "PrioritizedViewIterator"]
EXPORTS += ["EndlessViewIterator", "Actor", "RunActor", "connect", "VERSION", "__version__"]

SIGNATURES = {
    "clients.CouchDB": (
        "url='http://localhost:5984', db='test', username=None, password='', ssl_verification=True, create=False"
    ),
    "clients.CouchDB.copy": "",
    "clients.CouchDB.__getitem__": "idx",
    "clients.CouchDB.get": "id",
    "clients.CouchDB.get_from_view": "view, **view_params",
    "clients.CouchDB.get_single_from_view": "view, window_size=1, **view_params",
    "clients.CouchDB.view": "view, design_doc='Monitor', **view_params",
    "clients.CouchDB.save": "doc",
    "clients.CouchDB.save_documents": "docs",
    "clients.CouchDB.delete": "doc",
    "clients.CouchDB.delete_documents": "docs",
    "clients.CouchDB.delete_from_view": "view, design_doc='Monitor'",
    "clients.CouchDB.add_view": "view, map_fun, *args, reduce_fun=None, design_doc='Monitor', **kwargs",
    "clients.CouchDB.set_users": "admins=None, members=None, admin_roles=None, member_roles=None",
    "clients.CouchDB.is_view_nonempty": "view, **view_params",
    "clients.CouchDB.doc_count": "",
    "documents.Document": "data=None, base=None",
    "documents.Document.put_attachment": "name, data, mimetype=None",
    "documents.Document.get_attachment": "name, retrieve_from_database=None",
    "documents.Document.remove_attachment": "name",
    "documents.Task": "task=None",
    "documents.Task.lock": "",
    "documents.Task.done": "",
    "documents.Task.scrub": "",
    "documents.Task.error": "msg=None, exception=None",
    "documents.Task.has_error": "",
    "documents.Task.get_errors": "",
    "documents.Task.is_done": "",
    "documents.Job": "job",
    "documents.Job.queue": "method, host=None",
    "documents.Job.start": "",
    "documents.Job.finish": "",
    "documents.Job.archive": "",
    "documents.Job.is_done": "",
    "documents.User": "username, password, roles=None, data=None",
    "modifiers.TokenModifier": "timeout=86400",
    "modifiers.BasicTokenModifier": "",
    "modifiers.BasicTokenModifier.lock": "token",
    "modifiers.BasicTokenModifier.unlock": "token",
    "modifiers.BasicTokenModifier.close": "token",
    "modifiers.BasicTokenModifier.unclose": "token",
    "modifiers.BasicTokenModifier.add_output": "token, output",
    "modifiers.BasicTokenModifier.scrub": "token",
    "modifiers.BasicTokenModifier.set_error": "token",
    "modifiers.NestedTokenModifier": "timeout=86400",
    "modifiers.NestedTokenModifier.get_token": "ref, record",
    "modifiers.NestedTokenModifier.lock": "ref, record",
    "modifiers.NestedTokenModifier.unlock": "ref, record",
    "modifiers.NestedTokenModifier.close": "ref, record",
    "modifiers.NestedTokenModifier.unclose": "ref, record",
    "modifiers.NestedTokenModifier.add_output": "ref, record, output",
    "modifiers.NestedTokenModifier.scrub": "ref, record",
    "modifiers.NestedTokenModifier.set_error": "ref, record",
    "generators.TokenGenerator.get_empty_token": "",
    "jobid.add_job_id": "doc",
    "jobid.remove_job_id": "doc",
    "crypto.generate_and_save_key": "key_path=__import__('picas.crypto').crypto.CRYPTO_KEY_PATH, skip_if_exists=True",
    "crypto.read_key": "",
    "crypto.encrypt_password": "password, key=None",
    "crypto.decrypt_password": "encrypted, key=None",
    "picas_config.PicasConfigSchemaError": "message",
    "picas_config.PicasConfig": "config_path=None, load=True",
    "picas_config.PicasConfig.validate_config": "config=None",
    "picas_config.PicasConfig.load_config": "",
    "picas_config.PicasConfig.save_config": "args",
    "picas_config.PicasConfig.write_config": "config",
    "picas_config.PicasConfig.change_couchdb_password": "uri, username, old_password, new_password",
    "picas_config.PicasConfig.change_password": "args",
    "util.time_elapsed": "timer, max=30.0",
    "util.merge_dicts": "a, b",
    "util.seconds": "",
    "util.Timer": "",
    "util.Timer.elapsed": "",
    "util.Timer.reset": "",
    "iterators.TaskViewIterator": "database, view, **view_params",
    "iterators.PrioritizedViewIterator": "database, high_priority_view, low_priority_view, **view_params",
    "iterators.EndlessViewIterator": "view_iterator, sleep_sec=10, stop_callback=None, **stop_callback_args",
    "iterators.ViewIterator.reset": "",
    "iterators.ViewIterator.stop": "",
    "iterators.ViewIterator.is_stopped": "",
    "iterators.ViewIterator.claim_task": "",
    "iterators.ViewIterator.reconnect": "database",
    "iterators.EndlessViewIterator.is_cancelled": "",
    "actors.Actor": "db, iterator=None, view='todo', token_reset_values=(0, 0), **view_params",
    "actors.Actor.run": "max_token_time=None, *, slots=1",
    "actors.Actor.reconnect": "",
    "actors.Actor.handler": "signum, frame=None",
    "actors.Actor.setup_handler": "",
    "actors.Actor.process_task": "task",
    "actors.RunActor.run": (
        "max_token_time=None, max_total_time=None, max_tasks=None, max_scrub=0, "
        "stop_function=None, *, slots=1, retry_delay=0.0, **stop_function_args"
    ),
    "executers.execute": "args, shell=False",
    "executers.execute_old": "cmd",
}
"""The parameters that scripts may rely on."""


def find(path: str) -> Any:
    module, _, names = path.partition(".")
    found: Any = import_module(f"picas.{module}")
    for name in names.split("."):
        found = getattr(found, name)
    return found


def promised(text: str) -> list[inspect.Parameter]:
    scope: dict[str, Any] = {}
    exec(f"def function({text}): pass", scope)
    return list(inspect.signature(scope["function"]).parameters.values())


def without_types(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(annotation=inspect.Parameter.empty)


# --- the public names


def test_the_package_exports_what_scripts_import() -> None:
    assert sorted(picas.__all__) == sorted(EXPORTS)
    for name in EXPORTS:
        assert hasattr(picas, name)


def test_the_version_is_written_in_one_place() -> None:
    assert picas.__version__ == picas.VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", picas.VERSION)
    written = [path.name for path in PACKAGE.rglob("*.py") if f'"{picas.VERSION}"' in path.read_text(encoding="utf-8")]
    assert written == ["version.py"]


@pytest.mark.parametrize("path", SIGNATURES)
def test_a_public_signature_is_kept(path: str) -> None:
    """The promised parameters come first, with their kinds and defaults; later additions have defaults."""
    given = [without_types(parameter) for parameter in inspect.signature(find(path)).parameters.values()]
    if given and given[0].name == "self":
        del given[0]
    wanted = promised(SIGNATURES[path])
    positional = [parameter for parameter in wanted if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert given[: len(positional)] == positional
    assert [parameter for parameter in wanted if parameter not in given] == []
    added = [parameter for parameter in given if parameter not in wanted]
    assert [parameter.name for parameter in added if parameter.default is parameter.empty] == []


def test_a_document_is_dict_like_and_a_task_is_a_document() -> None:
    assert issubclass(picas.Document, MutableMapping)
    for kind in (picas.Task, picas.Job, picas.User):
        assert issubclass(kind, picas.Document)


def test_the_class_hierarchy_of_the_actors() -> None:
    from picas import actors

    assert issubclass(picas.RunActor, picas.Actor)
    assert actors.AbstractRunActor is picas.Actor


def test_exceptions_are_a_small_tree() -> None:
    for kind in (exceptions.SettingsError, exceptions.Unreachable, exceptions.LostAnswer, exceptions.NoQuorum):
        assert issubclass(kind, exceptions.PicasError)
    for kind in (exceptions.Unreachable, exceptions.LostAnswer, exceptions.NoQuorum):
        assert issubclass(kind, ConnectionError)
    assert not issubclass(exceptions.TokenTimeout, Exception)
    assert issubclass(exceptions.PilotStopped, SystemExit)


def test_errors_are_still_the_couchdb_exceptions_that_scripts_catch() -> None:
    from picas.couch import transport

    assert transport.couchdb.http.ResourceConflict is couchdb.http.ResourceConflict
    assert couchdb.ResourceNotFound is couchdb.http.ResourceNotFound


# --- the structure of the package


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield the name and the syntax tree of each module below picas; a folder itself counts as a module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def is_folder(name: str) -> bool:
    return (PACKAGE / name.replace(".", "/")).is_dir()


def room_of(name: str) -> str:
    return name.partition(".")[0]


def is_module(name: str) -> bool:
    return is_folder(name) or (PACKAGE / f"{name.replace('.', '/')}.py").is_file()


def imports(name: str, tree: ast.Module) -> set[str]:
    """Return the modules below picas that a module imports, also inside functions."""
    package = ["picas", *name.split(".")] if is_folder(name) else ["picas", *name.split(".")[:-1]]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # An imported name may be a module in a folder.
            members = [f"{module}.{alias.name}" for alias in node.names]
            targets = [member if is_module(member.partition(".")[2]) else module for member in members]
        else:
            continue
        found |= {target.partition(".")[2] for target in targets if target.startswith("picas.")}
    return found - {name}


TREES = dict(trees())
GRAPH = {name: imports(name, tree) for name, tree in TREES.items() if name}
MODULES = sorted(name for name in GRAPH if room_of(name) != ASIDE)


def test_every_file_and_folder_is_on_a_floor() -> None:
    assert {room_of(name) for name in MODULES} == set(FLOOR_OF)


def test_there_are_few_files_and_folders_at_the_top() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len([path for path in entries if path.is_file()]) <= 23
    assert len([path for path in entries if path.is_dir()]) <= 8


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_own_or_a_lower_floor(name: str) -> None:
    used = {room_of(other) for other in GRAPH[name]} - ({ASIDE} if room_of(name) == "cli" else set())
    assert {room for room in used if FLOOR_OF.get(room, 99) > FLOOR_OF[room_of(name)]} == set()


@pytest.mark.parametrize("name", MODULES)
def test_there_are_no_import_circles(name: str) -> None:
    reached, left = set[str](), set(GRAPH[name])
    while left:
        other = left.pop()
        reached.add(other)
        left |= GRAPH.get(other, set()) - reached
    assert name not in reached


def test_only_the_command_line_imports_the_embedded_server() -> None:
    users = {room_of(name) for name, used in GRAPH.items() if ASIDE in map(room_of, used)}
    assert users <= {"cli", ASIDE}


def test_the_embedded_server_imports_only_the_version() -> None:
    used = {room_of(other) for name, others in GRAPH.items() if room_of(name) == ASIDE for other in others}
    assert used <= {ASIDE, "version"}


def has_docstring(node: ast.AST) -> bool:
    return bool(ast.get_docstring(node))  # type: ignore[arg-type]


def undocumented(node: Any, path: str) -> Iterator[str]:
    """Yield public names without a docstring."""
    if not has_docstring(node):
        yield path
    for child in node.body:
        is_public = isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_")
        is_setter = any(isinstance(mark, ast.Attribute) for mark in getattr(child, "decorator_list", []))
        if is_public and not is_setter:
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, f"{path}.{child.name}")
            elif not has_docstring(child):
                yield f"{path}.{child.name}"


def test_everything_public_has_a_docstring() -> None:
    assert [path for name, tree in TREES.items() for path in undocumented(tree, name or "picas")] == []


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) not in COMMANDS])
def test_a_library_module_neither_prints_nor_configures_logging(name: str) -> None:
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    names = {call.id if isinstance(call, ast.Name) else getattr(call, "attr", "") for call in calls}
    assert not names & {"print", "basicConfig", "addHandler"}


def test_loggers_have_the_names_of_their_modules() -> None:
    for name in MODULES:
        log = getattr(import_module(f"picas.{name}"), "log", None)
        assert log is None or (isinstance(log, logging.Logger) and log.name == f"picas.{name}")
