"""The charts of a survey: what is to be drawn, and what is said of it."""

from __future__ import annotations

import math

from .bins import edges_of
from .chart_data import BARS, HEAT, LANES, LINES, STACKED, Chart, Mark, Series, Span
from .crew import DEATHS, Grid
from .survey import AT_WORK, ENDS, SLOTS, Survey, Window
from .tallies import DONE, DURATIONS, FAILED, LOST, OTHER, SHORT_OF, STOPPED, GroupTally
from .words import (
    amount_text,
    count_text,
    hours_text,
    memory_text,
    nouns,
    percent_text,
    span_text,
    time_text,
    width_text,
)

MOST_BARS = 12
"""The most bars of groups and amounts that are drawn; the rest is in the tables."""


def charts_of(survey: Survey) -> list[Chart]:
    """Return the charts of a survey, in the order in which they are to be seen."""
    over_time = [] if survey.window is None else _over_time(survey, survey.window)
    return [*over_time, _pilots(survey), _durations(survey), _cost(survey), _failures(survey), _memory(survey)]


def _over_time(survey: Survey, window: Window) -> list[Chart]:
    return [_states(survey, window), _slots(survey, window), _throughput(survey, window)]


def _times(window: Window) -> tuple[float, ...]:
    return tuple(edges_of(window.start, window.end, window.width))


def _states(survey: Survey, window: Window) -> Chart:
    """Return how many tokens were in each state at the end of each bin."""
    levels = {
        state: survey.timeline.level(state, window.start, window.end, window.width)[0]
        for state in ("done", "error", "locked")
    }
    in_a_state = survey.tokens - survey.states["no state"]
    levels["todo"] = [in_a_state - sum(values) for values in zip(*levels.values())]
    done, error, locked, todo = (count_text(survey.states[state]) for state in ("done", "error", "locked", "todo"))
    note = (
        "No token says when it was pushed: those that were pushed later count as todo from the beginning. "
        "A token that was put back counts as todo, also if it was in error until somebody retried it."
    )
    if survey.gaps.undated:
        note += f" {_of(survey.gaps.undated, 'token')} in a state since an unknown time."
    return Chart(
        "states",
        "States of the tokens",
        STACKED,
        "time",
        "tokens",
        _times(window),
        f"Of {nouns(survey.tokens, 'token')}, {done} are done, {error} in error, {locked} locked, and {todo} todo now.",
        note,
        tuple(
            Series(state, tuple(max(0.0, round(value)) for value in values), state) for state, values in levels.items()
        ),
        width=window.width,
        is_stacked=True,
    )


def _slots(survey: Survey, window: Window) -> Chart:
    """Return how many slots worked on tokens, and how many pilots had."""
    at_work, slots = (
        survey.timeline.level(name, window.start, window.end, window.width)[1] for name in (AT_WORK, SLOTS)
    )
    peak = max(range(len(at_work)), key=at_work.__getitem__)
    times = _times(window)
    text = (
        f"At most {amount_text(at_work[peak])} slots were at work, on average over the {width_text(window.width)} from "
        f"{time_text(times[peak], window.width)} on."
    )
    if sum(slots) and not survey.gaps.unknown_pilots:
        share = percent_text(min(1.0, sum(at_work) / sum(slots)))
        text = f"The slots of the pilots were at work for {share} of their time. {text}"
    unknown = survey.gaps.unknown_pilots
    note = "A token takes one slot for each core. Pilots that have ended are kept for 7 days."
    if unknown:
        note += (
            f" {_of(unknown, 'attempt')} by pilots that are not known any more, so more slots can be at work than "
            "known pilots had."
        )
    series = (_level("at work", at_work, "work"), _level("slots of all pilots", slots, "slots"))
    return Chart("slots", "Slots at work", LINES, "time", "slots", times, text, note, series, width=window.width)


def _level(name: str, values: list[float], role: str) -> Series:
    return Series(name, tuple(max(0.0, round(value, 3)) for value in values), role)


