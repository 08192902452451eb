"""The charts of the live view."""

from __future__ import annotations

import pytest

from picas.cli.live.charts import bar, columns


@pytest.mark.parametrize(
    ("todo", "locked", "done", "error", "shown"),
    [
        (0, 0, 0, 0, ""),
        (5, 0, 5, 0, "█████░░░░░"),
        (999_998, 1, 1, 0, "█▒░░░░░░░░"),
        (1, 1, 1, 1_000_000, "█▒▚▚▚▚▚▚▚░"),
        (1, 1, 1, 0, "███▒▒▒▒░░░"),
    ],
)
def test_a_bar_shows_every_state_that_has_tokens(todo: int, locked: int, done: int, error: int, shown: str) -> None:
    text = bar({"todo": todo, "locked": locked, "done": done, "error": error}, 10)
    assert len(text.plain) in (0, 10)
    assert set(text.plain) == set(shown)
    if shown != "███▒▒▒▒░░░":  # by rounding, any of them may be the longest
        assert text.plain == shown


def test_a_bar_without_room_is_empty() -> None:
    assert bar({"todo": 1, "locked": 1, "done": 1, "error": 1}, 2).plain == ""


def test_columns_fill_the_height_and_the_smallest_is_visible() -> None:
    assert columns([0, 1, 50, 100], 1) == [" ▁▄█"]
    assert columns([0, 1, 50, 100], 2) == ["   █", " ▁██"]
    assert columns([], 2) == ["", ""]
    assert columns([0, 0], 1) == ["  "]
