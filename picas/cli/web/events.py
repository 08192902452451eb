"""The live part of a page: server-sent events, one stream for each open page.

A browser opens only a few connections to a server at a time, so a page has this one for all that is live: the status of
the pool, and the output of a program if its token is shown. Whatever is sent was read once for all pages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from typing import Any

from starlette.responses import Response

from . import shapes
from .followers import Follower, Followers
from .hub import Hub
from .poller import Poller, Snapshot

PULSE = 5.0
"""Seconds after which a page hears something in any case, so that it knows that the connection is there."""
NAP = 0.2
"""Seconds for which news are gathered before they are sent: a program may print often."""


class Painter:
    """Makes the events of a snapshot once for all pages."""

    def __init__(self) -> None:
        self._number = -1
        self._details_time = 0.0
        self._events: dict[str, bytes] = {}

    def events(self, snapshot: Snapshot) -> Mapping[str, bytes]:
        """Return the events for a snapshot by their names."""
        if snapshot.number != self._number:
            made = {"status": event("status", shapes.status_json(snapshot))}
            if snapshot.details_time != self._details_time:
                made["details"] = event("details", shapes.details_json(snapshot))
            self._details_time = snapshot.details_time
            self._events.update((name, made[name]) for name in made if made[name] != self._events.get(name))
            self._number = snapshot.number
        return self._events


def event(name: str, data: Any) -> bytes:
    """Return a server-sent event with a value of JSON."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class EventStream(Response):
    """The answer to a page that wants to hear what is new. It ends when the page goes away, or the server.

    :param follow: the id of the token whose output the page shows, None for none
    :param is_err: whether that is the standard error
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        hub: Hub,
        poller: Poller,
        followers: Followers,
        painter: Painter,
        follow: str | None = None,
        is_err: bool = False,
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._hub = hub
        self._poller = poller
        self._followers = followers
        self._painter = painter
        self._follow = follow
        self._is_err = is_err

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            async for part in self._parts(gone):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    async def _parts(self, gone: asyncio.Future[Any]) -> AsyncIterator[bytes]:
        with ExitStack() as stack:
            woken = stack.enter_context(self._hub.page())
            stack.enter_context(self._poller.watched())
            follower = None
            if self._follow is not None:
                follower = stack.enter_context(self._followers.watching(self._follow, self._is_err))
            sent: dict[str, bytes] = {}
            log = _LogReader(follower)
            while not (gone.done() or self._hub.is_closing):
                woken.clear()
                snapshot = self._poller.snapshot
                events = self._painter.events(snapshot)
                news = [content for name, content in events.items() if sent.get(name) is not content]
                sent = dict(events)
                yield b"".join([*news, *log.events(), event("pulse", shapes.looks_json(snapshot))])
                if await _wait(woken, gone):
                    await asyncio.sleep(NAP)


class _LogReader:
    """What a page has seen of an output.

    :param follower: None if it shows none
    """

    def __init__(self, follower: Follower | None) -> None:
        self._follower = follower
        self._part = -1
        self._seen = 0
        self._state: tuple[bool, str | None] | None = None

    def events(self) -> list[bytes]:
        """Return what is new, as events."""
        follower = self._follower
        if follower is None:
            return []
        made = []
        state = follower.has_ended, follower.problem  # before the text: what was read before the end is not missed
        text, self._seen, is_anew = follower.news(self._part, self._seen)
        self._part = follower.part
        if text or is_anew:
            made.append(event("log", {"text": text, "is_anew": is_anew}))
        if state != self._state:
            made.append(event("log-state", {"has_ended": state[0], "problem": state[1]}))
            self._state = state
        return made


async def _wait(woken: asyncio.Event, gone: asyncio.Future[Any]) -> bool:
    """Wait until there may be news, the page is gone, or it is time for a pulse; return whether there may be news."""
    news: asyncio.Future[Any] = asyncio.ensure_future(woken.wait())
    try:
        await asyncio.wait({news, gone}, timeout=PULSE, return_when=asyncio.FIRST_COMPLETED)
        return news.done()
    finally:
        news.cancel()


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
