"""The command `picas-cli` of picas 1.1: `init`, `passwd` and `dump-config`, for its settings in conf.yml.

New users have `picas init`. Unlike in picas 1.1, `dump-config` prints no password: the file that it makes decrypts it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import console, crypto
from ..exceptions import PicasError
from ..picas_config import PicasConfig
from ..util import visible, write_private
from .arguments import ask_secret
from .output import tell

_PICASCONFIG = """# Made from {path}
from picas.picas_config import PicasConfig, decrypt_password

_settings = PicasConfig({path!r}).config
PICAS_HOST_URL = {host_url!r}
PICAS_DATABASE = {database!r}
PICAS_USERNAME = {username!r}
PICAS_PASSWORD = decrypt_password(_settings["encrypted_password"]).decode("utf-8")
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code.

    :param arguments: the command line without the command's name, by default that of the process
    """
    options = _parser().parse_args(arguments)
    console.run(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    try:
        options.run(options)
    except ValueError as error:  # of picas 1.1, whose text is one line for people
        raise PicasError(str(error)) from None
    except FileNotFoundError as error:
        raise PicasError(f"{error}: run picas-cli init") from None


def _parser() -> argparse.ArgumentParser:
    parser = console.ArgumentParser(
        prog="picas-cli", description="The settings of picas 1.1. The command picas can do this and more: picas init."
    )
    parser.add_argument("--config", default=crypto.SETTINGS_FILE, dest="config_path", metavar="FILE", help="the file")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    init = _add(verbs, "init", _init, "write the settings")
    init.add_argument("--host-url", default="http://localhost:5984", help="the address of the CouchDB server")
    init.add_argument("--database", default="mypicasdb", help="the name of the database")
    init.add_argument("--username", required=True, help="the name of the user")
    init.add_argument("--password", help="the password; others on this machine can see it: better leave it out")

    passwd = _add(verbs, "passwd", _passwd, "change your password on the server and in the settings")
    passwd.add_argument("--new-password", help="the password; others on this machine can see it: better leave it out")

    dump = _add(verbs, "dump-config", _dump, "print a picasconfig.py that reads these settings")
    dump.add_argument("--config", default=argparse.SUPPRESS, dest="config_path", metavar="FILE", help="the file")
    dump.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: standard output)")
    return parser


def _add(verbs: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run)
    return parser


def _init(options: argparse.Namespace) -> None:
    if options.password is None:
        options.password = _password(f"Password of {options.username}: ")
    PicasConfig(options.config_path, load=False).save_config(options)
    tell(f"The settings are in {options.config_path}")


def _passwd(options: argparse.Namespace) -> None:
    settings = PicasConfig(options.config_path)
    if options.new_password is None:
        options.new_password = _password(f"New password of {settings.config['username']}: ")
    settings.change_password(options)
    tell(f"The password is changed on the server and in {options.config_path}")


def _password(question: str) -> str:
    password = ask_secret(question)
    if not password:
        raise PicasError("no password was given: type it at a terminal, or send it to standard input as one line")
    return password


def _dump(options: argparse.Namespace) -> None:
    settings = PicasConfig(options.config_path).config
    crypto.decrypted_text(settings["encrypted_password"])  # a file that can't work is not worth printing
    text = _PICASCONFIG.format(path=options.config_path, **settings)
    if options.output is None:
        print(visible(text), end="")
        return
    path = Path(options.output).expanduser()
    write_private(path, text)
    tell(f"The settings are read by {path}")
