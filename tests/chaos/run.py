"""Process a pool while everything breaks, and check that no token is lost or done twice.

Pilots are killed, stopped and replaced at random, their connections are cut, and their server is restarted; tasks hang,
fork and fail. Between them are many short ones, of which each pilot holds several. When the time is up the chaos ends,
and the pilots finish the remaining tokens. Then the pool is compared with the ledger, in which each task notes its
begin and its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit
from uuid import uuid4

from couchdb.http import HTTPError

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from chaos.tasks import DOOMED, KINDS, MAX_SCRUB, QUICK  # noqa: E402
from support.workers import Gate, is_alive  # noqa: E402

from picas import CouchDB  # noqa: E402
from picas.couch.outages import wait_out  # noqa: E402
from picas.embedded import Server  # noqa: E402
from picas.exceptions import PicasError  # noqa: E402
from picas.generators import TokenGenerator  # noqa: E402
from picas.pilot.fleet import running_pilots  # noqa: E402
from picas.pool.recovery import recover  # noqa: E402
from picas.tokens.states import state_of  # noqa: E402
from picas.util import split_credentials  # noqa: E402
from picas.views import count_states, create_views  # noqa: E402

SETTINGS = {
    "PICAS_HEARTBEAT": "0.5",
    "PICAS_LEASE": "4",
    "PICAS_GRACE": "0.5",
    "PICAS_MAX_OUTAGE": "120",
}
"""Short times, so that pilots notice failures within seconds instead of minutes."""
MARK = "PICAS_CHAOS"
"""The environment variable that marks all pilots and tasks of a run."""
PATIENCE = 180.0
"""Seconds that the pilots may take to finish the remaining tokens after the chaos."""
STOP_PATIENCE = 30.0
"""Seconds that pilots may take to stop, including their tasks."""
_STATUSES = (
    "200 OK", "204 No Content", "302 Found", "400 Bad Request", "403 Forbidden", "404 Not Found",
    "405 Method Not Allowed", "407 Proxy Authentication Required", "502 Bad Gateway", "520 Unknown",
)  # fmt: skip
_PAGE = "<html>Welcome to our proxy</html>"
_HEADERS = f"Content-Type: text/html\r\nContent-Length: {len(_PAGE)}\r\nConnection: close"
NONSENSE = [f"HTTP/1.1 {status}\r\n{_HEADERS}\r\n\r\n{_PAGE}".encode() for status in _STATUSES]
"""Answers of proxies and portals on the way to the server."""


@dataclass
class Report:
    """The events of a run, and its result."""

    tokens: int = 0
    pilots: int = 0
    killed: int = 0
    stopped: int = 0
    cut: int = 0
    babbled: int = 0
    """How often pilots got the answers of something that is not CouchDB."""
    sick: int = 0
    """Pilots that were started on a full disk."""
    restarted: int = 0
    ahead: int = 0
    """The most tokens that a pilot was seen to hold beyond those in its slots."""
    done: int = 0
    failed: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    """Number of attempts by outcome."""
    recovered: int = 0
    """Results that were kept in files and saved at the end."""
    kept: int = 0
    """Results in files whose tokens belonged to another pilot by then."""
    duplicates: list[str] = field(default_factory=list)
    """Tokens that were done more than once."""
    lost: list[str] = field(default_factory=list)
    """Tokens that are in a wrong state, with the reason."""
    conflicts: list[str] = field(default_factory=list)
    """Tokens with conflicting revisions on a cluster."""
    processes: list[str] = field(default_factory=list)
    """Processes that were left running."""

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, done twice, or left running."""
        return not (self.duplicates or self.lost or self.conflicts or self.processes)


