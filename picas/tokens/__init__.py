"""What can be said of a token without a database.

`states` defines the states and evaluates them in Python and JavaScript, `resources` has what a token needs and what a
pilot has, `needs` says what is wrong with such a need, and `retries` decides when a failed token is tried again.
`job_ends` counts the jobs that were too short for a token. `storable` turns what code has put into a token into a
document, with what `conversions` says of the types that JSON does not know. `reasons` says why an attempt has ended,
and `measures` what it has taken.
"""

from .resources import Resources, Room, megabytes, needs_of, walltime_of
from .retries import LONGEST_WAIT, next_try, not_before
from .states import STATES, has_failed, is_in_state, javascript_condition, parse_int, state_of

__all__ = [
    "LONGEST_WAIT",
    "STATES",
    "Resources",
    "Room",
    "has_failed",
    "is_in_state",
    "javascript_condition",
    "megabytes",
    "needs_of",
    "next_try",
    "not_before",
    "parse_int",
    "state_of",
    "walltime_of",
]
