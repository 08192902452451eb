"""The views of the states: created once, without changes to the rest of the design document."""

import pytest
from couchdb.http import ResourceNotFound, ServerError
from support.tokens import make_token

from picas import CouchDB, Task
from picas.tokens.states import STATES
from picas.views import NO_STATE, TASKS, count_states, create_views, tokens_in_conflict, unseen


def design(client, name="Monitor"):
    return client.get(f"_design/{name}").value


def test_creates_a_view_for_each_state_the_queue_and_the_overview(client):
    assert set(design(client)["views"]) == {
        "todo",
        "locked",
        "done",
        "error",
        "queue",
        "claims",
        "needs",
        "conflicts",
        "overview_total",
    }


def test_each_view_emits_the_id_as_key_and_value(client, push):
    push(1)
    client.save_documents([make_token(1, lock=5), make_token(2, lock=5, done=6, exit_code=0)])
    client.save_documents([make_token(3, lock=5, done=6, exit_code="")])
    rows = [row for view in STATES for row in client.view(view).rows]
    assert [(row.id, row.key, row.value) for row in rows] == [(f"token_{n}",) * 3 for n in range(4)]


def test_documents_of_another_type_are_in_no_view(client):
    client.save({"_id": "other", "type": "task", "lock": 0, "done": 0})
    assert sum(count_states(client).values()) == 0


def test_counts_the_tokens_of_each_state(client, push):
    assert count_states(client) == {"todo": 0, "locked": 0, "done": 0, "error": 0}
    tokens = push(6)
    client.save(tokens[0].lock())
    for token, code in zip(tokens[1:4], (0, 1, "")):
        token["exit_code"] = code
        client.save(token.lock().done())
    assert count_states(client) == {"todo": 2, "locked": 1, "done": 1, "error": 2}


def test_a_second_call_writes_nothing(client):
    before = design(client)["_rev"]
    assert create_views(client) is False
    assert design(client)["_rev"] == before


def test_all_views_are_created_with_one_write(client):
    create_views(client, "New")
    assert design(client, "New")["_rev"].startswith("1-")


def test_custom_views_stay(client):
    client.add_view("mine", "function(doc) { emit(doc._id, doc._id); }", design_doc="Mixed")
    assert create_views(client, "Mixed") is True
    assert set(design(client, "Mixed")["views"]) == {
        *STATES,
        "queue",
        "claims",
        "needs",
        "conflicts",
        "overview_total",
        "mine",
    }


def test_a_broken_view_is_fixed(client):
    document = client.get("_design/Monitor")
    document["views"]["todo"] = {"map": "function(doc) {}"}
    client.save(document)
    assert create_views(client) is True
    assert "lock" in design(client)["views"]["todo"]["map"]


def test_a_condition_narrows_all_views_and_the_overview(client):
    create_views(client, "Single", "doc.cores == 1 || doc.cores == 2")
    client.save_documents([make_token(0, cores=1), make_token(1, cores=2), make_token(2, cores=4), make_token(3)])
    assert [row.id for row in client.view("todo", design_doc="Single").rows] == ["token_0", "token_1"]
    assert count_states(client, "Single") == {"todo": 2, "locked": 0, "done": 0, "error": 0}


def test_a_new_condition_replaces_the_old_one(client, push):
    create_views(client, "Some", "doc.cores == 1")
    push(1)
    assert create_views(client, "Some") is True
    assert count_states(client, "Some")["todo"] == 1


def test_a_condition_that_is_not_javascript_is_rejected(client):
    with pytest.raises(ServerError, match="compilation_error"):
        create_views(client, "Bad", "doc.cores ==")
    with pytest.raises(ValueError, match="_design/Bad"):
        design(client, "Bad")


def test_two_people_who_create_views_at_once_both_succeed(client, monkeypatch):
    """Another user saves a change between the read and the write."""
    save = CouchDB.save
    client.add_view("mine", "function(doc) {}", design_doc="Shared")

    def save_after_another(self, document):
        monkeypatch.undo()
        other = self.get("_design/Shared")
        other["views"]["theirs"] = {"map": "function(doc) { emit(1, 1); }"}
        save(self, other)
        return save(self, document)

    monkeypatch.setattr(CouchDB, "save", save_after_another)
    assert create_views(client, "Shared") is True
    assert {"mine", "theirs", "todo"} <= set(design(client, "Shared")["views"])


def plant_conflict(client, token):
    """Store a second revision of a token, as replication from another server does."""
    client.store_revision({**token.value, "lock": 5, "_rev": "2-" + "a" * 32}, "1-" + "b" * 32)


def test_tokens_with_conflicting_revisions_are_seen_until_one_is_deleted(client, push):
    tokens = push(4)
    assert tokens_in_conflict(client) == (0, [])
    for token in tokens[1:]:
        plant_conflict(client, token)
    assert tokens_in_conflict(client, limit=2) == (3, ["token_1", "token_2"])
    for branch in client.read_branches("token_1"):
        if branch["_rev"] != client.get("token_1").rev:
            client.delete(branch)
    assert tokens_in_conflict(client) == (2, ["token_2", "token_3"])


class TestUnseen:
    """Documents that no pilot sees, though somebody may have meant them as tokens."""

    def test_tokens_without_lock_or_done_or_with_odd_ones(self, client, push):
        push(2)
        assert unseen(client, NO_STATE) == (0, [])
        client.save({"_id": "bare", "type": "token", "input": "x"})
        client.save_documents([make_token(3, lock=0, done=5), make_token(4, lock=-1), make_token(5, lock="x")])
        assert unseen(client, NO_STATE, limit=3) == (4, ["bare", "token_3", "token_4"])
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 0, "error": 0}
        assert unseen(client, TASKS) == (0, [])

    def test_tasks_that_wait_for_ever(self, client):
        tasks = [client.save(Task({"_id": f"t{number}", "input": "echo x"})) for number in range(3)]
        client.save(tasks[0].lock().done())  # somebody's own pilot has processed it
        client.save({"_id": "other", "type": "task"})
        assert unseen(client, TASKS) == (2, ["t1", "t2"])
        assert unseen(client, NO_STATE) == (0, [])
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 0, "error": 0}

    def test_only_those_that_meet_the_condition(self, client):
        create_views(client, "Single", "doc.cores == 1")
        client.save_documents(
            [{"_id": f"{kind}{cores}", "type": kind, "cores": cores} for kind in ("task", "token") for cores in (1, 2)]
        )
        client.save_documents([Task({"_id": f"task_{cores}", "cores": cores}) for cores in (1, 2)])
        assert unseen(client, NO_STATE, "Single") == (1, ["token1"])
        assert unseen(client, TASKS, "Single") == (1, ["task_1"])

    def test_the_views_of_an_older_release_know_of_none(self, client):
        views = client.get("_design/Monitor")
        views["views"]["overview_total"] = {
            "map": "function(doc) { if (doc.type == 'token' && doc.lock == 0) emit('todo', 1); }",
            "reduce": "_sum",
        }
        client.save(views)
        client.save_documents([make_token(0), {"type": "token"}])
        assert unseen(client, NO_STATE) == (0, [])
        assert count_states(client)["todo"] == 1


def test_counting_without_views_reports_that_they_are_missing(client):
    with pytest.raises(ResourceNotFound):
        count_states(client, "Nowhere")


def test_an_old_token_without_exit_code_counts_as_an_error(client):
    token = make_token(0, lock=1, done=1)
    del token["exit_code"]
    client.save(Task(token))
    assert count_states(client)["error"] == 1
