"""The result of a token is saved, merged with other people's edits, or kept in a file, and never lost."""

import datetime
import json
import math
import stat
from pathlib import Path

import numpy
import pytest
from couchdb.http import ResourceConflict
from support.faults import CUT, FaultProxy
from support.tokens import make_token

from picas import CouchDB, Task, TaskViewIterator, modifiers
from picas.couch import outages
from picas.pool import results, spool
from picas.pool.results import ClaimedToken
from picas.tokens.states import state_of


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PICAS_SPOOL", raising=False)
    monkeypatch.setattr(outages, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr("picas.couch.writes.REPEAT_PAUSES", (0.0,))


@pytest.fixture
def held(client, push):
    push(1, plan="A")
    return ClaimedToken(next(TaskViewIterator(client, "todo")))


def finish(held, **fields):
    held.token.update({"exit_code": 0, "output": {"answer": 42}, **fields})
    modifiers.end_attempt(modifiers.close(held.token), "done")
    return held


def edit(client, **fields):
    """Let a person change the token in the database."""
    stored = client.get("token_0")
    stored.update(fields)
    return client.save(stored)


def spooled(folder=None):
    return sorted((folder or Path("picas-spool")).glob("*"))


class TestSaving:
    def test_a_result_is_saved(self, client, held):
        assert held.is_saved is False
        assert finish(held).save(client) is True
        assert held.is_saved is True
        stored = client.get("token_0")
        assert stored["output"] == {"answer": 42}
        assert stored.rev == held.token.rev
        assert spooled() == []

    def test_a_result_is_saved_to_its_token_even_if_the_code_changed_the_id(self, client, held):
        finish(held, _id="another")
        assert held.save(client)
        assert client.get("token_0")["exit_code"] == 0
        assert client.doc_count() == 2  # the token and the views

    def test_a_revision_that_the_code_removed_is_restored(self, client, held):
        del finish(held).token["_rev"]
        assert held.save(client)
        assert client.get("token_0")["output"] == {"answer": 42}


class TestMerging:
    def test_edits_by_a_person_stay(self, client, held):
        edit(client, comment="mine", plan="B")
        assert finish(held).save(client)
        stored = client.get("token_0")
        assert (stored["comment"], stored["plan"], stored["exit_code"]) == ("mine", "B", 0)

    def test_the_result_overrides_an_edit_of_the_same_field(self, client, held):
        edit(client, output="a person's")
        assert finish(held).save(client)
        assert client.get("token_0")["output"] == {"answer": 42}

    def test_a_field_that_the_code_removed_is_removed(self, client, held):
        del finish(held).token["plan"]
        edit(client, comment="mine")
        assert held.save(client)
        assert "plan" not in client.get("token_0")

    def test_attachments_of_both_stay(self, client, held):
        theirs = client.get("token_0")
        theirs.put_attachment("theirs.txt", "a person's")
        client.save(theirs)
        finish(held).token.put_attachment("logs_token_0.out", "ours")
        assert held.save(client)
        stored = client.get("token_0")
        assert stored.get_attachment("theirs.txt", client)["data"] == b"a person's"
        assert stored.get_attachment("logs_token_0.out", client)["data"] == b"ours"

    def test_several_successive_edits_are_merged(self, client, held, monkeypatch):
        rival, save, edits = client.copy(), client.save, []

        def save_after_edit(doc):
            if len(edits) < results.MERGES:
                edits.append(1)
                edit(rival, comment=len(edits), **{f"edit_{len(edits)}": True})
            return save(doc)

        monkeypatch.setattr(client, "save", save_after_edit)
        assert finish(held).save(client)
        stored = client.get("token_0")
        assert stored["comment"] == results.MERGES  # the newest edit
        assert all(stored[f"edit_{number}"] for number in range(1, results.MERGES + 1))
        assert stored["exit_code"] == 0

    def test_a_result_is_spooled_if_edits_never_stop(self, client, held, monkeypatch):
        rival, save = client.copy(), client.save
        monkeypatch.setattr(client, "save", lambda doc: edit(rival, comment="again") and save(doc))
        assert finish(held).save(client) is False
        assert len(spooled()) == 1


class TestLostLock:
    """Rule 1: a save by a pilot that no longer owns the token never overwrites the owner's."""

    @staticmethod
    def assert_kept_aside(client, held, theirs):
        assert finish(held).save(client) is False
        assert held.is_saved is False
        assert client.get("token_0").value == theirs.value
        (file,) = spooled()
        kept = json.loads(file.read_text())
        assert kept["token"]["output"] == {"answer": 42}
        return kept

    def test_another_pilot_has_taken_the_token(self, client, held, caplog):
        client.save(modifiers.reset(client.get("token_0")))
        theirs = next(TaskViewIterator(client, "todo"))
        kept = self.assert_kept_aside(client, held, theirs)
        assert "has taken the token" in kept["reason"]
        (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "token_0" in line.message
        assert "picas-spool" in line.message

    def test_another_pilot_has_finished_it(self, client, held):
        client.save(modifiers.reset(client.get("token_0")))
        theirs = ClaimedToken(next(TaskViewIterator(client, "todo")))
        assert finish(theirs, output="theirs").save(client)
        self.assert_kept_aside(client, held, theirs.token)

    def test_a_person_has_put_it_back(self, client, held):
        theirs = client.save(modifiers.reset(client.get("token_0")))
        self.assert_kept_aside(client, held, theirs)

    def test_an_older_client_has_locked_it_again(self, client, held):
        """Older clients keep the claim, but change the time and the host."""
        theirs = edit(client, lock=held.claimed["lock"] + 5, hostname="elsewhere")
        self.assert_kept_aside(client, held, theirs)

    def test_it_was_deleted(self, client, held):
        client.delete(client.get("token_0"))
        assert finish(held).save(client) is False
        with pytest.raises(ValueError, match="token_0"):
            client.get("token_0")
        assert "deleted" in json.loads(spooled()[0].read_text())["reason"]

    def test_a_mere_change_of_state_needs_no_file(self, client, held, caplog):
        client.delete(client.get("token_0"))
        assert finish(held).save(client, is_result=False) is False
        assert spooled() == []
        assert "was not saved" in caplog.text


class TestUnstorable:
    def test_values_that_json_can_not_hold_are_replaced_and_the_token_and_the_log_say_so(self, client, held, caplog):
        finish(held, output={"n": numpy.int64(3), "raw": b"\xff"}, ratio=math.nan, many={1})
        assert held.save(client)
        stored = client.get("token_0")
        assert stored["output"] == {"n": 3, "raw": "b'\\xff'"}
        assert (stored["ratio"], stored["many"], stored["exit_code"]) == (None, [1], 0)
        (error,) = stored["error"]
        assert all(name in error["message"] for name in ("output.raw", "ratio"))
        assert not any(name in error["message"] for name in ("output.n", "many"))
        assert held.replaced == ["output.raw", "ratio"]
        (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert "token_0" in warning
        assert "output.raw, ratio" in warning

    @pytest.mark.parametrize("way", ["item", "property", "add_output", "update"])
    def test_values_that_json_has_something_for_are_converted_without_notice(self, client, held, way, caplog):
        """As `token["output"] = {"n": numpy.int64(3), "mean": 2.5}` in the tutorial of many a package."""
        output = {"n": numpy.int64(3), "mean": 2.5, "all": numpy.arange(3), "when": datetime.date(2024, 2, 29)}
        if way == "item":
            held.token["output"] = output
        elif way == "property":
            Task(held.token).output = output
        elif way == "add_output":
            modifiers.BasicTokenModifier().add_output(held.token, {"output": output})
        else:
            held.token.update({"output": output})
        held.token["exit_code"] = numpy.int64(0)
        assert state_of(modifiers.end_attempt(modifiers.close(held.token), "done")) == "done"
        assert held.save(client)
        stored = client.get("token_0")
        assert stored["output"] == {"n": 3, "mean": 2.5, "all": [0, 1, 2], "when": "2024-02-29"}
        assert (stored["exit_code"], stored["attempts"][0]["exit_code"], stored["error"]) == (0, 0, [])
        assert (held.replaced, caplog.text) == ([], "")

    def test_a_value_that_contains_itself(self, client, held):
        circle = []
        circle.append(circle)
        assert finish(held, output=circle).save(client)
        assert client.get("token_0")["output"] == ["[[...]]"]

    def test_a_value_that_can_not_be_described(self, client, held):
        class Broken:
            def __repr__(self):
                raise RuntimeError("no words")

        assert finish(held, output=Broken()).save(client)
        assert client.get("token_0")["output"] == "<Broken: RuntimeError>"

    def test_names_that_json_or_couchdb_can_not_hold(self, client, held):
        finish(held, _secret=1, _revisions={"start": 1}).token[("a", "pair")] = 2
        assert held.save(client)
        stored = client.get("token_0")
        assert (stored["secret"], stored["('a', 'pair')"], stored["output"]) == (1, 2, {"answer": 42})


class TestOutage:
    def test_is_waited_out(self, gate, far, client, held):
        gate.close()
        asked = []

        def is_stopped():
            asked.append(1)
            if len(asked) == 3:
                gate.open()
            return False

        assert finish(held).save(far, is_stopped=is_stopped) is True
        assert client.get("token_0")["exit_code"] == 0
        assert spooled() == []

    def test_a_result_is_spooled_with_one_line_if_it_lasts(self, gate, far, held, caplog, tmp_path):
        gate.close()
        assert finish(held).save(far, max_outage=0.2, spool_folder=tmp_path / "kept") is False
        gate.open()
        (file,) = spooled(tmp_path / "kept")
        assert json.loads(file.read_text())["token"]["exit_code"] == 0
        (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert str(file) in line
        assert "secret" not in caplog.text

    def test_a_stopped_pilot_does_not_wait(self, gate, far, held):
        gate.close()
        assert finish(held).save(far, is_stopped=lambda: True) is False
        gate.open()
        assert len(spooled()) == 1

    def test_a_save_whose_response_was_lost_counts_as_saved(self, client, held, location):
        with FaultProxy(location.url) as proxy:
            far = CouchDB(proxy.url, client.db.name, location.username, location.password)
            proxy.fail("PUT", "token_0", CUT, after=True)
            assert finish(held).save(far) is True
        assert client.get("token_0").rev == held.token.rev
        assert spooled() == []

    def test_a_save_right_before_an_outage_is_recognised_later(self, gate, client, held, location):
        """The outcome is looked up when the server is back: the conflict is with the pilot's own write."""
        with FaultProxy(gate.url) as proxy:
            far = CouchDB(proxy.url, client.db.name, location.username, location.password)
            far.server.resource.session.retry_pauses = ()
            proxy.fail("PUT", "token_0", CUT, after=True)
            proxy.fail("GET", "token_0", CUT, times=3)
            assert finish(held).save(far) is True
        stored = client.get("token_0")
        assert stored["exit_code"] == 0
        assert stored.rev == held.token.rev
        assert len(stored["attempts"]) == 1
        assert spooled() == []


class TestSpool:
    token = Task({"_id": "token/7 \u00e9", "_rev": "2-b", "lock": 5, "claim": {"id": "c1"}, "exit_code": 0})

    def test_a_file_has_the_complete_document(self):
        claimed = make_token(7, claim={"id": "c1"})
        self.token.put_attachment("log", b"\xff\x00")
        path = spool.keep(self.token, claimed, "the network")
        kept = json.loads(path.read_text())
        assert (kept["reason"], kept["claimed"]) == ("the network", claimed)
        assert Task(kept["token"]).get_attachment("log")["data"] == b"\xff\x00"
        assert kept["time"] > 1_600_000_000

    def test_only_its_owner_can_read_it(self):
        path = spool.keep(self.token, {}, "x")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_is_below_the_working_directory(self, tmp_path):
        assert spool.keep(self.token, {}, "x").parent == tmp_path / "picas-spool"

    def test_is_in_the_folder_that_the_environment_names(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PICAS_SPOOL", str(tmp_path / "a" / "b"))
        assert spool.default_folder() == tmp_path / "a" / "b"
        assert spool.keep(self.token, {}, "x").parent == tmp_path / "a" / "b"

    def test_the_reported_path_is_absolute_even_for_a_relative_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PICAS_SPOOL", "here")
        assert spool.default_folder() == tmp_path / "here"

    def test_its_name_is_safe_and_has_the_token_s_id(self):
        path = spool.keep(self.token, {"claim": {"id": "c1"}}, "x")
        assert path.name == "token_7__-c1.json"
        long = spool.keep(Task({"_id": "x" * 1000}), {"claim": {"id": "c1"}}, "x")
        assert len(long.name) < 200

    def test_two_attempts_at_one_token_have_two_files(self):
        first = spool.keep(self.token, {"claim": {"id": "c1"}}, "x")
        second = spool.keep(self.token, {"claim": {"id": "c2"}}, "x")
        assert first != second
        assert len(spooled()) == 2  # and no partial file

    def test_an_unwritable_folder_is_replaced_by_a_temporary_one(self, tmp_path, monkeypatch):
        monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))
        (tmp_path / "picas-spool").write_text("a file where the folder should be")
        path = spool.keep(self.token, {}, "x")
        assert path.parent.parent == tmp_path
        assert json.loads(path.read_text())["token"]["_id"] == self.token.id

    def test_a_result_that_cannot_be_written_anywhere_is_reported_and_not_raised(
        self, client, held, tmp_path, monkeypatch, caplog
    ):
        monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path / "absent"))
        (tmp_path / "picas-spool").write_text("a file where the folder should be")
        client.delete(client.get("token_0"))
        assert finish(held).save(client) is False
        assert "LOST: the result of token token_0" in caplog.text


def test_the_server_reports_a_conflict(client, held):
    """Guards the tests above: after an edit, a plain save fails."""
    edit(client, comment="mine")
    with pytest.raises(ResourceConflict):
        client.save(held.token)
