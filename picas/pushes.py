"""Filling the pool: tokens from the lines or rows of a file or from any iterable, with ids that are used once.

The ids are token_0, token_1 and so on, unless the file has its own. One document of the database holds the next free
number and the latest pushes of files (see `pool.counter`). A push of a file takes all its numbers at once. So one that
was interrupted can be repeated: each line has its number, and tokens that exist already (or did, and were deleted) are
left alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Callable

from couchdb.http import HTTPError

from .clients import CouchDB
from .couch import explain
from .exceptions import AlreadyPushed, InputError, PicasError, PushError
from .pool.counter import Counter, numbers_of
from .pool.inputs import read_inputs, repeatable
from .pool.new_tokens import check_fields, check_id, new_token, storable
from .pool.sizes import check_size, size_of
from .pool.surveys import Survey, read_again, survey_of
from .pool.tables import BY_LINE, FORMATS, Layout, format_of, read_rows, read_tokens
from .pool.templates import Template

__all__ = [
    "FORMATS",
    "AlreadyPushed",
    "InputError",
    "Layout",
    "PushError",
    "Pushed",
    "Template",
    "count_tokens_in",
    "format_of",
    "push_file",
    "push_tokens",
    "read_inputs",
    "read_rows",
    "read_tokens",
    "repeatable",
]

CHUNK = 1000
"""The number of tokens to send at once."""
CHUNK_BYTES = 8_000_000
"""The most bytes of JSON to hold of an iterable, unless a single token is larger."""

_MAX_REFUSALS = 5
_LOOKED_UP = 10_000  # ids to look up at once

Progress = Callable[[int, int], None]


@dataclass
class Pushed:
    """What a push has done."""

    pushed: int = 0
    """The number of tokens that this call has created."""
    existing: int = 0
    """The number of tokens that were left alone: they exist already, or did and were deleted."""
    deleted: int = 0
    """How many of these were deleted."""
    refused: int = 0
    """The number of tokens that the server has refused, by a rule of the database."""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """The first and the last number of the tokens whose ids are numbers, usually one pair."""

    def ids(self) -> str:
        """Return the numbered ids for people: "token_0 to token_2"."""
        texts = [f"token_{first}" if first == last else f"token_{first} to token_{last}" for first, last in self.ranges]
        return ", ".join(texts)

    def _add(self, number: int) -> None:
        if self.ranges and self.ranges[-1][1] == number - 1:
            self.ranges[-1] = (self.ranges[-1][0], number)
        else:
            self.ranges.append((number, number))


# --- the lines of a file


def push_file(
    client: CouchDB,
    path: Path,
    resume: bool = False,
    progress: Progress | None = None,
    fields: Mapping[str, Any] | None = None,
    again: bool = True,
    layout: Layout = BY_LINE,
) -> Pushed:
    """Create a token for each input in a file and return what was done.

    The file is read twice, to count the inputs and to send them, and is not held in memory. A pipe is copied first.

    If the file has ids for its tokens, these are not numbered. Then each push leaves the tokens alone that exist, and
    `resume` and `again` have no effect.

    :param client: the pool
    :param path: the file
    :param resume: finish an earlier push of the same tokens that was interrupted. If that push was finished, nothing
        is done; if there was none, the file is pushed.
    :param progress: called with the number of inputs handled so far, and the number of all inputs
    :param fields: further fields of each token, for example its needs (see `resources.needs_of`), instead of those in
        the file. An earlier push is finished with its own fields.
    :param again: whether to push tokens that were pushed before with the same fields, so that each line has one token
        more. The latest 100 pushes are remembered. A push whose tokens were all deleted since does not count.
    :param layout: how the file describes tokens; by default, each line that `read_inputs` returns is an input
    :raises InputError: if the file can't be read or has no inputs, if PiCaS writes one of the fields itself, if a
        need is invalid, if the earlier push had other fields, or if a token is too large for the server
    :raises AlreadyPushed: if there was an earlier push, and neither `resume` nor `again` is set
    :raises PushError: if the file changes meanwhile, or if the server refuses tokens and has taken none before
    """
    if fields is not None:
        check_fields(fields)
        fields = storable(fields)
    with repeatable(path) as kept:
        return _push(client, kept, resume, progress, fields, again, layout)


def count_tokens_in(path: Path, layout: Layout = BY_LINE) -> int:
    """Return how many tokens a push of a file would make, all of which are checked, but not for their size.

    :raises InputError: as `push_file` does
    """
    return survey_of(path, layout).count


def _push(
    client: CouchDB,
    path: Path,
    resume: bool,
    progress: Progress | None,
    fields: Mapping[str, Any] | None,
    again: bool,
    layout: Layout,
) -> Pushed:
    survey = survey_of(path, layout)
    result = Pushed()
    if survey.has_ids:
        own = dict(fields or {})
        survey.check_largest(client, path, own)
        for chunk in _chunks_of(path, layout, survey, result, progress):
            _push_named(client, [new_token({**token, **own}) for token in chunk], result)
        return result

    counter = Counter(client)
    earlier = counter.pushes_of(survey.digest)
    push = earlier[0] if resume and earlier else None
    is_repeated = push is not None
    if push is not None and fields is not None and fields != push.get("fields", {}):
        raise InputError(
            f"an earlier push of {path} gave its tokens other fields: {json.dumps(push.get('fields', {}))}"
        )
    if push is not None and push["done"]:
        result.existing = survey.count
        for number in numbers_of(push):
            result._add(number)
        return result

    own = dict(fields or {}) if push is None else push.get("fields", {})
    survey.check_largest(client, path, own)
    if push is None:
        same = [] if again else [old for old in earlier if old.get("fields", {}) == own]
        push = counter.begin(survey.digest, survey.count, own, _check_absent(client, path, same))
    number = push["first"]
    for chunk in _chunks_of(path, layout, survey, result, progress):
        _push_chunk(client, counter, push, list(enumerate(chunk, number)), is_repeated, result)
        number += len(chunk)
    if not result.refused:
        counter.finish(push)
    return result


def _chunks_of(
    path: Path, layout: Layout, survey: Survey, result: Pushed, progress: Progress | None
) -> Iterator[list[dict[str, Any]]]:
    """Yield the fields of the tokens in a file, as many as are sent at once.

    :param result: what was done with those that were yielded before
    :param progress: see `push_file`
    """
    handled = 0
    for chunk in read_again(path, layout, survey, CHUNK, CHUNK_BYTES, lambda: result.pushed):
        yield chunk
        handled += len(chunk)
        if progress is not None:
            progress(handled, survey.count)


def _check_absent(client: CouchDB, path: Path, pushes: Iterable[Mapping[str, Any]]) -> list[int]:
    """Check that no token of earlier pushes of a file is in the pool, and return the first numbers of these pushes.

    :raises AlreadyPushed: if there is one
    """
    gone = []
    for push in pushes:
        ids = (f"token_{number}" for number in numbers_of(push))
        while some := list(islice(ids, _LOOKED_UP)):
            if any("error" not in row and not row.value.get("deleted") for row in client.all_docs(keys=some)):
                known = Pushed()
                for number in numbers_of(push):
                    known._add(number)
                is_there = f"{path} is in the pool already, as {known.ids()}"
                is_finished = bool(push["done"])
                raise AlreadyPushed(
                    is_there if is_finished else f"an earlier push of {path} did not finish", is_finished
                )
        gone.append(int(push["first"]))
    return gone


def _push_chunk(
    client: CouchDB,
    counter: Counter,
    push: dict[str, Any],
    chunk: list[tuple[int, dict[str, Any]]],
    is_repeated: bool,
    result: Pushed,
) -> None:
    """Create the tokens of one chunk of (number, fields). Where a number is taken, the token gets another one."""
    moved: dict[str, int] = push["moved"]
    own = push.get("fields", {})
    left = chunk
    for _ in range(_MAX_REFUSALS):
        numbers = [moved.get(str(number), number) for number, _ in left]
        given = [fields for _, fields in left]
        ours, foreign = _find_existing(client, numbers, given, result) if is_repeated else (set(), set())
        missing = [at for at, number in enumerate(numbers) if number not in ours | foreign]
        saved = client.save_documents([new_token({**given[at], **own}, numbers[at]) for at in missing])
        unsaved = [numbers[at] for at, is_saved in zip(missing, saved) if not is_saved]
        result.pushed += sum(saved)
        refused = _refused_of(client, unsaved, result)
        for number in numbers:
            if number not in {*unsaved, *foreign}:
                result._add(number)
        left = [entry for entry, number in zip(left, numbers) if number in {*unsaved, *foreign} - refused]
        if not left:
            return
        # Older clients take numbers without using the counter.
        counter.move(push, [number for number, _ in left])
    raise _refused(f"token_{left[0][0]}")


def _refused_of(client: CouchDB, unsaved: list[int], result: Pushed) -> set[int]:
    """Return the numbers that are free although a token with them was not saved: the server refuses these tokens.

    :raises PushError: if it has not taken any token before
    """
    if not unsaved:
        return set()
    refused = _look_up(client, [f"token_{number}" for number in unsaved]).free
    _count_refused(refused, result)
    return {number for number in unsaved if f"token_{number}" in refused}


def _count_refused(refused: Collection[str], result: Pushed) -> None:
    """Count tokens that the server has refused.

    :raises PushError: if it has not taken any token before
    """
    if refused and not result.pushed + result.existing:
        raise _refused(min(refused))
    result.refused += len(refused)


def _find_existing(
    client: CouchDB, numbers: list[int], given: list[dict[str, Any]], result: Pushed
) -> tuple[set[int], set[int]]:
    """Return the numbers whose token is ours (or was, and is deleted), and those whose token is another push's."""
    keys = [f"token_{number}" for number in numbers]
    rows = client.all_docs(keys=keys, include_docs=True)
    ours: set[int] = set()
    foreign: set[int] = set()
    for number, fields, row in zip(numbers, given, rows):
        if "error" in row:
            continue
        document = row.get("doc")
        is_ours = document is None or document.get("input") == fields.get("input")
        (ours if is_ours else foreign).add(number)
        result.deleted += document is None
    result.existing += len(ours)
    return ours, foreign


