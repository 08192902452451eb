"""All changes of a token's state.

The functions accept anything dict-like (a dict, a `Document`, a `Task`), change it in place and return it. The caller
saves it. The classes offer the same changes under the names that user scripts use.
"""

from __future__ import annotations

import math
import socket
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar, Union
from uuid import uuid4

from . import jobid
from .tokens import job_ends, reasons, retries
from .tokens.measures import Measures
from .tokens.states import is_in_state, is_unset, parse_int
from .util import is_number, list_in, safe_text, seconds

Token = TypeVar("Token", bound=MutableMapping[str, Any])
Ref = Union[str, list[Any]]

ERROR_MARK = 99
"""The value of `lock`, `done` and an unset exit code after an error."""
QUICK = 10.0
"""A pilot that is stopped within this many seconds after it has begun with a token may have been stopped by that."""
FAILURES = frozenset({"failed", "time-out", "cancelled"})
"""The outcomes of attempts that have always failed; their reasons have a group."""
MAX_ATTEMPTS = 20
"""How many attempts a token keeps; the oldest are dropped first."""
MAX_ERRORS = 20
"""How many errors a token keeps; the oldest are dropped first."""
MAX_MESSAGE = 10_000
"""How many characters of a message are kept, from its beginning."""
MAX_TRACEBACK = 10_000
"""How many characters of a traceback are kept, from its end."""


def lock(token: Token, pilot: str = "") -> Token:
    """Lock a token: set `lock` to the current time, and add a `claim` that distinguishes this lock from all others.

    :param token: a free token
    :param pilot: the id of the pilot that locks it
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
    """Release a token without changing `done`."""
    token["lock"] = 0
    return _forget_owner(token)


def close(token: Token) -> Token:
    """Mark a token as done now. Its exit code says whether the work succeeded."""
    token["done"] = seconds()
    return token


def unclose(token: Token) -> Token:
    """Undo `close`."""
    token["done"] = 0
    jobid.remove_job_id(token)
    return token


def add_output(token: Token, output: Mapping[str, Any]) -> Token:
    """Update the token with the fields in `output`."""
    token.update(output)
    return token


def reset(token: Token, lock: Any = 0, done: Any = 0) -> Token:
    """Put a token back into the pool without counting a failure. Its logs and its history stay.

    A pilot may take it immediately, even if the token was postponed.

    :param lock: the new value of `lock`; 0 for a free token
    :param done: the new value of `done`; 0 for a free token
    """
    token["lock"] = lock
    token["done"] = done
    token["exit_code"] = ""
    return _forget_owner(token)


def scrub(token: Token, retry_delay: float = 0.0) -> Token:
    """Put a token back into the pool after a failure and count the failure in `scrub_count`.

    :param retry_delay: seconds before a pilot may take the token again after its first failure; longer after each
        further failure, see `retries.next_try`; 0 for no delay
    """
    failures = _count_one_more(token, "scrub_count")
    reset(token)
    if retry_delay > 0:
        token[retries.FIELD] = retries.next_try(retry_delay, failures)
    return token


def lose(token: Token, max_lost: int, silence: float = 0.0) -> Token:
    """Put back a token whose pilot has died and count that in `lost_count`, but not as a failure.

    :param max_lost: how often a token may lose its pilot; after that it is marked as failed, because it may be what
        kills the pilots
    :param silence: for how many seconds, at least, the pilot had no heartbeat; 0 if that is unknown
    """
    lost = _count_one_more(token, "lost_count")
    if lost <= max_lost:
        return reset(end_attempt(token, "lost", reasons.of_silence(silence)))
    reason = f"the token has lost its pilot {lost} times: it may be what kills them"
    return set_error(end_attempt(token, "lost", reason, is_failure=True), reason)


def stop(
    token: Token,
    max_lost: float,
    lock: Any = 0,
    done: Any = 0,
    *,
    reason: str = "",
    measures: Measures | None = None,
    is_nodes_fault: bool = False,
) -> Token:
    """Put back a token whose pilot was stopped, not counted as a failure.

    If two pilots in a row were stopped as soon as they had begun with it, the second counts in `lost_count`, as a pilot
    that has died, and so does each further one. A problem of the node counts, however late, after a stop on another
    node: one sick node is not the token's fault, but a token may make one node after the other sick.

    :param max_lost: the highest `lost_count`; after that the token is marked as failed, because it may be what stops
        the pilots
    :param lock: the new value of `lock`; 0 for a free token
    :param done: the new value of `done`; 0 for a free token
    :param reason: why the pilot was stopped, see `end_attempt`
    :param measures: what the attempt has taken, see `end_attempt`
    :param is_nodes_fault: whether the pilot has ended because of a problem with its node
    """
    end_attempt(token, "stopped", reason, measures)
    before, last = [None, *list_in(token, "attempts")][-2:]
    if is_nodes_fault:
        counts = _was_stopped(before) and before.get("host") != last["host"]
    else:
        counts = _was_quick(before) and _was_quick(last) and before["pilot"] != last["pilot"]
    if not counts:
        return reset(token, lock, done)
    lost = _count_one_more(token, "lost_count")
    if lost <= max_lost:
        return reset(token, lock, done)
    if is_nodes_fault:
        reason = f"pilots had problems with their nodes, {lost} times: the token may be why"
    else:
        reason = f"pilots were stopped {lost} times as soon as they had begun with the token: it may be why"
    last.update(_explained(reason, is_failure=True))
    return set_error(token, reason)


def end_with_job(
    token: Token,
    seconds: float,
    max_job_ends: float,
    lock: Any = 0,
    done: Any = 0,
    *,
    measures: Measures | None = None,
) -> Token:
    """Put back a token that was at work when the time of its job was over. It counts in `job_ends`, not as a failure.

    :param seconds: how long it was at work
    :param max_job_ends: after so many of these attempts the token is marked as failed, because it takes longer than its
        jobs
    :param lock: the new value of `lock`; 0 for a free token
    :param done: the new value of `done`; 0 for a free token
    :param measures: what the attempt has taken, see `end_attempt`
    """
    times = job_ends.note(token, seconds)
    if times < max_job_ends:
        return reset(end_attempt(token, "stopped", reasons.of_job_end(seconds), measures), lock, done)
    reason = reasons.of_job_end(seconds, times)
    return set_error(end_attempt(token, "stopped", reason, measures, is_failure=True), reason)


def set_error(token: Token, message: object = None, exception: BaseException | None = None) -> Token:
    """Mark a token as failed: `lock` and `done` become 99, and so does an exit code that is unset or 0.

    :param message: what went wrong; added to the list `error` in the token
    :param exception: an exception whose traceback is added, cut to its last 10,000 characters
    """
    token["lock"] = token["done"] = ERROR_MARK
    exit_code = token.get("exit_code", "")
    if is_unset(exit_code) or parse_int(exit_code) == 0:
        token["exit_code"] = ERROR_MARK
    return note_error(token, message, exception)


def note_error(token: Token, message: object = None, exception: BaseException | None = None) -> Token:
    """Add an entry to a token's list `error` without changing its state. For the parameters see `set_error`."""
    entry: dict[str, Any] = {"time": seconds()}
    if message is not None:
        entry["message"] = safe_text(message)[:MAX_MESSAGE]
    if exception is not None:
        text = "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))
        entry["exception"] = text[-MAX_TRACEBACK:]
    token["error"] = [*list_in(token, "error"), entry][-MAX_ERRORS:]
    return token


