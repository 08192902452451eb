"""What a token needs and what a pilot has: cores, memory, GPUs, and tags that stand for anything else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..util import is_number

FIELDS = ("cores", "memory", "gpus", "tags")
"""The fields of a token that say what its work needs."""

_MEGABYTES = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
_LONGEST = 1e12  # seconds; a larger number is none
_LARGEST = 1e15  # what is more than this is as good as this: no pilot has it


@dataclass(frozen=True)
class Resources:
    """What a token needs, or what a pilot has."""

    cores: int = 1
    memory: float = 0.0
    """Megabytes of 2^20 bytes, as Slurm has them; infinity for a pilot that does not know how many it has."""
    gpus: int = 0
    tags: frozenset[str] = frozenset()

    def cover(self, needs: Resources) -> bool:
        """Tell whether a pilot that has these can work on a token with such needs."""
        return (
            needs.cores <= self.cores
            and needs.memory <= self.memory
            and needs.gpus <= self.gpus
            and needs.tags <= self.tags
        )

    def __str__(self) -> str:
        """Return them as people read them: "4 cores, 2000 MB, 1 GPU, tags a b"."""
        parts = [_count(self.cores, "core")]
        if 0 < self.memory < math.inf:
            parts.append(f"{self.memory:.0f} MB")
        if self.gpus:
            parts.append(_count(self.gpus, "GPU"))
        if self.tags:
            parts.append(f"{'tag' if len(self.tags) == 1 else 'tags'} {' '.join(sorted(self.tags))}")
        return ", ".join(parts)


_ONE_CORE = Resources()


def needs_of(token: Mapping[str, Any]) -> Resources:
    """Return what a token says that its work needs: by itself a core and no more.

    `cores` and `gpus` are whole numbers, `memory` is a number of megabytes, or a text with a unit ("4G"), and `tags` is
    a list of texts, or one text. What makes no sense counts as not said.
    """
    if not any(field in token for field in FIELDS):
        return _ONE_CORE  # at once: pilots ask this of each token that they read
    return Resources(
        cores=max(1, math.ceil(_number(token.get("cores")) or 1)),
        memory=megabytes(token.get("memory")) or 0.0,
        gpus=math.ceil(_number(token.get("gpus")) or 0),
        tags=frozenset(_texts(token.get("tags"))),
    )


def megabytes(value: Any) -> float | None:
    """Return the megabytes that a number of them, or a text like "4G" or "500 MB", stands for; None if it is neither.

    A kilobyte has 1024 bytes, and so on.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*(?:([KMGT]?)(?:i?B)?)", value.strip(), re.IGNORECASE)
        if match is None:
            return None
        number = _number(match.group(1))
        return None if number is None else number * _MEGABYTES[match.group(2).upper()]
    return _number(value)


def _number(value: Any) -> float | None:
    """Return a number above 0, None if the value is none; a text may say it too."""
    if not (is_number(value) or isinstance(value, str)):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number can be longer than any float
        return _LARGEST if value > 0 else None  # type: ignore[operator]  # no text raises this
    except ValueError:
        return None
    return min(number, _LARGEST) if number > 0 else None  # not for NaN


def _texts(value: Any) -> Iterable[str]:
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")


@dataclass(frozen=True)
class Room:
    """What a pilot has left for further tokens.

    A token takes as many slots as it needs cores, but never more than the pilot has; of the memory and of the GPUs it
    takes what it says.
    """

    total: int
    """The slots that the pilot has."""
    slots: int
    memory: float
    gpus: int

    @classmethod
    def of(cls, slots: int, has: Resources, running: Iterable[Resources] = ()) -> Room:
        """Return what a pilot has left that works on tokens with these needs."""
        room = cls(slots, slots, has.memory, has.gpus)
        for needs in running:
            room = room.without(needs)
        return room

    def fits(self, needs: Resources) -> bool:
        """Tell whether a token with these needs can be worked on now."""
        left = self.without(needs)
        return min(left.slots, left.memory, left.gpus) >= 0

    def without(self, needs: Resources) -> Room:
        """Return what is left once such a token has begun."""
        return replace(
            self,
            slots=self.slots - min(needs.cores, self.total),
            memory=self.memory - needs.memory,
            gpus=self.gpus - needs.gpus,
        )


def walltime_of(token: Mapping[str, Any]) -> float | None:
    """Return how many seconds a token says that its work may take, None if it says nothing that makes sense."""
    seconds = token.get("walltime")
    if not is_number(seconds) or not 0 < seconds < _LONGEST:
        return None
    return float(seconds)
