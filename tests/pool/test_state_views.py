"""The states of tokens in the views of a server."""

from __future__ import annotations

from support.tokens import make_token, odd_tokens

from picas import CouchDB, Task
from picas.modifiers import BasicTokenModifier
from picas.tokens.states import STATES, is_in_state, state_of
from picas.views import count_states


def test_every_view_has_the_tokens_whose_state_python_computes(client: CouchDB) -> None:
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


def test_the_states_in_the_life_of_a_token(client: CouchDB) -> None:
    own = {"cores": 1, "my": {"nested": [1, 2]}, "input": "echo hello"}
    modifier = BasicTokenModifier()
    token = client.save(Task(make_token(**own)))
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
    assert {name: token[name] for name in own} == own
