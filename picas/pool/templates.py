"""Templates: texts with names in braces, which are replaced by the values of a row, or of a token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from ..exceptions import UsageError
from ..executers import as_text
from ..util import nearest, one_line

MAX_NAMES = 20
"""How many names an error lists."""

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class UnknownName(LookupError):
    """A template names something that has no value."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Template:
    """A text with names in braces, like `fit {name} --alpha {alpha}`. `{{` and `}}` stand for the braces themselves.

    :param text: the text
    :raises UsageError: if a brace has no counterpart, or there is no name between two
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts: list[tuple[str, str]] = []  # a text, and the name whose value follows it
        plain, end = "", 0
        for found in _PART.finditer(text):
            plain, end = plain + text[end : found.start()], found.end()
            name = found.group(1)
            if name is not None and name.strip():
                self._parts.append((plain, name))
                plain = ""
            elif found.group() in ("{{", "}}"):
                plain += found.group()[0]
            else:
                what = "no name between its braces" if name is not None else f"a single {found.group()}"
                raise UsageError(f"the template {one_line(text)!r} has {what}: write {{{{ and }}}} for braces")
        self._end = plain + text[end:]

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the text, in its order."""
        return tuple(name for _, name in self._parts)

    def fill(self, values: Mapping[str, Any], quote: Callable[[str], str] = str) -> str:
        """Return the text with the value of each name: a text unchanged, anything else as JSON.

        :param values: the values by their names
        :param quote: applied to the text of each value, for example `shlex.quote`
        :raises UnknownName: if a name has no value
        """
        done = []
        for plain, name in self._parts:
            if name not in values:
                raise UnknownName(name)
            done += [plain, quote(as_text(values[name]))]
        return "".join([*done, self._end])


def listed(names: Iterable[str], wanted: str) -> str:
    """Return the names that there are instead of a name, for an error: "a, b, c, did you mean 'b'?".

    :param wanted: the name
    """
    known = [one_line(name) for name in names]
    more = len(known) - MAX_NAMES
    shown = ", ".join(known[:MAX_NAMES]) + (f" and {more} others" if more > 0 else "")
    return shown + nearest(wanted, known)
