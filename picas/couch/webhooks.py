"""Messages to a web hook: an address at which a chat, or any other service, takes a short message as JSON."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from couchdb.http import basic_auth

from ..exceptions import PicasError
from .connections import explain, tls_context
from .transport import USER_AGENT

TIMEOUT = 10.0
"""Seconds to wait for the service."""


def check_webhook(url: str) -> str:
    """Return an address if it can be that of a web hook.

    :raises ValueError: if not; the address is not in the text, since it is a secret
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the address must begin with http:// or https:// and name a host")
    return url.strip()


def post_to_webhook(url: str, message: Mapping[str, Any]) -> None:
    """Send a message once.

    :param url: the address, of which errors name only the host: whoever knows it may send messages
    :param message: a value that JSON can hold
    :raises PicasError: if the service did not take it
    """
    parts = urlsplit(url)
    host, address = parts.hostname, urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
    if parts.username:
        headers["Authorization"] = basic_auth((unquote(parts.username), unquote(parts.password or ""))).decode("ascii")
    try:
        opener = build_opener(_NoRedirects, HTTPSHandler(context=tls_context(True)))
        with opener.open(Request(address, json.dumps(message).encode(), headers), timeout=TIMEOUT):
            return
    except HTTPError as error:
        error.close()
        raise PicasError(f"{host} has answered with status {error.code}") from None
    except URLError as error:
        raise PicasError(f"{host} can't be reached ({_explain(error.reason)})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PicasError(f"{host} can't be reached ({_explain(error)})") from None


def _explain(reason: object) -> str:
    """Return why a message was not sent; the text of other errors may have the address."""
    return explain(reason) if isinstance(reason, OSError) else type(reason).__name__


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: the message was meant for this address."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        """Return no request, so that the answer counts as an error."""
