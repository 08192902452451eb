"""Spooling: results that could not be saved are kept in files, so that none is ever lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..couch import doc_path
from ..documents import Document
from ..exceptions import SettingsError
from ..modifiers import claim_of
from ..tokens.storable import make_storable
from ..util import seconds

FOLDER_VARIABLE = "PICAS_SPOOL"
FOLDER = "picas-spool"
"""The default folder, in the working directory. The environment variable names another one."""
NOT_OURS = "not-ours"
"""The folder in the spool folder for results whose tokens belong to somebody else by now."""


@dataclass(frozen=True)
class Kept:
    """A result in a file."""

    path: Path
    """The file."""
    token: dict[str, Any]
    """The token as it was to be saved."""
    claimed: dict[str, Any]
    """Its content when it was locked."""
    database: str | None
    """The name of the database that it is for, None if an older release has written the file."""
    server: str | None
    """The address of the server that it is for."""

    @property
    def id(self) -> str:
        """The token's `_id`."""
        return str(self.claimed["_id"])


def default_folder() -> Path:
    """Return the folder in which results are kept by default."""
    return Path(os.environ.get(FOLDER_VARIABLE) or FOLDER).absolute()


def fixed_folder(folder: str | Path | None = None) -> Path:
    """Return the folder for results as an absolute path, so that it stays the same if code changes to another folder.

    :param folder: the path, by default the default folder
    :raises SettingsError: if there is a file at that path, or if it is relative and the working directory is gone
    """
    try:
        path = default_folder() if folder is None else Path(folder).absolute()
    except FileNotFoundError:
        raise SettingsError("the working directory was removed: change to another folder") from None
    if os.path.exists(path) and not path.is_dir():  # noqa: PTH110  # also if it can't be read
        raise SettingsError(f"{FOLDER_VARIABLE} must name a folder, for results that can't be saved; {path} is a file")
    return path


def keep(
    token: Document,
    claimed: dict[str, Any],
    reason: str,
    folder: Path | None = None,
    *,
    database: str | None = None,
    server: str | None = None,
) -> Path:
    """Write a token with everything that was to be saved, attachments included, to a file of its own.

    Only its owner can read the file, and a folder that is created for it. The file holds a JSON object: `reason`,
    `time` (seconds since the epoch), `database`, `server`, `claimed` (the token as it was when it was locked) and
    `token`.

    :param token: the token as it was to be saved
    :param claimed: its content when it was locked
    :param reason: why it could not be saved
    :param folder: the folder for the file, by default the default folder. If the file can't be written there, it goes
        to a new temporary folder.
    :param database: the name of the token's database
    :param server: the address of its server, without user and password
    :returns: the file
    :raises OSError: if the file can't be written
    """
    content = {
        "reason": reason,
        "time": seconds(),
        "database": database,
        "server": server,
        "claimed": claimed,
        "token": token.value,
    }
    try:
        return _write(folder or default_folder(), content)
    except OSError:
        return _write(Path(tempfile.mkdtemp(prefix=f"{FOLDER}-")), content)


def files(folder: Path) -> list[Path]:
    """Return the files with results in a folder, in the order of their names; none if there is no such folder.

    :raises OSError: if the folder can't be read
    """
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(".json"))
    except FileNotFoundError:
        return []


def has_files(folder: Path | None, known: Container[Path] = ()) -> bool:
    """Return whether there are files with results in a folder, by default the default folder, besides those known."""
    try:
        return any(path not in known for path in files(folder or default_folder()))
    except OSError:
        return False


def read(path: Path) -> Kept:
    """Return the result in a file.

    :raises FileNotFoundError: if the file is gone
    :raises ValueError: if the file holds no result, or belongs to another user; the text says which
    :raises OSError: if the file can't be read
    """
    try:
        content = json.loads(_read_own(path))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("it is not JSON, or only half of it") from None
    token, claimed = (content.get(name) if isinstance(content, dict) else None for name in ("token", "claimed"))
    if not (isinstance(token, dict) and isinstance(claimed, dict) and isinstance(claimed.get("_rev"), str)):
        raise ValueError("it holds no token")
    doc_path(claimed.get("_id"))  # type: ignore[arg-type]  # raises a ValueError if it is no id
    return Kept(path, token, claimed, content.get("database"), content.get("server"))


def put_aside(path: Path) -> Path:
    """Move a file to the folder for results whose tokens belong to somebody else by now, and return its new path.

    :raises FileNotFoundError: if the file is gone
    :raises OSError: if it can't be moved
    """
    if path.parent.name == NOT_OURS:
        return path
    folder = path.parent / NOT_OURS
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / path.name
    if target.exists():  # never replace another result
        target = folder / f"{path.stem}.{uuid4().hex}.json"
    return path.rename(target)


def _read_own(path: Path) -> bytes:
    """Return the content of a file of this user: on a shared disk, others may have put files there."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        )  # opening a pipe would wait for its writer
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is not a regular file") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_uid != os.geteuid():
            raise ValueError("it belongs to another user")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    token, claimed = content["token"], content["claimed"]
    text = _encode(content)
    # Without a claim, nothing else distinguishes this result from that of another attempt.
    claim = claim_of(claimed).get("id") or f"{claimed.get('lock', 0)}-{uuid4().hex}"
    path = folder / f"{_safe(token.get('_id', 'token'))}-{_safe(claim)}.json"
    partial = path.with_suffix(f".{os.getpid()}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    for written in (folder, folder.parent):  # so that the names survive if the machine goes down now
        _sync(written)
    return path


def _encode(content: dict[str, Any]) -> str:
    """Return any content as JSON, whatever it is: what JSON can't hold of it is replaced, see `make_storable`."""
    content = {**content, "claimed": dict(content["claimed"]), "token": dict(content["token"])}
    for part in (content["claimed"], content["token"]):
        make_storable(part)
    return json.dumps(content)


def _safe(name: object) -> str:
    """Return a part of a file's name that any file system accepts."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", str(name))[:100]


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can do that; the file itself is written
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
