"""A pilot that waits for the server to index the views: that is no outage, however long it takes."""

from __future__ import annotations

from typing import Any, Callable

from couchdb.http import HTTPError, ResourceNotFound

from ..clients import CouchDB
from ..couch.writes import is_passing
from ..exceptions import PicasError
from ..picaslogger import get_logger
from ..pool.indexing import FEW, Indexing, wait_for_index

log = get_logger(__name__)

REMINDER = 60.0
"""Seconds after which the log says again that the pilot waits."""


class ViewIndex:
    """The index of the views that a pilot takes its tokens from.

    :param design_doc: the name of the design document
    """

    def __init__(self, design_doc: str) -> None:
        self._design_doc = design_doc
        self._is_ready = False  # as far as this pilot knows
        self._speaks_at = 0.0  # in seconds since the wait began

    def wait(self, client: Any, is_stopped: Callable[[], bool]) -> bool:
        """Wait until the views can be asked, the first time and after `is_behind`, and return whether they can.

        :param client: the pool
        :param is_stopped: ends the waiting when it returns true
        :raises PicasError, couchdb.http.HTTPError: if the database is away
        """
        if not self._is_ready and isinstance(client, CouchDB):
            self._speaks_at = 0.0
            try:
                self._is_ready = wait_for_index(client, self._design_doc, self._log, is_stopped)
            except ResourceNotFound:
                self._is_ready = True  # whoever asks the view finds out
            return self._is_ready
        return True

    def is_behind(self, client: Any, error: BaseException) -> bool:
        """Return whether a question to a view has failed because the server is busy indexing many changes."""
        if not isinstance(client, CouchDB) or not is_passing(error):
            return False
        try:
            self._is_ready = client.pending_updates(self._design_doc) <= FEW
        except (PicasError, HTTPError):
            return False
        return not self._is_ready

    def _log(self, indexing: Indexing) -> None:
        if not indexing.left:
            log.warning("The views of %s are indexed", self._design_doc)
        elif indexing.seconds >= self._speaks_at:
            self._speaks_at = indexing.seconds + REMINDER
            log.warning("The server is %s; this pilot waits", indexing)
