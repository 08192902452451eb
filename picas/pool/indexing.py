"""Waiting for the server to index the views of a design document."""

from __future__ import annotations

import time
from typing import Any, Callable

from ..clients import CouchDB

FEW = 5_000
"""The server indexes so many changes within a second or two, so a question can wait for that."""
POLL = 1.0
"""Seconds between two looks at what is left to index."""


def wait_for_index(
    client: CouchDB,
    design_doc: str,
    view: str,
    notify: Callable[[str], Any],
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until a view can be asked without a long wait.

    A question to a view that does not know many tokens yet is answered only once the server has indexed them: minutes
    later in a large pool, and after any time-out. So the server is made to index while nobody waits for an answer.

    :param client: the pool
    :param design_doc: the design document
    :param view: one of its views; the others are indexed with it
    :param notify: called again and again with the name of the design document while many changes are left to index
    :param sleep: called with the seconds until the next look
    :raises couchdb.ResourceNotFound: if there is no such design document or view
    """
    while True:
        if client.pending_updates(design_doc) <= FEW:
            return
        notify(design_doc)
        client.view(view, design_doc=design_doc, reduce=False, limit=1, update="lazy").rows  # noqa: B018  # sends it
        sleep(POLL)
