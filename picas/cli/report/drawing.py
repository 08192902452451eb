"""Charts as pictures, drawn by matplotlib: as SVG for the page, whose style colours them, and as PNG.

This module needs the extra `report`: import it with `util.import_extra`.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from dateutil.tz import tzlocal  # type: ignore[import-untyped]
from matplotlib import dates
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Shape
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...util import one_line
from .chart_data import BARS, HEAT, LANES, STACKED, Chart, Series
from .colours import LIGHT, STAND_INS, with_variables
from .words import count_text, percent_text

WIDE, NARROW = (9.4, 3.3), (4.1, 3.1)
"""Sizes of pictures in inches: for a laptop and paper, and for a phone."""
DOTS = 160
"""Dots per inch of a PNG."""
MAX_LABEL = 26
"""The most characters of a label that is drawn."""
LONG_LABEL = 48
"""The same where there is room."""
LEVELS = 10
"""Shares are drawn in so many steps of darkness."""
_DAY = 86_400
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.axisbelow": True,
    "path.simplify": False,
    "text.usetex": False,
}


def as_svg(chart: Chart, *, is_narrow: bool = False) -> str:
    """Return a chart as an element of HTML, without a legend, in the colours of the page's style.

    :param is_narrow: whether it is for a phone
    """
    name = f"{chart.name}-{'narrow' if is_narrow else 'wide'}"
    with _settings(name):
        figure = _figure(chart, STAND_INS, is_narrow)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=True
        )
    return _inlined(file.getvalue(), name, chart)


def save_png(chart: Chart, path: Path) -> None:
    """Draw a chart with its legend into a file, in light colours.

    :raises OSError: if it can't be written
    """
    with _settings(chart.name):
        figure = _figure(chart, LIGHT, is_narrow=False)
        figure.suptitle(plain(chart.title), x=0.01, ha="left", fontsize=12, color=LIGHT["text"])
        _add_legend(figure, chart)
        figure.savefig(path, format="png", dpi=DOTS, facecolor=LIGHT["page"])


def plain(text: str, most: int = MAX_LABEL) -> str:
    """Return a text as matplotlib draws it as it is: on one line, not too long, and never as a formula.

    :param most: how many characters it may have
    """
    line = one_line(text)
    return (line if len(line) <= most else f"{line[: most - 1]}…").replace("$", r"\$")


def legend_of(chart: Chart) -> list[tuple[str, str]]:
    """Return the entries of a chart's legend: role and text."""
    entries: list[tuple[str, str]]
    if chart.kind == LANES:
        states = {span.role for span in chart.spans}
        entries = [
            (role, role if role != "dead" else "found dead") for role in ("ended", "running", "dead") if role in states
        ]
        marks = {mark.role for mark in chart.marks}
        return entries + [(role, text) for role, text in (("retry", "retry"), ("death", "death")) if role in marks]
    if chart.kind == HEAT:
        marks = {mark.role for mark in chart.marks}
        entries = [("share", "share of slots at work:")]
        entries += [("retried", "retries")] if "retry" in marks else []
        return entries + ([("death", "death of a pilot")] if "death" in marks else [])
    return [(series.role, series.name) for series in chart.series] if len(chart.series) > 1 else []


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """Use settings of matplotlib that are the same for every user, while a picture is drawn.

    :param name: makes the ids in an SVG the same each time
    """
    noise = logging.getLogger("matplotlib")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # characters that the font lacks: the page's own font may have them
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({**_RC, "svg.hashsalt": name})
            yield
    finally:
        noise.setLevel(level)


def _figure(chart: Chart, colours: Mapping[str, str], is_narrow: bool) -> Any:
    width, height = NARROW if is_narrow else WIDE
    if chart.kind in (LANES, HEAT, BARS):
        rows = len(chart.rows) if chart.kind in (LANES, HEAT) else len(chart.x)
        each = 0.25 if chart.kind == BARS else 0.035 if len(chart.rows) > 40 else 0.12
        height = min(max(1.0 + rows * each, 1.7), 7.5)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(colors=colours["soft"], labelcolor=colours["text"], length=3)
    for spine in axes.spines.values():
        spine.set_color(colours["line"])
    draw = {STACKED: _draw_stacked, BARS: _draw_bars, LANES: _draw_lanes, HEAT: _draw_heat}.get(chart.kind, _draw_lines)
    draw(axes, chart, colours, is_narrow)
    if chart.is_time:
        _set_time_axis(axes, chart, colours, is_narrow)
    return figure


