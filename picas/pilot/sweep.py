"""Bringing results into the pool that could not be saved: those of earlier pilots, and those of this run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Callable

from couchdb.http import HTTPError

from ..clients import CouchDB
from ..couch import explain
from ..exceptions import PicasError
from ..picaslogger import get_logger
from ..pool import recover_quietly
from ..pool.spool import has_files

log = get_logger(__name__)


class Sweep:
    """Saves the results in a folder when a run begins, and while it lasts.

    :param folder: the folder, None for the default folder
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._left: set[Path] = set()  # files that can't be recovered
        self._is_over = False
        self._thread: threading.Thread | None = None

    def run(self, client: CouchDB, is_stopped: Callable[[], bool]) -> None:
        """Save what is there.

        :param client: the pool
        :param is_stopped: ends this after the current file when it returns true
        :raises PicasError, couchdb.http.HTTPError: if the database is away; call this again then
        """
        recover_quietly(client, self._folder, is_stopped=is_stopped, left=self._left)

    def begin(self, client: CouchDB) -> None:
        """Begin to save what is there, in a thread of its own: that may take long, and a heartbeat must not wait."""
        is_busy = self._thread is not None and self._thread.is_alive()
        if not is_busy and has_files(self._folder, self._left):
            self._thread = threading.Thread(target=self._run, args=(client,), name="picas-sweep", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """End after the current file; it stays where it is if the process ends before that."""
        self._is_over = True

    def _run(self, client: CouchDB) -> None:
        try:
            self.run(CouchDB.copy(client, retries=False), lambda: self._is_over)
        except (PicasError, HTTPError) as error:
            log.info("Results are not recovered yet: %s", explain(error))
