"""Every change of a token's state, written once.

The functions work on anything dict-like (a dict, a `Document`, a `Task`), change it in place and return it. Saving is
up to the caller. The classes are the names under which user scripts know them.
"""

from __future__ import annotations

import math
import socket
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar, Union
from uuid import uuid4

from . import jobid
from .tokens import retries
from .tokens.states import is_in_state, parse_int
from .util import list_in, seconds

Token = TypeVar("Token", bound=MutableMapping[str, Any])
Ref = Union[str, list[Any]]

ERROR_MARK = 99
"""What `lock`, `done` and an unset exit code become after an error."""
MAX_ATTEMPTS = 20
"""Attempts that a token remembers; the oldest go first."""
MAX_ERRORS = 20
"""Errors that a token remembers; the oldest go first."""
MAX_MESSAGE = 10_000
"""Characters of a message that are kept, from its beginning."""
MAX_TRACEBACK = 10_000
"""Characters of a traceback that are kept, from its end."""


def lock(token: Token, pilot: str = "") -> Token:
    """Take a token: `lock` is now, and a new `claim` makes this lock different from every other.

    :param token: a free token
    :param pilot: the id of the pilot that takes it
    """
    now = seconds()
    jobid.remove_job_id(token)
    jobid.add_job_id(token)
    _remove(token, retries.FIELD)
    token["hostname"] = socket.gethostname()
    token["lock"] = now
    token["claim"] = {"id": uuid4().hex, "pilot": pilot, "start": now}
    return token


def unlock(token: Token) -> Token:
    """Give a token free without touching `done`."""
    token["lock"] = 0
    return _forget_owner(token)


def close(token: Token) -> Token:
    """Mark a token as done now; its exit code says whether it went well."""
    token["done"] = seconds()
    return token


def unclose(token: Token) -> Token:
    """Take the mark of `close` back."""
    token["done"] = 0
    jobid.remove_job_id(token)
    return token


def add_output(token: Token, output: Mapping[str, Any]) -> Token:
    """Lay the items of `output` over the token's fields."""
    token.update(output)
    return token


def reset(token: Token, lock: Any = 0, done: Any = 0) -> Token:
    """Put a token back into the pool, without counting it as a failure. Its logs and its history stay.

    It may be taken at once, also if it was to wait for its next try.

    :param lock: the value of `lock` afterwards, 0 for a free token
    :param done: the value of `done` afterwards, 0 for a free token
    """
    token["lock"] = lock
    token["done"] = done
    token["exit_code"] = ""
    return _forget_owner(token)


def scrub(token: Token, retry_delay: float = 0.0) -> Token:
    """Put a token back into the pool after a failure and count that in `scrub_count`.

    :param retry_delay: seconds before it may be taken again after its first failure, more after each further one, see
        `retries.next_try`; 0 for at once
    """
    count = parse_int(token.get("scrub_count", None))
    token["scrub_count"] = failures = int(count) + 1 if math.isfinite(count) else 1
    reset(token)
    if retry_delay > 0:
        token[retries.FIELD] = retries.next_try(retry_delay, failures)
    return token


def lose(token: Token, max_lost: int) -> Token:
    """Put back a token whose pilot has died, and count that in `lost_count`; it counts as no failure.

    :param max_lost: how often that may happen; after that the token counts as failed: it may be what kills the pilots
    """
    end_attempt(token, "lost")
    count = parse_int(token.get("lost_count", None))
    token["lost_count"] = lost = int(count) + 1 if math.isfinite(count) else 1
    if lost <= max_lost:
        return reset(token)
    return set_error(token, f"it has lost its pilot {lost} times: it may be what kills them")


def set_error(token: Token, message: object = None, exception: BaseException | None = None) -> Token:
    """Mark a token as failed: `lock` and `done` become 99, and so does an exit code that claims success.

    :param message: what went wrong, for `error` in the token
    :param exception: its traceback is added, cut to its last 10,000 characters
    """
    token["lock"] = token["done"] = ERROR_MARK
    exit_code = token.get("exit_code", "")
    if exit_code in ("", None) or parse_int(exit_code) == 0:
        token["exit_code"] = ERROR_MARK
    return note_error(token, message, exception)


def note_error(token: Token, message: object = None, exception: BaseException | None = None) -> Token:
    """Add to a token's list `error` without changing its state. For the parameters see `set_error`."""
    entry: dict[str, Any] = {"time": seconds()}
    if message is not None:
        entry["message"] = str(message)[:MAX_MESSAGE]
    if exception is not None:
        text = "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))
        entry["exception"] = text[-MAX_TRACEBACK:]
    token["error"] = [*list_in(token, "error"), entry][-MAX_ERRORS:]
    return token


def end_attempt(token: Token, outcome: str) -> Token:
    """Write the attempt that ends now into `attempts` and drop the claim. Call it before the token is put back.

    :param outcome: "done", "failed", "time-out", "stopped", "lost", or "left open" if nobody was to close the token
    """
    claim = claim_of(token)
    attempt = {
        "claim": claim.get("id", ""),
        "pilot": claim.get("pilot", ""),
        "host": token.get("hostname", ""),
        "job_id": jobid.job_id_of(token),
        "start": claim.get("start", 0),
        "end": seconds(),
        "outcome": outcome,
        "exit_code": token.get("exit_code", ""),
    }
    token["attempts"] = [*list_in(token, "attempts"), attempt][-MAX_ATTEMPTS:]
    _remove(token, "claim")
    return token


