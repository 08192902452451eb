"""Writing documents so that the outcome is known, whatever becomes of the answers.

When an answer is lost, the document is read: the write counts if it landed, and is repeated if it did not. CouchDB's
revisions tell most of it. A write is ours if the stored document descends from the revision that we changed, by one
step, and says what we sent. A token's claim makes what two pilots send different, so nobody takes another's write for
its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

import couchdb
from couchdb import json as couchdb_json
from couchdb.http import HTTPError, ResourceConflict, ResourceNotFound, ServerError

from ..exceptions import LostAnswer, NoQuorum, Unreachable
from .transport import PASSING_ERRORS, pause

REPEAT_PAUSES = (0.2, 1.0, 3.0)
"""Seconds of waiting before a write that did not land is sent again."""
BULK_DOCS = 1000
"""Documents in one `_bulk_docs` request at the most."""
BULK_BYTES = 8_000_000
"""Bytes of JSON in one `_bulk_docs` request, unless a single document is larger."""


@dataclass
class Written:
    """What became of several documents."""

    revs: list[str | None]
    """The new revision of each, None for one that was refused."""
    has_quorum: list[bool]
    """Whether the server has said of each that a majority of its copies took it; on one node all that is written."""
    was_lost: bool = False
    """Whether an answer was lost on the way. On a cluster one that was refused may have left a branch then."""


def write_one(write: Callable[[], str], look_up: Callable[[], str | None]) -> str:
    """Write one document and return its new revision.

    :param write: sends the document and returns the revision from the answer
    :param look_up: returns the revision under which the write landed, None if it did not; see `find_landed`
    :raises couchdb.http.HTTPError: if the server refuses the document, or has a passing error each time
    :raises Unreachable: if nothing was sent
    :raises LostAnswer: if it did not land after several tries, or if nobody could be asked whether it did
    """
    pauses = iter(REPEAT_PAUSES)
    repeated = False
    while True:
        try:
            return write()
        except (ResourceConflict, ResourceNotFound):
            rev = _ask(look_up) if repeated else None  # it may be our own first try, applied late
            if rev is None:
                raise
            return rev
        except (LostAnswer, ServerError) as error:
            if not is_unknown_outcome(error):
                raise
            rev = _ask(look_up)
            if rev is not None:
                return rev
            if not pause(pauses):
                raise
            repeated = True


def _ask(look_up: Callable[[], str | None]) -> str | None:
    """Return what a write became; `Unreachable` would say that it was never sent."""
    try:
        return look_up()
    except (Unreachable, ServerError) as error:
        if not is_passing(error):
            raise
        raise LostAnswer(f"nobody can tell whether a write was applied ({error})") from error


def write_many(db: couchdb.Database, docs: Sequence[Mapping[str, Any]]) -> Written:
    """Write documents with few requests and return what became of each.

    :raises ValueError, TypeError: if JSON can't hold one of them; nothing was sent then
    :raises couchdb.http.HTTPError: if the server refuses all
    :raises LostAnswer: if some did not land after several tries, or if nobody could be asked whether they did
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
    """Yield begin and end of the portions that fit into one `_bulk_docs` request each."""
    first = size = 0
    for position, text in enumerate(texts):
        if position > first and (position - first >= BULK_DOCS or size + len(text) > BULK_BYTES):
            yield first, position
            first, size = position, 0
        size += len(text)
    if texts:
        yield first, len(texts)


def _write_portion(db: couchdb.Database, docs: Sequence[Mapping[str, Any]], texts: Sequence[bytes]) -> Written:
    pauses = iter(REPEAT_PAUSES)
    written = Written([None] * len(docs), [False] * len(docs))
    left = list(range(len(docs)))
    repeated = False
    while left:
        body = b'{"docs":[' + b",".join(texts[number] for number in left) + b"]}"
        headers = {"Content-Type": "application/json"}
        try:
            _, _, rows = db.resource.post_json("_bulk_docs", body=body, headers=headers)
        except (LostAnswer, ServerError) as error:
            if not is_unknown_outcome(error):
                raise
            for number in left:
                written.revs[number] = _ask(partial(find_landed, db, docs[number]))
            left = [number for number in left if written.revs[number] is None]
            if left and not pause(pauses):
                raise
            repeated = True
            continue
        for number, row in zip(left, rows):
            if "error" not in row:
                written.revs[number] = row["rev"]
                # Said by the chttpd of CouchDB (update_doc_result_to_json in its source), not by its documentation.
                written.has_quorum[number] = not row.get("accepted", False)
            elif repeated:  # the conflict may be our own first try, applied late
                written.revs[number] = _ask(partial(find_landed, db, docs[number]))
        break
    written.was_lost = repeated
    return written


