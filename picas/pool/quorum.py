"""Withdrawing locks that a cluster accepted without a majority.

On a cluster each copy of a document checks revisions by itself. So several writers can be told that they have replaced
the same revision: at most one that a majority of the copies took its write, the others that it was accepted. Each of
the others has left a branch in the document's history, a stray. The pilot that made a stray

1. stores it on all copies as replication does, so that each copy knows it, and looks for another living branch: the
   owner's, or a stray whose pilot does the same;
2. if there is none, turns the stray into a free token again. The token exists at all times, even if this pilot dies in
   between: the lock that it leaves is that of a dead pilot;
3. if there is one, deletes the stray and looks again. If no living branch is left, because the others did the same, it
   puts the token back as it was before. All pilots make the same revision for that, so doing it twice is harmless.

Nothing is put back while no majority of the copies can be reached: until then it is unknown what others have written.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..clients import CouchDB
from ..couch import Revision, deletion_of
from ..documents import Document
from ..exceptions import NoQuorum
from ..picaslogger import get_logger

log = get_logger(__name__)

MARK = "picas_withdrawn"
"""The field of a deleted branch that was a withdrawn lock; a branch that a person has deleted does not have it."""
LOOK_PAUSE = 0.3
"""Seconds before the branches are read once more and the token is put back: another write may be on its way."""


@dataclass
class Stray:
    """A lock that no majority has accepted."""

    token: Mapping[str, Any]
    """The token as it was locked, with the `_rev` of the lock."""
    base: Mapping[str, Any]
    """The token before the lock, with its `_rev`."""
    is_deleted: bool = False
    """Whether the deletion of the stray was sent."""

    @property
    def id(self) -> str:
        """The token's `_id`."""
        return str(self.base["_id"])


def withdraw(client: CouchDB, stray: Stray) -> None:
    """Withdraw a lock, so that the token is free again or remains its owner's.

    :param client: the pool
    :param stray: the lock
    :raises PicasError, couchdb.http.HTTPError: if the database is away, or no majority of the copies can be reached;
        call this again then
    """
    rev = stray.token["_rev"]
    if stray.is_deleted:
        _probe(client)
    else:
        log.info("Token %s: the lock had no majority and is withdrawn", stray.id)
        client.store_revision(stray.token, stray.base["_rev"])
        if not _has_rivals(client, stray.id, rev):
            _probe(client)
            _pause()
            if not _has_rivals(client, stray.id, rev):
                # If somebody has changed or deleted the stray meanwhile, this is refused, and there is nothing to do.
                client.write_documents([{**stray.base, "_rev": rev}])
                return
        written = client.write_documents([deletion_of(stray.token, **{MARK: True})])
        stray.is_deleted = True
        if written.revs[0] is not None and not written.has_quorum[0]:
            _probe(client)  # the nodes may be well, and another write was faster on one of them
    if _has_vanished(client, stray):
        _pause()
        if _has_vanished(client, stray):
            log.info("Token %s: no pilot has locked it after all, so it is put back", stray.id)
            base_rev = stray.base["_rev"]
            digest = hashlib.md5(f"put back {base_rev}".encode(), usedforsecurity=False).hexdigest()
            free_rev = Revision(Revision.parse(base_rev).generation + 1, digest)
            client.store_revision({**stray.base, "_rev": str(free_rev)}, base_rev)


def drop_beside_others(client: CouchDB, token: Document) -> bool:
    """Delete a dead pilot's lock if it is a stray that hides another branch, and return whether it was.

    :param client: the pool
    :param token: the token with that lock
    :raises PicasError, couchdb.http.HTTPError: if the database is away
    """
    if not _has_rivals(client, token.id, token["_rev"]):
        return False
    client.write_documents([deletion_of(token, **{MARK: True})])
    return True


def _has_rivals(client: CouchDB, id: str, rev: str) -> bool:
    """Return whether a token has another branch than that of a revision: a living one, or one that a person deleted."""
    others = [branch for branch in _branches_beside(client, id, rev) if branch["_rev"] != rev]
    return not all(_is_withdrawn(branch) for branch in others)


def _has_vanished(client: CouchDB, stray: Stray) -> bool:
    """Return whether withdrawn locks are all that is left of a token."""
    branches = _branches_beside(client, stray.id, stray.token["_rev"])
    return bool(branches) and all(_is_withdrawn(branch) for branch in branches)


def _branches_beside(client: CouchDB, id: str, rev: str) -> list[dict[str, Any]]:
    """Return the branches of a token that may have begun at the same revision as that of a lock, itself included.

    A shorter branch was left by a pilot that died long ago. The token has gone on without it.
    """
    generation = Revision.parse(rev).generation
    return [branch for branch in client.read_branches(id) if Revision.parse(branch["_rev"]).generation >= generation]


def _is_withdrawn(branch: Mapping[str, Any]) -> bool:
    return bool(branch.get("_deleted") and branch.get(MARK))


def _pause() -> None:
    time.sleep(LOOK_PAUSE * random.uniform(1, 1.5))


def _probe(client: CouchDB) -> None:
    """Check that a majority of the copies can be reached.

    :raises NoQuorum: if not
    """
    if not client.has_majority():
        raise NoQuorum("the cluster has too few nodes for a majority: waiting for them")
