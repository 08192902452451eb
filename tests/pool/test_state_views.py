"""The views show the same states as Python."""

from __future__ import annotations

from support.tokens import odd_tokens
from support.tokens import make_token

from picas import CouchDB, Task
from picas.modifiers import BasicTokenModifier
from picas.tokens import STATES, is_in_state, state_of
from picas.views import count_states


def test_a_view_has_the_tokens_that_python_finds_in_its_state(client: CouchDB) -> None:
    tokens = odd_tokens()
    assert all(client.save_documents(tokens))
    for state in STATES:
        in_view = {row.id for row in client.view(state).rows}
        in_python = {content["_id"] for content in tokens if is_in_state(content, state)}
        assert in_view == in_python, state
        assert in_python, f"the table has no token in the state {state}"


def test_the_overview_has_the_same_counts_as_python(client: CouchDB) -> None:
    tokens = odd_tokens()
    assert all(client.save_documents(tokens))
    states = [state_of(content) for content in tokens]
    assert count_states(client) == {state: states.count(state) for state in STATES}


def test_a_document_of_another_type_is_in_no_view(client: CouchDB) -> None:
    client.save({"_id": "task", "type": "task", "lock": 0, "done": 0})
    client.save({"_id": "bare", "lock": 0, "done": 0})
    assert sum(count_states(client).values()) == 0


def test_a_token_moves_from_view_to_view(client: CouchDB) -> None:
    modifier = BasicTokenModifier()
    token = client.save(Task(make_token(cores=1)))
    for change, state in (
        (modifier.lock, "locked"),
        (modifier.set_error, "error"),
        (modifier.scrub, "todo"),
        (modifier.lock, "locked"),
        (modifier.close, "error"),  # closed without an exit code
        (lambda token: modifier.add_output(token, {"exit_code": 0}), "done"),
    ):
        client.save(change(token))
        assert [row.id for row in client.view(state).rows] == ["token_0"]
        token = client.get("token_0")
    assert token["scrub_count"] == 1
    assert token["cores"] == 1
