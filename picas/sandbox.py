"""Build the archive for worker nodes that have only Python: picas and all packages that it imports.

The archive contains only Python source, for Python 3.9 and later. The same picas and packages give the same bytes.
examples/grid-sandbox/build.sh runs this module as a script, possibly where picas is not installed. Therefore it imports
nothing from picas.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REQUIREMENTS = ("CouchDB>=1.2", "requests>=2.25")
"""What picas imports. pip adds their own requirements."""
SOURCE_RELEASE = "CouchDB-1.2.tar.gz"
"""Unpacked directly if it is in a folder of packages; pip would have to build a wheel from it first."""

_OLDEST = ("--python-version", "3.9", "--implementation", "py", "--abi", "none", "--platform", "any")
_LEFT_OUT = frozenset({"__pycache__", "embedded"})  # folders that worker nodes do not need
_TIME = 315532800  # 1980: a fixed time gives the same bytes in each build, and tar warns about earlier times


class SandboxError(Exception):
    """The archive can't be built."""


def build(target: Path, find_links: Sequence[Path] = (), save_packages: Path | None = None) -> None:
    """Write the compressed archive. An existing archive is replaced only after the new one is complete.

    :param target: the file to write
    :param find_links: folders with the packages (wheels, or CouchDB's source release), to build without a network;
        by default, pip downloads the packages
    :param save_packages: a folder to copy the packages to, for use as `find_links` on another machine
    :raises SandboxError: if pip can't provide the packages
    :raises OSError: if a file can't be read or written
    """
    files = dict(_own_files())
    sources = [folder / SOURCE_RELEASE for folder in find_links if (folder / SOURCE_RELEASE).is_file()]
    required = list(REQUIREMENTS)
    if sources:
        files.update(_source_files(sources[0]))
        required = [name for name in required if not name.startswith("CouchDB")]
    with tempfile.TemporaryDirectory() as folder:
        _download(Path(folder), required, find_links)
        for wheel in sorted(Path(folder).glob("*.whl")):
            files.update(_wheel_files(wheel))
            if save_packages is not None:
                save_packages.mkdir(parents=True, exist_ok=True)
                shutil.copy(wheel, save_packages)
    content = _archive(files)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(content)
    partial.replace(target)


def _own_files() -> Iterator[tuple[str, bytes]]:
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        if not _LEFT_OUT & set(place.parts):
            yield f"picas/{place.as_posix()}", path.read_bytes()


def _source_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a package from its source release."""
    with tarfile.open(path) as archive:
        for member in archive:
            _, _, name = member.name.partition("/")
            if name.startswith("couchdb/") and name.endswith(".py"):
                file = archive.extractfile(member)
                if file is not None:
                    yield name, file.read()


def _wheel_files(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            top = name.partition("/")[0]
            if not name.endswith("/") and not top.endswith((".dist-info", ".data")):
                yield name, archive.read(name)


def _download(folder: Path, requirements: Sequence[str], find_links: Sequence[Path]) -> None:
    """Download the versions that run on the oldest Python, with their requirements.

    `pip install` would choose the versions for the Python that it runs on.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--dest", str(folder), "--only-binary=:all:", *_OLDEST]
    if find_links:
        command += ["--no-index", *(f"--find-links={place}" for place in find_links)]
    ran = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if ran.returncode:
        errors = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
        errors = [line for line in errors if line.startswith("ERROR")] or errors or [f"exit code {ran.returncode}"]
        raise SandboxError(f"pip can't get {' and '.join(requirements)}: {errors[-1]}")


def _archive(files: dict[str, bytes]) -> bytes:
    packed = BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(files[name]), _TIME, 0o644
            archive.addfile(entry, BytesIO(files[name]))
    return packed.getvalue()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `build_as` to a parser."""
    parser.add_argument("--output", type=Path, default=Path("picas.tar"), metavar="FILE", help="default: picas.tar")
    parser.add_argument(
        "--find-links", type=Path, action="append", default=[], metavar="FOLDER",
        help="take the packages from this folder, without a network",
    )  # fmt: skip
    parser.add_argument(
        "--save-packages",
        type=Path,
        metavar="FOLDER",
        help="also copy the packages to this folder, for --find-links on another machine",
    )


def build_as(arguments: argparse.Namespace) -> str:
    """Build the archive as the command line says, and return a line about it.

    :param arguments: what a parser with `add_arguments` has parsed
    :raises SandboxError: if pip can't provide the packages, or if a file is broken, can't be read or written
    """
    try:
        build(arguments.output, arguments.find_links, arguments.save_packages)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SandboxError(str(error)) from error
    return f"Made {arguments.output} ({arguments.output.stat().st_size >> 10} KiB)"


def main() -> None:
    """Build the archive as the command line says."""
    parser = argparse.ArgumentParser(
        prog="build.sh", description="Build the archive for worker nodes: picas and all packages that it imports."
    )
    add_arguments(parser)
    try:
        print(build_as(parser.parse_args()))
    except SandboxError as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
