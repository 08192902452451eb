"""The exceptions of this package, most of them below `PicasError`.

Errors that the server returns (not found, conflict, unauthorised) stay exceptions of the package `couchdb`, because
scripts catch these.
"""

from __future__ import annotations


class PicasError(Exception):
    """Base class of the errors of this package. The message is one line that says what to do."""


class SettingsError(PicasError):
    """A setting is missing or invalid."""


class UsageError(PicasError):
    """What a person has asked for is invalid: an unknown state, field or operator, for example."""


class NoDatabase(PicasError):
    """There is no database with the name that the settings have."""


class MissingPackage(PicasError, ImportError):
    """A package that only an extra of picas installs is needed, and is not installed."""


class Unreachable(PicasError, ConnectionError):
    """The server can't be reached: a request could not be sent, or every safe repetition of it stayed unanswered."""


class ForeignAnswer(Unreachable):
    """Something other than CouchDB has answered a request that only reads: a proxy, a login page, another server."""


class UntrustedServer(Unreachable):
    """The server's certificate is not trusted, so nothing was sent."""


class LostAnswer(PicasError, ConnectionError):
    """A write was sent, but CouchDB's answer did not arrive: read the document to find out whether it was applied."""


class NoQuorum(PicasError, ConnectionError):
    """Too many nodes of a cluster are down: fewer than a majority of the copies would hold what is written now."""


class NoSuchDocument(PicasError, ValueError):
    """There is no document with this id: CouchDB itself has said so."""


class ViewGone(PicasError):
    """A view that was read before is missing: somebody is replacing its design document, or has deleted it."""


class PushError(PicasError):
    """A push was not finished."""


class InputError(PushError):
    """What is to be pushed can't be read, is empty, does not match, or can't be a token. Nothing was pushed."""


class UnknownColumn(InputError, UsageError):
    """A template, or the choice of the tokens' ids, names a column that the file does not have."""


class AlreadyPushed(PushError):
    """A file was pushed before with the same fields, and its tokens are in the pool. Nothing was pushed.

    :param message: one line about that
    :param is_finished: whether all tokens of that push are there; if not, it may be going on now
    """

    def __init__(self, message: str, is_finished: bool) -> None:
        super().__init__(message)
        self.is_finished = is_finished


class NodeFault(PicasError, OSError):
    """The node can't do what every token needs: its disk is full, for example, or it can start no further process.

    The token is put back and not counted, and the pilot ends.
    """


class TokenError(PicasError):
    """The work on a token can't begin: its input, or a field that the command needs, is missing or invalid."""


class TooManyFailures(PicasError):
    """So many tokens in a row have failed that the pilot ends: most likely, its environment is broken."""


class TokenTimeout(BaseException):
    """Raised inside `process_task` when the token's time is up.

    It is not an `Exception`, so that a broad `except Exception` in a user's code does not catch it.
    """


class TokenLost(BaseException):
    """Raised inside `process_task` when the token no longer belongs to this pilot."""


class TokenCancelled(TokenLost):
    """Raised inside `process_task` when a person has cancelled the token."""


class PilotStopped(SystemExit):
    """Raised in the main thread to stop the pilot; ends the process with the pilot's exit code."""
