"""Interrupting Python code, and shielding it from that."""

# ruff: noqa: PT012 - these tests are about which of several lines a signal interrupts

import contextlib
import os
import signal
import threading
import time

import pytest
from support.workers import wait_for

from picas.exceptions import TokenTimeout
from picas.processes import interrupts
from picas.processes.interrupts import TimeLimit, exposed, interrupt, is_shielded, shielded

NEVER = 60.0


class Stop(BaseException):
    pass


def never_finished():
    return False


def no_children():
    return False


def raise_stop():
    raise Stop


@contextlib.contextmanager
def stop_on_signal():
    """Raise Stop on SIGUSR1, as soon as the code may be interrupted."""
    previous = signal.signal(signal.SIGUSR1, lambda signum, frame: interrupt(raise_stop))
    try:
        yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)


def in_thread(function):
    """Run a function in another thread, and return what it returns or raise what it raises."""
    outcome = []

    def call():
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(30)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def in_main(function):
    return function()


@pytest.fixture(params=[in_main, in_thread], ids=["main thread", "other thread"])
def somewhere(request):
    return request.param


def sleep_long():
    give_up = time.monotonic() + NEVER
    while time.monotonic() < give_up:
        time.sleep(0.01)


def spin():
    give_up = time.monotonic() + NEVER
    while time.monotonic() < give_up:
        pass


def limited(work, seconds=0.1, is_finished=never_finished, end_children=no_children, grace=NEVER):
    """Do work with a time limit; return the limit and the exception, if any."""
    limit = TimeLimit(seconds, is_finished, end_children, grace)
    try:
        with limit:
            work()
    except TokenTimeout as error:
        return limit, error
    return limit, None


@pytest.mark.timing
class TestTimeLimit:
    @pytest.mark.parametrize("work", [sleep_long, spin])
    def test_interrupts_code_that_takes_too_long(self, work, somewhere):
        began = time.monotonic()
        limit, error = somewhere(lambda: limited(work))
        assert isinstance(error, TokenTimeout)
        assert limit.expired
        assert 0.1 <= time.monotonic() - began < 10

    def test_interrupts_a_long_sleep_of_the_main_thread(self):
        began = time.monotonic()
        assert limited(lambda: time.sleep(NEVER))[1] is not None
        assert time.monotonic() - began < 10

    def test_does_not_interrupt_code_that_ends_in_time(self, somewhere):
        limit, error = somewhere(lambda: limited(lambda: None, seconds=NEVER))
        assert (limit.expired, error) == (False, None)

    def test_none_is_no_limit(self, somewhere):
        limit, error = somewhere(lambda: limited(lambda: time.sleep(0.05), seconds=None))
        assert (limit.expired, error) == (False, None)

    def test_does_not_interrupt_code_after_the_block(self, somewhere):
        def work():
            for _ in range(20):
                limited(lambda: time.sleep(0.01), seconds=0.01)
                time.sleep(0.01)

        somewhere(work)

    def test_except_exception_does_not_catch_it(self, somewhere):
        def work():
            while True:
                with contextlib.suppress(Exception):
                    sleep_long()

        assert somewhere(lambda: limited(work))[1] is not None

    def test_code_that_catches_it_is_interrupted_again(self, somewhere):
        hits = []

        def work():
            while len(hits) < 2:
                try:
                    sleep_long()
                except BaseException as error:
                    hits.append(error)

        limit, error = somewhere(lambda: limited(work, grace=0.1))
        assert error is None
        assert limit.expired
        assert len(hits) == 2

    def test_code_has_the_grace_period_to_clean_up(self, somewhere):
        cleaned = []

        def work():
            try:
                sleep_long()
            finally:
                time.sleep(0.6)  # longer than the pause between two interruptions
                cleaned.append(True)

        somewhere(lambda: limited(work))
        assert cleaned

    def test_finished_code_may_end_by_itself(self, somewhere):
        limit, error = somewhere(lambda: limited(lambda: time.sleep(0.5), is_finished=lambda: True))
        assert (limit.expired, error) == (False, None)
        assert limit.was_finished

    def test_finished_code_that_does_not_end_is_interrupted_after_the_grace_period(self, somewhere):
        limit, error = somewhere(lambda: limited(sleep_long, is_finished=lambda: True, grace=0.2))
        assert error is not None
        assert limit.was_finished

    def test_code_has_time_to_notice_that_its_children_were_ended(self, somewhere):
        ended = threading.Event()

        def end_children():
            ended.set()
            return True

        def work():
            ended.wait(NEVER)
            time.sleep(0.5)

        limit, error = somewhere(lambda: limited(work, end_children=end_children))
        assert error is None
        assert limit.expired

    def test_code_that_goes_on_without_its_children_is_interrupted(self, somewhere, monkeypatch):
        monkeypatch.setattr(interrupts, "SETTLE", 0.2)
        assert somewhere(lambda: limited(sleep_long, end_children=lambda: True))[1] is not None

    def test_waits_for_the_end_of_a_shield(self, somewhere):
        shielded_part = []

        def work():
            with shielded():
                time.sleep(0.5)
                shielded_part.append(True)
            sleep_long()

        limit, error = somewhere(lambda: limited(work))
        assert shielded_part
        assert error is not None
        assert limit.expired

    def test_code_that_ends_inside_a_shield_was_not_interrupted(self, somewhere):
        def work():
            with shielded():
                time.sleep(0.3)

        def three_times():
            return [limited(work, seconds=0.05) for _ in range(3)]

        for limit, error in somewhere(three_times):
            assert limit.expired == (error is not None)

    def test_restores_the_signal_handler(self):
        before = signal.getsignal(interrupts._WAKE)
        limited(sleep_long, seconds=0.01)
        assert signal.getsignal(interrupts._WAKE) == before

    def test_leaves_no_thread_behind(self, somewhere):
        somewhere(lambda: limited(sleep_long, seconds=0.01))
        wait_for(lambda: not any(thread.name == "picas-time-limit" for thread in threading.enumerate()))


