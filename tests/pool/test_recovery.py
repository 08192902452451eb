"""Spooled results are saved to the database, once, and only while the pilot still owns their tokens."""

import json
import logging
import multiprocessing
import os
import socket
import threading

import pytest
from couchdb.http import Unauthorized
from support.faults import CUT, FaultProxy, Reply
from support.tokens import make_token
from support.workers import Worker

from picas import CouchDB, TaskViewIterator, modifiers
from picas.exceptions import PicasError
from picas.pool import recovery, reset_tokens, spool
from picas.pool.recovery import Recovered, recover, recover_quietly
from picas.pool.results import MERGES, ClaimedToken
from picas.tokens.states import state_of
from picas.views import count_states

AWAY = Reply(503, b'{"error":"unavailable","reason":"a bad hour"}')

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def keep(client, push):
    """Let a pilot process tokens and spool the results, as if the database were unreachable."""

    def keep(count=1, **fields):
        push(count, plan="A")
        return [keep_one(client, number, **fields) for number in range(count)]

    return keep


def keep_one(client, number=0, **fields):
    """Let a pilot lock and finish a token and spool the result, and return the token."""
    held = ClaimedToken(client.save(modifiers.lock(client.get(f"token_{number}"), "a pilot")))
    held.token.update({"exit_code": 0, "output": {"answer": 42}, **fields})
    held.token.put_attachment("logs.out", "what it said")
    modifiers.end_attempt(modifiers.close(held.token), "done")
    spool.keep(held.token, held.claimed, "the network", database=client.db.name, server=client.url)
    return held


def edit(client, **fields):
    client.edit("token_0", lambda content: {**content, **fields})


def log_of(client, number=0):
    return client.get(f"token_{number}").get_attachment("logs.out", client)["data"]


def generation(client, number=0):
    return int(client.get(f"token_{number}").rev.partition("-")[0])


class Lines(list):
    """Records the lines that are reported."""

    def __call__(self, line):
        self.append(line)


class TestAPilotWhoseDatabaseStaysUnreachable:
    @pytest.fixture(autouse=True)
    def spooled(self, quick, far, gate, client, push, spool):
        push(2)

        def work(task):
            task["output"] = {"answer": 42}
            task.put_attachment("logs.out", "what it said")
            gate.close()

        with pytest.raises(PicasError):
            Worker(far, work, max_outage=0.1).run()
        gate.open()
        (self.file,) = spool()
        assert state_of(client.get("token_0")) == "locked"

    def test_its_result_is_recovered_later_with_its_logs_and_the_file_is_deleted(self, client, spool, caplog):
        caplog.set_level(logging.INFO)
        assert recover(client) == Recovered(saved=["token_0"])
        token = client.get("token_0")
        assert (token["output"], state_of(token), token["attempts"][-1]["outcome"]) == ({"answer": 42}, "done", "done")
        assert "claim" not in token
        assert log_of(client) == b"what it said"
        assert spool() == []
        assert f"token_0 was recovered from {self.file}" in caplog.text

    def test_the_next_pilot_that_starts_there_recovers_it(self, client, spool):
        pilot = Worker(client)
        pilot.run()
        assert pilot.processed == ["token_1"]
        assert client.get("token_0")["output"] == {"answer": 42}
        assert count_states(client)["done"] == 2
        assert spool() == []

    def test_a_second_recovery_does_nothing(self, client):
        recover(client)
        rev = client.get("token_0").rev
        assert recover(client) == Recovered()
        assert client.get("token_0").rev == rev

    def test_the_file_names_its_database_and_has_no_secret(self, client, gate, location):
        kept = spool.read(self.file)
        assert (kept.id, kept.database, kept.server) == ("token_0", client.db.name, gate.url)
        assert location.password not in self.file.read_text()


def test_a_token_that_a_stopped_pilot_could_not_put_back_is_put_back(client, push, folder):
    push(1)
    held = ClaimedToken(next(TaskViewIterator(client, "todo")))
    modifiers.end_attempt(held.token, "stopped")
    modifiers.reset(held.token)
    spool.keep(held.token, held.claimed, "the network")
    assert recover(client).saved == ["token_0"]
    token = client.get("token_0")
    assert (state_of(token), token["attempts"][-1]["outcome"]) == ("todo", "stopped")


