"""Make the archive that travels to worker nodes which have nothing but a Python: picas and all that it imports.

It holds pure Python only, for any Python from 3.9 on. The same picas and the same packages give the same bytes.
examples/grid-sandbox/build.sh runs this as a script, also where nothing is installed: so it imports nothing of picas.
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
"""What picas imports; these bring what they need themselves."""
SOURCE_RELEASE = "CouchDB-1.2.tar.gz"
"""Taken as it is from a folder of packages; pip would have to build something of it first."""

_OLDEST = ("--python-version", "3.9", "--implementation", "py", "--abi", "none", "--platform", "any")
_LEFT_OUT = frozenset({"__pycache__", "embedded"})  # folders of picas that no worker node needs
_TIME = 315532800  # 1980: a time of its own for each build would make other bytes, and tar warns of earlier ones


class SandboxError(Exception):
    """The archive can't be made."""


def build(target: Path, find_links: Sequence[Path] = (), save_packages: Path | None = None) -> None:
    """Write the archive, compressed; an earlier one is replaced only once all is there.

    :param target: the file
    :param find_links: folders with the packages (wheels, or CouchDB's source release), for where there is no network;
        without any, pip gets them as it is used to
    :param save_packages: a folder that the packages are put into as well, to be one of those elsewhere
    :raises SandboxError: if the packages can't be had
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
    """Let pip find the versions that run on the oldest Python, and what they need; "pip install" does not heed that."""
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


def main() -> None:
    """Make the archive that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="build.sh", description="Make the archive with picas and all that it imports, for worker nodes."
    )
    parser.add_argument("--output", type=Path, default=Path("picas.tar"), metavar="FILE", help="default: picas.tar")
    parser.add_argument(
        "--find-links", type=Path, action="append", default=[], metavar="FOLDER",
        help="take the packages from here, without a network",
    )  # fmt: skip
    parser.add_argument(
        "--save-packages",
        type=Path,
        metavar="FOLDER",
        help="put the packages there as well, for --find-links elsewhere",
    )
    arguments = parser.parse_args()
    try:
        build(arguments.output, arguments.find_links, arguments.save_packages)
    except (SandboxError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"Made {arguments.output} ({arguments.output.stat().st_size >> 10} KiB)")


if __name__ == "__main__":
    main()
