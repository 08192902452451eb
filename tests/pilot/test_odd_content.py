"""No token ends a pilot, whatever is in it: not one that pilots can't read, nor one whose result can't be stored."""

import json

import pytest
from support.tokens import make_token
from support.workers import Worker

from picas import EndlessViewIterator, Task, TaskViewIterator, modifiers
from picas.exceptions import PicasError
from picas.pilot.identity import PREFIX
from picas.pilot.leases import Watch
from picas.pool import reset_tokens
from picas.pool import spool as spooling
from picas.pool.recovery import recover
from picas.tokens.states import state_of
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")

UNREADABLE = 3000
"""Levels that Python can't read with its usual limit."""


def nested(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def put_nested(client, number, levels=UNREADABLE, **fields):
    """Save a token whose input is nested."""
    text = json.dumps({**make_token(number, **fields), "input": "NESTED"})
    text = text.replace('"NESTED"', "[" * levels + "]" * levels)
    client.db.resource.put_json(f"token_{number}", body=text)


def revision(client, number):
    (row,) = client.all_docs(keys=[f"token_{number}"])
    return row.value["rev"]


class TestATokenThatIsNestedTooDeeply:
    @pytest.mark.parametrize("levels", [UNREADABLE, 600, 250])
    @pytest.mark.parametrize("slots", [1, 2])
    def test_is_left_alone_and_named_once_and_the_others_are_processed(self, client, levels, slots, caplog):
        client.save_documents([make_token(number) for number in range(9)])
        put_nested(client, 9, levels)
        before = revision(client, 9)
        pilot = Worker(client)
        pilot.run(slots=slots)
        assert sorted(pilot.processed) == [f"token_{number}" for number in range(9)]
        assert revision(client, 9) == before
        assert caplog.text.count("token_9 is left alone") == 1

    def test_in_a_view_of_the_users_own(self, client):
        client.add_view("mine", "function(doc) { if (doc.lock === 0) { emit(doc.cores, null); } }")
        client.save_documents([make_token(0), make_token(2)])
        put_nested(client, 1)
        pilot = Worker(client, iterator=TaskViewIterator(client, "mine"))
        pilot.run()
        assert sorted(pilot.processed) == ["token_0", "token_2"]

    def test_is_processed_once_it_is_put_right(self, client):
        put_nested(client, 0)
        (row,) = client.all_docs(keys=["token_0"])
        pilot = Worker(client)
        pilot.run()
        assert pilot.processed == []
        client.save({**make_token(0), "_rev": row.value["rev"]})
        pilot.iterator.reset()
        pilot.run()
        assert pilot.processed == ["token_0"]

    def test_may_be_anywhere_among_many(self, client):
        client.save_documents([make_token(number) for number in range(40)])
        for number in (40, 41, 55):
            put_nested(client, number)
        client.save_documents([make_token(number) for number in range(42, 50)])
        pilot = Worker(
            client,
            iterator=EndlessViewIterator(
                TaskViewIterator(client, "todo"), stop_callback=lambda: len(pilot.processed) == 48
            ),
        )
        pilot.run()
        assert count_states(client) == {"todo": 3, "locked": 0, "done": 48, "error": 0}

    def test_does_not_keep_the_tokens_of_a_dead_pilot_locked(self, client):
        claim = {"id": "x", "pilot": f"{PREFIX}gone", "start": 1}
        client.save({"_id": f"{PREFIX}gone", "type": "pilot", "state": "dead", "lease": 0.1})
        client.save(make_token(0, lock=1, claim=claim))
        put_nested(client, 1, lock=1, claim=claim)
        watch = Watch(client, lease=0.1)
        watch.look()
        watch._seen[f"{PREFIX}gone"].since -= 1
        watch.look()
        assert "token_0" in watch.put_back  # newer versions of Python can read the other one as well

    def test_does_not_keep_people_from_resetting_the_others(self, client):
        client.save(make_token(0, lock=1))
        put_nested(client, 1, lock=1)
        reset_tokens(client, "locked")
        assert state_of(client.get("token_0")) == "todo"


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no")


class Incomparable:
    """Like an array of NumPy, it has no truth value when it is compared."""

    def __eq__(self, other):
        raise ValueError("ambiguous")

    __hash__ = None


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def fail(error):
    raise error


ODD = {
    "900 levels": (lambda: {"odd": nested(900)}, "odd[0][0]"),
    "100,000 levels": (lambda: {"odd": {"deep": nested(100_000)}}, "odd.deep[0][0]"),
    "5,000 digits": (lambda: {"odd": [1, 10**5000]}, "odd[1]"),
    "400 digits": (lambda: {"odd": {"x": -(10**400)}}, "odd.x"),
    "a number as a name": (lambda: {"odd": {10**5000: 1}}, "odd.<int"),
    "not a number": (lambda: {"odd": [float("nan")]}, "odd[0]"),
    "half a character": (lambda: {"odd": "\ud800"}, "odd"),
    "half a character in a name": (lambda: {"odd": {"\ud800": 1}}, "odd.\\ud800"),
    "half a character in a field's name": (lambda: {"\ud800": 1}, "\\ud800"),
    "a name that CouchDB keeps for itself": (lambda: {"_mine": 1}, "_mine"),
    "nothing that can be shown": (lambda: {"odd": [Unshowable()]}, "odd[0]"),
    "attachments that are none": (lambda: {"_attachments": {"odd": "text"}}, "_attachments.odd"),
    "an attachment that is not base64": (lambda: {"_attachments": {"odd": {"data": "?"}}}, "_attachments.odd"),
    "an attachment of no type": (
        lambda: {"_attachments": {"odd": {"data": "", "content_type": 7}}},
        "_attachments.odd",
    ),
    "a mark of CouchDB that is none": (lambda: {"_deleted": "yes"}, "_deleted"),
    "an attachment's name that CouchDB refuses": (lambda: {"_attachments": {"_x": {"data": ""}}}, "_attachments._x"),
    "half a character in an attachment's name": (
        lambda: {"_attachments": {"\ud800": {"data": ""}}},
        "_attachments.\\ud800",
    ),
}


def spoil(task, make):
    """Put something odd into a token, beside a good result."""
    for name, value in make().items():
        if name == "_attachments":
            task.setdefault(name, {}).update(value)
        else:
            task[name] = value


class TestAResultThatCanNotBeStored:
    @pytest.mark.parametrize("kind", ODD)
    def test_is_saved_without_what_is_odd_and_the_token_says_so(self, client, push, kind, spool, caplog):
        push(2)
        make, name = ODD[kind]

        def work(task):
            task["output"] = {"answer": 42, "odd": 7}
            task.put_attachment("x/", "what it said")
            if task.id == "token_0":
                spoil(task, make)

        pilot = Worker(client, work)
        pilot.run()
        assert len(pilot.processed) == 2
        assert spool() == []
        token = client.get("token_0")
        assert (state_of(token), token["output"]) == ("done", {"answer": 42, "odd": 7})
        assert token.get_attachment("x/", client)["data"] == b"what it said"
        (error,) = token["error"]
        assert name in error["message"]
        assert len(error["message"]) < 1000
        assert [record.levelname for record in caplog.records if "Token token_0: " in record.message] == ["WARNING"]
        assert client.get("token_1")["error"] == []

    @pytest.mark.parametrize("rev", [None, 5, "new", ["1-a"]])
    def test_is_saved_though_the_code_has_damaged_the_revision(self, client, push, rev, spool):
        push(1)
        Worker(client, lambda task: task.update(_rev=rev, output=42)).run()
        assert (client.get("token_0")["output"], spool()) == (42, [])

    @pytest.mark.parametrize("attachments", [None, "none", [1]])
    def test_is_saved_though_its_attachments_are_none(self, client, push, attachments, spool):
        push(1)
        Worker(client, lambda task: task.update(_attachments=attachments, output=42)).run()
        assert (client.get("token_0")["output"], spool()) == (42, [])

    def test_of_which_much_is_odd_says_so_briefly(self, client, push):
        push(1)
        Worker(client, lambda task: task.update(odd=[float("nan")] * 1000)).run()
        token = client.get("token_0")
        assert token["odd"] == [None] * 1000
        (error,) = token["error"]
        assert "odd[0], odd[1]" in error["message"]
        assert "990 others" in error["message"]

    @pytest.mark.parametrize("kind", ODD)
    def test_is_spooled_while_the_database_is_away_and_recovered(self, client, far, gate, push, kind, spool):
        push(1)

        def work(task):
            task["output"] = {"answer": 42}
            spoil(task, ODD[kind][0])
            gate.close()

        with pytest.raises(PicasError):
            Worker(far, work, max_outage=0.05).run()
        gate.open()
        assert len(spool()) == 1
        assert recover(client).saved == ["token_0"]
        assert client.get("token_0")["output"] == {"answer": 42}


@pytest.mark.parametrize(
    "work",
    [
        lambda task: task.update(exit_code=Incomparable()),
        lambda task: task.update(exit_code=10**5000),
        lambda task: fail(Wordless()),
        lambda task: fail(SystemExit(Wordless())),
        lambda task: fail(ValueError("\ud800")),
    ],
    ids=["exit code without a truth value", "huge exit code", "wordless", "wordless exit", "half a character"],
)
@pytest.mark.parametrize("slots", [1, 2])
def test_a_failure_that_is_hard_to_describe_ends_no_pilot(client, push, work, slots):
    push(3)
    pilot = Worker(client, lambda task: work(task) if task.id == "token_1" else None)
    pilot.run(slots=slots)
    assert len(pilot.processed) == 3
    assert count_states(client) == {"todo": 0, "locked": 0, "done": 2, "error": 1}
    assert state_of(client.get("token_1")) == "error"


@pytest.mark.parametrize("kind", ODD)
def test_the_spool_takes_anything(kind, tmp_path):
    """Also what was not turned into a storable document before, and a token that was odd when it was locked."""

    token = modifiers.lock(Task({"_id": "a", "_rev": "1-a"}))
    claimed = dict(token.value)
    spoil(token, ODD[kind][0])
    spoil(claimed, ODD[kind][0])
    token["output"] = 42
    kept = spooling.read(spooling.keep(token, claimed, "a reason", tmp_path / "spool"))
    assert kept.token["output"] == 42
    assert kept.claimed["lock"] == token["lock"]
