"""Reading inputs: the lines of a text file, which may be a pipe."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..exceptions import InputError, PushError

_BYTE_ORDER_MARK = "\ufeff"


def read_inputs(path: Path) -> Iterator[str]:
    """Yield the lines of a file that are inputs: neither blank nor a comment (first character `#`).

    A byte order mark at the beginning of a line does not belong to the input.

    :raises InputError: if the file can't be read or is not UTF-8 text
    """
    for _, text in numbered_inputs(path):
        yield text


def numbered_inputs(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what `read_inputs` does, each with the number of its line; the first line is 1."""
    for number, line in text_lines(path):
        text = line.rstrip("\n")
        if text.strip() and not text.startswith("#"):
            yield number, text


def text_lines(path: Path, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, each with its number; the first line is 1.

    A byte order mark at the beginning of a line does not belong to it.

    :param newline: as of `open`: by default each line ends with a newline, whatever the file has
    :raises InputError: if the file can't be read, is not UTF-8 text, or has a zero byte
    """
    number = 0
    try:
        with path.open("rb") as file:
            encoding = json.detect_encoding(file.peek(4)[:4])
            if not encoding.startswith("utf-8"):
                name = "UTF-" + encoding[4:].replace("-", "").upper()
                raise InputError(f"{path} is {name} text: convert it with iconv -f {name} -t UTF-8")
            for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8", newline=newline), 1):
                if "\0" in line:
                    raise InputError(f"{path} is not UTF-8 text: line {number} has a zero byte")
                yield number, line.lstrip(_BYTE_ORDER_MARK)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (after line {number}): save it as UTF-8, or convert it, for example with "
            "iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


@contextmanager
def repeatable(name: str | Path) -> Iterator[Path]:
    """Give the file that a `with` block can read several times, as a push does.

    A pipe, like anything else that may be readable only once, is copied to a temporary file.

    :param name: a file; the text "-" is standard input
    :raises InputError: if it can't be read. In an error of the block, the copy is called by the name of what was copied
    """
    path = Path(name)
    is_standard_input = name == "-" or str(path) == "/dev/stdin"
    is_kept = path.is_file() and path.parts[:2] != ("/", "dev")
    if not is_standard_input and (is_kept or not path.exists()):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder, "input")
        try:
            with copied.open("wb") as copy:
                if not is_standard_input:
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, copy)
                elif sys.stdin is not None:  # it may be closed
                    shutil.copyfileobj(sys.stdin.buffer, copy)
        except OSError as error:
            raise InputError(f"can't read {name}: {error.strerror}") from error
        try:
            yield copied
        except PushError as error:
            shown = "standard input" if is_standard_input else str(name)
            error.args = (str(error).replace(str(copied), shown),)
            raise