# --- any iterable


def push_tokens(client: CouchDB, items: Iterable[Any]) -> Pushed:
    """Create a token for each item of an iterable and return what was done.

    The items are sent in bulk while they are produced, and only some are held in memory: a generator can have millions
    of them. If the error of one comes up in the middle, the message says what is in the pool by then.

    An item is one of these:

    - the input of a token: any value that JSON can hold, except an object. The token gets the next number.
    - a mapping with fields of a token: its `input`, its needs (see `resources.needs_of`), and fields of your own. With
      an `_id`, the call can be repeated: a token that exists is left alone, and so is one that was deleted. Of items
      with the same `_id`, the first counts.

    :param client: the pool
    :param items: the items. All items of a list are checked before the first is sent.
    :raises TypeError: if this is a text or a mapping, and so a single item
    :raises InputError: if PiCaS writes one of an item's fields itself, if a need is invalid, if an item contains what
        JSON can't hold, or is too large for the server; it is named by its position, from 0 on. Nothing was pushed.
    :raises PushError: if this, or another error of the database, comes up after the first tokens were pushed, or if the
        server refuses tokens
    """
    if isinstance(items, (str, bytes, Mapping)):
        raise TypeError(f"push_tokens wants many items: put this {type(items).__name__} into a list")
    taken = 0
    if isinstance(items, Sequence):
        sizes = ((size_of(token), position, token) for position, token in enumerate(_tokens(items)))
        taken, position, largest = max(sizes, key=lambda size: size[0], default=(0, 0, {}))
        check_size(client, largest, taken, f"item {position}")
    result = Pushed()
    counter = Counter(client)
    try:
        for chunk in _chunks(client, _tokens(items), taken):
            _push_named(client, [token for token in chunk if "_id" in token], result)
            _push_numbered(client, counter, [token for token in chunk if "_id" not in token], result)
            if result.refused:
                raise _refused("one with an _id")
    except (PicasError, HTTPError) as error:
        if not result.pushed:
            raise
        ids = f": {result.ids()}" if result.ranges else ""
        raise PushError(f"{explain(error)}; {result.pushed} tokens were pushed before{ids}") from error
    return result


