"""Work that takes requests, done in threads, so that the keys work however slow the server is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Callable, TypeVar

from textual.app import App
from textual.message import Message

from ...util import in_background

Result = TypeVar("Result")


class Done(Message):
    """Something is to be called in the thread of the screen.

    :param call: is called there
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self.call = call


def call_soon(app: App[Any], call: Callable[[], Any]) -> None:
    """Let the application call a function in its own thread. This may be called in any thread."""
    with contextlib.suppress(RuntimeError):  # the application has ended
        app.post_message(Done(call))


def in_thread(
    app: App[Any], work: Callable[[], Result], then: Callable[[Result], Any], otherwise: Callable[[BaseException], Any]
) -> None:
    """Do some work in a thread, and hand its result to the thread of the screen.

    :param app: the application
    :param work: is called in a thread. The process does not wait for it when it ends.
    :param then: is called with the result
    :param otherwise: is called with the error if there is one
    """

    def hand_over(future: Future[Result]) -> None:
        error = future.exception()
        call_soon(app, (lambda: then(future.result())) if error is None else (lambda: otherwise(error)))

    in_background(work).add_done_callback(hand_over)


def stream(
    app: App[Any],
    items: Iterator[Result],
    each: Callable[[Result], Any],
    then: Callable[[], Any],
    otherwise: Callable[[BaseException], Any],
) -> None:
    """Read an iterator in a thread, and hand each of its items to the thread of the screen.

    :param then: is called at the end
    :param otherwise: is called with the error if there is one
    """

    def read() -> None:
        for item in items:
            call_soon(app, lambda item=item: each(item))  # type: ignore[misc]

    in_thread(app, read, lambda _: then(), otherwise)
