"""What people do with many tokens: retry, change, delete and count them.

A token is changed only in the revision in which it was read. One that changes meanwhile, because a pilot takes it for
example, is left alone and counted. So each function here can be broken off and called again: on Ctrl-C, the requests
that are under way are finished, and the `KeyboardInterrupt` says how many tokens were changed. A second Ctrl-C ends
this wait. If the server refuses a token for another reason, `PicasError` is raised.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Callable

from .. import modifiers
from ..clients import CouchDB
from ..documents import Document
from ..exceptions import InputError, PicasError, UsageError
from ..generators import TokenGenerator
from ..tokens import reasons
from ..tokens.job_ends import FIELD as JOB_ENDS
from ..tokens.states import STATES, is_in_state
from ..util import in_background
from ..views import DESIGN_DOC
from . import pages
from .fields import time_of
from .new_tokens import storable

SECONDS_PER_HOUR = 3600
WRITERS = 2
"""How many requests change tokens at the same time. More do not make CouchDB faster, see `tests/benchmarks/bulk.py`."""
PROTECTED = frozenset(
    {*TokenGenerator.get_empty_token(), "exit_code", "claim", "attempts", "error", "lost_count", JOB_ENDS}
)
"""The fields of a token that PiCaS writes, and that a person can't set. Neither can CouchDB's own, which begin with an
underscore."""

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Change:
    """How many tokens were changed."""

    changed: int = 0
    kept: int = 0
    """The number of tokens that were left alone because somebody else changed them meanwhile."""


def delete_tokens(
    client: CouchDB,
    tokens: str | Iterable[Document],
    design_doc: str = DESIGN_DOC,
    progress: Progress | None = None,
) -> Change:
    """Delete tokens, except those that change meanwhile.

    :param tokens: the tokens as they were read, see `queries.TokenQuery`, or the name of a view, for all of it
    :param design_doc: the design document that has the view
    :param progress: called now and then with the number of tokens handled so far, or read so far if it is a view
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    if isinstance(tokens, str):
        return _change_view(client, tokens, design_doc, client.delete_documents, progress)
    return _change(client, tokens, client.delete_documents, progress)


