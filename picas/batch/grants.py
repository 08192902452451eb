"""What a pilot has: what the batch system granted its job, else what the machine has, unless the user says so."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..exceptions import SettingsError
from ..tokens.resources import Resources, megabytes
from .features import JOB, feature

CORE_VARIABLES = (
    ("DIRAC_JOB_PROCESSORS", "DIRAC_JOB_PROCESSORS"),
    ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"),  # only set if it was asked for
    ("SLURM_JOB_ID", "SLURM_CPUS_ON_NODE"),
    ("PBS_JOBID", "NCPUS"),  # PBS Pro and OpenPBS
    ("PBS_JOBID", "PBS_NUM_PPN"),  # Torque
)
"""How batch systems say how many processors of its node a job was granted: the variable that tells that this is such a
job, and the one with the number. Batch systems are layered (DIRAC starts jobs through Slurm): the highest comes first.
"""
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""How programs are told which GPUs they may use, of NVIDIA and of AMD; batch systems set it for their jobs."""

_MEGABYTE = 1 << 20


def resources(
    cores: int | None = None,
    memory: float | str | None = None,
    gpus: int | None = None,
    tags: str | Iterable[str] | None = None,
) -> Resources:
    """Return what this pilot has.

    What is None is taken from the environment ($PICAS_CORES, $PICAS_MEMORY, $PICAS_GPUS, $PICAS_TAGS), else from the
    batch system or the machine; there are no tags but those that are given.

    :param memory: megabytes of 2^20 bytes, or a text like "4G"
    :param tags: one text may hold several, with commas between
    :raises SettingsError: if one of them makes no sense
    """
    given = {"cores": cores, "memory": memory, "gpus": gpus, "tags": tags}
    cores = _whole_number("cores", given, least=1)
    gpus = _whole_number("gpus", given, least=0)
    return Resources(
        cores=granted_cores() if cores is None else cores,
        memory=_memory(given),
        gpus=len(granted_gpus()[1]) if gpus is None else gpus,
        tags=_tags(given),
    )


def granted_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processors this process was granted; without a batch system those that it may use, at least 1."""
    for job, name in CORE_VARIABLES:
        value = environment.get(name, "").strip()
        if environment.get(job) and value.isdecimal() and int(value) > 0:
            return int(value)
    allocated = feature(environment, JOB, "allocated_cpu")
    if allocated:
        return int(allocated)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def granted_memory(environment: Mapping[str, str] = os.environ) -> float:
    """Return how many megabytes this process may use at the most; infinity if nothing tells.

    That is what Slurm granted the job on this node, what a grid site tells, the limits of the control groups, and what
    the machine has: the least of them.
    """
    return min(_memory_limits(environment), default=math.inf)


def granted_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, list[str]]:
    """Return the variable by which programs are told which GPUs they may use, and what it calls those of this process.

    Outside a batch system all of NVIDIA's that the machine has count, if no variable says otherwise.
    """
    for variable in GPU_VARIABLES:
        if variable in environment:
            names = [name.strip() for name in environment[variable].split(",")]
            valid = [name for name in names if re.fullmatch(r"[0-9]+|GPU-\S+|MIG-\S+", name)]  # "NoDevFiles", "-1"
            return variable, valid
    if environment.get("SLURM_JOB_ID"):
        count = environment.get("SLURM_GPUS_ON_NODE", "").strip()
        return GPU_VARIABLES[0], [str(number) for number in range(int(count) if count.isdecimal() else 0)]
    devices = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch("nvidia[0-9]+", path.name)]
    return GPU_VARIABLES[0], [str(number) for number in range(len(devices))]


def gpu_names(count: int) -> list[str]:
    """Return the names of so many GPUs of this process: those that it was granted, or 0, 1 and so on."""
    names = granted_gpus()[1]
    return names[:count] if len(names) >= count else [str(number) for number in range(count)]


def gpu_environment(names: Sequence[str]) -> dict[str, str]:
    """Return the environment variable that tells a program to use these GPUs; none if there are none."""
    return {granted_gpus()[0]: ",".join(names)} if names else {}


def _memory_limits(environment: Mapping[str, str]) -> Iterator[float]:
    if environment.get("SLURM_JOB_ID"):
        for name, unit in (
            ("SLURM_MEM_PER_NODE", None),
            ("SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"),
            ("SLURM_MEM_PER_GPU", "SLURM_GPUS_ON_NODE"),
        ):
            each, count = environment.get(name, "").strip(), "1" if unit is None else environment.get(unit, "").strip()
            if each.isdecimal() and count.isdecimal() and int(each) * int(count):  # 0 stands for all that there is
                yield float(int(each) * int(count))
    resident = feature(environment, JOB, "max_rss_bytes")
    if resident:
        yield resident / _MEGABYTE
    yield from _cgroup_limits()
    try:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _MEGABYTE
    except (ValueError, OSError, AttributeError):  # macOS does not tell
        return


def _cgroup_limits(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Yield the limits of this process's control groups, and of those that they are in (cgroups(7))."""
    try:
        lines = groups.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            top, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = top / place.lstrip("/")
        while folder == top or top in folder.parents:
            try:
                text = (folder / file).read_text(encoding="ascii").strip()
            except OSError:
                text = ""  # a container may see other places than its own
            if text.isdecimal():  # not for "max"
                yield int(text) / _MEGABYTE
            folder = folder.parent


def _given(name: str, given: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what the user says of a resource, None for nothing, and where."""
    if given[name] is not None:
        return f"the argument {name}", given[name]
    variable = f"PICAS_{name.upper()}"
    return variable, os.environ.get(variable) or None


def _whole_number(name: str, given: Mapping[str, Any], least: int) -> int | None:
    where, value = _given(name, given)
    if value is None:
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
        raise SettingsError(f"{where} must be a whole number, at least {least}, not {value!r}")
    return int(text)


def _memory(given: Mapping[str, Any]) -> float:
    where, value = _given("memory", given)
    if value is None:
        return granted_memory()
    memory = megabytes(value)
    if memory is None:
        raise SettingsError(f'{where} must be a number of megabytes, or like "4G", not {value!r}')
    return memory


def _tags(given: Mapping[str, Any]) -> frozenset[str]:
    where, value = _given("tags", given)
    tags = (value or "").split(",") if isinstance(value, str) or value is None else list(value)
    if not all(isinstance(tag, str) for tag in tags):
        raise SettingsError(f"{where} must be texts, not {value!r}")
    return frozenset(tag.strip() for tag in tags if tag.strip())
