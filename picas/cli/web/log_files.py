"""The logs of tokens: always plain text, whatever is in them, and never more of them in memory than some blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ...clients import CouchDB
from ...exceptions import PicasError, UsageError
from ...picaslogger import get_logger
from ...pool.facts import find_token
from ...pool.program_logs import Log, find_log, stream_log, tail_of_log
from .sharing import SharedAnswers

log = get_logger(__name__)

MAX_TAIL = 1 << 18
"""Bytes of the end of a log that can be asked for at once."""
TAIL_SECONDS = 3.0
"""Seconds for which all pages share the end of a log."""
HEADERS = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox"}
"""Besides what every answer says: whatever a browser takes a log for, nothing in it runs or loads."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class LogFiles:
    """Answers requests for logs.

    :param client: the pool
    :param shared: what all pages share
    """

    def __init__(self, client: CouchDB, shared: SharedAnswers) -> None:
        self._client = client
        self._shared = shared

    def answer(self, request: Request) -> Response:
        """Return a log, all of it or with `tail` only its last bytes; it runs in a thread of its own.

        The parameters: `token`, `err` for the standard error, `attempt` for only that of an attempt, `tail`.

        :raises PicasError: if there is no such log
        """
        query = request.query_params
        token_id, is_err = query.get("token", ""), query.get("err", "") not in ("", "0")
        attempt, tail = _number(query.get("attempt"), "attempt"), _number(query.get("tail"), "tail")
        if tail is not None:
            return self._tail(token_id, is_err, attempt, min(tail, MAX_TAIL))
        found = self._find(token_id, is_err, attempt)
        headers = {**HEADERS, "Content-Disposition": f'inline; filename="{_UNSAFE.sub("_", found.name)}.txt"'}
        if request.method == "HEAD":
            return Response(media_type="text/plain", headers=headers)
        parts = stream_log(self._client, found)
        first = next(parts, b"")  # an error before it has an answer of its own
        return StreamingResponse(_joined(first, parts), media_type="text/plain", headers=headers)

    def _tail(self, token_id: str, is_err: bool, attempt: int | None, size: int) -> Response:
        def read() -> tuple[bytes, int, int | None]:
            found = self._find(token_id, is_err, attempt)
            content, total = tail_of_log(self._client, found, size)
            return content, total, None if found.attempt is None else found.attempt.number

        key = "tail", token_id, is_err, attempt, size
        content, total, number = self._shared.get(key, TAIL_SECONDS, read)
        about = {"X-Picas-Size": str(total), **({} if number is None else {"X-Picas-Attempt": str(number)})}
        return Response(content, media_type="text/plain", headers={**HEADERS, **about})

    def _find(self, token_id: str, is_err: bool, attempt: int | None) -> Log:
        return find_log(find_token(self._client, token_id), is_err=is_err, attempt=attempt)


def _number(text: str | None, name: str) -> int | None:
    if text is None or text == "":
        return None
    with suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise UsageError(f"{name} is not a number above 0")


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    try:
        yield from rest
    except PicasError as error:
        log.warning("A log could not be sent to its end: %s", error)
        raise
