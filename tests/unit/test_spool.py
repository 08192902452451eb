"""The files in which results are kept: complete or absent, private, and never overwritten by another."""

import json
import os
import stat

import pytest
from support.tokens import make_token

from picas import Task
from picas.exceptions import SettingsError
from picas.pool import results, spool
from picas.pool.results import ClaimedToken

TOKEN = Task({"_id": "token_0", "_rev": "2-b", "exit_code": 0})
CLAIMED = make_token(0, _rev="1-a", claim={"id": "c1"})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a" / "spool"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class TestKeeping:
    def test_a_kept_result_can_be_read(self, folder):
        path = spool.keep(TOKEN, CLAIMED, "x", folder, database="pool", server="http://there:5984")
        assert spool.files(folder) == [path]
        kept = spool.read(path)
        assert (kept.path, kept.id, kept.token, kept.claimed) == (path, "token_0", TOKEN.value, CLAIMED)
        assert (kept.database, kept.server) == ("pool", "http://there:5984")

    def test_a_new_folder_is_private(self, folder):
        path = spool.keep(TOKEN, CLAIMED, "x", folder)
        assert (mode(folder), mode(path)) == (0o700, 0o600)
        assert mode(spool.put_aside(path).parent) == 0o700

    def test_a_refused_result_has_its_reason_in_its_file(self, folder):
        path = spool.put_refused(spool.keep(TOKEN, CLAIMED, "x", folder), "too large", ["output (9 MB)"])
        assert path.parent == folder / "refused"
        assert (mode(path.parent), mode(path)) == (0o700, 0o600)
        assert json.loads(path.read_text())["reason"] == "too large"
        assert (spool.read(path).left_out, spool.read(path).token) == (["output (9 MB)"], TOKEN.value)
        assert spool.files(folder) == []
        assert spool.put_refused(path, "still too large", []) == path
        assert json.loads(path.read_text())["reason"] == "still too large"

    def test_a_refused_result_goes_to_the_others_if_its_token_is_not_ours_any_more(self, folder):
        path = spool.put_refused(spool.keep(TOKEN, CLAIMED, "x", folder), "too large", [])
        assert spool.put_aside(path) == folder / "not-ours" / path.name

    def test_an_existing_folder_keeps_its_permissions(self, folder):
        folder.mkdir(parents=True)
        folder.chmod(0o750)
        spool.keep(TOKEN, CLAIMED, "x", folder)
        assert mode(folder) == 0o750

    def test_the_name_is_synced_to_the_disk_too(self, folder, monkeypatch):
        """Otherwise the file may be missing after a crash of the machine."""
        synced = []
        fsync = os.fsync

        def note(descriptor):
            synced.append(os.fstat(descriptor))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", note)
        path = spool.keep(TOKEN, CLAIMED, "x", folder)
        assert [status.st_ino for status in synced] == [item.stat().st_ino for item in (path, folder, folder.parent)]

    def test_a_file_system_that_cannot_sync_folders_is_no_error(self, folder, monkeypatch):
        fsync = os.fsync

        def refuse_folders(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(22, "Invalid argument")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", refuse_folders)
        assert spool.keep(TOKEN, CLAIMED, "x", folder).parent == folder

    def test_attempts_of_older_clients_have_separate_files(self, folder):
        """Those clients write no claims that would distinguish the attempts."""
        claimed = make_token(0, _rev="1-a", lock=5)
        assert spool.keep(TOKEN, claimed, "x", folder) != spool.keep(TOKEN, claimed, "x", folder)

    def test_no_claim_id_leads_out_of_the_folder(self, folder):
        path = spool.keep(TOKEN, {**CLAIMED, "claim": {"id": "/../../x"}}, "x", folder)
        assert path.parent == folder
        assert path.exists()

    def test_a_failed_write_leaves_no_partial_file(self, folder, monkeypatch):
        def interrupt(descriptor):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            spool.keep(TOKEN, CLAIMED, "x", folder)
        assert list(folder.iterdir()) == []

    def test_a_full_disk_counts_as_not_writable(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))
        fsync, calls = os.fsync, []

        def be_full_once(descriptor):
            calls.append(descriptor)
            if len(calls) == 1:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", be_full_once)
        path = spool.keep(TOKEN, CLAIMED, "x", folder)
        assert path.parent.parent == tmp_path
        assert json.loads(path.read_text())["token"] == TOKEN.value
        assert list(folder.iterdir()) == []


def test_a_result_is_kept_even_if_a_script_uses_its_own_client(tmp_path):
    class StandIn:
        def save(self, doc):
            raise ValueError("no")

    held = ClaimedToken(Task({**TOKEN.value}), CLAIMED)
    held.note_refusal = lambda *arguments: None
    assert not held.save(StandIn(), spool_folder=tmp_path)
    assert spool.read(spool.files(tmp_path)[0]).database is None


def test_the_reason_of_the_server_is_one_line():
    error = results.HTTPError((413, ("too_large", "it\nis")))
    assert results.reason_of(error) == "413: too_large: it is"


class TestFolder:
    @pytest.mark.parametrize("given", [True, False])
    def test_that_is_a_file_is_an_error_of_the_settings(self, tmp_path, monkeypatch, given):
        path = tmp_path / "file"
        path.write_text("x")
        monkeypatch.setenv("PICAS_SPOOL", str(path))
        with pytest.raises(SettingsError, match="PICAS_SPOOL"):
            spool.fixed_folder(path if given else None)

    def test_may_exist_or_not(self, tmp_path):
        assert spool.fixed_folder(tmp_path) == tmp_path
        assert spool.fixed_folder(str(tmp_path / "absent")) == tmp_path / "absent"

    @pytest.mark.parametrize("given", ["a/b", None])
    def test_is_fixed_as_an_absolute_path(self, tmp_path, monkeypatch, given):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PICAS_SPOOL", "a/b")
        assert spool.fixed_folder(given) == tmp_path / "a" / "b"

    def test_in_a_working_directory_that_is_gone_is_an_error_of_the_settings(self, tmp_path, monkeypatch):
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        monkeypatch.delenv("PICAS_SPOOL", raising=False)
        gone.rmdir()
        with pytest.raises(SettingsError, match="the working directory was removed"):
            spool.fixed_folder()
        assert spool.fixed_folder(tmp_path / "kept") == tmp_path / "kept"

    def test_that_does_not_exist_has_no_files(self, tmp_path):
        assert spool.files(tmp_path / "absent") == []
