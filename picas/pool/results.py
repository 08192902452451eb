"""Save what became of a token so that it is never lost and never overwrites another pilot's."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any, Callable

from couchdb.http import HTTPError, ResourceConflict, ResourceNotFound

from ..clients import CouchDB
from ..couch.connections import explain
from ..couch.outages import MAX_OUTAGE, is_outage, wait_out
from ..couch.writes import find_landed, merge
from ..documents import Document, make_storable
from ..exceptions import PicasError
from ..modifiers import end_attempt, is_same_lock, note_error, set_error
from ..util import one_line
from . import spool

log = logging.getLogger(__name__)

MERGES = 5
"""How often a result is merged into a newer revision before it is kept aside."""
REFUSAL = "the result could not be saved"
"""How the error begins that a token has whose result the server did not take."""


class ClaimedToken:
    """A token that this pilot holds, with its content at the time of the lock.

    :param token: the token, just locked
    :param claimed: its content at that time, if it has changed since
    """

    def __init__(self, token: Document, claimed: dict[str, Any] | None = None) -> None:
        self.token = token
        self.claimed = {name: _copy(value) for name, value in token.items()} if claimed is None else claimed
        self.is_saved = False
        """Whether what became of it is in the database."""
        self.is_others = False
        """Whether it turned out to be another pilot's by now, or nobody's, when it was to be saved."""

    @property
    def id(self) -> str:
        """The token's `_id` when it was locked."""
        return str(self.claimed["_id"])

    def save(
        self,
        client: CouchDB,
        *,
        max_outage: float = MAX_OUTAGE,
        spool_folder: Path | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        is_result: bool = True,
        to_keep: Callable[[], Document] | None = None,
    ) -> bool:
        """Save the token and return whether that worked; it never raises for the token's sake.

        If the token was edited meanwhile and the lock is still ours, our changes are laid over the newer revision. If
        the lock is not ours any more, if the server refuses the document, or if the database stays away, the result
        goes to a file.

        :param client: the pool
        :param max_outage: seconds to wait for the database
        :param spool_folder: where that file goes
        :param is_stopped: true ends the waiting
        :param is_result: whether there is a result to lose; if not, there is no file either
        :param to_keep: returns the token as it goes into that file, by default as it was to be saved
        """
        try:
            self.make_storable()
            wait_out(lambda: self.save_merged(client), max_outage, is_stopped)
        except Exception as error:  # whatever it is, the result must not go with it
            self.is_others = isinstance(error, ResourceConflict)
            if not is_result:
                log.warning("Token %s was not saved: %s", self.id, reason_of(error))
                return False
            self._keep(client, reason_of(error), spool_folder, self.token if to_keep is None else to_keep())
            if not is_outage(error) and not isinstance(error, ResourceConflict):
                self._note_refusal(client, error)
            return False
        self.is_saved = True
        return True

    def make_storable(self) -> None:
        """Make the token into something that the database can take, whatever the user's code has put into it."""
        self.token["_id"] = self.id  # whatever the user's code made of it
        for name in make_storable(self.token):
            note_error(self.token, f"the field {name} could not be stored as it is: its description stands in it now")

    def save_merged(self, client: CouchDB) -> None:
        """Save the token, merging it into newer revisions a bounded number of times.

        :param client: the pool
        :raises ResourceConflict: if the lock is not ours any more, or if others have changed the token each time
        :raises PicasError, couchdb.http.HTTPError: if the database is away, or refuses the token
        """
        for _ in range(MERGES):
            try:
                client.save(self.token)
                return
            except ResourceConflict:
                # An earlier try whose answer was lost, and could not be looked up then, may have landed after all.
                rev = find_landed(client.db, self.token.value)
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
        except ValueError:
            raise ResourceConflict(("conflict", "the token was deleted")) from None
        if not is_same_lock(newer, self.claimed):
            raise ResourceConflict(("conflict", "another pilot or a person has taken the token"))
        return newer

    def _keep(self, client: CouchDB, reason: str, folder: Path | None, token: Document) -> None:
        try:
            # A stand-in of a script's own may have neither; the result is kept all the same.
            database, server = getattr(getattr(client, "db", None), "name", None), getattr(client, "url", None)
            path = spool.keep(token, self.claimed, reason, folder, database=database, server=server)
        except Exception as error:  # it must not end the pilot as well
            log.critical("LOST: the result of token %s: %s; no file: %s", self.id, reason, explain(error))
        else:
            log.error("The result of token %s was not saved (%s). It is kept in %s", self.id, reason, path)

    def _note_refusal(self, client: CouchDB, refusal: BaseException) -> None:
        """Say on the token that the server did not take its result."""
        try:
            stored = Document(self._read_if_ours(client))
            set_error(stored, f"{REFUSAL}: {reason_of(refusal)}")
            client.save(end_attempt(stored, "failed"))
        except (PicasError, HTTPError) as error:
            log.warning("Token %s stays locked: %s", self.id, reason_of(error))


def _copy(value: Any) -> Any:
    """Return a copy of a field's value that shares nothing with it."""
    return copy.deepcopy(value) if isinstance(value, (dict, list)) else value


def reason_of(error: BaseException) -> str:
    """Return what the server or the network said, in one line."""
    if isinstance(error, (ResourceConflict, ResourceNotFound)) and error.args and isinstance(error.args[0], tuple):
        return str(error.args[0][1])
    return one_line(error.args if isinstance(error, HTTPError) else explain(error))