def _set_time_axis(axes: Any, chart: Chart, colours: Mapping[str, str], is_narrow: bool) -> None:
    zone = tzlocal()
    locator = _locator(tz=zone, minticks=3, maxticks=5 if is_narrow else 10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_formatter(locator, tz=zone, show_offset=False, zero_formats=_DATES))
    axes.set_xlim(chart.x[0] / _DAY, (chart.x[-1] + chart.width) / _DAY)
    name = datetime.fromtimestamp(chart.x[-1], zone).tzname() or ""
    axes.set_xlabel(f"{chart.x_title} ({plain(name)})" if name else chart.x_title, color=colours["soft"])


_locator: Any = dates.AutoDateLocator
_formatter: Any = dates.ConciseDateFormatter
_DATES = ["", "%Y", "%b", "%a %-d %b", "%H:%M", "%H:%M"]
"""How ConciseDateFormatter writes the first tick of a year, a month, a day, and so on."""


def _set_values_axis(
    axes: Any, chart: Chart, colours: Mapping[str, str], axis: str = "y", *, is_narrow: bool = False
) -> None:
    one = getattr(axes, f"{axis}axis")
    one.set_major_locator(
        MaxNLocator(4 if is_narrow else 5, integer=chart.y_title.startswith(("token", "attempt", "failed")))
    )
    one.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.grid(axis=axis, color=colours["line"], linewidth=0.7)
    getattr(axes, f"set_{axis}label")(plain_title(chart.y_title), color=colours["soft"])
    getattr(axes, f"set_{axis}lim")(**{"bottom" if axis == "y" else "left": 0})


def plain_title(text: str) -> str:
    """Return a title of an axis, which is not shortened."""
    return text.replace("$", r"\$")


def _tick(value: float) -> str:
    return count_text(value) if value == round(value) else f"{value:g}"


def _values(series: Series) -> list[float]:
    return [value or 0.0 for value in series.values]


def _edges(chart: Chart) -> list[float]:
    """Return the edges of the bins, in days as matplotlib counts them."""
    return [x / _DAY for x in chart.x] + [(chart.x[-1] + chart.width) / _DAY]


def _draw_stacked(axes: Any, chart: Chart, colours: Mapping[str, str], is_narrow: bool) -> None:
    below = [0.0] * len(chart.x)
    for series in chart.series:
        top = [low + value for low, value in zip(below, _values(series))]
        axes.stairs(top, _edges(chart), baseline=below, fill=True, color=colours[series.role], linewidth=0)
        below = top
    _set_values_axis(axes, chart, colours, is_narrow=is_narrow)


def _draw_lines(axes: Any, chart: Chart, colours: Mapping[str, str], is_narrow: bool) -> None:
    for series in chart.series:
        is_filled = series.role == "work"
        axes.stairs(
            _values(series),
            _edges(chart),
            fill=is_filled,
            baseline=0 if is_filled else None,
            color=colours[series.role],
            alpha=0.75 if is_filled else None,
            linewidth=0 if is_filled else 1.4,
        )
    _set_values_axis(axes, chart, colours, is_narrow=is_narrow)


def _draw_bars(axes: Any, chart: Chart, colours: Mapping[str, str], is_narrow: bool) -> None:
    places = range(len(chart.x))
    if chart.is_stacked or len(chart.series) == 1:
        left = [0.0] * len(chart.x)
        for series in chart.series:
            roles = chart.x if series.role == "cost" else [series.role] * len(chart.x)
            shown = [_colour(role, series, chart, colours) for role in roles]
            axes.barh(places, _values(series), left=left, height=0.7, color=shown)
            left = [low + value for low, value in zip(left, _values(series))]
        room = max(left, default=0.0) or 1.0
        for place, value in zip(places, left):
            axes.text(value + room * 0.01, place, _tick_value(value), va="center", color=colours["text"], fontsize=8.5)
        axes.set_xlim(right=room * (1.16 if is_narrow else 1.1))
    else:
        _draw_ranges(axes, chart, colours)
    labels = list(chart.x)
    if chart.rows and not is_narrow:
        labels = [
            f"{reason}  {label}" if len(reason) < LONG_LABEL - 8 else f"{reason[: LONG_LABEL - 9]}…  {label}"
            for label, reason in zip(chart.x, map(one_line, chart.rows))
        ]
    axes.set_yticks(places, [plain(str(label), LONG_LABEL) for label in labels])
    axes.set_ylim(len(chart.x) - 0.4, -0.6)
    axes.set_ylabel(plain_title(chart.x_title), color=colours["soft"])
    _set_values_axis(axes, chart, colours, "x", is_narrow=is_narrow)


