"""The settings as picas 1.1 had them: `~/.config/picas/conf.yml`, with the password encrypted.

For scripts of that release. New ones use `picas.connect()`, which also finds this file. Unlike in picas 1.1, nothing is
printed, and no password is shown. The extra `picas[legacy]` installs what it needs.
"""

from __future__ import annotations

import getpass
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from couchdb.http import HTTPError

from . import console, crypto
from .clients import CouchDB
from .crypto import decrypt_password, encrypt_password, generate_and_save_key
from .exceptions import PicasError
from .picaslogger import get_logger

__all__ = [
    "PICAS_CONFIG_SCHEMA",
    "PicasConfig",
    "PicasConfigSchemaError",
    "decrypt_password",
    "encrypt_password",
    "generate_and_save_key",
]

log = get_logger(__name__)

_PROPERTIES = {
    "host_url": "the address of the CouchDB server",
    "database": "the name of the database",
    "username": "the name of the user",
    "encrypted_password": "the password, as picas.crypto.encrypt_password returns it",
}
PICAS_CONFIG_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "string", "description": text} for name, text in _PROPERTIES.items()},
    "required": list(_PROPERTIES),
    "additionalProperties": False,
}
"""The JSON Schema of the settings."""


class PicasConfigSchemaError(PicasError):
    """The settings are incomplete or invalid.

    :param message: one line about that
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class PicasConfig:
    """The settings in a file of picas 1.1.

    :param config_path: the file, by default `~/.config/picas/conf.yml`
    :param load: whether it is read now
    :raises FileNotFoundError, PicasConfigSchemaError: see `load_config`
    """

    def __init__(self, config_path: str | None = None, load: bool = True) -> None:
        self.config_path = config_path or crypto.SETTINGS_FILE
        self.config: dict[str, Any] = {}
        """The settings: `host_url`, `database`, `username`, `encrypted_password`."""
        if load:
            self.load_config()

    def __str__(self) -> str:
        if not self.config:
            return "PicasConfig: No configuration loaded"
        shown = dict(self.config)
        if "encrypted_password" in shown:
            shown["encrypted_password"] = "'***masked***'"
        return "PicasConfig:\n" + "".join(f"{name}: {shown[name]}\n" for name in sorted(shown))

    def validate_config(self, config: dict[str, Any] | None = None) -> None:
        """Check that settings are complete and valid.

        :param config: the settings, by default those of this object
        :raises PicasConfigSchemaError: if they are not
        """
        problem = _problem(config or self.config)
        if problem:
            raise PicasConfigSchemaError(f"configuration validation failed: {problem}")

    def load_config(self) -> None:
        """Read the file.

        :raises FileNotFoundError: if it does not exist
        :raises PicasConfigSchemaError: if the settings in it are incomplete or invalid
        :raises PicasError: if it is no YAML, or PyYAML is not installed
        """
        path = Path(self.config_path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"configuration file not found: {self.config_path}")
        self.config = crypto.read_settings(path)
        self.validate_config()
        log.info("The settings are read from %s", path)

    def save_config(self, args: Namespace) -> None:
        """Write settings to the file. A key is made unless there is one, and the password is encrypted with it.

        :param args: has `host_url`, `database`, `username` and `password`; if the password is None, it is asked for
        :raises PicasConfigSchemaError: if one of them is missing
        :raises MissingPackage: if PyYAML or cryptography is not installed
        :raises OSError: if a file can't be written
        """
        generate_and_save_key()
        password = args.password
        if password is None:
            password = getpass.getpass(f"Password of {args.username} for the database {args.database}: ")
        self.write_config(
            {
                **self.config,
                "host_url": args.host_url,
                "database": args.database,
                "username": args.username,
                "encrypted_password": encrypt_password(_as_bytes(password)).decode("ascii"),
            }
        )

    def write_config(self, config: dict[str, Any]) -> None:
        """Write settings to the file, and keep them in this object.

        :param config: the settings
        :raises PicasConfigSchemaError: if they are incomplete or invalid
        :raises MissingPackage: if PyYAML is not installed
        :raises OSError: if the file can't be written
        """
        self.config = config
        self.validate_config()
        path = Path(self.config_path).expanduser()
        crypto.write_settings(path, config)
        log.info("The settings are written to %s", path)

    def change_couchdb_password(
        self, uri: str, username: str, old_password: bytes | str, new_password: bytes | str
    ) -> None:
        """Change the password of a user on the server.

        :param uri: the address of the server
        :param username: the name of the user, who is a member of the database in the settings
        :param old_password: the present password
        :param new_password: the new password
        :raises ValueError: if that is not possible; the text is one line that says why
        """
        try:
            client = CouchDB(
                uri, str(self.config.get("database", "_users")), username, _as_bytes(old_password).decode("utf-8")
            )
            client.change_password(_as_bytes(new_password).decode("utf-8"))
        except (PicasError, HTTPError) as error:
            raise ValueError(f"the password was not changed on the server: {console.describe(error)}") from None

    def change_password(self, args: Namespace) -> None:
        """Change the password on the server and in the file.

        :param args: has `new_password`; if that is None, it is asked for
        :raises ValueError: if the file has no password, or if the server does not change it
        :raises MissingPackage: if PyYAML or cryptography is not installed
        :raises OSError: if the key can't be read, or the file can't be written
        """
        if "encrypted_password" not in self.config:
            raise ValueError("No encrypted password found in the configuration.")
        password = args.new_password
        if password is None:
            password = getpass.getpass(f"New password of {self.config['username']}: ")
        encrypted = encrypt_password(_as_bytes(password)).decode("ascii")
        self.change_couchdb_password(
            uri=self.config["host_url"],
            username=self.config["username"],
            old_password=crypto.decrypted_text(self.config["encrypted_password"]),
            new_password=password,
        )
        self.write_config({**self.config, "encrypted_password": encrypted})


def _problem(config: object) -> str:
    """Return what is wrong with settings, "" if nothing is."""
    if not isinstance(config, Mapping):
        return "it is not a list of names and values"
    for name in _PROPERTIES:
        if name not in config:
            return f"{name!r} is a required property"
        if not isinstance(config[name], str):
            return f"{name!r} is not a string"
    unknown = sorted(map(str, config.keys() - _PROPERTIES.keys()))
    return f"{unknown[0]!r} is not a known property" if unknown else ""


def _as_bytes(password: bytes | str) -> bytes:
    return password.encode("utf-8") if isinstance(password, str) else password
