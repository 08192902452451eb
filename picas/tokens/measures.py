"""What an attempt at a token has taken: time, memory, cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measures:
    """What an attempt has taken. What is None or "" is unknown."""

    seconds: float | None = None
    """How long the work took."""
    cpu_seconds: float | None = None
    """The processor time of its programs."""
    max_memory_mb: float | None = None
    """The resident memory of the largest process among them, in megabytes (2^20 bytes)."""
    cores: int | None = None
    """How many cores it held."""
    software: str = ""
    """The version of the software, or the digest of its container, as the user has named it."""

    @classmethod
    def of(cls, attempt: object) -> Measures:
        """Return the measures in an entry of a token's list `attempts`; none if it is no such entry."""
        if not isinstance(attempt, Mapping):
            return cls()
        return cls(**{field.name: attempt[field.name] for field in dataclasses.fields(cls) if field.name in attempt})

    def fields(self) -> dict[str, Any]:
        """Return those that are known, as fields of an entry in a token's list `attempts`."""
        known: dict[str, Any] = {}
        if self.seconds is not None:
            known["seconds"] = round(self.seconds, 3)
        if self.cpu_seconds is not None:
            known["cpu_seconds"] = round(self.cpu_seconds, 3)
        if self.max_memory_mb is not None:
            known["max_memory_mb"] = round(self.max_memory_mb, 1)
        if self.cores is not None:
            known["cores"] = self.cores
        if self.software:
            known["software"] = self.software
        return known
