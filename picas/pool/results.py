"""Save the result of a token so that it is never lost and never overwrites another pilot's."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceConflict, ResourceNotFound

from ..clients import CouchDB
from ..couch.connections import explain
from ..couch.outages import MAX_OUTAGE, is_outage, wait_out
from ..couch.writes import merge
from ..documents import Document
from ..exceptions import NoSuchDocument, PicasError, Unreachable
from ..modifiers import end_attempt, is_same_lock, note_error, set_error
from ..picaslogger import get_logger
from ..tokens.measures import Measures
from ..tokens.storable import list_names, make_storable
from ..util import list_in, never, one_line
from . import spool
from .refusals import Refusals, is_refusal, leave_out_more

log = get_logger(__name__)

MERGES = 5
"""How often a result is merged into a newer revision before it is spooled."""
REFUSAL = "the result could not be saved"
"""The first words of the error in a token whose result the server refused."""
LEFT_OUT = "the result was saved without what the server refused"
"""The first words of the error in a token of whose result the server refused a part."""


class Stage(enum.Enum):
    """How far an attempt at a token has come."""

    WORKING = "working"
    """The token is locked, and the user's code has not returned."""
    RETURNED = "returned"
    """The user's code has returned by itself."""
    LOST = "lost"
    """Another pilot, or a person, has taken the token meanwhile."""
    CANCELLED = "cancelled"
    """A person has cancelled the token, whose work has not ended yet."""
    CONCLUDED = "concluded"
    """The token is in its final state and has yet to be saved."""
    SAVED = "saved"
    """The final state is in the database."""
    TAKEN = "taken"
    """It could not be saved: the token belongs to another pilot by now, or to nobody."""
    UNSAVED = "unsaved"
    """It could not be saved for another reason."""


_NEXT: dict[Stage, set[Stage]] = {
    Stage.WORKING: {Stage.RETURNED, Stage.LOST, Stage.CANCELLED, Stage.CONCLUDED},
    Stage.RETURNED: {Stage.LOST, Stage.CONCLUDED},
    Stage.LOST: {Stage.CONCLUDED},
    Stage.CANCELLED: {Stage.LOST, Stage.CONCLUDED},
    Stage.CONCLUDED: {Stage.SAVED, Stage.TAKEN, Stage.UNSAVED},
    Stage.SAVED: set(),
    Stage.TAKEN: set(),
    Stage.UNSAVED: {Stage.SAVED, Stage.TAKEN},
}


