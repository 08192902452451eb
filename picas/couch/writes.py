"""Writes whose outcome is known, even if the answer was lost.

If an answer was lost, the document is read: the write counts if it landed, and is repeated if it did not. A write
landed if a stored revision follows the revision that we changed and has the content that we sent. Two pilots that lock
the same token send different content, since each lock has a claim of its own. So no pilot takes another's lock for its
own.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import couchdb
from couchdb import json as couchdb_json
from couchdb.http import ResourceConflict, ResourceNotFound, ServerError

from ..exceptions import LostAnswer, NoQuorum, Unreachable, ViewGone
from .answers import is_absent, is_passing_status
from .revisions import Revision
from .transport import pause

REPEAT_PAUSES = (0.2, 1.0, 3.0)
"""Seconds to wait before a write that did not land is sent again."""
BULK_DOCS = 1000
"""The most documents in one `_bulk_docs` request."""
BULK_BYTES = 8_000_000
"""The most bytes of JSON in one `_bulk_docs` request, unless a single document is larger."""

_STORAGE_ERRORS = ("insufficient_storage", "insufficent_storage")  # CouchDB's own spelling is the second in places


@dataclass
class Written:
    """What became of several documents."""

    revs: list[str | None]
    """The new revision of each document, None for one that was refused."""
    has_quorum: list[bool]
    """For each document whether the server said that a majority of its copies took it. A single node is a majority."""
    was_lost: bool = False
    """Whether an answer was lost. On a cluster, a document that was refused may have left a branch then."""


class Write(ABC):
    """A write to one document, whose answer may be lost."""

    @abstractmethod
    def send(self) -> str:
        """Send the write and return the new revision from the answer."""

    @abstractmethod
    def find_landed(self) -> str | None:
        """Return the revision under which the write landed, None if it did not."""

    def run(self) -> str:
        """Write the document and return its new revision.

        :raises couchdb.http.HTTPError: if the server refuses the document, or has a passing error each time
        :raises Unreachable: if nothing was sent
        :raises LostAnswer: if the write did not land after several tries, or if it is unknown whether it did
        """
        pauses = iter(REPEAT_PAUSES)
        is_repeated = False
        while True:
            try:
                return self.send()
            except (ResourceConflict, ResourceNotFound):
                rev = self.look_up() if is_repeated else None  # the conflict may be our own first try, applied late
                if rev is None:
                    raise
                return rev
            except (LostAnswer, ServerError) as error:
                if not is_unknown_outcome(error):
                    raise
                rev = self.look_up()
                if rev is not None:
                    return rev
                if not pause(pauses):
                    raise
                is_repeated = True

    def look_up(self) -> str | None:
        """Do what `find_landed` does, but never raise `Unreachable`, which would say that the write was not sent.

        :raises LostAnswer: if the database is away
        """
        try:
            return self.find_landed()
        except (Unreachable, ServerError) as error:
            if not is_passing(error):
                raise
            raise LostAnswer(f"it is unknown whether a write was applied ({error})") from error


class DocumentWrite(Write):
    """The write of a document.

    :param db: the database
    :param sent: the content as it is sent: with the `_rev` that it replaces, or none if the document is new
    :raises ValueError: if no document can have this id
    """

    def __init__(self, db: couchdb.Database, sent: Mapping[str, Any]) -> None:
        self._db = db
        self._sent = sent
        self._path = doc_path(sent["_id"])

    def send(self) -> str:
        """See `Write.send`."""
        return _rev_in(self._db.resource.put_json(self._path, body=self._sent)[2])

    def find_landed(self) -> str | None:
        """See `Write.find_landed`."""
        sent, base_rev = self._sent, self._sent.get("_rev")
        try:
            _, _, stored = self._db.resource.get_json(self._path, revs="true")
        except ResourceNotFound as error:
            if not is_absent(error):
                raise
            return self._find_deletion() if sent.get("_deleted") else None
        if base_rev is None and _is_same(sent, stored):
            return str(stored["_rev"])  # its generation is above 1 if a document with this id was deleted before
        base = Revision.parse(base_rev) if base_rev else None
        generation = base.generation + 1 if base else 1
        digests = stored["_revisions"]["ids"]  # the newest first
        steps_back = stored["_revisions"]["start"] - generation
        if not 0 <= steps_back < len(digests):
            return None
        if base and digests[steps_back + 1 : steps_back + 2] != [base.digest]:
            return None  # it does not follow the revision that we changed
        rev = str(Revision(generation, digests[steps_back]))
        if steps_back > 0:  # the document has changed since
            try:
                _, _, stored = self._db.resource.get_json(self._path, rev=rev)
            except ResourceNotFound as error:
                if not is_absent(error):
                    raise
                return None  # removed by a compaction: its content is unknown
        return rev if _is_same(sent, stored, generation) else None

    def _find_deletion(self) -> str | None:
        """Return the revision in which the document was deleted, if that follows the revision that we deleted."""
        _, _, answer = self._db.resource.post_json("_all_docs", body={"keys": [self._sent["_id"]]})
        value = answer["rows"][0].get("value") or {}
        if not value.get("deleted"):
            return None
        rev = str(value["rev"])
        base_rev = self._sent.get("_rev")
        generation = Revision.parse(base_rev).generation + 1 if base_rev else 1
        return rev if Revision.parse(rev).generation == generation else None


class Deletion(DocumentWrite):
    """The deletion of a document, see `revisions.deletion_of`."""

    def send(self) -> str:
        """See `Write.send`."""
        return _rev_in(self._db.resource.delete_json(self._path, rev=self._sent["_rev"])[2])


def _rev_in(answer: Mapping[str, Any]) -> str:
    rev = answer.get("rev")
    if not isinstance(rev, str):
        raise LostAnswer("the answer to a write has no revision")
    return rev


def _is_same(sent: Mapping[str, Any], stored: Mapping[str, Any], generation: int | None = None) -> bool:
    """Return whether a stored document has the content that was sent.

    :param generation: the revision's generation: attachments that were sent must have come with it. Without it only
        their names are compared.
    """
    skipped = ("_rev", "_attachments", "_revisions")
    ours = json.loads(json.dumps({key: value for key, value in sent.items() if key not in skipped}))
    theirs = {key: value for key, value in stored.items() if key not in skipped}
    our_files, their_files = sent.get("_attachments") or {}, stored.get("_attachments") or {}
    if ours != theirs or set(our_files) != set(their_files):
        return False
    sent_now = [name for name, file in our_files.items() if "data" in file]
    return generation is None or all(their_files[name]["revpos"] == generation for name in sent_now)


def write_many(db: couchdb.Database, docs: Sequence[Mapping[str, Any]]) -> Written:
    """Write documents with few requests and return what became of each.

    :raises ValueError, TypeError: if JSON can't hold one of them; nothing was sent then
    :raises couchdb.http.HTTPError: if the server refuses all
    :raises LostAnswer: if some did not land after several tries, or if it is unknown whether they did
    """
    texts = [couchdb_json.encode(doc).encode("utf-8") for doc in docs]
    written = Written([], [])
    for first, end in _portions(texts):
        portion = _write_portion(db, docs[first:end], texts[first:end])
        written.revs += portion.revs
        written.has_quorum += portion.has_quorum
        written.was_lost |= portion.was_lost
    return written


def _portions(texts: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each portion that fits into one `_bulk_docs` request."""
    first = size = 0
    for position, text in enumerate(texts):
        if position > first and (position - first >= BULK_DOCS or size + len(text) > BULK_BYTES):
            yield first, position
            first, size = position, 0
        size += len(text)
    if texts:
        yield first, len(texts)


