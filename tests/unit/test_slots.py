"""Threads that process tokens concurrently, whatever a token is."""

import os
import signal
import threading
import time

import pytest
from support.workers import wait_for

from picas.pilot.slots import MainSlot, ThreadSlots

PATIENCE = 20.0


@pytest.fixture
def slots():
    """Return a function that opens slots; they are closed, and their threads have ended, after the test."""
    opened = []

    def open_slots(count, work=lambda token: None):
        opened.append(ThreadSlots(count, work))
        return opened[-1]

    yield open_slots
    for each in opened:
        each.close()
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("picas-slot")])


def collect_all(slots, count):
    collected = []
    give_up = time.monotonic() + PATIENCE
    while len(collected) < count:
        assert time.monotonic() < give_up
        collected += slots.collect(PATIENCE)
    return collected


def test_as_many_tokens_as_slots_are_at_work_at_once(slots):
    together = threading.Barrier(3, timeout=PATIENCE)
    three = slots(3, lambda token: together.wait())
    for token in "abc":
        three.start(token)
    assert sorted(collect_all(three, 3)) == ["a", "b", "c"]


def test_a_slot_is_free_again_once_its_token_is_collected(slots):
    go = threading.Event()
    two = slots(2, lambda token: go.wait(PATIENCE))
    assert two.running == set()
    two.start("a")
    two.start("b")
    assert two.running == {"a", "b"}
    go.set()
    collect_all(two, 2)
    assert two.running == set()


def test_an_ended_token_is_visible_before_it_is_collected(slots):
    one = slots(1)
    assert not one.has_ended()
    one.start("a")
    wait_for(one.has_ended)
    assert one.running == {"a"}
    assert one.collect(0) == ["a"]
    assert not one.has_ended()


def test_a_thread_processes_one_token_after_the_other(slots):
    threads = []
    one = slots(1, lambda token: threads.append(threading.get_ident()))
    for token in range(5):
        one.start(token)
    assert collect_all(one, 5) == list(range(5))
    assert len(set(threads)) == 1


def test_tokens_that_end_together_are_collected_together(slots):
    together = threading.Barrier(4, timeout=PATIENCE)
    four = slots(4, lambda token: together.wait())
    for token in range(4):
        four.start(token)
    wait_for(four.has_ended)
    time.sleep(0.05)
    assert sorted(four.collect(PATIENCE)) == [0, 1, 2, 3]


def test_collecting_does_not_wait_for_tokens_that_are_still_at_work(slots):
    go = threading.Event()
    two = slots(2, lambda token: token == "slow" and go.wait(PATIENCE))
    two.start("slow")
    two.start("fast")
    assert two.collect(PATIENCE) == ["fast"]
    go.set()
    assert two.collect(PATIENCE) == ["slow"]


@pytest.mark.timing
def test_collecting_gives_up_after_its_time_out(slots):
    go = threading.Event()
    one = slots(1, lambda token: go.wait(PATIENCE))
    one.start("a")
    began = time.monotonic()
    assert one.collect(0.1) == []
    assert 0.1 <= time.monotonic() - began < PATIENCE / 2
    go.set()


def test_collecting_times_out_even_if_a_signal_handler_takes_longer(slots):
    """A `SimpleQueue` does not time out then: the signal that should stop the pilot would make it hang."""
    go = threading.Event()
    one = slots(1, lambda token: go.wait(PATIENCE))
    one.start("a")
    previous = signal.signal(signal.SIGUSR1, lambda signum, frame: time.sleep(0.3))
    kill = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    rescue = threading.Timer(PATIENCE / 4, go.set)
    for timer in (kill, rescue):
        timer.start()
    try:
        assert one.collect(0.1) == []
        assert not go.is_set()
    finally:
        signal.signal(signal.SIGUSR1, previous)
        rescue.cancel()
        go.set()


