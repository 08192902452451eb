"""What the server refuses for good: it gets the rest of the result, a file gets all of it, and nobody is told twice."""

import json
import time

import pytest
import requests
from couchdb.http import Unauthorized
from support.faults import FaultProxy, Reply
from support.workers import Worker

from picas import TaskViewIterator, modifiers
from picas.pool import reset_tokens
from picas.pool import spool as spooling
from picas.pool.recovery import Recovered, recover, recover_quietly
from picas.pool.results import ClaimedToken
from picas.tokens.reasons import group_of
from picas.tokens.states import state_of
from picas.views import count_states

LARGEST = 4_000_000
"""Bytes of the largest document and of the largest attachment."""
BIG = "x" * LARGEST
FORBIDDEN = Reply(403, b'{"error":"forbidden","reason":"no results on Sundays"}')

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


class Limits:
    """Limits of a server.

    :param url: the server's address
    :param user: a name and a password
    """

    SETTING = "_node/_local/_config/couchdb/max_document_size"

    def __init__(self, url, user):
        self._setting, self._user = f"{url}/{self.SETTING}", user
        answer = requests.get(self._setting, auth=user)
        self._before = answer.json() if answer.ok else None

    def set(self):
        requests.put(self._setting, auth=self._user, json=str(LARGEST)).raise_for_status()

    def lift(self):
        if self._before is None:
            requests.delete(self._setting, auth=self._user)
        else:
            requests.put(self._setting, auth=self._user, json=self._before).raise_for_status()


class Strict(FaultProxy):
    """A server that has the limits, and answers as CouchDB does."""

    is_lifted = False
    largest_request = None

    def lift(self):
        self.is_lifted = True

    def _pass_on(self, request):
        if request.method in ("PUT", "POST") and not self.is_lifted:
            error = self._refusal_of(request)
            if error is not None:
                return Reply(413, json.dumps(dict(zip(("error", "reason"), error))).encode())
        return super()._pass_on(request)

    def _refusal_of(self, request):
        if self.largest_request is not None and len(request.body) > self.largest_request:
            return "too_large", "the request entity is too large"
        content = json.loads(request.body)
        for document in content.get("docs", [content]):
            entries = document.pop("_attachments", {})
            if len(json.dumps(document)) > LARGEST:
                return "document_too_large", document["_id"]
            for name, entry in entries.items():
                if len(entry.get("data", "")) * 3 // 4 > LARGEST:
                    return "attachment_too_large", name
        return None


@pytest.fixture
def strict(location, client):
    with Strict(location.url) as strict:
        yield strict


@pytest.fixture
def limits(strict, location, is_couchdb):
    """The limits of CouchDB itself, for all its databases. The embedded server has none: those of a proxy before it."""
    if not is_couchdb:
        yield strict
        return
    limits = Limits(location.url, (location.username, location.password))
    limits.set()
    try:
        yield limits
    finally:
        limits.lift()


@pytest.fixture
def far(limits, strict, client, through):
    """A client of the server with the limits."""
    return through(strict) if limits is strict else client.copy()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def held(client, push):
    push(1, plan="A", output={"answer": 0})
    return ClaimedToken(next(TaskViewIterator(client, "todo")))


def finish(held, **fields):
    held.token.update({"exit_code": 0, **fields})
    modifiers.end_attempt(modifiers.close(held.token), "done")
    return held


def forbid(client, condition, kind="forbidden"):
    """Let the database refuse tokens, by a validation function."""
    throw = "doc.not.there" if kind == "a broken one" else f"throw({{{kind}: 'no results on Sundays'}})"
    function = f"function(doc) {{ if ({condition}) {{ {throw}; }} }}"
    client.save({"_id": "_design/strict", "validate_doc_update": function})


def file_in(folder):
    (path,) = spooling.files(folder)
    return json.loads(path.read_text()), path