class Chaos:
    """One run.

    :param client: the pool, without a gate
    :param gates: gates to the nodes of the server; the pilots use them in turn
    :param credentials: name and password of the pilots
    :param folder: for the ledger and the files of the pilots
    :param restart: restarts the server; None never restarts it
    :param seed: seed of the random choices
    :param spares_pilots: whether only the server and the connections break
    :param quick: how many short tokens are pushed whenever the pool has fewer free ones
    """

    def __init__(
        self,
        client: CouchDB,
        gates: Sequence[Gate],
        credentials: tuple[str, str],
        folder: Path,
        restart: Callable[[], None] | None,
        seed: int,
        spares_pilots: bool = False,
        quick: int = 0,
    ) -> None:
        self.report = Report()
        self._quick = quick
        self._client = client
        self._gates = gates
        self._folder = folder
        self._restart = restart
        self._random = random.Random(seed)
        self._actions = [self._cut] * 2 + [self._babble] * 2 + [self._restart_server]
        if not spares_pilots:
            self._actions += [self._kill] * 4 + [self._stop] * 2 + [self._replace_by_sick] * 2
        self._scratch = folder / "scratch"
        self._scratch.mkdir()
        self._full_disk = folder / "full"
        self._ledger = folder / "ledger"
        self._ledger.mkdir()
        self._mark = uuid4().hex
        self._pilots: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            **SETTINGS,
            "PICAS_DATABASE": client.db.name,
            "PICAS_USERNAME": credentials[0],
            "PICAS_PASSWORD": credentials[1],
            "PICAS_SPOOL": str(folder / "spool"),
            MARK: self._mark,
        }

    def run(self, pilots: int, tokens: int, seconds: float) -> Report:
        """Push tokens, process them while everything breaks, and return the report."""
        with _full_disk(self._full_disk):
            return self._run(pilots, tokens, seconds)

    def _run(self, pilots: int, tokens: int, seconds: float) -> Report:
        create_views(self._client)
        self._push(KINDS[number % len(KINDS)] for number in range(tokens))
        try:
            for _ in range(pilots):
                self._start_pilot()
            self._break_things(seconds)
            self._wait_for_the_rest()
        finally:
            self._stop_all()
        recovered = recover(self._client, self._folder / "spool")
        self.report.recovered, self.report.kept = len(recovered.saved), len(recovered.kept_aside)
        self._compare()
        return self.report

    def _push(self, kinds: Iterable[str]) -> None:
        documents = [
            {**TokenGenerator.get_empty_token(), "_id": f"token_{number}", "input": kind}
            for number, kind in enumerate(kinds, self.report.tokens)
        ]
        self.report.tokens += len(documents)
        wait_out(lambda: self._client.save_documents(documents), PATIENCE, lambda: False)  # the server may be starting

    def _look_and_feed(self) -> None:
        """Note what pilots hold, and push short tokens if few are left. The server may be starting."""
        with contextlib.suppress(PicasError, HTTPError):
            for pilot in running_pilots(self._client):
                self.report.ahead = max(self.report.ahead, len(pilot["holds"]) - pilot["slots"])
            if count_states(self._client)["todo"] < self._quick:
                self._push(QUICK for _ in range(self._quick))

    def _start_pilot(self, is_sick: bool = False) -> None:
        """Start a pilot.

        :param is_sick: whether it can't write: neither its log, nor results, nor the files of its tasks
        """
        slots = self._random.choice((1, 1, 3))
        self.report.pilots += 1
        with contextlib.ExitStack() as stack:
            log = stack.enter_context((self._folder / f"pilot_{self.report.pilots}.log").open("wb"))
            command = [sys.executable, str(HERE / "tasks.py"), str(self._ledger), str(slots)]
            gate = self._gates[self.report.pilots % len(self._gates)]
            environment = {**self._environment, "PICAS_HOST_URL": gate.url}
            options: dict[str, Any] = {"env": environment, "stdout": log, "stderr": log, "cwd": self._scratch}
            if is_sick:
                environment["TMPDIR"] = str(self._full_disk)
                full = stack.enter_context(Path("/dev/full").open("wb"))
                options.update({"stdout": full, "stderr": full, "cwd": self._full_disk})
            self._pilots.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, **options))

    def _break_things(self, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            time.sleep(self._random.uniform(0.2, 1.2))
            self._random.choice(self._actions)()
            self._replace_ended()
            self._look_and_feed()

    def _kill(self) -> None:
        self._random.choice(self._pilots).kill()
        self.report.killed += 1

    def _stop(self) -> None:
        self._random.choice(self._pilots).send_signal(self._random.choice((signal.SIGTERM, signal.SIGINT)))
        self.report.stopped += 1

    def _replace_by_sick(self) -> None:
        """Kill a pilot, and start one on a full disk. It ends as soon as it notices that, and a healthy one follows."""
        if self._full_disk.exists():
            self._kill()
            self._start_pilot(is_sick=True)
            self.report.sick += 1

    def _babble(self) -> None:
        """Let a proxy answer that is not CouchDB."""
        with self._random.choice(self._gates).babbling(self._random.choice(NONSENSE)):
            time.sleep(self._random.uniform(0, 1))
        self.report.babbled += 1

    def _cut(self) -> None:
        gate = self._random.choice(self._gates)
        gate.close()
        time.sleep(self._random.uniform(0, 1))
        gate.open()
        self.report.cut += 1

    def _restart_server(self) -> None:
        if self._restart is not None and self._random.random() < 0.7:
            self._restart()
            self.report.restarted += 1

    def _replace_ended(self) -> None:
        running = [pilot for pilot in self._pilots if pilot.poll() is None]
        missing = len(self._pilots) - len(running)
        self._pilots = running
        for _ in range(missing):
            self._start_pilot()

    def _wait_for_the_rest(self) -> None:
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            self._replace_ended()
            counts = wait_out(
                lambda: count_states(self._client), PATIENCE, lambda: False
            )  # the server may still be starting
            if not counts["todo"] + counts["locked"]:
                return
            time.sleep(0.5)

    def _stop_all(self) -> None:
        for pilot in self._pilots:
            pilot.terminate()
        give_up = time.monotonic() + STOP_PATIENCE
        for pilot in self._pilots:
            try:
                pilot.wait(max(give_up - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                self.report.processes.append(f"pilot {pilot.pid} did not stop")
                pilot.kill()
                pilot.wait()
        while self._left() and time.monotonic() < give_up:
            time.sleep(0.1)
        for pid, command in self._left():
            self.report.processes.append(f"{pid} {command}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[tuple[int, str]]:
        """Return the id and the command of each process of this run that is still alive."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes() and is_alive(int(folder.name)):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.append((int(folder.name), command.strip()))
        return found

    def _compare(self) -> None:
        """Compare the pool with the ledger."""
        attempts: Counter[str] = Counter()
        for number in range(self.report.tokens):
            token_id = f"token_{number}"
            token = self._client.db.get(token_id, conflicts=True)
            if token is None:
                self.report.lost.append(f"{token_id} has vanished")
                continue
            if "_conflicts" in token:
                self.report.conflicts.append(token_id)
            attempts.update(attempt["outcome"] for attempt in token["attempts"])
            state = state_of(token)
            self.report.done += state == "done"
            self.report.failed += state == "error"
            fault = self._fault(token, str(state))
            if fault:
                self.report.lost.append(f"{token_id} ({token['input']}): {fault}")
        self.report.attempts = dict(attempts)

    def _fault(self, token: dict[str, Any], state: str) -> str | None:
        """Return what is wrong with a token, or None."""
        done = [attempt["claim"] for attempt in token["attempts"] if attempt["outcome"] == "done"]
        if len(done) > 1:
            self.report.duplicates.append(token["_id"])
        lines = Counter(self._lines(token["_id"]))
        if any(count > 1 for count in lines.values()):
            return "one attempt was made twice"
        if any(lines[f"begin {claim}"] != 1 or lines[f"end {claim}"] != 1 for claim in done):
            return "it is done, but its work did not reach the end"
        if token["input"] not in DOOMED:
            return None if state == "done" and len(done) == 1 else f"it is in {state} instead of done"
        if state != "error":
            return f"it is in {state} instead of error"
        failed = [attempt for attempt in token["attempts"] if attempt["outcome"] in ("failed", "time-out")]
        has_reason = bool(token.get("error")) or token["exit_code"] not in ("", 0)
        if not has_reason:
            return "it is in error without a reason"
        return None if len(failed) == MAX_SCRUB + 1 else f"it has failed {len(failed)} times"

    def _lines(self, token_id: str) -> list[str]:
        path = self._ledger / token_id
        return path.read_text(encoding="ascii").splitlines() if path.exists() else []


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Mount a file system without any free space on a folder, if this process may."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        folder.rmdir()
        print("No pilot is sick: only root can mount a full disk", file=sys.stderr)
        yield
        return
    try:
        with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def _embedded(folder: Path) -> Iterator[tuple[list[str], Callable[[], None]]]:
    """Run the embedded server; yield its URL and a function that restarts it."""
    with Server(folder / "server") as server:
        server._asked_port = server.port  # the pilots keep using this one
        parts = urlsplit(server.url)

        def restart() -> None:
            server.stop()
            server.start()

        yield [f"http://{server.username}:{server.password}@{parts.netloc}"], restart


@contextlib.contextmanager
def _given(urls: list[str], command: str | None) -> Iterator[tuple[list[str], Callable[[], None] | None]]:
    yield urls, None if command is None else lambda: _run(command)


def _run(command: str) -> None:
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Make the run that the command line describes, print the report, and exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pilots", type=int, default=6, help="pilots at a time (default: 6)")
    parser.add_argument("--tokens", type=int, default=140, help="tokens in the pool (default: 140)")
    parser.add_argument(
        "--quick",
        type=int,
        default=300,
        help="further tokens, short ones, pushed whenever fewer are free (default: 300)",
    )
    parser.add_argument("--seconds", type=float, default=45.0, help="duration of the chaos (default: 45)")
    parser.add_argument(
        "--url",
        action="append",
        help="CouchDB with name and password (default: an embedded server); repeat it for each node of a cluster",
    )
    parser.add_argument(
        "--restart", metavar="COMMAND", help="shell command that restarts that server, or one of its nodes"
    )
    parser.add_argument("--spare-pilots", action="store_true", help="break only the server and the connections")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="seed of the random choices (default: random)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="picas-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = _given(arguments.url, arguments.restart) if arguments.url else _embedded(folder)
        with server as (urls, restart):
            nodes = [split_credentials(url) for url in urls]
            bare, username, password = nodes[0]
            client = CouchDB(bare, f"picas_chaos_{uuid4().hex}", username, password, create=True)
            try:
                with contextlib.ExitStack() as stack:
                    gates = [stack.enter_context(Gate(node[0])) for node in nodes]
                    ours = (username, password)
                    spared, quick = arguments.spare_pilots, arguments.quick
                    chaos = Chaos(client, gates, ours, folder, restart, arguments.seed, spared, quick)
                    report = chaos.run(arguments.pilots, arguments.tokens, arguments.seconds)
            finally:
                del client.server[client.db.name]
        print(f"seed: {arguments.seed}")
        for field_name, value in vars(report).items():
            print(f"{field_name}: {value}")
        if arguments.json:
            arguments.json.write_text(json.dumps(vars(report), indent=2) + "\n", encoding="utf-8")
        if not report.is_good:
            for log in sorted(folder.glob("*.log")):
                tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
                print(f"--- {log.name}", *tail, sep="\n", file=sys.stderr)
    sys.exit(not report.is_good)


if __name__ == "__main__":
    main()
