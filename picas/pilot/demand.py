"""How many tokens wait, by what they need, and which of them the jobs of a class can take."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from couchdb.http import ResourceNotFound

from ..batch import Granted
from ..batch.grants import MARGIN, MARGIN_SHARE
from ..clients import CouchDB
from ..pool.edits import count_tokens
from ..tokens.resources import ONE_CORE
from ..views import FREE_VIEW
from .kinds import Kind, free_kinds


@dataclass(frozen=True)
class Reach:
    """What the tokens may need that a job can take. What is unknown of the job is no limit."""

    granted: Granted

    def covers(self, kind: Kind) -> bool:
        """Return whether a job can take a token with these needs."""
        has, needs = self.granted, kind.needs
        limits = (
            (has.cores, needs.cores),
            (has.memory, needs.memory),
            (has.gpus, needs.gpus),
            (self._seconds, kind.time_needed),
        )
        enough = all(limit is None or (need or 0) <= limit for limit, need in limits)
        return enough and (has.tags is None or needs.tags <= has.tags)

    @property
    def size(self) -> tuple[float, ...]:
        """A key for sorting: small jobs take small tokens first, and leave the others to larger jobs."""
        has = self.granted
        numbers = [math.inf if number is None else number for number in (has.gpus, has.cores, has.memory)]
        return (*numbers, math.inf if has.tags is None else len(has.tags))

    @property
    def _seconds(self) -> float | None:
        """The time for work in a job: pilots keep a margin, see `batch.deadline`."""
        total = self.granted.walltime
        return None if total is None or total == math.inf else total - min(MARGIN, MARGIN_SHARE * total)


class Demand:
    """The waiting tokens of a view.

    :param kinds: how many tokens wait, by their needs
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = [kind for kind in kinds if kind.count > 0]

    @classmethod
    def read(cls, client: CouchDB, design_doc: str, view: str) -> Demand:
        """Count the tokens that wait, with two requests; up to five if more than `MAX_KINDS` have different needs.

        Only the view `todo` has a view of the needs beside it. Tokens of another one, and of views that an older
        release has created, count as tokens without needs.

        :raises couchdb.http.ResourceNotFound: if there is no such view
        """
        total = count_tokens(client, view, design_doc)
        kinds: list[Kind] = []
        special = 0
        if total and view == FREE_VIEW:
            with contextlib.suppress(ResourceNotFound):
                kinds, special = free_kinds(client, design_doc)
        return cls([Kind(total - special, ONE_CORE, None), *kinds])

    def waiting(self, reach: Reach, others: Sequence[Reach] = ()) -> int:
        """Return for how many tokens a job may be submitted.

        :param reach: what it can take
        :param others: what other jobs can take; those without GPUs have precedence for tokens that need none
        """
        thrifty = [other for other in others if not other.granted.gpus] if reach.granted.gpus else []
        return sum(
            kind.count
            for kind in self._kinds
            if reach.covers(kind) and (kind.needs.gpus or not any(other.covers(kind) for other in thrifty))
        )

    def give(self, count: int, reach: Reach, others: Sequence[Reach]) -> None:
        """Count tokens as taken that jobs will take: first those that the fewest others can take.

        :param count: how many tokens the jobs will take
        :param reach: what the jobs can take
        :param others: what other jobs can take, to which the rest is left
        """
        rivals = [sum(other.covers(kind) for other in others) for kind in self._kinds]
        for number in sorted(range(len(self._kinds)), key=lambda number: rivals[number]):
            kind = self._kinds[number]
            if reach.covers(kind):
                taken = min(count, kind.count)
                count -= taken
                self._kinds[number] = replace(kind, count=kind.count - taken)

    def out_of_reach(self, reaches: Sequence[Reach]) -> list[Kind]:
        """Return the tokens that no job can take, the most frequent needs first."""
        left = [kind for kind in self._kinds if not any(reach.covers(kind) for reach in reaches)]
        return sorted(left, key=lambda kind: kind.count, reverse=True)
