"""A server on which one user can change their own password, as CouchDB lets them if its administrator has set it so."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from urllib.parse import unquote

from support.faults import CUT, Answer, Double, Reply, Request

MISSING = Reply(404, b'{"error":"not_found","reason":"missing"}')
WRONG = Reply(401, b'{"error":"unauthorized","reason":"Name or password is incorrect."}')


class UserServer(Double):
    """A double of CouchDB with the user "ann" and the database "pool".

    :param password: ann's password
    :param lost: what happens to the change of the password: "" for an answer, "applied" or "refused" for none
    """

    def __init__(self, password: str, lost: str = "") -> None:
        super().__init__(self._respond)
        self.password, self.lost = password, lost
        self.document = {"_id": "org.couchdb.user:ann", "_rev": "1-a", "name": "ann", "type": "user", "roles": ["cats"]}

    def _respond(self, request: Request) -> Answer:
        credentials = base64.b64decode((request.authorization or "").partition(" ")[2]).decode("utf-8")
        if credentials != f"ann:{self.password}":
            return WRONG
        path = unquote(request.path)
        contents: Mapping[str, object] = {
            "/": {"couchdb": "Welcome", "version": "3.5.0", "vendor": {"name": "The Apache Software Foundation"}},
            "/pool": {"db_name": "pool"},
            "/_session": {"ok": True, "userCtx": {"name": "ann", "roles": ["cats"]}},
            "/_users/org.couchdb.user:ann": self.document,
        }
        if path not in contents:
            return MISSING
        if request.method == "GET":
            return Reply(200, json.dumps(contents[path]).encode())
        changed = json.loads(request.body)
        if self.lost != "refused":
            self.password = changed.pop("password")
            self.document = {**changed, "_rev": "2-b"}
        return CUT if self.lost else Reply(201, json.dumps({"ok": True, "id": "a", "rev": "2-b"}).encode())