def _colour(role: str, series: Series, chart: Chart, colours: Mapping[str, str]) -> str:
    if chart.name == "failures" and series.role == "failed":
        return colours["retried"]
    return colours.get(role, colours["other"])


def _tick_value(value: float) -> str:
    return count_text(value) if value >= 100 or value == round(value) else f"{value:.3g}"


def _draw_ranges(axes: Any, chart: Chart, colours: Mapping[str, str]) -> None:
    """Draw how much was used, as bars of three lengths, and a mark at how much was asked for."""
    places = list(range(len(chart.x)))
    by_role = {series.role: _values(series) for series in chart.series}
    for role, height, alpha in (("largest", 0.16, 0.45), ("most", 0.42, 0.55), ("median", 0.66, 1.0)):
        axes.barh(places, by_role[role], height=height, color=colours["work"], alpha=alpha)
    for place, asked in zip(places, by_role["asked"]):
        if asked:
            axes.plot([asked, asked], [place - 0.42, place + 0.42], color=colours["failed"], linewidth=2.5)


def _boxes(axes: Any, boxes: Sequence[tuple[float, float, float, float]], colour: str, alpha: float) -> None:
    """Draw many boxes (left, right, bottom, top) as one shape."""
    points, codes = [], []
    for left, right, bottom, top in boxes:
        points += [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
        codes += [Shape.MOVETO, Shape.LINETO, Shape.LINETO, Shape.LINETO, Shape.CLOSEPOLY]
    axes.add_patch(PathPatch(Shape(points, codes), facecolor=colour, alpha=alpha, linewidth=0))


def _draw_lanes(axes: Any, chart: Chart, colours: Mapping[str, str], is_narrow: bool) -> None:
    boxes: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
    shortest = chart.width * len(chart.x) / 400  # even the shortest life can be seen
    for span in chart.spans:
        level = LEVELS if span.share is None else round(span.share * LEVELS)
        end = max(span.end, span.start + shortest)
        box = (span.start / _DAY, end / _DAY, span.row - 0.4, span.row + 0.4)
        boxes.setdefault((span.role, level), []).append(box)
    for (role, level), some in sorted(boxes.items()):
        _boxes(axes, some, colours[role], 0.25 + 0.65 * level / LEVELS)
    lives = {span.row: span for span in chart.spans}
    retries = [
        (min(max(mark.x + chart.width / 2, lives[mark.row].start), lives[mark.row].end), mark.row)
        for mark in chart.marks
        if mark.role == "retry"
    ]
    if retries:
        size = 5 if len(chart.rows) <= 40 else 2.5
        axes.plot(
            *zip(*((x / _DAY, row) for x, row in retries)),
            "|",
            color=colours["text"],
            markersize=size,
            markeredgewidth=0.8,
        )
    _draw_deaths(axes, chart, colours)
    _set_rows(axes, chart, colours, is_narrow)


def _draw_heat(axes: Any, chart: Chart, colours: Mapping[str, str], is_narrow: bool) -> None:
    boxes: dict[int, list[tuple[float, float, float, float]]] = {}
    for row, series in enumerate(chart.series):
        for x, value in zip(chart.x, series.values):
            if value is not None:
                box = (x / _DAY, (x + chart.width) / _DAY, row - 0.46, row + 0.46)
                boxes.setdefault(round(value * LEVELS), []).append(box)
    for level, some in sorted(boxes.items()):
        _boxes(axes, some, colours["work"], shade(level))
    _draw_deaths(axes, chart, colours)
    _set_rows(axes, chart, colours, is_narrow)
    retries = [mark for mark in chart.marks if mark.role == "retry"]
    if retries:  # bars above the rows
        height = max(3.0, len(chart.rows) / 9)
        most = max(mark.count for mark in retries)
        bars = [
            (mark.x / _DAY, (mark.x + chart.width) / _DAY, -1 - height * mark.count / most, -1.0) for mark in retries
        ]
        _boxes(axes, bars, colours["retried"], 1.0)
        axes.set_ylim(top=-1.4 - height)


def shade(level: int) -> float:
    """Return how opaque a step of a share is drawn."""
    return 0.1 + 0.85 * level / LEVELS


def _draw_deaths(axes: Any, chart: Chart, colours: Mapping[str, str]) -> None:
    deaths = [mark for mark in chart.marks if mark.role == "death"]
    if deaths:
        xs, rows = [mark.x / _DAY for mark in deaths], [mark.row for mark in deaths]
        axes.plot(xs, rows, "x", color=colours["page"], markersize=7, markeredgewidth=3.4)
        axes.plot(xs, rows, "x", color=colours["dead"], markersize=6, markeredgewidth=1.8)


def _set_rows(axes: Any, chart: Chart, colours: Mapping[str, str], is_narrow: bool) -> None:
    """Label the rows, as far as there is room for them."""
    number = len(chart.rows)
    axes.set_ylim(max(number, 1) - 0.4, -0.6)
    if chart.kind == LANES and number > 40:
        axes.set_yticks([])
    else:
        step = 1 if number <= 24 else 5
        places = range(0, number, step)
        axes.set_yticks(places, [plain(chart.rows[place], 12 if is_narrow else MAX_LABEL) for place in places])
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel(plain_title(chart.y_title), color=colours["soft"])
    axes.grid(axis="x", color=colours["line"], linewidth=0.7)


def _add_legend(figure: Any, chart: Chart) -> None:
    """Add a legend to a picture that stands alone."""
    handles: list[Any] = []
    for role, text in legend_of(chart):
        if role == "death":
            handles.append(Line2D([], [], color=LIGHT["dead"], marker="x", linestyle="", label=text))
        elif role == "retry":
            handles.append(Line2D([], [], color=LIGHT["text"], marker="|", linestyle="", label=text))
        elif role in ("slots", "asked"):
            handles.append(Line2D([], [], color=swatch_colour(chart, role), label=text))
        elif role == "share":
            handles += [
                Patch(color=LIGHT["work"], alpha=shade(level), label=percent_text(level / LEVELS))
                for level in (0, 5, 10)
            ]
        else:
            handles.append(
                Patch(color=swatch_colour(chart, role), alpha=opacity_of(role), label=plain(text, LONG_LABEL))
            )
    if handles:
        figure.legend(
            handles=handles, loc="outside upper right", ncols=min(5, len(handles)), frameon=False, fontsize=8.5
        )


def swatch_colour(chart: Chart, role: str) -> str:
    """Return the colour of an entry of a legend, of LIGHT."""
    return LIGHT[swatch_role(chart, role)]


def swatch_role(chart: Chart, role: str) -> str:
    """Return the role of the colours in which a series of a chart is drawn."""
    if chart.name == "failures" and role == "failed":
        return "retried"
    return {"asked": "failed", "median": "work", "most": "work", "largest": "work"}.get(role, role)


def opacity_of(role: str) -> float:
    """Return how opaque the series of a role is drawn."""
    return {"median": 1.0, "most": 0.55, "largest": 0.3}.get(role, 1.0)


# --- SVG in HTML


def _inlined(svg: str, name: str, chart: Chart) -> str:
    """Return an SVG as an element of HTML: named, described, without ids that others may have."""
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\bid="([^"]+)"', lambda found: f'id="{name}-{found.group(1)}"', inner)
    inner = re.sub(r'href="#', f'href="#{name}-', inner).replace("url(#", f"url(#{name}-").replace("xlink:href", "href")
    inner = re.sub(r"font: ([0-9.]+)px [^;\"]+", r"font-size: \1px", inner)
    inner = re.sub(r"\n\s*", "\n", with_variables(inner))
    inner = re.sub(r"(\d+\.\d\d)\d+", r"\1", inner)
    title, description = escape(chart.title), escape(one_line(chart.text))
    return (
        f'<svg role="img" aria-labelledby="{name}-t {name}-d" viewBox="{box.group(1) if box else ""}">'
        f'<title id="{name}-t">{title}</title><desc id="{name}-d">{description}</desc>{inner}</svg>'
    )
