"""The client of the token pool. Every request to the database goes through it."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote
from uuid import uuid4

import couchdb
from couchdb.design import ViewDefinition
from couchdb.http import Forbidden, PreconditionFailed, ResourceConflict, ResourceNotFound, ServerError

from .couch import attachments, clusters, users
from .couch.answers import is_absent, sole_branch
from .couch.connections import CONNECT_TIMEOUT, READ_TIMEOUT, Timeouts, fixed_verification
from .couch.feeds import ChangesFeed
from .couch.revisions import deletion_of
from .couch.transport import Resource, Session
from .couch.writes import Deletion, DocumentWrite, Written, doc_path, write_many
from .documents import Document, guess_mimetype
from .exceptions import LostAnswer, NoSuchDocument
from .picaslogger import get_logger
from .tokens.storable import is_storable, list_names, make_storable
from .util import refuse_unknown, split_credentials

log = get_logger(__name__)

EDIT_CONFLICTS = 100
"""How often `edit` reads and changes a document that others change at the same time before it gives up."""
EDIT_PAUSE = 0.5
"""The longest pause between two of those tries, in seconds."""
_TOO_LARGE = 413
_NO_REVISION = "1-" + "0" * 32

VIEW_PARAMS = frozenset(
    {
        "att_encoding_info", "attachments", "conflicts", "descending", "end_key", "end_key_doc_id", "endkey",
        "endkey_docid", "group", "group_level", "include_docs", "inclusive_end", "key", "keys", "limit", "reduce",
        "skip", "sorted", "stable", "stale", "start_key", "start_key_doc_id", "startkey", "startkey_docid", "update",
        "update_seq",
    }
)  # fmt: skip
"""CouchDB's query parameters of a view, see https://docs.couchdb.org/en/stable/api/ddoc/views.html."""

Storable = MutableMapping[str, Any]


