"""Programs as the work of tokens: from a token to a command, and from its output to the token."""

from __future__ import annotations

import shlex
import shutil
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from ..documents import Document
from ..exceptions import TokenError
from ..executers import as_text, run_command
from ..generators import TokenGenerator
from ..pool.templates import Template, UnknownName, listed
from ..util import one_line
from .folders import TokenFolders

TokenCommand = Callable[[Document], Sequence[str]]
"""Returns the command for a token: the program and its arguments."""

_UNLISTED = {*TokenGenerator.get_empty_token(), "_id", "_rev", "_attachments", "claim", "attempts", "exit_code"}


def in_shell(text: str) -> list[str]:
    """Return the command that lets a shell run a text: bash, or sh where there is none."""
    return [shutil.which("bash") or "sh", "-c", text]


def input_command(token: Document) -> list[str]:
    """Return the command that is a token's input: a text for a shell, or a list of a program and its arguments.

    :raises TokenError: if its input is something else, or empty
    """
    given = token.get("input")
    if isinstance(given, str) and given.strip():
        return in_shell(given)
    if isinstance(given, list) and given:
        return [as_text(word) for word in given]
    if given is None or given in ("", []) or isinstance(given, str):
        raise TokenError("the token has no input that could be run")
    raise TokenError(
        f"the token's input is {one_line(as_text(given))[:80]}: only a text or a list can be run without a command"
    )


class CommandLine:
    """A command with values of the token in it: a `TokenCommand`.

    A word like `--alpha={alpha}` has names in braces, see `Template`: `{id}` is the token's id, `{input}` its input;
    any other name is a key of the object that is the input, or else a field of the token. A value becomes a part of
    its word as it is, and never goes through a shell unless `shell` is set. What is no text becomes JSON.

    :param words: the program and its arguments
    :param shell: whether the words, joined by blanks, are a text for a shell, in which each value is quoted
    :raises UsageError: if a word is no valid template
    """

    def __init__(self, words: Sequence[str], shell: bool = False) -> None:
        self._words = [Template(" ".join(words))] if shell else [Template(word) for word in words]
        self._shell = shell

    def __call__(self, token: Document) -> list[str]:
        """Return the command for a token.

        :raises TokenError: if it has no value for a name
        """
        values = _values(token)
        try:
            if self._shell:
                return in_shell(self._words[0].fill(values, shlex.quote))
            return [word.fill(values) for word in self._words]
        except UnknownName as error:
            known = sorted(name for name in values if name not in _UNLISTED)
            what = f"the token has no field {one_line(error.name)!r}: it has {listed(known, error.name)}"
            raise TokenError(f"{what} ({{{{ stands for a brace)") from None


def _values(token: Document) -> Mapping[str, Any]:
    """Return what a command may use of a token."""
    content = token.get("input")
    own = {"id": token.id, **({"input": content} if "input" in token else {})}
    return ChainMap(own, content if isinstance(content, dict) else {}, token.doc)


class Programs:
    """Runs a program for each token, and keeps its exit code, its output and its uploads in the token.

    :param command: returns the command for a token; by default, it is the token's input
    :param scratch: a folder in which each token gets a working directory of its own, deleted afterwards; without it,
        all tokens share the pilot's working directory
    :param pass_settings: whether the programs get the password of the pool
    """

    def __init__(self, command: TokenCommand | None, scratch: Path | None, pass_settings: bool) -> None:
        self._command = command or input_command
        self._folders = TokenFolders(scratch)
        self._pass_settings = pass_settings

    def run(self, token: Document) -> None:
        """Run the program for a token, see `CommandActor`.

        :raises TokenError: if the token has no command
        :raises OSError: if the program can't be started
        """
        with self._folders.folder() as folder:
            try:
                result = run_command(
                    self._command(token),
                    stdout=folder.out,
                    stderr=folder.err,
                    cwd=folder.work,
                    env={"PICAS_RESULTS": str(folder.results), "PICAS_UPLOADS": str(folder.uploads)},
                    token=token,
                    pass_settings=self._pass_settings,
                )
                token["exit_code"] = result.exit_code
            finally:  # after a time-out or a stop as well: keep the logs and the uploads so far
                for path in (folder.out, folder.err):
                    if path.exists():
                        token.put_log(f"logs_{token.id}.{path.name}", path)
                if folder.uploads.exists():
                    lines = folder.uploads.read_text(encoding="utf-8", errors="replace").splitlines()
                    token["uploads"] = dict(line.partition("\t")[::2] for line in lines)

    def close(self) -> None:
        """Delete the folders in which programs have worked. Others can be run after that."""
        self._folders.close()
