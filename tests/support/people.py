"""Users with few rights, on a real CouchDB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable
from uuid import uuid4

import pytest

from picas import CouchDB, User

RULE = "function(doc, old, user) { if (user.roles.indexOf('_admin') < 0) throw({forbidden: 'only readers here'}); }"


@pytest.fixture
def person(client: CouchDB, is_couchdb: bool) -> Iterator[Callable[[str], dict[str, str]]]:
    """Return a function that makes a user of the test's database and returns the settings for them.

    It is called with "member", "admin" (of the database only), "reader" (a member whose writes are rejected) or
    "stranger".
    """
    if not is_couchdb:
        pytest.skip("the embedded server has one user only")
    made = []

    def make(kind: str) -> dict[str, str]:
        name = f"{kind}_{uuid4().hex}"
        client.server["_users"].save(User(name, "s3cret").value)
        made.append(name)
        client.set_users(
            members=["somebody"] if kind == "stranger" else [name], admins=[name] if kind == "admin" else []
        )
        if kind == "reader":
            client.save({"_id": "_design/rule", "validate_doc_update": RULE})
        return {"PICAS_USERNAME": name, "PICAS_PASSWORD": "s3cret"}

    yield make
    for name in made:
        del client.server["_users"][f"org.couchdb.user:{name}"]
