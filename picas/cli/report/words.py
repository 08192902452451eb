"""Numbers, times and durations as the report writes them."""

from __future__ import annotations

import math
from datetime import datetime, timezone

from ..output import local_time

_THIN = "\u202f"
"""A narrow space that keeps its line: between groups of digits."""


def count_text(number: float) -> str:
    """Return a whole number with its digits in groups of three: "12 345"."""
    return f"{number:,.0f}".replace(",", _THIN)


def amount_text(number: float) -> str:
    """Return a number with as many digits as people need: "1 234", "12.3", "0.0012"."""
    if number == 0 or abs(number) >= 100:
        return count_text(number)
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent_text(share: float) -> str:
    """Return a share as percents; one that is neither nothing nor all is never written as 0 % or 100 %."""
    percent = 100 * share
    if 0 < percent < 1:
        return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"
    if 99 < percent < 100:
        return f"{math.floor(percent * 10) / 10:.1f} %"
    return f"{percent:.0f} %"


def nouns(number: float, noun: str) -> str:
    """Return a number and a noun: "1 token", "12 345 tokens"."""
    return f"{count_text(number)} {noun}{'' if number == 1 else 's'}"


def span_text(seconds: float) -> str:
    """Return a duration in its two largest units: "0.25 s", "42 s", "3 min 20 s", "5 h 12 min", "2 d 3 h"."""
    if seconds < 60:
        return f"{amount_text(seconds) if seconds < 10 else round(seconds, 1):} s"
    whole = round(seconds)
    for size, name, smaller, small_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            large, rest = divmod(whole, size)
            small = rest // smaller
            return f"{count_text(large)} {name}" + (f" {small} {small_name}" if small else "")
    return f"{whole} s"


def width_text(seconds: float) -> str:
    """Return the width of a bin: "15 min", "1 h", "7 days"."""
    for size, name in ((86_400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            number = int(seconds // size)
            return f"{number} {name}{'s' if name == 'day' and number > 1 else ''}"
    return f"{seconds:g} s"


def hours_text(seconds: float) -> str:
    """Return seconds of cores as core-hours, without the unit: "12 345", "1.25"."""
    return amount_text(seconds / 3600)


def memory_text(megabytes: float) -> str:
    """Return megabytes with a unit: "380 MB", "6 GB"."""
    return f"{amount_text(megabytes / 1024)} GB" if megabytes >= 1024 else f"{amount_text(megabytes)} MB"


def time_text(seconds: float, step: float = 60) -> str:
    """Return a time on this machine's clock with its zone: "2026-11-29 16:04 CET"; "16:04:05" where seconds count.

    :param step: seconds between this time and the next one that is shown
    """
    if step % 60:
        return local_time(seconds) or ""
    return datetime.fromtimestamp(seconds, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M %Z")
