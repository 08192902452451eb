"""What the pilots of batch jobs leave in the pool: which jobs took a token, and how many slots are free."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from couchdb.http import ResourceNotFound

from ..batch import Granted
from ..clients import CouchDB
from ..jobid import job_id_of
from ..util import list_in, number_or_none
from ..views import CLAIMS
from .fleet import resources_of
from .identity import ENDED_PREFIX, RUNNING, TYPE, pilot_rows
from .mailbox import DRAIN, orders_in

PAGE = 200
"""How many pilots that have ended are read with one request."""
MAX_ENDED = 1_000
"""The most of them that are read, the newest first."""
LATEST = 500
"""How many of the latest changes are read to find tokens of pilots without documents: those of older releases, and
programs that use an iterator by themselves."""


@dataclass
class Traces:
    """The traces of the pilots of some jobs, by the ids of the jobs."""

    helped: set[str] = field(default_factory=set)
    """The jobs that have taken a token."""
    idle: set[str] = field(default_factory=set)
    """The jobs whose pilot has ended without taking a token."""
    free: dict[str, int] = field(default_factory=dict)
    """The number of free slots of each job in which pilots run."""
    had: dict[str, Granted] = field(default_factory=dict)
    """What the pilots of a job had."""

    def helped_in(self, group: str) -> set[str]:
        """Return the jobs of a group that have taken a token."""
        return {job for job in self.helped if group_of(job) == group}

    def idle_in(self, group: str) -> set[str]:
        """Return the jobs of a group whose pilot has ended without taking a token."""
        return {job for job in self.idle if group_of(job) == group}


def group_of(job: str) -> str:
    """Return the id under which a job was submitted: that of its job array, if it is a task of one."""
    return re.split(r"[_\[.]", job, maxsplit=1)[0]


def find_traces(client: CouchDB, running: frozenset[str], ended: Iterable[str], design_docs: Iterable[str]) -> Traces:
    """Return the traces of pilots.

    It takes a request for each 5,000 pilots that run and for each design document; and up to six for pilots that have
    ended, if traces of these are wanted.

    :param client: the pool
    :param running: the ids of jobs that run
    :param ended: the ids of groups of which jobs have ended
    :param design_docs: the design documents with the views that show which tokens they hold
    """
    documents = [dict(row["doc"]) for row in pilot_rows(client, include_docs=True) if row.get("doc")]
    pilots = {id: doc for doc in documents if doc.get("type") == TYPE for id in [str(doc["_id"])] if job_id_of(doc)}
    at_work = {id for id, doc in pilots.items() if job_id_of(doc) in running and doc.get("state") == RUNNING}
    claims = _find_claims(client, at_work, design_docs)
    traces = Traces()
    for id, document in pilots.items():
        job = job_id_of(document)
        traces.had[job] = _granted(document)
        # What a pilot holds whose job has ended is no trace of good work: perhaps the node has killed it at once.
        if _has_worked(document) or (id in at_work and (list_in(document, "holds") or (claims and claims.get(id)))):
            traces.helped.add(job)
        if id in at_work:
            traces.free[job] = traces.free.get(job, 0) + _free(
                document, None if claims is None else claims.get(id, set())
            )
    wanted = set(ended)
    if wanted:
        _read_ended(client, wanted, traces)
        _read_tokens(client, {group for group in wanted if not traces.helped_in(group)}, traces)
    traces.idle -= traces.helped
    return traces


def _find_claims(client: CouchDB, pilots: Iterable[str], design_docs: Iterable[str]) -> dict[str, set[str]] | None:
    """Return the ids of the tokens that each pilot holds, None if a view is missing."""
    found: dict[str, set[str]] = {}
    keys = sorted(pilots)
    try:
        for design_doc in design_docs if keys else ():
            for row in client.view(CLAIMS, design_doc=design_doc, keys=keys).rows:
                found.setdefault(row.key, set()).add(row.id)
    except ResourceNotFound:
        return None
    return found


def _free(document: Mapping[str, Any], held: set[str] | None) -> int:
    """Return the number of free slots of a pilot that runs.

    Its document is as old as its last heartbeat; which tokens it holds is known exactly.

    :param held: the ids of these tokens, None if they are unknown
    """
    if DRAIN in orders_in(document):
        return 0
    slots, free = (number_or_none(document.get(name)) for name in ("slots", "free"))
    if held is None or held == set(map(str, list_in(document, "holds"))):
        return max(0, int(free or 0))
    return max(0, int(slots or 0) - len(held))


def _has_worked(document: Mapping[str, Any]) -> bool:
    outcomes = document.get("outcomes")
    counts = outcomes.values() if isinstance(outcomes, dict) else ()
    return bool(number_or_none(document.get("processed"))) or any(map(number_or_none, counts))


def _granted(document: Mapping[str, Any]) -> Granted:
    has = resources_of(document)
    memory = None if has.memory == math.inf else has.memory
    return Granted(has.cores, memory, has.gpus, has.tags, number_or_none(document.get("walltime")))


def _read_ended(client: CouchDB, groups: set[str], traces: Traces) -> None:
    """Add the traces of pilots that have ended cleanly."""
    start, read = ENDED_PREFIX + "\ufff0", 0
    while read < MAX_ENDED:
        rows = client.all_docs(
            startkey=start, endkey=ENDED_PREFIX, descending=True, limit=PAGE, include_docs=True
        )  # the next page begins with the last row of this one
        for document in [dict(row["doc"]) for row in rows if row.get("doc")]:
            job = job_id_of(document)
            if group_of(job) in groups:
                traces.had.setdefault(job, _granted(document))
                (traces.helped if _has_worked(document) else traces.idle).add(job)
        if len(rows) < PAGE:
            return
        start, read = rows[-1].id, read + len(rows)


def _read_tokens(client: CouchDB, groups: set[str], traces: Traces) -> None:
    """Add the jobs of the tokens that have ended last; one that is locked is no trace, see `find_traces`."""
    for document in client.latest_documents(LATEST) if groups else ():
        if group_of(job_id_of(document)) in groups and document.get("type") == "token" and document.get("done"):
            traces.helped.add(job_id_of(document))
