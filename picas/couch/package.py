"""The package `couchdb`, imported without `pkg_resources`.

It asks `pkg_resources` for its own version, which nothing uses. Where there is such a package, that takes longer than
all of `couchdb`, at the start of each command and each pilot, and with some releases it prints a warning.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_UNUSED = "pkg_resources"


def import_couchdb() -> None:
    """Import the package `couchdb`, so that further imports of it find it."""
    modules: dict[str, Any] = sys.modules
    is_hidden = _UNUSED not in modules
    if is_hidden:
        modules[_UNUSED] = None  # as if it was not installed; `couchdb` expects that
    try:
        importlib.import_module("couchdb")
    finally:
        if is_hidden:
            del modules[_UNUSED]
