"""What the options of sbatch say of its jobs: on the command line, in the environment, and in lines of the script.

In this order, the first that has an option counts, see sbatch(1).
"""

from __future__ import annotations

import getpass
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..tokens.resources import megabytes
from .base import Granted, JobTemplate, whole_number

SHORT = {
    "c": "cpus-per-task",
    "n": "ntasks",
    "N": "nodes",
    "G": "gpus",
    "t": "time",
    "o": "output",
    "D": "chdir",
    "M": "clusters",
}
"""The short forms of the options that are read here."""
FLAGS = frozenset({"exclusive"})
"""The options that may have no value."""
NAMES = frozenset(
    {
        *SHORT.values(), *FLAGS, "ntasks-per-node", "mem", "mem-per-cpu", "mem-per-gpu", "gpus-per-node",
        "gpus-per-task", "gres",
    }
)  # fmt: skip
VARIABLES = {
    "SLURM_CLUSTERS": "clusters",
    "SBATCH_CLUSTERS": "clusters",
    "SBATCH_EXCLUSIVE": "exclusive",
    "SBATCH_GPUS": "gpus",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_GPUS_PER_TASK": "gpus-per-task",
    "SBATCH_GRES": "gres",
    "SBATCH_MEM_PER_CPU": "mem-per-cpu",
    "SBATCH_MEM_PER_GPU": "mem-per-gpu",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_OUTPUT": "output",
    "SBATCH_TIMELIMIT": "time",
}
"""The environment variables of sbatch for these options."""

GPU_OPTIONS = frozenset({"gpus", "gpus-per-node", "gres"})
PILOT_OPTIONS = frozenset({"cores", "memory", "gpus", "tags"})
"""The options of a pilot that say what it has; the environment variables PICAS_CORES etc. say the same."""
OUTPUT = "slurm-%A_%a.out"
"""The file with the output of a task of a job array, unless an option names another one."""
SHARED = ("ntasks", "ntasks-per-node", "gpus", "gpus-per-node", "gres", "mem", "mem-per-gpu")
"""The options for what the pilots of a step share; what each of them has is known once it runs."""
MAX_SCRIPT = 100_000
"""How many characters of a script are read."""


def clusters_of(template: JobTemplate) -> str:
    """Return the clusters to which jobs are submitted, separated by commas; '' for the local one."""
    return _options(template, os.environ).get("clusters", "")


def granted_by(template: JobTemplate, environment: Mapping[str, str]) -> Granted:
    """Return what jobs have: what the pilot is told by its arguments or the environment, else what sbatch is told.

    Without an option, a job has no GPU, and a pilot no tag, unless the script sets them itself.
    """
    options, script = _options(template, environment), _read(template.script)
    shared: set[str] = set()
    if _uses(script, r"\bsrun\b") and options.get("ntasks", options.get("ntasks-per-node", "1")) != "1":
        shared = {name for name in SHARED if options.pop(name, None) is not None}
    told = {name: environment[f"PICAS_{name.upper()}"] for name in PILOT_OPTIONS if environment.get(_variable(name))}
    told.update(_parse(template.arguments, PILOT_OPTIONS, {}))
    cores = whole_number(told["cores"]) if "cores" in told else _cores(options)
    gpus = whole_number(told["gpus"]) if "gpus" in told else _gpus(options)
    memory = megabytes(told["memory"]) if "memory" in told else _memory(options, cores, gpus)
    tags = frozenset(tag.strip() for tag in told.get("tags", "").split(",") if tag.strip())
    return Granted(
        cores=None if "cores" not in told and _sets(script, "cores") else cores,
        memory=None if "memory" not in told and _sets(script, "memory") else memory,
        gpus=None if "gpus" not in told and (_sets(script, "gpus") or shared & GPU_OPTIONS) else gpus,
        tags=None if "tags" not in told and _sets(script, "tags") else tags,
        walltime=parse_time_limit(options.get("time", "")),
    )


def output_path(template: JobTemplate, job: str, folder: str, environment: Mapping[str, str]) -> str:
    """Return the path of the output of a task of a job array; what can't be known in it is "*".

    :param job: the id of the task, "array_number"
    :param folder: the working directory in which it was submitted
    """
    options = _options(template, environment)
    array, _, number = job.partition("_")
    known = {"%": "%", "A": array, "a": number, "x": template.name, "u": getpass.getuser()}
    name = re.sub(r"%\d*([A-Za-z%])", lambda match: known.get(match[1], "*"), options.get("output", OUTPUT))
    return str(Path(folder, options.get("chdir", ""), name))