def broken_off(work, grace=NEVER, seconds=NEVER):
    """Break off work in another thread; return whether its block was left, and what was raised."""
    begun, limits, raised = threading.Event(), [], []

    def run():
        limits.append(TimeLimit(None, never_finished, no_children, grace))
        try:
            with limits[0]:
                begun.set()
                work()
        except Stop as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(30)
    is_left = limits[0].break_off(Stop, seconds)
    thread.join(30)
    assert not thread.is_alive()
    assert not limits[0].expired
    return is_left, raised


@pytest.mark.timing
class TestBreakingOff:
    """A pilot that stops breaks off the code in its threads."""

    @pytest.mark.parametrize("work", [sleep_long, spin])
    def test_interrupts_code_that_has_no_limit(self, work):
        began = time.monotonic()
        is_left, raised = broken_off(work)
        assert is_left
        assert len(raised) == 1
        assert time.monotonic() - began < 10

    def test_waits_for_the_end_of_a_shield(self):
        shielded_part = []

        def work():
            with shielded():
                time.sleep(0.5)
                shielded_part.append(True)
            sleep_long()

        is_left, raised = broken_off(work)
        assert shielded_part
        assert (is_left, len(raised)) == (True, 1)

    def test_code_that_catches_it_is_interrupted_again(self):
        hits = []

        def work():
            while len(hits) < 2:
                try:
                    sleep_long()
                except Stop as error:
                    hits.append(error)

        assert broken_off(work, grace=0.1) == (True, [])
        assert len(hits) == 2

    def test_code_has_the_grace_period_to_clean_up(self):
        cleaned = []

        def work():
            try:
                sleep_long()
            finally:
                time.sleep(0.6)
                cleaned.append(True)

        is_left, raised = broken_off(work)
        assert cleaned
        assert (is_left, len(raised)) == (True, 1)

    def test_gives_up_after_some_time(self):
        def work():
            with shielded():
                time.sleep(1)

        began = time.monotonic()
        assert broken_off(work, seconds=0.1) == (False, [])
        assert time.monotonic() - began < 5

    def test_does_nothing_to_code_that_has_ended(self):
        def work():
            limit, _ = limited(lambda: None, seconds=None)
            assert limit.break_off(Stop, NEVER)
            time.sleep(0.05)

        in_thread(work)


class TestShield:
    def test_without_a_shield_an_interruption_takes_effect_immediately(self):
        with stop_on_signal() as send, pytest.raises(Stop):
            send()
            time.sleep(NEVER)

    def test_an_interruption_waits_for_the_end_of_the_outermost_shield(self):
        reached = []
        with stop_on_signal() as send, pytest.raises(Stop):
            with shielded():
                with shielded():
                    send()
                    reached.append("inner")
                reached.append("outer")
            reached.append("after")
        assert reached == ["inner", "outer"]

    def test_an_interruption_takes_effect_even_if_the_block_raises(self):
        with stop_on_signal() as send, pytest.raises(Stop), shielded():
            send()
            raise ValueError

    def test_without_an_interruption_the_exception_of_the_block_is_raised(self):
        with pytest.raises(ValueError), shielded():  # noqa: PT011
            raise ValueError

    def test_an_exposed_block_allows_interruptions(self):
        with stop_on_signal() as send, shielded():
            with pytest.raises(Stop), exposed():
                send()
                time.sleep(NEVER)
            assert is_shielded(threading.get_ident())

    def test_an_exposed_block_allows_an_earlier_interruption(self):
        reached = []
        with stop_on_signal() as send, shielded():
            send()
            with pytest.raises(Stop), exposed():
                reached.append("inside")
        assert reached == []

    def test_a_shield_in_an_exposed_block_works(self):
        reached = []
        with stop_on_signal() as send, shielded(), pytest.raises(Stop), exposed():
            with shielded():
                send()
                reached.append("shielded")
            reached.append("exposed")
        assert reached == ["shielded"]

    def test_an_exposed_block_without_a_shield_changes_nothing(self):
        with exposed():
            pass
        assert not is_shielded(threading.get_ident())

    def test_each_thread_has_its_own(self):
        with shielded():
            assert in_thread(lambda: is_shielded(threading.get_ident())) is False