def end_attempt(
    token: Token, outcome: str, reason: str = "", measures: Measures | None = None, *, is_failure: bool = False
) -> Token:
    """Add the attempt that ends now to the list `attempts` and remove the claim. Call it before putting a token back.

    :param outcome: "done", "failed", "time-out", "cancelled" (by a person), "stopped", "lost" (its pilot has died),
        "taken away" (by another pilot or a person), or "left open" if the token was not to be closed
    :param reason: why it has ended so, for people; cut to one line of 200 characters. "" if there is nothing to say
    :param measures: what it has taken, as far as that is known
    :param is_failure: whether it counts as a failure, so that its reason gets a group; true for `FAILURES` anyway
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
    if reason:
        attempt.update(_explained(reason, is_failure or outcome in FAILURES))
    if measures is not None:
        attempt.update(measures.fields())
    token["attempts"] = [*list_in(token, "attempts"), attempt][-MAX_ATTEMPTS:]
    _remove(token, "claim")
    return token


def claim_of(token: Mapping[str, Any]) -> dict[str, Any]:
    """Return a token's claim; an empty dict if it has none, as after a lock by an older client."""
    claim = token.get("claim", None)
    return claim if isinstance(claim, dict) else {}


def is_free(token: Mapping[str, Any]) -> bool:
    """Return whether a token may be locked."""
    return is_in_state(token, "todo")


