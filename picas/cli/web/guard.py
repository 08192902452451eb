"""Who is let in: requests to this machine's own names, from this page or from no page, with the token or the cookie.

Anybody on this machine can connect to the port, and a page of anybody on the web can let a browser send requests to it.
So a request needs the token, which only the user has seen. It comes in the link (once, in exchange for a cookie), or in
a header, for programs.

A page of a foreign site that has had its own name resolved to 127.0.0.1 (DNS rebinding) has this name in the header
Host. Only names of this machine are accepted there. Their port does not matter: what counts is that nobody can register
them, and a port that `ssh -L` forwards may have another number than ours.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Callable
from urllib.parse import parse_qs

Scope = Mapping[str, Any]
App = Callable[[Any, Any, Any], Any]

METHODS = ("GET", "HEAD")
"""The methods of HTTP that are answered: nothing can be changed."""
TOKEN_BYTES = 24
"""Bytes of randomness in the token, and in the cookie."""
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
"""What every answer says, unless it says otherwise itself."""
NO_TOKEN = "Open the link that picas web has printed: this page shows nothing without the token in it."

_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)


class Guard:
    """An ASGI application before another one: it refuses what may not come in, and adds headers to each answer.

    :param app: the application that answers the other requests
    :param token: the secret in the link
    """

    def __init__(self, app: App, token: str) -> None:
        self._app = app
        self._token = token
        self._cookie = secrets.token_urlsafe(TOKEN_BYTES)
        # Cookies belong to a name, not to a port: the pages of two pools must not overwrite each other's.
        self._cookie_name = f"picas_{secrets.token_hex(4)}"

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_safely(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                added = [
                    (name.lower().encode(), value.encode())
                    for name, value in SECURITY_HEADERS.items()
                    if name.lower().encode() not in names
                ]
                message = {**message, "headers": [*given, *added]}
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = _refusal(scope["method"], headers)
        if refusal is not None:
            await _answer(send_safely, *refusal)
        elif scope["path"] == "/" and _is_same(_token_in(scope), self._token):
            await self._exchange(headers, send_safely)
        elif self._has_cookie(headers) or self._has_bearer(headers):
            await self._app(scope, receive, send_safely)
        else:
            await _answer(send_safely, 403, NO_TOKEN)

    async def _exchange(self, headers: Mapping[str, str], send: Any) -> None:
        """Give a cookie for the token, and lead to the address without it."""
        cookie = f"{self._cookie_name}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"
        # After a link on a page of another site, a browser sends no strict cookie to where it is redirected. To where a
        # page of ours leads, it does.
        is_from_elsewhere = headers.get("sec-fetch-site") == "cross-site"
        status, way = (200, "refresh") if is_from_elsewhere else (303, "location")
        target = "0; url=/" if is_from_elsewhere else "/"
        await _answer(send, status, "", [(b"set-cookie", cookie.encode()), (way.encode(), target.encode())])

    def _has_cookie(self, headers: Mapping[str, str]) -> bool:
        pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return any(name == self._cookie_name and _is_same(value, self._cookie) for name, _, value in pairs)

    def _has_bearer(self, headers: Mapping[str, str]) -> bool:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and _is_same(value.strip(), self._token)


def _refusal(method: str, headers: Mapping[str, str]) -> tuple[int, str, Sequence[tuple[bytes, bytes]]] | None:
    """Return the answer to a request that nobody may send, None if there is nothing against it."""
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        return 403, "This page answers only to the names localhost, 127.0.0.1 and [::1].", ()
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return 403, "Pages of other sites may not read this one.", ()
    is_navigation = headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_navigation:
        return 403, "Pages of other sites may not read this one.", ()
    if method not in METHODS:
        return 405, "This page is read-only.", [(b"allow", ", ".join(METHODS).encode())]
    return None


def _token_in(scope: Scope) -> str:
    values = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
    return str(values[0])


def _is_same(given: str, secret: str) -> bool:
    """Compare two texts in a time that says nothing about where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())


async def _answer(send: Any, status: int, line: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    body = f"{line}\n".encode() if line else b""
    about = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*about, *headers]})
    await send({"type": "http.response.body", "body": body})