class CouchDB:
    """A database on a CouchDB server, with the operations that a token pool needs.

    `db` and `server` are the objects of the package `couchdb` for the database and its server. PiCaS itself does not
    use them: its requests go through the methods here.

    :param url: the server's address; a user and a password in it are used, and removed from it
    :param db: the name of the database
    :param username: the user, None for no user
    :param password: the user's password
    :param ssl_verification: whether the server's certificate is checked, or the path of a bundle of CA certificates to
        check it against
    :param create: create the database if it does not exist
    :param connect_timeout: seconds within which a connection must be made
    :param read_timeout: seconds without a byte from the server after which an answer counts as lost
    :raises couchdb.ResourceNotFound: if there is no such database
    :raises ValueError: if the address is invalid
    :raises couchdb.Unauthorized: if the user or the password is wrong
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
        self._ssl_verification = verify = fixed_verification(ssl_verification)
        self._timeouts = Timeouts(connect_timeout, read_timeout)

        self.server = couchdb.Server(Resource(self.url, Session(verify, self._timeouts)))
        self.server.resource.credentials = self._credentials
        self.copies = 1
        """How many nodes of the server keep a copy of each document; 1 unless the server is a cluster."""
        self.shards = 1
        """How many shards the database has; each has files of its own."""
        self.db: couchdb.Database = self._open(db, create)

    def _open(self, name: str, create: bool) -> couchdb.Database:
        database = couchdb.Database(self.server.resource(name), name)
        if create:
            try:
                self.server.resource.put_json(name)
            except PreconditionFailed:
                pass  # it exists already
            except LostAnswer:
                log.info("No answer to the creation of the database %s: checking whether it exists", name)
        _, _, info = database.resource.get_json()
        if "db_name" not in info:  # the empty name leads to the server itself, "_all_dbs" to a list
            raise ResourceNotFound(("not_found", f"{name!r} is not the name of a database"))
        cluster = info.get("cluster", {})
        self.copies, self.shards = int(cluster.get("n", 1)), int(cluster.get("q", 1))
        self.server.resource.session.is_cluster = self.copies > 1
        return database

    def shard_of(self, id: str) -> int:
        """Return the number of the shard that keeps the document with this id.

        CouchDB divides the range of the CRC-32 of an id into equal parts (mem3_hash and mem3_util in its source). The
        number is wrong if somebody has split shards by hand, so rely on it for speed only.
        """
        return zlib.crc32(id.encode("utf-8", "surrogatepass")) * self.shards >> 32

    def __repr__(self) -> str:
        return f"<CouchDB {self.url}/{self.database_name}>"

    @property
    def database_name(self) -> str:
        """The name of the database."""
        return str(self.db.name)

    @property
    def username(self) -> str | None:
        """The user who sends the requests, None if that is nobody."""
        return None if self._credentials is None else self._credentials[0]

    def copy(self, *, retries: bool = True) -> CouchDB:
        """Return a new client with connections of its own and the settings of this one.

        :param retries: whether it repeats requests that fail; without retries an error is known at once
        """
        username, password = self._credentials or (None, "")
        client = CouchDB(
            url=self.url,
            db=self.db.name,
            username=username,
            password=password,
            ssl_verification=self._ssl_verification,
            connect_timeout=self._timeouts.connect,
            read_timeout=self._timeouts.read,
        )
        if not retries:
            client.server.resource.session.retry_pauses = ()
        return client

    def hurry(self, is_on: bool = True) -> None:
        """Wait only for some seconds for the server, as a pilot does that is being stopped; or as long as before.

        A signal handler may call this.
        """
        self.server.resource.session.set_timeouts(self._timeouts.in_a_hurry() if is_on else self._timeouts)

    # --- reading

    def __getitem__(self, idx: str) -> Any:
        """Return the document with this id, as the package `couchdb` does.

        :raises couchdb.ResourceNotFound: if there is no such document
        """
        return self.db[idx]

    def get(self, id: str) -> Document:
        """Return the document with this id.

        :raises NoSuchDocument: if there is no such document (a `ValueError`)
        :raises ValueError: if no document can have this id
        """
        path = doc_path(id)
        try:
            _, _, data = self.db.resource.get_json(path)
        except ResourceNotFound as error:
            if not is_absent(error):  # the database is missing
                raise
            text = f"{id} is not the id of a document in the database {self.database_name}"
            raise NoSuchDocument(text) from None
        return Document(data)

    def get_documents(self, ids: Iterable[str]) -> list[Document]:
        """Return the documents with these ids, in their order. Missing ones are left out.

        This takes one request, and a second one if documents have several branches. For 1,000 documents it is three
        times as fast as `include_docs`.
        """
        wanted = [{"id": id} for id in ids]
        if not wanted:
            return []
        _, _, answer = self.db.resource.post_json("_bulk_get", body={"docs": wanted})
        found = [(result["id"], sole_branch(result["docs"])) for result in answer["results"]]
        unclear = [id for id, branch in found if branch is None]
        rows = self.all_docs(keys=unclear, include_docs=True) if unclear else ()
        chosen = {row.id: row.doc for row in rows if row.get("doc") is not None}
        documents = [chosen.get(id) if branch is None else branch for id, branch in found]
        return [Document(dict(document)) for document in documents if document]

    def all_docs(self, *, keys: Iterable[str] | None = None, **params: Any) -> list[Any]:
        """Return rows of CouchDB's list of all documents, in the order of their ids, with one request.

        A row is a dict; it has `.id`, `.value` (a dict with the revision as "rev") and, with `include_docs`, `.doc`.

        :param keys: the ids of the documents to list, in their order, by default all. A missing document has a row with
            "error", a deleted one a row whose `.value` has "deleted".
        :param params: CouchDB's query parameters: `startkey`, `endkey`, `limit`, `include_docs`
        """
        refuse_unknown(params, VIEW_PARAMS, "all_docs", ("keys",))
        if keys is not None:
            params["keys"] = list(keys)
        return list(self.db.view("_all_docs", **params).rows)

    def view(self, view: str, design_doc: str = "Monitor", **view_params: Any) -> Any:
        """Return the result of a view, whose `.rows` have `.id`, `.key` and `.value`.

        The request is sent when the rows are first used. It raises `couchdb.ResourceNotFound` if there is no such view.

        :param view: the name of the view
        :param design_doc: the design document that has the view
        :param view_params: CouchDB's query parameters, see `VIEW_PARAMS`, e.g. `limit`, `startkey`, `include_docs`
        :raises TypeError: if CouchDB has no such parameter
        """
        refuse_unknown(view_params, VIEW_PARAMS, "view", ("design_doc",))
        return self.db.view(f"{design_doc}/{view}", **view_params)

    def get_from_view(self, view: str, **view_params: Any) -> list[Document]:
        """Return the documents of a view's rows as they are now, in the view's order. Deleted ones are left out.

        One request fetches all of them into memory: give a `limit` if the view can be large.
        """
        view_params["include_docs"] = True
        return [Document(dict(row.doc)) for row in self.view(view, **view_params) if row.doc is not None]

    def get_single_from_view(self, view: str, window_size: int = 1, **view_params: Any) -> Document:
        """Return a document chosen at random from the first rows of a view.

        :param window_size: how many rows to choose from
        :raises IndexError: if the view is empty
        """
        return random.choice(self.get_from_view(view, limit=window_size, **view_params))

    def is_view_nonempty(self, view: str, **view_params: Any) -> bool:
        """Return whether a view has rows, so that a pilot is worth starting. A view that does not exist has none."""
        try:
            return bool(self.view(view, **{"limit": 1, **view_params}).rows)
        except ResourceNotFound:
            log.info("There is no view %s in the design document %s", view, view_params.get("design_doc", "Monitor"))
            return False

    def latest_documents(self, limit: int) -> list[dict[str, Any]]:
        """Return the documents that have changed last, the latest first, with one request. Deleted ones are left out.

        :param limit: how many changes to look at
        """
        query = {"descending": True, "limit": limit, "include_docs": True}
        _, _, answer = self.db.resource.get_json("_changes", **query)
        return [dict(row["doc"]) for row in answer["results"] if row.get("doc") and not row.get("deleted")]

    def doc_count(self) -> int:
        """Return the number of documents in the database, design documents included."""
        return int(self.db.info()["doc_count"])

    def changes_feed(self) -> ChangesFeed:
        """Return the database's feed of changes, on a connection of its own."""
        return ChangesFeed(self.db.resource)

    # --- writing

    def save(self, doc: Storable) -> Any:
        """Save a document and return it with its new `_rev`, and with an `_id` if it had none.

        NumPy's numbers and arrays, dates, paths, sets and the like are saved as JSON, see `tokens.conversions`; in the
        document itself they stay as they are. If the answer is lost, the document is read: the save counts if it
        landed, and is repeated if it did not.

        :raises couchdb.http.ResourceConflict: if the document in the database has another revision, or was deleted
        :raises ValueError, TypeError: if JSON can't hold the content, or if the id is invalid; nothing was sent then
        """
        content = _as_dict(doc)
        content.setdefault("_id", uuid4().hex)
        sent = attachments.without_saved_data(content)
        try:
            rev = DocumentWrite(self.db, sent).run()
        except (ValueError, TypeError, RecursionError) as error:
            rev = DocumentWrite(self.db, *_converted([sent], error)).run()
        content["_rev"] = rev
        attachments.mark_saved(content)
        return doc

    def find_landed(self, doc: Storable) -> str | None:
        """Return the revision under which a document is in the database as it is here, None if it is not.

        A save that failed can have landed all the same, if its answer was lost.

        :param doc: the document as it was to be saved, with the `_rev` that it was to replace
        """
        return DocumentWrite(self.db, attachments.without_saved_data(_as_dict(doc))).find_landed()

    def edit(self, id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
        """Change a document, or create it, while others may change it too. Return whether anything had to be changed.

        :param id: the document's id
        :param change: gets the content (only `_id` if there is no such document) and returns the new content; it may be
            called several times
        :raises couchdb.http.ResourceConflict: if others changed the document each time
        """
        for attempt in range(EDIT_CONFLICTS):
            try:
                content = self.get(id).value
            except NoSuchDocument:
                content = {"_id": id}
            wanted = change(dict(content))
            if not is_storable(wanted):  # NumPy's arrays can't be compared
                (wanted,) = _converted([wanted])
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

    def has_room_for(self, content: Mapping[str, Any]) -> bool:
        """Return whether a document with this content is small enough for the server, or for a proxy before it.

        Nothing is stored. The document is sent as the change of a revision that does not exist, which CouchDB refuses
        with a conflict, unless it refuses the size first. A user who may not read the server's settings can ask this.
        """
        fields = {name: value for name, value in content.items() if name != "_id"}
        try:
            self.db.resource.put_json([f"picas_probe_{uuid4().hex}"], body={**fields, "_rev": _NO_REVISION})
        except ServerError as error:
            if error.args[0][0] != _TOO_LARGE:
                raise
            return False
        except (ResourceConflict, Forbidden):  # a validation function may come before the conflict
            return True
        return True

    def delete(self, doc: Storable) -> None:
        """Delete a document.

        :raises couchdb.http.ResourceConflict: if the document in the database has another revision
        :raises couchdb.http.ResourceNotFound: if it was deleted already
        """
        Deletion(self.db, deletion_of(_as_dict(doc))).run()

    def save_documents(self, docs: Sequence[Storable]) -> list[bool]:
        """Save many documents with few requests and return for each whether it was saved.

        A saved document has its new `_rev`, and an `_id` if it had none. A document that has another revision in the
        database is not saved. For values that are no JSON see `save`.

        :raises ValueError, TypeError: if JSON can't hold one of them; nothing was sent then
        """
        return [rev is not None for rev in self.write_documents(docs).revs]

    def write_documents(self, docs: Sequence[Storable]) -> Written:
        """Do what `save_documents` does, and return everything that the server said of each document."""
        contents = [_as_dict(doc) for doc in docs]
        for content in contents:
            if "_id" not in content:
                content["_id"] = uuid4().hex
        sent = [attachments.without_saved_data(content) for content in contents]
        try:
            written = write_many(self.db, sent)
        except (ValueError, TypeError, RecursionError) as error:
            written = write_many(self.db, _converted(sent, error))
        for content, rev in zip(contents, written.revs):
            if rev is not None:
                content["_rev"] = rev
                attachments.mark_saved(content)
        return written

    def delete_documents(self, docs: Sequence[Storable]) -> list[bool]:
        """Delete many documents with few requests and return for each whether it was deleted.

        A document that has changed in the database since it was read is kept. One that was never saved is skipped.
        """
        contents = [_as_dict(doc) for doc in docs]
        saved = [number for number, content in enumerate(contents) if "_id" in content and "_rev" in content]
        revs = write_many(self.db, [deletion_of(contents[number]) for number in saved]).revs
        deleted = {number for number, rev in zip(saved, revs) if rev is not None}
        return [number in deleted for number in range(len(contents))]

    def delete_from_view(self, view: str, design_doc: str = "Monitor") -> list[bool]:
        """Delete all documents of a view and return for each whether it was deleted."""
        return self.delete_documents(self.get_from_view(view, design_doc=design_doc))

    # --- attachments

    def put_attachment_file(
        self, doc: Storable, path: str | Path, name: str | None = None, mimetype: str | None = None
    ) -> Any:
        """Attach a file of any size to a saved document, streamed from disk, and return the document.

        This does not save the document's other changes. It updates `_rev` and `_attachments`. If the answer is lost,
        the document is read: the upload counts if it landed, and is repeated if it did not.

        :param doc: a document with `_id` and `_rev`
        :param path: the file
        :param name: the attachment's name, by default the file's
        :param mimetype: by default guessed from the name
        :raises couchdb.http.ResourceConflict: if the document in the database has another revision
        :raises couchdb.http.ServerError: if the server refuses the file, for example as too large
        :raises ValueError: if the name is invalid
        :raises OSError: if the file can't be read
        """
        path = Path(path)
        name = name or path.name
        content = _as_dict(doc)
        url = self._attachment_url(content["_id"], name)
        mimetype = mimetype or guess_mimetype(name)
        content["_rev"] = attachments.Upload(self.db, url, content, name, path, mimetype).run()
        _, _, stored = self.db.resource.get_json(doc_path(content["_id"]), rev=content["_rev"])
        content.setdefault("_attachments", {})[name] = stored["_attachments"][name]
        return doc

    def get_attachment_file(self, doc: str | Storable, name: str, path: str | Path) -> Path:
        """Fetch an attachment of any size, streamed to disk, and return the file's path.

        :param doc: the document, or its id
        :param name: the attachment's name
        :param path: the file to write; an existing file is replaced only once all has arrived
        :raises couchdb.http.ResourceNotFound: if there is no such attachment
        :raises OSError: if the connection breaks or the file can't be written
        """
        doc_id = doc if isinstance(doc, str) else str(doc["_id"])
        attachments.download_to(self.db, self._attachment_url(doc_id, name), Path(path))
        return Path(path)

    def stream_attachment(self, doc_id: str, name: str) -> Iterator[bytes]:
        """Yield the content of an attachment of any size, piece by piece.

        :raises couchdb.http.ResourceNotFound: if there is no such attachment
        :raises picas.exceptions.Unreachable: if the connection breaks
        """
        return attachments.download(self.db, self._attachment_url(doc_id, name))

    def read_attachment(self, doc_id: str, name: str) -> bytes:
        """Return an attachment's content, which is held in memory.

        :raises KeyError: if there is no such attachment
        """
        file = self.db.get_attachment(doc_id, name)
        if file is None:
            raise KeyError(name)
        try:
            return bytes(file.read())
        finally:
            file.close()

    def _attachment_url(self, doc_id: str, name: str) -> str:
        return attachments.url_of(f"{self.url}/{quote(self.database_name, safe='')}", doc_id, name)

    # --- clusters

    def read_branches(self, id: str) -> list[dict[str, Any]]:
        """Return all branches of a document, deleted ones included; none if there is no such document."""
        return clusters.read_branches(self.db, id, self.copies)

    def store_revision(self, content: Mapping[str, Any], parent_rev: str) -> None:
        """Store a document's revision as replication does: no copy refuses it, whatever other branches it has.

        :param content: the document, with the revision's own name as `_rev`
        :param parent_rev: the revision that it follows
        """
        clusters.store_revision(self.db, content, parent_rev)

    def has_majority(self) -> bool:
        """Return whether a majority of the copies can be reached now, by writing a small local document."""
        return clusters.has_majority(self.db)

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
        :param reduce_fun: its reduce function in JavaScript, or the name of a built-in one
        :param design_doc: the design document that gets the view
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

    def design_documents(self) -> dict[str, dict[str, Any]]:
        """Return all design documents by their names."""
        rows = self.all_docs(startkey="_design/", endkey="_design0", include_docs=True)
        return {row.id.partition("/")[2]: dict(row.doc) for row in rows if row.doc is not None}

    def pending_updates(self, design_doc: str) -> int:
        """Return how many changes of documents the views of a design document do not know yet.

        A question to one of its views waits for these. The embedded server does not say it: that counts as 0.

        :raises couchdb.ResourceNotFound: if there is no such design document
        """
        _, _, info = self.db.resource.get_json(["_design", design_doc, "_info"])
        index = info.get("view_index")
        return int(index["updates_pending"]["minimum"]) if isinstance(index, dict) and "updates_pending" in index else 0

    def server_info(self) -> dict[str, Any]:
        """Return what the server says of itself, e.g. its "version"."""
        _, _, info = self.server.resource.get_json()
        return dict(info)

    def clock_difference(self) -> float | None:
        """Return how many seconds the server's clock is ahead of this machine's, within a second or two.

        :returns: a negative number if it is behind; None if the server does not say what time it is
        """
        before = time.time()
        _, headers, _ = self.server.resource.get_json()
        middle = (before + time.time()) / 2
        try:
            date = parsedate_to_datetime(headers["date"])
        except (TypeError, ValueError):
            return None
        return date.timestamp() + 0.5 - middle  # the header has whole seconds, cut off

    def own_user(self) -> dict[str, Any]:
        """Return the document of this user, in which the server keeps the password (as a salted hash).

        :raises picas.exceptions.PicasError: if the server keeps this user's password elsewhere, or does not let users
            change it
        """
        return users.read_own_user(self.server.resource)

    def change_password(self, password: str) -> None:
        """Change this user's password on the server. The client itself keeps the old one: connect anew.

        :param password: the new password
        :raises picas.exceptions.PicasError: see `own_user`
        :raises picas.exceptions.LostAnswer: if the answer was lost, and the server does not accept the new password
        """
        users.change_own_password(self.server.resource, password)

    def is_admin(self) -> bool:
        """Return whether this user may change design documents and permissions of the database."""
        _, _, session = self.server.resource.get_json("_session")
        _, _, security = self.db.resource.get_json("_security")
        user, admins = session["userCtx"], security.get("admins", {})
        return bool(
            user["name"] in admins.get("names", ()) or {"_admin", *admins.get("roles", ())}.intersection(user["roles"])
        )

    def set_users(
        self,
        admins: list[str] | None = None,
        members: list[str] | None = None,
        admin_roles: list[str] | None = None,
        member_roles: list[str] | None = None,
    ) -> None:
        """Set the permissions of the database. A list that is None stays as it is.

        :param admins: users who may change design documents and permissions
        :param members: users who may read and write documents
        :param admin_roles: roles with the rights of admins
        :param member_roles: roles with the rights of members
        :raises couchdb.http.HTTPError: if this user may not do that; CouchDB 3 answers with status 500, "no_majority"
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
    """Return the dict of a document, so that changes to it change the document."""
    if isinstance(doc, Document):
        return doc.value
    if isinstance(doc, dict):
        return doc
    raise TypeError(f"a document must be a Document or a dict, not {type(doc).__name__}")


def _converted(contents: Sequence[dict[str, Any]], refusal: Exception | None = None) -> list[dict[str, Any]]:
    """Return documents as JSON can hold them, after it was found that it can't hold one of them as it is.

    :param refusal: what the encoder has raised; it is raised again if it has another reason
    :raises ValueError, TypeError: if something would be lost; the text names the document and where in it that is
    """
    converted = [content if is_storable(content) else dict(content) for content in contents]
    changed = [new for new, old in zip(converted, contents) if new is not old]
    if refusal is not None and not changed:
        raise refusal
    for content in changed:
        lost = make_storable(content)
        if lost:
            text = f"{content['_id']}: JSON can't hold {list_names(lost)}"
            raise (TypeError if isinstance(refusal, TypeError) else ValueError)(text) from None
    return converted
