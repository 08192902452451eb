"""The settings of picas 1.1, with an encrypted password, for its scripts and for people who come from that release.

The key is in a file beside the encrypted password, so this keeps the password from being read by accident only. The
extra `picas[legacy]` installs what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .exceptions import PicasError
from .picaslogger import get_logger
from .util import import_extra, write_private

log = get_logger(__name__)

CRYPTO_KEY_PATH = os.path.expanduser("~/.config/picas/key.dat")  # noqa: PTH111  # scripts use it as a text
"""The file with the key."""
SETTINGS_FILE = "~/.config/picas/conf.yml"
"""The file with the settings: `host_url`, `database`, `username`, `encrypted_password`."""


def generate_and_save_key(key_path: str = CRYPTO_KEY_PATH, skip_if_exists: bool = True) -> None:
    """Make a new key and write it to a file that only this user can read.

    :param key_path: the file; a missing folder is created
    :param skip_if_exists: whether a key that exists stays. If not, the user is asked at the terminal whether the new
        one may replace it, since it is lost then, with all that it has encrypted
    :raises MissingPackage: if the package cryptography is not installed
    :raises OSError: if the file can't be written
    """
    exists = Path(key_path).exists()
    if exists and skip_if_exists:
        log.info("The key in %s exists already", key_path)
        return
    key: bytes = _fernet().generate_key()
    if exists and input(f"Replace the key in {key_path} (y/N)? ").strip().lower() != "y":
        log.info("The key in %s stays", key_path)
        return
    write_private(key_path, key.decode("ascii"))


def read_key() -> bytes:
    """Return the key in `CRYPTO_KEY_PATH`.

    :raises OSError: if it can't be read
    """
    return Path(CRYPTO_KEY_PATH).read_bytes()


def encrypt_password(password: bytes, key: bytes | str | None = None) -> bytes:
    """Return a password encrypted.

    :param password: the password, in UTF-8
    :param key: the key, by default the one in `CRYPTO_KEY_PATH`
    :raises MissingPackage: if the package cryptography is not installed
    :raises OSError: if the key can't be read
    """
    encrypted: bytes = _fernet()(read_key() if key is None else key).encrypt(password)
    return encrypted


def decrypt_password(encrypted: bytes | str, key: bytes | str | None = None) -> bytes:
    """Return a password that `encrypt_password` has encrypted, in UTF-8.

    :param encrypted: what that returned, also as a text
    :param key: the key, by default the one in `CRYPTO_KEY_PATH`
    :raises MissingPackage: if the package cryptography is not installed
    :raises OSError: if the key can't be read
    :raises cryptography.fernet.InvalidToken: if it was encrypted with another key, or was changed
    """
    password: bytes = _fernet()(read_key() if key is None else key).decrypt(encrypted)
    return password


def decrypted_text(encrypted: object) -> str:
    """Return a password that settings of picas 1.1 have, as text.

    :raises MissingPackage: if the package cryptography is not installed
    :raises OSError: if the key can't be read
    :raises PicasError: if the key is not the one that it was encrypted with
    """
    wrong_key = import_extra("cryptography.fernet", "cryptography", "legacy").InvalidToken
    try:
        return decrypt_password(str(encrypted)).decode("utf-8")
    except (wrong_key, ValueError):
        raise PicasError(f"the key in {CRYPTO_KEY_PATH} does not decrypt the password: run picas init") from None


def read_settings(path: Path) -> Any:
    """Return the content of a file with settings of picas 1.1.

    :raises MissingPackage: if PyYAML is not installed
    :raises OSError: if it can't be read
    :raises PicasError: if it is no YAML
    """
    yaml = _yaml()
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PicasError(f"{path} is not valid YAML ({type(error).__name__})") from None


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write a file with settings as picas 1.1 did; only this user can read it.

    :raises MissingPackage: if PyYAML is not installed
    :raises OSError: if it can't be written
    """
    write_private(path, _yaml().safe_dump(dict(settings), default_flow_style=False))


def write_password(password: str) -> None:
    """Write another password to `SETTINGS_FILE`, encrypted.

    :raises OSError: if the file or the key can't be read, or the file can't be written
    """
    path = Path(SETTINGS_FILE).expanduser()
    encrypted = encrypt_password(password.encode("utf-8")).decode("ascii")
    write_settings(path, {**read_settings(path), "encrypted_password": encrypted})


def _yaml() -> Any:
    return import_extra("yaml", "PyYAML", "legacy")


def _fernet() -> Any:
    return import_extra("cryptography.fernet", "cryptography", "legacy").Fernet
