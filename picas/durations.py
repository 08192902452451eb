"""Times that a pilot keeps to: each from an argument, else from the environment, else a default."""

from __future__ import annotations

import math
import os

from .exceptions import SettingsError


def duration(given: float | None, variable: str, default: float, *, least: float = 0.0) -> float:
    """Return a time in seconds.

    :param given: the argument, None for none
    :param variable: the name of the variable in the environment that has it otherwise
    :param default: what it is if neither says anything
    :param least: it must be at least this
    :raises SettingsError: if what was given is no such time
    """
    value: object = given
    name = f"the argument {variable[len('PICAS_') :].lower()}"
    if given is None:
        value, name = os.environ.get(variable) or default, variable
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if not least <= seconds:  # false for NaN too
        raise SettingsError(f"{name} must be a number of seconds, at least {least:g}, not {value!r}")
    return seconds
