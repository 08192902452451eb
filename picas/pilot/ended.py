"""What is kept for people of pilots that have ended: what they have done, and how long they were idle."""

from __future__ import annotations

import os
from typing import Any

from ..clients import CouchDB
from ..util import seconds
from .identity import ENDED, ENDED_PREFIX, TYPE, Pilot
from .job_classes import JOB_PREFIX
from .leases import KEPT

WORTH_KEEPING = 60
"""Seconds after which a pilot is kept that has processed no token. A job array may start thousands of shorter ones."""
JOB_NAMES = ("SLURM_JOB_NAME", "PBS_JOBNAME", "LSB_JOBNAME", "JOB_NAME")
"""The environment variables with the name of a batch job. All pilots that the autopilot has started are kept, because
it has to know whether they have ended well."""
MAX_PRUNED = 20
"""The most old documents that an ending pilot deletes."""
_OF_NOW = ("id", "time_left", "slots_busy")  # what goes for a pilot that runs


def ended_document(pilot: Pilot) -> dict[str, Any] | None:
    """Return the document that is kept of a pilot that ends now, None if it has done nothing worth keeping.

    :param pilot: the pilot
    """
    end = seconds()
    is_short = not pilot.processed and end - pilot.start < WORTH_KEEPING
    if is_short and not any(os.environ.get(name, "").startswith(JOB_PREFIX) for name in JOB_NAMES):
        return None
    return {
        "_id": f"{ENDED_PREFIX}{end:010d}_{pilot.id}",
        "type": TYPE,
        "state": ENDED,
        "pilot": pilot.id,
        **{name: value for name, value in pilot.describe().items() if name not in _OF_NOW},
        "processed": pilot.processed,
        "end": end,
    }


def prune(client: CouchDB) -> None:
    """Delete some of the documents of pilots that ended long ago, the oldest first."""
    end = f"{ENDED_PREFIX}{max(0, seconds() - KEPT):010d}"
    rows = client.all_docs(startkey=ENDED_PREFIX, endkey=end, limit=MAX_PRUNED)
    if rows:
        client.delete_documents([{"_id": row.id, "_rev": row.value["rev"]} for row in rows])
