"""A large pool, as pilots on three clusters leave it within some days: for the report, the page and the live view.

The work is played through event by event, so everything agrees: slots are never taken twice, a token that a pilot has
lost is at work elsewhere later, and the pilots' own counts are those of their attempts. The documents are written
straight into the database. The same seed makes the same pool. From a shell:

    python tests/support/large_pool.py --url http://admin:secret@127.0.0.1:5984 --database large --tokens 100000
"""

from __future__ import annotations

import argparse
import base64
import heapq
import itertools
import math
import random
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from picas import VERSION, CouchDB
from picas.tokens.reasons import group_of, of_job_end, of_silence, of_stop, shortened
from picas.views import create_report, create_views

LEASE = 600
MAX_LOST = 3
MAX_SCRUB = 2
QUEUE_SHARE = 0.92
"""About how much of the work has ended by now."""
LONGEST_MEAN = 5400.0
"""Seconds that a plain token takes at most, on average."""
PAGE = 2000
SIGTERM = 15
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Site:
    """A cluster with its own pilots."""

    hosts: str
    job_id: str
    """The field with the id of the job."""
    slots: int
    memory: int
    gpus: int
    walltime: float
    share: float


SITES = (
    Site("tcn{}", "slurm_job_id", 16, 28_672, 0, 6 * 3600.0, 0.55),
    Site("wn-{}.grid.example", "dirac_job_id", 8, 16_384, 0, 20 * 3600.0, 0.35),
    Site("gcn{}", "slurm_job_id", 4, 122_880, 4, 8 * 3600.0, 0.10),
)


@dataclass(frozen=True)
class Kind:
    """Tokens with the same needs."""

    needs: dict[str, Any]
    slots: int
    length: float
    """How long they take, compared with plain ones."""
    memory: float
    """Megabytes that they use, in the median."""
    share: float


KINDS = (
    Kind({}, 1, 1.0, 380.0, 0.72),
    Kind({"cores": 4, "memory": "6G"}, 4, 1.6, 3300.0, 0.23),
    Kind({"gpus": 1, "memory": 16_000, "walltime": "3h"}, 1, 2.4, 9100.0, 0.05),
)
PLAIN, MANY_CORES, GPU = range(3)


@dataclass(frozen=True)
class Fault:
    """A way in which tokens fail."""

    share: float
    """The part of the tokens that have it."""
    chance: float
    """How likely an attempt at such a token fails."""
    outcome: str
    exit_code: int
    reason: str
    kinds: tuple[int, ...] = (PLAIN, MANY_CORES, GPU)


FAULTS = (
    Fault(0.012, 1.0, "failed", 1, "FileNotFoundError: [Errno 2] No such file: '/data/run{b}/frame_{a}.fits'"),
    Fault(0.015, 0.6, "failed", 2, "ValueError: chi2 = {b}.{a} did not converge after 500 steps"),
    Fault(0.050, 0.7, "failed", -9, OUT_OF_MEMORY, (MANY_CORES,)),
    Fault(0.004, 0.9, "time-out", -SIGTERM, "time-out after {limit:g} s"),
    Fault(0.003, 0.8, "failed", -11, "signal 11 (segmentation fault)"),
    Fault(0.020, 0.8, "failed", 1, "RuntimeError: CUDA error 700: an illegal memory access at 0x{a:x}", (GPU,)),
    Fault(0.0008, 1.0, "failed", 1, "<img src=x onerror=alert({a})> costs $5 & $x^{b}$ \u202e\x1b[31m"),
    Fault(0.0006, 1.0, "cancelled", 99, "cancelled by ann: wrong input"),
    *(Fault(0.0002, 1.0, "failed", code, "") for code in range(40, 60)),
)


@dataclass
class Token:
    """What has become of a token so far."""

    number: int
    kind: int
    fault: Fault | None
    length: float
    scrubs: int = 0
    lost: int = 0
    attempts: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=lambda: {"lock": 0, "done": 0, "hostname": "", "exit_code": ""})
    has_log: bool = False


