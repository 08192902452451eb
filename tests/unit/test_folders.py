"""The folders of tokens: each token finds one that looks like a new one, and nothing is left of the last token."""

import errno
import os
import threading
import time

import pytest

from picas.pilot.folders import TokenFolders

pytestmark = pytest.mark.unit


@pytest.fixture
def folders(tmp_path):
    folders = TokenFolders(tmp_path)
    yield folders
    folders.close()
    assert list(tmp_path.iterdir()) == []


def name(folder):
    return folder.results.parent.name


def test_a_folder_that_was_left_as_it_was_is_used_again(folders):
    with folders.folder() as first:
        assert (list(first.results.iterdir()), list(first.work.iterdir())) == ([], [])
        for file in (first.out, first.err, first.uploads):
            file.touch()
    assert list(first.results.parent.iterdir()) in ([first.results, first.work], [first.work, first.results])
    with folders.folder() as second:
        assert second is first


def test_one_that_is_used_again_does_not_look_old(folders):
    """A job that cleans up old files would delete it under a program that works in it."""
    with folders.folder() as first:
        paths = (first.results.parent, first.results, first.work)
    for path in paths:
        os.utime(path, (0, 0))
    begin = time.time()
    with folders.folder() as second:
        assert second is first
        assert all(path.stat().st_mtime > begin - 1 for path in paths)


def test_one_that_can_not_be_deleted_after_its_token_does_no_harm_to_the_next(folders, tmp_path, monkeypatch, caplog):
    """As on NFS, if a process that has survived its token holds a file in it open."""
    with folders.folder() as first:
        pass
    (first.results / "late").touch()

    def rmtree(*arguments, **named):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", rmtree)
        with folders.folder() as second:
            assert name(second) != name(first)
    assert "can't be deleted" in caplog.text
    (first.results / "late").unlink()
    for path in (first.results, first.work, first.results.parent):
        path.rmdir()


CHANGES = {
    "a result": lambda folder: (folder.results / "one.dat").write_bytes(b"x"),
    "a folder of results": lambda folder: (folder.results / "more").mkdir(),
    "a file in the working directory": lambda folder: (folder.work / "core").touch(),
    "a file beside them": lambda folder: (folder.results.parent / "other").touch(),
    "no results any more": lambda folder: folder.results.rmdir(),
    "other permissions": lambda folder: folder.results.chmod(0o500),
    "a link instead": lambda folder: (folder.results.rmdir(), folder.results.symlink_to(folder.work)),
    "another folder instead": lambda folder: (folder.work.rmdir(), folder.work.mkdir(0o700)),
    "nothing left": lambda folder: [path.rmdir() for path in (folder.results, folder.work, folder.results.parent)],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
class TestChanged:
    def test_it_is_deleted_at_once(self, folders, tmp_path, change):
        with folders.folder() as first:
            change(first)
        assert list(tmp_path.iterdir()) == []
        with folders.folder() as second:
            assert name(second) != name(first)

    def test_the_next_token_gets_a_new_one_if_it_is_changed_after_its_token(self, folders, tmp_path, change):
        """As by a process in the background, which is ended after its token."""
        with folders.folder() as first:
            pass
        change(first)
        with folders.folder() as second:
            assert [path.name for path in tmp_path.iterdir()] == [name(second)] != [name(first)]
            assert (list(second.results.iterdir()), list(second.work.iterdir())) == ([], [])
            assert os.access(second.results, os.W_OK)


def test_two_at_the_same_time_are_different(folders):
    """In two slots, and in the code of a token that runs another program."""
    together = threading.Barrier(2, timeout=30)
    names = []

    def work():
        with folders.folder() as folder, folders.folder() as inner:
            together.wait()
            names.extend([name(folder), name(inner)])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 4


def test_without_a_scratch_folder_the_program_works_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folders = TokenFolders(None)
    with folders.folder() as folder:
        assert (folder.work, folder.results.parent.parent) == (None, tmp_path)
    folders.close()
    assert list(tmp_path.iterdir()) == []


def test_they_are_deleted_with_their_owner(tmp_path):
    folders = TokenFolders(tmp_path)
    with folders.folder():
        pass
    assert len(list(tmp_path.iterdir())) == 1
    del folders
    assert list(tmp_path.iterdir()) == []
