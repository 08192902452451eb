"""The report as one file of HTML: without scripts, and without anything from elsewhere.

Everything that comes from a token or a pilot is escaped, and its control characters are shown as text. This module
needs the extra `report`: import it with `util.import_extra`.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import islice

from ...util import one_line, visible
from ...version import VERSION
from ..output import local_time
from .chart_data import HEAT, LANES, Chart
from .charts import largest_groups
from .drawing import LEVELS, as_svg, legend_of, opacity_of, shade, swatch_role
from .style import style
from .survey import Survey
from .tables import COUNT, HOURS, MEMORY, MOST_ROWS, SECONDS, SHARE, TIMES, Table, cell_text, numbers_of
from .tallies import GroupTally
from .words import amount_text, count_text, hours_text, nouns, percent_text, span_text, time_text, width_text

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What the page may load and do: nothing, but for its own style."""
SLOWEST = 10
"""How many of the slowest attempts are listed on the page."""
MOST_GROUPS = 8
"""How many groups of failures are shown with their examples."""
MOST_VERSIONS = 10
"""How many versions are listed."""
_NUMBERS = frozenset({COUNT, SECONDS, HOURS, MEMORY, SHARE})
_LONG = 30  # characters of a text that may be broken into lines


def page_of(survey: Survey, charts: Sequence[Chart], tables: dict[str, Table], csv: str | None = None) -> Iterator[str]:
    """Yield the page in parts.

    :param survey: what is known of the pool
    :param charts: what `charts_of` made of it
    :param tables: what `tables_of` made of it
    :param csv: the folder with the whole tables as comma-separated values, None if there is none
    """
    by_name = {chart.name: chart for chart in charts}
    title = f"Report on the pool {survey.pool}"
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{_line(title)}</title><style>{style()}</style></head>\n<body>\n"
    )
    yield f"<header><h1>{_line(title)}</h1>{_facts(survey)}</header>\n<main>\n"
    yield _glance(survey)
    for name in ("states", "slots", "throughput"):
        if name in by_name:
            yield _section(by_name[name])
    if "states" not in by_name:
        yield "<section><h2>Over time</h2><p>Nothing has happened in this pool yet.</p></section>\n"
    slowest = tables["slowest"]
    ten = _table(slowest, islice(slowest.rows, SLOWEST), f"The {SLOWEST} longest attempts", is_whole=True)
    yield _section(by_name["durations"], (ten if slowest.rows else "") + _more(slowest, SLOWEST, csv))
    pilots = tables["pilots"]
    yield _section(by_name["pilots"], _folded(pilots, "All pilots as a table", csv))
    yield _failures(survey, by_name["failures"], tables["failures"], csv)
    outcomes = tables["outcomes"]
    by_outcome = _table(outcomes, outcomes.rows, outcomes.caption, is_whole=True) if outcomes.rows else ""
    yield _section(by_name["cost"], _cpu(survey) + by_outcome)
    yield _section(by_name["memory"], _folded(tables["memory"], "The numbers as a table", csv))
    yield _gaps(survey)
    yield f"</main>\n<footer>{_foot(survey, csv)}</footer>\n</body></html>\n"


# --- the beginning


def _facts(survey: Survey) -> str:
    window = survey.window
    versions = Counter(pilot.version or "unknown" for pilot in survey.crew.pilots)
    facts = [("Server", survey.server)]
    if window is None:
        facts.append(("Window", "nothing has happened yet"))
    else:
        begin, end = (time_text(when, window.width) for when in (window.start, window.end))
        asked_for = ", as asked for" if survey.since is not None else ""
        facts.append(("Window", f"{begin} to {end} ({span_text(window.end - window.start)}){asked_for}"))
    facts.append(("Read", f"{local_time(survey.read_at)}, within {span_text(survey.read_for)}"))
    facts.append(("Software", _versions(survey.software, "attempt") or "no attempt names any"))
    facts.append(("Releases of picas", _versions(versions, "pilot") or "no pilot is known"))
    entries = "".join(f"<dt>{name}</dt><dd>{_line(text)}</dd>" for name, text in facts)
    return f'<dl class="facts">{entries}</dl>'


def _versions(names: Counter[str], noun: str) -> str:
    most = names.most_common(MOST_VERSIONS)
    parts = [f"{one_line(name)} ({nouns(count, noun)})" for name, count in most]
    further = len(names) - len(most)
    return ", ".join(parts) + (f" and {count_text(further)} others" if further else "")