def retry_tokens(
    client: CouchDB,
    tokens: Iterable[Document],
    fields: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Change:
    """Put tokens back to todo, except those that change meanwhile. Logs and history stay.

    This counts neither as a failure nor as an attempt. A pilot that still works on such a token loses it. A token that
    waits for its next try may be taken at once.

    :param tokens: the tokens as they were read, see `queries.TokenQuery`
    :param fields: fields to set with the same write, for example a larger need
    :param progress: called now and then with the number of tokens handled so far
    :raises UsageError: if PiCaS writes one of the fields itself, or a value is invalid
    """
    new = check_fields(fields or {})

    def retry(chunk: list[Document]) -> list[bool]:
        for token in chunk:
            put_back(token)
            token.update(new)
        return client.save_documents(chunk)

    return _change(client, tokens, retry, progress)


def set_fields(
    client: CouchDB,
    tokens: Iterable[Document],
    fields: Mapping[str, Any],
    unset: Collection[str] = (),
    progress: Progress | None = None,
) -> Change:
    """Set fields of tokens, except of those that change meanwhile.

    :param tokens: the tokens as they were read, see `queries.TokenQuery`
    :param fields: the new values
    :param unset: the names of fields to remove
    :param progress: called now and then with the number of tokens handled so far
    :raises UsageError: if PiCaS writes one of the fields itself, or a value is invalid
    """
    new = check_fields(fields)
    check_fields(dict.fromkeys(unset))

    def change(chunk: list[Document]) -> list[bool]:
        for token in chunk:
            for name in unset:
                token.pop(name, None)
            token.update(new)
        return client.save_documents(chunk)

    return _change(client, tokens, change, progress)


def check_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return fields that a person may set, as the database holds them.

    :raises UsageError: if PiCaS or CouchDB writes one of them, or if a value is invalid
    """
    for name in fields:
        if not name or name.startswith("_") or name in PROTECTED:
            raise UsageError(f"the field {name!r} can't be set: PiCaS writes it itself")
        if "." in name:
            raise UsageError(
                f"the field {name!r} can't be set: only whole fields can, such as {name.partition('.')[0]!r}"
            )
    try:
        return storable(fields)
    except InputError as error:
        raise UsageError(str(error)) from None


def put_back(token: Document) -> None:
    """Put a token back to todo by hand: end its attempt, if it has one.

    It is forgotten how often it lost its pilot, or was longer than its job: a person has dealt with the cause.
    """
    if modifiers.claim_of(token):
        modifiers.end_attempt(token, "stopped", reasons.RESET)
    modifiers.reset(token)
    for field in ("lost_count", JOB_ENDS):
        token.pop(field, None)


def reset_tokens(
    client: CouchDB,
    view: str,
    design_doc: str = DESIGN_DOC,
    hours: float = 0,
    pilots: Container[str] | None = None,
    progress: Progress | None = None,
) -> Change:
    """Put all tokens of a view back to todo, see `retry_tokens`.

    :param hours: reset only tokens that were locked longer ago than this, or whose last attempt ended longer ago if
        they are not locked, by the clocks of this machine and the pilot's. A token whose time is unknown is reset.
    :param pilots: reset only locked tokens that pilots with these ids hold
    :param progress: called now and then with the number of tokens of the view that were read so far
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    is_old = _older_than(hours)

    def is_wanted(token: Document) -> bool:
        return is_old(token) and (pilots is None or holder_of(token) in pilots)

    def reset(tokens: list[Document]) -> list[bool]:
        for token in tokens:
            put_back(token)
        return client.save_documents(tokens)

    return _change_view(client, view, design_doc, reset, progress, is_wanted)


def count_holders(client: CouchDB, view: str, design_doc: str = DESIGN_DOC, hours: float = 0) -> Counter[str]:
    """Return how many of the tokens that `reset_tokens` would reset are locked, by the ids of their pilots.

    The id of a pilot of an older release, and of a person, is ''.

    :param hours: see `reset_tokens`
    :raises couchdb.ResourceNotFound: if there is no such view
    """
    is_old = _older_than(hours)
    tokens = (token for page in pages.pages(client, view, design_doc) for token in page)
    return holders_of(token for token in tokens if is_old(token))


def holders_of(tokens: Iterable[Document]) -> Counter[str]:
    """Return how many of some tokens are locked, by the ids of the pilots that hold them, see `count_holders`."""
    holders = map(holder_of, tokens)
    return Counter(holder for holder in holders if holder is not None)


def holder_of(token: Document) -> str | None:
    """Return the id of the pilot that holds a token, '' if the token does not name it, None if it is not locked."""
    return str(modifiers.claim_of(token).get("pilot") or "") if is_in_state(token, "locked") else None


def count_tokens(client: CouchDB, view: str, design_doc: str = DESIGN_DOC) -> int:
    """Return how many rows a view has.

    :raises couchdb.ResourceNotFound: if there is no such view
    """
    result = client.view(view, design_doc=design_doc, reduce=False, limit=0)
    return int(result.total_rows)


def _older_than(hours: float) -> Callable[[Document], bool]:
    """Return a function that says whether a token's lock or last attempt is older."""
    before = time.time() - hours * SECONDS_PER_HOUR
    return lambda token: time_of(token) <= before


def _change(
    client: CouchDB,
    tokens: Iterable[Document],
    change: Callable[[list[Document]], list[bool]],
    progress: Progress | None,
) -> Change:
    """Change tokens in chunks. While some are written, the next is read.

    :raises PicasError: if the server refuses a token that nobody else has changed
    :raises KeyboardInterrupt: with a text for people, on Ctrl-C
    """
    left = iter(tokens)
    changed = handled = 0
    is_stopped = False
    changing: list[futures.Future[None]] = []
    writing: deque[futures.Future[list[bool]]] = deque()

    def read() -> list[Document]:
        return list(islice(left, pages.PAGE))

    def write(chunk: list[Document]) -> list[bool]:
        is_changed = change(chunk)
        _check_refused(client, [token for token, worked in zip(chunk, is_changed) if not worked], changed)
        return is_changed

    def count_until(most: int) -> None:
        """Wait until at most so many chunks are being written, and count the others."""
        nonlocal changed, handled
        while len(writing) > most:
            is_changed = writing.popleft().result()
            changed, handled = changed + sum(is_changed), handled + len(is_changed)
            if progress is not None:
                progress(handled)

    def change_all() -> None:
        ahead = in_background(read)
        try:
            while (chunk := ahead.result()) and not is_stopped:
                ahead = in_background(read)
                in_background(partial(write, chunk), writing)
                count_until(WRITERS - 1)
            count_until(0)
        finally:
            futures.wait(writing)

    # In another thread: Ctrl-C interrupts this one, but no request, whose outcome nobody would know then.
    try:
        in_background(change_all, changing).result()
    except KeyboardInterrupt:
        is_stopped = True
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C
            futures.wait([future for future in changing if not future.cancel()])
        least = "" if all(future.done() for future in changing) else "at least "
        what = "1 token was" if changed == 1 else f"{changed} tokens were"
        raise KeyboardInterrupt(f"interrupted: {least}{what} changed; the same command changes the rest") from None
    return Change(changed, handled - changed)


def _check_refused(client: CouchDB, tokens: Iterable[Document], changed: int) -> None:
    """Check that somebody else has changed each of some tokens, whose change has failed.

    :param changed: how many other tokens were changed so far
    :raises PicasError: if a token is as it was: the server has another reason, for example a rule about who may write
    """
    revs = {token.id: token.rev for token in tokens}
    for row in client.all_docs(keys=revs) if revs else ():
        if "error" not in row and row.value["rev"] == revs[row.id]:
            refused = f"the server refuses to change tokens, e.g. {row.id}"
            raise PicasError(f"{refused}; {changed} were changed before. May this user write documents?")


def _change_view(
    client: CouchDB,
    view: str,
    design_doc: str,
    change: Callable[[list[Document]], list[bool]],
    progress: Progress | None,
    is_wanted: Callable[[Document], bool] = lambda token: True,
) -> Change:
    """Change the tokens of a view that are wanted. One whose row is out of date counts as changed meanwhile.

    :param progress: called now and then with the number of tokens that were read so far, wanted or not
    """
    outdated = seen = 0

    def wanted() -> Iterator[Document]:
        nonlocal outdated, seen
        for page in pages.pages(client, view, design_doc):
            seen += len(page)
            if progress is not None:
                progress(seen)
            current = [token for token in page if view not in STATES or is_in_state(token, view)]
            outdated += len(page) - len(current)
            yield from filter(is_wanted, current)

    result = _change(client, wanted(), change, None)
    return Change(result.changed, result.kept + outdated)
