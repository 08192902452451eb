"""The embedded server: a small CouchDB-compatible server for a first run and for tests.

    from picas.embedded import Server

    with Server() as server:
        print(server.url)

It needs Node.js, which `pip install "picas[embedded]"` installs, and a network at the first start, to download its
packages. It does not replace Apache CouchDB: it serves one machine, and up to about ten thousand tokens.
"""

from picas.embedded.errors import (
    EmbeddedServerError,
    FolderInUseError,
    InstallError,
    NodeMissingError,
    PortInUseError,
    StartError,
)
from picas.embedded.server import Server

__all__ = [
    "EmbeddedServerError",
    "FolderInUseError",
    "InstallError",
    "NodeMissingError",
    "PortInUseError",
    "Server",
    "StartError",
]
