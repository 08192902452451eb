"""How much of a pilot is free while it works on several tokens at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .resources import Resources


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
