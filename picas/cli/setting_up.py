"""Verbs for the settings of this user: `init` and `passwd`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import config, console
from ..exceptions import NoDatabase, PicasError, SettingsError, UsageError
from ..util import split_credentials, visible
from .arguments import add_verb, ask_secret, settings_here
from .output import print_table, tell
from .views import add_create_database

_ASKED = {"host_url": "Address of the server", "database": "Database", "username": "User"}


def add_verbs(verbs: Any) -> None:
    """Add these verbs to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    init = add_verb(
        verbs,
        "init",
        _init,
        help="set up the connection to the pool",
        description="Ask for the address of the server, the database, the user and the password, check the connection, "
        "and write them to ~/.config/picas/config.ini, which only you can read. What is set already is the default. "
        "Nothing is written unless the pool can be reached. Without a terminal, the password is read from standard "
        "input, and what is not given stays as it is set.",
    )
    init.add_argument("--host-url", metavar="URL", help="the address of the server: https://couch.example.org:6984")
    init.add_argument("--database", metavar="NAME", help="the name of the database")
    init.add_argument("--username", metavar="NAME", help="the name of the user")
    init.add_argument("--show", action="store_true", help="only show the settings in force, without the password")
    add_create_database(init)

    add_verb(
        verbs,
        "passwd",
        _passwd,
        help="change your password on the server and in the settings",
        description="Ask twice for a new password, change it on the server, and write it to the file that the present "
        "one comes from. Without a terminal, the new password is read from standard input.",
    )


def _init(options: argparse.Namespace) -> None:
    known = config.find(script_dir=Path.cwd())
    if options.show:
        return _show(known)
    wanted = _wanted(options, known)
    _check(wanted, options.create_database)
    values: dict[str, str | None] = {name: getattr(wanted, name) for name in config.REQUIRED}
    values["password_file"] = None  # the password itself stands there now
    if wanted.ssl_verification is not True:
        values["ssl_verification"] = _verification_text(wanted.ssl_verification)
    path = config.save(values)
    tell(f"The pool {wanted.database} can be reached. The settings are in {path}")
    for line in _in_the_way(wanted):
        tell(line)
    return None


def _show(settings: config.Settings) -> None:
    """Print the settings in force, and where each comes from."""
    values = {name: getattr(settings, name) or "(not set)" for name in config.REQUIRED}
    if settings.password:
        values["password"] = "(set)"
    if "ssl_verification" in settings.origins:
        values["ssl_verification"] = _verification_text(settings.ssl_verification)
    rows = [(config.NAMES[name], value, settings.origins.get(name)) for name, value in values.items()]
    print_table(("setting", "value", "from"), rows)


def _verification_text(value: bool | str) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _wanted(options: argparse.Namespace, known: config.Settings) -> config.Settings:
    """Return the settings that were given, or asked for, or are known already."""
    given = {name: getattr(options, name) for name in _ASKED}
    for name, question in _ASKED.items():
        if not given[name]:
            given[name] = _ask(name, question, getattr(known, name))
        if name == "host_url":
            given[name], user, password = _split(given[name])
            if user:
                known = dataclasses.replace(known, host_url=given[name], username=user, password=password)
    same_user = (given["host_url"], given["username"]) == (known.host_url, known.username)
    return dataclasses.replace(
        known, **given, password=_ask_password(given["username"], known.password if same_user else "")
    )


def _split(url: str) -> tuple[str, str, str]:
    try:
        return split_credentials(url)
    except ValueError as error:
        raise UsageError(f"the address of the server is invalid: {error}") from None


def _ask(name: str, question: str, default: str) -> str:
    """Return what is typed at the terminal, or else the default."""
    if sys.stdin.isatty():
        print(visible(f"{question} [{default}]: " if default else f"{question}: "), end="", file=sys.stderr, flush=True)
        default = sys.stdin.readline().strip() or default
    if not default:
        raise UsageError(f"{config.NAMES[name]} is not known: give it with --{name.replace('_', '-')}")
    return default


def _ask_password(username: str, present: str) -> str:
    """Return the password that is typed at the terminal, or a line of standard input, or else the present one."""
    hint = " (Enter: the present one)" if present else ""
    password = ask_secret(f"Password of {username}{hint}: ") or present
    if not password:
        raise UsageError("no password was given: type it at a terminal, or send it to standard input as one line")
    return password


def _check(settings: config.Settings, may_create: bool) -> None:
    """Connect to the pool; create the database if that was asked for, or if the user says so at the terminal.

    :raises PicasError, couchdb.http.HTTPError: if the pool can't be reached
    """
    try:
        console.connect(settings, max_outage=0)
    except NoDatabase:
        if not may_create and sys.stdin.isatty():
            may_create = console.confirm(f"There is no database {settings.database} there. Create it?")
        if not may_create:
            raise NoDatabase(
                f"there is no database {settings.database} on {settings.host_url}: check its name, or add "
                "--create-database"
            ) from None
        console.create_database(settings)
        tell(f"The database {settings.database} is created; picas views creates its views")


def _in_the_way(wanted: config.Settings) -> Iterator[str]:
    """Yield lines about other sources that take precedence over what was written."""
    found = config.find(script_dir=Path.cwd())
    for name in config.REQUIRED:
        if getattr(found, name) != getattr(wanted, name):
            yield f"But {config.NAMES[name]} from {found.origins[name]} takes precedence: remove it there"


def _passwd(options: argparse.Namespace) -> None:
    settings = settings_here()
    client = console.connect(settings, max_outage=0)
    client.own_user()  # nobody is asked for a password that can't be changed
    password = _new_password(settings)
    client.change_password(password)
    origin = settings.origins["password"]
    if settings.write_password is None:
        tell(f"The server has the new password. Now change PICAS_PASSWORD yourself: it comes from {origin}")
        return
    try:
        settings.write_password(password)
    except (SettingsError, OSError) as error:
        raise PicasError(
            f"the server has the new password, but {origin} still has the old one ({console.describe(error)}): "
            "write it there with picas init"
        ) from None
    tell(f"The password of {settings.username} is changed on the server and in {origin}")


def _new_password(settings: config.Settings) -> str:
    """Ask for a new password and return it.

    :raises UsageError: if it is empty, differs from its repetition, is the present one, or no file can hold it
    """
    password = ask_secret(f"New password of {settings.username}: ")
    if not password:
        raise UsageError("no password was given: type it at a terminal, or send it to standard input as one line")
    if password != password.strip() or not password.isprintable():
        raise UsageError("the new password begins or ends with a space, or has a character that can't be printed")
    if password == settings.password:
        raise UsageError("the new password is the present one")
    if sys.stdin.isatty() and ask_secret("The same again: ") != password:
        raise UsageError("the two passwords differ: nothing is changed")
    return password