@pytest.mark.timing
def test_collecting_ends_early_if_the_condition_is_true(slots):
    one = slots(1)
    began = time.monotonic()
    assert one.collect(PATIENCE, lambda: time.monotonic() - began > 0.05) == []
    assert time.monotonic() - began < PATIENCE / 2


def test_ended_tokens_are_collected_even_if_the_condition_is_true(slots):
    """Otherwise a free slot without a token would keep ended tokens from being saved."""
    two = slots(2)
    two.start("a")
    wait_for(two.has_ended)
    assert two.collect(PATIENCE, lambda: True) == ["a"]


def test_closing_the_slots_ends_their_threads(slots):
    before = set(threading.enumerate())
    three = slots(3)
    mine = set(threading.enumerate()) - before
    assert sorted(thread.name for thread in mine) == ["picas-slot-0", "picas-slot-1", "picas-slot-2"]
    assert all(thread.daemon for thread in mine)  # code that hangs does not keep the process alive
    three.close()
    wait_for(lambda: not any(thread.is_alive() for thread in mine))


@pytest.mark.parametrize("count", [0, 2, 9])
def test_tokens_that_wait_can_be_taken_back(slots, count):
    go = threading.Event()
    one = slots(1, lambda token: go.wait(PATIENCE))
    for token in range(5):
        one.start(token)
    wait_for(lambda: one.waiting() == 4)
    taken = one.take_back(count)
    assert len(taken) == min(count, 4)
    assert one.waiting() == 4 - len(taken)
    assert one.running == set(range(5)) - set(taken)
    go.set()
    assert collect_all(one, 5 - len(taken)) == [token for token in range(5) if token not in taken]


@pytest.mark.timing
def test_ended_tokens_are_not_collected_at_once_while_enough_others_wait(slots):
    go = threading.Event()
    one = slots(1, lambda token: token < 3 or go.wait(PATIENCE))
    one.reserve = 1
    for token in range(6):
        one.start(token)
    wait_for(lambda: one.waiting() == 2)
    began = time.monotonic()
    assert one.collect(0.2) == [0, 1, 2]
    assert time.monotonic() - began >= 0.2
    go.set()
    assert collect_all(one, 3) == [3, 4, 5]


def test_a_token_that_was_started_before_the_close_is_still_processed(slots):
    done = []
    one = slots(1, done.append)
    one.start("a")
    one.close()
    assert one.collect(PATIENCE) == ["a"]
    assert done == ["a"]


class TestTheSlotOfTheMainThread:
    def test_processes_its_token_in_the_thread_that_collects_it(self):
        threads = []
        slot = MainSlot(lambda token: threads.append((token, threading.get_ident())))
        slot.start("a")
        assert (threads, slot.running, slot.has_ended()) == ([], {"a"}, False)
        assert slot.collect(PATIENCE) == ["a"]
        assert (threads, slot.running) == ([("a", threading.get_ident())], set())

    def test_waits_while_it_is_empty_until_the_condition_is_true(self):
        slot = MainSlot(lambda token: None)
        began = time.monotonic()
        assert slot.collect(0.05) == []
        assert slot.collect(PATIENCE, lambda: time.monotonic() - began > 0.1) == []
        assert 0.1 < time.monotonic() - began < PATIENCE / 2

    def test_processes_tokens_in_the_order_in_which_they_were_started(self):
        done = []
        slot = MainSlot(done.append)
        for token in range(4):
            slot.start(token)
        assert slot.take_back(1) == [3]
        while slot.waiting():
            slot.collect(PATIENCE)
        assert (done, slot.running) == ([0, 1, 2], set())

    def test_does_not_process_an_interrupted_token_twice(self):
        def break_off(token):
            done.append(token)
            raise KeyboardInterrupt

        done = []
        slot = MainSlot(break_off)
        slot.start("a")
        with pytest.raises(KeyboardInterrupt):
            slot.collect(PATIENCE)
        assert slot.collect(0) == []
        assert (done, slot.running) == (["a"], {"a"})