def is_same_lock(token: Mapping[str, Any], claimed: Mapping[str, Any]) -> bool:
    """Return whether a token is still locked by the lock that it had when `claimed` was saved.

    The claim id decides. A lock by an older client has none; then its time and host decide.
    """
    if claim_of(token).get("id") != claim_of(claimed).get("id"):
        return False
    if any(token.get(field) != claimed.get(field) for field in ("lock", "hostname")):
        return False  # it was released by hand, or an older client has locked it since
    return "lock" in token and not is_free(token)


def _explained(reason: str, is_failure: bool) -> dict[str, str]:
    """Return the fields of an attempt that say why it has ended."""
    line = reasons.shortened(reason)
    return {"reason": line, "group": reasons.group_of(line)} if is_failure else {"reason": line}


def _count_one_more(token: MutableMapping[str, Any], field: str) -> int:
    """Increment a count in a token and return it. The count starts at 1 if the field holds no number."""
    count = parse_int(token.get(field, None))
    token[field] = count = int(count) + 1 if math.isfinite(count) else 1
    return count


def _was_stopped(attempt: Any) -> bool:
    """Return whether an attempt in a token ended with a stop of its pilot."""
    return isinstance(attempt, dict) and attempt.get("outcome") == "stopped"


def _was_quick(attempt: Any) -> bool:
    """Return whether an attempt in a token ended with a stop of its pilot as soon as it had begun."""
    if not _was_stopped(attempt):
        return False
    start, end = attempt.get("start"), attempt.get("end")
    return is_number(start) and is_number(end) and 0 <= end - start <= QUICK


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
    """The interface of token modifiers.

    :param timeout: seconds after which a locked token may be considered abandoned
    """

    def __init__(self, timeout: int = 86400) -> None:
        self.timeout = timeout

    def lock(self, *args: Any, **kwargs: Any) -> Any:
        """Lock a token."""
        raise NotImplementedError("lock is not implemented")

    def unlock(self, *args: Any, **kwargs: Any) -> Any:
        """Release a token."""
        raise NotImplementedError("unlock is not implemented")

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Mark a token as done."""
        raise NotImplementedError("close is not implemented")

    def unclose(self, *args: Any, **kwargs: Any) -> Any:
        """Undo `close`."""
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
        """Lock the token. Like the other methods, it calls the function of the same name."""
        return lock(token)

    def unlock(self, token: Token) -> Token:
        """Release the token."""
        return unlock(token)

    def close(self, token: Token) -> Token:
        """Mark the token as done."""
        return close(token)

    def unclose(self, token: Token) -> Token:
        """Undo `close`."""
        return unclose(token)

    def add_output(self, token: Token, output: Mapping[str, Any]) -> Token:
        """Update the token with the fields in `output`."""
        return add_output(token, output)

    def scrub(self, token: Token) -> Token:
        """Put the token back after a failure and count the failure."""
        return scrub(token)

    def set_error(self, token: Token) -> Token:
        """Mark the token as failed."""
        return set_error(token)


class NestedTokenModifier(TokenModifier):
    """Changes the state of a token that is part of a larger document, the `record`.

    Each method takes a `ref` and a record, and returns the record. The ref is the token's key in the record, or a list:
    the id of the document, followed by the keys that lead to the token. A ref that leads nowhere raises `KeyError`.

    :param timeout: seconds after which a locked token may be considered abandoned
    """

    def get_token(self, ref: Ref, record: Any) -> Any:
        """Return the token to which `ref` leads."""
        token = record
        for key in ref[1:] if isinstance(ref, list) else [ref]:
            token = token[key]
        return token

    def lock(self, ref: Ref, record: Token) -> Token:
        """Lock the token."""
        lock(self.get_token(ref, record))
        return record

    def unlock(self, ref: Ref, record: Token) -> Token:
        """Release the token."""
        unlock(self.get_token(ref, record))
        return record

    def close(self, ref: Ref, record: Token) -> Token:
        """Mark the token as done."""
        close(self.get_token(ref, record))
        return record

    def unclose(self, ref: Ref, record: Token) -> Token:
        """Undo `close`."""
        unclose(self.get_token(ref, record))
        return record

    def add_output(self, ref: Ref, record: Token, output: Mapping[str, Any]) -> Token:
        """Update the token with the fields in `output`."""
        add_output(self.get_token(ref, record), output)
        return record

    def scrub(self, ref: Ref, record: Token) -> Token:
        """Put the token back after a failure and count the failure."""
        scrub(self.get_token(ref, record))
        return record

    def set_error(self, ref: Ref, record: Token) -> Token:
        """Mark the token as failed."""
        set_error(self.get_token(ref, record))
        return record
