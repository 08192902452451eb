"""The colours of the report, in light and in dark, by what they stand for.

They differ in brightness too, so that they can be told apart on a black-and-white print and by people who do not see
all colours.
"""

from __future__ import annotations

LIGHT = {
    "page": "#ffffff",
    "panel": "#f5f6f8",
    "text": "#1b1f24",
    "soft": "#545d68",
    "line": "#d5dae0",
    "link": "#0b57a4",
    "done": "#23866a",
    "locked": "#2c6cb5",
    "work": "#2c6cb5",
    "todo": "#c9ced6",
    "error": "#bf3f28",
    "failed": "#bf3f28",
    "retried": "#eba896",
    "stopped": "#dda12b",
    "lost": "#6b3f96",
    "other": "#7d8794",
    "idle": "#b3aba0",
    "slots": "#3c444d",
    "ended": "#2c6cb5",
    "running": "#23866a",
    "dead": "#bf3f28",
}
DARK = {
    "page": "#15181d",
    "panel": "#1e2329",
    "text": "#e6e9ed",
    "soft": "#a5aeb9",
    "line": "#363d46",
    "link": "#8cc1f5",
    "done": "#35a783",
    "locked": "#62a3e6",
    "work": "#62a3e6",
    "todo": "#4b5460",
    "error": "#f0785e",
    "failed": "#f0785e",
    "retried": "#86463a",
    "stopped": "#edc15b",
    "lost": "#b58ce0",
    "other": "#98a2af",
    "idle": "#8a8378",
    "slots": "#c4ccd5",
    "ended": "#62a3e6",
    "running": "#35a783",
    "dead": "#f0785e",
}
"""Both by role: that of a series, or of a part of the page."""

_STAND_INS = {f"#0{place:02x}fed": role for place, role in enumerate(LIGHT)}
"""Colours that nobody draws with: in a picture for the page they stand for roles."""
STAND_INS = {role: colour for colour, role in _STAND_INS.items()}


def with_variables(svg: str) -> str:
    """Return a picture drawn in STAND_INS with the variables of the page's style instead."""
    for colour, role in _STAND_INS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg


def css() -> str:
    """Return the variables of both looks as a style; paper is always light."""
    light, dark = ("".join(f"--{role}:{colour};" for role, colour in colours.items()) for colours in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "@media print{:root{color-scheme:light}}"
    )