def _bulk_parts(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts of the body of a `_bulk_docs` request for at least one document."""
    before = b'{"docs":['
    for text in texts:
        yield before
        yield text
        before = b","
    yield b"]}"


def _write_portion(db: couchdb.Database, docs: Sequence[Mapping[str, Any]], texts: Sequence[bytes]) -> Written:
    pauses = iter(REPEAT_PAUSES)
    written = Written([None] * len(docs), [False] * len(docs))
    left = list(range(len(docs)))
    while left:
        try:
            rows = _send_bulk(db, [texts[number] for number in left])
        except (LostAnswer, ServerError) as error:
            if not is_unknown_outcome(error):
                raise
            for number in left:
                written.revs[number] = DocumentWrite(db, docs[number]).look_up()
            left = [number for number in left if written.revs[number] is None]
            if left and not pause(pauses):
                raise
            written.was_lost = True
            continue
        for number, row in zip(left, rows):
            if "error" not in row:
                written.revs[number] = row["rev"]
                # CouchDB's documentation does not say this; its source does (update_doc_result_to_json in chttpd).
                written.has_quorum[number] = not row.get("accepted", False)
            elif written.was_lost:  # the conflict may be our own first try, applied late
                written.revs[number] = DocumentWrite(db, docs[number]).look_up()
        break
    return written


def _send_bulk(db: couchdb.Database, texts: Sequence[bytes]) -> list[dict[str, Any]]:
    """Send documents with one request, and return the row of each in the answer."""
    body = b"".join(_bulk_parts(texts))  # copies each document, with its logs, once
    rows: list[dict[str, Any]]
    _, _, rows = db.resource.post_json("_bulk_docs", body=body, headers={"Content-Type": "application/json"})
    if len(rows) != len(texts) or not all(isinstance(row, dict) and ("rev" in row or "error" in row) for row in rows):
        raise LostAnswer("the answer to a write has no row for each document")
    for row in rows:
        if row.get("error") in _STORAGE_ERRORS:  # the other rows are looked up
            raise couchdb.http.ServerError((507, (row["error"], row.get("reason"))))
    return rows


def is_unknown_outcome(error: BaseException) -> bool:
    """Return whether a write that ended with this error may have been applied all the same."""
    if isinstance(error, ServerError):
        return is_passing_status(error.args[0][0])
    return isinstance(error, LostAnswer)


def is_passing(error: BaseException) -> bool:
    """Return whether the network or the server caused an error, so that the same request may succeed later."""
    return isinstance(error, (NoQuorum, Unreachable, ViewGone)) or is_unknown_outcome(error)


def doc_path(doc_id: str) -> list[str]:
    """Return the path of a document below its database. The slash in "_design/x" is not escaped.

    :raises ValueError: if no document can have this id, since the path would lead elsewhere
    """
    if not isinstance(doc_id, str):
        raise ValueError(f"{doc_id!r} can't be the id of a document")
    folder, slash, name = doc_id.partition("/")
    if slash and name and folder in ("_design", "_local"):
        return [folder, name]
    if not doc_id or doc_id.startswith("_"):
        raise ValueError(f"{doc_id!r} can't be the id of a document")
    return [doc_id]


def merge(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `theirs` with all our changes since `base`. Where both sides changed a field, our value counts.

    :param base: the content that both sides started from
    :param ours: the content that could not be saved
    :param theirs: the newer content in the database
    """
    merged = dict(theirs)
    absent = object()
    for key in set(base) | set(ours):
        if key in ("_id", "_rev", "_attachments"):
            continue
        mine = ours.get(key, absent)
        if mine == base.get(key, absent):
            continue
        if mine is absent:
            merged.pop(key, None)
        else:
            merged[key] = mine
    attachments = _merge_attachments(base, ours, theirs)
    if attachments:
        merged["_attachments"] = attachments
    else:
        merged.pop("_attachments", None)
    return merged


def _merge_attachments(*versions: Mapping[str, Any]) -> dict[str, Any]:
    base, ours, theirs = (version.get("_attachments") or {} for version in versions)
    removed = set(base) - set(ours)
    new = {
        name: {key: value for key, value in attachment.items() if key != "stub"}
        for name, attachment in ours.items()
        if "data" in attachment and attachment != base.get(name)
    }
    return {**{name: value for name, value in theirs.items() if name not in removed}, **new}