def _glance(survey: Survey) -> str:
    """Return the numbers that come first."""
    states, total = survey.states, survey.tokens
    spent = survey.core_seconds
    hours = sum(spent.values()) + survey.idle_seconds
    cards = [(count_text(total), "token" if total == 1 else "tokens")]
    for state in ("done", "error", "locked", "todo", "no state"):
        if state != "no state" or states[state]:
            share = f", {percent_text(states[state] / total)}" if total else ""
            cards.append((count_text(states[state]), f"{_in_state(state)}{share}"))
    cards.append((count_text(survey.attempts), "attempts ended"))
    cards.append((hours_text(hours), "core-hours" + (f", {percent_text(spent['done'] / hours)} done" if hours else "")))
    running = sum(pilot.is_running for pilot in survey.crew.pilots)
    cards.append((count_text(len(survey.crew.pilots)), f"pilots known, {count_text(running)} running"))
    items = "".join(f"<li><b>{number}</b><span>{text}</span></li>" for number, text in cards)
    parts = "".join(
        f'<i style="flex:{states[state]};background:var(--{state})"></i>'
        for state in ("done", "error", "locked", "todo")
        if states[state]
    )
    bar = f'<div class="share" aria-hidden="true">{parts}</div>' if total else ""
    return f'<section aria-label="At a glance">{bar}<ul class="cards">{items}</ul></section>\n'


def _in_state(state: str) -> str:
    return {"error": "in error", "no state": "in no state"}.get(state, state)


# --- charts


def _section(chart: Chart, further: str = "") -> str:
    """Return a section with a chart, its numbers, and what belongs to it."""
    note = f'<p class="note">{_line(chart.note)}</p>' if chart.note else ""
    picture = "" if chart.is_empty else _figure(chart)
    has_numbers = picture and chart.kind not in (LANES, HEAT) and chart.name != "memory"
    return (
        f'<section><div class="chart"><h2>{_line(chart.title)}</h2><p>{_line(chart.text)}</p>{picture}{note}</div>'
        f"{_numbers(chart) if has_numbers else ''}{further}</section>\n"
    )


def _figure(chart: Chart) -> str:
    wide, narrow = as_svg(chart), as_svg(chart, is_narrow=True)
    return f'<figure>{_legend(chart)}<div class="wide">{wide}</div><div class="narrow">{narrow}</div></figure>'


def _numbers(chart: Chart) -> str:
    table = numbers_of(chart)
    width = f", in steps of {width_text(chart.width)}" if chart.is_time else ""
    whole = _table(table, table.rows, f"{chart.title}: {chart.y_title}{width}")
    return f"<details><summary>{_line(chart.title)}: the numbers as a table</summary>{whole}</details>"


def _legend(chart: Chart) -> str:
    entries = "".join(f"<li>{_entry(chart, role, text)}</li>" for role, text in legend_of(chart))
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def _entry(chart: Chart, role: str, text: str) -> str:
    """Return an entry of a legend."""
    name = f"<span>{_line(text)}</span>"
    if role != "share":
        return _swatch(chart, role) + name
    steps = "".join(
        f'<i style="background:var(--work);opacity:{shade(level):.2f}"></i>' for level in range(0, LEVELS + 1, 2)
    )
    return f'{name}<span>0 %</span><span class="swatch steps" aria-hidden="true">{steps}</span><span>100 %</span>'


def _swatch(chart: Chart, role: str) -> str:
    if role in ("death", "retry"):
        mark, colour = ("✕", "dead") if role == "death" else ("|", "text")
        return f'<span class="swatch mark" style="color:var(--{colour})" aria-hidden="true">{mark}</span>'
    kind = " line" if role in ("slots", "asked") else ""
    look = f"background:var(--{swatch_role(chart, role)});opacity:{opacity_of(role):g}"
    return f'<span class="swatch{kind}" style="{look}" aria-hidden="true"></span>'


# --- tables