def is_unknown_outcome(error: BaseException) -> bool:
    """Tell whether a write that ended with this error may have been applied all the same."""
    if isinstance(error, ServerError):
        return error.args[0][0] in PASSING_ERRORS
    return isinstance(error, LostAnswer)


def is_passing(error: BaseException) -> bool:
    """Tell whether an error is the network's or the server's, so that the same request may succeed later."""
    return isinstance(error, (NoQuorum, Unreachable)) or is_unknown_outcome(error)


def find_landed(db: couchdb.Database, sent: Mapping[str, Any]) -> str | None:
    """Return the revision under which a document stands in the database as it was sent, None if it does not.

    :param sent: the document's content as it was sent: with the `_rev` that it was to replace, or none if it was new
    """
    try:
        _, _, stored = db.resource.get_json(doc_path(sent["_id"]), revs="true")
    except ResourceNotFound:
        return _find_deletion(db, sent) if sent.get("_deleted") else None
    base_rev = sent.get("_rev")
    if base_rev is None and _same_content(sent, stored):
        return str(stored["_rev"])  # its generation is not 1 if there was a deleted document of that id
    revisions = stored["_revisions"]
    generation = _generation(base_rev) + 1
    ids = revisions["ids"]
    steps_back = revisions["start"] - generation
    if not 0 <= steps_back < len(ids):
        return None
    if base_rev and ids[steps_back + 1 : steps_back + 2] != [base_rev.partition("-")[2]]:
        return None  # not made from the revision that we changed
    rev = f"{generation}-{ids[steps_back]}"
    if steps_back > 0:  # somebody has changed it since
        try:
            _, _, stored = db.resource.get_json(doc_path(sent["_id"]), rev=rev)
        except HTTPError:
            return None  # compacted away: nobody can tell any more
    return rev if _same_content(sent, stored, generation) else None


def _find_deletion(db: couchdb.Database, sent: Mapping[str, Any]) -> str | None:
    """Return the revision of a document's deletion if that follows the revision that we deleted."""
    _, _, answer = db.resource.post_json("_all_docs", body={"keys": [sent["_id"]]})
    value = answer["rows"][0].get("value") or {}
    rev = str(value.get("rev", ""))
    follows = _generation(rev) == _generation(sent.get("_rev")) + 1
    return rev if value.get("deleted") and follows else None


def _same_content(sent: Mapping[str, Any], stored: Mapping[str, Any], generation: int | None = None) -> bool:
    """Tell whether a stored document says what was sent, and took the sent attachments in the step to `generation`.

    Without a generation the attachments' names have to do: where a deleted document begins anew they keep no other.
    """
    skipped = ("_rev", "_attachments", "_revisions")
    ours = json.loads(json.dumps({key: value for key, value in sent.items() if key not in skipped}))
    theirs = {key: value for key, value in stored.items() if key not in skipped}
    our_files, their_files = sent.get("_attachments") or {}, stored.get("_attachments") or {}
    if ours != theirs or set(our_files) != set(their_files):
        return False
    sent_now = [name for name, file in our_files.items() if "data" in file]
    return generation is None or all(their_files[name]["revpos"] == generation for name in sent_now)


def _generation(rev: str | None) -> int:
    return int(rev.partition("-")[0]) if rev else 0


def doc_path(doc_id: str) -> list[str]:
    """Return the path of a document below its database; the slash in "_design/x" stays one.

    :raises ValueError: if no document can have that id: the path would lead to the database or a part of it
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
    """Return `theirs` with all that we changed since `base` changed in it too. Where both changed, ours counts.

    :param base: the content that both started from
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
