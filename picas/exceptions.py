"""What can go wrong, as a small tree below `PicasError`.

What the server answers (not found, conflict, unauthorised) stays an exception of the package `couchdb`, since scripts
catch those.
"""

from __future__ import annotations


class PicasError(Exception):
    """Base of the exceptions of this package. Its text is one line that says what to do."""


class SettingsError(PicasError):
    """A setting is missing or makes no sense."""


class Unreachable(PicasError, ConnectionError):
    """The server can't be reached: a request was not sent, or nothing that may be repeated got an answer."""


class LostAnswer(PicasError, ConnectionError):
    """A write was sent and its answer never came: whether it was applied has to be looked up."""


class NoQuorum(PicasError, ConnectionError):
    """Too many nodes of a cluster are away: what is written now is kept by fewer than a majority of the copies."""


class TokenTimeout(BaseException):
    """Raised inside `process_task` when the token's time is up.

    No `Exception`, so that a broad `except Exception` in a user's code does not swallow it.
    """


class TokenLost(BaseException):
    """Raised inside `process_task` when the token is not this pilot's any more."""


class PilotStopped(SystemExit):
    """Raised in the main thread when the pilot was told to stop; ends the process with the pilot's exit code."""
