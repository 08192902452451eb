"""What pilots and people do with the tokens in the database.

Pilots read free tokens and lock them, on a cluster with a quorum (candidates, claims, quorum). They wait for tokens to
become free (changes). They save results, without what the server refuses, keep those in files that can't be saved, and
recover them (results, refusals, spool, recovery). People push tokens (inputs, tables, templates, fields, surveys,
sizes, counter), and delete and reset those of a view (edits). They see how fast tokens come to their end, wait for
that, and see why some fail (progress, completion, failures), once the server has indexed what they ask (indexing).
"""

from __future__ import annotations

from .candidates import Candidates
from .changes import Waiter
from .claims import Claimer, Exchange
from .edits import Change, count_holders, count_tokens, delete_tokens, reset_tokens
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
    "Fits",
    "Reader",
    "Recovered",
    "Stage",
    "Stray",
    "Waiter",
    "count_holders",
    "count_tokens",
    "delete_tokens",
    "drop_beside_others",
    "fits_always",
    "reason_of",
    "recover",
    "recover_quietly",
    "reset_tokens",
    "withdraw",
]