def test_all_results_in_a_folder_are_recovered(client, keep, folder):
    keep(3)
    assert recover(client, folder).saved == ["token_0", "token_1", "token_2"]
    assert count_states(client)["done"] == 3


def test_a_missing_or_empty_folder_costs_no_request(location, through, tmp_path):
    (tmp_path / "empty").mkdir()
    with FaultProxy(location.url) as proxy:
        far = through(proxy)
        for name in ("absent", "empty"):
            assert recover(far, tmp_path / name) == recover_quietly(far, tmp_path / name) == Recovered()
        assert proxy.requests == []
    assert not (tmp_path / "absent").exists()


class TestMerging:
    def test_edits_by_people_stay(self, client, keep):
        keep()
        edit(client, comment="mine", plan="B")
        assert recover(client).is_complete
        token = client.get("token_0")
        assert (token["comment"], token["plan"], token["output"]) == ("mine", "B", {"answer": 42})
        assert (state_of(token), log_of(client)) == ("done", b"what it said")

    def test_attachments_of_others_stay(self, client, keep):
        keep()
        theirs = client.get("token_0")
        theirs.put_attachment("theirs.txt", "a person's")
        client.save(theirs)
        assert recover(client).is_complete
        assert client.get("token_0").get_attachment("theirs.txt", client)["data"] == b"a person's"
        assert log_of(client) == b"what it said"

    def test_a_field_that_the_code_removed_is_removed(self, client, push):
        push(1, plan="A")
        held = ClaimedToken(next(TaskViewIterator(client, "todo")))
        del held.token["plan"]
        spool.keep(modifiers.end_attempt(modifiers.close(held.token), "done"), held.claimed, "the network")
        edit(client, comment="mine")
        assert recover(client).is_complete
        assert "plan" not in client.get("token_0")

    def test_a_token_that_keeps_changing_is_left_for_the_next_recovery(self, client, keep, spool, monkeypatch, caplog):
        keep()
        rival, save = client.copy(), client.save
        monkeypatch.setattr(client, "save", lambda doc: edit(rival, number=os.urandom(4).hex()) or save(doc))
        assert len(recover(client).left) == 1
        assert "again and again" in caplog.text
        monkeypatch.undo()
        assert state_of(client.get("token_0")) == "locked"


class TestATokenOfSomebodyElse:
    """Rule 1: a save by a pilot that no longer owns the token never overwrites the owner's."""

    @staticmethod
    def assert_kept_aside(client, folder, reason):
        stored = client.db.get("token_0")
        lines = Lines()
        recovered = recover(client, folder, tell=lines)
        (file,) = recovered.kept_aside
        assert file.parent == folder / "not-ours"
        assert json.loads(file.read_text())["token"]["output"] == {"answer": 42}
        assert client.db.get("token_0") == stored
        (line,) = lines
        assert "token_0" in line
        assert reason in line
        assert str(file) in line
        assert not recovered.is_complete
        assert recover(client, folder) == Recovered()

    def test_another_pilot_has_locked_it(self, client, keep, folder):
        keep()
        client.save(modifiers.reset(client.get("token_0")))
        next(TaskViewIterator(client, "todo"))
        self.assert_kept_aside(client, folder, "another pilot or a person has taken the token")

    def test_another_pilot_has_finished_it(self, client, keep, folder):
        keep()
        client.save(modifiers.reset(client.get("token_0")))
        Worker(client, lambda task: task.update(output="theirs"), spool_folder=folder.parent / "theirs").run()
        self.assert_kept_aside(client, folder, "another pilot or a person has taken the token")

    def test_a_person_has_put_it_back(self, client, keep, folder):
        keep()
        reset_tokens(client, "locked")
        self.assert_kept_aside(client, folder, "another pilot or a person has taken the token")

    def test_it_was_deleted(self, client, keep, folder):
        keep()
        client.delete(client.get("token_0"))
        self.assert_kept_aside(client, folder, "deleted")

    def test_it_was_deleted_between_the_look_up_and_the_save(self, client, keep, folder, monkeypatch):
        """It is not created again, even if the user's code has removed the token's revision."""
        keep()
        (file,) = spool.files(folder)
        content = json.loads(file.read_text())
        del content["token"]["_rev"]
        file.write_text(json.dumps(content))
        find = recovery._find

        def find_and_delete(client, id):
            stored = find(client, id)
            client.delete(stored)
            return stored

        monkeypatch.setattr(recovery, "_find", find_and_delete)
        assert len(recover(client, folder).kept_aside) == 1
        assert client.db.get("token_0") is None

    def test_two_results_with_the_same_name_are_both_kept(self, client, keep, folder):
        keep()
        client.delete(client.get("token_0"))
        (file,) = spool.files(folder)
        (folder / "not-ours").mkdir()
        (folder / "not-ours" / file.name).write_text("another")
        recover(client, folder)
        assert len(spool.files(folder / "not-ours")) == 2
        assert (folder / "not-ours" / file.name).read_text() == "another"

    def test_results_kept_aside_stay_there_if_that_folder_is_recovered(self, client, keep, folder):
        keep()
        client.delete(client.get("token_0"))
        (file,) = recover(client, folder).kept_aside
        assert recover(client, folder / "not-ours").kept_aside == [file]
        assert file.exists()


