"""Filling the pool: one token for each line of a file, with ids that are used once.

The ids are token_0, token_1 and so on. One document of the database holds the next free number and the latest pushes. A
push takes all its numbers at once by changing that document; CouchDB's revision check gives each number to one push
only. So a push that was interrupted can be repeated: each line has its number, and tokens that exist already (or did,
and were deleted) are left alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Callable

from .clients import CouchDB
from .exceptions import NoSuchDocument, PicasError
from .generators import TokenGenerator
from .util import seconds

COUNTER_ID = "token_counter"
"""The document with the next free number."""
CHUNK = 1000
"""The number of tokens to send at once."""
MAX_PUSHES = 100
"""The number of pushes that the counter remembers. The oldest are dropped first."""

OWN_FIELDS = frozenset({*TokenGenerator.get_empty_token(), "input", "exit_code", "claim", "attempts"})
"""The fields of a token that a push sets itself, so that they can't be given. Neither can CouchDB's own fields, whose
names begin with an underscore."""

_MAX_REFUSALS = 5
_SCAN = 10_000  # ids to read at once

Progress = Callable[[int, int], None]


class PushError(PicasError):
    """The push was not finished."""


class InputError(PushError):
    """The input can't be read, or is empty, or does not match; nothing was pushed."""


@dataclass
class Pushed:
    """What a push has done."""

    pushed: int = 0
    """The number of tokens that this call has created."""
    existing: int = 0
    """The number of tokens that an earlier, interrupted call had created."""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """The first and the last number of the tokens of all lines, usually one pair."""

    def ids(self) -> str:
        """Return the ids for people: "token_0 to token_2"."""
        texts = [f"token_{first}" if first == last else f"token_{first} to token_{last}" for first, last in self.ranges]
        return ", ".join(texts)

    def _add(self, number: int) -> None:
        if self.ranges and self.ranges[-1][1] == number - 1:
            self.ranges[-1] = (self.ranges[-1][0], number)
        else:
            self.ranges.append((number, number))


def read_inputs(path: Path) -> Iterator[str]:
    """Yield the lines of a file that are inputs: neither blank nor a comment (first character `#`).

    :raises InputError: if the file can't be read or is not UTF-8 text
    """
    number = 0
    try:
        with path.open(encoding="utf-8", newline=None) as file:
            for number, line in enumerate(file, 1):  # noqa: B007  # used in the error
                text = line.rstrip("\n")
                if text.strip() and not text.startswith("#"):
                    yield text
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (after line {number})") from error


@contextmanager
def repeatable(name: str | Path) -> Iterator[Path]:
    """Give the file that a `with` block can read several times, as a push does.

    A pipe, like anything else that may be readable only once, is copied to a temporary file.

    :param name: a file; the text "-" is standard input
    :raises InputError: if it can't be read. In an error of the block, the copy is called by the name of what was copied
    """
    path = Path(name)
    is_standard_input = name == "-" or str(path) == "/dev/stdin"
    is_kept = path.is_file() and path.parts[:2] != ("/", "dev")
    if not is_standard_input and (is_kept or not path.exists()):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder, "input")
        try:
            with copied.open("wb") as copy:
                if not is_standard_input:
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, copy)
                elif sys.stdin is not None:  # it may be closed
                    shutil.copyfileobj(sys.stdin.buffer, copy)
        except OSError as error:
            raise InputError(f"can't read {name}: {error.strerror}") from error
        try:
            yield copied
        except InputError as error:
            shown = "standard input" if is_standard_input else str(name)
            raise InputError(str(error).replace(str(copied), shown)) from None


