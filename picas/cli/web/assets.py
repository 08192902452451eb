"""The files of the page itself, read once. Only these can be asked for, whatever a path looks like."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).parent / "static"
INDEX, ICON = "index.html", "icon.svg"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}
"""The type of a file by its ending. That of the system may be another one, which browsers refuse."""


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    content: bytes
    content_type: str
    etag: str
    """Changes with the content."""


def load_assets() -> dict[str, Asset]:
    """Return the files of the page by their paths: "index.html", "vendor/uplot/uPlot.min.css"."""
    return {
        path.relative_to(STATIC).as_posix(): _load(path)
        for path in sorted(STATIC.rglob("*"))
        if path.is_file() and path.suffix in TYPES
    }


def _load(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