class TestAResultForAnotherServer:
    """Its database has the same name, and tokens with the same ids."""

    @pytest.fixture(autouse=True)
    def moved(self, quick, keep, folder):
        keep()
        (self.file,) = spool.files(folder)
        content = json.loads(self.file.read_text())
        self.file.write_text(json.dumps({**content, "server": "https://other.example.org"}))

    @pytest.mark.parametrize("state", ["locked by another", "free", "absent"])
    def test_is_left_where_it_is(self, client, folder, state):
        client.delete(client.get("token_0"))
        if state != "absent":
            client.save(make_token(0))
        if state == "locked by another":
            next(TaskViewIterator(client, "todo"))
        lines = Lines()
        assert recover(client, folder, tell=lines) == Recovered(left=[self.file])
        assert self.file.exists()
        assert not (folder / "not-ours").exists()
        (line,) = lines
        assert "https://other.example.org" in line

    def test_is_saved_if_that_is_only_another_address_of_this_one(self, client, folder):
        """The claim of the token says so."""
        assert recover(client, folder).saved == ["token_0"]


class TestATokenThatWasPutBackBecauseItsPilotSeemedDead:
    """Its pilot could not reach the database. No pilot has the token now, so its result may still be saved."""

    @staticmethod
    def lose(client, number=0):
        client.save(modifiers.lose(client.get(f"token_{number}"), max_lost=3))

    def test_gets_the_result_if_nobody_has_taken_it_since(self, client, keep, folder):
        keep()
        self.lose(client)
        edit(client, plan="B")
        assert recover(client, folder) == Recovered(saved=["token_0"])
        token = client.get("token_0")
        assert (state_of(token), token["output"], token["plan"]) == ("done", {"answer": 42}, "B")
        assert [attempt["outcome"] for attempt in token["attempts"]] == ["done"]
        assert "lost_count" not in token
        assert log_of(client) == b"what it said"

    def test_counts_the_losses_before_that(self, client, push, folder):
        push(1, lost_count=2)
        keep_one(client)
        self.lose(client)
        recover(client, folder)
        assert client.get("token_0")["lost_count"] == 2

    def test_does_not_get_the_result_if_another_pilot_has_taken_it(self, client, keep, folder):
        keep()
        self.lose(client)
        next(TaskViewIterator(client, "todo"))
        TestATokenOfSomebodyElse.assert_kept_aside(client, folder, "another pilot or a person has taken the token")

    def test_does_not_get_the_result_if_another_pilot_has_lost_it_too(self, client, keep, folder):
        keep()
        self.lose(client)
        next(TaskViewIterator(client, "todo"))
        self.lose(client)
        TestATokenOfSomebodyElse.assert_kept_aside(client, folder, "another pilot or a person has taken the token")

    @pytest.mark.parametrize("outcome", ["lost", "stopped"])
    def test_does_not_get_an_incomplete_result(self, client, push, folder, outcome):
        push(1)
        held = ClaimedToken(client.save(modifiers.lock(client.get("token_0"), "a pilot")))
        held.token["output"] = {"answer": 42}
        modifiers.end_attempt(modifiers.set_error(held.token, "half a result"), outcome)
        spool.keep(held.token, held.claimed, "the network", database=client.db.name)
        self.lose(client)
        TestATokenOfSomebodyElse.assert_kept_aside(client, folder, "another pilot or a person has taken the token")


