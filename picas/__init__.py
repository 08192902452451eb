"""PiCaS: pilot jobs that process a pool of tokens in CouchDB."""

from __future__ import annotations

from . import couch as _couch  # noqa: F401  # imports the package `couchdb` in its own way, see `couch.package`
from .actors import Actor, RunActor
from .clients import CouchDB
from .console import connect
from .documents import Document, Job, Task, User
from .iterators import EndlessViewIterator, PrioritizedViewIterator, TaskViewIterator, ViewIterator
from .version import VERSION

__version__ = VERSION

__all__ = [
    "VERSION",
    "Actor",
    "CouchDB",
    "Document",
    "EndlessViewIterator",
    "Job",
    "PrioritizedViewIterator",
    "RunActor",
    "Task",
    "TaskViewIterator",
    "User",
    "ViewIterator",
    "__version__",
    "connect",
]
