"""How bytes reach the server: connections, HTTP, writes of known outcome, attachments, feeds, clusters, users, outages.

Only the client sends requests with these modules. The floors above use what is exported here: whether an error may
pass, waiting for that, explaining errors to people, and merging documents. `webhooks` and `notes` are for messages to
people.
"""

from __future__ import annotations

from .package import import_couchdb

import_couchdb()  # before the modules below import it

from .answers import is_absent, is_missing_stub  # noqa: E402
from .connections import explain, server_of  # noqa: E402
from .outages import MAX_OUTAGE, is_outage, wait_out  # noqa: E402
from .revisions import Revision, deletion_of  # noqa: E402
from .writes import doc_path, is_passing, merge  # noqa: E402

__all__ = [
    "MAX_OUTAGE",
    "Revision",
    "deletion_of",
    "doc_path",
    "explain",
    "is_absent",
    "is_missing_stub",
    "is_outage",
    "is_passing",
    "merge",
    "server_of",
    "wait_out",
]
