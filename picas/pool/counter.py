"""The numbers of tokens: one document of the database holds the next free number and the latest pushes of files."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Callable

from ..clients import CouchDB
from ..exceptions import NoSuchDocument
from ..util import seconds

COUNTER_ID = "token_counter"
"""The id of the document."""
MAX_PUSHES = 100
"""The number of pushes that it remembers. The oldest are dropped first."""

_SCAN = 10_000  # ids to read at once


class Counter:
    """Gives each number to one push only: CouchDB's revision check sees to that.

    :param client: the pool
    """

    def __init__(self, client: CouchDB) -> None:
        self._client = client

    def pushes_of(self, digest: str) -> list[dict[str, Any]]:
        """Return the pushes of a file's content that are remembered, the latest first, the unfinished ones before."""
        try:
            known = self._client.get(COUNTER_ID)["pushes"]
        except NoSuchDocument:
            return []
        pushes = [push for push in reversed(known) if push["sha256"] == digest]
        return sorted(pushes, key=lambda push: bool(push["done"]))

    def begin(self, digest: str, count: int, fields: dict[str, Any], forgotten: Collection[int] = ()) -> dict[str, Any]:
        """Take numbers for a new push of a file and return its entry.

        :param digest: the SHA-256 of the content
        :param count: how many tokens there will be
        :param fields: their further fields
        :param forgotten: the first numbers of the pushes to forget
        """
        push: dict[str, Any] = {"sha256": digest, "count": count, "time": seconds(), "done": False, "moved": {}}
        if fields:
            push["fields"] = fields

        def add(content: dict[str, Any]) -> None:
            push["first"] = content["next"]
            content["next"] += count
            content["pushes"] = [old for old in content["pushes"] if old["first"] not in forgotten] + [push]
            while len(content["pushes"]) > MAX_PUSHES:
                finished = [at for at, old in enumerate(content["pushes"][:-1]) if old["done"]]
                del content["pushes"][finished[0] if finished else 0]

        self._edit(add)
        return push

    def take(self, count: int) -> int:
        """Take numbers for tokens that belong to no file, and return the first of them."""
        first = 0

        def take(content: dict[str, Any]) -> None:
            nonlocal first
            first = content["next"]
            content["next"] += count

        self._edit(take)
        return first

    def move(self, push: dict[str, Any], numbers: Iterable[int]) -> None:
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


def numbers_of(push: Mapping[str, Any]) -> Iterable[int]:
    """Return the numbers of the tokens of a push, in the order of the lines."""
    first, moved = push["first"], push["moved"]
    return (moved.get(str(number), number) for number in range(first, first + push["count"]))