def claim_of(token: Mapping[str, Any]) -> dict[str, Any]:
    """Return a token's claim, empty if it has none (older clients make none)."""
    claim = token.get("claim", None)
    return claim if isinstance(claim, dict) else {}


def is_free(token: Mapping[str, Any]) -> bool:
    """Tell whether a token may be locked."""
    return is_in_state(token, "todo")


def is_same_lock(token: Mapping[str, Any], claimed: Mapping[str, Any]) -> bool:
    """Tell whether the lock on a token is still the one under which `claimed` was saved.

    The claim id decides. Where an older client made the lock there is none, and its time and host have to do.
    """
    if claim_of(token).get("id") != claim_of(claimed).get("id"):
        return False
    if any(token.get(field) != claimed.get(field) for field in ("lock", "hostname")):
        return False  # somebody set it free by hand, or an older client has locked it since
    return "lock" in token and not is_free(token)


def _forget_owner(token: Token) -> Token:
    _remove(token, retries.FIELD)
    token["hostname"] = socket.gethostname()
    jobid.remove_job_id(token)
    _remove(token, "claim")
    return token


def _remove(token: MutableMapping[str, Any], field: str) -> None:
    if field in token:
        del token[field]


class TokenModifier:
    """What a token modifier can do; subclasses say how.

    :param timeout: seconds after which a token may be taken for forgotten
    """

    def __init__(self, timeout: int = 86400) -> None:
        self.timeout = timeout

    def lock(self, *args: Any, **kwargs: Any) -> Any:
        """Take a token."""
        raise NotImplementedError("lock is not implemented")

    def unlock(self, *args: Any, **kwargs: Any) -> Any:
        """Give a token free."""
        raise NotImplementedError("unlock is not implemented")

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Mark a token as done."""
        raise NotImplementedError("close is not implemented")

    def unclose(self, *args: Any, **kwargs: Any) -> Any:
        """Take the mark of `close` back."""
        raise NotImplementedError("unclose is not implemented")

    def add_output(self, *args: Any, **kwargs: Any) -> Any:
        """Add fields to a token."""
        raise NotImplementedError("add_output is not implemented")

    def scrub(self, *args: Any, **kwargs: Any) -> Any:
        """Put a token back after a failure."""
        raise NotImplementedError("scrub is not implemented")

    def set_error(self, *args: Any, **kwargs: Any) -> Any:
        """Mark a token as failed."""
        raise NotImplementedError("set_error is not implemented")


class BasicTokenModifier(TokenModifier):
    """Changes the state of a token that is a document of its own."""

    def __init__(self) -> None:
        super().__init__()

    def lock(self, token: Token) -> Token:
        """Take the token, see `lock` above; likewise for the other methods."""
        return lock(token)

    def unlock(self, token: Token) -> Token:
        """Give the token free."""
        return unlock(token)

    def close(self, token: Token) -> Token:
        """Mark the token as done."""
        return close(token)

    def unclose(self, token: Token) -> Token:
        """Take the mark of `close` back."""
        return unclose(token)

    def add_output(self, token: Token, output: Mapping[str, Any]) -> Token:
        """Lay the items of `output` over the token's fields."""
        return add_output(token, output)

    def scrub(self, token: Token) -> Token:
        """Put the token back after a failure, and count it."""
        return scrub(token)

    def set_error(self, token: Token) -> Token:
        """Mark the token as failed."""
        return set_error(token)


class NestedTokenModifier(TokenModifier):
    """Changes the state of a token that is a part of a larger document, the `record`.

    Each method takes a `ref`, which is the token's key in the record, or a list of the document's id and the keys that
    lead to the token, and returns the record. A ref that leads nowhere raises `KeyError`.

    :param timeout: seconds after which a token may be taken for forgotten
    """

    def get_token(self, ref: Ref, record: Any) -> Any:
        """Return the token that `ref` leads to."""
        token = record
        for key in ref[1:] if isinstance(ref, list) else [ref]:
            token = token[key]
        return token

    def lock(self, ref: Ref, record: Token) -> Token:
        """Take the token."""
        lock(self.get_token(ref, record))
        return record

    def unlock(self, ref: Ref, record: Token) -> Token:
        """Give the token free."""
        unlock(self.get_token(ref, record))
        return record

    def close(self, ref: Ref, record: Token) -> Token:
        """Mark the token as done."""
        close(self.get_token(ref, record))
        return record

    def unclose(self, ref: Ref, record: Token) -> Token:
        """Take the mark of `close` back."""
        unclose(self.get_token(ref, record))
        return record

    def add_output(self, ref: Ref, record: Token, output: Mapping[str, Any]) -> Token:
        """Lay the items of `output` over the token's fields."""
        add_output(self.get_token(ref, record), output)
        return record

    def scrub(self, ref: Ref, record: Token) -> Token:
        """Put the token back after a failure, and count it."""
        scrub(self.get_token(ref, record))
        return record

    def set_error(self, ref: Ref, record: Token) -> Token:
        """Mark the token as failed."""
        set_error(self.get_token(ref, record))
        return record