class TestAResultThatIsAlreadySaved:
    """An earlier save succeeded but its response was lost, or a recovery died right after the save."""

    def test_is_not_saved_again(self, client, keep, spool):
        (held,) = keep()
        held.save(client)
        rev = client.get("token_0").rev
        assert recover(client).saved == ["token_0"]
        assert client.get("token_0").rev == rev
        assert spool() == []

    def test_is_recognised_even_if_the_token_has_changed_since(self, client, keep, spool):
        (held,) = keep()
        held.save(client)
        edit(client, output="a person's")
        client.save(modifiers.scrub(client.get("token_0")))
        theirs = next(TaskViewIterator(client, "todo"))
        assert recover(client).saved == ["token_0"]
        assert client.get("token_0").value == theirs.value
        assert spool() == []

    def test_a_reset_by_a_person_is_not_such_a_result(self, client, push, folder):
        """Both attempts are recorded as stopped, but only the file has the pilot's output up to then."""
        push(1)
        held = ClaimedToken(next(TaskViewIterator(client, "todo")))
        reset_tokens(client, "locked")
        held.token["output"] = "half of it"
        modifiers.end_attempt(held.token, "stopped")
        held.token["attempts"][-1]["end"] += 5
        spool.keep(modifiers.reset(held.token), held.claimed, "the network")
        assert len(recover(client, folder).kept_aside) == 1


class TestLostResponses:
    def test_a_save_whose_response_was_lost_is_looked_up_and_done_once(self, client, keep, location, through, spool):
        keep()
        before = generation(client)
        with FaultProxy(location.url) as proxy:
            far = through(proxy)
            proxy.fail("PUT", "token_0", CUT, after=True)
            assert recover(far).saved == ["token_0"]
            assert proxy.count("PUT") == 1
        assert generation(client) == before + 1
        assert len(client.get("token_0")["attempts"]) == 1
        assert spool() == []

    def test_an_unknown_outcome_is_looked_up_by_the_next_recovery(self, client, keep, location, through, gate, spool):
        keep()
        before = generation(client)
        with FaultProxy(gate.url) as proxy:
            far = through(proxy, ())
            proxy.fail("PUT", "token_0", CUT, after=True, meanwhile=gate.close)
            with pytest.raises(PicasError):
                recover(far)
        gate.open()
        assert len(spool()) == 1
        assert recover(client).saved == ["token_0"]
        assert generation(client) == before + 1


