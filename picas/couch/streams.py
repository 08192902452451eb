"""HTTP for attachments: a session of `requests`, with the settings of the session for documents (see `transport`).

Attachments travel as streams. There `requests` does what would have to be written again: it sends a file piece by
piece, decodes an answer piece by piece, and checks that the answer is complete.
"""

from __future__ import annotations

import os
import ssl
import time
from typing import Any

import requests
import requests.adapters
from requests.packages import urllib3  # type: ignore[attr-defined]  # its types leave that out

from .connections import MAX_IDLE, Timeouts, keep_alive, tls_context
from .transport import RETRY_PAUSES, USER_AGENT, Credentials


class RequestsSession(requests.Session):
    """A session of `requests` with the same user, TLS settings and time-outs, for attachments as streams.

    :param credentials: user and password, None for no user
    :param verify: see `tls_context`
    :param timeouts: how long to wait for the server
    """

    def __init__(self, credentials: Credentials, verify: bool | str, timeouts: Timeouts) -> None:
        super().__init__()
        self.trust_env = False  # `Session` uses no proxies either, and `config` has read ~/.netrc
        encoded = credentials and tuple(str(part).encode("utf-8") for part in credentials)
        self.auth = encoded  # type: ignore[assignment]  # bytes, because `requests` encodes text as Latin-1
        self.headers["User-Agent"] = USER_AGENT
        self.verify = self._verification = verify
        self.timeouts = timeouts
        self._pid = os.getpid()
        self._used_at = time.monotonic()
        self._tls: ssl.SSLContext | None = None
        self._has_tls = False
        self.mount("http://", _Adapter())

    def get_adapter(self, url: Any) -> Any:
        """Return the adapter for a URL. Making the one for TLS takes a while, so it is made when first needed."""
        if not self._has_tls and str(url).lower().startswith("https:"):
            self._tls = self._tls or tls_context(self._verification)
            self.mount("https://", _Adapter(self._tls))
            self._has_tls = True
        return super().get_adapter(url)

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request with the session's time-outs, unless others are given; see `requests.Session.request`."""
        if self._pid != os.getpid():  # after a fork the connections belong to the parent
            self.close()
            self._pid = os.getpid()
        now = time.monotonic()
        if now - self._used_at > MAX_IDLE:  # new adapters: another thread may be using a connection of the old ones
            self.mount("http://", _Adapter())
            self._has_tls = False
        self._used_at = now
        kwargs.setdefault("timeout", (self.timeouts.connect, self.timeouts.read))
        return super().request(method, url, *args, **kwargs)


def is_unsent(error: requests.RequestException) -> bool:
    """Return whether a request of `requests` failed before anything was sent."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, urllib3.exceptions.ConnectTimeoutError)  # the base of NewConnectionError too


class _Adapter(requests.adapters.HTTPAdapter):
    """Gives `requests` the TLS settings of `Session`, and makes it repeat attempts to connect."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        # Only attempts to connect: a request that was sent is not sent again here.
        tries = urllib3.Retry(total=None, connect=len(RETRY_PAUSES), read=False, other=0, backoff_factor=0.1)
        super().__init__(max_retries=tries)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._tls is not None:
            if not hasattr(urllib3, "BaseHTTPResponse"):  # before 2.0
                self._tls.check_hostname = False  # urllib3 compares the name itself, and passes no IP address to ssl
            kwargs["ssl_context"] = self._tls
        kwargs["socket_options"] = [*urllib3.connection.HTTPConnection.default_socket_options, *keep_alive()]
        super().init_poolmanager(*args, **kwargs)