def _throughput(survey: Survey, window: Window) -> Chart:
    """Return how many attempts ended in each bin."""
    names = {DONE: "done", FAILED: "failed", STOPPED: "stopped", LOST: "lost", OTHER: "other"}
    counts = {name: survey.timeline.counts(name, window.start, window.end, window.width) for name in ENDS}
    series = tuple(
        Series(names[name], tuple(values), name)
        for name, values in counts.items()
        if name in (DONE, FAILED) or any(values)
    )
    done = sum(counts[DONE])
    hours = max(window.end - window.start, 1.0) / 3600
    most = max(counts[DONE], default=0.0)
    text = (
        f"{nouns(done, 'attempt')} succeeded, {amount_text(done / hours)} per hour on average; "
        f"at most {count_text(most)} in {width_text(window.width)}."
    )
    note = "The last bar is still growing. " if survey.states["locked"] else ""
    note += "Failed: also timed out and cancelled. Lost: the pilot died, or the token was taken away from it."
    return Chart(
        "throughput",
        "Throughput",
        STACKED,
        "time",
        f"attempts ended per {width_text(window.width)}",
        _times(window),
        text,
        note + _not_over_time(survey),
        series,
        width=window.width,
        is_stacked=True,
    )


def _not_over_time(survey: Survey) -> str:
    """Return which attempts are in no chart over time."""
    gaps, parts = survey.gaps, []
    if gaps.later:
        parts.append(f"{_of(gaps.later, 'attempt')} left out here: by their times they are in the future.")
    if gaps.untimed:
        parts.append(f"{_of(gaps.untimed, 'attempt')} left out here: they do not say when they were.")
    if gaps.outliers:
        parts.append(f"{_of(gaps.outliers, 'attempt')} left out here: they began long before all others.")
    if gaps.old:
        parts.append(f"{_of(gaps.old, 'token')} left out here: older releases have noted no attempts.")
    return "".join(f" {part}" for part in parts)


def _pilots(survey: Survey) -> Chart:
    grid, crew = survey.grid, survey.crew
    lives = [life for row in grid.rows for life in row]
    dead = sum(life.is_dead for life in lives)
    running = sum(life.pilot.is_running for life in lives)
    text = (
        f"{nouns(len(lives), 'pilot')}: {count_text(running)} running, {count_text(dead)} found dead, "
        f"{count_text(len(lives) - dead - running)} ended. {count_text(survey.retries)} of "
        f"{nouns(survey.attempts, 'attempt')} followed one that had failed or was lost."
    )
    note = "In the order of their starts, by their own clocks. Pilots that have ended are kept for 7 days."
    if grid.left_out:
        why = "they ended before the window, or their times are unknown or wrong"
        note += f" {_of(grid.left_out, 'pilot')} left out: {why}."
    if not crew.are_all:
        note += " Only the newest of those that have ended were read."
    return _lanes(grid, text, note) if grid.has_lanes else _heat(grid, text, note)


def _lanes(grid: Grid, text: str, note: str) -> Chart:
    spans: list[Span] = []
    rows: list[str] = []
    for row, (life,) in enumerate(grid.rows):
        pilot = life.pilot
        known = (pilot.busy_seconds or 0.0) + (pilot.idle_seconds or 0.0)
        share = round((pilot.busy_seconds or 0.0) / known, 4) if known else None
        spans.append(Span(row, max(life.start, grid.start), life.end, pilot.state, share))
        rows.append(pilot.host or pilot.id)
    return Chart(
        "pilots",
        "Pilots",
        LANES,
        "time",
        "pilots",
        tuple(grid.columns),
        text,
        note + f" Retries are put together in steps of {width_text(grid.width)}. The darker a lane, the busier.",
        width=grid.width,
        rows=tuple(rows),
        spans=tuple(spans),
        marks=(*_retries(grid), *_deaths(grid)),
    )


def _heat(grid: Grid, text: str, note: str) -> Chart:
    number = max(map(len, grid.rows))
    first = 1
    rows, series = [], []
    for row, lives in enumerate(grid.rows):
        label = f"{first} to {first + len(lives) - 1}" if len(lives) > 1 else str(first)
        first += len(lives)
        rows.append(label)
        values = tuple(None if share is None else round(share, 3) for share in grid.shares(row))
        series.append(Series(label, values, "share"))
    retries = _retries_together(grid)
    most = max((mark.count for mark in retries), default=0)
    return Chart(
        "pilots",
        "Pilots",
        HEAT,
        "time",
        f"pilots, {number} in a row",
        tuple(grid.columns),
        text,
        note
        + f" Each row has up to {number} pilots, each column {width_text(grid.width)}. Shown is the share of their "
        f"slots that was at work. Above, the retries in each column, at most {count_text(most)}.",
        tuple(series),
        width=grid.width,
        rows=tuple(rows),
        marks=(*retries, *_deaths(grid)),
    )