class TestAnUnreachableDatabase:
    def test_ends_the_recovery_and_leaves_all_files_untouched(self, client, far, gate, keep, spool, caplog):
        keep(3)
        (spool()[0].parent / "a.json").write_text("{")
        kept = spool()
        gate.close()
        for recover_somehow in (recover, recover_quietly):
            with pytest.raises(PicasError):
                recover_somehow(far)
        assert spool() == kept
        assert "not recovered" not in caplog.text
        gate.open()
        assert recover(far).saved == ["token_0", "token_1", "token_2"]

    def test_ends_the_recovery_after_some_of_the_results(self, client, keep, location, through, gate, spool):
        keep(3)
        with FaultProxy(gate.url) as proxy:
            far = through(proxy, ())
            proxy.fail("PUT", "token_1", CUT, meanwhile=gate.close)
            with pytest.raises(PicasError):
                recover(far)
        gate.open()
        assert count_states(client) == {"todo": 0, "locked": 2, "done": 1, "error": 0}
        assert [path.name[:7] for path in spool()] == ["token_1", "token_2"]

    def test_a_wrong_password_changes_nothing(self, client, keep, location, through, spool):
        keep(2)
        kept = spool()
        with FaultProxy(location.url) as proxy:
            far = through(proxy)
            for method in ("GET", "PUT"):
                proxy.fail(method, client.db.name, Reply(401, b'{"error":"unauthorized","reason":"no"}'), times=9)
            with pytest.raises(Unauthorized):
                recover(far)
        assert spool() == kept

    def test_a_foreign_server_that_answers_not_found_deletes_no_token(self, client, keep, location, through, spool):
        """For example, a server in front of a database that is under maintenance."""
        keep()
        kept = spool()
        with FaultProxy(location.url) as proxy:
            far = through(proxy)
            proxy.fail("GET", "token_0", Reply(404, b"<html>back soon</html>", {"Content-Type": "text/html"}), times=9)
            assert len(recover(far).left) == 1
        assert spool() == kept

    def test_a_result_that_never_arrives_does_not_hold_up_the_others(
        self, client, keep, location, through, spool, caplog
    ):
        keep(2)
        with FaultProxy(location.url) as proxy:
            far = through(proxy)
            proxy.fail("PUT", "token_0", AWAY, times=100)
            recovered = recover(far)
        assert (recovered.saved, [path.name[:7] for path in recovered.left]) == (["token_1"], ["token_0"])
        assert "a bad hour" in caplog.text


