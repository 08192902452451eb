"""Recovering results: bringing those into the database that pilots had to spool to files.

No file is moved or locked for that. Everything here may be done twice: by two pilots at once, or after a pilot that
died in the middle. The revision check lets a result be saved once, and only if the token still has the lock of its
attempt. A result that is in the database already is known by its attempt. A file is deleted only when its result is in
the database. A token that belongs to another pilot or a person by now is left as it is. A result that the server
refuses is moved to a folder that pilots don't look into; a person can name that folder to try it again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceConflict, ResourceNotFound

from ..clients import CouchDB
from ..couch import explain, is_absent, merge
from ..couch.outages import wait_out
from ..documents import Document
from ..modifiers import ERROR_MARK, claim_of, is_free, is_same_lock
from ..picaslogger import get_logger
from ..util import list_in, never, one_line
from . import spool
from .refusals import Refusals
from .results import LEFT_OUT, REFUSAL, ClaimedToken, reason_of, refused_line

log = get_logger(__name__)

TRIES = 3
"""How often a token is read that others change at the same time."""
SECOND_TRY = 1.0
"""Seconds after which a result is sent once more that may have met the end of an outage, see `Refusals`."""


@dataclass
class Recovered:
    """What became of the results in a folder."""

    saved: list[str] = field(default_factory=list)
    """The ids of the tokens whose results are in the database now."""
    kept_aside: list[Path] = field(default_factory=list)
    """The files, in their new place, with results whose tokens belong to somebody else by now."""
    refused: list[Path] = field(default_factory=list)
    """The files, in their new place, with results that the server refuses, in whole or in part."""
    unreadable: list[Path] = field(default_factory=list)
    """The files that hold no result, or that belong to another user."""
    left: list[Path] = field(default_factory=list)
    """The files to try again later."""

    @property
    def is_complete(self) -> bool:
        """Whether all results are in the database."""
        return not (self.kept_aside or self.refused or self.unreadable or self.left)


class _NotOurs(Exception):
    """The token belongs to somebody else by now; the text says why.

    :param was_ours: whether the token in the database shows that it is the one that the result is for
    """

    def __init__(self, reason: str, was_ours: bool = False) -> None:
        super().__init__(reason)
        self.was_ours = was_ours


class _Refused(Exception):
    """The server refuses the result.

    :param refusal: what the server has said
    :param left_out: the parts without which it was saved; none if it was not
    """

    def __init__(self, refusal: HTTPError, left_out: list[str]) -> None:
        super().__init__(refusal)
        self.refusal = refusal
        self.left_out = left_out


def _warn(line: str) -> None:
    log.warning("%s", line)


def recover(
    client: CouchDB,
    folder: Path | None = None,
    *,
    tell: Callable[[str], None] = _warn,
    is_stopped: Callable[[], bool] = never,
) -> Recovered:
    """Save the results that are spooled in a folder, each if its token still has the same lock.

    Other changes to a token since then stay, as they do when a pilot saves a result. If a token belongs to somebody
    else by now, its file is moved to the folder `not-ours` beside it. If the server refuses a result, in whole or in
    part, its file is moved to the folder `refused`; to try it again, recover that folder. Files that are not results,
    and files for another database or perhaps another server stay where they are.

    :param client: the pool
    :param folder: the folder, by default the default folder. It need not exist.
    :param tell: gets a line for each file that was not recovered; by default the line is logged
    :param is_stopped: ends the recovery after the current file when it returns true
    :raises OSError: if the folder can't be read
    :raises PicasError, couchdb.http.HTTPError: if the database is away, or refuses everything; call this again then
    """
    return _recover(client, spool.files(folder or spool.default_folder()), tell, is_stopped)


def recover_quietly(
    client: CouchDB,
    folder: Path | None = None,
    *,
    is_stopped: Callable[[], bool] = never,
    left: set[Path] | None = None,
) -> Recovered:
    """Do what `recover` does, for a pilot: if the folder can't be read, that is only logged.

    :param left: files that are not tried again; gets those that stay where they are
    :raises PicasError, couchdb.http.HTTPError: if the database is away, or refuses everything; call this again then
    """
    try:
        folder = folder or spool.default_folder()
        files = spool.files(folder)
    except OSError as error:
        _warn(f"Results that may be in {folder or spool.FOLDER} were not recovered: {explain(error)}")
        return Recovered()
    left = set() if left is None else left
    files = [path for path in files if path not in left]
    random.shuffle(files)  # pilots that start together should not save the same results in step
    recovered = _recover(client, files, _warn, is_stopped)
    left.update(recovered.left, recovered.unreadable)
    return recovered


def _recover(
    client: CouchDB, files: list[Path], tell: Callable[[str], None], is_stopped: Callable[[], bool]
) -> Recovered:
    recovered = Recovered()
    lines = []
    for path in files:
        if is_stopped():
            break
        try:
            kept = spool.read(path)
        except FileNotFoundError:
            continue  # another pilot has just recovered it
        except (OSError, ValueError) as error:
            recovered.unreadable.append(path)
            lines.append(f"{path} was not recovered: {explain(error)}")
        else:
            _bring_in(client, kept, recovered, tell)
    for line in lines:  # at the end, so that they are told once, even if this is repeated during an outage
        tell(one_line(line))
    return recovered


def _bring_in(client: CouchDB, kept: spool.Kept, recovered: Recovered, tell: Callable[[str], None]) -> None:
    """Save one result, and delete or move its file."""
    path = kept.path
    line = f"The result of token {kept.id} was not recovered"
    if kept.database not in (None, client.database_name):
        recovered.left.append(path)
        tell(one_line(f"{line}: it belongs to the database {kept.database} on {kept.server}. It is kept in {path}"))
        return
    try:
        try:
            _save(client, kept)
        except _NotOurs as reason:
            line = f"{line}: {reason}"
            if kept.server not in (None, client.url) and not reason.was_ours:
                # Another server can have a database with the same name, and tokens with the same ids.
                recovered.left.append(path)
                tell(one_line(f"{line}, or it is the one on {kept.server}. It is kept in {path}"))
                return
            aside = spool.put_aside(path)
            recovered.kept_aside.append(aside)
            tell(one_line(f"{line}. It is kept in {aside}"))
            return
        except _Refused as refused:
            aside = spool.put_refused(path, reason_of(refused.refusal), refused.left_out)
            recovered.refused.append(aside)
            tell(one_line(f"{_describe(kept, refused)}. All of it is kept in {aside}"))
            return
        line = f"The result of token {kept.id} is saved, but its file stays"
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # another pilot has moved it
    except Exception as error:  # whatever it is, the other results must not wait for this one
        client.doc_count()  # raises an error if the database is away: then everything stays as it is
        log.debug("Not recovered: %s", path, exc_info=True)
        recovered.left.append(path)
        tell(one_line(f"{line}: {reason_of(error)}. It is kept in {path}"))
        return
    recovered.saved.append(kept.id)
    log.info("The result of token %s was recovered from %s", kept.id, path)


def _describe(kept: spool.Kept, refused: _Refused) -> str:
    if kept.left_out:
        return f"The rest of the result of token {kept.id} was not recovered: {reason_of(refused.refusal)}"
    return refused_line(kept.id, refused.refusal, refused.left_out)


def _save(client: CouchDB, kept: spool.Kept) -> None:
    """Save a result, unless it is in the database already.

    :raises _NotOurs: if the token belongs to somebody else by now
    :raises _Refused: if the server refuses it; what the server accepts of it is saved
    :raises ResourceConflict: if others have changed the token each time
    :raises PicasError, couchdb.http.HTTPError: if the database is away
    """
    result = {"_rev": kept.claimed["_rev"], **kept.token}  # without a revision this would create a deleted token again
    for _ in range(TRIES):
        stored = _find(client, kept.id)
        lacks_parts = bool(kept.left_out) or any(_begins(error, LEFT_OUT) for error in list_in(stored, "error"))
        newer = (
            _before_refusal(stored, kept.claimed)
            or _before_loss(stored, kept.claimed, result)
            or (_before_leaving_out(stored, result) if lacks_parts else None)
        )
        if newer is not None:
            held = ClaimedToken(Document(merge(kept.claimed, result, newer)), newer)
        elif _is_in(stored, result) and not lacks_parts:
            return
        elif is_same_lock(stored, kept.claimed):
            held = ClaimedToken(Document(dict(result)), kept.claimed)
        else:
            claim = claim_of(kept.claimed).get("id")
            claims = [attempt.get("claim") for attempt in list_in(stored, "attempts") if isinstance(attempt, dict)]
            raise _NotOurs("another pilot or a person has taken the token", was_ours=claim in claims)
        held.make_storable()
        try:
            _save_accepted(client, kept, held, is_released=newer is not None)
        except ResourceConflict:
            continue  # another pilot may have recovered it meanwhile
        return
    raise ResourceConflict(("conflict", "the token was changed again and again"))


def _save_accepted(client: CouchDB, kept: spool.Kept, held: ClaimedToken, is_released: bool) -> None:
    """Save what the server accepts of a result.

    :param is_released: whether the token is locked no longer, so that it is not marked if all of the result is refused
    :raises _Refused: if that is not all
    """
    refusals = Refusals(client)
    try:
        wait_out(lambda: held.save_merged(client), SECOND_TRY, never, refusals.may_pass)
    except HTTPError as error:
        if not refusals.is_final(error):
            raise
        folder = spool.folder_aside(spool.REFUSED, kept.path)
        left_out = kept.left_out or held.save_rest(client, error, folder)
        if not (left_out or is_released):
            held.note_refusal(client, error, folder)
        raise _Refused(error, left_out) from error


def _find(client: CouchDB, id: str) -> dict[str, Any]:
    """Return the token as it is in the database.

    :raises _NotOurs: if it was deleted
    """
    try:
        stored = dict(client[id])
    except ResourceNotFound as error:
        if not is_absent(error):  # the database may be missing
            raise
        raise _NotOurs("the token was deleted") from None
    return stored


def _is_in(stored: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Return whether a stored token has had this result, even if its state has changed since."""
    attempts = list_in(result, "attempts")
    return bool(attempts) and attempts[-1] in list_in(stored, "attempts")


