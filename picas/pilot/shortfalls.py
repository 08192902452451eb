"""What running pilots lack for a token."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..tokens.resources import Resources
from ..util import duration_text, one_line
from .fleet import resources_of, summarize, time_left_of
from .mailbox import DRAIN, orders_in

MAX_GROUPS = 10
"""How many groups of pilots that lack the same are named."""


@dataclass(frozen=True)
class Shortfall:
    """What a group of running pilots lacks for a token."""

    pilots: int
    """How many there are."""
    lacks: tuple[str, ...]
    """Words for programs: "cores", "memory", "gpus", "tags", "time", "heartbeat" (they are silent), or "permission"
    (they are being drained). None for all the pilots that are not named."""
    text: str
    """The same on one line, for people."""


def silence_of(pilot: Mapping[str, Any]) -> float | None:
    """Return for how many seconds a running pilot has missed its heartbeats, None if it has not, or does not say.

    This compares the clock of its machine with our own, so it is for people only.

    :param pilot: its document
    """
    now = time.time()
    since = summarize(pilot).silent_since(now)
    return None if since is None else now - since


def lacks(pilot: Mapping[str, Any], needs: Resources, seconds: float) -> dict[str, float]:
    """Return what a running pilot lacks for a token, and how much of that it has; nothing if it can take the token.

    A pilot counts with all its resources, whether they are in use or not, and with the time that it had left at its
    last heartbeat.

    :param pilot: its document
    :param needs: what the token needs
    :param seconds: what must be left of a pilot's time, 0 if the token does not say
    """
    has, left = resources_of(pilot), time_left_of(pilot)
    found: dict[str, float] = {}
    if has.cores < needs.cores:
        found["cores"] = has.cores
    if has.memory < needs.memory:
        found["memory"] = has.memory
    if has.gpus < needs.gpus:
        found["gpus"] = has.gpus
    if not needs.tags <= has.tags:
        found["tags"] = 0
    if left < seconds or left <= 0:
        found["time"] = left
    silent = silence_of(pilot)
    if silent is not None:
        found["heartbeat"] = silent
    if DRAIN in orders_in(pilot):
        found["permission"] = 0
    return found


class Groups:
    """Running pilots, grouped by what they lack for a token.

    :param pilots: their documents
    :param needs: what the token needs
    :param seconds: what must be left of a pilot's time, 0 if it does not say
    """

    def __init__(self, pilots: Iterable[Mapping[str, Any]], needs: Resources, seconds: float) -> None:
        self._needs = needs
        self._seconds = seconds
        self.fitting: list[Mapping[str, Any]] = []
        """Those that lack nothing."""
        self._groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
        for pilot in pilots:
            found = lacks(pilot, needs, seconds)
            if found:
                self._groups.setdefault(tuple(found), []).append(found)
            else:
                self.fitting.append(pilot)

    def shortfalls(self) -> Iterator[Shortfall]:
        """Yield what each group lacks, the largest groups first; the last one stands for all that are not named."""
        groups = sorted(self._groups.items(), key=lambda group: len(group[1]), reverse=True)
        for kinds, members in groups[:MAX_GROUPS]:
            what = ", ".join(self._describe(kind, [member[kind] for member in members]) for kind in kinds)
            yield Shortfall(len(members), kinds, f"{_pilots(len(members), kinds)} can't take it: {what}")
        others = sum(len(members) for _, members in groups[MAX_GROUPS:])
        if others:
            yield Shortfall(others, (), f"{_pilots(others)} can't take it for other reasons")

    def _describe(self, kind: str, values: Sequence[float]) -> str:
        """Return a text for what the members of a group lack.

        :param values: how much each member has of it
        """
        needs, most = self._needs, max(values)
        up_to = "" if min(values) == most else "up to "
        if kind == "tags":
            return f"not all of the tags {one_line(' '.join(sorted(needs.tags)))}"
        if kind == "heartbeat":
            return f"no heartbeat for {up_to}{duration_text(most)}"
        if kind == "permission":
            return "ordered to take no further token"
        if kind == "time" and not self._seconds:
            return "no time left"
        wanted = {
            "cores": f"{most:.0f} of {needs.cores} cores",
            "memory": f"{most:.0f} of {needs.memory:.0f} MB of memory",
            "gpus": f"{most:.0f} of {needs.gpus} GPUs",
            "time": f"{most:.0f} of {self._seconds:.0f} s left",
        }
        return up_to + wanted[kind]


def _pilots(count: int, kinds: Sequence[str] = ()) -> str:
    what = "silent" if "heartbeat" in kinds else "running"
    return f"1 {what} pilot" if count == 1 else f"{count} {what} pilots"