@dataclass
class Pilot:
    """A pilot, with the times of its life."""

    id: str
    host: str
    site: Site
    job: str
    start: float
    stop: float
    """When it ends, or dies."""
    dies: bool
    version: str
    free: int = 0
    busy: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    at_work: dict[int, Attempt] = field(default_factory=dict)
    gpus: int = 0
    """Those that are free, as `free` for slots."""
    next_kind: int | None = None
    """The kind of the token that waits until it fits."""
    is_over: bool = False
    is_found: bool = False
    """Whether other pilots have found it dead."""


@dataclass
class Attempt:
    """The work of a pilot on a token."""

    token: Token
    pilot: Pilot
    claim: str
    start: float
    slots: int
    fails: bool
    end: float


class LargePool:
    """Tokens and pilots, and all that has happened to them.

    :param tokens: how many
    :param pilots: how many, those that run, have ended and have died together
    :param days: how long ago the first pilot began; at most 7, since pilots that ended earlier are not kept
    :param seed: the same makes the same pool
    :param now: the time, in seconds since the epoch
    :param logs: about how many of the failed tokens have logs
    """

    def __init__(
        self,
        tokens: int = 100_000,
        pilots: int = 400,
        *,
        days: float = 2.0,
        seed: int = 18,
        now: float | None = None,
        logs: int = 300,
    ) -> None:
        self._random = random.Random(seed)
        self.now = math.floor(time.time() if now is None else now)
        self._begin = self.now - days * 86_400
        self._pause = (self.now - 0.42 * days * 86_400, self.now - 0.4 * days * 86_400)  # people had paused the pool
        self._logs = logs
        self.pilots = [self._pilot(number, pilots) for number in range(pilots)]
        self.tokens = self._make_tokens(tokens)
        self._queues = [deque(token for token in self.tokens if token.kind == kind) for kind in range(len(KINDS))]
        self._events: list[tuple[float, int, str, Any]] = []
        self._numbers = itertools.count()
        for pilot in self.pilots:
            self._plan(pilot.start + self._random.uniform(20, 240), "look", pilot)
            self._plan(pilot.stop, "stop", pilot)
        self._play()

    def fill(self, client: CouchDB) -> None:
        """Write everything into a database, with the views of Monitor and Report."""
        create_views(client)
        create_report(client)
        documents = self.documents()
        while page := list(itertools.islice(documents, PAGE)):
            client.db.resource.post_json("_bulk_docs", body={"docs": page})

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yield the documents of the tokens and the pilots."""
        left = self._logs
        held = {number: each for pilot in self.pilots if not pilot.is_found for number, each in pilot.at_work.items()}
        for token in self.tokens:
            document = self._token_document(token, held.get(token.number))
            if token.has_log and left > 0:
                left -= 1
                document["_attachments"] = self._logs_of(token)
            yield document
        for pilot in self.pilots:
            document = self._pilot_document(pilot)
            if document is not None:
                yield document

    # --- what there is at the beginning

    def _pilot(self, number: int, count: int) -> Pilot:
        draw = self._random
        # Each pool has at least one pilot of each site, and jobs are submitted in waves.
        site = SITES[number] if number < len(SITES) else draw.choices(SITES, [site.share for site in SITES])[0]
        host = site.hosts.format(draw.randrange(1, 60))
        span = self.now - self._begin
        wave = number * 12 // max(count, 1) / 12 * 0.97
        start = math.floor(self._begin + (span * wave if number >= len(SITES) else 0) + draw.expovariate(1 / 600))
        life = site.walltime * min(1.0, draw.lognormvariate(-0.5, 0.6)) * min(1.0, span / 86_400)
        if number >= 0.9 * count:  # these run now
            start = math.floor(self.now - draw.uniform(0.01, 0.05) * span)
            life = max(life, 0.06 * span)
        id = f"picas_pilot_{host}_{draw.randrange(1000, 99_999)}_{draw.getrandbits(32):08x}"
        job = str(7_000_000 + number) if site.job_id == "slurm_job_id" else str(123_400 + number)
        version = f"{VERSION}.dev3" if site.gpus and draw.random() < 0.3 else VERSION
        dies = number >= len(SITES) and draw.random() < 0.06
        return Pilot(
            id, host, site, job, start, start + min(life, site.walltime), dies, version, site.slots, gpus=site.gpus
        )

    def _make_tokens(self, count: int) -> list[Token]:
        draw = self._random
        kinds = draw.choices(range(len(KINDS)), [kind.share for kind in KINDS], k=count)
        capacity = sum(pilot.site.slots * max(0.0, min(pilot.stop, self.now) - pilot.start) for pilot in self.pilots)
        work = sum(KINDS[kind].slots * KINDS[kind].length for kind in kinds)
        unit = min(LONGEST_MEAN, 0.97 * capacity / max(1.0, 1.1 * QUEUE_SHARE * work))
        tokens = []
        for number, kind in enumerate(kinds):
            length = unit * KINDS[kind].length * draw.lognormvariate(-0.18, 0.6)
            if draw.random() < 0.002:
                length *= 6  # some take very long
            tokens.append(Token(number, kind, self._fault(kind), length))
        return tokens

    def _fault(self, kind: int) -> Fault | None:
        place = self._random.random()
        for fault in FAULTS:
            if kind in fault.kinds:
                place -= fault.share
                if place < 0:
                    return fault
        return None

    # --- what happens

    def _plan(self, when: float, what: str, whom: Any) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what, whom))

    def _play(self) -> None:
        while self._events and self._events[0][0] <= self.now:
            when, _, what, whom = heapq.heappop(self._events)
            if what == "look":
                self._take(whom, when)
            elif what == "stop":
                self._stop(whom, when)
            elif what == "found":
                self._lose(whom, when)
            elif not whom.pilot.is_over:
                self._end(whom, when)
                self._plan(when + self._random.uniform(0, 8), "look", whom.pilot)

    def _take(self, pilot: Pilot, when: float) -> None:
        if pilot.is_over:
            return
        if self._pause[0] <= when < self._pause[1]:
            self._plan(self._pause[1] + self._random.uniform(1, 60), "look", pilot)
            return
        while pilot.free:
            if pilot.next_kind is None or not self._queues[pilot.next_kind]:
                kinds = [kind for kind in range(len(KINDS)) if self._queues[kind] and self._suits(kind, pilot)]
                if not kinds:
                    break
                sizes = [len(self._queues[kind]) for kind in kinds]  # pilots take tokens at random
                (pilot.next_kind,) = self._random.choices(kinds, sizes)
            if pilot.free < KINDS[pilot.next_kind].slots or (pilot.next_kind == GPU and not pilot.gpus):
                break  # until it fits
            self._begin_attempt(self._queues[pilot.next_kind].popleft(), pilot, when)
            pilot.next_kind = None
        if not pilot.at_work:
            self._plan(when + 60, "look", pilot)

    def _suits(self, kind: int, pilot: Pilot) -> bool:
        return kind == PLAIN or (kind == GPU) == bool(pilot.site.gpus)

    def _begin_attempt(self, token: Token, pilot: Pilot, when: float) -> None:
        draw, kind = self._random, KINDS[token.kind]
        pilot.free -= kind.slots
        pilot.gpus -= token.kind == GPU
        fails = token.fault is not None and draw.random() < token.fault.chance
        length = token.length * draw.uniform(0.9, 1.1) * (draw.uniform(0.02, 1.0) if fails else 1.0)
        if fails and token.fault is not None and token.fault.outcome == "time-out":
            length = token.length * 3
        attempt = Attempt(token, pilot, f"{draw.getrandbits(128):032x}", when, kind.slots, fails, when + length)
        pilot.at_work[token.number] = attempt
        self._plan(attempt.end, "end", attempt)

    def _leave(self, attempt: Attempt, when: float) -> None:
        """The attempt leaves its slots."""
        pilot = attempt.pilot
        del pilot.at_work[attempt.token.number]
        pilot.free += attempt.slots
        pilot.gpus += attempt.token.kind == GPU
        pilot.busy += attempt.slots * (when - attempt.start)

    def _end(self, attempt: Attempt, when: float) -> None:
        self._leave(attempt, when)
        token, fault = attempt.token, attempt.token.fault
        if not attempt.fails or fault is None:
            self._note(attempt, when, "done", 0)
            self._close(attempt, int(attempt.start), int(when), 0)
            token.has_log = self._random.random() < 0.001
            return
        draw = self._random
        text = fault.reason.format(a=draw.randrange(99_999), b=draw.randrange(1, 99), limit=round(when - attempt.start))
        if fault.outcome == "failed" and text and not text.startswith((OUT_OF_MEMORY, "signal")):
            text = f"exit {fault.exit_code}: {text}"
        reason = shortened(text or f"exit {fault.exit_code}")
        self._note(attempt, when, fault.outcome, fault.exit_code, reason)
        token.errors = [*token.errors, {"time": int(when), "message": reason}][-20:]
        token.has_log = fault.outcome == "failed"
        if token.scrubs < MAX_SCRUB and fault.outcome != "cancelled":
            token.scrubs += 1
            self._free(attempt)
        elif fault.outcome == "failed":
            self._close(attempt, int(attempt.start), int(when), fault.exit_code)
        else:
            self._close(attempt, 99, 99, fault.exit_code)

    def _stop(self, pilot: Pilot, when: float) -> None:
        pilot.is_over = True
        pilot.stop = when
        if pilot.dies:
            self._plan(when + LEASE + self._random.uniform(5, 240), "found", pilot)
            return
        for attempt in list(pilot.at_work.values()):
            self._leave(attempt, when)
            is_job_end = when - pilot.start >= pilot.site.walltime
            reason = of_job_end(when - attempt.start) if is_job_end else of_stop(SIGTERM)
            self._note(attempt, when, "stopped", -SIGTERM, reason)
            self._free(attempt)

    def _lose(self, pilot: Pilot, when: float) -> None:
        """Other pilots have found that a pilot has died."""
        pilot.is_found = True
        pilot.busy += sum(each.slots * (pilot.stop - each.start) for each in pilot.at_work.values())
        for attempt in pilot.at_work.values():
            token = attempt.token
            token.lost += 1
            if token.lost <= MAX_LOST:
                self._note(attempt, when, "lost", "", of_silence(LEASE))
                self._free(attempt)
                continue
            reason = f"the token has lost its pilot {token.lost} times: it may be what kills them"
            self._note(attempt, when, "lost", "", reason)
            token.errors = [*token.errors, {"time": int(when), "message": reason}][-20:]
            self._close(attempt, 99, 99, 99)

    # --- what is written down

    def _note(self, attempt: Attempt, when: float, outcome: str, code: Any, reason: str = "") -> None:
        draw, token, pilot = self._random, attempt.token, attempt.pilot
        entry: dict[str, Any] = {
            "claim": attempt.claim,
            "pilot": pilot.id,
            "host": pilot.host,
            "job_id": pilot.job,
            "start": int(attempt.start),
            "end": int(when),
            "outcome": outcome,
            "exit_code": code,
        }
        if reason:
            entry["reason"] = reason
            if outcome in ("failed", "time-out", "cancelled") or (outcome == "lost" and not reason.startswith("lost")):
                entry["group"] = group_of(reason)
        if outcome != "lost":
            pilot.outcomes[outcome] += 1
            kind, seconds = KINDS[token.kind], round(when - attempt.start, 3)
            entry["seconds"] = seconds
            entry["cpu_seconds"] = round(seconds * kind.slots * draw.uniform(0.55, 0.99), 3)
            memory = 6144.0 if reason == OUT_OF_MEMORY else kind.memory * draw.lognormvariate(0, 0.25)
            entry["max_memory_mb"] = round(memory, 1)
            entry["cores"] = kind.slots
            entry["software"] = (
                "spectra 1.4.0" if when < self._begin + 0.4 * (self.now - self._begin) else "spectra 1.4.1"
            )
        token.attempts = [*token.attempts, entry][-20:]

    def _free(self, attempt: Attempt) -> None:
        """The token is put back."""
        attempt.token.fields = {"lock": 0, "done": 0, "hostname": attempt.pilot.host, "exit_code": ""}
        queue = self._queues[attempt.token.kind]
        queue.insert(self._random.randrange(min(len(queue), 500) + 1), attempt.token)

    def _close(self, attempt: Attempt, lock: int, done: int, code: int) -> None:
        pilot = attempt.pilot
        own = {"hostname": pilot.host, "exit_code": code, pilot.site.job_id: pilot.job}
        attempt.token.fields = {"lock": lock, "done": done, **own}

    def _token_document(self, token: Token, held: Attempt | None) -> dict[str, Any]:
        fields = dict(token.fields)
        document: dict[str, Any] = {
            "_id": f"token_{token.number}",
            "type": "token",
            **fields,
            "scrub_count": token.scrubs,
            "input": f"fit frame_{token.number:05}.fits --alpha {token.number % 40 / 40:g}",
            **KINDS[token.kind].needs,
        }
        if token.lost:
            document["lost_count"] = token.lost
        if token.errors:
            document["error"] = token.errors
        if token.attempts:
            document["attempts"] = token.attempts
        if held is not None:
            pilot, start = held.pilot, int(held.start)
            document.update(
                lock=start, hostname=pilot.host, claim={"id": held.claim, "pilot": pilot.id, "start": start}
            )
            document[pilot.site.job_id] = pilot.job
        return document

    def _pilot_document(self, pilot: Pilot) -> dict[str, Any] | None:
        """Return the document of a pilot, None if it has not started."""
        if pilot.start > self.now:
            return None
        site, is_over = pilot.site, pilot.is_over
        last = pilot.stop if is_over else float(self.now)
        at_work = list(pilot.at_work.values())
        busy = pilot.busy
        if not pilot.is_found:
            busy += sum(attempt.slots * (last - attempt.start) for attempt in at_work)
        outcomes = dict(pilot.outcomes)
        known: dict[str, Any] = {
            "host": pilot.host,
            "pid": int(pilot.id.split("_")[-2]),
            "version": pilot.version,
            "start": int(pilot.start),
            "slots": site.slots,
            "cores": site.slots,
            "gpus": site.gpus,
            "tags": [],
            "memory": site.memory,
            "walltime": int(site.walltime),
            site.job_id: pilot.job,
            "outcomes": outcomes,
            "busy_seconds": round(busy, 1),
            "idle_seconds": round(max(0.0, site.slots * (last - pilot.start) - busy), 1),
        }
        if is_over and not pilot.dies:
            end, processed = int(pilot.stop), sum(outcomes.values()) - outcomes.get("stopped", 0)
            identity = {
                "_id": f"picas_ended_{end:010d}_{pilot.id}",
                "type": "pilot",
                "state": "ended",
                "pilot": pilot.id,
            }
            return {**identity, **known, "processed": processed, "end": end}
        beats = {
            "time_left": max(0, int(site.walltime - (last - pilot.start))),
            "slots_busy": sum(attempt.slots for attempt in at_work),
            "holds": [f"token_{attempt.token.number}" for attempt in at_work],
            "free": pilot.free,
            "orders": {},
            "heartbeat": 60.0,
            "lease": float(LEASE),
            "beat": int((last - pilot.start) / 60) + 1,
            "saved": int(last) - self._random.randrange(50),
        }
        base = {"_id": pilot.id, "type": "pilot", **known, **beats}
        if pilot.is_found:
            return {**base, "state": "dead", "end": int(pilot.stop) + LEASE + 60}
        return {**base, "state": "running"}

    def _logs_of(self, token: Token) -> dict[str, Any]:
        reason = token.attempts[-1].get("reason", "") if token.attempts else ""
        steps = "\n".join(f"step {step:3}: chi2 = {900 / (step + 1):.3f}" for step in range(40))
        out = f"reading frame_{token.number:05}.fits\n{steps}\n"
        err = f"WARNING: \x1b[33mthe header has no exposure time\x1b[0m & <none> is assumed\n{reason}\n"
        texts = {f"logs_token_{token.number}.out": out, f"logs_token_{token.number}.err": err}
        return {
            name: {"content_type": "text/plain", "data": base64.b64encode(text.encode()).decode()}
            for name, text in texts.items()
        }


def main() -> None:
    """Make a database with a large pool."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--url", required=True, help="the server, with the name and password of an administrator")
    parser.add_argument("--database", default="large", help="is created if it does not exist (default: large)")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--pilots", type=int, default=400)
    parser.add_argument("--days", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=18)
    options = parser.parse_args()
    pool = LargePool(options.tokens, options.pilots, days=options.days, seed=options.seed)
    pool.fill(CouchDB(options.url, options.database, create=True))
    print(f"{options.tokens} tokens and {options.pilots} pilots are in {options.database}")


if __name__ == "__main__":
    main()