def _before_refusal(stored: Mapping[str, Any], claimed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a stored token without the pilot's note that the server refused its result.

    :returns: None if there is no such note, or if somebody has changed the token's state since
    """
    attempts, errors = list_in(stored, "attempts"), list_in(stored, "error")
    others = [error for error in errors if not _begins(error, REFUSAL)]
    is_marked = stored.get("lock") == stored.get("done") == ERROR_MARK and not claim_of(stored)
    if not (is_marked and len(others) < len(errors) and _last_outcome(stored, claimed)):
        return None
    return {**_as_claimed(stored, claimed), "error": others, "attempts": attempts[:-1]}


def _before_loss(
    stored: Mapping[str, Any], claimed: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return a stored token as it was before it was put back because its pilot seemed to be dead.

    :returns: None if it was not put back for that reason, if it was locked since, or if the work was not completed
    """
    is_whole = _last_outcome(result, claimed) not in ("", "lost", "taken away", "stopped")
    if not (is_whole and is_free(stored) and _last_outcome(stored, claimed) == "lost"):
        return None
    undone = {**_as_claimed(stored, claimed), "attempts": list_in(stored, "attempts")[:-1]}
    undone.pop("lost_count", None)
    return undone if "lost_count" not in claimed else {**undone, "lost_count": claimed["lost_count"]}


def _before_leaving_out(stored: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a stored token, which lacks parts of a result, without the note about that.

    :returns: None if somebody has changed the token's state since
    """
    is_last = _is_in(stored, result) and list_in(stored, "attempts")[-1] == list_in(result, "attempts")[-1]
    if not is_last or any(stored.get(name) != result.get(name) for name in ("lock", "done")):
        return None
    return {**stored, "error": [error for error in list_in(stored, "error") if not _begins(error, LEFT_OUT)]}


def _last_outcome(token: Mapping[str, Any], claimed: Mapping[str, Any]) -> str:
    """Return the outcome of a token's last attempt if that belongs to a claim, else ''."""
    attempts, claim = list_in(token, "attempts"), claim_of(claimed).get("id")
    is_last = bool(claim and attempts) and isinstance(attempts[-1], dict) and attempts[-1].get("claim") == claim
    return str(attempts[-1].get("outcome")) if is_last else ""


def _as_claimed(stored: Mapping[str, Any], claimed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored token in the state in which it was claimed."""
    state = ("lock", "done", "exit_code", "claim", "hostname")
    undone = {name: value for name, value in stored.items() if name not in state}
    return {**undone, **{name: claimed[name] for name in state if name in claimed}}


def _begins(error: Any, words: str) -> bool:
    """Return whether the message of an error in a token begins with these words."""
    return isinstance(error, dict) and str(error.get("message")).startswith(words)
