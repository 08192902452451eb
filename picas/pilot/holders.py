"""The other pilots that hold tokens, as a pilot sees them that has nothing else to do.

If one of them has died, its tokens come back once its lease is over (see `leases`). Until it has shown a sign of life,
nobody can know whether it has.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Callable

from couchdb.http import HTTPError, ResourceNotFound

from ..clients import CouchDB
from ..couch import explain
from ..exceptions import PicasError
from ..picaslogger import get_logger
from ..util import duration_text
from ..views import CLAIMS
from .identity import pilot_rows

log = get_logger(__name__)

PAUSE = 10.0
"""The shortest time between two looks, in seconds."""
PAUSE_PER_PILOT = 0.1
"""Seconds between two looks for each pilot in the pool: a thousand that wait look ten times a second together."""
REMINDER = 60.0
"""Seconds after which the log says again who holds tokens, while the pilot waits."""
MAX_HOLDERS = 10_000
"""The most locked tokens to look at."""
MAX_NAMED = 3
"""The most pilots that the log names."""


@dataclass
class _Holder:
    """Another pilot that holds tokens."""

    rev: str
    """The revision of its document when it was first seen."""
    since: float
    """When that was, on the clock of `time.monotonic`."""


class Holders:
    """Finds the pilots that hold tokens, and which of them have shown no sign of life since they were first seen.

    :param pilot: the id of this pilot
    :param silence: returns for how many seconds, at least, a pilot has had no heartbeat, 0 if that is unknown
    """

    def __init__(self, pilot: str, silence: Callable[[str], float]) -> None:
        self._pilot = pilot
        self._silence = silence
        self._seen: dict[str, _Holder] = {}
        self._speaks_at = -math.inf  # on the clock of `time.monotonic`

    def look(self, client: CouchDB, design_doc: str, *, waits: bool, is_idle: bool) -> float | None:
        """Look for pilots that hold tokens, and log who they are, now and then.

        :param client: the pool
        :param design_doc: the design document whose tokens count
        :param waits: whether this pilot waits for them
        :param is_idle: whether this pilot has processed no token at all
        :returns: the seconds after which to look again, None if there are none without a sign of life
        """
        try:
            counts = Counter(row.key for row in client.view(CLAIMS, design_doc=design_doc, limit=MAX_HOLDERS).rows)
            counts.pop(self._pilot, None)
            rows = pilot_rows(client) if counts else []
        except ResourceNotFound:
            return None  # the views of an older release
        except (PicasError, HTTPError) as error:
            log.info("Could not look for tokens of other pilots: %s", explain(error))
            return None
        self._note({row.id: row.value["rev"] for row in rows if row.id in counts})
        silent = [id for id, rev in ((row.id, row.value["rev"]) for row in rows) if self._is_silent(id, rev)]
        if counts and time.monotonic() >= self._speaks_at:
            self._speaks_at = time.monotonic() + REMINDER
            self._say(counts, waits=waits, is_idle=is_idle, may_be_dead=bool(silent))
        return max(PAUSE, PAUSE_PER_PILOT * len(rows)) * random.uniform(0.75, 1.25) if silent else None

    def _note(self, revs: dict[str, str]) -> None:
        now = time.monotonic()
        self._seen = {id: self._seen.get(id, _Holder(rev, now - self._silence(id))) for id, rev in revs.items()}

    def _is_silent(self, id: str, rev: str) -> bool:
        return id in self._seen and self._seen[id].rev == rev

    def _say(self, counts: Counter[str], *, waits: bool, is_idle: bool, may_be_dead: bool) -> None:
        """Log who holds tokens; people need to know it if that is why a pilot has done nothing."""
        total = sum(counts.values())
        names = ", ".join(self._describe(id) for id, _ in counts.most_common(MAX_NAMED))
        others = f" and {len(counts) - MAX_NAMED} other pilots" if len(counts) > MAX_NAMED else ""
        what = "1 token is" if total == 1 else f"{total} tokens are"
        then = ""
        if may_be_dead and waits:
            then = "; waiting until it is known whether they live"
        elif may_be_dead:
            then = "; what a dead pilot holds comes back after its lease (wait_for_locked waits for that)"
        level = logging.WARNING if waits or is_idle else logging.INFO
        log.log(level, "%s locked by %s%s%s", what, names, others, then)

    def _describe(self, id: str) -> str:
        if id not in self._seen:
            return f"{id}, which has left the pool"
        silent = time.monotonic() - self._seen[id].since
        return f"{id}, silent for {duration_text(silent)}" if silent >= 1 else id
