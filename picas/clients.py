"""The token pool client: all that the database is asked for."""

from __future__ import annotations

import base64
import hashlib
import logging
import random
import time
import zlib
from collections.abc import MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote
from uuid import uuid4

import couchdb
from couchdb.design import ViewDefinition
from couchdb.http import PreconditionFailed, ResourceConflict, ResourceNotFound

from .couch import attachments
from .couch.connections import CONNECT_TIMEOUT, READ_TIMEOUT, Timeouts
from .couch.transport import RequestsSession, Session
from .couch.writes import Written, doc_path, find_landed, write_many, write_one
from .documents import Document, guess_mimetype
from .exceptions import LostAnswer
from .util import split_credentials

log = logging.getLogger(__name__)

EDIT_CONFLICTS = 100
"""How often a document is read and changed before others that change it too win."""
EDIT_PAUSE = 0.5
"""Seconds between two of those tries at the most."""

Storable = MutableMapping[str, Any]


class CouchDB:
    """A database on a CouchDB server, with the operations that a token pool needs.

    :param url: the server's address; a user and a password in it are taken out of it and used
    :param db: the name of the database
    :param username: the user, None for none
    :param password: the user's password
    :param ssl_verification: whether the server's certificate is checked, or the path of a bundle of CA certificates to
        check it against
    :param create: make the database if there is none
    :param connect_timeout: seconds until a connection must stand
    :param read_timeout: seconds without a byte from the server after which an answer counts as lost
    :raises couchdb.ResourceNotFound: if there is no such database
    :raises ValueError: if the address makes no sense
    :raises couchdb.Unauthorized: if user or password are wrong
    :raises picas.exceptions.Unreachable: if the server can't be reached
    """

    def __init__(
        self,
        url: str = "http://localhost:5984",
        db: str = "test",
        username: str | None = None,
        password: str = "",
        ssl_verification: bool | str = True,
        create: bool = False,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        self.url, user_in_url, password_in_url = split_credentials(url)
        if username is None and user_in_url:
            username, password = user_in_url, password_in_url or password
        self._credentials = None if username is None else (username, password)
        self._ssl_verification = ssl_verification
        self._timeouts = Timeouts(connect_timeout, read_timeout)

        self.server = couchdb.Server(self.url, session=Session(ssl_verification, self._timeouts))
        self.server.resource.credentials = self._credentials
        self.requests = RequestsSession(self._credentials, ssl_verification, self._timeouts)
        self.copies = 1
        """How many nodes of the server keep each document; 1 unless it is a cluster."""
        self.shards = 1
        """How many parts the server divides the database into, each with files of its own."""
        self.db: couchdb.Database = self._open(db, create)

    def _open(self, name: str, create: bool) -> couchdb.Database:
        database = couchdb.Database(self.server.resource(name), name)
        if create:
            try:
                self.server.resource.put_json(name)
            except PreconditionFailed:
                pass  # it is there already
            except LostAnswer:
                log.info("No answer to the creation of the database %s: looking whether it is there", name)
        _, _, info = database.resource.get_json()
        if "db_name" not in info:  # the empty name leads to the server itself, "_all_dbs" to a list
            raise ResourceNotFound(("not_found", f"{name!r} is not the name of a database"))
        cluster = info.get("cluster", {})
        self.copies, self.shards = int(cluster.get("n", 1)), int(cluster.get("q", 1))
        return database

    def shard_of(self, id: str) -> int:
        """Return the number of the part of the database that keeps the document of that id.

        CouchDB cuts the range of the CRC-32 of an id into equal parts (mem3_hash and mem3_util in its source). Where
        shards were split by hand the number is wrong: use it for what is better done in one part, and need not be.
        """
        return zlib.crc32(id.encode("utf-8", "surrogatepass")) * self.shards >> 32

    def __repr__(self) -> str:
        return f"<CouchDB {self.url}/{self.db.name}>"

    def copy(self) -> CouchDB:
        """Return a new client with connections of its own and all settings of this one."""
        username, password = self._credentials or (None, "")
        return CouchDB(
            url=self.url,
            db=self.db.name,
            username=username,
            password=password,
            ssl_verification=self._ssl_verification,
            connect_timeout=self._timeouts.connect,
            read_timeout=self._timeouts.read,
        )

    # --- reading

    def __getitem__(self, idx: str) -> Any:
        """Return the document of that id, as the package `couchdb` does.

        :raises couchdb.ResourceNotFound: if there is none
        """
        return self.db[idx]

    def get(self, id: str) -> Document:
        """Return the document of that id.

        :raises ValueError: if there is none
        """
        path = doc_path(id)
        try:
            _, _, data = self.db.resource.get_json(path)
        except ResourceNotFound:
            raise ValueError(f"{id} is not the id of a document in the database {self.db.name}") from None
        return Document(data)

    def view(self, view: str, design_doc: str = "Monitor", **view_params: Any) -> Any:
        """Return the result of a view, whose `.rows` have `.id`, `.key` and `.value`.

        The request is made when the rows are first asked for; it raises `couchdb.ResourceNotFound` if there is no such
        view.

        :param view: the name of the view
        :param design_doc: the design document that it stands in
        :param view_params: CouchDB's query parameters, e.g. `limit`, `startkey`, `include_docs`
        """
        return self.db.view(f"{design_doc}/{view}", **view_params)

    def get_from_view(self, view: str, **view_params: Any) -> list[Document]:
        """Return the documents of a view's rows as they are now, in the view's order; vanished ones are left out.

        All come in one request and are held in memory: give a `limit` where the view can be large.
        """
        view_params["include_docs"] = True
        return [Document(dict(row.doc)) for row in self.view(view, **view_params) if row.doc is not None]

    def get_single_from_view(self, view: str, window_size: int = 1, **view_params: Any) -> Document:
        """Return a document chosen at random among the first rows of a view.

        :param window_size: how many rows to choose from
        :raises IndexError: if the view is empty
        """
        return random.choice(self.get_from_view(view, limit=window_size, **view_params))

    def is_view_nonempty(self, view: str, **view_params: Any) -> bool:
        """Tell whether a view has rows, so that a pilot is worth starting. A view that does not exist has none."""
        try:
            return bool(self.view(view, **{"limit": 1, **view_params}).rows)
        except ResourceNotFound:
            log.info("There is no view %s in the design document %s", view, view_params.get("design_doc", "Monitor"))
            return False

    def doc_count(self) -> int:
        """Return the number of documents in the database, design documents included."""
        return int(self.db.info()["doc_count"])

    # --- writing

    def save(self, doc: Storable) -> Any:
        """Save a document and return it with its new `_rev` (and an `_id`, if it had none).

        If the answer is lost, the document is looked up: the save counts if it landed, and is repeated if it did not.

        :raises couchdb.http.ResourceConflict: if the document in the database has another revision, or was deleted
        :raises ValueError, TypeError: if JSON can't hold the content, or it has an impossible id; nothing was sent then
        """
        content = _as_dict(doc)
        content.setdefault("_id", uuid4().hex)
        sent = _to_send(content)
        path = doc_path(sent["_id"])

        def put() -> str:
            return str(self.db.resource.put_json(path, body=sent)[2]["rev"])

        content["_rev"] = write_one(put, partial(find_landed, self.db, sent))
        _mark_attachments_saved(content)
        return doc

    def edit(self, id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
        """Change a document, or make it, whoever else changes it meanwhile; return whether there was something to do.

        :param id: the document's id
        :param change: gets the content, only `_id` if there is no such document, and returns the new content; it may be
            called several times
        :raises couchdb.http.ResourceConflict: if others changed the document each time
        """
        for attempt in range(EDIT_CONFLICTS):
            try:
                content = self.get(id).value
            except ValueError:
                content = {"_id": id}
            wanted = change(dict(content))
            if wanted == content:
                return False
            try:
                self.save(wanted)
            except ResourceConflict:
                if attempt == EDIT_CONFLICTS - 1:
                    raise
                time.sleep(random.uniform(0, min(0.01 * 2**attempt, EDIT_PAUSE)))
            else:
                return True
        raise AssertionError("the loop returns or raises")

    def delete(self, doc: Storable) -> None:
        """Delete a document.

        :raises couchdb.http.ResourceConflict: if the document in the database has another revision
        :raises couchdb.http.ResourceNotFound: if it is gone already
        """
        content = _as_dict(doc)
        sent = _deletion(content)
        path = doc_path(sent["_id"])

        def delete() -> str:
            return str(self.db.resource.delete_json(path, rev=sent["_rev"])[2]["rev"])

        write_one(delete, partial(find_landed, self.db, sent))

    def save_documents(self, docs: Sequence[Storable]) -> list[bool]:
        """Save many documents with few requests and return for each whether it was saved.

        A saved one has its new `_rev` (and an `_id`, if it had none). One that is in the database under another
        revision is not saved.

        :raises ValueError, TypeError: if JSON can't hold one of them; nothing was sent then
        """
        return [rev is not None for rev in self.write_documents(docs).revs]

    def write_documents(self, docs: Sequence[Storable]) -> Written:
        """Do what `save_documents` does, and return all that the server says of it."""
        contents = [_as_dict(doc) for doc in docs]
        for content in contents:
            if "_id" not in content:
                content["_id"] = uuid4().hex
        written = write_many(self.db, [_to_send(content) for content in contents])
        for content, rev in zip(contents, written.revs):
            if rev is not None:
                content["_rev"] = rev
                _mark_attachments_saved(content)
        return written

    def delete_documents(self, docs: Sequence[Storable]) -> list[bool]:
        """Delete many documents with few requests and return for each whether it was deleted.

        One that has changed in the database since it was read is kept, as is one that was never saved.
        """
        contents = [_as_dict(doc) for doc in docs]
        saved = [number for number, content in enumerate(contents) if "_id" in content and "_rev" in content]
        revs = write_many(self.db, [_deletion(contents[number]) for number in saved]).revs
        deleted = {number for number, rev in zip(saved, revs) if rev is not None}
        return [number in deleted for number in range(len(contents))]

    def delete_from_view(self, view: str, design_doc: str = "Monitor") -> list[bool]:
        """Delete all documents of a view and return for each whether it was deleted."""
        return self.delete_documents(self.get_from_view(view, design_doc=design_doc))

    # --- attachments as streams

    def put_attachment_file(
        self, doc: Storable, path: str | Path, name: str | None = None, mimetype: str | None = None
    ) -> Any:
        """Attach a file of any size to a saved document, streamed from disk, and return the document.

        The document's other changes are not saved by this; its `_rev` and `_attachments` are brought up to date. If the
        answer is lost, the document is looked up: the upload counts if it landed, and is repeated if it did not.

        :param doc: a document with `_id` and `_rev`
        :param path: the file
        :param name: the attachment's name, by default the file's
        :param mimetype: by default guessed from the name
        :raises couchdb.http.ResourceConflict: if the document in the database has another revision
        :raises couchdb.http.ServerError: if the server refuses the file, e.g. as too large
        :raises ValueError: if nothing can be attached under that name
        :raises OSError: if the file can't be read
        """
        path = Path(path)
        name = name or path.name
        content = _as_dict(doc)
        url = self._attachment_url(content["_id"], name)

        def put() -> str:
            return attachments.upload(self.requests, url, path, content["_rev"], mimetype or guess_mimetype(name))

        content["_rev"] = write_one(put, lambda: self._find_upload(content, name, path))
        _, _, stored = self.db.resource.get_json(doc_path(content["_id"]), rev=content["_rev"])
        content.setdefault("_attachments", {})[name] = stored["_attachments"][name]
        return doc

    def _find_upload(self, content: dict[str, Any], name: str, path: Path) -> str | None:
        """Return the revision, one step from that which we knew, in which a file is attached, None if there is none."""
        try:
            _, _, stored = self.db.resource.get_json(doc_path(content["_id"]), revs="true")
        except ResourceNotFound:
            return None
        is_next = stored["_revisions"]["ids"][1:2] == [content["_rev"].partition("-")[2]]
        entry = stored.get("_attachments", {}).get(name)
        if not is_next or entry is None or entry["length"] != path.stat().st_size:
            return None
        rev = str(stored["_rev"])
        url = self._attachment_url(content["_id"], name)
        return rev if attachments.is_same(self.requests, url, rev, path) else None

    def get_attachment_file(self, doc: str | Storable, name: str, path: str | Path) -> Path:
        """Fetch an attachment of any size, streamed to disk, and return the file's path.

        :param doc: the document, or its id
        :param name: the attachment's name
        :param path: the file to write; an older one is replaced only once all has arrived
        :raises couchdb.http.ResourceNotFound: if there is no such attachment
        :raises OSError: if the connection breaks or the file can't be written
        """
        doc_id = doc if isinstance(doc, str) else str(doc["_id"])
        attachments.download_to(self.requests, self._attachment_url(doc_id, name), Path(path))
        return Path(path)

    def _attachment_url(self, doc_id: str, name: str) -> str:
        if name in (".", "..") or doc_id in (".", ".."):
            raise ValueError("a document or an attachment that is named . or .. has no address")
        document = "/".join(quote(part, safe="") for part in doc_path(doc_id))
        return f"{self.url}/{quote(self.db.name, safe='')}/{document}/{quote(name, safe='')}"

    # --- views and permissions

    def add_view(
        self,
        view: str,
        map_fun: str,
        *args: Any,
        reduce_fun: str | None = None,
        design_doc: str = "Monitor",
        **kwargs: Any,
    ) -> None:
        """Add a view to the database, or replace it.

        :param view: the name of the view
        :param map_fun: its map function in JavaScript
        :param reduce_fun: its reduce function in JavaScript, or the name of one of CouchDB's own
        :param design_doc: the design document that it goes into
        :param args: more arguments for `couchdb.design.ViewDefinition`, as are `kwargs`
        :raises couchdb.Unauthorized, couchdb.http.Forbidden: if this user may not change design documents
        :raises ValueError: if the design document has views in another language
        """
        definition = ViewDefinition(design_doc, view, map_fun, reduce_fun, *args, **kwargs)
        parts = {"map": definition.map_fun, "reduce": definition.reduce_fun, "options": definition.options}
        functions = {name: value for name, value in parts.items() if value}

        def add(document: dict[str, Any]) -> dict[str, Any]:
            views = document.get("views", {})
            language = document.get("language", definition.language) if views else definition.language
            if language != definition.language:
                raise ValueError(f"the views in {document['_id']} are in {language}, not in {definition.language}")
            return {**document, "language": language, "views": {**views, definition.name: functions}}

        self.edit(f"_design/{definition.design}", add)

    def set_users(
        self,
        admins: list[str] | None = None,
        members: list[str] | None = None,
        admin_roles: list[str] | None = None,
        member_roles: list[str] | None = None,
    ) -> None:
        """Set who may do what with the database. A list that is None stays as it is.

        :param admins: users who may change design documents and permissions
        :param members: users who may read and write documents
        :param admin_roles: roles with the rights of admins
        :param member_roles: roles with the rights of members
        :raises couchdb.http.HTTPError: if this user may not; CouchDB 3 says so with status 500, "no_majority"
        """
        _, _, security = self.db.resource.get_json("_security")
        for group, kind, value in (
            ("admins", "names", admins),
            ("members", "names", members),
            ("admins", "roles", admin_roles),
            ("members", "roles", member_roles),
        ):
            if value is not None:
                security.setdefault(group, {})[kind] = value
        self.db.resource.put_json("_security", body=security)


def _as_dict(doc: Storable) -> dict[str, Any]:
    """Return the dict behind a document, so that what is set in it is set in the document."""
    if isinstance(doc, Document):
        return doc.value
    if isinstance(doc, dict):
        return doc
    raise TypeError(f"a document must be a Document or a dict, not {type(doc).__name__}")


def _to_send(content: dict[str, Any]) -> dict[str, Any]:
    """Return what is sent of a document: an attachment that the database has already is only named."""
    entries = content.get("_attachments")
    if not entries:
        return dict(content)
    sent = {
        name: {key: value for key, value in entry.items() if key != "data"} if entry.get("stub") else entry
        for name, entry in entries.items()
    }
    return {**content, "_attachments": sent}


def _mark_attachments_saved(content: dict[str, Any]) -> None:
    """Note that the database has the attachments, so that the next save does not send them again."""
    for entry in (content.get("_attachments") or {}).values():
        if "data" in entry and not entry.get("stub"):
            # The embedded server knows an attachment by its digest; CouchDB finds it by its name.
            digest = hashlib.md5(base64.b64decode(entry["data"]), usedforsecurity=False).digest()
            entry["digest"] = "md5-" + base64.b64encode(digest).decode("ascii")
        entry["stub"] = True


def _deletion(content: dict[str, Any]) -> dict[str, Any]:
    """Return what is sent to delete a document."""
    return {"_id": content["_id"], "_rev": content["_rev"], "_deleted": True}