def parse_time_limit(text: str) -> float | None:
    """Return the seconds of a time limit as sbatch takes it, infinity for none; None for anything else.

    The forms are "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", "days-hours:minutes" and
    "days-hours:minutes:seconds".
    """
    text = text.strip()
    if text.upper() in ("INFINITE", "UNLIMITED", "-1", "0"):
        return math.inf
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None
    days, *numbers = match.groups()
    first, second, third = (int(number or 0) for number in numbers)
    if days is None and numbers[2] is None:  # without hours
        return float(60 * first + second)
    return float(((int(days or 0) * 24 + first) * 60 + second) * 60 + third)


def _options(template: JobTemplate, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the options of sbatch by their long names."""
    by_environment = {VARIABLES[name]: environment[name] for name in VARIABLES if environment.get(name)}
    lines = _parse(_script_options(_read(template.script)), NAMES, SHORT)
    return {**lines, **by_environment, **_parse(template.options, NAMES, SHORT)}


def _read(script: str) -> str:
    try:
        with Path(script).open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_SCRIPT)
    except OSError:
        return ""


def _script_options(script: str) -> list[str]:
    """Return the options in lines that begin with #SBATCH, up to the first command."""
    found: list[str] = []
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            try:
                found += shlex.split(line[len("#SBATCH") :], comments=True)
            except ValueError:
                continue
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _parse(words: Sequence[str], names: frozenset[str], short: Mapping[str, str]) -> dict[str, str]:
    """Return the options among the words of a command line whose names are known; the last of several counts."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word[2:].partition("=") if word.startswith("--") else (short.get(word[1:2], ""), "", "")
        if not word.startswith("-") or name not in names:
            continue
        if not word.startswith("--"):
            value, equals = word[2:], word[2:]
        if not equals and name not in FLAGS:
            value = rest.pop(0) if rest else ""
        found[name] = value
    return found


def _sets(script: str, name: str) -> bool:
    """Return whether a command of a script seems to say what the pilot has."""
    return _uses(script, rf"{_variable(name)}|--{name}\b")


def _uses(script: str, pattern: str) -> bool:
    """Return whether a command of a script matches a regular expression."""
    return any(re.search(pattern, line) for line in script.splitlines() if not line.lstrip().startswith("#"))


def _variable(name: str) -> str:
    return f"PICAS_{name.upper()}"


def _cores(options: Mapping[str, str]) -> int | None:
    """Return the processors of a pilot, see `Slurm.cores`."""
    each = whole_number(options.get("cpus-per-task", ""))
    if each or "exclusive" in options:
        return each or None
    if options.get("nodes", "1") == "1" and "ntasks" in options:
        return whole_number(options["ntasks"]) or None
    return whole_number(options.get("ntasks-per-node", "")) or None


def _gpus(options: Mapping[str, str]) -> int | None:
    """Return the GPUs of a job, None if that is unclear."""
    for name in ("gpus", "gpus-per-node"):
        if name in options:
            return _sum(options[name])
    if "gpus-per-task" in options:
        each, tasks = _sum(options["gpus-per-task"]), whole_number(options.get("ntasks", "1"))
        return None if tasks is None else each * tasks
    found = [gres.partition(":")[2] or "1" for gres in options.get("gres", "").split(",") if gres.startswith("gpu")]
    return _sum(",".join(found)) if found else 0


def _sum(text: str) -> int:
    """Return the number of GPUs in a text like "2", "a100", "a100:2" or "a100:1,v100:1"."""
    counts = [re.search(r"(?:^|:)(\d+)(?:\(.*)?$", part) for part in text.split(",")]
    return sum(int(count[1]) if count else 1 for count in counts)


def _memory(options: Mapping[str, str], cores: int | None, gpus: int | None) -> float | None:
    """Return the megabytes of a job on its node."""
    for name, count in (("mem", 1), ("mem-per-cpu", cores), ("mem-per-gpu", gpus)):
        if name in options:
            each = megabytes(options[name])  # 0 stands for all that the node has, and is none for `megabytes`
            return each * count if each and count else None
    return None
