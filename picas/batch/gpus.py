"""GPUs, and the environment variables that limit a program to some of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .base import Share

VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL")
"""The variables of NVIDIA, of AMD, of Intel, and of OpenCL. Slurm sets all of them, unless the site chooses among them
(gres.conf(5), Flags)."""
HIDDEN = "-1"
"""The value with which each of these variables hides all GPUs. An empty value would hide none from OpenCL and Intel."""

_NAME = re.compile(r"[0-9]+(\.[0-9]+)?|GPU-\S+|MIG-\S+")  # "NoDevFiles" and "-1" stand for none


@dataclass(frozen=True)
class GPUs:
    """Some GPUs. Each has a number from 0 on, and a name in each variable."""

    count: int = 0
    variables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By the variable, the names of the GPUs, in the order of their numbers."""

    @classmethod
    def numbered(cls, count: int, variables: Iterable[str] = ()) -> GPUs:
        """Return GPUs whose names are their numbers.

        :param variables: the variables that limit a program; by default that of NVIDIA
        """
        names = tuple(map(str, range(count)))
        return cls(count, dict.fromkeys(tuple(variables) or VARIABLES[:1], names))

    def part(self, share: Share) -> GPUs:
        """Return those that belong to a process that shares its node with others."""
        variables = {variable: share.of(names) for variable, names in self.variables.items()}
        return GPUs(len(share.of(range(self.count))), variables)

    def environment(self, numbers: Sequence[int]) -> dict[str, str]:
        """Return the environment variables that limit a program to the GPUs with these numbers."""
        return {variable: ",".join(names[number] for number in numbers) for variable, names in self.variables.items()}


def visible_gpus(environment: Mapping[str, str]) -> GPUs | None:
    """Return the GPUs to which the variables limit this process, None if none of the variables is set.

    A variable that names fewer than another is left out, since it is unknown which of them these are.
    """
    found = {variable: _names_in(environment[variable]) for variable in VARIABLES if variable in environment}
    if not found:
        return None
    count = max(map(len, found.values()))
    return GPUs(count, {variable: names for variable, names in found.items() if len(names) == count})


def _names_in(text: str) -> list[str]:
    return [name for name in map(str.strip, text.split(",")) if _NAME.fullmatch(name)]