def _table(table: Table, rows: Iterable[Sequence[object]], caption: str, *, is_whole: bool = False) -> str:
    """Return a table that can be scrolled.

    :param is_whole: whether its height is not limited
    """
    columns = table.columns
    head = "".join(f'<th scope="col"{_class(column.kind)}>{_line(column.title)}</th>' for column in columns)
    body = []
    for row in rows:
        cells = []
        for place, (value, column) in enumerate(zip(row, columns)):
            text = cell_text(value, column.kind)
            look = _class(column.kind, len(text))
            tag = ("th", ' scope="row"') if place == 0 else ("td", "")
            cells.append(f"<{tag[0]}{tag[1]}{look}>{_line(text)}</{tag[0]}>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    region = f'class="scroll{" whole" if is_whole else ""}" role="region" tabindex="0" aria-label="{_line(caption)}"'
    return (
        f"<div {region}><table><caption>{_line(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _class(kind: str, length: int = 0) -> str:
    if kind in _NUMBERS:
        return ' class="number"'
    if kind in TIMES:
        return ' class="time"'
    return ' class="long"' if length > _LONG else ' class="short"' if length else ""


def _folded(table: Table, title: str, csv: str | None) -> str:
    """Return a table that is shown on demand."""
    if not table.rows:
        return ""
    shown = _table(table, islice(table.rows, MOST_ROWS), table.caption)
    return f"<details><summary>{_line(title)}</summary>{shown}{_more(table, MOST_ROWS, csv)}</details>"


def _more(table: Table, shown: int, csv: str | None) -> str:
    """Return where the rows are that the page does not show, if there are any."""
    if len(table.rows) <= shown:
        return ""
    where = "picas report --csv FOLDER saves them" if csv is None else f"they are in {csv}/{table.name}.csv"
    return f'<p class="note">The first {count_text(shown)} of {count_text(len(table.rows))} rows; {_line(where)}.</p>'


# --- failures


def _failures(survey: Survey, chart: Chart, table: Table, csv: str | None) -> str:
    groups = [group for group in largest_groups(survey) if not group.is_rest]
    cards = "".join(map(_card, groups[:MOST_GROUPS]))
    examples = f'<div class="examples">{cards}</div>' if cards else ""
    return _section(chart, examples + _folded(table, "All groups as a table", csv))


def _card(group: GroupTally) -> str:
    """Return a group of failures with an example."""
    parts = [nouns(group.attempts, "failed attempt"), f"{nouns(group.in_error, 'token')} in error now"]
    if group.last is not None:
        parts.append(f"the last at {time_text(group.last)}")
    lines = [f"<p>{_line(', '.join(parts))}.</p>"]
    if group.group:
        lines.append(f"<p>Its tokens: <code>picas ls error --reason {_quoted(group.group)}</code></p>")
    if group.tail:
        name = f"The end of {group.tail_name}"
        lines.append(
            f'<p>{_line(name)}:</p><pre tabindex="0" role="region" aria-label="{_line(name)}">{_text(group.tail)}</pre>'
        )
    else:
        lines.append(f"<p>For example: <code>picas show {_quoted(group.token)}</code></p>")
    return f"<article><h3>{_line(group.reason or 'no reason known')}</h3>{''.join(lines)}</article>"


# --- what else there is to say


def _cpu(survey: Survey) -> str:
    tallies = survey.outcomes.values()
    cores = sum(tally.cpu_core_seconds for tally in tallies)
    if not cores:
        return ""
    share = sum(tally.cpu_seconds for tally in tallies) / cores
    return (
        f"<p>The programs used {percent_text(share)} of the processor time that their cores had "
        f"({hours_text(cores)} core-hours, of attempts that say so).</p>"
    )


def _gaps(survey: Survey) -> str:
    """Return what the report does not know."""
    gaps = survey.gaps
    costed = sum(tally.costed for tally in survey.outcomes.values())
    known = [
        (survey.attempts - costed, "attempt", "whose duration or cores are unknown: not in the core-hours"),
        (gaps.full, "token", "kept the last 20 attempts only: older ones are in no sum"),
        (gaps.old, "token", "processed by a release that notes no attempts: only the state is known"),
        (gaps.undated, "token", "in a state since an unknown time: counted from the beginning"),
        (gaps.untimed, "attempt", "without sound times: in no chart over time"),
        (gaps.later, "attempt", "with times in the future, because a clock is wrong: in no chart over time"),
        (gaps.outliers, "attempt", "that began long before all others: not in the charts over time"),
        (gaps.earlier, "attempt", "that ended before the window: in no sum"),
        (gaps.unknown_pilots, "attempt", "by pilots that are no longer known: not in the chart of the pilots"),
        (gaps.idle_unknown, "pilot", "without idle hours within the window: these are in no sum"),
        (survey.states["no state"], "token", "in no state, so no pilot takes them: picas status names them"),
    ]
    items = "".join(f"<li>{nouns(number, noun)} {what}.</li>" for number, noun, what in known if number)
    if not survey.crew.are_all:
        items += "<li>There are more pilots that have ended than were read: only the newest count.</li>"
    listed = f"<ul>{items}</ul>" if items else "<p>Nothing that tokens and pilots should say is missing.</p>"
    return (
        f"<section><h2>What is not known</h2>{listed}"
        '<p class="note">All numbers come from what tokens and pilots have written down; what they have not is left '
        "out, not guessed. Medians and 95 % are known to within 2.5 %. Times are by the clocks of the pilots' "
        "machines, and shown in the time zone of the machine that made this report.</p></section>\n"
    )


def _foot(survey: Survey, csv: str | None) -> str:
    saved = "" if csv is None else f" All tables, and the numbers of all charts, are in {_line(csv)}/."
    return (
        f"Made by picas {_line(VERSION)} on {_line(local_time(survey.read_at) or '')} from "
        f"{nouns(survey.tokens, 'token')} and {amount_text(len(survey.crew.pilots))} pilots.{saved}"
    )


# --- text


def _line(text: str) -> str:
    """Return a text for HTML, on one line, with its control characters made visible."""
    return escape(visible(one_line(text)))


def _text(text: str) -> str:
    """Return a text of several lines for HTML."""
    return escape(visible(text))


def _quoted(text: str) -> str:
    """Return an argument of a command for HTML."""
    return _line(shlex.quote(text))