def _retries_together(grid: Grid) -> tuple[Mark, ...]:
    counts = [sum(column) for column in zip(*grid.retries)]
    return tuple(Mark(-1, x, "retry", int(count)) for x, count in zip(grid.columns, counts) if count)


def _retries(grid: Grid) -> tuple[Mark, ...]:
    return tuple(
        Mark(row, x, "retry", int(count))
        for row, counts in enumerate(grid.retries)
        for x, count in zip(grid.columns, counts)
        if count
    )


def _deaths(grid: Grid) -> tuple[Mark, ...]:
    """Return a mark for each time at which pilots of a row have died; deaths at about the same time share one."""
    deaths = [(row, life.end) for row, lives in enumerate(grid.rows) for life in lives if life.is_dead]
    deaths = [(row, end) for row, end in deaths if end >= grid.start]
    width = float(grid.width)
    while True:
        found: dict[tuple[int, float], list[float]] = {}
        for row, end in deaths:
            found.setdefault((row, end // width), []).append(end)
        if grid.has_lanes or len(found) <= DEATHS or width > grid.end:
            return tuple(Mark(row, ends[0], "death", len(ends)) for (row, _), ends in found.items())
        width *= 2


def _durations(survey: Survey) -> Chart:
    """Return how long attempts took, in classes."""
    sums: dict[str, list[int]] = {}
    known = dict.fromkeys((DONE, FAILED), 0)
    for outcome, tally in survey.outcomes.items():
        short = SHORT_OF.get(outcome, OTHER)
        counts = sums.setdefault(short, [0] * (len(DURATIONS) + 1))
        sums[short] = [one + other for one, other in zip(counts, tally.classes)]
        known[short] = known.get(short, 0) + tally.seconds.count
    used = [place for place in range(len(DURATIONS) + 1) if any(counts[place] for counts in sums.values())]
    shown = range(used[0], used[-1] + 1) if used else range(0)
    series = tuple(
        Series(short, tuple(float(sums[short][place]) for place in shown), short)
        for short in (DONE, FAILED, STOPPED, LOST, OTHER)
        if any(sums.get(short, ()))
    )
    done = survey.outcomes.get("done")
    text = f"The durations of {nouns(sum(known.values()), 'attempt')} are known."
    if done is not None and done.seconds.count:
        median, most = done.seconds.quantile(0.5) or 0.0, done.seconds.quantile(0.95) or 0.0
        text += (
            f" Half of those that succeeded took up to about {span_text(median)}, 95 % up to about {span_text(most)}, "
            f"the longest {span_text(done.seconds.largest)}."
        )
    unknown = survey.attempts - sum(known.values())
    note = f"{_of(unknown, 'attempt')} left out: nobody knows how long they took." if unknown else ""
    if any(known.get(short) for short in (LOST,)):
        note = f"{note} Lost attempts count up to the last sign of life of their pilot.".strip()
    labels = tuple(_class_label(place) for place in shown)
    return Chart(
        "durations", "Durations by outcome", BARS, "duration", "attempts", labels, text, note, series,
        is_time=False, is_stacked=True,
    )  # fmt: skip


def _class_label(place: int) -> str:
    if place == 0:
        return f"< {_edge(DURATIONS[0])}"
    if place == len(DURATIONS):
        return f"≥ {_edge(DURATIONS[-1])}"
    low, high = _edge(DURATIONS[place - 1]), _edge(DURATIONS[place])
    number, unit = low.split()
    return f"{number} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def _edge(seconds: float) -> str:
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {name}"
    return f"{seconds:g} s"


def _cost(survey: Survey) -> Chart:
    """Return the core-hours by what they were spent on."""
    spent = {**survey.core_seconds, "idle": survey.idle_seconds}
    names = (DONE, FAILED, STOPPED, LOST, *([OTHER] if spent[OTHER] else []), "idle")
    total = sum(spent.values())
    parts = ", ".join(f"{hours_text(spent[name])} {name}" for name in names)
    text = f"{hours_text(total)} core-hours: {parts}."
    if total:
        text += f" {percent_text(spent[DONE] / total)} of them led to tokens that are done."
    note = "The cores that an attempt held times its duration. An idle slot counts as one core."
    unknown = survey.attempts - sum(tally.costed for tally in survey.outcomes.values())
    if unknown:
        note += f" {_of(unknown, 'attempt')} left out: their durations or their cores are unknown."
    if survey.gaps.idle_unknown:
        note += (
            f" The idle time of {nouns(survey.gaps.idle_unknown, 'pilot')} is left out: it is unknown, or was not only "
            "within the window."
        )
    if survey.gaps.old:
        note += f" {_of(survey.gaps.old, 'token')} left out: older releases have not noted what they took."
    values = tuple(round(spent[name] / 3600, 6) for name in names)
    series = (Series("core-hours", values, "cost"),)
    return Chart("cost", "Core-hours", BARS, "spent on", "core-hours", names, text, note, series, is_time=False)


def largest_groups(survey: Survey) -> list[GroupTally]:
    """Return the groups of failures, that with the most failed attempts first. Those not told apart are the last."""
    return sorted(survey.groups.values(), key=lambda group: (group.is_rest, -group.attempts, group.group))


def _failures(survey: Survey) -> Chart:
    groups = largest_groups(survey)
    shown = groups[:MOST_BARS]
    labels = tuple(group.group or "no group" for group in shown)
    attempts = sum(group.attempts for group in groups)
    more_than = "more than " if groups and groups[-1].is_rest else ""
    known = len(groups) - bool(more_than)
    text = (
        f"{nouns(attempts, 'attempt')} failed in {more_than}{nouns(known, 'way')}."
        if groups
        else "No attempt has failed."
    )
    if groups:
        text += f" The most frequent, {groups[0].group or 'without a group'}: {nouns(groups[0].attempts, 'attempt')}."
    rest = groups[MOST_BARS:]
    further = sum(group.attempts for group in rest)
    note = (
        f"{more_than.capitalize()}{nouns(known - len(shown), 'further group')} with {nouns(further, 'attempt')} in "
        "the table."
        if rest
        else ""
    )
    in_error = tuple(float(group.in_error) for group in shown)
    others = tuple(float(group.attempts - group.in_error) for group in shown)
    series = (Series("token in error now", in_error, "error"), Series("token not in error any more", others, FAILED))
    return Chart(
        "failures", "Failures by group", BARS, "group", "failed attempts", labels, text, note, series,
        is_time=False, is_stacked=True, rows=tuple(group.reason or "no reason known" for group in shown),
    )  # fmt: skip


def _memory(survey: Survey) -> Chart:
    """Return the memory that attempts used, by what their tokens asked for."""
    tally = survey.memory
    known = sorted(tally.used.items(), key=lambda each: -each[1].count)
    shown = sorted(known[:MOST_BARS], key=lambda each: math.inf if each[0] is None else each[0])
    labels = tuple(_asked_label(asked) for asked, _ in shown)
    used = [distribution for _, distribution in shown]
    unit, size = ("GB", 1024) if any(each.largest >= 2048 for each in used) else ("MB", 1)
    series = (
        Series("used: median", tuple(_in_units(each.quantile(0.5), size) for each in used), "median"),
        Series("used: 95 %", tuple(_in_units(each.quantile(0.95), size) for each in used), "most"),
        Series("used: largest", tuple(_in_units(each.largest, size) for each in used), "largest"),
        Series("asked for", tuple(_in_units(asked or None, size) for asked, _ in shown), "asked"),
    )
    parts = [
        f"Where {memory_text(asked)} were asked for, half of the attempts used up to about "
        f"{memory_text(each.quantile(0.5) or 0.0)}, and the largest {memory_text(each.largest)}."
        for asked, each in shown
        if asked
    ]
    attempts = sum(each.count for each in tally.used.values())
    text = " ".join([f"The memory of {nouns(attempts, 'attempt')} is known.", *parts[:3]])
    above = sum(tally.above.values())
    if above:
        text += f" {nouns(above, 'attempt')} used more than was asked for."
    note = "The resident memory of the largest process of an attempt, 1 MB being 2^20 bytes."
    if survey.attempts > attempts:
        note += f" {_of(survey.attempts - attempts, 'attempt')} left out: their memory is unknown."
    title = "Memory asked for and used"
    return Chart("memory", title, BARS, "asked for", unit, labels, text, note, series, is_time=False)


def _in_units(value: float | None, size: int) -> float | None:
    return None if value is None else round(value / size, 4)


def _asked_label(asked: float | None) -> str:
    if asked is None:
        return "other amounts"
    return memory_text(asked) if asked else "nothing"


def _of(number: int, noun: str) -> str:
    """Return "1 token is" or "3 tokens are"."""
    return f"{nouns(number, noun)} {'is' if number == 1 else 'are'}"
