"""Users of a server: changing one's own password."""

from __future__ import annotations

from typing import Any

from couchdb.http import Forbidden, Unauthorized

from ..exceptions import LostAnswer, PicasError
from .answers import is_shut_out, is_unknown_user

EMBEDDED_VENDOR = "PiCaS embedded server"
"""What the embedded server says it is."""


def read_own_user(server: Any) -> dict[str, Any]:
    """Return the document of the user that a server is accessed with.

    :param server: the `Resource` of the server
    :raises PicasError: if the server keeps this user's password elsewhere, or does not let users change it
    :raises couchdb.http.HTTPError, Unreachable: if the server refuses it otherwise, or can't be reached
    """
    try:
        _, _, document = server.get_json(_path(_own_name(server)))
    except (Forbidden, Unauthorized) as error:
        if not is_shut_out(error):
            raise
        raise PicasError(
            "this server does not let users change their passwords: an administrator of the server can do it"
        ) from None
    return dict(document)


def change_own_password(server: Any, password: str) -> None:
    """Change the password of the user that a server is accessed with.

    :param server: the `Resource` of the server
    :param password: the new password
    :raises PicasError: see `read_own_user`
    :raises couchdb.http.HTTPError, Unreachable: if the server refuses it otherwise, or can't be reached
    :raises LostAnswer: if the answer was lost, and the server does not accept the new password
    """
    document = read_own_user(server)
    name = document["name"]
    try:
        server.put_json(_path(name), body={**document, "password": password})
    except LostAnswer:
        if not _is_accepted(server, (name, password)):
            raise


def _path(name: str) -> list[str]:
    return ["_users", f"org.couchdb.user:{name}"]


def _own_name(server: Any) -> str:
    """Return the user's name.

    :raises PicasError: if the password is not in the database of the users
    """
    _, _, info = server.get_json()
    vendor = info.get("vendor", {})
    if isinstance(vendor, dict) and vendor.get("name") == EMBEDDED_VENDOR:
        raise PicasError("the embedded server has one user, whose password it makes itself: it can't be changed")
    _, _, session = server.get_json("_session")
    user = session["userCtx"]
    if "_admin" in user["roles"]:
        raise PicasError(
            f"{user['name']} is an administrator of the server, whose password is in its configuration: change "
            "it there, and then run picas init"
        )
    return str(user["name"])


def _is_accepted(server: Any, credentials: tuple[str, str]) -> bool:
    """Return whether the server accepts a user and a password."""
    before = server.credentials
    server.credentials = credentials
    try:
        server.get_json("_session")
    except Unauthorized as error:
        if not is_unknown_user(error):
            raise
        return False
    finally:
        server.credentials = before
    return True