class TestTwoSimultaneousRecoveries:
    COUNT = 8

    def test_in_threads_save_each_result_once_and_neither_fails(self, client, keep, spool):
        keep(self.COUNT)
        before = [generation(client, number) for number in range(self.COUNT)]
        edit(client, comment="mine")  # a token that has to be merged
        before[0] += 1
        clients = [client.copy() for _ in range(4)]
        together, found = threading.Barrier(4, timeout=20), []

        def recover_together(own):
            together.wait()
            found.append(recover(own))

        threads = [threading.Thread(target=recover_together, args=(own,)) for own in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert all(recovered.is_complete for recovered in found)
        assert {id for recovered in found for id in recovered.saved} == {f"token_{n}" for n in range(self.COUNT)}
        assert [generation(client, number) for number in range(self.COUNT)] == [number + 1 for number in before]
        assert spool() == []

    def test_in_processes(self, client, keep, spool, location):
        keep(self.COUNT)
        context = multiprocessing.get_context("spawn")
        arguments = (location.url, client.db.name, location.username, location.password)
        with context.Pool(2) as processes:
            found = processes.map(recover_in_process, [arguments] * 2, chunksize=1)
        assert all(found)
        assert count_states(client)["done"] == self.COUNT
        assert {len(client.get(f"token_{number}")["attempts"]) for number in range(self.COUNT)} == {1}
        assert spool() == []

    def test_one_that_saves_between_the_look_up_and_the_save_of_the_other_is_noticed(
        self, client, keep, monkeypatch, spool
    ):
        keep()
        edit(client, comment="mine")  # so that the two saves cannot result in the same revision
        before, rival, find, looks = generation(client), client.copy(), recovery._find, []

        def find_and_be_slow(own, id):
            stored = find(own, id)
            looks.append(id)
            if len(looks) == 1:
                assert recover(rival).saved == ["token_0"]
            return stored

        monkeypatch.setattr(recovery, "_find", find_and_be_slow)
        assert recover(client).saved == ["token_0"]
        assert generation(client) == before + 1

    def test_a_file_that_disappears_before_it_is_read_is_not_a_failure(self, client, keep, monkeypatch, folder):
        keep(2)
        read = spool.read

        def read_late(path):
            if "token_0" in path.name:
                path.unlink()
            return read(path)

        monkeypatch.setattr(spool, "read", read_late)
        assert recover(client, folder) == Recovered(saved=["token_1"])

    def test_a_file_that_the_other_put_aside_is_not_a_failure_either(self, client, keep, monkeypatch, folder):
        keep()
        client.delete(client.get("token_0"))
        put_aside = spool.put_aside

        def put_aside_late(path):
            put_aside(path)
            return put_aside(path)

        monkeypatch.setattr(spool, "put_aside", put_aside_late)
        assert recover(client, folder) == Recovered()
        assert len(spool.files(folder / "not-ours")) == 1


def recover_in_process(arguments):
    return recover(CouchDB(*arguments)).is_complete


class TestBadFiles:
    """They stay where they are, and each one only causes a line of output."""

    @staticmethod
    def assert_unreadable(client, folder, path, reason):
        lines = Lines()
        recovered = recover(client, folder, tell=lines)
        assert recovered == Recovered(unreadable=[path])
        assert path.is_symlink() or path.exists()
        (line,) = lines
        assert str(path) in line
        assert reason in line
        assert "\n" not in line

    @pytest.fixture
    def path(self, folder):
        folder.mkdir()
        return folder / "token_0-x.json"

    def test_half_a_file_does_not_stop_the_others(self, client, keep, folder):
        keep(2)
        first, _ = spool.files(folder)
        first.write_bytes(first.read_bytes()[:100])
        lines = Lines()
        assert recover(client, folder, tell=lines) == Recovered(saved=["token_1"], unreadable=[first])
        assert "only half of it" in lines[0]

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000, b"nonsense\n"])
    def test_invalid_json(self, client, folder, path, content):
        path.write_bytes(content)
        self.assert_unreadable(client, folder, path, "not JSON")

    @pytest.mark.parametrize(
        "content",
        [
            [],
            {},
            {"token": {}, "claimed": {}},
            {"token": {"_id": "x"}, "claimed": {"_id": "x"}},
            {"token": [], "claimed": {"_id": "x", "_rev": "1-a"}},
            {"token": {}, "claimed": {"_id": 7, "_rev": "1-a"}},
            {"token": {}, "claimed": {"_id": "", "_rev": "1-a"}},
        ],
        ids=str,
    )
    def test_json_that_is_not_a_result(self, client, folder, path, content):
        path.write_text(json.dumps(content))
        self.assert_unreadable(client, folder, path, "")

    def test_a_file_that_is_being_written_is_left_alone(self, client, folder, path):
        partial = path.with_suffix(".123.part")
        partial.write_text("{")
        assert recover(client, folder) == Recovered()
        assert partial.exists()

    def test_another_user_s(self, client, keep, folder, monkeypatch):
        keep()
        (path,) = spool.files(folder)
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
        self.assert_unreadable(client, folder, path, "another user")

    def test_links_are_not_followed(self, client, keep, folder, tmp_path):
        keep()
        (path,) = spool.files(folder)
        path.rename(tmp_path / "elsewhere.json")
        path.symlink_to(tmp_path / "elsewhere.json")
        self.assert_unreadable(client, folder, path, "not a regular file")

    def test_a_folder(self, client, folder, path):
        path.mkdir()
        self.assert_unreadable(client, folder, path, "not a regular file")

    def test_a_pipe_is_not_waited_for(self, client, folder, path):
        os.mkfifo(path)
        self.assert_unreadable(client, folder, path, "not a regular file")

    def test_a_socket(self, client, folder, path, monkeypatch):
        monkeypatch.chdir(folder)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
            self.assert_unreadable(client, folder, path, "")

    def test_a_stored_token_that_a_person_has_broken_is_not_ours(self, client, keep, folder):
        keep()
        edit(client, attempts="none", error=7, claim="mine")
        assert len(recover(client, folder).kept_aside) == 1


class TestAnotherDatabase:
    def test_a_result_of_another_database_stays_and_the_line_names_that_database(self, client, keep, folder):
        keep()
        (path,) = spool.files(folder)
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "database": "the_other", "server": "http://there:5984"}))
        lines = Lines()
        assert recover(client, folder, tell=lines).left == [path]
        assert "the_other on http://there:5984" in lines[0]
        assert path.exists()
        assert state_of(client.get("token_0")) == "locked"

    def test_the_address_does_not_matter_since_one_server_may_have_several(self, client, keep, folder):
        keep()
        (path,) = spool.files(folder)
        path.write_text(json.dumps({**json.loads(path.read_text()), "server": "http://tunnel:1234"}))
        assert recover(client, folder).saved == ["token_0"]

    def test_a_file_of_an_older_release_names_no_database_and_is_tried(self, client, keep, folder):
        keep()
        (path,) = spool.files(folder)
        content = json.loads(path.read_text())
        del content["database"], content["server"]
        path.write_text(json.dumps(content))
        assert recover(client, folder).saved == ["token_0"]


