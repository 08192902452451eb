"""What a token needs and what a pilot has: cores, memory, GPUs, walltime, and tags for anything else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..util import number_or_none, parse_duration

FIELDS = ("cores", "memory", "gpus", "tags")
"""The fields of a token that say which resources its work needs."""

_FIELDS = frozenset(FIELDS)
_MEGABYTES = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
LONGEST = 1e12
"""Seconds; a longer walltime is ignored."""
_LARGEST = 1e15  # caps larger numbers: no pilot has that much


@dataclass(frozen=True)
class Resources:
    """What a token needs, or what a pilot has."""

    cores: int = 1
    memory: float = 0.0
    """Megabytes of 2^20 bytes, as in Slurm; infinity for a pilot that does not know its memory."""
    gpus: int = 0
    tags: frozenset[str] = frozenset()

    def cover(self, needs: Resources) -> bool:
        """Return whether a pilot with these resources can process a token with these needs."""
        return (
            needs.cores <= self.cores
            and needs.memory <= self.memory
            and needs.gpus <= self.gpus
            and needs.tags <= self.tags
        )

    @property
    def is_special(self) -> bool:
        """Whether a token with these needs can be taken only by pilots that have a GPU or a tag."""
        return bool(self.gpus or self.tags)

    @property
    def is_plain(self) -> bool:
        """Whether a token with these needs takes a slot of the pilot and nothing else."""
        return self.cores == 1 and not self.memory and not self.gpus

    def __str__(self) -> str:
        """Return them in words: "4 cores, 2000 MB, 1 GPU, tags a b"."""
        parts = [_count(self.cores, "core")]
        if 0 < self.memory < math.inf:
            parts.append(f"{self.memory:.0f} MB")
        if self.gpus:
            parts.append(_count(self.gpus, "GPU"))
        if self.tags:
            parts.append(f"{'tag' if len(self.tags) == 1 else 'tags'} {' '.join(sorted(self.tags))}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Room:
    """What a pilot has left for more tokens.

    A token takes one slot for each core that it needs, but never more than all slots of the pilot. Of memory and GPUs
    it takes what it needs.
    """

    total: int
    """All slots of the pilot, free or not."""
    slots: int
    memory: float
    gpus: int

    @classmethod
    def of(cls, slots: int, has: Resources, running: Iterable[Resources] = ()) -> Room:
        """Return what a pilot has left while it processes tokens with the needs in `running`."""
        free, memory, gpus = slots, has.memory, has.gpus
        for needs in running:  # plain numbers: this is called for each token, with all others
            free -= min(needs.cores, slots)
            memory -= needs.memory
            gpus -= needs.gpus
        return cls(slots, free, memory, gpus)

    def fits(self, needs: Resources) -> bool:
        """Return whether a token with these needs can start now."""
        has_slots = min(needs.cores, self.total) <= self.slots
        return has_slots and needs.memory <= self.memory and needs.gpus <= self.gpus

    def without(self, needs: Resources) -> Room:
        """Return what is left after a token with these needs has started."""
        free = self.slots - min(needs.cores, self.total)
        return Room(self.total, free, self.memory - needs.memory, self.gpus - needs.gpus)


ONE_CORE = Resources()
"""What a token needs that asks for nothing."""


def needs_of(token: Mapping[str, Any]) -> Resources:
    """Return the resources that a token needs: one core, unless its fields say otherwise.

    `cores` and `gpus` are whole numbers, `memory` is a number of megabytes or a text with a unit ("4G"), and `tags` is
    a list of texts, or a single text with commas between the tags. An invalid value is ignored, see `needs.fault_in`.
    """
    if _FIELDS.isdisjoint(token):
        return ONE_CORE  # the common case, kept fast: pilots call this for each token that they read
    return Resources(
        cores=max(1, math.ceil(positive(token.get("cores")) or 1)),
        memory=megabytes(token.get("memory")) or 0.0,
        gpus=math.ceil(positive(token.get("gpus")) or 0),
        tags=frozenset(_texts(token.get("tags"))),
    )


def walltime_of(token: Mapping[str, Any]) -> float | None:
    """Return how many seconds a token's work may take, None if its field `walltime` is missing or invalid.

    The field is a number of seconds, or a text as `util.parse_duration` takes it: "2h", "01:00:00".
    """
    value = token.get("walltime")
    if isinstance(value, str):
        try:
            value = parse_duration(value)
        except ValueError:
            return None
    seconds = number_or_none(value)
    return seconds if seconds is not None and 0 < seconds < LONGEST else None


def megabytes(value: Any) -> float | None:
    """Return a number, or a text such as "4G" or "500 MB", in megabytes; None if it is invalid.

    A number without a unit is in megabytes. A kilobyte has 1024 bytes, and so on.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*(?:([KMGT]?)(?:i?B)?)", value.strip(), re.IGNORECASE)
        if match is None:
            return None
        number = positive(match.group(1))
        return None if number is None else number * _MEGABYTES[match.group(2).upper()]
    return positive(value)


def positive(value: Any) -> float | None:
    """Return a number above 0, given as a number or as a text; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    number = number_or_none(value)
    return min(number, _LARGEST) if number is not None and number > 0 else None


def _texts(value: Any) -> Iterable[str]:
    values = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else ()
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")
