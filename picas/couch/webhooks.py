"""Messages to a web hook: an address at which a chat, or any other service, takes a short message as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..exceptions import PicasError

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
    import requests  # noqa: PLC0415  # takes a while, and few send messages

    host = urlsplit(url).hostname
    try:
        answer = requests.post(url, json=message, timeout=TIMEOUT, allow_redirects=False)
    except requests.Timeout:
        raise PicasError(f"{host} has not answered within {TIMEOUT:g} s") from None
    except (requests.RequestException, ValueError) as error:  # its text may have the address
        raise PicasError(f"{host} can't be reached ({type(error).__name__})") from None
    if not 200 <= answer.status_code < 300:
        raise PicasError(f"{host} has answered with status {answer.status_code}")
