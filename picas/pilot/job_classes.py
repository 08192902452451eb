"""The autopilot's table: which jobs to start for which tokens."""

from __future__ import annotations

import configparser
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..batch import Granted
from ..exceptions import SettingsError
from ..tokens.resources import megabytes
from ..util import one_line, parse_duration
from ..views import DESIGN_DOC, FREE_VIEW

JOB_PREFIX = "picas-"
"""The beginning of the name of each job that the autopilot submits; the names of the class and the pool follow."""

_NUMBERS = {"slots": 1, "tokens": 1, "max_pilots": 0, "cores": 1, "gpus": 0}
"""The keys that are whole numbers, with the least value of each."""


@dataclass(frozen=True)
class JobClass:
    """One kind of tokens, and the jobs that are started for them."""

    name: str
    script: str
    """The batch script."""
    design_doc: str = DESIGN_DOC
    view: str = FREE_VIEW
    """The view of the waiting tokens."""
    slots: int = 1
    """The number of tokens that a pilot processes at a time."""
    tokens: int = 1
    """The number of tokens for each slot that makes a pilot worth starting."""
    max_pilots: int = 10
    """The largest number of jobs of this class at the same time, including queued jobs."""
    options: tuple[str, ...] = ()
    """Options of the command that submits jobs."""
    arguments: tuple[str, ...] = ()
    """Arguments of the batch script."""
    cores: int | None = None
    """The processors that a pilot has; None if the options or the script say so. The same goes for the next four."""
    memory: float | None = None
    """Megabytes of 2^20 bytes."""
    gpus: int | None = None
    tags: frozenset[str] | None = None
    walltime: float | None = None
    """The time limit of a job, in seconds."""

    @property
    def recipe(self) -> str:
        """What distinguishes these jobs from those before somebody has changed the table or the script."""
        try:
            script = Path(self.script).read_bytes()
        except OSError:
            script = b""
        return sha256(repr((script, self.arguments, self.options)).encode("utf-8", "replace")).hexdigest()[:8]

    def granted(self, *others: Granted) -> Granted:
        """Return what the jobs have: what the table says, else the first of some others that knows it."""
        said: dict[str, Any] = {}
        for item in fields(Granted):
            values = (getattr(each, item.name) for each in (self, *others))
            said[item.name] = next((value for value in values if value is not None), None)
        return Granted(**said)


def read_table(path: Path) -> list[JobClass]:
    """Return the classes in an INI file that has a section for each class; `JobClass` lists the keys.

    The path of a script is relative to the folder of the file.

    :raises SettingsError: if the file is invalid; the text names the section and the key
    :raises OSError: if the file can't be read
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a table of classes: {one_line(error)}") from None
    if not parser.sections():
        raise SettingsError(f"{path} has no class: a class begins with its name in brackets")
    return [_read_class(path, parser[name]) for name in parser.sections()]


def _read_class(path: Path, section: Mapping[str, str]) -> JobClass:
    name = getattr(section, "name", "")
    known = {item.name for item in fields(JobClass)} - {"name"}
    values: dict[str, Any] = {}
    for key, text in section.items():
        where = f"{path}, [{name}], {key}"
        if key not in known:
            raise SettingsError(f"{where}: unknown key; the keys are {', '.join(sorted(known))}")
        try:
            values[key] = _value(key, text)
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from None
    if not values.get("script"):
        raise SettingsError(f"{path}, [{name}]: the key script is missing")
    script = path.parent / values["script"]
    if not script.is_file():
        raise SettingsError(f"{path}, [{name}], script: there is no file {script}")
    return JobClass(name, **{**values, "script": str(script.resolve())})


def _value(key: str, text: str) -> Any:
    """Return the value of a key.

    :raises ValueError: if the text is invalid; the error says why
    """
    if "\0" in text:  # no command takes it
        raise ValueError("a null character is not allowed")
    if key in _NUMBERS:
        if not text.isdecimal() or int(text) < _NUMBERS[key]:
            raise ValueError(f"{text!r} is not a valid number")
        return int(text)
    if key in ("options", "arguments"):
        return tuple(shlex.split(text))
    if key == "memory":
        memory = megabytes(text)
        if memory is None:
            raise ValueError(f'{text!r} is not a number of megabytes, or like "4G"')
        return memory
    if key == "tags":
        return frozenset(tag.strip() for tag in text.split(",") if tag.strip())
    if key == "walltime":
        seconds = parse_duration(text)
        if not 0 < seconds < math.inf:
            raise ValueError(f'{text!r} is not a number of seconds, or like "12h"')
        return seconds
    if not text:
        raise ValueError("the value is missing")
    return text
