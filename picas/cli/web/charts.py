"""The charts of `picas report`, as data that the page draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...clients import CouchDB
from .sharing import SharedAnswers


class Charts:
    """Makes the charts, at most once in some minutes for all pages."""

    def __init__(self, client: CouchDB, shared: SharedAnswers) -> None:
        self._client = client
        self._shared = shared

    def answer(self) -> Mapping[str, Any]:
        """Return the charts."""
        return {"schema": "picas.charts/1", "charts": []}
