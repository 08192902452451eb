"""The folders that programs get for their token: each slot uses its own again as long as tokens leave it as it was."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from ..picaslogger import get_logger

log = get_logger(__name__)


class TokenFolder:
    """A temporary folder for the files of one token: the output of its program, its results and its uploads.

    It is deleted with this object, or when this process ends.

    :param scratch: where it is made, so that the program works in it; None for the folder of temporary files, and a
        program that works elsewhere
    :raises OSError: if it can't be made
    """

    def __init__(self, scratch: Path | None) -> None:
        folder = tempfile.TemporaryDirectory(prefix="picas-", dir=scratch)
        self._delete = weakref.finalize(self, folder.cleanup)
        path = Path(folder.name)
        self.out, self.err, self.uploads = path / "out", path / "err", path / "uploads"
        self.results = path / "results"
        """An empty folder."""
        self.work = path / "work" if scratch else None
        """Another one, the working directory of the program."""
        self._made = [folder.name, *(str(made) for made in (self.results, self.work) if made is not None)]
        for made in self._made[1:]:
            os.mkdir(made)  # noqa: PTH102  # faster than `Path`, as all that is done for each token
        self._looks = self._look()

    def is_as_new(self) -> bool:
        """Return whether it holds the empty folders that it was made with, and nothing else."""
        try:
            return self._look() == self._looks
        except OSError:  # something has deleted it
            return False

    def touch(self) -> None:
        """Let it look new to jobs that delete what is old: its empty folders may be as old as the pilot."""
        for path in self._made:
            with contextlib.suppress(OSError):
                os.utime(path)

    def empty(self) -> None:
        """Delete the files for the output and the uploads."""
        for file in (self.out, self.err, self.uploads):
            with contextlib.suppress(OSError):
                os.unlink(file)  # noqa: PTH108

    def delete(self) -> None:
        """Delete it with all that is in it.

        :raises OSError: if that is not possible
        """
        self._delete()

    def _look(self) -> list[object]:
        looks: list[object] = []
        for path in self._made:
            found = os.lstat(path)
            owner = (found.st_uid, found.st_gid)
            looks += [found.st_dev, found.st_ino, found.st_mode, owner, sorted(os.listdir(path))]  # noqa: PTH208
        return looks


class TokenFolders:
    """The folders of the slots, one for each thread.

    :param scratch: see `TokenFolder`
    """

    def __init__(self, scratch: Path | None) -> None:
        self._scratch = scratch
        # By the process and the identifier of the thread whose next token gets it: a forked process must not use its
        # parent's. Single operations on a dict are atomic.
        self._kept: dict[tuple[int, int], TokenFolder] = {}

    @contextlib.contextmanager
    def folder(self) -> Iterator[TokenFolder]:
        """Provide a folder that looks like a new one.

        :raises OSError: if none can be made
        """
        owner = (os.getpid(), threading.get_ident())
        folder = self._kept.pop(owner, None)
        # The last token may have left a process in the background, which was ended only after that token.
        if folder is not None and not folder.is_as_new():
            try:
                folder.delete()
            except OSError as error:  # the next token is not to blame
                log.warning("The folder of an earlier token can't be deleted: %s", error)
            folder = None
        if folder is None:
            folder = TokenFolder(self._scratch)
        else:
            folder.touch()
        try:
            yield folder
        finally:
            folder.empty()
            if folder.is_as_new():
                self._kept[owner] = folder
            else:
                folder.delete()

    def close(self) -> None:
        """Delete the folders, except those in use and those of the parent of a forked process."""
        for owner in list(self._kept):
            folder = self._kept.pop(owner, None) if owner[0] == os.getpid() else None
            if folder is not None:
                folder.delete()
