"""What pilots and people do with the tokens in the database.

Pilots read free tokens and lock them, on a cluster with a quorum (candidates, claims, quorum). They wait for tokens to
become free (changes). They save results, without what the server refuses, keep those in files that can't be saved, and
recover them (results, refusals, spool, recovery). People push tokens (inputs, tables, templates, new_tokens, surveys,
sizes, counter), find them by what they say (fields, filters, queries), look through them (token_pages),
change or delete them (edits), and save their logs as files (exports). They see how attempts have ended and how fast
tokens come to their end, wait for that, and see why some fail (history, progress, completion, failures), once the
server has indexed what they ask (indexing).
"""

from __future__ import annotations

from .candidates import Candidates
from .changes import Waiter
from .claims import Claimer, Exchange
from .edits import (
    Change,
    count_holders,
    count_tokens,
    delete_tokens,
    holders_of,
    reset_tokens,
    retry_tokens,
    set_fields,
)
from .filters import Filter, make_filter
from .queries import Source, TokenQuery
from .quorum import Stray, drop_beside_others, withdraw
from .reading import Reader
from .recovery import Recovered, recover, recover_quietly
from .results import ClaimedToken, Stage, reason_of
from .selection import Fits, fits_always

__all__ = [
    "Candidates",
    "Change",
    "ClaimedToken",
    "Claimer",
    "Exchange",
    "Filter",
    "Fits",
    "Reader",
    "Recovered",
    "Source",
    "Stage",
    "Stray",
    "TokenQuery",
    "Waiter",
    "count_holders",
    "count_tokens",
    "delete_tokens",
    "drop_beside_others",
    "fits_always",
    "holders_of",
    "make_filter",
    "reason_of",
    "recover",
    "recover_quietly",
    "reset_tokens",
    "retry_tokens",
    "set_fields",
    "withdraw",
]
