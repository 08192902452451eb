"""Waiting for the server to index the views of a design document."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable

from ..clients import CouchDB
from ..util import Timer, never, wait_until

FEW = 5_000
"""The server indexes so many changes within a second or two, so a question can wait for that."""
POLL = 1.0
"""Seconds between two looks at what is left to index."""


@dataclass(frozen=True)
class Indexing:
    """How far the server is with the views of a design document."""

    design_doc: str
    left: int
    """The number of changes of documents that the views do not know yet; 0 once they can be asked."""
    total: int
    """The most of these since the first look."""
    seconds: float
    """The time since the first look."""

    def __str__(self) -> str:
        """Return this for people: "indexing the views of Monitor: 37 % of 400000 changes after 45 s"."""
        share = 100 * (self.total - self.left) // self.total
        what = f"{share} % of {self.total} changes after {self.seconds:.0f} s"
        return f"indexing the views of {self.design_doc}: {what}"


def wait_for_index(
    client: CouchDB,
    design_doc: str,
    notify: Callable[[Indexing], Any],
    is_stopped: Callable[[], bool] = never,
    sleep: Callable[[float], object] = time.sleep,
) -> bool:
    """Wait until the views of a design document can be asked without a long wait.

    A question to a view that does not know many tokens yet is answered only once the server has indexed them: minutes
    later in a large pool, and after any time-out. So the server is made to index while nobody waits for an answer.

    How far it is comes from `_info` of the design document, which every user of the pool may read. `_active_tasks` is
    for administrators of the server only, and counts an index twice while the server compacts it.

    :param client: the pool
    :param design_doc: the design document
    :param notify: called again and again while many changes are left to index, and then once with none left
    :param is_stopped: ends the waiting when it returns true
    :param sleep: waits for so many seconds
    :returns: whether the views can be asked
    :raises couchdb.ResourceNotFound: if there is no such design document
    """
    timer = Timer()
    left = total = client.pending_updates(design_doc)
    if left <= FEW:
        return True
    views = client.get(f"_design/{design_doc}").get("views", {})
    view = next((name for name in views if name != "lib"), None)  # "lib" holds modules that the views share
    if view is None:
        return True
    while left > FEW:
        notify(Indexing(design_doc, left, total, timer.elapsed()))
        client.view(view, design_doc=design_doc, reduce=False, limit=1, update="lazy").rows  # noqa: B018  # sends it
        if wait_until(is_stopped, POLL, sleep):
            return False
        left = client.pending_updates(design_doc)
        total = max(total, left)
    notify(Indexing(design_doc, 0, total, timer.elapsed()))
    return True
