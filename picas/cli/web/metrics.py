"""What Prometheus reads: https://prometheus.io/docs/instrumenting/exposition_formats. Nothing is read from the pool."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from ...version import VERSION
from .poller import Snapshot

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The type of the answer."""
MINUTE = 60.0


def expose(snapshot: Snapshot, database: str) -> bytes:
    """Return the metrics of a pool.

    What was last known is left out while the server is away: `picas_up` says that it is.

    :param database: the name of the pool's database
    """
    registry = CollectorRegistry()
    registry.register(_Pool(snapshot, database))
    return generate_latest(registry)


class _Pool(Collector):
    def __init__(self, snapshot: Snapshot, database: str) -> None:
        self._snapshot = snapshot
        self._database = database

    def collect(self) -> Iterable[Metric]:
        snapshot, overview = self._snapshot, self._snapshot.overview
        yield InfoMetricFamily("picas_pool", "The pool.", {"database": self._database, "version": VERSION})
        is_up = snapshot.is_up
        yield GaugeMetricFamily("picas_up", "Whether the server of the pool has answered the last request.", int(is_up))
        if snapshot.ended is not None:
            ended = CounterMetricFamily(
                "picas_attempts_ended",
                "Attempts on tokens that have ended since picas web was started, by outcome.",
                labels=["outcome"],
            )
            for outcome, count in sorted({**dict.fromkeys(("done", "failed"), 0), **snapshot.ended}.items()):
                ended.add_metric([outcome or "unknown"], count)
            yield ended
        if not is_up:
            return
        tokens = GaugeMetricFamily("picas_tokens", "Tokens, by state.", labels=["state"])
        for state, count in overview.counts.items():
            tokens.add_metric([state], count)
        yield tokens
        fleet, rate = overview.fleet, overview.rate
        if fleet is not None:
            pilots = GaugeMetricFamily("picas_pilots", "Pilots, by whether they are heard of.", labels=["state"])
            pilots.add_metric(["running"], fleet.running)
            pilots.add_metric(["silent"], fleet.silent)
            yield pilots
            slots = GaugeMetricFamily("picas_slots", "Slots of the running pilots, by state.", labels=["state"])
            slots.add_metric(["busy"], fleet.slots_busy)
            slots.add_metric(["idle"], max(0, fleet.slots - fleet.slots_busy))
            yield slots
        yield GaugeMetricFamily("picas_paused", "Whether the pool is paused.", int(overview.pause is not None))
        if rate is not None:
            yield GaugeMetricFamily(
                "picas_tokens_ended_per_second",
                "Tokens that come to their end, done or in error, over the last minutes.",
                rate.per_minute / MINUTE,
            )
        if overview.seconds_left is not None:
            yield GaugeMetricFamily(
                "picas_remaining_seconds", "How long the tokens that are left will take.", overview.seconds_left
            )