class TestFilesThatCannotBeMoved:
    def test_a_saved_result_is_reported_even_if_its_file_stays(self, client, keep, folder, monkeypatch):
        keep()
        (path,) = spool.files(folder)

        def refuse(self, missing_ok=False):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr("pathlib.Path.unlink", refuse)
        lines = Lines()
        assert recover(client, folder, tell=lines).left == [path]
        monkeypatch.undo()
        assert "is saved, but its file stays: Permission denied" in lines[0]
        assert recover(client, folder).saved == ["token_0"]
        assert len(client.get("token_0")["attempts"]) == 1

    def test_a_result_that_cannot_be_put_aside_stays(self, client, keep, folder):
        keep()
        client.delete(client.get("token_0"))
        (path,) = spool.files(folder)
        (folder / "not-ours").write_text("a file where the folder should be")
        lines = Lines()
        assert recover(client, folder, tell=lines).left == [path]
        assert "deleted" in lines[0]
        assert path.exists()


class TestQuietly:
    """The recovery by the next pilot that starts in the folder."""

    def test_it_saves_results_and_logs_them(self, client, keep, folder, caplog):
        caplog.set_level(logging.INFO, "picas")
        keep(2)
        (folder / "a.json").write_text("{")
        client.delete(client.get("token_1"))
        recovered = recover_quietly(client)
        assert (recovered.saved, len(recovered.kept_aside), len(recovered.unreadable)) == (["token_0"], 1, 1)
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 2
        assert "not-ours" in warnings[0]
        assert "a.json" in warnings[1]
        assert [record.levelname for record in caplog.records if "token_0" in record.message] == ["INFO"]

    def test_an_unreadable_folder_causes_one_line(self, client, folder, caplog):
        folder.write_text("a file where the folder should be")
        assert recover_quietly(client) == Recovered()
        (line,) = [record.message for record in caplog.records]
        assert str(folder) in line
        with pytest.raises(NotADirectoryError):
            recover(client)

    def test_it_tries_files_that_were_left_only_once(self, client, folder, keep, caplog):
        keep()
        (folder / "a.json").write_text("{")
        left = set()
        assert recover_quietly(client, left=left).saved == ["token_0"]
        assert left == {folder / "a.json"}
        caplog.clear()
        assert recover_quietly(client, left=left) == Recovered()
        assert caplog.text == ""

    def test_it_ends_between_two_files_if_the_pilot_is_stopped(self, client, keep, spool):
        keep(3)
        asked = []
        recovered = recover_quietly(client, is_stopped=lambda: asked.append(1) or len(asked) > 1)
        assert len(recovered.saved) == 1
        assert len(spool()) == 2


def test_a_merge_is_tried_as_often_as_in_a_pilot(client, keep, monkeypatch, spool):
    """Guards the test of a token that keeps changing: up to MERGES edits are merged."""
    keep()
    rival, save, edits = client.copy(), client.save, []

    def save_after_edit(doc):
        if len(edits) < MERGES:
            edits.append(1)
            edit(rival, comment=len(edits))
        return save(doc)

    monkeypatch.setattr(client, "save", save_after_edit)
    assert recover(client).saved == ["token_0"]
    assert client.get("token_0")["comment"] == MERGES
    assert spool() == []


def test_a_token_of_an_older_client_without_a_claim_is_recognised_by_its_lock(client, folder):
    client.save(make_token(0))
    held = ClaimedToken(client.save(modifiers.lock(client.get("token_0"))))
    del held.token["claim"], held.claimed["claim"]
    client.save(held.token)
    spool.keep(modifiers.close(held.token), held.claimed, "the network")
    assert recover(client, folder).saved == ["token_0"]
    assert client.get("token_0")["done"] > 0