class TestAPartThatIsTooLarge:
    def test_is_left_out_and_the_rest_is_saved_in_its_true_state(self, client, far, held, folder, caplog):
        finish(held, picture=BIG, output={"answer": 42}).token.put_attachment("log", "what it said")
        assert held.save(far) is True
        token = client.get("token_0")
        assert (state_of(token), token["exit_code"], token["output"]) == ("done", 0, {"answer": 42})
        assert [attempt["outcome"] for attempt in token["attempts"]] == ["done"]
        assert token.get_attachment("log", client)["data"] == b"what it said"
        assert "picture" not in token
        assert token.value.keys() == held.token.value.keys()
        (error,) = token["error"]
        assert "picture (4.0 MB)" in error["message"]
        assert "document_too_large" in error["message"]
        assert str(folder / "refused") in error["message"]
        assert held.replaced == ["picture (4.0 MB)"]
        kept, path = file_in(folder / "refused")
        assert (kept["token"]["picture"], kept["left_out"]) == (BIG, ["picture (4.0 MB)"])
        assert "document_too_large" in kept["reason"]
        (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert "token_0 was saved without picture (4.0 MB)" in line
        assert str(path) in line

    def test_may_be_a_value_in_a_field(self, client, far, held):
        assert finish(held, output={"answer": 42, "deep": {"picture": BIG, "size": [2, 3]}}).save(far)
        assert client.get("token_0")["output"] == {"answer": 42, "deep": {"size": [2, 3]}}
        assert "output.deep.picture (4.0 MB)" in client.get("token_0")["error"][0]["message"]

    def test_may_be_a_field_that_had_another_value(self, client, far, held):
        assert finish(held, output=BIG).save(far)
        assert client.get("token_0")["output"] == {"answer": 0}

    def test_may_be_several(self, client, far, held):
        finish(held, **{f"part_{number}": "x" * (900_000 + number) for number in range(8)})
        assert held.save(far)
        token = client.get("token_0")
        assert [name for name in token if name.startswith("part_")] == [f"part_{number}" for number in range(4)]
        assert "part_7 (900.0 kB), part_6 (900.0 kB)" in token["error"][0]["message"]

    def test_may_be_an_object_of_many_values(self, client, far, held):
        finish(held, table={str(number): "x" * 100 for number in range(50_000)}, n=1)
        assert held.save(far)
        assert (client.get("token_0")["n"], "table" in client.get("token_0")) == (1, False)

    def test_may_be_an_attachment(self, client, through, strict, held, folder):
        finish(held, output=BIG[: LARGEST // 2])
        for name, text in (("log", "x"), ("picture", BIG * 2), ("movie", BIG * 3)):
            held.token.put_attachment(name, text)
        assert held.save(through(strict))
        token = client.get("token_0")
        assert (list(token["_attachments"]), token["output"]) == (["log"], held.token["output"])
        assert "picture (8.0 MB), movie (12.0 MB)" in token["error"][0]["message"]
        kept, _ = file_in(folder / "refused")
        assert len(kept["token"]["_attachments"]["movie"]["data"]) == 4 * LARGEST

    def test_may_be_an_attachment_that_there_was_before(self, client, through, strict, held):
        stored = client.get("token_0")
        stored.put_attachment("log", "of the attempt before")
        held = ClaimedToken(client.save(stored))
        finish(held).token.put_attachment("log", BIG * 2)
        assert held.save(through(strict))
        assert client.get("token_0").get_attachment("log", client)["data"] == b"of the attempt before"

    @pytest.mark.parametrize("answer", ["CouchDB", "a proxy in front of it"])
    def test_may_make_the_whole_request_too_large(self, client, through, strict, held, answer):
        finish(held, output="x" * 300_000).token.put_attachment("log", "x" * 1_000_000)
        if answer == "CouchDB":
            strict.largest_request = 500_000
        else:
            strict.fail("PUT", "token_0", Reply(413, b"<html>too large</html>", {"Content-Type": "text/html"}))
        assert held.save(through(strict))
        token = client.get("token_0")
        assert (token["output"], token.get("_attachments", {})) == ("x" * 300_000, {})
        assert "log (1.0 MB)" in token["error"][0]["message"]

    def test_does_not_keep_edits_of_people_from_being_merged(self, client, far, held):
        client.edit("token_0", lambda content: {**content, "comment": "mine", "plan": "B"})
        assert finish(held, picture=BIG).save(far)
        token = client.get("token_0")
        assert (token["comment"], token["plan"], state_of(token)) == ("mine", "B", "done")

    def test_is_kept_in_the_spool_if_the_token_is_taken_meanwhile(self, client, far, held, folder):
        client.save(modifiers.reset(client.get("token_0")))
        next(TaskViewIterator(client, "todo"))
        assert not finish(held, picture=BIG).save(far)
        file_in(folder)
        assert "picture" not in client.get("token_0")

    @pytest.mark.parametrize("slots", [1, 4])
    def test_does_not_hold_up_the_other_tokens_of_a_pilot(self, client, far, push, folder, slots):
        push(12)

        def work(task):
            task["output"] = BIG if task.id == "token_5" else "small"

        Worker(far, work).run(slots=slots)
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 12, "error": 0}
        assert len(spooling.files(folder / "refused")) == 1

    def test_of_a_failure_does_not_keep_it_from_being_retried(self, client, far, push, folder):
        push(1)
        pilot = Worker(far, lambda task: task.update(exit_code=1, picture=BIG))
        pilot.run(max_scrub=1)
        token = client.get("token_0")
        assert (len(pilot.processed), token["scrub_count"], state_of(token)) == (2, 1, "error")
        assert len(spooling.files(folder / "refused")) == 2


def test_a_stub_of_an_attachment_that_is_another_tokens_is_left_out(client, push, held, is_couchdb):
    if not is_couchdb:
        pytest.skip("the embedded server stores such a stub")
    other = client.save({"_id": "other", "_attachments": {"log": {"content_type": "text/plain", "data": "eA=="}}})
    finish(held).token["_attachments"] = dict(client.get(other["_id"])["_attachments"])
    held.token.put_attachment("mine", "x")
    assert held.save(client)
    token = client.get("token_0")
    assert (state_of(token), list(token["_attachments"])) == ("done", ["mine"])
    assert "log (1 bytes)" in token["error"][0]["message"]


class TestAResultThatIsRefusedAsAWhole:
    @pytest.fixture
    def refused(self, location, through, held, folder):
        """A pilot's result that the server has refused; it has accepted the note about that."""
        with FaultProxy(location.url) as proxy:
            proxy.fail("PUT", "token_0", FORBIDDEN)
            assert not finish(held, output={"answer": 42}).save(through(proxy))
        return file_in(folder / "refused")[1]

    def test_goes_aside_with_the_reason_and_its_token_is_in_error(self, client, refused, folder, caplog):
        records = caplog.get_records("setup")
        assert spooling.files(folder) == []
        kept, path = file_in(folder / "refused")
        assert (kept["reason"], kept["token"]["output"]) == ("forbidden: no results on Sundays", {"answer": 42})
        (line,) = [record.message for record in records if record.levelname == "ERROR"]
        assert "no results on Sundays" in line
        assert str(path) in line
        token = client.get("token_0")
        assert (token["lock"], token["done"], token["exit_code"]) == (99, 99, 99)
        assert "no results on Sundays" in token["error"][0]["message"]
        assert str(folder / "refused") in token["error"][0]["message"]
        (attempt,) = token["attempts"]
        assert attempt["outcome"] == "failed"
        assert token["error"][0]["message"].startswith(attempt["reason"].rstrip("…"))
        assert attempt["group"] == group_of(attempt["reason"])

    def test_is_not_mentioned_by_later_pilots(self, client, refused, folder, caplog):
        caplog.clear()
        assert recover_quietly(client, folder) == recover(client, folder) == Recovered()
        Worker(client).run()
        assert "token_0" not in caplog.text
        assert refused.exists()

    def test_stays_locked_if_that_can_not_be_noted_either(self, client, location, through, held, folder, caplog):
        with FaultProxy(location.url) as proxy:
            proxy.fail("PUT", "token_0", FORBIDDEN, times=9)
            assert not finish(held).save(through(proxy))
        assert client.get("token_0")["claim"]["id"] == held.claimed["claim"]["id"]
        assert "stays locked" in caplog.text
        file_in(folder / "refused")

    def test_stays_in_its_folder_if_it_is_refused_again_and_the_reason_is_told(
        self, client, location, through, refused, folder
    ):
        stored, lines = client.get("token_0").value, []
        with FaultProxy(location.url) as proxy:
            proxy.fail("PUT", "token_0", Reply(400, b'{"error":"bad_request","reason":"nor on Mondays"}'))
            recovered = recover(through(proxy), folder / "refused", tell=lines.append)
        assert recovered == Recovered(refused=[refused])
        (line,) = lines
        assert "nor on Mondays" in line
        assert str(refused) in line
        assert "nor on Mondays" in json.loads(refused.read_text())["reason"]
        assert client.get("token_0").value == stored

    def test_is_saved_once_the_server_accepts_it_and_the_note_is_removed(self, client, refused, folder):
        client.edit("token_0", lambda content: {**content, "comment": "mine"})
        assert recover(client, folder / "refused") == Recovered(saved=["token_0"])
        token = client.get("token_0")
        assert (state_of(token), token["output"], token["comment"]) == ("done", {"answer": 42}, "mine")
        assert token["lock"] != modifiers.ERROR_MARK
        assert [attempt["outcome"] for attempt in token["attempts"]] == ["done"]
        assert token["error"] == []
        assert not refused.exists()

    def test_goes_to_those_that_are_not_ours_if_the_token_was_put_back(self, client, refused, folder):
        reset_tokens(client, "error")
        stored = client.get("token_0").value
        assert recover(client, folder / "refused").kept_aside == [folder / "not-ours" / refused.name]
        assert client.get("token_0").value == stored

    def test_is_not_taken_as_saved_because_of_a_note_in_the_same_second(self, client, refused, folder):
        """A failed result and the note of its rejection may have identical attempts."""
        content = json.loads(refused.read_text())
        content["token"]["attempts"] = client.get("token_0")["attempts"]
        refused.write_text(json.dumps(content))
        assert recover(client, folder / "refused").saved == ["token_0"]
        assert client.get("token_0")["output"] == {"answer": 42}

    @pytest.mark.parametrize("kind", ["forbidden", "unauthorized", "a broken one"])
    def test_by_a_validation_function(self, client, held, folder, is_couchdb, kind):
        if not is_couchdb:
            pytest.skip("the embedded server has no validation functions")
        forbid(client, "doc.output && doc.output.answer == 42", kind)
        began = time.monotonic()
        assert not finish(held, output={"answer": 42}).save(client)  # an outage would be waited out, for an hour
        assert time.monotonic() - began < 10
        assert state_of(client.get("token_0")) == "error"
        words = "TypeError" if kind == "a broken one" else "no results on Sundays"
        assert words in file_in(folder / "refused")[0]["reason"]
        assert recover(client, folder / "refused").refused
        client.delete(client.get("_design/strict"))
        assert recover(client, folder / "refused").saved == ["token_0"]
        assert state_of(client.get("token_0")) == "done"

    def test_is_kept_where_it_is_if_it_can_not_be_moved(self, client, location, through, held, folder, caplog):
        folder.mkdir()
        (folder / "refused").write_text("a file where the folder should be")
        with FaultProxy(location.url) as proxy:
            proxy.fail("PUT", "token_0", FORBIDDEN)
            assert not finish(held).save(through(proxy))
        file_in(folder)
        assert "stays where it is" in caplog.text


class TestASpooledResultThatIsRefused:
    """The database was away at first, or an earlier release has left the file."""

    @pytest.fixture(autouse=True)
    def spooled(self, quick, client, held):
        finish(held, output={"answer": 42}, picture=BIG)
        spooling.keep(held.token, held.claimed, "the network", database=client.db.name, server=client.url)

    def test_is_saved_without_the_part_that_is_to_blame_and_told_once(self, client, far, folder, caplog):
        recovered = recover_quietly(far, folder)
        token = client.get("token_0")
        assert (state_of(token), token["output"], "picture" in token) == ("done", {"answer": 42}, False)
        assert str(folder / "refused") in token["error"][0]["message"]
        _, path = file_in(folder / "refused")
        assert recovered == Recovered(refused=[path])
        assert caplog.text.count("was saved without picture (4.0 MB)") == 1
        assert recover_quietly(far, folder) == Recovered()

    def test_is_marked_in_its_token_if_it_is_refused_as_a_whole(self, client, location, through, folder, caplog):
        with FaultProxy(location.url) as proxy:
            proxy.fail("PUT", "token_0", FORBIDDEN)
            assert len(recover_quietly(through(proxy), folder).refused) == 1
        token = client.get("token_0")
        assert (state_of(token), token["attempts"][-1]["outcome"]) == ("error", "failed")
        assert "no results on Sundays" in token["error"][0]["message"]
        assert caplog.text.count("no results on Sundays") == 1
        assert recover(client, folder / "refused").saved == ["token_0"]

    def test_does_not_end_a_token_that_was_put_back(self, client, location, through, folder):
        client.save(modifiers.lose(client.get("token_0"), max_lost=3))
        with FaultProxy(location.url) as proxy:
            proxy.fail("PUT", "token_0", FORBIDDEN)
            assert len(recover(through(proxy), folder).refused) == 1
        assert state_of(client.get("token_0")) == "todo"

    def test_is_left_alone_if_everything_is_refused(self, client, location, through, folder):
        """For example, the password was changed."""
        with FaultProxy(location.url) as proxy:
            far = through(proxy)
            for method in ("GET", "PUT"):
                proxy.fail(method, client.db.name, Reply(401, b'{"error":"unauthorized","reason":"no"}'), times=9)
            with pytest.raises(Unauthorized):
                recover(far, folder)
        file_in(folder)


class TestTheRestOfAResult:
    """Its large part was left out, and is in a file."""

    @pytest.fixture(autouse=True)
    def left_out(self, quick, far, held, folder):
        finish(held, output={"answer": 42}, picture=BIG)
        assert held.save(far)
        self.path = file_in(folder / "refused")[1]

    def test_is_saved_once_the_server_accepts_it_and_the_note_is_removed(self, client, limits, folder):
        client.edit("token_0", lambda content: {**content, "comment": "mine"})
        limits.lift()
        assert recover(client, folder / "refused") == Recovered(saved=["token_0"])
        token = client.get("token_0")
        assert (token["picture"], token["output"], token["comment"]) == (BIG, {"answer": 42}, "mine")
        assert (state_of(token), token["error"], len(token["attempts"])) == ("done", [], 1)
        assert not self.path.exists()

    def test_stays_in_its_file_if_it_is_refused_again(self, client, far, folder):
        stored, lines = client.get("token_0").value, []
        assert recover(far, folder / "refused", tell=lines.append).refused == [self.path]
        assert client.get("token_0").value == stored
        (line,) = lines
        assert "The rest of the result of token token_0 was not recovered: 413" in line

    def test_is_not_taken_as_saved_if_its_file_could_not_be_moved(self, client, far, limits, folder):
        """Or the pilot was killed before that."""
        content = json.loads(self.path.read_text())
        self.path.unlink()
        (folder / self.path.name).write_text(json.dumps({**content, "left_out": []}))
        assert recover(far, folder).refused == [self.path]
        assert json.loads(self.path.read_text())["left_out"] == ["picture (4.0 MB)"]
        assert len(client.get("token_0")["error"]) == 1
        limits.lift()
        assert recover(client, folder / "refused").saved == ["token_0"]
        assert (client.get("token_0")["picture"], client.get("token_0")["error"]) == (BIG, [])

    def test_stays_in_a_file_if_the_token_has_had_another_attempt(self, client, limits, folder):
        limits.lift()
        client.save(modifiers.reset(client.get("token_0")))
        next(TaskViewIterator(client, "todo"))
        stored = client.get("token_0").value
        assert recover(client, folder / "refused").kept_aside == [folder / "not-ours" / self.path.name]
        assert client.get("token_0").value == stored
