"""The numbers of a report as tables: what the page shows of them, and whole as comma-separated values."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..output import json_time
from .chart_data import HEAT, LANES, Chart
from .charts import largest_groups
from .survey import Survey
from .words import amount_text, count_text, memory_text, percent_text, span_text, time_text

MOST_ROWS = 1_000
"""The most rows of a table on the page."""
TEXT, COUNT, SECONDS, HOURS, MEMORY, SHARE = "text", "count", "seconds", "hours", "memory", "share"
TIME, MOMENT = "time", "moment"
"""Times to the minute, and to the second."""
TIMES = frozenset({TIME, MOMENT})
"""What is in a column; None is nothing that is known."""
_WRITTEN = {
    COUNT: count_text,
    SECONDS: span_text,
    HOURS: amount_text,
    TIME: time_text,
    MOMENT: lambda value: time_text(value, 1),
    MEMORY: memory_text,
    SHARE: percent_text,
}


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    """For people."""
    field: str
    """In comma-separated values, with the unit."""
    kind: str = TEXT


@dataclass(frozen=True)
class Table:
    """Rows of values, one for each column. Times are seconds since the epoch."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]


def cell_text(value: Any, kind: str) -> str:
    """Return a value as people read it; a dash stands for what is unknown."""
    if value is None or value == "":
        return "–"  # noqa: RUF001
    return _WRITTEN[kind](value) if kind in _WRITTEN else str(value)


def save_csv(table: Table, folder: Path) -> None:
    """Write a table into a file in a folder: values as they are, times in UTC by RFC 3339, nothing for the unknown.

    :raises OSError: if it can't be written
    """
    with (folder / f"{table.name}.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.field for column in table.columns])
        for row in table.rows:
            writer.writerow([_raw(value, column.kind) for value, column in zip(row, table.columns)])


def _raw(value: Any, kind: str) -> Any:
    if value is None:
        return ""
    return json_time(value) if kind in TIMES else value


def tables_of(survey: Survey) -> dict[str, Table]:
    """Return the tables of a survey, by name."""
    tables = (_outcomes(survey), _slowest(survey), _failures(survey), _pilots(survey), _memory(survey))
    return {table.name: table for table in tables}


def numbers_of(chart: Chart) -> Table:
    """Return the numbers of a chart. Those of lanes are their spans."""
    time = MOMENT if chart.width % 60 else TIME
    if chart.kind == LANES:
        columns = [Column("pilot", "pilot"), Column("start", "start", time), Column("end", "end", time)]
        columns += [Column("state", "state"), Column("at work", "share_at_work", SHARE)]
        rows: list[tuple[Any, ...]] = [
            (chart.rows[span.row], span.start, span.end, span.role, span.share) for span in chart.spans
        ]
        return Table(f"chart_{chart.name}", chart.title, columns, rows)
    kind = SHARE if chart.kind == HEAT else HOURS if chart.name in ("memory", "cost") else COUNT
    unit = f" ({chart.y_title})" if chart.name == "memory" else ""
    first = Column(f"from {chart.x_title}" if chart.is_time else chart.x_title, chart.x_title.replace(" ", "_"))
    columns = [
        Column(first.title, first.field, time if chart.is_time else TEXT),
        *(Column(series.name + unit, _field_of(series.name + unit), kind) for series in chart.series),
    ]
    rows = list(zip(chart.x, *(series.values for series in chart.series)))
    return Table(f"chart_{chart.name}", chart.title, columns, rows)


def _field_of(name: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def _outcomes(survey: Survey) -> Table:
    columns = (
        Column("outcome", "outcome"),
        Column("attempts", "attempts", COUNT),
        Column("median", "median_seconds", SECONDS),
        Column("95 % within", "p95_seconds", SECONDS),
        Column("longest", "longest_seconds", SECONDS),
        Column("core-hours", "core_hours", HOURS),
        Column("processor use", "cpu_share", SHARE),
    )
    rows = []
    for outcome, tally in sorted(survey.outcomes.items(), key=lambda each: -each[1].attempts):
        spent = tally.seconds
        rows.append(
            (
                outcome or "unknown",
                tally.attempts,
                spent.quantile(0.5),
                spent.quantile(0.95),
                spent.largest if spent.count else None,
                tally.core_seconds / 3600 if tally.costed else None,
                tally.cpu_seconds / tally.cpu_core_seconds if tally.cpu_core_seconds else None,
            )
        )
    return Table("outcomes", "Attempts by outcome", columns, rows)


def _slowest(survey: Survey) -> Table:
    columns = (
        Column("token", "token"),
        Column("attempt", "attempt", COUNT),
        Column("took", "seconds", SECONDS),
        Column("outcome", "outcome"),
        Column("started", "start", TIME),
        Column("host", "host"),
        Column("cores", "cores", COUNT),
        Column("reason", "reason"),
    )
    rows = [
        (
            each.token,
            each.number,
            each.seconds,
            each.outcome,
            each.start or None,
            each.host,
            each.cores or None,
            each.reason,
        )
        for each in survey.slowest.list()
    ]
    return Table("slowest", "The longest attempts", columns, rows)


def _failures(survey: Survey) -> Table:
    columns = (
        Column("group", "group"),
        Column("failed attempts", "failed_attempts", COUNT),
        Column("tokens in error now", "tokens_in_error", COUNT),
        Column("reason of the last", "reason"),
        Column("first", "first", TIME),
        Column("last", "last", TIME),
        Column("token of the last", "token"),
    )
    rows = [
        (each.group, each.attempts, each.in_error, each.reason, each.first, each.last, each.token)
        for each in largest_groups(survey)
    ]
    return Table("failures", "Groups of failures", columns, rows)


def _pilots(survey: Survey) -> Table:
    columns = (
        Column("pilot", "id"),
        Column("state", "state"),
        Column("host", "host"),
        Column("job", "job_id"),
        Column("release", "version"),
        Column("slots", "slots", COUNT),
        Column("start", "start", TIME),
        Column("end or last sign", "end", TIME),
        Column("busy hours", "busy_hours", HOURS),
        Column("idle hours", "idle_hours", HOURS),
        Column("done", "done", COUNT),
        Column("failed", "failed", COUNT),
    )
    rows = []
    known = survey.crew.lives
    for pilot in sorted(survey.crew.pilots, key=lambda each: (each.times.start or 0.0, each.id)):
        life = known.get(pilot.id)
        end = pilot.times.end if life is None else life.end
        rows.append(
            (
                pilot.id,
                pilot.state,
                pilot.host,
                pilot.job_id,
                pilot.version,
                pilot.slots,
                pilot.times.start,
                end,
                None if pilot.busy_seconds is None else pilot.busy_seconds / 3600,
                None if pilot.idle_seconds is None else pilot.idle_seconds / 3600,
                pilot.done,
                pilot.failed,
            )
        )
    return Table("pilots", "Pilots", columns, rows)


def _memory(survey: Survey) -> Table:
    columns = (
        Column("asked for", "asked_mb", MEMORY),
        Column("attempts", "attempts", COUNT),
        Column("median used", "median_mb", MEMORY),
        Column("95 % within", "p95_mb", MEMORY),
        Column("largest", "largest_mb", MEMORY),
        Column("used more", "attempts_above", COUNT),
    )
    rows = [
        (
            asked or None,
            used.count,
            used.quantile(0.5),
            used.quantile(0.95),
            used.largest,
            survey.memory.above[asked] if asked else None,
        )
        for asked, used in sorted(survey.memory.used.items(), key=lambda each: -each[1].count)
    ]
    return Table("memory", "Memory asked for and used", columns, rows)
