"""Spooling: results that could not be saved are kept in files, so that none is ever lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..couch import doc_path
from ..documents import Document
from ..exceptions import SettingsError
from ..modifiers import claim_of
from ..tokens.storable import make_storable
from ..util import list_in, seconds

FOLDER_VARIABLE = "PICAS_SPOOL"
FOLDER = "picas-spool"
"""The default folder, in the working directory. The environment variable names another one."""
NOT_OURS = "not-ours"
"""The folder in the spool folder for results whose tokens belong to somebody else by now."""
REFUSED = "refused"
"""The folder in the spool folder for results that the server refuses, in whole or in part."""


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
    left_out: list[str]
    """The parts without which it is in the database already, since the server refused them."""

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
    `token`, and `left_out` once the server has refused it, see `put_refused`.

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
    return Kept(path, token, claimed, content.get("database"), content.get("server"), list_in(content, "left_out"))


def put_aside(path: Path) -> Path:
    """Move a file to the folder for results whose tokens belong to somebody else by now, and return its new path.

    :raises FileNotFoundError: if the file is gone
    :raises OSError: if it can't be moved
    """
    target = _place_in(NOT_OURS, path)
    return path if target == path else path.rename(target)


def put_refused(path: Path, reason: str, left_out: Sequence[str]) -> Path:
    """Move a file to the folder for results that the server refuses, note the reason in it, and return its new path.

    :param left_out: the parts without which the result is in the database
    :raises OSError: if it can't be moved, or is gone
    """
    content = {**json.loads(_read_own(path)), "reason": reason, "left_out": list(left_out)}
    target = _place_in(REFUSED, path)
    _write_text(target, json.dumps(content))
    if target != path:
        path.unlink(missing_ok=True)  # another pilot may do the same
    return target


def folder_aside(name: str, path: Path) -> Path:
    """Return one of the folders in the spool folder: the one for a file that is there, in another one, or beside it."""
    is_aside = path.parent.name in (NOT_OURS, REFUSED)
    return (path.parent.parent if is_aside else path.parent) / name


def _place_in(name: str, path: Path) -> Path:
    """Return where a file goes in one of the folders in the spool folder; it may be there already."""
    folder = folder_aside(name, path)
    if folder == path.parent:
        return path
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / path.name
    return folder / f"{path.stem}.{uuid4().hex}.json" if target.exists() else target  # never replace another result


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
    token, claimed = content["token"], content["claimed"]
    text = _encode(content)
    # Without a claim, nothing else distinguishes this result from that of another attempt.
    claim = claim_of(claimed).get("id") or f"{claimed.get('lock', 0)}-{uuid4().hex}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{_safe(token.get('_id', 'token'))}-{_safe(claim)}.json"
    _write_text(path, text)
    _sync(folder.parent)
    return path


def _write_text(path: Path, text: str) -> None:
    """Write a file, so that it is there as a whole or not at all, even if the machine goes down now."""
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
    _sync(path.parent)


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
