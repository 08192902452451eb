"""The bins of the report: what is added up in bounded memory is exact, or as exact as it says."""

from __future__ import annotations

import random

import pytest

from picas.cli.report.bins import MOST_HELD, MOST_SHOWN, WIDTHS, Classes, Distribution, Timeline, edges_of, width_for

YEAR = 365 * 86_400


def test_each_width_divides_the_next() -> None:
    assert all(wider % width == 0 for width, wider in zip(WIDTHS, WIDTHS[1:]))


@pytest.mark.parametrize("span", [1, 3600, 2 * 86_400, 3 * YEAR])
def test_a_window_has_few_bins(span: int) -> None:
    width = width_for(span)
    assert 1 <= len(edges_of(1_700_000_123, 1_700_000_123 + span, width)) <= MOST_SHOWN + 1


@pytest.mark.parametrize("span", [600, 86_400, 2 * YEAR])
def test_counts_and_mean_levels_are_exact_however_wide_the_bins_become(span: int) -> None:
    draw = random.Random(span)
    start = 1_700_000_000 // WIDTHS[-4] * WIDTHS[-4]
    timeline = Timeline(("ends",), ("busy",))
    jobs = [(start + draw.random() * span, draw.random() * span / 20) for _ in range(20_000)]
    for begin, length in jobs:
        timeline.change("busy", begin, 2)
        timeline.change("busy", begin + length, -2)
        timeline.count("ends", begin + length)
    end = start + 1.1 * span
    width = max(width_for(1.1 * span), timeline.width)
    levels, means = timeline.level("busy", start, end, width)
    assert len(timeline._bins) <= MOST_HELD
    assert sum(timeline.counts("ends", start, end, width)) == 20_000
    assert sum(means) * width == pytest.approx(2 * sum(length for _, length in jobs), rel=1e-6)
    assert levels[-1] == pytest.approx(0)
    for number, edge in list(enumerate(edges_of(start, end, width)))[:: len(levels) // 5]:
        held = sum(2 for begin, length in jobs if begin < edge + width <= begin + length)
        assert levels[number] == held


def test_what_was_before_the_window_is_in_the_level_only() -> None:
    timeline = Timeline(("ends",), ("busy",), begin=1_700_000_000)
    timeline.change("busy", 1_600_000_000, 3)
    timeline.count("ends", 1_600_000_000)
    timeline.change("busy", 1_700_000_030, -1)
    assert timeline.level("busy", 1_700_000_000, 1_700_000_060, 60)[0][-1] == 2
    assert sum(timeline.counts("ends", 1_700_000_000, 1_700_000_060, 60)) == 0


def test_quantiles_are_known_to_within_two_and_a_half_percent() -> None:
    draw = random.Random(1)
    values = sorted(draw.lognormvariate(3, 1.5) for _ in range(5_001))
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    for share in (0.05, 0.5, 0.95):
        assert distribution.quantile(share) == pytest.approx(values[int(share * 5_000)], rel=0.026)
    assert distribution.largest == values[-1]
    assert Distribution().quantile(0.5) is None


def test_classes_begin_at_their_edges() -> None:
    classes = Classes((1, 10))
    for value in (0.0, 0.99, 1, 9.99, 10, 1e9):
        classes.add(value)
    assert list(classes) == [2, 2, 2]