def push_file(
    client: CouchDB,
    path: Path,
    resume: bool = False,
    progress: Progress | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Pushed:
    """Create a token for each input in a file and return what was done.

    The file is read twice, to count the inputs and to send them, and is not held in memory. A pipe is copied first.

    :param client: the pool
    :param path: the file, see `read_inputs`
    :param resume: finish an earlier push of the same content that was interrupted. If that push was finished, nothing
        is done; if there was none, the file is pushed.
    :param progress: called with the number of inputs handled so far, and the number of all inputs
    :param fields: further fields of each token, for example its needs (see `resources.needs_of`). An earlier push is
        finished with its own fields.
    :raises InputError: if the file can't be read or has no inputs, if PiCaS writes one of the fields itself, or if the
        earlier push had other fields
    :raises PushError: if the file changes meanwhile, or if the server refuses tokens
    """
    _check_fields(fields or {})
    with repeatable(path) as kept:
        return _push(client, kept, resume, progress, fields)


def _push(
    client: CouchDB, path: Path, resume: bool, progress: Progress | None, fields: Mapping[str, Any] | None
) -> Pushed:
    count, digest = _survey(path)
    if not count:
        raise InputError(f"{path} has no inputs: each line that is neither blank nor a comment (#) makes a token")
    counter = _Counter(client)
    push = counter.find(digest) if resume else None
    is_repeated = push is not None
    if push is None:
        push = counter.begin(digest, count, dict(fields or {}))
    elif fields is not None and fields != push.get("fields", {}):
        raise InputError(
            f"an earlier push of {path} gave its tokens other fields: {json.dumps(push.get('fields', {}))}"
        )
    result = Pushed()
    if push["done"]:
        result.existing = count
        result.ranges = [(push["first"], push["first"] + count - 1)]
        return result

    again = hashlib.sha256()
    numbered = enumerate(read_inputs(path), push["first"])
    handled = 0
    while chunk := list(islice(numbered, min(CHUNK, count - handled))):
        for _, text in chunk:
            again.update(_line(text))
        _push_chunk(client, counter, push, chunk, is_repeated, result)
        handled += len(chunk)
        if progress is not None:
            progress(handled, count)
    if again.hexdigest() != digest:
        raise PushError(f"{path} changed while it was read: {result.pushed} tokens of it are in the pool")
    counter.finish(push)
    return result


def was_broken_off(client: CouchDB, path: Path) -> bool:
    """Return whether an earlier push of this content is not finished. It may be going on now."""
    push = _Counter(client).find(_survey(path)[1])
    return push is not None and not push["done"]


def _survey(path: Path) -> tuple[int, str]:
    """Return the number of inputs in a file, and their digest."""
    count = 0
    digest = hashlib.sha256()
    for text in read_inputs(path):
        count += 1
        digest.update(_line(text))
    return count, digest.hexdigest()


def _check_fields(fields: Mapping[str, Any]) -> None:
    for name in fields:
        if not name or name.startswith("_") or name in OWN_FIELDS:
            raise InputError(f"a token's field {name!r} can't be set: PiCaS writes it itself")


def _line(text: str) -> bytes:
    return text.encode("utf-8") + b"\n"


def _push_chunk(
    client: CouchDB,
    counter: _Counter,
    push: dict[str, Any],
    chunk: list[tuple[int, str]],
    is_repeated: bool,
    result: Pushed,
) -> None:
    """Create the tokens of one chunk of (number, input). Where a number is taken, the token gets another one."""
    moved: dict[str, int] = push["moved"]
    left = chunk
    for _ in range(_MAX_REFUSALS):
        numbers = [moved.get(str(number), number) for number, _ in left]
        inputs = [text for _, text in left]
        ours, foreign = _find_existing(client, numbers, inputs) if is_repeated else (set(), set())
        missing = [at for at, number in enumerate(numbers) if number not in ours | foreign]
        fields = push.get("fields", {})
        saved = client.save_documents([_token(numbers[at], inputs[at], fields) for at in missing])
        refused = {numbers[at] for at, is_saved in zip(missing, saved) if not is_saved}
        result.existing += len(ours)
        result.pushed += sum(saved)
        for number in numbers:
            if number not in refused | foreign:
                result._add(number)
        left = [entry for entry, number in zip(left, numbers) if number in refused | foreign]
        if not left:
            return
        # Older clients take numbers without using the counter.
        counter.move(push, [number for number, _ in left])
    raise PushError(f"the server refuses new tokens, e.g. token_{left[0][0]}; may this user write documents?")


def _find_existing(client: CouchDB, numbers: list[int], inputs: list[str]) -> tuple[set[int], set[int]]:
    """Return the numbers whose token is ours (or was, and is deleted), and those whose token is another push's."""
    keys = [f"token_{number}" for number in numbers]
    rows = client.all_docs(keys=keys, include_docs=True)
    ours: set[int] = set()
    foreign: set[int] = set()
    for number, text, row in zip(numbers, inputs, rows):
        if "error" in row:
            continue
        document = row.get("doc")
        is_ours = document is None or document.get("input") == text
        (ours if is_ours else foreign).add(number)
    return ours, foreign


def _token(number: int, text: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    own = {**TokenGenerator.get_empty_token(), "input": text, "exit_code": ""}
    return {"_id": f"token_{number}", **own, **fields}


class _Counter:
    """The document with the next free number and the latest pushes."""

    def __init__(self, client: CouchDB) -> None:
        self._client = client

    def find(self, digest: str) -> dict[str, Any] | None:
        """Return the push of this content that is not finished, or the latest that is, or None."""
        try:
            known = self._client.get(COUNTER_ID)["pushes"]
        except NoSuchDocument:
            return None
        pushes = [push for push in known if push["sha256"] == digest]
        unfinished = [push for push in pushes if not push["done"]]
        found: list[dict[str, Any]] = unfinished or pushes
        return found[-1] if found else None

    def begin(self, digest: str, count: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Take numbers for a new push and return its entry."""
        push: dict[str, Any] = {"sha256": digest, "count": count, "time": seconds(), "done": False, "moved": {}}
        if fields:
            push["fields"] = fields

        def add(content: dict[str, Any]) -> None:
            push["first"] = content["next"]
            content["next"] += count
            content["pushes"].append(push)
            while len(content["pushes"]) > MAX_PUSHES:
                finished = [at for at, old in enumerate(content["pushes"][:-1]) if old["done"]]
                del content["pushes"][finished[0] if finished else 0]

        self._edit(add)
        return push

    def move(self, push: dict[str, Any], numbers: list[int]) -> None:
        """Give new numbers to lines of a push whose numbers are taken."""

        def move(content: dict[str, Any]) -> None:
            for number in numbers:
                push["moved"][str(number)] = content["next"]
                content["next"] += 1
            self._replace(content, push)

        self._edit(move)

    def finish(self, push: dict[str, Any]) -> None:
        """Mark a push as finished."""
        push["done"] = True
        self._edit(lambda content: self._replace(content, push))

    @staticmethod
    def _replace(content: dict[str, Any], push: dict[str, Any]) -> None:
        content["pushes"] = [push if old["first"] == push["first"] else old for old in content["pushes"]]

    def _edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the document, while others may change it too; create it if there is none."""

        def edited(stored: dict[str, Any]) -> dict[str, Any]:
            content = copy.deepcopy(stored)
            if "next" not in content:
                content.update(type="counter", next=self._first_free(), pushes=[])
            change(content)
            return content

        self._client.edit(COUNTER_ID, edited)

    def _first_free(self) -> int:
        """Return the number after the highest number of a token in the database."""
        highest = -1
        start = "token_"
        while True:
            rows = self._client.all_docs(startkey=start, endkey="token_\ufff0", limit=_SCAN)
            for row in rows:
                match = re.fullmatch(r"token_(\d+)", row.id)
                if match:
                    highest = max(highest, int(match.group(1)))
            if len(rows) < _SCAN:
                return highest + 1
            start = rows[-1].id
