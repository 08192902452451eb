"""Waiting while the database is unreachable."""

import time

import pytest
from couchdb.http import Forbidden, ResourceNotFound, ServerError, Unauthorized

from picas.couch import outages
from picas.couch.outages import is_outage, wait_out
from picas.exceptions import LostAnswer, SettingsError, Unreachable

PASSING = [
    Unreachable("can't reach it"),
    LostAnswer("no answer"),
    ServerError((503, "busy")),
    ServerError((500, "oops")),
    Unauthorized(("unauthorized", "the password is being changed")),
]
LASTING = [
    Forbidden(("forbidden", "no")),
    ResourceNotFound(("not_found", "no_db_file")),
    ServerError((413, "too large")),
    SettingsError("no host"),
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(outages, "FIRST_PAUSE", 0.02)


class Flaky:
    """Raises one error for each call, and then returns "done"."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def not_stopped():
    return False


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_temporary_error_is_waited_out(error, caplog):
    action = Flaky(error, error, error)
    assert wait_out(action, 10, not_stopped) == "done"
    assert action.calls == 4
    assert "is away" in caplog.text
    assert "is back" in caplog.text


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_a_permanent_error_is_raised_at_once(error):
    action = Flaky(error)
    with pytest.raises(type(error)):
        wait_out(action, 10, not_stopped)
    assert action.calls == 1
    assert not is_outage(error)


def test_an_error_of_the_code_is_raised_at_once():
    with pytest.raises(ZeroDivisionError):
        wait_out(lambda: 1 // 0, 10, not_stopped)


def test_nothing_is_logged_without_an_outage(caplog):
    assert wait_out(Flaky(), 10, not_stopped) == "done"
    assert caplog.text == ""


@pytest.mark.timing
def test_the_last_error_is_raised_if_the_outage_lasts_too_long():
    action = Flaky(*[Unreachable(str(number)) for number in range(1000)])
    began = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        wait_out(action, 0.3, not_stopped)
    assert 0.3 <= time.monotonic() - began < 5
    assert str(caught.value) == str(action.calls - 1)


def test_pauses_grow_up_to_a_limit(monkeypatch):
    pauses = []
    monkeypatch.setattr(outages, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(outages, "wait_until", lambda condition, seconds: pauses.append(seconds))
    wait_out(Flaky(*[Unreachable("away")] * 12), 100, not_stopped)
    assert pauses[0] < 0.03
    assert 0.07 < min(pauses[5:]) <= max(pauses) < 0.13
    assert len(set(pauses)) == 12  # pilots do not retry at the same moments


def test_short_pauses_are_not_a_line_each(monkeypatch, caplog):
    monkeypatch.setattr(outages, "wait_until", lambda condition, seconds: None)
    wait_out(Flaky(*[Unreachable("away")] * 50), 100, not_stopped, longest_pause=0.1)
    assert caplog.text.count("is away") == 3  # at 0.02, 0.04 and 0.08 s; the others come within the next 30 s


@pytest.mark.timing
def test_a_stop_ends_the_waiting(monkeypatch):
    monkeypatch.setattr(outages, "FIRST_PAUSE", 60.0)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        wait_out(Flaky(*[Unreachable("away")] * 5), 600, lambda: time.monotonic() - began > 0.2)
    assert time.monotonic() - began < 5


def test_a_second_outage_may_last_as_long_as_the_first():
    """The clock restarts with every call, so that a pilot survives one outage a day."""
    for _ in range(3):
        assert wait_out(Flaky(Unreachable("away"), Unreachable("away")), 0.2, not_stopped) == "done"