def _tokens(items: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the token of each item."""
    for position, item in enumerate(items):
        fields = item if isinstance(item, Mapping) else {"input": item}
        try:
            check_fields(fields, ("input", "_id"))
            check_id(fields.get("_id", "new"))
            token = new_token(storable(fields))
        except InputError as error:
            raise InputError(f"item {position}: {error}") from None
        yield token


def _chunks(client: CouchDB, tokens: Iterable[dict[str, Any]], taken: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the tokens that are sent at once, when it is known that the server takes them.

    :param taken: a size in bytes that the server takes
    """
    chunk: list[dict[str, Any]] = []
    held = 0
    for position, token in enumerate(tokens):
        size = size_of(token)
        if chunk and (len(chunk) >= CHUNK or held + size > CHUNK_BYTES):
            yield chunk
            chunk, held = [], 0
        if size > taken:
            check_size(client, token, size, f"item {position}")
            taken = size
        chunk.append(token)
        held += size
    if chunk:
        yield chunk


def _push_named(client: CouchDB, tokens: Collection[dict[str, Any]], result: Pushed) -> None:
    """Create tokens that have ids, unless they exist.

    :raises PushError: if the server refuses them and has not taken any token before
    """
    if not tokens:
        return
    before = _look_up(client, [token["_id"] for token in tokens])
    new: dict[str, dict[str, Any]] = {}
    for token in tokens:
        if token["_id"] in before.missing:
            new.setdefault(token["_id"], token)
    saved = client.save_documents(list(new.values()))
    result.pushed += sum(saved)
    result.deleted += len(before.deleted)
    # Somebody else may have made those that were not saved.
    unsaved = [id for id, is_saved in zip(new, saved) if not is_saved]
    refused = _look_up(client, unsaved).missing if unsaved else set()
    result.existing += len(tokens) - sum(saved) - len(refused)
    _count_refused(refused, result)


@dataclass
class _Known:
    """What the database has of some ids."""

    missing: set[str]
    """Those that never existed."""
    deleted: set[str]

    @property
    def free(self) -> set[str]:
        """Those that a new token can have."""
        return self.missing | self.deleted


def _look_up(client: CouchDB, ids: list[str]) -> _Known:
    rows = client.all_docs(keys=ids)
    missing = {id for id, row in zip(ids, rows) if "error" in row}
    return _Known(missing, {id for id, row in zip(ids, rows) if id not in missing and row.value.get("deleted")})


def _push_numbered(client: CouchDB, counter: Counter, tokens: list[dict[str, Any]], result: Pushed) -> None:
    """Create tokens that get numbers as ids."""
    left = tokens
    for _ in range(_MAX_REFUSALS):
        if not left:
            return
        first = counter.take(len(left))
        saved = client.save_documents([{**token, "_id": f"token_{n}"} for n, token in enumerate(left, first)])
        result.pushed += sum(saved)
        for number, is_saved in enumerate(saved, first):
            if is_saved:
                result._add(number)
        # Older clients take numbers without using the counter.
        left = [token for token, is_saved in zip(left, saved) if not is_saved]
    if left:
        raise _refused(f"token_{first}")


def _refused(id: str) -> PushError:
    return PushError(f"the server refuses new tokens, e.g. {id}; may this user write documents?")
