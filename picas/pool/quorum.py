"""Take back locks that a cluster accepted without a majority.

On a cluster each copy of a document checks revisions by itself. So several writers can be told that the same revision
was replaced by theirs: one at the most that a majority of the copies took it, all others that it was accepted. Each of
those has left a branch in the document's history, a stray. Whoever has made one

1. sends it to all copies as replication would, so that each of them knows it, and looks whether there is another living
   branch: the owner's, or a stray whose pilot comes here as well;
2. if there is none, makes the stray itself a free token again. At no time the token is gone then, also if this pilot
   dies here: the lock that it leaves is like that of any dead pilot;
3. if there is another one, deletes the stray, and looks once more. If no living branch is left, since the others did
   the same, it puts the token back as it was before. Everybody makes that revision in the same way, so that doing it
   twice is harmless.

While no majority of the copies can be reached nobody knows who else has written what, so that nothing is put back
before.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..clients import CouchDB
from ..couch.revisions import Revision, deletion_of
from ..documents import Document
from ..exceptions import NoQuorum

log = logging.getLogger(__name__)

MARK = "picas_withdrawn"
"""The field of a deleted branch that tells a lock that was taken back from a person's deletion."""
LOOK_PAUSE = 0.3
"""Seconds until the branches are looked at once more before a token is put back: a write may be on its way."""


@dataclass
class Stray:
    """A lock that no majority has accepted."""

    content: Mapping[str, Any]
    """The token as it was locked, with the `_rev` of that."""
    base: Mapping[str, Any]
    """The token before that, with its `_rev`."""
    is_deleted: bool = False
    """Whether its deletion was sent."""

    @property
    def id(self) -> str:
        """The token's `_id`."""
        return str(self.base["_id"])


def withdraw(client: CouchDB, stray: Stray) -> None:
    """Take a lock back, and see to it that the token stays.

    :param client: the pool
    :raises PicasError, couchdb.http.HTTPError: if the database is away, or no majority of the copies can be reached; to
        be repeated then
    """
    if stray.is_deleted:
        _probe(client)
    else:
        log.info("Token %s: the lock had no majority and is taken back", stray.id)
        client.store_revision(stray.content, stray.base["_rev"])
        if not _has_rivals(client, stray.id, stray.content["_rev"]):
            _probe(client)
            _pause()
            if not _has_rivals(client, stray.id, stray.content["_rev"]):
                # Refused if somebody has changed or deleted the stray meanwhile, which settles it.
                client.write_documents([{**stray.base, "_rev": stray.content["_rev"]}])
                return
        written = client.write_documents([deletion_of(stray.content, **{MARK: True})])
        stray.is_deleted = True
        if written.revs[0] is not None and not written.has_quorum[0]:
            raise _no_quorum()
    if _has_vanished(client, stray):
        _pause()
        if _has_vanished(client, stray):
            log.info("Token %s was locked by nobody after all and is put back", stray.id)
            base_rev = stray.base["_rev"]
            digest = hashlib.md5(f"put back {base_rev}".encode(), usedforsecurity=False).hexdigest()
            rev = Revision(Revision.parse(base_rev).generation + 1, digest)
            client.store_revision({**stray.base, "_rev": str(rev)}, base_rev)


def drop_beside_others(client: CouchDB, document: Document) -> bool:
    """Delete a dead pilot's lock if it is a stray that hides another branch, maybe the owner's; return whether it was.

    :param client: the pool
    :param document: the token with that lock
    :raises PicasError, couchdb.http.HTTPError: if the database is away
    """
    if not _has_rivals(client, document.id, document["_rev"]):
        return False
    client.write_documents([deletion_of(document, **{MARK: True})])
    return True


def _has_rivals(client: CouchDB, id: str, rev: str) -> bool:
    """Tell whether a token has another branch than that: a living one, or one that a person has deleted."""
    others = [branch for branch in _branches_beside(client, id, rev) if branch["_rev"] != rev]
    return not all(_is_withdrawn(branch) for branch in others)


def _has_vanished(client: CouchDB, stray: Stray) -> bool:
    """Tell whether locks that were taken back are all that is left of a token."""
    branches = _branches_beside(client, stray.id, stray.content["_rev"])
    return bool(branches) and all(_is_withdrawn(branch) for branch in branches)


def _branches_beside(client: CouchDB, id: str, rev: str) -> list[dict[str, Any]]:
    """Return the branches of a token that may have begun where that of a revision did, itself included.

    A shorter one was left behind long ago, by a pilot that died; the token has gone on without it.
    """
    generation = Revision.parse(rev).generation
    return [branch for branch in client.read_branches(id) if Revision.parse(branch["_rev"]).generation >= generation]


def _is_withdrawn(branch: Mapping[str, Any]) -> bool:
    return bool(branch.get("_deleted") and branch.get(MARK))


def _pause() -> None:
    time.sleep(LOOK_PAUSE * random.uniform(1, 1.5))


def _probe(client: CouchDB) -> None:
    """Do nothing if a majority of the copies can be reached.

    :raises NoQuorum: if not
    """
    if not client.has_majority():
        raise _no_quorum()


def _no_quorum() -> NoQuorum:
    return NoQuorum("the cluster has too few nodes for a majority: waiting for them")
