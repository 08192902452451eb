"""Taking tokens back from the pilots that hold them, by hand: whose work is lost, and which pilots are dead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Callable

from ..clients import CouchDB
from .presence import dead_pilots, silent_pilots, watch_time


def describe_loss(client: CouchDB, holders: Mapping[str, int]) -> str | None:
    """Return the warning that pilots would lose work if their tokens were taken back, None if none would.

    :param holders: how many tokens each pilot holds, see `pool.holders_of`
    """
    dead = dead_pilots(client, filter(None, holders))
    alive = {id: count for id, count in holders.items() if id and id not in dead}
    if not alive:
        return None
    count, total = sum(alive.values()), sum(holders.values())
    are_held = f"{count} of {total} locked tokens are held by {pilots_text(len(alive))}"
    return f"{are_held} that may be alive and would lose this work"


def dead_holders(
    client: CouchDB, holders: Mapping[str, int], watch: Callable[[int, float], object]
) -> Iterator[set[str]]:
    """Yield those of some holders that are dead pilots, and later those that turn out to be silent.

    The first are known at once. For the second, the others are watched for as long as their lease.

    :param holders: how many tokens each pilot holds, see `pool.holders_of`; '' is left out
    :param watch: called before that with the number of pilots to watch, and the seconds that it takes at most
    """
    pilots = set(filter(None, holders))
    dead = dead_pilots(client, pilots)
    yield dead
    doubtful = pilots - dead
    if doubtful:
        watch(len(doubtful), watch_time(client, doubtful))
        yield silent_pilots(client, doubtful)


def pilots_text(count: int) -> str:
    """Return a number of pilots for people: "1 pilot", "3 pilots"."""
    return "1 pilot" if count == 1 else f"{count} pilots"


def watch_text(count: int, seconds: float) -> str:
    """Return the line for people about pilots that are watched, see `dead_holders`."""
    return f"Watching {pilots_text(count)} for up to {seconds:.0f} s to see who is alive"


def left_alone(holders: Mapping[str, int], dead: set[str]) -> Iterator[str]:
    """Yield the lines for people about locked tokens that were not taken back.

    :param holders: how many tokens each pilot held, see `pool.holders_of`
    :param dead: the pilots whose tokens were taken back
    """
    alive = {id: count for id, count in holders.items() if id and id not in dead}
    if alive:
        are = "is" if len(alive) == 1 else "are"
        yield f"Left alone {sum(alive.values())} tokens of {pilots_text(len(alive))} that {are} alive"
    unknown = holders.get("", 0)
    if unknown:
        yield f"Left alone {unknown} tokens that name no pilot: they were locked by an older release or by hand"
