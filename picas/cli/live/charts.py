"""The charts of the live view, made of characters: a bar of the states, and columns over time.

Each state has a character of its own, so that the bar can be read without colours too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.text import Text

MARKS = {"done": ("█", "green"), "locked": ("▒", "cyan"), "error": ("▚", "red"), "todo": ("░", "")}
"""The character and the style of each state, in the order of the bar."""
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def bar(counts: Mapping[str, int], width: int) -> Text:
    """Return a bar of the tokens in each state. A state with any token has a character at least.

    :param counts: the number of tokens in each state
    :param width: how many characters wide it is
    """
    shown = Text()
    for state, length in zip(MARKS, _shares([counts[state] for state in MARKS], width)):
        mark, style = MARKS[state]
        shown.append(mark * length, style)
    return shown


def _shares(numbers: Sequence[int], width: int) -> list[int]:
    """Divide a width in proportion to numbers: each number above 0 has a share of 1 at least."""
    total = sum(numbers)
    if not total or width < len(numbers):
        return [0] * len(numbers)
    shares = [max(1, round(width * number / total)) if number else 0 for number in numbers]
    while sum(shares) != width:  # by rounding
        largest = max(range(len(shares)), key=lambda place: shares[place])
        shares[largest] += 1 if sum(shares) < width else -1
    return shares


def columns(values: Sequence[float], height: int) -> list[str]:
    """Return a chart with a column for each value, from the top line down. The largest value fills the height.

    :param values: the values, at least 0. Those above 0 are always visible.
    :param height: the number of lines
    """
    most = max(values, default=0)
    eighths = [math.ceil(8 * height * value / most) if most else 0 for value in values]
    return [
        "".join(_EIGHTHS[max(0, min(8, number - 8 * line))] for number in eighths) for line in reversed(range(height))
    ]
