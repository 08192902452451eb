"""Results that could not be saved, kept in files beside the pilot so that none is ever dropped."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from .documents import Document
from .modifiers import claim_of
from .util import seconds

FOLDER_VARIABLE = "PICAS_SPOOL"
FOLDER = "picas-spool"
"""Where results are kept, below the working directory, unless the environment names another folder."""


def default_folder() -> Path:
    """Return the folder in which results are kept."""
    return Path(os.environ.get(FOLDER_VARIABLE) or FOLDER).absolute()


def keep(token: Document, claimed: dict[str, Any], reason: str, folder: Path | None = None) -> Path:
    """Write a token with all that was to be saved, its attachments included, to a file of its own.

    The file is readable by its owner only. It is a JSON object: `reason`, `time` (seconds since the epoch), `claimed`
    (the token as it was when it was locked) and `token`.

    :param token: the token as it was to be saved
    :param claimed: its content when it was locked
    :param reason: why it could not be saved
    :param folder: where to keep it; the default folder if left out. If nothing can be written there, the file goes to
        a new folder for temporary files.
    :returns: the file
    :raises OSError: if the file can't be written
    """
    content = {"reason": reason, "time": seconds(), "claimed": claimed, "token": token.value}
    try:
        return _write(folder or default_folder(), content)
    except OSError:
        return _write(Path(tempfile.mkdtemp(prefix=f"{FOLDER}-")), content)


def _write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    token, claimed = content["token"], content["claimed"]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", str(token.get("_id", "token")))[:100]
    claim = claim_of(claimed).get("id") or f"{claimed.get('lock', 0)}"
    path = folder / f"{name}-{claim}.json"
    partial = path.with_suffix(f".{os.getpid()}.part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, default=repr, skipkeys=True)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path
