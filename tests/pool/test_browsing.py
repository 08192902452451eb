"""Looking through tokens page by page."""

from __future__ import annotations

from typing import Any

import pytest
from support.faults import FaultProxy
from support.tokens import ended_token

from picas import CouchDB, Task
from picas.pool.browsing import Shelf, read_page
from picas.views import create_report

IDS = [f"token_{number}" for number in range(7)]
"""In the order of the views."""


def ids_of(client: CouchDB, shelf: Shelf, number: int = 0, size: int = 3) -> tuple[list[str], bool]:
    page = read_page(client, shelf, number, size)
    assert (page.shelf, page.number) == (shelf, number)
    return [token.id for token in page.tokens], page.is_last


@pytest.fixture
def failed(client: CouchDB) -> CouchDB:
    """The client of a pool with failures of two groups."""
    create_report(client)
    client.save_documents([ended_token(number, group="r0001", reason="x") for number in range(7)])
    client.save_documents([ended_token(number, group="r0002", reason="y") for number in range(7, 9)])
    return client


def test_pages_of_a_state(client: CouchDB, push: Any) -> None:
    push(7)
    todo = Shelf("todo")
    assert ids_of(client, todo) == (IDS[:3], False)
    assert ids_of(client, todo, 1) == (IDS[3:6], False)
    assert ids_of(client, todo, 2) == (IDS[6:], True)
    assert ids_of(client, todo, 3) == ([], True)
    assert ids_of(client, todo, size=7) == (IDS, True)
    assert ids_of(client, Shelf("done")) == ([], True)


def test_pages_of_a_group_of_failures(failed: CouchDB) -> None:
    assert ids_of(failed, Shelf.of_group("r0001"), 1) == (IDS[3:6], False)
    assert ids_of(failed, Shelf.of_group("r0001"), 2) == (IDS[6:], True)
    assert ids_of(failed, Shelf.of_group("r0002")) == (["token_7", "token_8"], True)
    assert ids_of(failed, Shelf.of_group("r0003")) == ([], True)


def test_the_tokens_of_a_pilot(client: CouchDB, push: Any) -> None:
    for number, token in enumerate(push(4)):
        client.save(Task(token).lock(f"picas_pilot_{number % 2}"))
    assert ids_of(client, Shelf.of_pilot("picas_pilot_1")) == (["token_1", "token_3"], True)


def test_ids_that_begin_with_a_text(failed: CouchDB, is_couchdb: bool) -> None:
    failed.save_documents([ended_token(number, group="r0001") for number in (10, 11)])
    tens = ["token_1", "token_10", "token_11"]
    assert ids_of(failed, Shelf("error").beginning_with("token_1"), size=9) == (tens, True)
    assert ids_of(failed, Shelf("error").beginning_with("token_1"), size=2) == (tens[:2], False)
    assert ids_of(failed, Shelf("error").beginning_with("pilot")) == ([], True)
    assert ids_of(failed, Shelf.of_group("r0001").beginning_with("token_1"), size=9)[0] == tens
    if is_couchdb:  # the embedded server sorts by bytes, and can't begin at a row
        assert tens[2] in ids_of(failed, Shelf("error").beginning_with("TOKEN"), size=20)[0]
        assert ids_of(failed, Shelf.of_group("r0001").beginning_with("token_1"), size=2) == (tens[:2], False)


def test_a_page_takes_one_request(failed: CouchDB, location: Any, through: Any) -> None:
    with FaultProxy(location.url) as proxy:
        client = through(proxy)
        read_page(client, Shelf("error"))
        read_page(client, Shelf.of_group("r0001"), 1, 2)
        assert len(proxy.requests) == 2
