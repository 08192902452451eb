"""The charts of `picas report`, as data that the page draws. They need all tokens, so they are made rarely, and shared.

A thread reads the pool, while the page asks again and again how far that is. If nobody asks any more, it stops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from couchdb.http import HTTPError

from ... import console
from ...clients import CouchDB
from ...exceptions import PicasError
from ...picaslogger import get_logger
from ...util import one_line
from ..output import json_time
from ..report.chart_data import as_json
from ..report.charts import charts_of
from ..report.survey import read_survey
from .shapes import as_schema

log = get_logger(__name__)

GOOD_FOR = 180.0
"""Seconds for which charts are not made again, at least."""
TIMES_AS_LONG = 20
"""And at least so many times as long as it took to make them."""
UNASKED = 15.0
"""Seconds after which charts that nobody waits for are not made any further."""


class _Unwanted(Exception):
    """Nobody waits for the charts any more."""


@dataclass
class _Reading:
    """How far the reading is."""

    total: int
    asked: float
    """When somebody asked last, by the monotonic clock."""
    handled: int = 0


class Charts:
    """Makes the charts.

    :param client: the pool
    """

    def __init__(self, client: CouchDB) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._reading: _Reading | None = None
        self._made: Mapping[str, Any] | None = None
        self._good_until = 0.0
        self._problem: str | None = None

    def answer(self) -> Mapping[str, Any]:
        """Return the charts, or how far they are. Charts that are old are returned while new ones are made."""
        with self._lock:
            now = time.monotonic()
            if self._reading is not None:
                self._reading.asked = now
            problem, self._problem = self._problem, None
            if self._reading is None and problem is None and now >= self._good_until:
                self._reading = _Reading(0, now)
                threading.Thread(target=self._make, args=(self._reading,), name="picas-web-charts", daemon=True).start()
            reading = self._reading
            made = self._made or {"read": None, "seconds": None, "charts": None}
        return as_schema(
            "charts",
            {
                **made,
                "reading": None if reading is None else {"handled": reading.handled, "total": reading.total},
                "problem": problem,
            },
        )

    def _make(self, reading: _Reading) -> None:
        def note(handled: int) -> None:
            reading.handled = handled
            if time.monotonic() - reading.asked > UNASKED:
                raise _Unwanted

        problem, made, seconds = None, None, 0.0
        try:
            reading.total = self._client.doc_count()
            survey = read_survey(self._client, logs=0, notify=note)
            seconds = survey.read_for
            charts = [as_json(chart) for chart in charts_of(survey) if not chart.is_empty]
            made = {"read": json_time(survey.read_at), "seconds": round(seconds, 1), "charts": charts}
        except _Unwanted:
            pass
        except (PicasError, HTTPError, OSError) as error:
            problem = console.describe(error)
        except Exception as error:  # the page must not wait for ever
            log.exception("The charts could not be made")
            problem = one_line(f"{type(error).__name__}: {error}")
        with self._lock:
            self._reading, self._problem = None, problem
            if made is not None:
                self._made = made
                self._good_until = time.monotonic() + max(GOOD_FOR, TIMES_AS_LONG * seconds)