class ClaimedToken:
    """A token that this pilot holds, and its content when it was locked.

    :param token: the token, just locked
    :param claimed: its content when it was locked, if it has changed since
    :param stage: how far the attempt at it has come
    """

    def __init__(self, token: Document, claimed: dict[str, Any] | None = None, stage: Stage = Stage.CONCLUDED) -> None:
        self.token = token
        self.claimed = _copy_fields(token.value) if claimed is None else claimed
        self.stage = stage
        self.met_outage = False
        """Whether it could not be saved because the database stayed away."""
        self.loss = ""
        """What became of the token, if somebody else has taken it or changed its state: its result is not saved."""
        self.replaced: list[str] = []
        """What could not be stored as it was: paths like "output.a[0]", and the parts that the server has refused."""

    @property
    def id(self) -> str:
        """The token's `_id` when it was locked."""
        return str(self.claimed["_id"])

    @property
    def is_saved(self) -> bool:
        """Whether its final state is in the database."""
        return self.stage is Stage.SAVED

    def advance(self, stage: Stage) -> bool:
        """Enter a later stage if that may follow the present one, and return whether it may.

        The threads that call this take no lock: each stage is a single assignment, and if two threads meet here, the
        save of the token finds out whose it is.
        """
        if stage not in _NEXT[self.stage]:
            return False
        self.stage = stage
        return True

    def save(
        self,
        client: CouchDB,
        *,
        max_outage: float = MAX_OUTAGE,
        spool_folder: Path | None = None,
        is_stopped: Callable[[], bool] = never,
        is_result: bool = True,
        as_spooled: Callable[[Document], Document] | None = None,
        is_away: bool = False,
    ) -> bool:
        """Save the token and return whether that worked; never raises because of the token.

        If the token was edited meanwhile and the lock is still ours, our changes are merged into the newer revision. If
        the lock is no longer ours, or if the database stays away, the result is spooled to a file. If the server
        refuses the result for good, it is saved without the parts that are to blame. If that is refused as well, the
        token is marked as failed. In both cases all of the result is kept in a file, see `spool.REFUSED`.

        :param client: the pool
        :param max_outage: seconds to wait for the database
        :param spool_folder: the folder for that file
        :param is_stopped: true ends the wait
        :param is_result: whether the token holds a result; if not, nothing is spooled
        :param as_spooled: returns the token as it goes into that file, by default as it was to be saved
        :param is_away: whether the database is known to be away, so that this need not be found out once more
        :returns: also true if it was saved without some of its parts
        """
        refusals = Refusals(client)
        try:
            self.make_storable()
            if is_away:
                raise Unreachable("the database is away")
            wait_out(lambda: self.save_merged(client), max_outage, is_stopped, refusals.may_pass)
        except Exception as error:  # whatever it is, the result must not be lost with it
            if not is_result:
                self._give_up(error)
                log.warning("Token %s was not saved: %s", self.id, reason_of(error))
                return False
            token = self.token if as_spooled is None else as_spooled(self.token)
            path = self._spool(client, reason_of(error), spool_folder, token)
            if refusals.is_final(error):
                return self._save_refused(client, error, path)
            self._give_up(error)
            if path is not None:
                log.error(
                    "The result of token %s was not saved (%s). It is kept in %s", self.id, reason_of(error), path
                )
            if self.stage is Stage.UNSAVED and not self.met_outage:
                self.note_refusal(client, error, path and path.parent)
            return False
        self.advance(Stage.SAVED)
        return True

    def make_storable(self) -> None:
        """Turn the token into a document that the database accepts, whatever the user's code has put into it.

        What is lost by that is named in the token, in the log and in `replaced`.
        """
        self.token["_id"] = self.id  # the user's code may have changed it, and the revision too
        self.token.pop("_revisions", None)
        rev = self.token.get("_rev")
        if "_rev" in self.claimed and not (isinstance(rev, str) and re.fullmatch("[0-9]+-[0-9a-f]+", rev)):
            self.token["_rev"] = self.claimed["_rev"]
        faults = make_storable(self.token.value)
        if faults:
            self.replaced += faults
            text = "these can't be stored as they were, and were replaced, renamed or left out:"
            note_error(self.token, f"{text} {list_names(faults)}")
            log.warning("Token %s: %s %s", self.id, text, one_line(list_names(faults)))

    def save_merged(self, client: CouchDB) -> None:
        """Save the token, merging it into newer revisions a bounded number of times.

        :param client: the pool
        :raises ResourceConflict: if the lock is no longer ours, or if others have changed the token each time
        :raises PicasError, couchdb.http.HTTPError: if the database is away, or refuses the token
        """
        for _ in range(MERGES):
            try:
                client.save(self.token)
                return
            except ResourceConflict:
                # An earlier write whose answer was lost, and that could not be looked up then, may have landed.
                rev = CouchDB.find_landed(client, self.token)  # a script's own stand-in may not have it
                if rev is not None:
                    self.token["_rev"] = rev
                    return
                newer = self._read_if_ours(client)
                ours = self.token.value
                content = merge(self.claimed, ours, newer)
                self.claimed = newer
                ours.clear()
                ours.update(content)
        client.save(self.token)

    def _read_if_ours(self, client: CouchDB) -> dict[str, Any]:
        try:
            newer: dict[str, Any] = client.get(self.id).value
        except NoSuchDocument:
            raise ResourceConflict(("conflict", "the token was deleted")) from None
        if self.loss or not is_same_lock(newer, self.claimed):
            raise ResourceConflict(("conflict", "another pilot or a person has taken the token"))
        return newer

    def save_rest(self, client: CouchDB, refusal: BaseException, folder: Path | None) -> list[str]:
        """Save the token without the parts for which the server refuses it, the largest first.

        :param client: the pool
        :param refusal: what the server has said
        :param folder: the folder in which the complete result is kept, for the note in the token
        :returns: what was left out, with its size; nothing if the rest is refused too. Then nothing was saved.
        :raises ResourceConflict, PicasError, couchdb.http.HTTPError: see `save_merged`
        """
        content = dict(self.token.value)
        left_out: list[str] = []
        where = "" if folder is None else f"; all of it is kept in {folder}"
        while leave_out_more(content, self.claimed, refusal, left_out):
            text = f"{LEFT_OUT}: {list_names(left_out)} ({reason_of(refusal)}){where}"
            rest = ClaimedToken(Document(note_error(dict(content), text)), self.claimed)
            try:
                rest.save_merged(client)
            except HTTPError as error:
                if not is_refusal(client, error):
                    raise
                refusal = error
                continue
            self.claimed = rest.claimed
            self.replaced += left_out
            self.token.value.clear()
            self.token.value.update(rest.token.value)
            return left_out
        return []

    def note_refusal(self, client: CouchDB, refusal: BaseException, folder: Path | None) -> None:
        """Write into the token that the server refused its result. For the parameters see `save_rest`."""
        try:
            stored = Document(self._read_if_ours(client))
            where = "" if folder is None else f"; it is kept in {folder}"
            reason = f"{REFUSAL}: {reason_of(refusal)}{where}"
            measures = [Measures.of(attempt) for attempt in list_in(self.token, "attempts")[-1:]]
            client.save(end_attempt(set_error(stored, reason), "failed", reason, *measures))
        except (PicasError, HTTPError) as error:
            log.warning("Token %s stays locked: %s", self.id, reason_of(error))

    def _give_up(self, error: BaseException) -> None:
        self.met_outage = is_outage(error)
        self.advance(Stage.TAKEN if isinstance(error, ResourceConflict) else Stage.UNSAVED)

    def _spool(self, client: CouchDB, reason: str, folder: Path | None, token: Document) -> Path | None:
        try:
            # A script's own stand-in for the client may have neither; the result is kept all the same.
            database, server = getattr(client, "database_name", None), getattr(client, "url", None)
            return spool.keep(token, self.claimed, reason, folder, database=database, server=server)
        except Exception as error:  # this must not end the pilot as well
            log.critical("LOST: the result of token %s: %s; no file: %s", self.id, reason, explain(error))
            return None

    def _save_refused(self, client: CouchDB, refusal: BaseException, path: Path | None) -> bool:
        """Save what the server accepts of a result, and return whether it accepts any of it.

        :param path: the file in which the result was spooled
        """
        folder = path and spool.folder_aside(spool.REFUSED, path)
        try:
            left_out = self.save_rest(client, refusal, folder)
        except Exception as error:  # the database is away now, or somebody else has taken the token
            self._give_up(error)
            log.error("The result of token %s was not saved (%s). It is kept in %s", self.id, reason_of(error), path)
            return False
        if left_out:
            self.advance(Stage.SAVED)
        else:
            self.advance(Stage.UNSAVED)
            self.note_refusal(client, refusal, folder)
        try:
            path = path and spool.put_refused(path, reason_of(refusal), left_out)
        except OSError as error:
            log.warning("%s stays where it is: %s", path, explain(error))
        log.error("%s. All of it is kept in %s", refused_line(self.id, refusal, left_out), path)
        return bool(left_out)


def refused_line(id: str, refusal: BaseException, left_out: Sequence[str]) -> str:
    """Return what people are told about a result that the server refuses, or a part of it."""
    if left_out:
        return f"The result of token {id} was saved without {list_names(left_out)} ({reason_of(refusal)})"
    return f"The server refuses the result of token {id} ({reason_of(refusal)})"


def _copy_fields(content: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a token's content. What is nested too deeply to be copied, by an iterator of a script's own, is
    shared."""
    copied = {}
    for name, value in content.items():
        try:
            copied[name] = _copy(value)
        except RecursionError:
            copied[name] = value
    return copied


def _copy(value: Any) -> Any:
    """Return a copy of a JSON value that shares nothing with it, in a third of the time of `copy.deepcopy`."""
    if isinstance(value, dict):
        return {name: _copy(content) for name, content in value.items()}
    return [_copy(content) for content in value] if isinstance(value, list) else value


def reason_of(error: BaseException) -> str:
    """Return what the server or the network said, in one line."""
    if isinstance(error, (ResourceConflict, ResourceNotFound)) and error.args and isinstance(error.args[0], tuple):
        return str(error.args[0][1])
    return one_line(error.args if isinstance(error, HTTPError) else explain(error))
